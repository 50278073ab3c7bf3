"""The compiled loops against numpy, at widths that fill their blocks of classes and at widths that do not."""

import numpy as np
import pytest

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import BIN_COUNT, bins_of
from vcls_model.metrics.kernels import count_scores, select_top


@pytest.mark.parametrize("classes", [1, 19, 31, 32, 63, 64, 65, 130])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_classes_and_those_that_reach_their_thresholds(classes, ties):
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (40, classes)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    logits[3] = 1
    logits[4, ::2] = -np.inf
    logits[5, ::3] = np.inf
    widths = rng.integers(1, classes + 1, 40)
    starts = np.concatenate([[0], np.cumsum(widths)])
    top_class, top_logit = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    thresholds = rng.normal(1, 2, (2, classes)).astype(np.float32)
    predicted = np.ones((2, classes), np.int32)
    assert select_top(logits, starts, top_class, top_logit, thresholds, predicted) == (-1, -1)
    for row, width in enumerate(widths):
        best = np.argsort(-logits[row], kind="stable")[:width]
        np.testing.assert_array_equal(top_class[starts[row] : starts[row + 1]], best)
        np.testing.assert_array_equal(top_logit[starts[row] : starts[row + 1]], logits[row, best])
    np.testing.assert_array_equal(predicted, 1 + (logits[None] >= thresholds[:, None]).sum(axis=1))


@pytest.mark.parametrize("place", [0, 63, 64, 127, 129])
def test_a_nan_is_found_wherever_it_is(place):
    logits = np.random.default_rng(0).normal(0, 3, (3, 130)).astype(np.float32)
    logits[1, place] = np.nan
    starts = np.arange(4) * 5
    found = select_top(
        logits,
        starts,
        np.empty(15, np.int32),
        np.empty(15, np.float32),
        np.empty((0, 130), np.float32),
        np.empty((0, 130), np.int32),
    )
    assert found == (1, place)


@pytest.mark.parametrize("classes", [5, 32, 70])
@pytest.mark.parametrize("videos", [1, 511, 512, 1100])
def test_scores_are_counted_in_their_bins(classes, videos):
    logits = np.random.default_rng(1).normal(-4, 9, (videos, classes)).astype(np.float32)
    logits[0, 0] = -np.inf
    logits[-1, -1] = np.inf
    table = np.zeros((classes, BIN_COUNT), np.uint16)
    count_scores(logits, table)
    expected = np.zeros_like(table)
    np.add.at(expected, (np.arange(classes), bins_of(logits)), 1)
    np.testing.assert_array_equal(table, expected)


@pytest.mark.parametrize("batch", [150_000, 40_000])
def test_counts_do_not_overflow(batch):
    accumulator, videos = MetricAccumulator(2, exact_scores=0), 150_000
    logits = np.tile(np.array([-3, 1.5], np.float32), (videos, 1))
    for first in range(0, videos, batch):
        part = logits[first : first + batch]
        accumulator.update(part, np.empty(0, np.int64), np.zeros(len(part), np.int64), [b"a"] * len(part))
    accumulator.merge(MetricAccumulator.from_bytes(accumulator.to_bytes()))
    table, positives = accumulator.tables()
    expected = np.zeros((2, BIN_COUNT), np.int64)
    expected[np.arange(2), bins_of(np.array([-3, 1.5]))] = 2 * videos
    np.testing.assert_array_equal(table, expected)
    assert not positives.any()
