"""The metrics of a run with their intervals, and how they differ from the baseline's."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.reporting.findings.intervals import (
    FEW_POSITIVES,
    SIGNIFICANCE,
    class_intervals,
    difference_interval,
    discoveries,
    grouped_interval,
    mcnemar,
    paired_fraction_interval,
    probability_of_chance,
    wilson_interval,
)
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import Scores
from vcls_model.metrics.catalogue import METRICS, Metric
from vcls_model.metrics.layout import GROUPS


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
    """How a metric differs from the baseline's, `delta` = this run − baseline, with 95 % interval (NaN if unknown).

    `p` is the probability of such a difference or a larger one by chance alone, NaN where it is not known.
    """

    now: Estimate
    before: Estimate
    delta: float
    low: float
    high: float
    p: float = math.nan

    @property
    def known(self) -> bool:
        """Whether it can be said if chance explains the change."""
        return math.isfinite(self.p)

    @property
    def exceeds(self) -> bool:
        """Whether the change is larger than chance explains."""
        return self.p < SIGNIFICANCE

    @property
    def improves(self) -> bool:
        """Whether the sign of the change is the good one."""
        return (self.delta > 0) == self.now.metric.higher_is_better and self.delta != 0


def changes(now: Sequence[Estimate], before: Sequence[Estimate], pairing: Pairing | None = None) -> list[Change]:
    """Differences of the metrics that both runs have; over the same videos with what the pairs say of their spread."""
    found = []
    for estimate in now:
        other = estimate_of(before, estimate.metric.key)
        if other is None:
            continue
        delta = estimate.value - other.value
        bounds = _paired(estimate.metric.key, delta, pairing) if pairing is not None and pairing.same_videos else None
        if bounds is None:
            low, high = difference_interval(
                other.value, other.low, other.high, estimate.value, estimate.low, estimate.high
            )
            p = probability_of_chance(delta, low, high) if math.isfinite(low) and math.isfinite(high) else math.nan
            bounds = float(low), float(high), float(p)
        found.append(Change(estimate, other, delta, *bounds))
    return found


def _paired(key: str, delta: float, pairing: Pairing) -> tuple[float, float, float] | None:
    """Interval and p of a difference over the same videos; None where the pairs say nothing of this metric."""
    if key == "hit_at_1":
        interval = paired_fraction_interval(pairing.lost, pairing.won, pairing.shared)
        return *interval, mcnemar(pairing.lost, pairing.won)
    if pairing.shift is None:
        return None
    if key == "gap_at_20":
        influence = pairing.shift.gap
    elif key == "map":
        influence = pairing.shift.map
    else:
        return None
    low, high, p = grouped_interval(delta, influence, len(influence) - 1)
    return float(low), float(high), float(p)


@dataclasses.dataclass(frozen=True)
class ClassChanges:
    """Average precision by class, this run against the baseline.

    Attributes:
        compared: (C,) bool, the classes with a positive in both runs.
        tested: (C,) bool, those of them with enough positives to say whether chance explains the change.
        delta, low, high: (C,) difference of AP and its 95 % interval, NaN where not compared or not tested.
        p: (C,) probability of such a difference by chance alone, NaN where not tested.
        exceeds: (C,) bool, the changes that chance does not explain: at most 5 % of them are false on average.
    """

    compared: np.ndarray
    tested: np.ndarray
    delta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    exceeds: np.ndarray


def class_changes(scores: Scores, baseline: Scores, pairing: Pairing | None = None) -> ClassChanges:
    """Compares two runs class by class; over the same videos by how each group of them moves the difference."""
    before, after = baseline.columns["ap"], scores.columns["ap"]
    compared = np.isfinite(before) & np.isfinite(after)
    delta = after - before
    if pairing is not None and pairing.shift is not None:
        support = scores.columns["support"]
        tested = compared & (support >= FEW_POSITIVES)
        # Of the groups, only those with a positive say much about a class.
        degrees = np.clip(support, FEW_POSITIVES, GROUPS) - 1
        low, high, p = grouped_interval(delta, pairing.shift.ap, degrees)
    else:
        tested = compared
        (before_low, before_high), (after_low, after_high) = class_intervals(baseline), class_intervals(scores)
        low, high = difference_interval(before, before_low, before_high, after, after_low, after_high)
        p = probability_of_chance(delta, low, high)
    p = np.where(tested, p, np.nan)
    return ClassChanges(
        compared,
        tested,
        np.where(compared, delta, np.nan),
        np.where(tested, low, np.nan),
        np.where(tested, high, np.nan),
        p,
        discoveries(p),
    )
