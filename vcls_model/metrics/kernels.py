"""Compiled loops of the metrics. Everything that walks B x C scores or C x bins counts is here.

The table of counts is larger than any cache, so `count_scores` first writes the bins of some hundred rows, 32 classes
(one cache line) to a tile, and then takes tile after tile: the few parts of the table that a tile adds to stay in the
first caches meanwhile.
"""

import math

import numpy as np
from numba import njit

from vcls_model.metrics.binning import BINS_PER_LOGIT, BOUNDS, OFFSETS

# Compiled loops are kept from one process to the next for as long as the text of this file stays the same.
if (BOUNDS, BINS_PER_LOGIT) != ((-20, -7, 4, 20), (16, 128, 32)):
    raise ImportError("the bins were changed: say so here, too, or loops compiled for the old ones go on being used")
_TILE_CLASSES = 32
# The tiles of so many rows, 4 MB at 3,862 classes, stay in the last cache.
_TILE_ROWS = 512
_CLASSES_AT_ONCE = 16
# Scores compared at a time where only a few of them matter: a compiler makes a few instructions of it.
_LANES = 64
_LOWEST = np.float32(BOUNDS[0])
_HIGHEST = np.nextafter(np.float32(BOUNDS[-1]), np.float32(0))
_FINEST = np.float32(max(BINS_PER_LOGIT))
_LOW_SHIFT, _MIDDLE_SHIFT, _HIGH_SHIFT = (
    np.int32((max(BINS_PER_LOGIT) // bins).bit_length() - 1) for bins in BINS_PER_LOGIT
)
_LOW_OFFSET, _MIDDLE_OFFSET, _HIGH_OFFSET = (np.int32(offset) for offset in OFFSETS)
# A packed difference that does not fit into a byte, and in how many groups such differences are told; see `packing.py`.
ESCAPE = 255
GROUPS_OF_COUNTS = 128
_LARGEST_COUNT = 1 << 60
# Below this the harmonic sums are added term by term; above, the asymptotic series is exact to double precision.
_SERIES_START = 64


@njit(nogil=True, cache=True, inline="always")
def _bin(x):
    # The product with a power of two is exact in float32, and so are the bin edges; shifts round down as floor does.
    x = x if x > _LOWEST else _LOWEST
    x = x if x < _HIGHEST else _HIGHEST
    finest = np.int32(np.floor(x * _FINEST))
    low = np.int32((finest >> _LOW_SHIFT) + _LOW_OFFSET)
    middle = np.int32((finest >> _MIDDLE_SHIFT) + _MIDDLE_OFFSET)
    high = np.int32((finest >> _HIGH_SHIFT) + _HIGH_OFFSET)
    rising = low if low > middle else middle
    return rising if rising < high else high


@njit(nogil=True, cache=True)
def _floor_of_top(row, count, maxima, reached):
    """A score that at least `count` scores of the row reach: the count-th largest of the maxima of `_LANES` groups."""
    full = row.shape[0] // _LANES * _LANES
    if count > _LANES or full == 0:
        return np.float32(-np.inf)
    for lane in range(_LANES):
        maxima[lane] = row[lane]
        reached[lane] = 0
    for first in range(_LANES, full, _LANES):
        part = row[first : first + _LANES]
        for lane in range(_LANES):
            x = part[lane]
            maxima[lane] = x if x > maxima[lane] else maxima[lane]
    for other in range(_LANES):
        x = maxima[other]
        for lane in range(_LANES):
            reached[lane] += np.int32(x >= maxima[lane])
    floor = np.float32(-np.inf)
    for lane in range(_LANES):
        x = maxima[lane] if reached[lane] >= count else np.float32(-np.inf)
        floor = x if x > floor else floor
    return floor


@njit(nogil=True, cache=True)
def _count_reached(row, thresholds, predicted):
    """Adds 1 to `predicted` (C,) where a score reaches its threshold; 64 scores are skipped where none does."""
    full = row.shape[0] // _LANES * _LANES
    for first in range(0, full, _LANES):
        scores = row[first : first + _LANES]
        bounds = thresholds[first : first + _LANES]
        reached = np.int32(0)
        for lane in range(_LANES):
            reached += np.int32(scores[lane] >= bounds[lane])
        if reached > 0:
            for lane in range(_LANES):
                predicted[first + lane] += np.int32(scores[lane] >= bounds[lane])
    for c in range(full, row.shape[0]):
        predicted[c] += np.int32(row[c] >= thresholds[c])


@njit(nogil=True, cache=True)
def select_top(logits, starts, top_class, top_logit, thresholds, predicted):
    """Each row's best scores in descending order, ties to the lower class index; in the same pass, while the row is
    in cache, how many scores of each class reach its thresholds.

    Args:
        logits: (B, C) float32.
        starts: (B + 1,); row r gets `starts[r + 1] - starts[r]` entries, at least one, of `top_class` and `top_logit`.
        thresholds: (T, C) float32 logits.
        predicted: (T, C) int32 counts, added to.

    Returns:
        (row, class) of the first NaN, or (-1, -1); a NaN is never below the floor, so the same comparison that finds
        candidates finds it.
    """
    class_count = logits.shape[1]
    full = class_count // _LANES * _LANES
    maxima = np.empty(_LANES, np.float32)
    reached = np.empty(_LANES, np.int32)
    for r in range(logits.shape[0]):
        row = logits[r]
        start = starts[r]
        end = starts[r + 1]
        floor = _floor_of_top(row, end - start, maxima, reached)
        last = start
        for first in range(0, class_count, _LANES):
            if first < full:
                scores = row[first : first + _LANES]
                candidates = np.int32(0)
                for lane in range(_LANES):
                    candidates += np.int32(not (scores[lane] < floor))
                if candidates == 0:
                    continue
            for c in range(first, min(first + _LANES, class_count)):
                x = row[c]
                if x < floor:
                    continue
                if x != x:
                    return r, c
                if last < end:
                    i = last
                    last += 1
                elif x > top_logit[end - 1]:
                    i = end - 1
                else:
                    continue
                while i > start and top_logit[i - 1] < x:
                    top_logit[i] = top_logit[i - 1]
                    top_class[i] = top_class[i - 1]
                    i -= 1
                top_logit[i] = x
                top_class[i] = c
        for t in range(thresholds.shape[0]):
            _count_reached(row, thresholds[t], predicted[t])
    return -1, -1


@njit(nogil=True, cache=True)
def count_scores(logits, table):
    """Adds each of (B, C) float32 scores, no NaN, to its class's row of `table` (C, bins) uint16."""
    rows, class_count = logits.shape
    whole = class_count // _TILE_CLASSES
    # One row more than is used: tiles a power of two apart would share their places in the caches.
    tiles = np.empty((whole, min(rows, _TILE_ROWS) + 1, _TILE_CLASSES), np.uint16)
    for top in range(0, rows, _TILE_ROWS):
        part = logits[top : top + _TILE_ROWS]
        _tile_bins(part, tiles)
        _count_tiles(tiles, part.shape[0], table)
        for c in range(whole * _TILE_CLASSES, class_count):
            for r in range(part.shape[0]):
                table[c, _bin(part[r, c])] += np.uint16(1)


@njit(nogil=True, cache=True)
def carry_counts(counts, table):
    """Moves the counts (C, bins) uint16 that are above half of what they can hold to `table` (C, bins) uint32."""
    for c in range(counts.shape[0]):
        above = np.uint16(0)
        for b in range(counts.shape[1]):
            above |= counts[c, b]
        if above >> 15:
            for b in range(counts.shape[1]):
                if counts[c, b] >> 15:
                    table[c, b] += np.uint32(counts[c, b])
                    counts[c, b] = 0


@njit(nogil=True, cache=True)
def _tile_bins(logits, tiles):
    for r in range(logits.shape[0]):
        for tile in range(tiles.shape[0]):
            scores = logits[r, tile * _TILE_CLASSES : (tile + 1) * _TILE_CLASSES]
            bins = tiles[tile, r]
            for j in range(_TILE_CLASSES):
                bins[j] = np.uint16(_bin(scores[j]))


@njit(nogil=True, cache=True)
def _count_tiles(tiles, rows, table):
    bin_count = np.uint64(table.shape[1])
    flat = table.reshape(-1)
    starts = np.empty(_CLASSES_AT_ONCE, np.uint64)
    for tile in range(tiles.shape[0]):
        for first in range(0, _TILE_CLASSES, _CLASSES_AT_ONCE):
            for j in range(_CLASSES_AT_ONCE):
                starts[j] = np.uint64(tile * _TILE_CLASSES + first + j) * bin_count
            for r in range(rows):
                for j in range(_CLASSES_AT_ONCE):
                    flat[starts[j] + np.uint64(tiles[tile, r, first + j])] += np.uint16(1)


@njit(nogil=True, cache=True)
def count_positives(logits, labels, label_starts, positives):
    """Adds the scores of the true labels to `positives` (C, bins) uint32."""
    for r in range(logits.shape[0]):
        for i in range(label_starts[r], label_starts[r + 1]):
            positives[labels[i], _bin(logits[r, labels[i]])] += np.uint32(1)


@njit(nogil=True, cache=True)
def ordered_bits(x):
    """uint32 that sorts as the float32 `x` does; both zeros give the same."""
    bits = np.float32(x + np.float32(0)).view(np.uint32)
    if bits >> np.uint32(31):
        return ~bits
    return bits | np.uint32(0x80000000)


@njit(nogil=True, cache=True)
def _score_of(bits):
    if bits >> np.uint32(31):
        return np.uint32(bits ^ np.uint32(0x80000000)).view(np.float32)
    return np.uint32(~bits).view(np.float32)


@njit(nogil=True, cache=True)
def score_keys(logits, labels, label_starts):
    """(C, B) uint64: ordered score << 1 | whether it is a true label's."""
    rows, class_count = logits.shape
    keys = np.empty((class_count, rows), np.uint64)
    for r in range(rows):
        for c in range(class_count):
            keys[c, r] = np.uint64(ordered_bits(logits[r, c])) << np.uint64(1)
        for i in range(label_starts[r], label_starts[r + 1]):
            keys[labels[i], r] |= np.uint64(1)
    return keys


@njit(nogil=True, cache=True)
def count_keys(keys, table, positives):
    """Adds what `score_keys` made to the tables of counts."""
    for c in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            b = _bin(_score_of(np.uint32(keys[c, i] >> np.uint64(1))))
            table[c, b] += np.uint32(1)
            if keys[c, i] & np.uint64(1):
                positives[c, b] += np.uint32(1)


@njit(nogil=True, cache=True)
def pair_keys(classes, logits, hits):
    """(n,) uint64 keys class << 33 | ordered score << 1 | hit."""
    keys = np.empty(classes.shape[0], np.uint64)
    for i in range(keys.shape[0]):
        keys[i] = (
            (np.uint64(classes[i]) << np.uint64(33))
            | (np.uint64(ordered_bits(logits[i])) << np.uint64(1))
            | np.uint64(hits[i])
        )
    return keys


@njit(nogil=True, cache=True)
def fold_pairs(pairs, mask):
    """Cells of ascending keys cell << 1 | hit: distinct cells under `mask` (n,), and (n, 2) int64 hits and entries."""
    n = 0
    for i in range(pairs.shape[0]):
        n += i == 0 or (pairs[i] >> np.uint64(1)) & mask != (pairs[i - 1] >> np.uint64(1)) & mask
    keys = np.empty(n, np.uint64)
    counts = np.zeros((n, 2), np.int64)
    n = 0
    for i in range(pairs.shape[0]):
        key = (pairs[i] >> np.uint64(1)) & mask
        if n == 0 or keys[n - 1] != key:
            keys[n] = key
            n += 1
        counts[n - 1, 0] += np.int64(pairs[i] & np.uint64(1))
        counts[n - 1, 1] += 1
    return keys, counts


@njit(nogil=True, cache=True)
def merge_cells(left_keys, left_counts, right_keys, right_counts):
    """The union of two ascending lists of distinct keys (n,) uint64, counts (n, k) int64 of equal keys added up."""
    n = left_keys.shape[0]
    i = 0
    for j in range(right_keys.shape[0]):
        while i < left_keys.shape[0] and left_keys[i] < right_keys[j]:
            i += 1
        n += i == left_keys.shape[0] or left_keys[i] != right_keys[j]
    keys = np.empty(n, np.uint64)
    counts = np.empty((n, left_counts.shape[1]), np.int64)
    i = 0
    j = 0
    for at in range(n):
        if j == right_keys.shape[0] or (i < left_keys.shape[0] and left_keys[i] <= right_keys[j]):
            keys[at] = left_keys[i]
            for k in range(counts.shape[1]):
                counts[at, k] = left_counts[i, k]
            if j < right_keys.shape[0] and right_keys[j] == left_keys[i]:
                for k in range(counts.shape[1]):
                    counts[at, k] += right_counts[j, k]
                j += 1
            i += 1
        else:
            keys[at] = right_keys[j]
            for k in range(counts.shape[1]):
                counts[at, k] = right_counts[j, k]
            j += 1
    return keys, counts


@njit(nogil=True, cache=True)
def fold_cells(keys, counts, mask):
    """The distinct values of ascending keys (n,) under `mask`, and the sums of their counts (n, k)."""
    n = 0
    for i in range(keys.shape[0]):
        n += i == 0 or keys[i] & mask != keys[i - 1] & mask
    folded = np.empty(n, np.uint64)
    sums = np.zeros((n, counts.shape[1]), np.int64)
    n = 0
    for i in range(keys.shape[0]):
        key = keys[i] & mask
        if n == 0 or folded[n - 1] != key:
            folded[n] = key
            n += 1
        for k in range(counts.shape[1]):
            sums[n - 1, k] += counts[i, k]
    return folded, sums


@njit(nogil=True, cache=True)
def distinct_by_level(keys):
    """(65,) int64: how many of the ascending distinct `keys` remain without their L lowest bits, L = 0 ... 64."""
    distinct = np.zeros(65, np.int64)
    for i in range(1, keys.shape[0]):
        differing = keys[i] ^ keys[i - 1]
        # The pair stays apart at every level up to the position of the highest differing bit.
        level = 0
        while differing >> np.uint64(8) and level < 56:
            differing >>= np.uint64(8)
            level += 8
        while differing:
            differing >>= np.uint64(1)
            level += 1
        distinct[level - 1] += 1
    for level in range(63, -1, -1):
        distinct[level] += distinct[level + 1]
    return distinct + np.int64(keys.shape[0] > 0)


@njit(nogil=True, cache=True, inline="always")
def _group_of_count(known):
    """The group of a non-negative int64: itself below 8, then two groups to each doubling, at most 127."""
    if known < 8:
        return known
    # The exponent and the first bit of the fraction, as a float64 has them.
    return (np.float64(known).view(np.int64) >> 51) - 2 * (1023 + 3) + 8


@njit(nogil=True, cache=True)
def group_changes(values, groups, changes, by_group):
    """How each of (n,) int64 counts differs from the mean of the two before it, grouped by the sum of those two.

    Args:
        values: (n,) int64.
        groups: (n,) uint8, set to the group of each.
        changes: (n,) int64, set to the differences, zigzag: 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
        by_group: (n,) int64, set to the same, one group after the other.

    Returns:
        Sizes of the groups (128,) int64.
    """
    sizes = np.zeros(GROUPS_OF_COUNTS, np.int64)
    before = np.int64(0)
    last = np.int64(0)
    for i in range(values.shape[0]):
        known = before + last
        change = values[i] - (known >> 1)
        group = _group_of_count(known)
        groups[i] = group
        sizes[group] += 1
        changes[i] = (change << 1) ^ (change >> 63)
        before = last
        last = values[i]
    places = np.cumsum(sizes) - sizes
    for i in range(values.shape[0]):
        by_group[places[groups[i]]] = changes[i]
        places[groups[i]] += 1
    return sizes


@njit(nogil=True, cache=True)
def large_changes(groups, changes, shifts):
    """Those of the differences of `group_changes` that do not fit into a byte without their low bits, in order."""
    n = 0
    for i in range(changes.shape[0]):
        n += changes[i] >> shifts[groups[i]] >= ESCAPE
    large = np.empty(n, np.int64)
    n = 0
    for i in range(changes.shape[0]):
        if changes[i] >> shifts[groups[i]] >= ESCAPE:
            large[n] = changes[i]
            n += 1
    return large


@njit(nogil=True, cache=True)
def symbols_of(changes, shift, symbols):
    """Sets `symbols` (n,) uint8 to the differences without their low bits, `ESCAPE` for those that do not fit."""
    for i in range(changes.shape[0]):
        symbols[i] = np.uint8(min(changes[i] >> shift, ESCAPE))


@njit(nogil=True, cache=True)
def pack_low_bits(values, width):
    """The `width` low bits of each value, one value after the other, as bytes."""
    packed = np.zeros((values.shape[0] * width + 7) // 8, np.uint8)
    held = np.uint64(0)
    bits = 0
    at = 0
    mask = np.uint64((1 << width) - 1)
    for i in range(values.shape[0]):
        held |= (np.uint64(values[i]) & mask) << np.uint64(bits)
        bits += width
        while bits >= 8:
            packed[at] = np.uint8(held & np.uint64(255))
            held >>= np.uint64(8)
            bits -= 8
            at += 1
    if bits > 0:
        packed[at] = np.uint8(held)
    return packed


@njit(nogil=True, cache=True)
def unpack_low_bits(packed, width, low_bits):
    """Undoes `pack_low_bits`: fills `low_bits` (n,) int64 from enough bytes."""
    held = np.uint64(0)
    bits = 0
    at = 0
    mask = np.uint64((1 << width) - 1)
    for i in range(low_bits.shape[0]):
        while bits < width:
            held |= np.uint64(packed[at]) << np.uint64(bits)
            bits += 8
            at += 1
        low_bits[i] = np.int64(held & mask)
        held >>= np.uint64(width)
        bits -= width


@njit(nogil=True, cache=True)
def restore_counts(symbols, low_bits, starts, ends, shifts, large, values):
    """Undoes `group_changes`.

    Args:
        symbols: (n,) uint8 differences without their low bits, by group; `ESCAPE` stands for the next of `large`.
        low_bits: (n,) int64, those of `symbols`.
        starts, ends, shifts: (128,) int64: where a group's symbols lie, and how many low bits they have.
        large: int64 whole differences.
        values: (n,) int64, set to the counts.

    Returns:
        Whether the arguments fit together.
    """
    at = starts.copy()
    used = 0
    before = np.int64(0)
    last = np.int64(0)
    for i in range(values.shape[0]):
        known = before + last
        group = _group_of_count(known)
        place = at[group]
        if place >= ends[group]:
            return False
        at[group] += 1
        if symbols[place] == ESCAPE:
            if used == large.shape[0]:
                return False
            change = large[used]
            used += 1
        else:
            change = (np.int64(symbols[place]) << shifts[group]) | low_bits[place]
        before = last
        last = (known >> 1) + ((change >> 1) ^ -(change & 1))
        if last < 0 or last > _LARGEST_COUNT:
            return False
        values[i] = last
    return used == large.shape[0]


@njit(nogil=True, cache=True)
def coarse_bin(x, edges):
    """Index of the cell of `edges` (ascending, exclusive upper ends) that holds `x`."""
    b = 0
    while b < edges.shape[0] and x >= edges[b]:
        b += 1
    return b


@njit(nogil=True, cache=True)
def compare_with_labels(
    logits,
    labels,
    label_starts,
    top_class,
    top_logit,
    top_starts,
    keep,
    thresholds,
    true_positives,
    groups,
    coarse_edges,
    group_positives,
    group_negatives,
    pooled_hits,
    pooled_totals,
    group_labels,
    pair_keys,
    label_hits,
    best_hit,
    best_false,
    worst_missed,
):
    """Everything that needs a row's labels and its best scores together; the counts given are changed in place.

    Returns:
        pairs: uint64 keys (class << 33 | ordered score << 1 | hit) of the kept top scores.
        confused: int64 keys true * C + predicted, and the row each came from.
    """
    rows, class_count = logits.shape
    stamp = np.full(class_count, -1, np.int64)
    predicted_stamp = np.full(class_count, -1, np.int64)
    confused_count = 0
    for r in range(rows):
        count = label_starts[r + 1] - label_starts[r]
        for i in range(label_starts[r], label_starts[r + 1]):
            stamp[labels[i]] = r
        hits = 0
        for i in range(count):
            if stamp[top_class[top_starts[r] + i]] == r:
                hits += 1
        label_hits[r] = hits
        confused_count += hits + (count - hits) * (count - hits)
    confused = np.empty(confused_count, np.int64)
    confused_row = np.empty(confused_count, np.int64)
    at = 0
    pair = 0
    stamp[:] = -1
    for r in range(rows):
        group = groups[r]
        first = top_starts[r]
        count = label_starts[r + 1] - label_starts[r]
        group_labels[group] += count
        best_hit[r] = -1
        best_false[r] = -1
        worst_missed[r] = -1
        for i in range(label_starts[r], label_starts[r + 1]):
            label = labels[i]
            stamp[label] = r
            x = logits[r, label]
            group_positives[label, coarse_bin(x, coarse_edges), group] += np.uint32(1)
            for t in range(thresholds.shape[0]):
                true_positives[t, label] += np.int64(x >= thresholds[t, label])
            if worst_missed[r] < 0 or x < logits[r, worst_missed[r]]:
                worst_missed[r] = label
        for i in range(min(keep, class_count)):
            c = top_class[first + i]
            x = top_logit[first + i]
            hit = stamp[c] == r
            pair_keys[pair] = (
                (np.uint64(c) << np.uint64(33)) | (np.uint64(ordered_bits(x)) << np.uint64(1)) | np.uint64(hit)
            )
            pair += 1
            cell = _bin(x)
            pooled_totals[cell, group] += np.uint32(1)
            if hit:
                pooled_hits[cell, group] += np.uint32(1)
                if best_hit[r] < 0:
                    best_hit[r] = c
            else:
                group_negatives[c, coarse_bin(x, coarse_edges), group] += np.uint32(1)
                if best_false[r] < 0:
                    best_false[r] = c
        for i in range(count):
            predicted_stamp[top_class[first + i]] = r
        for i in range(label_starts[r], label_starts[r + 1]):
            label = labels[i]
            if predicted_stamp[label] == r:
                confused[at] = label * class_count + label
                confused_row[at] = r
                at += 1
                continue
            for j in range(count):
                c = top_class[first + j]
                if stamp[c] != r:
                    confused[at] = label * class_count + c
                    confused_row[at] = r
                    at += 1
    return confused, confused_row


@njit(nogil=True, cache=True)
def harmonic(start, count):
    """Sum of 1 / (start + k) for k = 1 ... count, `start` >= 0."""
    total = 0.0
    while count > 0 and (start < _SERIES_START or count < 4):
        start += 1
        count -= 1
        total += 1.0 / start
    if count > 0:
        # digamma(b + 1) - digamma(a + 1) with digamma(x + 1) = ln x + 1/2x - 1/12x^2 + 1/120x^4 - ...
        a = float(start)
        b = float(start + count)
        total += math.log1p(count / a) + 0.5 * (1 / b - 1 / a) - (1 / b**2 - 1 / a**2) / 12
        total += (1 / b**4 - 1 / a**4) / 120 - (1 / b**6 - 1 / a**6) / 252
    return total


@njit(nogil=True, cache=True)
def tied_terms(above_positives, above_negatives, p, n):
    """What a cell of p positives and n negatives of unknown order adds to the sum of precisions at the positives.

    Returns (tied, lowest, highest): all of the cell at one threshold, which is how scikit-learn counts equal scores;
    negatives first; positives first and tied. (P + k) / (P + k + D) = 1 - D / (P + k + D) turns the lowest,
    the sum of that over k = 1 ... p with D negatives, into a harmonic sum.
    """
    if p == 0:
        return 0.0, 0.0, 0.0
    reached = float(above_positives + p)
    negatives = above_negatives + n
    tied = p * reached / (reached + negatives)
    highest = p * reached / (reached + above_negatives)
    lowest = p - negatives * harmonic(above_positives + negatives, p)
    return tied, min(lowest, tied), highest


@njit(nogil=True, cache=True)
def cell_precisions(owners, positives, totals, limit, owner_count):
    """Sums of precisions at the positives over sorted cells, for each owner.

    Args:
        owners: (n,) int64, ascending: the class of each cell, or 0.
        positives, totals: (n,) int64 counts of each cell, cells of an owner by ascending score.
        limit: only the best `limit` entries of an owner count; a cell that crosses it is split in proportion.
        owner_count: number of owners.

    Returns:
        (owner_count, 3) float64: tied, lowest, highest.
    """
    sums = np.zeros((owner_count, 3))
    owner = np.int64(-1)
    above_positives = np.int64(0)
    above_negatives = np.int64(0)
    for at in range(owners.shape[0]):
        i = owners.shape[0] - 1 - at
        if owners[i] != owner:
            owner = owners[i]
            above_positives = np.int64(0)
            above_negatives = np.int64(0)
        room = limit - above_positives - above_negatives
        if room <= 0:
            continue
        p = positives[i]
        n = totals[i] - p
        if p + n <= room:
            tied, lowest, highest = tied_terms(above_positives, above_negatives, p, n)
        else:
            fewest = max(0, room - n)
            most = min(p, room)
            lowest = tied_terms(above_positives, above_negatives, fewest, room - fewest)[1]
            highest = tied_terms(above_positives, above_negatives, most, room - most)[2]
            likely = int(round(p * room / (p + n)))
            tied = tied_terms(above_positives, above_negatives, likely, room - likely)[0]
        sums[owner, 0] += tied
        sums[owner, 1] += lowest
        sums[owner, 2] += highest
        above_positives += p
        above_negatives += n
    return sums


@njit(nogil=True, cache=True)
def exact_statistics(keys):
    """Per-class figures of the full ranking from every score.

    Args:
        keys: (C, N) uint64 of `score_keys`, each row ascending.

    Returns:
        (C, 4) float64: sum of precisions (tied, lowest, highest), which differ where scores tie, and area under
        the ROC curve times positives times negatives.
    """
    class_count, rows = keys.shape
    out = np.zeros((class_count, 4))
    for c in range(class_count):
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        i = rows - 1
        while i >= 0:
            score = keys[c, i] >> np.uint64(1)
            p = np.int64(0)
            n = np.int64(0)
            while i >= 0 and keys[c, i] >> np.uint64(1) == score:
                if keys[c, i] & np.uint64(1):
                    p += 1
                else:
                    n += 1
                i -= 1
            terms = tied_terms(above_positives, above_negatives, p, n)
            out[c, 0] += terms[0]
            out[c, 1] += terms[1]
            out[c, 2] += terms[2]
            out[c, 3] += n * (above_positives + 0.5 * p)
            above_positives += p
            above_negatives += n
    return out


@njit(nogil=True, cache=True)
def class_statistics(table, positives, bin_probability, calibration_bin, calibration_bins):
    """Per-class figures of the full ranking, from counts by bin.

    Args:
        table: (C, bins) uint32, all scores.
        positives: (C, bins) uint32, scores of true labels.
        bin_probability: (bins,) float64, probability at the middle of each bin.
        calibration_bin: (bins,) int64, the calibration cell of each bin.
        calibration_bins: number of calibration cells.

    Returns:
        (C, 9) float64: support, sum of precisions (tied, lowest, highest), ROC area times positives times
        negatives, bin whose lower edge has the best F1, that F1, calibration error, mean probability. Ratios without
        a denominator are NaN.
    """
    class_count, bin_count = table.shape
    out = np.empty((class_count, 9))
    counts = np.empty(calibration_bins)
    hits = np.empty(calibration_bins)
    confidence = np.empty(calibration_bins)
    for c in range(class_count):
        support = np.int64(0)
        total = np.int64(0)
        for b in range(bin_count):
            support += positives[c, b]
            total += table[c, b]
        counts[:] = 0
        hits[:] = 0
        confidence[:] = 0
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        tied = 0.0
        lowest = 0.0
        highest = 0.0
        area = 0.0
        best_f1 = -1.0
        best_bin = np.int64(-1)
        for i in range(bin_count):
            b = bin_count - 1 - i
            entries = np.int64(table[c, b])
            if entries == 0:
                continue
            p = np.int64(positives[c, b])
            n = entries - p
            if p > 0:
                terms = tied_terms(above_positives, above_negatives, p, n)
                tied += terms[0]
                lowest += terms[1]
                highest += terms[2]
            area += n * (above_positives + 0.5 * p)
            above_positives += p
            above_negatives += n
            if p > 0:
                f1 = 2.0 * above_positives / (above_positives + above_negatives + support)
                if f1 > best_f1:
                    best_f1 = f1
                    best_bin = b
            cell = calibration_bin[b]
            counts[cell] += entries
            hits[cell] += p
            confidence[cell] += entries * bin_probability[b]
        error = 0.0
        probability = 0.0
        for cell in range(calibration_bins):
            error += abs(confidence[cell] - hits[cell])
            probability += confidence[cell]
        out[c, 0] = support
        out[c, 1] = tied
        out[c, 2] = lowest
        out[c, 3] = highest
        out[c, 4] = area
        out[c, 5] = best_bin
        out[c, 6] = best_f1 if support > 0 else np.nan
        out[c, 7] = error / total if total > 0 else np.nan
        out[c, 8] = probability / total if total > 0 else np.nan
    return out


@njit(nogil=True, cache=True)
def class_curves(table, positives, grid_size):
    """Precision at recall and true positive rate at false positive rate, on `grid_size` even points from 0 to 1.

    Precision at recall r is that of the highest bin edge whose recall is at least r; the true positive rate is
    interpolated linearly along the ROC curve. Rows are NaN for classes without positives (ROC: or negatives).

    Returns:
        (C, grid_size) float32 twice.
    """
    class_count, bin_count = table.shape
    precision = np.full((class_count, grid_size), np.nan, np.float32)
    rate = np.full((class_count, grid_size), np.nan, np.float32)
    steps = grid_size - 1
    for c in range(class_count):
        support = np.int64(0)
        total = np.int64(0)
        for b in range(bin_count):
            support += positives[c, b]
            total += table[c, b]
        if support == 0:
            continue
        negatives = total - support
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        pr_at = 0
        roc_at = 0
        for i in range(bin_count):
            b = bin_count - 1 - i
            entries = np.int64(table[c, b])
            if entries == 0:
                continue
            p = np.int64(positives[c, b])
            n = entries - p
            above_positives += p
            while p > 0 and pr_at < grid_size and above_positives * steps >= pr_at * support:
                precision[c, pr_at] = above_positives / (above_positives + above_negatives + n)
                pr_at += 1
            while n > 0 and roc_at < grid_size and (above_negatives + n) * steps >= roc_at * negatives:
                fraction = (roc_at * negatives / steps - above_negatives) / n
                rate[c, roc_at] = (above_positives - p + fraction * p) / support
                roc_at += 1
            above_negatives += n
    return precision, rate


@njit(nogil=True, cache=True)
def resampled_precisions(hits, hard_negatives, easy_negatives, weights):
    """Sums of precisions at the positives for resampled counts over coarse cells.

    Args:
        hits, hard_negatives: (R, C, cells) float32, counts of each resample, cells by ascending score.
        easy_negatives: (C, cells) float64, negatives that are not resampled but scaled by the resample's weight.
        weights: (R,) float64, number of videos in the resample over their number in the data.

    Returns:
        (R, C) float64 sums, and (R, C) float64 numbers of positives.
    """
    resamples, class_count, cells = hits.shape
    sums = np.zeros((resamples, class_count))
    positives = np.zeros((resamples, class_count))
    for r in range(resamples):
        for c in range(class_count):
            above_positives = 0.0
            above_negatives = 0.0
            for i in range(cells):
                b = cells - 1 - i
                p = float(hits[r, c, b])
                n = hard_negatives[r, c, b] + easy_negatives[c, b] * weights[r]
                if p > 0:
                    # The cell's positives, spread evenly among its negatives, at their middle.
                    middle = above_positives + 0.5 * (p + 1)
                    sums[r, c] += p * middle / (middle + above_negatives + 0.5 * n)
                above_positives += p
                above_negatives += n
            positives[r, c] = above_positives
    return sums, positives
