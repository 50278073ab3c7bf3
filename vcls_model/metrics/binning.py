"""The bins in which scores are counted: uniform in the logit, with open ends, fixed before any score is seen.

Bin b holds the logits in [edge(b), edge(b + 1)); the first and the last bin are open towards infinity. Zero is an edge,
so that counts at probability 0.5 are exact. All edges are multiples of 1/128, exact in float32.
"""

import numpy as np

BINS_PER_LOGIT = 128
LOGIT_RANGE = 16
BIN_COUNT = 2 * LOGIT_RANGE * BINS_PER_LOGIT


def bin_edges() -> np.ndarray:
    """Lower edges of the bins, logits, (BIN_COUNT,) float64; the first bin's reaches down to -infinity."""
    return (np.arange(BIN_COUNT) - BIN_COUNT // 2) / BINS_PER_LOGIT


def bins_of(logits: np.ndarray) -> np.ndarray:
    """The bin of each logit, int64, same shape; as the compiled kernels compute it."""
    position = np.floor(np.asarray(logits, np.float32) * np.float32(BINS_PER_LOGIT)) + np.float32(BIN_COUNT // 2)
    return np.clip(position, 0, BIN_COUNT - 1).astype(np.int64)


def probability_of(logits: np.ndarray | float) -> np.ndarray:
    """Logistic sigmoid in float64, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def logit_of(probability: np.ndarray | float) -> np.ndarray:
    """Inverse of `probability_of`: 0 and 1 give the infinities.

    Raises:
        ValueError: a value lies outside [0, 1].
    """
    values = np.asarray(probability, np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"probabilities must lie in [0, 1], got {values[~((values >= 0) & (values <= 1))].flat[0]}")
    with np.errstate(divide="ignore"):
        return np.log(values) - np.log1p(-values)
