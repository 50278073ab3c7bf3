"""The compiled loops against numpy, at widths that fill their blocks of classes and at widths that do not."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from vcls_model.metrics import kernels
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import BIN_COUNT, bins_of
from vcls_model.metrics.kernels import bins, count_scores, select_top
from vcls_model.metrics.ranking import select_best


@pytest.mark.parametrize("classes", [1, 19, 31, 32, 63, 64, 65, 130])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_classes_in_order(classes, ties):
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
    assert select_top(logits, starts, top_class, top_logit) == (-1, -1)
    for row, width in enumerate(widths):
        best = np.argsort(-logits[row], kind="stable")[:width]
        np.testing.assert_array_equal(top_class[starts[row] : starts[row + 1]], best)
        np.testing.assert_array_equal(top_logit[starts[row] : starts[row + 1]], logits[row, best])


@pytest.mark.parametrize("place", [0, 63, 64, 127, 129])
def test_a_nan_is_found_wherever_it_is(place):
    logits = np.random.default_rng(0).normal(0, 3, (3, 130)).astype(np.float32)
    logits[1, place] = np.nan
    starts = np.arange(4) * 5
    assert select_top(logits, starts, np.empty(15, np.int32), np.empty(15, np.float32)) == (1, place)


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


# --- bins


def ordered(scores):
    """uint64 that sort as float32 do (IEEE 754): the sign bit inverted, and all bits of negative ones."""
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)


def random_case(videos=30, classes=7, seed=5):
    """Scores with ties, labels as rows, and which (video, class) is a label."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 2, (videos, classes)), 1).astype(np.float32)
    truth = rng.random((videos, classes)) < 0.3
    counts = truth.sum(axis=1)
    labels = kernels.LabelRows(np.nonzero(truth)[1], np.concatenate([[0], np.cumsum(counts)]))
    widths = np.maximum(counts, 3)
    order = np.argsort(-logits, axis=1, kind="stable")
    classes_of = np.concatenate([order[row, :width] for row, width in enumerate(widths)]).astype(np.int32)
    rows = np.repeat(np.arange(videos), widths)
    best = kernels.BestRows(classes_of, logits[rows, classes_of], np.concatenate([[0], np.cumsum(widths)]))
    return logits, truth, labels, best, rows


def test_single_scores_find_their_bins():
    scores = np.array([-np.inf, -40, -3.3, -0.0, 0.0, 0.1, 3, 40, np.inf], np.float32)
    assert [bins.bin_of(score) for score in scores] == bins_of(scores).tolist()
    edges = np.array([-1, 0, 2], np.float32)
    assert [bins.coarse_bin(score, edges) for score in (-5, -1, -0.5, 0, 1.9, 2, 9)] == [0, 1, 1, 2, 2, 3, 3]
    assert [bins.ordered_bits(score) for score in scores] == ordered(scores).tolist()
    assert [bins.score_of(np.uint32(bits)) for bits in ordered(scores)] == scores.tolist()
    assert np.argsort(ordered(scores), kind="stable").tolist() == list(range(len(scores)))


# --- counting


def test_counts_are_carried_before_they_overflow():
    counts = np.array([[1, 32_768, 40_000], [5, 6, 32_767]], np.uint16)
    table = np.full((2, 3), 10, np.uint32)
    kernels.carry_counts(counts, table)
    assert counts.tolist() == [[1, 0, 0], [5, 6, 32_767]]
    assert table.tolist() == [[10, 32_778, 40_010], [10, 10, 10]]


def test_scores_of_labels_are_counted_in_their_bins():
    logits, truth, labels, _, _ = random_case()
    positives = np.zeros((7, BIN_COUNT), np.uint32)
    kernels.count_positives(logits, labels.classes, labels.starts, positives)
    expected = np.zeros_like(positives)
    rows, classes = np.nonzero(truth)
    np.add.at(expected, (classes, bins_of(logits[rows, classes])), 1)
    np.testing.assert_array_equal(positives, expected)


