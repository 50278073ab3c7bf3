"""The best classes of each video, selected once and shared by predictions, metrics and slices."""

from collections.abc import Sequence

import numpy as np

from vcls_model.metrics import kernels
from vcls_model.metrics.kernels import BestRows


class NotANumberError(ValueError):
    """A logit is NaN; `row` and `column` say which is the first."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__(f"row {row}, class {column}: the logit is NaN")
        self.row = row
        self.column = column


def select_best(logits: np.ndarray, sizes: np.ndarray) -> BestRows:
    """The best classes of each row in descending order; of equal logits the lower class index comes first.

    Args:
        logits: (B, C) float32, contiguous.
        sizes: (B,) integers from 1 to C, how many classes of each row.

    Raises:
        NotANumberError: a logit is NaN.
    """
    starts = starts_of(sizes)
    best = BestRows(np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32), starts)
    row, column = kernels.select_top(logits, starts, best.classes, best.logits)
    if row >= 0:
        raise NotANumberError(row, column)
    return best


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(B + 1,) where each of B parts of these lengths begins and the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def shortened(best: BestRows, sizes: np.ndarray) -> BestRows:
    """The first `sizes` (B,) classes of each row, which must have as many."""
    held = np.diff(best.starts)
    if (held < sizes).any():
        raise ValueError(f"{held.min()} best classes of a row, but {sizes.max()} are needed")
    if (held == sizes).all():
        return best
    places = np.arange(best.starts[-1]) - np.repeat(best.starts[:-1], held)
    keep = places < np.repeat(sizes, held)
    return BestRows(best.classes[keep], best.logits[keep], starts_of(sizes))


def first_k(best: BestRows, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `k` classes of each row, which must have as many: indices (B, k) int32 and logits (B, k) float32."""
    places = best.starts[:-1, np.newaxis] + np.arange(k)
    return best.classes[places], best.logits[places]


def chosen_rows(best: BestRows, rows: np.ndarray) -> BestRows:
    """The rows at which `rows` (B,) bool is true."""
    held = np.diff(best.starts)
    keep = np.repeat(rows, held)
    return BestRows(best.classes[keep], best.logits[keep], starts_of(held[rows]))


def joined(parts: Sequence[BestRows]) -> BestRows:
    """The rows of all parts, one part after another."""
    if len(parts) == 1:
        return parts[0]
    return BestRows(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.logits for part in parts]),
        starts_of(np.concatenate([np.diff(part.starts) for part in parts])),
    )
