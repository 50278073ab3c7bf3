"""From logits to predictions: the k best classes of each row, and the mean of several models."""

import numpy as np
from numba import njit

# Scores compared at a time where only a few of them matter: a compiler makes a few instructions of it.
_LANES = 128


@njit(nogil=True, cache=True)
def _floor_of_top(row, count, maxima, best):
    """A score that at least `count` scores of the row reach: the count-th largest of the maxima of `_LANES` groups."""
    full = row.shape[0] // _LANES * _LANES
    if count > _LANES or full == 0:
        return np.float32(-np.inf)
    for lane in range(_LANES):
        maxima[lane] = row[lane]
    for first in range(_LANES, full, _LANES):
        for lane in range(_LANES):
            x = row[first + lane]
            maxima[lane] = x if x > maxima[lane] else maxima[lane]
    filled = 0
    for lane in range(_LANES):
        x = maxima[lane]
        if filled == count and not (x > best[count - 1]):
            continue
        i = filled if filled < count else count - 1
        while i > 0 and best[i - 1] < x:
            best[i] = best[i - 1]
            i -= 1
        best[i] = x
        filled = min(filled + 1, count)
    return best[count - 1]


@njit(nogil=True, cache=True)
def _select(logits, indices, values):
    """Fills in the best scores of each row; False when it meets a NaN (which is never below the floor)."""
    class_count = logits.shape[1]
    k = indices.shape[1]
    maxima = np.empty(_LANES, np.float32)
    best = np.empty(_LANES, np.float32)
    for r in range(logits.shape[0]):
        row = logits[r]
        floor = _floor_of_top(row, k, maxima, best)
        filled = 0
        for c in range(0, class_count, _LANES):
            stop = min(c + _LANES, class_count)
            candidates = np.int32(0)
            for j in range(c, stop):
                candidates += np.int32(not (row[j] < floor))
            if candidates == 0:
                continue
            for j in range(c, stop):
                x = row[j]
                if x < floor:
                    continue
                if x != x:
                    return False
                if filled < k:
                    i = filled
                    filled += 1
                elif x > values[r, k - 1]:
                    i = k - 1
                else:
                    continue
                while i > 0 and values[r, i - 1] < x:
                    values[r, i] = values[r, i - 1]
                    indices[r, i] = indices[r, i - 1]
                    i -= 1
                values[r, i] = x
                indices[r, i] = j
    return True


def top_k(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best classes of each row, best first; of equal logits the lower class index comes first.

    Args:
        logits: float32 (B, C) without NaN.
        k: number of classes to keep; more than C keeps all.

    Returns:
        Class indices int32 (B, k) and their logits float32 (B, k).

    Raises:
        ValueError: a logit is NaN.
    """
    rows, classes = logits.shape
    k = min(k, classes)
    indices = np.empty((rows, k), np.int32)
    values = np.empty((rows, k), np.float32)
    if not _select(np.ascontiguousarray(logits), indices, values):
        raise ValueError("a logit is NaN")
    return indices, values


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of float32 logits, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, np.float32(1), small) / (1 + small)


def mean_of_models(logits: list[np.ndarray]) -> np.ndarray:
    """Logits of the mean probability of several models; one model's logits are returned as they are.

    The mean probability p is taken to a logit as log(sum of p) - log(sum of 1 - p), which keeps its precision at both
    ends; logits count as at most 80 in absolute value. NaN stays NaN.

    Args:
        logits: one float32 (B, C) a model.
    """
    if len(logits) == 1:
        return logits[0]
    positive = np.zeros_like(logits[0])
    negative = np.zeros_like(logits[0])
    for each in logits:
        clipped = np.clip(each, -80, 80)
        positive += sigmoid(clipped)
        negative += sigmoid(-clipped)
    return np.log(positive) - np.log(negative)
