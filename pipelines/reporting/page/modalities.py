"""The section "Modalities": what each of them is worth, in all, by vertical, and for the classes that need it most."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.pages.drawing import BLACK, BLUE, VERMILION, new_axes
from pipelines.reporting.inputs.modalities import ModalityWorth
from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.page.figures import Figure, make_figure, short
from pipelines.reporting.tables import Table, pluralise, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLASSES_SHOWN = 10
_VERTICALS_SHOWN = 25
_METRICS = (("map", "mAP"), ("gap_at_20", "GAP@20"))


@dataclasses.dataclass(frozen=True)
class ModalitySection:
    """What the section shows.

    Attributes:
        videos: labelled videos that have all modalities.
        left_out: labelled videos that lack one.
        table: a row per subset.
        verticals: a row per vertical.
        gains: per modality, its name, a sentence, and the classes that gain most from it.
        figures: of it.
    """

    videos: int
    left_out: int
    table: Table
    verticals: Table
    gains: Sequence[tuple[str, str, Table]]
    figures: Sequence[Figure]

    @property
    def tables(self) -> list[Table]:
        """All tables, for files."""
        return [self.table, *([self.verticals] if self.verticals.rows else []), *(table for _, _, table in self.gains)]


def modality_section(scores: Scores, worth: ModalityWorth) -> ModalitySection:
    """Computes and draws the section."""
    labelled = int((scores.summary or {}).get("videos") or worth.videos)
    by_vertical = _vertical_means(scores, worth)
    figures = [_subset_figure(worth)]
    if len(by_vertical.rows) > 1:
        figures.append(_vertical_figure(worth, by_vertical))
    return ModalitySection(
        worth.videos,
        labelled - worth.videos,
        _subset_table(worth),
        by_vertical,
        [_gains(scores, worth, name) for name in worth.modalities],
        figures,
    )


def _subset_table(worth: ModalityWorth) -> Table:
    columns = ["Modalities"]
    for _, title in _METRICS:
        columns += [title, f"{title}, low", f"{title}, high", f"{title}, change", "change, low", "change, high"]
    rows = []
    for number, subset in enumerate(worth.subsets):
        row: list[object] = [subset.label]
        for key, _ in _METRICS:
            row += [subset.figures[key + part] for part in ("", "_ci_low", "_ci_high")]
            row += [subset.figures[f"{key}_change{part}"] if number else None for part in ("", "_low", "_high")]
        rows.append(row)
    return Table("modalities", columns, rows)


def _vertical_means(scores: Scores, worth: ModalityWorth) -> Table:
    """Mean AP of the classes of each vertical with a positive, by subset; most positives first."""
    members: dict[str, list[int]] = {}
    for index, names in enumerate(scores.verticals):
        for name in names:
            if np.isfinite(worth.subsets[0].ap[index]):
                members.setdefault(name, []).append(index)
    ordered = sorted(members, key=lambda name: (-worth.support[members[name]].sum(), name))
    rows = [
        [name, len(members[name]), *(float(subset.ap[members[name]].mean()) for subset in worth.subsets)]
        for name in ordered
    ]
    return Table("modalities_by_vertical", ("Vertical", "Classes", *(each.label for each in worth.subsets)), rows)


def _gains(scores: Scores, worth: ModalityWorth, modality: str) -> tuple[str, str, Table]:
    """The classes whose average precision a modality raises most, beyond chance."""
    subset, whole = worth.without(modality), worth.subsets[0]
    gain, low, high = -subset.change, -subset.change_high, -subset.change_low
    known = np.flatnonzero(np.isfinite(low))
    sure = known[low[known] > 0]
    order = sure[np.argsort(-gain[sure], kind="stable")]
    rows = [
        [
            scores.name(int(index)),
            scores.main_vertical(int(index)),
            int(worth.support[index]),
            float(subset.ap[index]),
            float(whole.ap[index]),
            float(gain[index]),
            float(low[index]),
            float(high[index]),
        ]
        for index in order.tolist()
    ]
    table = Table(
        f"modalities_gain_{modality}",
        ("Class", "Vertical", "Positives", "AP without", "AP with all", "Gain", "Gain, low", "Gain, high"),
        rows,
    )
    harmed = int(np.count_nonzero(high[known] < 0))
    sentence = (
        f"Without {modality} mAP changes by {signed(subset.figures['map_change'])} (95 %: "
        f"{signed(subset.figures['map_change_low'])} to {signed(subset.figures['map_change_high'])}). "
        f"{pluralise(len(rows), 'class', 'classes')} of {len(known):,} with at least ten positives "
        f"{'is' if len(rows) == 1 else 'are'} better with it beyond chance, {harmed:,} worse."
    )
    return modality, sentence, table


def shown(table: Table) -> Table:
    """The first rows of a table, for the page."""
    return dataclasses.replace(table, rows=table.rows[:_CLASSES_SHOWN])


@dataclasses.dataclass(frozen=True)
class SubsetBars:
    """Two figures in [0, 1] with intervals, per subset of the modalities: (title, value, low, high), each (S,)."""

    names: Sequence[str]
    metrics: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]


def plot_subsets(data: SubsetBars, *, ax: "Axes | None" = None) -> "Axes":
    """A dot and its interval per subset and figure, the first subset on top."""
    ax = new_axes(ax)
    places = np.arange(len(data.names))
    for (title, value, low, high), colour, marker, shift in zip(
        data.metrics, (BLUE, VERMILION), ("o", "s"), (-0.14, 0.14), strict=True
    ):
        ax.hlines(places + shift, low, high, color=colour, linewidth=1.6)
        ax.plot(value, places + shift, marker, color=colour, markersize=5, label=title)
        for place, figure in zip(places, value, strict=True):
            ax.annotate(f"{figure:.3f}", (figure, place + shift), (7, -3), textcoords="offset points", fontsize=7)
    ax.set_yticks(places, data.names, fontsize=8)
    ax.set(xlim=(0, 1), ylim=(len(data.names) - 0.4, -0.6), xlabel="Figure with these modalities")
    ax.legend(loc="lower right", fontsize=7.5, frameon=False)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    return ax


def _subset_figure(worth: ModalityWorth) -> Figure:
    columns = {
        key: [np.array([each.figures[key + part] for each in worth.subsets]) for part in ("", "_ci_low", "_ci_high")]
        for key, _ in _METRICS
    }
    metrics = [(title, columns[key][0], columns[key][1], columns[key][2]) for key, title in _METRICS]
    numbers = Table(
        "modalities",
        ("modalities", *(f"{key}{part}" for key, _ in _METRICS for part in ("", "_ci_low", "_ci_high"))),
        [
            [each.label, *(each.figures[key + part] for key, _ in _METRICS for part in ("", "_ci_low", "_ci_high"))]
            for each in worth.subsets
        ],
    )
    said = "; ".join(
        f"{each.label}: mAP {each.figures['map']:.3f}, GAP {each.figures['gap_at_20']:.3f}" for each in worth.subsets
    )
    return make_figure(
        "modalities",
        "With some of the modalities",
        "Dot: the same model, given these modalities only; bar: 95 % interval over videos.",
        f"{said}.",
        plot_subsets,
        SubsetBars([short(each.label, 34) for each in worth.subsets], metrics),
        numbers,
        size=(4.8, 1.3 + 0.42 * len(worth.subsets)),
    )


@dataclasses.dataclass(frozen=True)
class ShareMap:
    """Shares (rows, columns) of what all modalities reach, in [0, 1]; NaN without any."""

    row_labels: Sequence[str]
    column_labels: Sequence[str]
    shares: np.ndarray


def plot_shares(data: ShareMap, *, ax: "Axes | None" = None) -> "Axes":
    """Shares as shades (dark = much), written in per cent in their cells."""
    ax = new_axes(ax)
    rows, columns = data.shares.shape
    ax.pcolormesh(
        np.arange(columns + 1),
        np.arange(rows + 1),
        np.clip(np.nan_to_num(data.shares), 0, 1),
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.5,
    )
    for row, column in np.argwhere(np.isfinite(data.shares)).tolist():
        share = data.shares[row, column]
        colour = "white" if share > 0.55 else BLACK
        ax.text(column + 0.5, row + 0.52, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(np.arange(columns) + 0.5, data.column_labels, rotation=30, ha="right", fontsize=7.5)
    ax.set_yticks(np.arange(rows) + 0.5, data.row_labels, fontsize=7.5)
    ax.set(ylim=(rows, 0), xlim=(0, columns))
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _vertical_figure(worth: ModalityWorth, by_vertical: Table) -> Figure:
    """What share of its mean AP with all modalities each vertical reaches with some of them."""
    rows = by_vertical.rows[:_VERTICALS_SHOWN]
    ap = np.array([row[2:] for row in rows], np.float64)  # (verticals, subsets)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = ap[:, 1:] / ap[:, :1]
    names = [str(row[0]) for row in rows]
    sentences = []
    for number, subset in enumerate(worth.subsets[1:]):
        if len(subset.modalities) == 1 and np.isfinite(shares[:, number]).any():
            best = int(np.nanargmax(shares[:, number]))
            sentences.append(f"{subset.label} alone reaches most in {names[best]} ({100 * shares[best, number]:.0f} %)")
    return make_figure(
        "modalities_by_vertical",
        "What is left by vertical",
        "Mean AP of the vertical's classes with these modalities only, in per cent of that with all. "
        + "; ".join(sentences)
        + ". More than 100: these are better without the others.",
        "; ".join(sentences) + ".",
        plot_shares,
        ShareMap([short(name, 26) for name in names], [short(each.label, 26) for each in worth.subsets[1:]], shares),
        by_vertical,
        size=(2.6 + 0.7 * len(worth.subsets), 1.5 + 0.24 * len(rows)),
    )
