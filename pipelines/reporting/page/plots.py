"""Figures of a classifier's quality: each `plot_*(data, *, ax=None)` draws the numbers handed in and returns its Axes.

Nothing is computed or read here. Colours are Okabe and Ito's, which the colour-blind can tell apart; every line also
has its own dash pattern, so that a figure reads in grey.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.pages.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, new_axes, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES: tuple[tuple[str, str | tuple[int, tuple[int, ...]]], ...] = (
    (VERMILION, (0, (1, 1))),
    (GREEN, (0, (4, 1, 1, 1))),
    (PURPLE, (0, (6, 2))),
    (ORANGE, (0, (3, 1, 1, 1, 1, 1))),
)


@dataclasses.dataclass(frozen=True)
class CurveBundle:
    """Curves over one grid: precision over recall, or true over false positive rate; all in [0, 1].

    Attributes:
        grid: (G,) the horizontal axis.
        micro: (G,) all pairs of video and class pooled.
        macro: (G,) mean over classes.
        band_low, band_high: (G,) 25th and 75th percentile over classes.
        classes: chosen classes as (label, (G,) curve).
    """

    grid: np.ndarray
    micro: np.ndarray
    macro: np.ndarray
    band_low: np.ndarray
    band_high: np.ndarray
    classes: Sequence[tuple[str, np.ndarray]] = ()


@dataclasses.dataclass(frozen=True)
class ThresholdCurves:
    """Precision, recall and F1 in [0, 1] at each threshold (T,), a probability; `operating` is the one in use."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1_micro: np.ndarray
    f1_macro: np.ndarray
    operating: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predictions binned by probability: mean probability, fraction correct (both in [0, 1]), count; each (bins,)."""

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A square of shares in [0, 1]: row = truth, column = prediction; rows add to 1, or are NaN without data."""

    row_labels: Sequence[str]
    column_labels: Sequence[str]
    shares: np.ndarray


@dataclasses.dataclass(frozen=True)
class GroupIntervals:
    """A score in [0, 1] per group of classes with an interval, and the text that says how large the group is."""

    names: Sequence[str]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sizes: Sequence[str]
    value_label: str
    overall: float


@dataclasses.dataclass(frozen=True)
class ScoreBySize:
    """Average precision of classes (K,) against their number of examples, and its mean in groups of similar size."""

    count: np.ndarray
    ap: np.ndarray
    group_low: np.ndarray
    group_high: np.ndarray
    group_mean: np.ndarray
    count_label: str


@dataclasses.dataclass(frozen=True)
class Series:
    """Lines over one horizontal axis: (label, (N,) values) each; `marked` is an x to mark, with its text."""

    x: np.ndarray
    lines: Sequence[tuple[str, np.ndarray]]
    x_label: str
    y_label: str
    marked: tuple[float, str] | None = None
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Changes:
    """Average precision of classes (K,) before and after, and whether the change exceeds chance (K,) bool."""

    before: np.ndarray
    after: np.ndarray
    exceeds: np.ndarray


def _unit_square(ax: "Axes", x_label: str, y_label: str) -> None:
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x_label, ylabel=y_label)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_yticks(np.linspace(0, 1, 6))


def _curves(data: CurveBundle, ax: "Axes") -> None:
    ax.fill_between(
        data.grid,
        data.band_low,
        data.band_high,
        color=BLUE,
        alpha=0.13,
        linewidth=0,
        label="interquartile range over classes",
    )
    for (label, curve), (color, dashes) in zip(data.classes, _LINES, strict=False):
        ax.plot(data.grid, curve, color=color, linestyle=dashes, linewidth=1.3, label=label)
    ax.plot(data.grid, data.macro, color=BLUE, linestyle=(0, (5, 2)), label="macro (mean of classes)")
    ax.plot(data.grid, data.micro, color=BLACK, label="micro (all pairs pooled)")


def _legend(ax: "Axes") -> None:
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles=handles[::-1],
        labels=labels[::-1],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
        handlelength=2.6,
        labelspacing=0.3,
    )


def plot_precision_recall(data: CurveBundle, *, ax: "Axes | None" = None) -> "Axes":
    """Precision over recall, with lines of equal F1 in the background."""
    ax = new_axes(ax)
    recall = np.linspace(0.001, 1, 400)
    for f1 in (0.2, 0.4, 0.6, 0.8):
        precision = f1 * recall / np.where(2 * recall > f1, 2 * recall - f1, np.nan)
        ax.plot(recall, np.where(precision <= 1, precision, np.nan), color="#B9C0C8", linewidth=0.8, zorder=0.5)
        ax.annotate(f"F1 {f1:.1f}", (0.995, f1 / (2 - f1)), ha="right", va="bottom", fontsize=7.5, color="#6B737C")
    _curves(data, ax)
    _unit_square(ax, "Recall", "Precision")
    _legend(ax)
    return ax


