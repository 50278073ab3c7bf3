"""Sorted sparse counts: keys of cells, merged and folded; for `sparse.py`."""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.metrics.kernels.bins import ordered_bits

njit = njit_of(__package__)


@njit
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


@njit
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


@njit
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


@njit
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


@njit
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