def test_keys_hold_scores_and_labels():
    logits, truth, labels, _, _ = random_case()
    keys = kernels.score_keys(logits, labels.classes, labels.starts)
    np.testing.assert_array_equal(keys, (ordered(logits) << np.uint64(1) | truth.astype(np.uint64)).T)
    table, positives = np.zeros((7, BIN_COUNT), np.uint32), np.zeros((7, BIN_COUNT), np.uint32)
    kernels.count_keys(keys, table, positives)
    for counts, chosen in ((table, np.ones_like(truth)), (positives, truth)):
        expected = np.zeros_like(counts)
        rows, classes = np.nonzero(chosen)
        np.add.at(expected, (classes, bins_of(logits[rows, classes])), 1)
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("width", [1, 5, 130])
def test_thresholds_that_are_reached_are_counted(width):
    rng = np.random.default_rng(2)
    logits = np.round(rng.normal(0, 1, (60, 130)), 1).astype(np.float32)
    logits[1] = np.inf
    logits[2] = -np.inf
    best = select_best(logits, np.full(60, width))
    # Of the first, many more scores than `width` reach theirs; of the second few; of the third none or the infinite.
    thresholds = np.stack([np.full(130, -0.5), rng.normal(2, 0.1, 130), np.full(130, np.inf)]).astype(np.float32)
    predicted = np.full((3, 130), 4, np.int32)
    kernels.count_reached(logits, best, thresholds, thresholds.min(axis=1), predicted)
    np.testing.assert_array_equal(predicted, 4 + (logits[None] >= thresholds[:, None]).sum(axis=1))


# --- labels


def test_hits_among_the_best():
    _, truth, labels, best, rows = random_case()
    hits, recalled = kernels.mark_hits(labels, best, 7)
    np.testing.assert_array_equal(hits, truth[rows, best.classes])
    for video in range(len(truth)):
        first = best.classes[best.starts[video] :][: truth[video].sum()]
        assert recalled[video] == truth[video, first].sum()


def test_labels_are_counted_by_threshold_and_group():
    logits, truth, labels, _, _ = random_case()
    groups = np.arange(30) % 4
    thresholds = np.random.default_rng(1).normal(size=(2, 7)).astype(np.float32)
    edges = np.array([-1, 0, 1], np.float32)
    true_positives, by_group = np.zeros((2, 7), np.int64), np.zeros((7, 4, 4), np.uint32)
    lowest = kernels.count_labels(logits, labels, groups, thresholds, edges, true_positives, by_group)
    np.testing.assert_array_equal(true_positives, (truth & (logits >= thresholds[:, None])).sum(axis=1))
    expected = np.zeros_like(by_group)
    rows, classes = np.nonzero(truth)
    cells = np.searchsorted(edges, logits[rows, classes], side="right")
    np.add.at(expected, (classes, cells, groups[rows]), 1)
    np.testing.assert_array_equal(by_group, expected)
    scores_of_labels = np.where(truth, logits, np.inf)
    assert lowest.tolist() == [
        int(np.argmin(scores_of_labels[row])) if truth[row].any() else -1 for row in range(len(truth))
    ]


