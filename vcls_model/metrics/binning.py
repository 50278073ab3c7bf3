"""The bins in which scores are counted: fixed before any score is seen, narrow where rankings are decided.

Most of the scores of a multi-label classifier are confident negatives. Deep in a ranking, whether a negative precedes a
positive hardly moves the precision, so 16 bins per logit are enough below -7 (probability 0.001); from there to +4
there are 128, above 32. Measured on real YouTube-8M scores, the certified interval of mAP is nearly as narrow as with
128 everywhere, and the packed table less than half as large.

Bin b holds the logits in [edge(b), edge(b + 1)); the first and the last bin are open towards infinity. Zero is an edge,
so that counts at probability 0.5 are exact. All edges are multiples of 1/128, exact in float32.
"""

import numpy as np

from vcls_model.metrics.kernels.grid import BIN_COUNT, BINS_PER_LOGIT, BOUNDS


def bin_edges() -> np.ndarray:
    """Edges of the bins, logits, (BIN_COUNT + 1,) float64; the outermost bins reach beyond them to infinity."""
    ranges = [
        np.arange(low * bins, high * bins) / bins
        for low, high, bins in zip(BOUNDS[:-1], BOUNDS[1:], BINS_PER_LOGIT, strict=True)
    ]
    return np.concatenate([*ranges, [float(BOUNDS[-1])]])


def bins_of(logits: np.ndarray) -> np.ndarray:
    """The bin of each logit, int64, same shape; as the compiled kernels compute it."""
    places = np.searchsorted(bin_edges(), np.asarray(logits, np.float64), side="right") - 1
    return np.clip(places, 0, BIN_COUNT - 1)


def nearest_edges(logits: np.ndarray) -> np.ndarray:
    """Index of the bin whose lower edge is nearest to each logit, int64, same shape."""
    edges = bin_edges()[:-1]
    return np.clip(np.searchsorted((edges[1:] + edges[:-1]) / 2, logits, side="right"), 0, BIN_COUNT - 1)


def probability_of(logits: np.ndarray | float) -> np.ndarray:
    """Logistic sigmoid in float64, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic sigmoid in the precision of `logits`, without overflow: for the many logits of predictions."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, np.float32(1), small) / (1 + small)


def logit_of(probability: np.ndarray | float) -> np.ndarray:
    """Inverse of `probability_of`: 0 and 1 give the infinities.

    Raises:
        ValueError: a value lies outside [0, 1].
    """
    values = np.asarray(probability, np.float64)
    inside = (values >= 0) & (values <= 1)
    if not inside.all():
        raise ValueError(f"probabilities must lie in [0, 1], got {values[~inside].flat[0]}")
    with np.errstate(divide="ignore"):
        return np.log(values) - np.log1p(-values)
