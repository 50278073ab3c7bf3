import subprocess
import sys

import numpy as np

from vcls_model.metrics import catalogue
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import compute_result
from vcls_model.training.history import HISTORY_COLUMNS


def test_every_metric_of_the_catalogue_is_computed():
    accumulator = MetricAccumulator(3)
    accumulator.update(np.array([[2.0, -1.0, -3.0]], np.float32), np.array([0]), np.array([1]), [b"a"])
    summary = compute_result(accumulator).summary
    assert [metric.key for metric in catalogue.METRICS if metric.key not in summary] == []
    assert len({metric.key for metric in catalogue.METRICS}) == len(catalogue.METRICS)


def test_the_lists_that_people_see_are_filtered_from_the_catalogue():
    assert [metric.key for metric in catalogue.HEADLINE] == ["gap_at_20", "map", "hit_at_1", "perr"]
    assert [name for name in HISTORY_COLUMNS if name.startswith("val_")] == [
        "val_loss",
        "val_map",
        "val_gap_at_20",
        "val_hit_at_1",
        "val_perr",
    ]


def test_a_summary_is_described_by_its_headline_metrics():
    summary = {"gap_at_20": 0.82154, "map": None, "hit_at_1": 0.5, "videos": 3}
    assert catalogue.describe(summary) == "gap_at_20 0.8215, hit_at_1 0.5000"


def test_the_catalogue_needs_no_array_library():
    code = (
        "import sys, vcls_model.metrics.catalogue; print([m for m in ('numpy', 'numba', 'keras') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
