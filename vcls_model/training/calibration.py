"""Makes the probabilities of a trained model honest, without changing any ranking.

Platt, Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods (1999), with
one increasing line for all classes: the order of the classes of a video, of the videos of a class and of all pairs
stays what it is.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import bin_edges

# Fewer pairs of either kind than this say little about two numbers.
_FEWEST_PAIRS = 100
_SMALLEST_SCALE, _LARGEST_SCALE = 0.05, 20.0
# None but for rounding: the likelihood of thousands of pairs.
_WEAKEST_PENALTY = 1e6


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A line that logits are put through: `scale` (above 0) times the logit, plus `shift`."""

    scale: float = 1.0
    shift: float = 0.0

    def applied_to(self, logits: Any) -> Any:
        """Logits on the line; without a calibration the very same."""
        return logits if self == UNCALIBRATED else logits * self.scale + self.shift


UNCALIBRATED = Calibration()


def fit_platt(accumulator: MetricAccumulator) -> Calibration:
    """The line with the greatest likelihood over the 20 best classes of every video counted.

    They are what people see, and what the calibration error over the top 20 is measured on. Returns `UNCALIBRATED`
    where there are fewer than 100 right or 100 wrong ones, or where the best line does not rise, or is all but upright.
    """
    hits = accumulator.pooled_hits.sum(axis=1, dtype=np.float64)
    totals = accumulator.pooled_totals.sum(axis=1, dtype=np.float64)
    if min(hits.sum(), totals.sum() - hits.sum()) < _FEWEST_PAIRS:
        return UNCALIBRATED
    edges = bin_edges()
    logits = (edges[1:] + edges[:-1]) / 2
    # Each bin stands for its hits and its misses.
    fitted = LogisticRegression(C=_WEAKEST_PENALTY, solver="newton-cholesky", tol=1e-8).fit(
        np.concatenate([logits, logits])[:, np.newaxis],
        np.repeat([1, 0], len(logits)),
        np.concatenate([hits, totals - hits]),
    )
    scale, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if not math.isfinite(shift) or not _SMALLEST_SCALE < scale < _LARGEST_SCALE:
        return UNCALIBRATED
    return Calibration(scale, shift)
