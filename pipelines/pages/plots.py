"""Plots that several pages show: each `plot_*(data, *, ax=None)` draws the numbers handed in and returns its Axes."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from pipelines.pages.drawing import BLACK, BLUE, new_axes, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts (N,) between edges (N + 1,); `marked` is a place on the axis to mark, with its text."""

    edges: np.ndarray
    count: np.ndarray
    x_label: str
    y_label: str
    log: bool = False
    marked: tuple[float, str] | None = None


def plot_histogram(data: Histogram, *, ax: "Axes | None" = None) -> "Axes":
    """Counts in bins."""
    ax = new_axes(ax)
    ax.bar(
        data.edges[:-1],
        data.count,
        width=np.diff(data.edges),
        align="edge",
        color=BLUE,
        edgecolor="white",
        linewidth=0.6,
    )
    ax.set(xlabel=data.x_label, ylabel=data.y_label, xlim=(data.edges[0], data.edges[-1]))
    if data.log:
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)
    if data.marked:
        ax.axvline(data.marked[0], color=BLACK, linewidth=1, linestyle=(0, (4, 2)))
        ax.annotate(
            data.marked[1],
            (data.marked[0], 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            va="top",
        )
    return ax