def plot_roc(data: CurveBundle, *, ax: "Axes | None" = None) -> "Axes":
    """True over false positive rate; the diagonal is chance."""
    ax = new_axes(ax)
    ax.plot([0, 1], [0, 1], color="#B9C0C8", linewidth=0.8, zorder=0.5)
    _curves(data, ax)
    _unit_square(ax, "False positive rate", "True positive rate")
    _legend(ax)
    return ax


def plot_threshold_curves(data: ThresholdCurves, *, ax: "Axes | None" = None) -> "Axes":
    """Precision, recall and F1 against the one threshold used for all classes."""
    ax = new_axes(ax)
    ax.axvline(data.operating, color=GREY, linewidth=0.9)
    ax.annotate(
        f"in use: {data.operating:g}",
        (data.operating, 0.995),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
        color="#3D444D",
        va="top",
    )
    for label, curve, color, dashes in (
        ("precision (micro)", data.precision, BLUE, (0, (5, 2))),
        ("recall (micro)", data.recall, VERMILION, (0, (1, 1))),
        ("F1 (micro)", data.f1_micro, BLACK, "-"),
        ("F1 (macro)", data.f1_macro, GREEN, (0, (4, 1, 1, 1))),
    ):
        ax.plot(data.threshold, curve, color=color, linestyle=dashes, label=label)
    _unit_square(ax, "Threshold (probability)", "Score")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handlelength=2.6)
    return ax


def plot_calibration(data: Calibration, *, ax: "Axes | None" = None) -> "Axes":
    """Fraction of correct predictions against predicted probability; the diagonal is perfect calibration."""
    ax = new_axes(ax)
    ax.plot([0, 1], [0, 1], color="#B9C0C8", linewidth=0.9, zorder=0.5)
    ax.annotate("honest", (0.9, 0.84), rotation=37, fontsize=8, color="#6B737C", ha="center")
    ax.plot(data.confidence, data.accuracy, color=BLUE, marker="o", markersize=4)
    _unit_square(ax, "Predicted probability (mean of bin)", "Fraction correct")
    return ax


