"""95 % intervals over videos: of fractions, of average precision, of differences."""

from typing import Any

import numpy as np

from pipelines.reporting.inputs.scores import Scores

# Normal quantile of a 95 % interval.
Z95 = 1.959964
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

    Treats the two as independent. Runs over the same videos are not: their difference is known better than this says.
    """
    delta = np.subtract(after, before)
    low = delta - np.sqrt(np.subtract(after, after_low) ** 2 + np.subtract(before_high, before) ** 2)
    high = delta + np.sqrt(np.subtract(after_high, after) ** 2 + np.subtract(before, before_low) ** 2)
    return low, high
