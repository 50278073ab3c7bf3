"""Counts of sparse keys that merge exactly and stay within a budget, whatever the order of their parts.

Both classes bound their size by a *level*: the smallest one at which the number of distinct keys fits the budget. The
keys of a level follow from those of the level below, so the level of a union is at least that of its parts and depends
on the whole multiset alone: merging is associative and commutative to the bit.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from vcls_model.metrics import kernels

_PENDING_LIMIT = 1 << 18
_KEY = np.dtype(np.uint64)


class BudgetedCounts(ABC):
    """Counts of ascending distinct keys, reduced to the lowest level at which they fit the budget.

    Attributes:
        keys: (n,) uint64, ascending.
        counts: (n, columns) int64.
        level: how far the keys are reduced.
    """

    def __init__(self, budget: int, columns: int):
        self.budget = budget
        self.level = 0
        self.keys = np.empty(0, _KEY)
        self.counts = np.empty((0, columns), np.int64)
        self._pending: list[np.ndarray] = []
        self._pending_count = 0

    @abstractmethod
    def _fold(self, pending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distinct keys of the pending ones, and their counts."""

    @abstractmethod
    def _sizes(self, keys: np.ndarray) -> np.ndarray:
        """Number of `keys` that remain at each level, falling to 0."""

    @abstractmethod
    def _reduce(self, keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What remains of keys at `self.level`."""

    @abstractmethod
    def _columns(self) -> dict[str, np.ndarray]:
        """The keys as columns of small numbers."""

    @abstractmethod
    def _keys_of(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Undoes `_columns`."""

    def _add_pending(self, keys: np.ndarray) -> None:
        self._pending.append(keys)
        self._pending_count += keys.size
        if self._pending_count >= _PENDING_LIMIT:
            self.compact()

    def compact(self) -> None:
        """Folds in what is pending; afterwards the state depends on the multiset of what was added alone."""
        if not self._pending:
            return
        pending = np.concatenate(self._pending)
        self._pending, self._pending_count = [], 0
        self._absorb(*self._fold(pending))

    def merge(self, other: "BudgetedCounts") -> None:
        """Adds another of the same kind and budget, which stays as it is."""
        other.compact()
        self.compact()
        self.level = max(self.level, other.level)
        self._absorb(other.keys, other.counts)

    def _absorb(self, keys: np.ndarray, counts: np.ndarray) -> None:
        keys, counts = self._reduce(*kernels.merge_cells(self.keys, self.counts, keys, counts))
        if keys.size > self.budget:
            self.level += int(np.argmax(self._sizes(keys)[self.level :] <= self.budget))
            keys, counts = self._reduce(keys, counts)
        self.keys, self.counts = keys, counts

    def packable(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The state as header entries and arrays for `packing.pack`, their names beginning with `name`."""
        self.compact()
        columns = {**self._columns(), "counts": self.counts.T}
        return {name: self.level}, {f"{name}.{key}": column for key, column in columns.items()}

    def restore(self, name: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Takes over what `packable` gave."""
        columns = {key.removeprefix(name + "."): array for key, array in arrays.items() if key.startswith(name + ".")}
        self.level = header[name]
        self.counts = np.ascontiguousarray(columns.pop("counts").T)
        self.keys = self._keys_of(columns)


class ScoreSketch(BudgetedCounts):
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
        super().__init__(budget, 2)

    def add(self, keys_with_hit: np.ndarray) -> None:
        """Adds pairs, uint64 keys class << 33 | score bits << 1 | hit. Takes ownership of the array."""
        self._add_pending(keys_with_hit)

    def _fold(self, pending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pending.sort()
        return kernels.fold_pairs(pending, self._mask())

    def _mask(self) -> np.uint64:
        return np.uint64((1 << 64) - (1 << self.level))

    def _columns(self) -> dict[str, np.ndarray]:
        return {"steps": np.diff(self.keys >> _KEY.type(self.level), prepend=_KEY.type(0))}

    def _keys_of(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        return np.cumsum(columns["steps"], dtype=_KEY) << _KEY.type(self.level)

    def _sizes(self, keys: np.ndarray) -> np.ndarray:
        sizes = kernels.distinct_by_level(keys)
        sizes[32:] = 0  # classes are never taken together, however many there are
        return sizes

    def _reduce(self, keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return kernels.fold_cells(keys, counts, self._mask())


class SampledCounts(BudgetedCounts):
    """Counts of integer keys, each seen in a video; beyond the budget, counts of a sample of the videos.

    A video belongs to ranks 0 ... r, r the number of trailing zero bits of its hash. Level L keeps videos of rank at
    least L: a fraction 2^-L of them, the same ones in any order.

    Attributes:
        keys: (n,) uint64, ascending, key << 6 | rank.
        counts: (n, 1) int64.
        level: the lowest rank kept.
    """

    def __init__(self, budget: int):
        """Args:
        budget: the most distinct (key, rank) cells to keep.
        """
        super().__init__(budget, 1)

    def add(self, keys: np.ndarray, ranks: np.ndarray) -> None:
        """Counts each key once for the video of the given rank (0 ... 63)."""
        keep = ranks >= self.level
        self._add_pending((keys[keep].astype(_KEY) << _KEY.type(6)) | ranks[keep].astype(_KEY))

    def _fold(self, pending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys, counts = np.unique(pending, return_counts=True)
        return keys, counts[:, None].astype(np.int64)

    def _sizes(self, keys: np.ndarray) -> np.ndarray:
        return np.append(np.cumsum(np.bincount(_ranks(keys), minlength=64)[::-1])[::-1], 0)

    def _reduce(self, keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = _ranks(keys) >= self.level
        return keys[keep], counts[keep]

    def _columns(self) -> dict[str, np.ndarray]:
        return {
            "steps": np.diff(self.keys >> _KEY.type(6), prepend=_KEY.type(0)),
            "ranks": _ranks(self.keys).astype(np.uint8),
        }

    def _keys_of(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        return (np.cumsum(columns["steps"], dtype=_KEY) << _KEY.type(6)) | columns["ranks"].astype(_KEY)

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct keys (int64, ascending) and their counts among the videos kept."""
        self.compact()
        keys, firsts = np.unique(self.keys >> _KEY.type(6), return_index=True)
        counts = np.add.reduceat(self.counts[:, 0], firsts) if firsts.size else np.empty(0, np.int64)
        return keys.astype(np.int64), counts


def _ranks(keys: np.ndarray) -> np.ndarray:
    return (keys & _KEY.type(63)).astype(np.int64)
