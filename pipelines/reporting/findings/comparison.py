"""The metrics of a run with their intervals, and how they differ from the baseline's."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.reporting.findings.intervals import class_intervals, difference_interval, wilson_interval
from pipelines.reporting.inputs.scores import Scores
from vcls_model.metrics.catalogue import METRICS, Metric


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over videos (NaN where none is known) and its certified binning interval."""

    metric: Metric
    value: float
    low: float = math.nan
    high: float = math.nan
    binning_low: float = math.nan
    binning_high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether the spread over videos is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def _summary_number(summary: dict[str, Any], key: str) -> float:
    value = summary.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def estimates(scores: Scores) -> list[Estimate]:
    """The headline metrics that the run has, in the order of `METRICS`."""
    assert scores.summary is not None
    summary = scores.summary
    found = []
    for metric in METRICS:
        value = _summary_number(summary, metric.key)
        if not math.isfinite(value):
            continue
        low, high = _summary_number(summary, f"{metric.key}_ci_low"), _summary_number(summary, f"{metric.key}_ci_high")
        if metric.key == "hit_at_1" and not math.isfinite(low):
            videos = _summary_number(summary, "videos")
            low, high = (float(bound) for bound in wilson_interval(value * videos, videos))
        found.append(
            Estimate(
                metric,
                value,
                low,
                high,
                _summary_number(summary, f"{metric.key}_lower"),
                _summary_number(summary, f"{metric.key}_upper"),
            )
        )
    return found


def estimate_of(found: Sequence[Estimate], key: str) -> Estimate | None:
    """The estimate of one metric, or None."""
    return next((estimate for estimate in found if estimate.metric.key == key), None)


@dataclasses.dataclass(frozen=True)
class Change:
    """How a metric differs from the baseline's, `delta` = this run − baseline, with 95 % interval (NaN if unknown)."""

    now: Estimate
    before: Estimate
    delta: float
    low: float
    high: float

    @property
    def exceeds(self) -> bool:
        """Whether the change is larger than chance explains."""
        return self.low > 0 or self.high < 0

    @property
    def improves(self) -> bool:
        """Whether the sign of the change is the good one."""
        return (self.delta > 0) == self.now.metric.higher_is_better and self.delta != 0


def changes(now: Sequence[Estimate], before: Sequence[Estimate]) -> list[Change]:
    """Differences of the metrics that both runs have."""
    found = []
    for estimate in now:
        other = estimate_of(before, estimate.metric.key)
        if other is None:
            continue
        low, high = difference_interval(other.value, other.low, other.high, estimate.value, estimate.low, estimate.high)
        found.append(Change(estimate, other, estimate.value - other.value, float(low), float(high)))
    return found


@dataclasses.dataclass(frozen=True)
class ClassChanges:
    """Average precision by class, this run against the baseline.

    Attributes:
        compared: (C,) bool, the classes with a positive in both runs.
        delta, low, high: (C,) difference of AP and its 95 % interval, NaN where not compared.
        exceeds: (C,) bool, the interval leaves out 0.
    """

    compared: np.ndarray
    delta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    exceeds: np.ndarray


def class_changes(scores: Scores, baseline: Scores) -> ClassChanges:
    """Compares two runs class by class."""
    bounds = []
    for run in (baseline, scores):
        bounds.append((run.columns["ap"], *class_intervals(run)))
    (before, before_low, before_high), (after, after_low, after_high) = bounds
    compared = np.isfinite(before) & np.isfinite(after)
    low, high = difference_interval(before, before_low, before_high, after, after_low, after_high)
    delta = after - before
    return ClassChanges(
        compared,
        np.where(compared, delta, np.nan),
        np.where(compared, low, np.nan),
        np.where(compared, high, np.nan),
        compared & ((low > 0) | (high < 0)),
    )