def test_the_best_are_counted_by_bin_and_group():
    logits, truth, _, best, _ = random_case()
    groups, edges, keep = np.arange(30) % 4, np.array([-1, 0, 1], np.float32), 3
    hits = truth[np.repeat(np.arange(30), np.diff(best.starts)), best.classes]
    negatives = np.zeros((7, 4, 4), np.uint32)
    pooled_hits, pooled_totals = np.zeros((BIN_COUNT, 4), np.uint32), np.zeros((BIN_COUNT, 4), np.uint32)
    keys, best_hit, best_false = kernels.count_best(
        best, hits, keep, groups, edges, negatives, pooled_hits, pooled_totals
    )
    top = np.argsort(-logits, axis=1, kind="stable")[:, :keep]
    scores, is_hit = np.take_along_axis(logits, top, 1), np.take_along_axis(truth, top, 1)
    expected = top.astype(np.uint64) << np.uint64(33) | ordered(scores) << np.uint64(1) | is_hit.astype(np.uint64)
    np.testing.assert_array_equal(keys, expected.reshape(-1))
    for pooled, chosen in ((pooled_totals, np.ones_like(is_hit)), (pooled_hits, is_hit)):
        counts = np.zeros_like(pooled)
        np.add.at(counts, (bins_of(scores[chosen]), np.repeat(groups, keep).reshape(30, keep)[chosen]), 1)
        np.testing.assert_array_equal(pooled, counts)
    counts = np.zeros_like(negatives)
    rows, places = np.nonzero(~is_hit)
    cells = np.searchsorted(edges, scores[rows, places], side="right")
    np.add.at(counts, (top[rows, places], cells, groups[rows]), 1)
    np.testing.assert_array_equal(negatives, counts)
    for found, chosen in ((best_hit, is_hit), (best_false, ~is_hit)):
        assert found.tolist() == [
            int(top[row, np.argmax(chosen[row])]) if chosen[row].any() else -1 for row in range(30)
        ]


