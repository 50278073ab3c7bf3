"""The interval of average precision holds the truth, whatever hides inside a bin."""

import csv
import io
from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import BIN_COUNT, bin_edges, bins_of, logit_of, nearest_edges, probability_of
from vcls_model.metrics.kernels import cell_precisions, count_scores, harmonic
from vcls_model.metrics.result import compute_result
from vcls_model.records.vocabulary import unnamed_classes

# Scores that crowd into few bins: their order inside a bin decides the true average precision.
CROWDED = st.integers(0, 40).map(lambda step: step / 2048 - 0.01) | st.sampled_from(
    [-np.inf, -50.0, -9.99, 7.0, np.inf]
)


def count_one_class(scores, hits):
    """The result for one class, of `scores` (B,) with `hits` (B,) bool, counted in bins."""
    accumulator = MetricAccumulator(1, exact_scores=0)
    accumulator.update(
        np.array(scores, np.float32)[:, None],
        np.zeros(sum(hits), np.int64),
        np.array(hits, np.int64),
        [b"%d" % i for i in range(len(hits))],
    )
    return compute_result(accumulator).per_class


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CROWDED, st.booleans()), min_size=1, max_size=40))
@example([(0.001, True)] + [(0.002, False)] * 20)
@example([(0.002, True)] * 3 + [(0.001, False)] * 20)
@example([(0.001, True), (0.001, False)] * 15)
def test_scikit_learn_lies_inside_and_equals_the_figure_on_rounded_scores(pairs):
    scores, hits = (np.array(column) for column in zip(*pairs, strict=True))
    if not hits.any():
        return
    finite = np.clip(scores, -60, 60).astype(np.float32)
    columns = count_one_class(scores, hits)
    truth = average_precision_score(hits, finite)
    assert columns["ap_lower"][0] <= truth <= columns["ap_upper"][0]
    rounded = bins_of(finite)
    assert abs(columns["ap"][0] - average_precision_score(hits, rounded)) < 1e-12
    if not hits.all():
        assert abs(columns["roc_auc"][0] - roc_auc_score(hits, rounded)) < 1e-12


def test_both_ends_of_the_interval_are_reached():
    inside_one_bin = np.array([0.0005, 0.0004, 0.0003, 0.0002, 0.0001])
    scores = np.concatenate([[3.0, 2.0], inside_one_bin])
    negatives_first = np.array([True, False, False, False, False, True, True])
    columns = count_one_class(scores, negatives_first)
    assert abs(columns["ap_lower"][0] - average_precision_score(negatives_first, scores)) < 1e-9
    positives_first_and_tied = np.array([True, False, True, True, False, False, False])
    scores[3] = scores[2]
    assert abs(columns["ap_upper"][0] - average_precision_score(positives_first_and_tied, scores)) < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12), st.integers(1, 60))
def test_a_limit_keeps_the_best_entries_only(cells, limit):
    totals = np.array([size for size, _ in cells], np.int64)
    positives = np.array([min(hits, size) for size, hits in cells], np.int64)
    sums = cell_precisions(np.zeros(len(cells), np.int64), positives, totals, limit, 1)[0]
    found = []
    for first in (True, False):
        order = [
            hit
            for size, hits in zip(totals[::-1], positives[::-1], strict=True)
            for hit in ([1] * hits + [0] * (size - hits) if first else [0] * (size - hits) + [1] * hits)
        ][:limit]
        found.append(sum(sum(order[: i + 1]) / (i + 1) for i, hit in enumerate(order) if hit))
    assert sums[1] - 1e-9 <= found[1] <= found[0] + 1e-9
    assert found[0] <= sums[2] + 1e-9 and sums[1] <= sums[0] + 1e-12 and sums[0] <= sums[2] + 1e-12


def test_compiled_bins_are_those_of_the_edges():
    edges = bin_edges()
    just_below = np.nextafter(edges.astype(np.float32), np.float32(-99))
    values = np.concatenate(
        [edges, just_below, [np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30], np.random.default_rng(0).normal(0, 8, 20000)]
    ).astype(np.float32)
    table = np.zeros((1, BIN_COUNT), np.uint32)
    count_scores(values[:, None], table)
    np.testing.assert_array_equal(table[0], np.bincount(bins_of(values), minlength=BIN_COUNT))
    assert bins_of(np.array([0.0]))[0] == bins_of(np.array([-1e-30]))[0] + 1
    np.testing.assert_array_equal(bins_of(edges[:-1]), np.arange(BIN_COUNT))
    np.testing.assert_array_equal(nearest_edges(edges[:-1] + 1e-4), np.arange(BIN_COUNT))


def test_harmonic_sums():
    for start, count in ((0, 1), (0, 200), (5, 90), (63, 2000), (10**7, 50), (10**9, 10**6)):
        expected = np.sum(1.0 / (start + np.arange(1, count + 1, dtype=np.float64)))
        assert abs(harmonic(start, count) / expected - 1) < 1e-12


def test_logit_and_probability_are_inverse():
    values = np.array([0.0, 1e-12, 0.25, 0.5, 0.999, 1.0])
    np.testing.assert_allclose(probability_of(logit_of(values)), values, atol=1e-15)


def test_bounds_in_per_class_csv_are_rounded_outward():
    generator = np.random.default_rng(3)
    accumulator = MetricAccumulator(40, exact_scores=0)
    truth = generator.random((500, 40)) < 0.2
    truth[:, 0] = True  # a class that every video has: its precision is 1
    rows, values = np.nonzero(truth)
    logits = (generator.normal(-3, 1, truth.shape) + truth).astype(np.float32)
    accumulator.update(logits, values, np.bincount(rows), [b"%d" % row for row in range(500)])
    result = compute_result(accumulator)
    written = list(
        csv.DictReader(io.StringIO(result.to_files(unnamed_classes(40))["per_class.csv"].decode(), newline=""))
    )
    inexact = 0
    for index, row in enumerate(written):
        lower, ap, upper = (Fraction(row[name]) for name in ("ap_lower", "ap", "ap_upper"))
        assert 0 <= lower <= Fraction(float(result.per_class["ap_lower"][index]))
        assert Fraction(float(result.per_class["ap_upper"][index])) <= upper <= 1
        assert lower <= ap <= upper
        inexact += lower != Fraction(float(result.per_class["ap_lower"][index]))
        assert float(upper - Fraction(float(result.per_class["ap_upper"][index]))) < 1.1e-6
    assert inexact > 30
