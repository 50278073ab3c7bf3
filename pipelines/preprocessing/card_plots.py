"""Plots of the data card: each `plot_*(data, *, ax=None)` draws the numbers handed in and returns its Axes."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from pipelines.pages.drawing import BLUE, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class ClassRanks:
    """Videos (C,) of each class that occurs, in falling order."""

    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (D,) of the values of each dimension."""

    mean: np.ndarray
    std: np.ndarray


def plot_ranking(data: ClassRanks, *, ax: "Axes | None" = None) -> "Axes":
    """Videos per class over the rank of the class, both logarithmic."""
    ax = new_axes(ax)
    ranks = np.arange(1, len(data.counts) + 1)
    # A long tail has thousands of equal neighbours: a few hundred points draw the same line.
    shown = np.unique(np.geomspace(1, len(ranks), 400).astype(int)) - 1
    ax.loglog(ranks[shown], data.counts[shown], color=BLUE)
    ax.set(xlabel="Rank of the class, most frequent first", ylabel="Videos")
    return ax


def plot_spread(data: Spread, *, ax: "Axes | None" = None) -> "Axes":
    """The mean of each dimension as a line in a band of one standard deviation either way."""
    ax = new_axes(ax)
    dimensions = np.arange(len(data.mean))
    ax.fill_between(dimensions, data.mean - data.std, data.mean + data.std, color=BLUE, alpha=0.25, linewidth=0)
    ax.plot(dimensions, data.mean, color=BLUE, linewidth=1)
    ax.set(xlabel="Dimension", ylabel="Value")
    return ax
