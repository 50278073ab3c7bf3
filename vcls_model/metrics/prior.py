"""What a model reaches that knows the frequency of the classes and nothing of the videos: a floor for any other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vcls_model.metrics.layout import TOP


def prior_gap(support: ArrayLike, videos: int, frequency: ArrayLike | None = None) -> float:
    """GAP@20 of predicting for every video the same 20 most frequent classes, each with its frequency.

    The videos of a class all tie, so that its positives have the precision at the end of the tie.

    Args:
        support: (C,) positives of each class among the videos.
        videos: how many there are.
        frequency: (C,) how often each class occurs where the prior is known from, in any unit; by default `support`.

    Returns:
        In [0, 1]; NaN without a positive.
    """
    counts = np.asarray(support, np.float64)
    if not counts.sum() or not videos:
        return float("nan")
    known = counts if frequency is None else np.asarray(frequency, np.float64)
    best = counts[np.argsort(-known, kind="stable")[:TOP]]
    precision = np.cumsum(best) / (videos * np.arange(1, len(best) + 1))
    return float((best * precision).sum() / counts.sum())


def learned_nothing(summary: Mapping[str, Any], support: ArrayLike, frequency: ArrayLike | None = None) -> str:
    """A hint where a model is worse than the frequency of the classes alone; "" where it is not.

    Args:
        summary: its metrics.
        support, frequency: as for `prior_gap`.
    """
    gap, floor = summary.get("gap_at_20"), prior_gap(support, int(summary["videos"]), frequency)
    if gap is None or not gap < floor:
        return ""
    return (
        f"GAP@20 is {gap:.4f}, but {floor:.4f} for predicting every video the same 20 most frequent classes: the model "
        "has learned nothing that helps. Look at the learning rate, at the labels, and whether the features are those "
        "that it was trained on"
    )
