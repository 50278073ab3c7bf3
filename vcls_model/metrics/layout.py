"""Sizes that the counts of `MetricAccumulator` and the figures made from them agree on; part of the stored format."""

import numpy as np

# A video's best classes that the top-k metrics look at.
TOP = 20
# Bootstrap groups that the videos are divided into by the hash of their id.
GROUPS = 64
# Cells of the per-group tables, upper ends in logits: they only serve the spread of the bootstrap, see `result.py`.
COARSE_EDGES = np.array([-7, -5.5, -4.5, -3.75, -3, -2.25, -1.5, -0.75, 0, 1, 2.5], np.float32)
# Keys of examples.json.
HITS, MISSES, FALSE_ALARMS = EXAMPLE_KINDS = ("hits", "misses", "false_alarms")
