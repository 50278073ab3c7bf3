"""Segment MAP@K and slices by a context feature, against plain numpy; their merging."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.vcls_model.metrics import oracles
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.packing import pack, unpack
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import _CELL_ENDS, SliceAccumulator


def segment_map(classes, logits, ratings, depth):
    """The challenge's MAP@K, pair by pair; scores are distinct."""
    precisions = []
    for c in np.unique(classes[ratings == 1]):
        mine = classes == c
        ranked = ratings[mine][np.argsort(-logits[mine])][:depth]
        total = sum(ranked[: i + 1].mean() for i in range(ranked.size) if ranked[i])
        precisions.append(total / ratings[mine].sum())
    return np.mean(precisions)


@pytest.fixture
def rated():
    rng = np.random.default_rng(2)
    return rng.integers(0, 12, 400), rng.normal(size=400).astype(np.float32), rng.integers(0, 2, 400)


@pytest.mark.parametrize("depth", [3, 10, 100_000])
def test_segment_map_is_that_of_the_challenge(rated, depth):
    accumulator = SegmentAccumulator(15)
    accumulator.update(*rated)
    result = accumulator.result(depth)
    assert result["map_at_k"] == pytest.approx(segment_map(*rated, depth), abs=1e-12)
    assert result["map_at_k_lower"] - 1e-12 <= result["map_at_k"] <= result["map_at_k_upper"] + 1e-12
    assert result["rated_pairs"] == 400 and result["classes_with_positives"] == 12
    assert np.isnan(result["ap"][12:]).all()


def test_segments_merge_to_the_same_bytes(rated):
    whole, left, right = (SegmentAccumulator(15) for _ in range(3))
    whole.update(*rated)
    left.update(*(column[:130] for column in rated))
    right.update(*(column[130:] for column in rated))
    right.merge(SegmentAccumulator.from_bytes(left.to_bytes()))
    assert right.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((np.array([15]), np.zeros(1), np.array([1])), "outside"),
        ((np.array([1]), np.array([np.nan]), np.array([1])), "pair 0: the logit is NaN"),
        ((np.array([1]), np.zeros(1), np.array([-1])), "0 or 1"),
        ((np.array([1, 2]), np.zeros(1), np.array([1])), "shape"),
    ],
)
def test_bad_segments_are_refused(change, message):
    accumulator = SegmentAccumulator(15)
    with pytest.raises(ValueError, match=message):
        accumulator.update(*change)
    assert np.isnan(accumulator.result()["map_at_k"])


def test_slices_are_the_metrics_of_their_videos():
    logits, values, lengths, ids = oracles.random_case(np.random.default_rng(8), 80, 30)
    years = np.array(["2015", "2016", "2017"])[np.arange(80) % 3]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    whole, left, right = (SliceAccumulator(30, "year") for _ in range(3))
    whole.update(logits, values, lengths, years.tolist())
    left.update(logits[:31], values[: starts[31]], lengths[:31], years[:31].tolist())
    right.update(logits[31:], values[starts[31] :], lengths[31:], years[31:].tolist())
    right.merge(SliceAccumulator.from_bytes(left.to_bytes()))
    assert right.to_bytes() == whole.to_bytes()
    truth = oracles.dense_labels(values, lengths, 30)
    for year, figures in right.result().items():
        mine = years == year
        assert figures["videos"] == mine.sum() and figures["labels"] == truth[mine].sum()
        for name in ("gap_at_20", "hit_at_1", "perr"):
            assert figures[name] == pytest.approx(getattr(oracles, name)(logits[mine], truth[mine]), abs=1e-9)
        seen = truth[mine].any(axis=0)
        exact = average_precision_score(truth[mine][:, seen], logits[mine][:, seen], average="macro")
        cells = np.searchsorted(_CELL_ENDS, logits[mine][:, seen], side="right")
        tied = average_precision_score(truth[mine][:, seen], cells, average="macro")
        assert figures["map"] == pytest.approx(tied, abs=1e-9)
        assert figures["map_lower"] <= exact <= figures["map_upper"]
        assert figures["map_upper"] - figures["map_lower"] < 0.1


def test_slices_that_an_earlier_version_stored_have_no_map():
    old, new = (SliceAccumulator(3, "year") for _ in range(2))
    for accumulator in (old, new):
        accumulator.update(np.eye(3, dtype=np.float32), np.arange(3), np.ones(3), ["a", "a", "b"])
    header, arrays = unpack(old.to_bytes())
    kept = {name: array for name, array in arrays.items() if not name.startswith(("table", "positives"))}
    old = SliceAccumulator.from_bytes(pack(header, kept))
    assert np.isnan(old.result()["a"]["map"]) and new.result()["a"]["map"] == 1
    new.merge(old)
    assert np.isnan(new.result()["b"]["map"]) and new.result()["b"]["gap_at_20"] > 0


def test_slices_refuse_what_does_not_fit():
    accumulator = SliceAccumulator(3, "year")
    with pytest.raises(ValueError, match="more than 64"):
        accumulator.update(np.zeros((65, 3)), np.empty(0), np.zeros(65), [str(i) for i in range(65)])
    with pytest.raises(ValueError, match="outside"):
        accumulator.update(np.zeros((1, 3)), np.array([3]), np.array([1]), ["a"])
    with pytest.raises(ValueError, match="'month'"):
        accumulator.merge(SliceAccumulator(3, "month"))


def test_one_kind_of_state_is_not_read_as_another():
    with pytest.raises(ValueError, match="segments"):
        SegmentAccumulator.from_bytes(SliceAccumulator(3, "year").to_bytes())
    with pytest.raises(ValueError, match="slices"):
        SliceAccumulator.from_bytes(MetricAccumulator(3).to_bytes())
    with pytest.raises(ValueError, match="version"):
        MetricAccumulator.from_bytes(SegmentAccumulator(3).to_bytes())
