"""The best scores of each video."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)
# Scores compared at a time where only a few of them matter: a compiler makes a few instructions of it.
_LANES = 64


@njit
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
            # A comparison would become a masked store, many times slower on processors without AVX-512. A NaN stays:
            # its lane reaches nothing, so that the floor is lower, and the NaN is found above it.
            maxima[lane] = np.maximum(part[lane], maxima[lane])
    for other in range(_LANES):
        x = maxima[other]
        for lane in range(_LANES):
            reached[lane] += np.int32(x >= maxima[lane])
    floor = np.float32(-np.inf)
    for lane in range(_LANES):
        x = maxima[lane] if reached[lane] >= count else np.float32(-np.inf)
        floor = x if x > floor else floor
    return floor


@njit
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


@njit
def count_reached(logits, best, thresholds, lowest, predicted):
    """Adds to `predicted` (T, C) int32 how many rows of `logits` (B, C) reach each of the (T, C) `thresholds`.

    Args:
        logits: (B, C) float32.
        best: `BestRows` of these logits, at least one class of each row. Where the least of them is below every
            threshold, so are all classes that are not among them, and the row is not looked at.
        thresholds: (T, C) float32 logits.
        lowest: (T,) float32, the least of each row of `thresholds`.
        predicted: added to.
    """
    for r in range(logits.shape[0]):
        start = best.starts[r]
        end = best.starts[r + 1]
        for t in range(thresholds.shape[0]):
            if best.logits[end - 1] < lowest[t]:
                for i in range(start, end):
                    predicted[t, best.classes[i]] += np.int32(best.logits[i] >= thresholds[t, best.classes[i]])
            else:
                _count_reached(logits[r], thresholds[t], predicted[t])


@njit
def select_top(logits, starts, top_class, top_logit):
    """Each row's best scores in descending order, ties to the lower class index.

    Args:
        logits: (B, C) float32.
        starts: (B + 1,); row r gets `starts[r + 1] - starts[r]` entries, at least one, of `top_class` and `top_logit`.

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
    return -1, -1
