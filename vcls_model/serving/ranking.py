"""From logits to predictions: the k best classes of each row, and the mean of several models."""

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
