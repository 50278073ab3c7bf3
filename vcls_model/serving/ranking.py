"""From logits to predictions: the k best classes of each row."""

import numpy as np

from vcls_model.metrics.kernels import select_top


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
    no_thresholds = np.empty((0, classes), np.float32)
    row, _ = select_top(
        np.ascontiguousarray(logits),
        np.arange(rows + 1, dtype=np.int64) * k,
        indices.reshape(-1),
        values.reshape(-1),
        no_thresholds,
        no_thresholds.astype(np.int32),
    )
    if row >= 0:
        raise ValueError("a logit is NaN")
    return indices, values