def test_a_missed_label_is_confused_with_what_was_predicted_in_its_place():
    _, truth, labels, best, _ = random_case()
    hits, recalled = kernels.mark_hits(labels, best, 7)
    keys, videos = kernels.confused_classes(labels, best, hits, recalled, 7)
    expected = []
    for row in range(len(truth)):
        predicted = best.classes[best.starts[row] :][: truth[row].sum()].tolist()
        wrong = [label for label in predicted if not truth[row, label]]
        for label in np.flatnonzero(truth[row]).tolist():
            expected += [(label, label, row)] if label in predicted else [(label, other, row) for other in wrong]
    assert sorted(zip(keys // 7, keys % 7, videos, strict=True)) == sorted(expected)


# --- cells


def test_sorted_counts_are_merged_and_folded():
    rng = np.random.default_rng(4)
    classes, scores = rng.integers(0, 4, 60), np.round(rng.normal(size=60), 1).astype(np.float32)
    hits = rng.random(60) < 0.4
    keys = kernels.pair_keys(classes, scores, hits)
    plain = classes.astype(np.uint64) << np.uint64(33) | ordered(scores) << np.uint64(1) | hits.astype(np.uint64)
    np.testing.assert_array_equal(keys, plain)
    for mask in (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFF00000):
        cells, counts = kernels.fold_pairs(np.sort(keys), np.uint64(mask))
        expected = {}
        for key in keys.tolist():
            cell = expected.setdefault(key >> 1 & mask, [0, 0])
            cell[0] += key & 1
            cell[1] += 1
        assert dict(zip(cells.tolist(), counts.tolist(), strict=True)) == expected
        assert cells.tolist() == sorted(expected)

    left, right = np.array([1, 4, 9], np.uint64), np.array([0, 4, 10, 11], np.uint64)
    left_counts, right_counts = np.arange(6).reshape(3, 2), np.arange(8).reshape(4, 2) * 10
    merged, sums = kernels.merge_cells(left, left_counts, right, right_counts)
    assert merged.tolist() == [0, 1, 4, 9, 10, 11]
    assert sums.tolist() == [[0, 10], [0, 1], [22, 33], [4, 5], [40, 50], [60, 70]]
    folded, sums = kernels.fold_cells(merged, sums, np.uint64(0xFFFFFFFFFFFFFFFC))
    assert folded.tolist() == [0, 4, 8]
    assert sums.tolist() == [[0, 11], [22, 33], [104, 125]]


def test_distinct_keys_by_level():
    keys = np.unique(np.random.default_rng(0).integers(0, 1 << 62, 200, np.uint64) >> np.uint64(30))
    levels = kernels.distinct_by_level(keys)
    assert levels.tolist() == [len({int(key) >> level for key in keys}) for level in range(65)]
    assert kernels.distinct_by_level(keys[:0]).tolist() == [0] * 65


# --- precision and curves


def test_a_tied_cell_adds_what_its_orders_can_add():
    positives_above, negatives_above, p, n = 3, 2, 2, 3

    def terms(order):
        hits, seen, total = positives_above, positives_above + negatives_above, 0.0
        for is_positive in order:
            seen += 1
            hits += is_positive
            total += is_positive * hits / seen
        return total

    tied, lowest, highest = kernels.tied_terms(positives_above, negatives_above, p, n)
    assert tied == pytest.approx(p * (positives_above + p) / (positives_above + p + negatives_above + n))
    assert lowest == pytest.approx(terms([0] * n + [1] * p))
    assert highest == pytest.approx(p * (positives_above + p) / (positives_above + p + negatives_above))
    assert terms([1] * p + [0] * n) <= highest
    assert kernels.tied_terms(3, 2, 0, 5) == (0, 0, 0)


def test_exact_statistics_against_scikit_learn():
    logits, truth, labels, _, _ = random_case(60)
    keys = np.sort(kernels.score_keys(logits, labels.classes, labels.starts), axis=1)
    tied, lowest, highest, area = kernels.exact_statistics(keys).T
    supports = truth.sum(axis=0)
    for index, support in enumerate(supports):
        precision = average_precision_score(truth[:, index], logits[:, index])
        assert tied[index] / support == pytest.approx(precision)
        assert area[index] / support / (60 - support) == pytest.approx(roc_auc_score(truth[:, index], logits[:, index]))
    assert (lowest <= tied + 1e-9).all() and (tied <= highest + 1e-9).all()


def small_tables():
    """Counts of 3 classes in 6 bins, the second class without positives."""
    positives = np.array([[0, 1, 0, 2, 3, 1], [0] * 6, [2, 0, 0, 0, 0, 4]], np.uint32)
    table = positives + np.array([[9, 4, 3, 0, 2, 0], [5, 4, 3, 2, 1, 0], [1, 0, 6, 1, 1, 1]], np.uint32)
    return table, positives


def test_class_statistics_against_scikit_learn():
    table, positives = small_tables()
    probability = np.linspace(0.05, 0.95, 6)
    cell = np.array([0, 0, 1, 1, 2, 2])
    statistics = kernels.class_statistics(table, positives, probability, cell, 3)
    for row, (entries, hits) in enumerate(zip(table.astype(int), positives.astype(int), strict=True)):
        support, tied, _, _, area, best_bin, best_f1, error, mean = statistics[row]
        assert support == hits.sum()
        cells = [(entries[cell == c] @ probability[cell == c], hits[cell == c].sum()) for c in range(3)]
        assert error == pytest.approx(sum(abs(one - other) for one, other in cells) / entries.sum())
        assert mean == pytest.approx(entries @ probability / entries.sum())
        if not support:
            assert np.isnan(best_f1) and best_bin == -1
            continue
        scores = np.repeat(np.arange(6), entries)
        truth = np.concatenate([np.arange(n) < p for n, p in zip(entries, hits, strict=True)])
        assert tied / support == pytest.approx(average_precision_score(truth, scores))
        negatives = len(truth) - truth.sum()
        assert area / support / negatives == pytest.approx(roc_auc_score(truth, scores))
        f1 = [f1_score(truth, scores >= edge) for edge in range(6)]
        assert best_f1 == pytest.approx(max(f1))
        assert f1[int(best_bin)] == pytest.approx(max(f1))


def test_curves_of_classes():
    table, positives = small_tables()
    precision, rate = kernels.class_curves(table, positives, 5)
    assert np.isnan(precision[1]).all() and np.isnan(rate[1]).all()
    for row in (0, 2):
        above = np.cumsum(table[row, ::-1].astype(int))
        hits = np.cumsum(positives[row, ::-1].astype(int))
        recall, false_rate = hits / hits[-1], (above - hits) / (above - hits)[-1]
        for place, level in enumerate(np.linspace(0, 1, 5)):
            # The first edge from above that has a positive and reaches the recall.
            edge = np.flatnonzero((recall >= level) & (positives[row, ::-1] > 0))[0]
            assert precision[row, place] == pytest.approx(hits[edge] / above[edge])
            # Straight lines between the edges; on a vertical part the upper end counts where it begins.
            x, y = np.concatenate([[0], false_rate]), np.concatenate([[0], recall])
            step = np.flatnonzero((x[1:] > x[:-1]) & (x[1:] >= level - 1e-12))[0]
            fraction = (level - x[step]) / (x[step + 1] - x[step])
            assert rate[row, place] == pytest.approx(y[step] + fraction * (y[step + 1] - y[step]), abs=1e-6)


def test_precisions_of_resampled_counts():
    rng = np.random.default_rng(6)
    hits, hard = rng.integers(0, 4, (2, 2, 3, 5)).astype(np.float32)
    hits, hard = hits[:2], hard[:2]
    easy, weights = rng.integers(0, 9, (3, 5)).astype(float), np.array([1, 0.5])
    sums, positives = kernels.resampled_precisions(hits, hard, easy, weights)
    np.testing.assert_allclose(positives, hits.sum(axis=2))
    for resample, index in np.ndindex(2, 3):
        negatives = hard[resample, index] + weights[resample] * easy[index]
        expected, above_hits, above = 0.0, 0.0, 0.0
        for p, n in zip(hits[resample, index, ::-1], negatives[::-1], strict=True):
            middle = above_hits + (p + 1) / 2
            expected += p * middle / (middle + above + n / 2)
            above_hits, above = above_hits + p, above + n
        assert sums[resample, index] == pytest.approx(expected)


# --- packing of format 2


@pytest.mark.parametrize("width", [1, 3, 7, 8, 13])
def test_low_bits_are_unpacked(width):
    values = np.random.default_rng(width).integers(0, 1 << width, 40)
    bits = "".join(format(value, f"0{width}b")[::-1] for value in values)
    packed = np.array([int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)], np.uint8)
    low_bits = np.zeros(40, np.int64)
    kernels.unpack_low_bits(packed, width, low_bits)
    np.testing.assert_array_equal(low_bits, values)


def test_counts_are_restored_from_differences_by_group():
    """Coded here as the format says: the difference to half of the sum of the two before, zigzag, by group."""
    counts = [3, 3, 4, 0, 900, 870, 10_000, 9_990, 5]
    shifts = np.zeros(kernels.GROUPS_OF_COUNTS, np.int64)
    shifts[10:] = 3
    coded = {}
    large = []
    before = last = 0
    for count in counts:
        known = before + last
        exponent = max(known.bit_length() - 1, 0)
        group = known if known < 8 else 8 + 2 * (exponent - 3) + (known >> (exponent - 1) & 1)
        change = count - known // 2
        number = 2 * change if change >= 0 else -2 * change - 1
        if number >> int(shifts[group]) >= 255:
            large.append(number)
            coded.setdefault(group, []).append((255, 0))
        else:
            coded.setdefault(group, []).append((number >> int(shifts[group]), number & (1 << int(shifts[group])) - 1))
        before, last = last, count
    starts, ends = np.zeros_like(shifts), np.zeros_like(shifts)
    flat = []
    for group in range(len(shifts)):
        starts[group] = len(flat)
        flat += coded.get(group, [])
        ends[group] = len(flat)
    symbols, low_bits = np.array(flat).T
    values = np.zeros(len(counts), np.int64)
    arguments = (symbols.astype(np.uint8), low_bits, starts, ends, shifts)
    assert kernels.restore_counts(*arguments, np.array(large), values)
    assert values.tolist() == counts
    assert len(large) >= 1
    assert not kernels.restore_counts(*arguments, np.array([*large, 1]), values)
