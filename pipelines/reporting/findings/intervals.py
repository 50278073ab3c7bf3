"""95 % intervals over videos: of fractions, of average precision, of differences."""

from typing import Any

import numpy as np
from scipy import special

from pipelines.reporting.inputs.scores import Scores

# Normal quantile of a 95 % interval.
Z95 = 1.959964
# How often one comparison finds a change where there is none; of many comparisons, the fraction of findings so made.
SIGNIFICANCE = 0.05
# Below so many positives a class's average precision says little: its 95 % interval is wider than 0.5 for most values.
FEW_POSITIVES = 10


def wilson_interval(successes: np.ndarray | float, trials: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of a fraction (Wilson 1927); NaN without trials."""
    n = np.asarray(trials, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.asarray(successes, np.float64) / n
        centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def average_precision_interval(ap: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Approximate 95 % interval of average precision over videos: logit ± z / sqrt(n·ap·(1 − ap)), n positives.

    Source: Boyd, Eng and Page, "Area under the precision-recall curve: point estimates and confidence intervals"
    (ECML 2013), the logit interval. An `ap` of 0 or 1 is drawn in by half a positive so that its interval has a width.
    """
    n = np.maximum(np.asarray(positives, np.float64), 1)
    inner = np.clip(ap, 1 / (2 * n), 1 - 1 / (2 * n))
    logit = np.log(inner / (1 - inner))
    half = Z95 / np.sqrt(n * inner * (1 - inner))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    empty = np.asarray(positives) < 1
    return (np.where(empty, np.nan, np.minimum(low, ap)), np.where(empty, np.nan, np.maximum(high, ap)))


def class_intervals(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of each class's AP over videos, (C,) each: the score job's bootstrap, else the approximation."""
    low, high = average_precision_interval(scores.columns["ap"], scores.columns["support"])
    measured_low, measured_high = scores.columns["ap_ci_low"], scores.columns["ap_ci_high"]
    known = np.isfinite(measured_low) & np.isfinite(measured_high)
    # A resample of a handful of positives hardly varies at the ends of the scale: take the wider of the two there.
    return (np.where(known, np.minimum(measured_low, low), low), np.where(known, np.maximum(measured_high, high), high))


def difference_interval(
    before: np.ndarray | float,
    before_low: np.ndarray | float,
    before_high: np.ndarray | float,
    after: np.ndarray | float,
    after_low: np.ndarray | float,
    after_high: np.ndarray | float,
) -> tuple[Any, Any]:
    """95 % interval of `after - before` from the two intervals (the square-and-add rule of Newcombe 1998).

    Treats the two as independent. Runs over the same videos are not: see `grouped_interval`.
    """
    delta = np.subtract(after, before)
    low = delta - np.sqrt(np.subtract(after, after_low) ** 2 + np.subtract(before_high, before) ** 2)
    high = delta + np.sqrt(np.subtract(after_high, after) ** 2 + np.subtract(before, before_low) ** 2)
    return low, high


def probability_of_chance(delta: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Two-sided p of no difference that belongs to a 95 % interval of a difference, by the normal distribution."""
    towards_zero = np.where(np.asarray(delta) > 0, np.subtract(delta, low), np.subtract(high, delta))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(np.asarray(delta) == 0, 0.0, Z95 * np.abs(delta) / towards_zero)
    return np.asarray(special.erfc(z / np.sqrt(2)))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of McNemar's test: of the videos that two runs judge differently, as many lost as won."""
    return float(min(1.0, 2 * special.bdtr(min(lost, won), lost + won, 0.5))) if lost + won else 1.0


def paired_fraction_interval(lost: int, won: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two fractions over the same videos, (won - lost) / pairs.

    Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data"
    (2012): one more video on either side.
    """
    up, down = (won + 1) / (pairs + 2), (lost + 1) / (pairs + 2)
    half = Z95 * np.sqrt((up + down - (up - down) ** 2) / (pairs + 2))
    return float(max(up - down - half, -1)), float(min(up - down + half, 1))


def grouped_interval(
    delta: np.ndarray | float, influence: np.ndarray, degrees: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """95 % interval of differences, and two-sided p of none, from the influence of G groups of videos on each.

    Args:
        delta: (...) the differences.
        influence: (G, ...) of each group on each difference, see `vcls_model.metrics.influence`.
        degrees: (...) of freedom of Student's t: at most G - 1, fewer where only few groups can matter.

    Returns:
        low, high, p; NaN, NaN and 1 where no group moves the difference, so that its spread is not known.
    """
    groups = len(influence)
    error = np.sqrt((influence**2).sum(axis=0) * groups / (groups - 1))
    known = error > 0
    half = np.where(known, special.stdtrit(degrees, 0.975) * error, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(known, 2 * special.stdtr(degrees, -np.abs(delta) / error), 1.0)
    return delta - half, delta + half, p


def discoveries(p: np.ndarray, rate: float = SIGNIFICANCE) -> np.ndarray:
    """Which of many findings hold so that at most a fraction `rate` of them is false on average, (n,) bool.

    Benjamini and Hochberg, "Controlling the false discovery rate" (1995). NaN is never a finding.
    """
    order = np.argsort(p, kind="stable")
    count = int(np.isfinite(p).sum())
    below = np.flatnonzero(p[order][:count] <= rate * np.arange(1, count + 1) / max(count, 1))
    chosen = np.zeros(len(p), bool)
    if below.size:
        chosen[order[: below[-1] + 1]] = True
    return chosen
