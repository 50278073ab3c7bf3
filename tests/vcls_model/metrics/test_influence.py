"""The influence of groups of videos on average precision: against finite differences and a bootstrap of the groups."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.influence import InfluenceSums, derivatives
from vcls_model.metrics.layout import GROUPS
from vcls_model.records.splits import hashes_of_ids


def _average_precision(totals: np.ndarray, positives: np.ndarray, whole: float) -> float:
    hits = above = sum_of_precisions = 0.0
    for count, positive in zip(totals[::-1], positives[::-1], strict=True):
        hits, above = hits + positive, above + count
        sum_of_precisions += positive * hits / above if above else 0
    return sum_of_precisions / whole


def test_derivatives_are_those_of_average_precision():
    generator = np.random.default_rng(3)
    positives = generator.integers(0, 5, (1, 9))
    totals = positives + generator.integers(0, 7, (1, 9))
    outside = 4  # positives that are not ranked at all
    whole = positives.sum() + outside
    of_positive, of_negative = derivatives(totals, positives, np.array([whole]))
    step = 1e-6
    plain = _average_precision(totals[0], positives[0], whole)
    for place in range(9):
        more = np.eye(9)[place] * step
        negative = (_average_precision(totals[0] + more, positives[0], whole) - plain) / step
        positive = (_average_precision(totals[0] + more, positives[0] + more, whole + step) - plain) / step
        assert of_negative[0, place] == pytest.approx(negative, abs=1e-4)
        assert of_positive[0, place] == pytest.approx(positive, abs=1e-4)


def _scored(seed: int, videos: int = 2000, classes: int = 6):
    """Labels, and logits of two models that share much of their noise, so that their figures move together."""
    generator = np.random.default_rng(seed)
    truth = generator.random((videos, classes)) < np.linspace(0.03, 0.3, classes)
    common = generator.normal(-3, 1.5, (videos, classes)) + 2 * truth
    return truth, [(common + generator.normal(0, 0.7, truth.shape)).astype(np.float32) for _ in range(2)]


def _influence(truth: np.ndarray, logits: np.ndarray, ids: list[bytes], top: int):
    rows, values = np.nonzero(truth)
    accumulator = MetricAccumulator(truth.shape[1])
    accumulator.update(logits, values, np.bincount(rows, minlength=len(truth)), ids)
    sums = InfluenceSums(accumulator)
    groups = (hashes_of_ids(ids) & np.uint64(GROUPS - 1)).astype(np.int64)
    best = np.argsort(-logits, axis=1)[:, :top]
    owners = np.repeat(np.arange(len(truth)), top)
    sums.add(groups, owners, best.ravel(), np.take_along_axis(logits, best, 1).ravel(), truth[owners, best.ravel()])
    missed = truth.copy()
    np.put_along_axis(missed, best, False, axis=1)
    rows, values = np.nonzero(missed)
    sums.add_unseen(groups[rows], values)
    return sums.result(), groups


@pytest.mark.slow
@pytest.mark.parametrize("top", [6, 3])
def test_spread_of_a_difference_is_that_of_a_paired_bootstrap_of_the_groups(top: int):
    truth, models = _scored(5)
    ids = [b"video %d" % row for row in range(len(truth))]
    (first, groups), (second, _) = (_influence(truth, logits, ids, top) for logits in models)
    shift = first.minus(second)
    for influence in (first.gap, first.map, first.ap[:, 0], shift.map):
        assert influence.sum() == pytest.approx(0, abs=1e-5)
    generator = np.random.default_rng(6)
    members = [np.flatnonzero(groups == group) for group in range(GROUPS)]
    maps, gaps, one = [], [], []
    for _ in range(200):
        rows = np.concatenate([members[group] for group in generator.integers(0, GROUPS, GROUPS)])
        by_class = [average_precision_score(truth[rows], logits[rows], average=None) for logits in models]
        maps.append(by_class[0].mean() - by_class[1].mean())
        one.append(by_class[0][4] - by_class[1][4])
        gap = [average_precision_score(truth[rows].ravel(), logits[rows].ravel()) for logits in models]
        gaps.append(gap[0] - gap[1])
    for influence, values in ((shift.map, maps), (shift.gap, gaps), (shift.ap[:, 4], one)):
        error = np.sqrt((influence**2).sum())
        assert error / np.std(values) == pytest.approx(1, abs=0.15)
    # As independent runs they would seem to differ by far more.
    alone = np.sqrt((first.map**2).sum() + (second.map**2).sum())
    assert alone > 1.5 * np.sqrt((shift.map**2).sum())


def test_a_class_without_positives_is_moved_by_nothing():
    truth, models = _scored(7, videos=200)
    truth[:, 2] = False
    result, _ = _influence(truth, models[0], [b"%d" % row for row in range(200)], 4)
    assert not result.ap[:, 2].any() and np.isfinite(result.ap).all()
    assert result.map == pytest.approx(result.ap[:, [0, 1, 3, 4, 5]].mean(axis=1))
