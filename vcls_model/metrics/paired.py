"""Two rankings of the same videos compared, with intervals of the differences over videos.

For rankings whose counts are both at hand, as in one job. `influence.py` serves runs that are over, of which only the
predictions are left.
"""

import dataclasses

import numpy as np

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import FEWEST_FOR_CLASS_INTERVAL, MetricResult, compute_resampled


@dataclasses.dataclass(frozen=True)
class ResampledResult:
    """The figures of a ranking, and those of resamples of its videos.

    Attributes:
        result: the figures.
        drawn: see `compute_resampled`.
        support: float64 (C,), positives by class.
    """

    result: MetricResult
    drawn: dict[str, np.ndarray]
    support: np.ndarray

    @classmethod
    def of(cls, accumulator: MetricAccumulator) -> "ResampledResult":
        """Of all videos counted so far."""
        result, drawn = compute_resampled(accumulator)
        return cls(result, drawn, result.per_class["support"].astype(np.float64))


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """How a ranking differs from another of the same videos.

    Attributes:
        figures: of `gap_at_20` and `map`: the difference, and ends of its 95 % interval.
        ap: float64 (3, C): difference of AP by class, and ends of its 95 % interval; NaN where it has none.
    """

    figures: dict[str, tuple[float, float, float]]
    ap: np.ndarray


def paired_change(one: ResampledResult, other: ResampledResult) -> PairedChange:
    """The difference `one` - `other`.

    Both are resampled with the same videos, so that what two rankings have in common does not widen the intervals.

    Raises:
        ValueError: they counted other videos, as far as the positives of the classes tell.
    """
    if not np.array_equal(one.support, other.support):
        raise ValueError("two rankings of different videos cannot be compared pair by pair")
    figures = {}
    for name, key in (("gap_at_20", "gap"), ("map", "map")):
        delta = one.result.summary[name] - other.result.summary[name]
        low, high = _spread(one.drawn[key] - other.drawn[key])
        figures[name] = (delta, delta + low, delta + high)
    ap = np.full((3, len(one.support)), np.nan)
    ap[0] = one.result.per_class["ap"] - other.result.per_class["ap"]
    enough = one.support >= FEWEST_FOR_CLASS_INTERVAL
    if enough.any():
        ap[1:, enough] = ap[0, enough] + _spread(one.drawn["ap"][:, enough] - other.drawn["ap"][:, enough])
    return PairedChange(figures, ap)


def _spread(differences: np.ndarray) -> np.ndarray:
    """Ends of the middle 95 % of resampled differences (R, …), about their mean; NaN without any."""
    if not np.isfinite(differences).any():
        return np.full((2, *differences.shape[1:]), np.nan)
    return np.asarray(np.nanquantile(differences, [0.025, 0.975], axis=0) - np.nanmean(differences, axis=0))
