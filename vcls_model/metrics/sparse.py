"""Counts of sparse keys that merge exactly and stay within a budget, whatever the order of their parts.

Both classes bound their size by a *level*: the smallest one at which the number of distinct keys fits the budget. The
keys of a level follow from those of the level below, so the level of a union is at least that of its parts and depends
on the whole multiset alone: merging is associative and commutative to the bit.
"""

import numpy as np

_PENDING_LIMIT = 1 << 20
_KEY = np.dtype(np.uint64)


def combine(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct keys and the sums of their counts, (n,) each."""
    distinct, places = np.unique(keys, return_inverse=True)
    sums = np.zeros(distinct.size, np.int64)
    np.add.at(sums, places, counts)
    return distinct, sums


class ScoreSketch:
    """A sorted multiset of (class, score) cells with counts of positives and of all entries.

    Level 0 keeps every distinct float32 score; level L drops the L lowest bits of it, so that a cell holds scores that
    differ by less than 2^(L-23) of their size. `interval` of a sum over cells stays certified at every level.

    Attributes:
        keys: (n,) uint64, ascending, class << 32 | score bits in ascending order of score.
        counts: (n, 2) int64, positives and all entries.
        level: number of low bits dropped.
    """

    def __init__(self, budget: int):
        """Args:
        budget: the most distinct cells to keep.
        """
        self.budget = budget
        self.level = 0
        self.keys = np.empty(0, _KEY)
        self.counts = np.empty((0, 2), np.int64)
        self._pending: list[np.ndarray] = []
        self._pending_count = 0

    def add(self, keys_with_hit: np.ndarray) -> None:
        """Adds pairs, uint64 keys class << 33 | score bits << 1 | hit. Takes ownership of the array."""
        self._pending.append(keys_with_hit)
        self._pending_count += keys_with_hit.size
        if self._pending_count >= _PENDING_LIMIT:
            self.compact()

    def merge(self, other: "ScoreSketch") -> None:
        """Adds another sketch of the same budget, which keeps its content."""
        other.compact()
        self.compact()
        self.level = max(self.level, other.level)
        self._absorb(other.keys, other.counts)

    def compact(self) -> None:
        """Folds in what is pending; afterwards the state depends on the multiset of pairs alone."""
        from vcls_model.metrics import kernels

        if not self._pending:
            return
        pairs = np.concatenate(self._pending)
        self._pending, self._pending_count = [], 0
        pairs.sort()
        self._absorb(*kernels.fold_pairs(pairs, self._mask()))

    def _mask(self) -> np.uint64:
        return np.uint64((1 << 64) - (1 << self.level))

    def _absorb(self, keys: np.ndarray, counts: np.ndarray) -> None:
        from vcls_model.metrics import kernels

        self.keys, self.counts = kernels.merge_cells(self.keys, self.counts, keys, counts, self._mask())
        if self.keys.size <= self.budget:
            return
        distinct = kernels.distinct_by_level(self.keys)
        while self.level < 32 and distinct[self.level] > self.budget:
            self.level += 1
        nothing = np.empty(0, _KEY), np.empty((0, 2), np.int64)
        self.keys, self.counts = kernels.merge_cells(self.keys, self.counts, *nothing, self._mask())


class SampledCounts:
    """Counts of integer keys, each seen in a video; beyond the budget, counts of a sample of the videos.

    A video belongs to ranks 0 ... r, r the number of trailing zero bits of its hash. Level L keeps videos of rank at
    least L: a fraction 2^-L of them, the same ones in any order.

    Attributes:
        keys: (n,) uint64, ascending, key << 6 | rank.
        counts: (n,) int64.
        level: the lowest rank kept.
    """

    def __init__(self, budget: int):
        """Args:
        budget: the most distinct (key, rank) cells to keep.
        """
        self.budget = budget
        self.level = 0
        self.keys = np.empty(0, _KEY)
        self.counts = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._pending_count = 0

    def add(self, keys: np.ndarray, ranks: np.ndarray) -> None:
        """Counts each key once for the video of the given rank (0 ... 63)."""
        keep = ranks >= self.level
        self._pending.append((keys[keep].astype(_KEY) << _KEY.type(6)) | ranks[keep].astype(_KEY))
        self._pending_count += self._pending[-1].size
        if self._pending_count >= _PENDING_LIMIT:
            self.compact()

    def merge(self, other: "SampledCounts") -> None:
        """Adds another of the same budget, which keeps its content."""
        other.compact()
        self.compact()
        self.level = max(self.level, other.level)
        self._absorb(other.keys, other.counts)

    def compact(self) -> None:
        """Folds in what is pending."""
        if not self._pending:
            return
        keys = np.concatenate(self._pending)
        self._pending, self._pending_count = [], 0
        self._absorb(*np.unique(keys, return_counts=True))

    def _absorb(self, keys: np.ndarray, counts: np.ndarray) -> None:
        all_keys = np.concatenate([self.keys, keys])
        all_counts = np.concatenate([self.counts, counts]).astype(np.int64)
        keep = (all_keys & _KEY.type(63)) >= self.level
        all_keys, sums = combine(all_keys[keep], all_counts[keep])
        ranks = (all_keys & _KEY.type(63)).astype(np.int64)
        while self.level < 63 and np.count_nonzero(ranks >= self.level) > self.budget:
            self.level += 1
        keep = ranks >= self.level
        self.keys, self.counts = all_keys[keep], sums[keep]

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct keys (int64, ascending) and their counts among the videos kept."""
        self.compact()
        keys, counts = combine(self.keys >> _KEY.type(6), self.counts)
        return keys.astype(np.int64), counts
