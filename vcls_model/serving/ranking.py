"""From logits to predictions: the k best classes of each row."""

import numpy as np

from vcls_model.metrics.kernels import BestRows
from vcls_model.metrics.ranking import select_best


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
    k = min(k, logits.shape[1])
    return first_k(select_best(np.ascontiguousarray(logits), np.full(len(logits), k)), k)


def first_k(best: BestRows, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`top_k` of what has been selected already: of each row at least `k` classes."""
    places = best.starts[:-1, np.newaxis] + np.arange(k)
    return best.classes[places], best.logits[places]
