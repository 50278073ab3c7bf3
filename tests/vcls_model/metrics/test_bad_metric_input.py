"""What the accumulator refuses, and what it makes of the least data."""

import json

import numpy as np
import pytest

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import best_thresholds, compute_result
from vcls_model.records.vocabulary import ClassInfo, unnamed_classes

GOOD = (np.zeros((2, 4), np.float32), np.array([1, 3]), np.array([1, 1]), [b"a", b"b"])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((2, 5), np.float32), r"logits must have shape \(B, 4\), got \(2, 5\)"),
        (0, np.zeros(4, np.float32), r"got \(4,\)"),
        (1, np.array([1, 4]), r"row 1: label 4 is outside \[0, 4\)"),
        (1, np.array([-1, 3]), r"row 0: label -1"),
        (2, np.array([1, 2]), "add to 3, but there are 2"),
        (2, np.array([3, -1]), "add to 2, but there are 2"),
        (2, np.array([2]), "label lengths"),
        (3, [b"a"], "1 ids"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(position, value, message):
    accumulator = MetricAccumulator(4)
    before = accumulator.to_bytes()
    batch = list(GOOD)
    batch[position] = value
    with pytest.raises(ValueError, match=message):
        accumulator.update(*batch)
    assert accumulator.to_bytes() == before


@pytest.mark.parametrize("classes", [4, 100])
@pytest.mark.parametrize("place", [0, 3, 99])
def test_nan_is_refused_by_row_and_class(classes, place):
    logits = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    place = min(place, classes - 1)
    logits[1, place] = np.nan
    accumulator = MetricAccumulator(classes)
    before = accumulator.to_bytes()
    with pytest.raises(ValueError, match=rf"row 1 \(id b'y'\), class {place}: the logit is NaN"):
        accumulator.update(logits, np.empty(0), np.zeros(3), [b"x", b"y", b"z"])
    assert accumulator.to_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        {"class_count": 0},
        {"class_count": 3, "threshold": 1.5},
        {"class_count": 3, "class_thresholds": np.ones(2)},
        {"class_count": 3, "class_thresholds": np.array([0.1, np.nan, 0.2])},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError):
        MetricAccumulator(**options)


def test_only_like_merges_with_like():
    with pytest.raises(ValueError, match="3 and of 4 classes"):
        MetricAccumulator(3).merge(MetricAccumulator(4))
    with pytest.raises(ValueError, match="threshold"):
        MetricAccumulator(3).merge(MetricAccumulator(3, threshold=0.4))
    with pytest.raises(ValueError, match="exact"):
        MetricAccumulator(3).merge(MetricAccumulator(3, exact_scores=7))


def test_damaged_bytes_are_refused():
    accumulator = MetricAccumulator(4)
    accumulator.update(*GOOD)
    data = accumulator.to_bytes()
    for broken in (b"", data[:20], data[:-5], b"x" + data, data.replace(b"videos", b"vid"), data[:-9] + bytes(9)):
        with pytest.raises(ValueError):
            MetricAccumulator.from_bytes(broken)


def test_one_video_has_a_result():
    accumulator = MetricAccumulator(4)
    accumulator.update(np.array([[0.1, 2, -1, 0.3]]), np.array([3]), np.array([1]), [b"only"])
    summary = compute_result(accumulator).summary
    assert summary["videos"] == 1 and summary["hit_at_1"] == 0 and summary["perr"] == 0
    assert summary["gap_at_20"] == pytest.approx(1 / 2) and summary["map"] == 1
    assert np.isnan(summary["macro_roc_auc"])


def test_no_labels_at_all():
    accumulator = MetricAccumulator(4)
    accumulator.update(np.zeros((2, 4)), np.empty(0), np.zeros(2), [b"a", b"b"])
    result = compute_result(accumulator)
    assert result.summary["videos"] == 2 and result.summary["classes_with_positives"] == 0
    assert np.isnan(result.summary["map"]) and np.isnan(result.summary["gap_at_20"])
    assert result.summary["hit_at_1"] == 0 and result.summary["perr"] == 0
    assert (best_thresholds(accumulator) == 0.5).all()
    assert json.loads(result.to_files(unnamed_classes(4))["metrics.json"])["map"] is None


def test_a_class_without_positives_and_one_that_is_always_positive():
    accumulator = MetricAccumulator(3)
    rng = np.random.default_rng(0)
    accumulator.update(rng.normal(size=(50, 3)), np.zeros(50), np.ones(50), [b"%d" % i for i in range(50)])
    result = compute_result(accumulator)
    columns = result.per_class
    assert columns["ap"][0] == pytest.approx(1) and np.isnan(columns["ap"][1])
    assert np.isnan(columns["roc_auc"]).all() and np.isnan(columns["recall"][1:]).all()
    assert result.summary["map"] == pytest.approx(1) and result.summary["classes_with_positives"] == 1
    assert np.isnan(result.curves["pr_class"][1]).all()


def test_infinite_logits_are_ranked():
    accumulator = MetricAccumulator(30)
    logits = np.full((2, 30), -np.inf, np.float32)
    logits[0, 29] = np.inf
    accumulator.update(logits, np.array([29, 0]), np.array([1, 1]), [b"a", b"b"])
    summary = compute_result(accumulator).summary
    assert summary["hit_at_1"] == 1 and summary["map"] == pytest.approx((1 + 1 / 2) / 2)


def test_files_hold_the_result():
    accumulator = MetricAccumulator(4)
    accumulator.update(*GOOD)
    classes = [
        ClassInfo(0, 'a "quoted", name'),
        ClassInfo(1, "β", ("Games", "Food")),
        ClassInfo(2, "c"),
        ClassInfo(3, "d", ("Games",)),
    ]
    files = compute_result(accumulator).to_files(classes)
    assert set(files) == {"metrics.json", "per_class.csv", "curves.npz", "confusion.csv", "examples.json"}
    metrics = json.loads(files["metrics.json"])
    assert metrics["slices"]["vertical"]["Games"]["classes"] == 2
    assert metrics["slices"]["vertical"]["Food"]["labels"] == 1
    lines = files["per_class.csv"].decode().splitlines()
    assert lines[0].startswith("index,name,vertical,support,ap,") and lines[1].startswith('0,"a ""quoted"", name",,0,,')
    assert lines[2].startswith("1,β,Games|Food,1,")
    assert "3,d,0," in files["confusion.csv"].decode()
    with pytest.raises(ValueError, match="4 classes, but the vocabulary names 3"):
        compute_result(accumulator).to_files(classes[:3])