def plot_heat_map(data: HeatMap, *, ax: "Axes | None" = None) -> "Axes":
    """Shares of each row as shades (dark = much, also in grey); those of 1 % and more are written in their cell."""
    ax = new_axes(ax)
    size = len(data.row_labels)
    # The square root spreads the small shares, which are the confusions; the numbers carry the values.
    ax.pcolormesh(
        np.arange(size + 1),
        np.arange(size + 1),
        np.sqrt(np.nan_to_num(data.shares)),
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.5,
    )
    for row in range(size):
        for column in range(size):
            share = data.shares[row, column]
            if np.isfinite(share) and share >= 0.01:
                ax.text(
                    column + 0.5,
                    row + 0.52,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if np.sqrt(share) > 0.6 else BLACK,
                )
    ax.set_xticks(np.arange(size) + 0.5, data.column_labels, rotation=90, fontsize=7.5)
    ax.set_yticks(np.arange(size) + 0.5, data.row_labels, fontsize=7.5)
    ax.set(xlabel="Predicted", ylabel="True (each row adds to 100 %)", ylim=(size, 0), xlim=(0, size), aspect="equal")
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def plot_groups(data: GroupIntervals, *, ax: "Axes | None" = None) -> "Axes":
    """One dot with its interval per group of classes, the first group on top; the line is the mean of all classes."""
    ax = new_axes(ax)
    places = np.arange(len(data.names))
    ax.axvline(data.overall, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
    ax.annotate(
        f"all classes {data.overall:.2f}",
        (data.overall, 1.005),
        xycoords=("data", "axes fraction"),
        fontsize=7.5,
        color="#3D444D",
        ha="center",
    )
    ax.hlines(places, data.low, data.high, color=BLUE, linewidth=1.6)
    ax.plot(data.value, places, "o", color=BLUE, markersize=5)
    ax.set_yticks(places, [f"{name} ({size})" for name, size in zip(data.names, data.sizes, strict=True)], fontsize=8)
    ax.set(xlim=(0, 1), ylim=(len(data.names) - 0.4, -0.6), xlabel=data.value_label)
    if data.high.max() < 0.5:
        ax.set_xlim(0, 1.1 * max(data.high.max(), data.overall, 0.01))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    return ax


def plot_score_by_size(data: ScoreBySize, *, ax: "Axes | None" = None) -> "Axes":
    """Average precision of each class against its number of examples, and the mean of classes of like size."""
    ax = new_axes(ax)
    ax.plot(
        data.count,
        data.ap,
        "o",
        color=BLUE,
        markersize=2.6,
        alpha=0.35,
        markeredgewidth=0,
        label="one class",
        rasterized=len(data.count) > 500,
    )
    ax.hlines(
        data.group_mean, data.group_low, data.group_high, color=BLACK, linewidth=2.2, label="mean of similar classes"
    )
    ax.set_xscale("log")
    plain_numbers(ax.xaxis)
    ax.set(xlabel=data.count_label, ylabel="Average precision", ylim=(-0.02, 1.02))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return ax


def plot_series(data: Series, *, ax: "Axes | None" = None) -> "Axes":
    """Lines over epochs or another sequence."""
    from matplotlib.ticker import MaxNLocator

    ax = new_axes(ax)
    styles = ((BLACK, "-", "o"), (BLUE, (0, (5, 2)), "s"), *((color, dashes, "^") for color, dashes in _LINES))
    for (label, values), (color, dashes, marker) in zip(data.lines, styles, strict=False):
        ax.plot(data.x, values, color=color, linestyle=dashes, marker=marker, markersize=3.5, label=label)
    if data.marked:
        ax.axvline(data.marked[0], color=GREY, linewidth=0.9)
        right = data.marked[0] > (data.x[0] + data.x[-1]) / 2
        ax.annotate(
            data.marked[1],
            (data.marked[0], 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color="#3D444D",
            xytext=(-4 if right else 4, 0),
            textcoords="offset points",
            ha="right" if right else "left",
        )
    ax.set(xlabel=data.x_label, ylabel=data.y_label)
    if data.log:
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handlelength=2.6)
    return ax


def plot_changes(data: Changes, *, ax: "Axes | None" = None) -> "Axes":
    """Average precision after against before: above the diagonal is better; filled = beyond chance."""
    ax = new_axes(ax)
    ax.plot([0, 1], [0, 1], color="#B9C0C8", linewidth=0.9, zorder=0.5)
    within = ~data.exceeds
    better, worse = data.exceeds & (data.after > data.before), data.exceeds & (data.after < data.before)
    ax.plot(
        data.before[within],
        data.after[within],
        "o",
        color=GREY,
        markersize=2.6,
        alpha=0.5,
        markeredgewidth=0,
        label="within chance",
        rasterized=within.sum() > 500,
    )
    ax.plot(data.before[better], data.after[better], "^", color=BLUE, markersize=5, label="better, beyond chance")
    ax.plot(data.before[worse], data.after[worse], "v", color=VERMILION, markersize=5, label="worse, beyond chance")
    _unit_square(ax, "Average precision of the baseline", "Average precision of this run")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, handletextpad=0.2, columnspacing=0.8)
    return ax


PICTURE_ROWS = 3.2  # height of the pictures of a timeline, in rows of classes


@dataclasses.dataclass(frozen=True)
class TimelineMap:
    """Probabilities (T, K) of K named classes over T moments `step` seconds apart, under a strip of pictures."""

    step: float
    names: Sequence[str]
    probabilities: np.ndarray
    pictures: Sequence[np.ndarray]


def plot_timeline(data: TimelineMap, *, ax: "Axes | None" = None) -> "Axes":
    """A row per class, darker where it is more probable; above them what was seen at the time."""
    ax = new_axes(ax)
    count, classes = data.probabilities.shape
    end = count * data.step
    ax.imshow(
        data.probabilities.T,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="none",
        extent=(0, end, classes - 0.5, -0.5),
    )
    means = data.probabilities.mean(axis=0)
    ax.set_yticks(range(classes), [f"{name}  {mean:.2f}" for name, mean in zip(data.names, means, strict=True)])
    ax.grid(False)
    ax.hlines(np.arange(classes) - 0.5, 0, end, color="white", linewidth=2)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Seconds")
    top = -0.5
    if data.pictures:
        top = -0.6 - PICTURE_ROWS
        strip = np.concatenate(list(data.pictures), axis=1)
        ax.imshow(strip, aspect="auto", interpolation="none", extent=(0, end, -0.6, top))
    ax.set_ylim(classes - 0.5, top)
    return ax
