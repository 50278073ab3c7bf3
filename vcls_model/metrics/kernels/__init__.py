"""Compiled kernels of the metrics: everything that walks B x C scores or C x bins counts.

They release the interpreter lock, so that threads use all cores. Callers take them from here.
"""

from vcls_model.metrics.kernels.cells import distinct_by_level, fold_cells, fold_pairs, merge_cells, pair_keys
from vcls_model.metrics.kernels.counting import (
    carry_counts,
    count_in_cells,
    count_keys,
    count_positives,
    count_scores,
    score_keys,
)
from vcls_model.metrics.kernels.curves import class_curves, resampled_precisions
from vcls_model.metrics.kernels.labels import BestRows, LabelRows, confused_classes, count_best, count_labels, mark_hits
from vcls_model.metrics.kernels.packing2 import GROUPS_OF_COUNTS, restore_counts, unpack_low_bits
from vcls_model.metrics.kernels.planes import bytes_of_changes, join_planes, split_planes
from vcls_model.metrics.kernels.precision import (
    cell_precisions,
    class_statistics,
    exact_statistics,
    harmonic,
    tied_terms,
)
from vcls_model.metrics.kernels.ranking import count_reached, select_top

__all__ = [
    "GROUPS_OF_COUNTS",
    "BestRows",
    "LabelRows",
    "bytes_of_changes",
    "carry_counts",
    "cell_precisions",
    "class_curves",
    "class_statistics",
    "confused_classes",
    "count_best",
    "count_in_cells",
    "count_keys",
    "count_labels",
    "count_positives",
    "count_scores",
    "distinct_by_level",
    "exact_statistics",
    "fold_cells",
    "fold_pairs",
    "harmonic",
    "join_planes",
    "mark_hits",
    "merge_cells",
    "pair_keys",
    "resampled_precisions",
    "restore_counts",
    "score_keys",
    "count_reached",
    "select_top",
    "split_planes",
    "tied_terms",
    "unpack_low_bits",
]
