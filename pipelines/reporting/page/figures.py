"""The figures of the report: which plots there are, their words, and the numbers saved beside each."""

import base64
import dataclasses
import itertools
import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.pages.drawing import draw
from pipelines.pages.plots import Histogram, plot_histogram
from pipelines.reporting.findings.comparison import ClassChanges
from pipelines.reporting.findings.confusion import class_confusion, vertical_confusion
from pipelines.reporting.findings.groups import ClassGroup, frequency, size_groups, span
from pipelines.reporting.inputs.media import Timeline
from pipelines.reporting.inputs.predictions import PredictionStatistics
from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.page import plots
from pipelines.reporting.tables import Table, columns_table, pluralise, signed
from vcls_model.metrics.catalogue import IN_HISTORY, history_column

# What the training job calls its columns, and what a reader does.
_HISTORY_NAMES = {
    "loss": "training",
    "val_loss": "validation",
    **{history_column(metric.key): metric.title for metric in IN_HISTORY},
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: file name without suffix.
        title, caption: as printed.
        alternative: what a reader who cannot see it must know.
        svg, png: the picture.
        numbers: what was drawn.
        wide: it needs the whole width of the page.
    """

    name: str
    title: str
    caption: str
    alternative: str
    svg: bytes
    png: bytes
    numbers: Table
    wide: bool = False

    @property
    def data_uri(self) -> str:
        """The SVG as an address for `<img src>`."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


def make_figure(
    name: str,
    title: str,
    caption: str,
    alternative: str,
    plot: Callable[..., Any],
    data: Any,
    numbers: Table,
    *,
    size: tuple[float, float] = (4.8, 3.9),
    wide: bool = False,
) -> Figure:
    """Draws a figure; see `Figure` for the words, `size` is in inches."""
    svg, png = draw(plot, data, size)
    return Figure(name, title, caption, alternative, svg, png, numbers, wide)


def _has(curves: dict[str, np.ndarray], *keys: str) -> bool:
    return all(key in curves and np.isfinite(curves[key]).any() for key in keys)


def _at(grid: np.ndarray, curve: np.ndarray, place: float) -> float:
    return float(curve[int(np.argmin(np.abs(grid - place)))])


def _column_of(scores: Scores, index: int) -> str:
    """The heading of a class's column: its index tells it from a namesake and from every other column."""
    return f"{index} {scores.names[index]}"


def curve_figures(scores: Scores, chosen: Sequence[int]) -> list[Figure]:
    """Precision-recall and ROC: micro, macro, the band over classes, and the chosen classes."""
    found = []
    for prefix, grid_key, plot, title, x_name, y_name in (
        ("pr", "recall_grid", plots.plot_precision_recall, "Precision and recall", "recall", "precision"),
        ("roc", "fpr_grid", plots.plot_roc, "ROC", "false_positive_rate", "true_positive_rate"),
    ):
        curves = scores.curves
        keys = [f"{prefix}_{part}" for part in ("micro", "macro", "band_low", "band_high")]
        if grid_key not in curves or not _has(curves, *keys):
            continue
        grid = curves[grid_key]
        by_class = curves.get(f"{prefix}_class")
        shown = [index for index in chosen if by_class is not None and np.isfinite(by_class[index]).all()]
        lines = [
            (short(scores.distinct_name(index), 24), by_class[index].astype(np.float64))
            for index in shown
            if by_class is not None
        ]
        data = plots.CurveBundle(grid, curves[keys[0]], curves[keys[1]], curves[keys[2]], curves[keys[3]], lines)
        place = 0.5 if prefix == "pr" else 0.1
        alternative = (
            f"{title} curves. At {x_name.replace('_', ' ')} {place:g}, {y_name.replace('_', ' ')} is "
            f"{_at(grid, curves[keys[0]], place):.2f} with all pairs pooled and "
            f"{_at(grid, curves[keys[1]], place):.2f} in the mean of classes; the interquartile range over "
            f"classes is {_at(grid, curves[keys[2]], place):.2f} to {_at(grid, curves[keys[3]], place):.2f}."
        )
        numbers = columns_table(
            f"{prefix}_curves",
            {
                x_name: grid,
                "micro": curves[keys[0]],
                "macro": curves[keys[1]],
                "band_low": curves[keys[2]],
                "band_high": curves[keys[3]],
                **{_column_of(scores, index): by_class[index] for index in shown if by_class is not None},
            },
        )
        caption = ("Grey lines join points of equal F1. " if prefix == "pr" else "The grey diagonal is chance. ") + (
            "The band is the interquartile range over classes (the middle half of them)."
        )
        found.append(make_figure(f"{prefix}_curves", title, caption, alternative, plot, data, numbers, size=(4.8, 4.5)))
    return found


def group_figure(name: str, title: str, groups: Sequence[ClassGroup], overall: float) -> Figure | None:
    """Mean average precision by group of classes."""
    groups = [group for group in groups if math.isfinite(group.ap)]
    if not groups:
        return None
    value, low, high = (np.array([getattr(group, key) for group in groups]) for key in ("ap", "ap_low", "ap_high"))
    low, high = np.where(np.isfinite(low), low, value), np.where(np.isfinite(high), high, value)
    data = plots.GroupIntervals(
        [short(group.name, 30) for group in groups],
        value,
        low,
        high,
        [f"{group.measured:,}" for group in groups],
        "Mean average precision",
        overall,
    )
    ranked = sorted(groups, key=lambda group: -group.ap)
    alternative = (
        f"Mean average precision of {len(groups)} groups of classes. Best: {ranked[0].name} {ranked[0].ap:.2f}; worst: "
        f"{ranked[-1].name} {ranked[-1].ap:.2f}; all classes {overall:.2f}."
    )
    numbers = Table(
        name,
        ("group", "classes", "measured", "positives", "mean_ap", "low", "high"),
        [
            [group.name, group.classes, group.measured, group.positives, group.ap, group.ap_low, group.ap_high]
            for group in groups
        ],
    )
    return make_figure(
        name,
        title,
        "Dot: mean over the classes with a positive (their number in brackets); bar: 95 % interval over classes; "
        "dashed: all classes." + "".join(f" {group.name}: {group.note}." for group in groups if group.note),
        alternative,
        plots.plot_groups,
        data,
        numbers,
        size=(4.8, 0.9 + 0.21 * len(groups)),
    )


def size_figure(scores: Scores) -> Figure | None:
    """Average precision against the number of examples."""
    count, what = frequency(scores)
    ap = scores.columns["ap"]
    measured = np.isfinite(ap) & (count > 0)
    groups = [group for group in size_groups(scores) if group[0] > 0]
    if measured.sum() < 5 or not groups:
        return None
    means = np.array([float(ap[members].mean()) for _, _, members in groups])
    data = plots.ScoreBySize(
        count[measured],
        ap[measured],
        np.array([low for low, _, _ in groups], float),
        np.array([high for _, high, _ in groups], float),
        means,
        f"{what.capitalize()} (log scale)",
    )
    alternative = (
        "Mean average precision by number of "
        + what
        + ": "
        + "; ".join(f"{span(low, high)}: {mean:.2f}" for (low, high, _), mean in zip(groups, means, strict=True))
        + "."
    )
    numbers = columns_table(
        "ap_by_examples",
        {
            "index": np.flatnonzero(measured),
            "name": [scores.names[i] for i in np.flatnonzero(measured)],
            what.replace(" ", "_"): count[measured].astype(int),
            "ap": ap[measured],
        },
    )
    return make_figure(
        "ap_by_examples",
        "Average precision and number of examples",
        "Each dot is a class; the bars are means over classes with a similar number of examples.",
        alternative,
        plots.plot_score_by_size,
        data,
        numbers,
    )


def threshold_figures(scores: Scores) -> list[Figure]:
    """Precision, recall and F1 against one threshold, and where the best thresholds lie."""
    found = []
    curves, operating = scores.curves, float(scores.info.get("threshold", 0.5))
    keys = ("precision_micro", "recall_micro", "f1_micro", "f1_macro")
    if "threshold_grid" in curves and _has(curves, *keys):
        grid = curves["threshold_grid"]
        data = plots.ThresholdCurves(
            grid, curves[keys[0]], curves[keys[1]], curves[keys[2]], curves[keys[3]], operating
        )
        best = int(np.nanargmax(curves["f1_micro"]))
        alternative = (
            f"At the threshold in use, {operating:g}: precision {_at(grid, curves[keys[0]], operating):.2f}, recall "
            f"{_at(grid, curves[keys[1]], operating):.2f}, micro F1 {_at(grid, curves[keys[2]], operating):.2f}. Micro "
            f"F1 is highest, {curves['f1_micro'][best]:.2f}, at {grid[best]:.2f}."
        )
        found.append(
            make_figure(
                "threshold_curves",
                "One threshold for all classes",
                alternative,
                alternative,
                plots.plot_threshold_curves,
                data,
                columns_table("threshold_curves", {"threshold": grid, **{key: curves[key] for key in keys}}),
            )
        )
    best_thresholds = scores.columns["best_threshold"]
    # Training leaves 0.5 where validation held no positive to choose by.
    unchosen = best_thresholds == 0.5
    known = np.isfinite(best_thresholds) & (scores.columns["support"] > 0) & ~unchosen
    if known.sum() >= 5:
        edges = np.linspace(0, 1, 21)
        count, _ = np.histogram(np.clip(best_thresholds[known], 0, 1), edges)
        median = float(np.median(best_thresholds[known]))
        below = float((best_thresholds[known] < operating).mean())
        alternative = (
            f"The best threshold of the median class is {median:.2f}; {100 * below:.0f} % of the classes have one "
            f"below the {operating:g} in use."
        )
        data_h = Histogram(
            edges, count, "Best-F1 threshold (probability)", "Classes", marked=(operating, f"in use: {operating:g}")
        )
        found.append(
            make_figure(
                "best_thresholds",
                "Best threshold of each class",
                alternative
                + f" Chosen on the validation split; {pluralise(int(unchosen.sum()), 'class', 'classes')} without a "
                "positive there keep 0.5 and are left out.",
                alternative,
                plot_histogram,
                data_h,
                columns_table("best_thresholds", {"from": edges[:-1], "to": edges[1:], "classes": count}),
            )
        )
    return found


def calibration_figures(scores: Scores) -> list[Figure]:
    """Reliability, and how many predictions each bin holds: over each video's 20 best classes if counted, else all."""
    curves = scores.curves
    prefix = "calibration_top" if "calibration_top_count" in curves else "calibration"
    keys = ("calibration_edges", f"{prefix}_confidence", f"{prefix}_accuracy", f"{prefix}_count")
    if any(key not in curves for key in keys):
        return []
    edges, confidence, accuracy, count = (curves[key] for key in keys)
    used = count > 0
    if not used.any():
        return []
    whose = "every video's 20 best classes" if prefix == "calibration_top" else "all pairs of video and class"
    data = plots.Calibration(edges, confidence[used], accuracy[used], count[used])
    upper = used & (edges[:-1] >= 0.5)
    start = edges[:-1][edges[:-1] >= 0.5].min()  # the bins do not break at one half
    weight = count[upper]
    if weight.sum():
        says, right = (float((values[upper] * weight).sum() / weight.sum()) for values in (confidence, accuracy))
        alternative = (
            f"Predictions from {start:.2f} up say {says:.2f} on average, and {right:.2f} of them are correct: "
            f"{abs(says - right):.3f} too {'high' if says > right else 'low'}."
        )
    else:
        alternative = (
            f"No prediction reaches {start:.2f}; the highest bin in use says {confidence[used][-1]:.2f}, and "
            f"{accuracy[used][-1]:.2f} are correct."
        )
    columns = {
        "from": edges[:-1],
        "to": edges[1:],
        "count": count.astype(int),
        "mean_probability": confidence,
        "share_right": accuracy,
    }
    histogram = Histogram(edges, count, "Predicted probability", "Predictions (log scale)", log=True)
    high = count[edges[:-1] >= 0.5 - 1e-9].sum() / count.sum()
    share = f"{100 * high:.2g} % of the predictions are {start:.2f} or more."
    return [
        make_figure(
            "calibration",
            "Calibration",
            f"{alternative} Over {whose}; below the diagonal the model is over-confident.",
            alternative,
            plots.plot_calibration,
            data,
            columns_table("calibration", columns),
        ),
        make_figure(
            "confidence",
            "Distribution of probabilities",
            f"{share} Over {whose}.",
            share,
            plot_histogram,
            histogram,
            columns_table("confidence", columns),
        ),
    ]


def confusion_figure(scores: Scores) -> Figure | None:
    """Truth against prediction, by vertical; by class where the vocabulary has no verticals."""
    if scores.has_verticals:
        names, counts = vertical_confusion(scores)
        headings = [f"predicted {name}" for name in names]
        title, what = "Confusion between verticals", "vertical"
    else:
        chosen, counts = class_confusion(scores)
        names = [scores.distinct_name(index) for index in chosen]
        headings = [_column_of(scores, index) for index in chosen]
        title, what = "The most confused classes", "class"
    if len(names) < 2 or not counts.sum():
        return None
    totals = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / totals
    data = plots.HeatMap(
        [f"{short(name, 22)} ({total:,})" for name, total in zip(names, totals[:, 0], strict=True)],
        [short(name, 22) for name in names],
        shares,
    )
    # By number, not by share: where most can be won. The shares are what the picture shows.
    off = np.where(np.eye(len(names), dtype=bool), 0, counts)
    row, column = np.unravel_index(int(np.argmax(off)), off.shape)
    correct = np.trace(counts) / counts.sum()
    alternative = f"{100 * correct:.0f} % of all labels are predicted within their {what}."
    if off[row, column] > 0:
        alternative += (
            f" The most frequent confusion is {names[row]} with {names[column]}: {int(off[row, column]):,}, "
            f"{100 * shares[row, column]:.0f} % of {names[row]}."
        )
    numbers = Table(
        "confusion", (f"true_{what}", *headings), [[name, *map(int, counts[i])] for i, name in enumerate(names)]
    )
    return make_figure(
        "confusion",
        title,
        alternative
        + " Numbers are per cent of the row, whose count is in brackets; shades follow their square root, so "
        "that rare confusions show. Counts are in confusion.csv.",
        alternative,
        plots.plot_heat_map,
        data,
        numbers,
        size=(max(2.4 + 0.25 * len(names), 4.8), max(1.7 + 0.24 * len(names), 3.2)),
        wide=len(names) > 12,
    )


def training_figures(scores: Scores) -> list[Figure]:
    """Loss, and validation scores, by epoch."""
    history = scores.history
    if not history:
        return []
    length = len(next(iter(history.values())))
    epoch = np.arange(1, length + 1)
    losses = [(name, values) for name, values in history.items() if name.lower().endswith("loss")]
    marks = ("gap", *(metric.key for metric in IN_HISTORY))
    qualities = [
        (name, values)
        for name, values in history.items()
        if any(name.lower() == mark or name.lower().endswith("_" + mark) for mark in marks)
    ]
    found = []
    for name, title, lines, label in (
        ("training_loss", "Loss", losses, "Loss, mean of videos"),
        ("training_scores", "Scores on the validation split", qualities, "Score"),
    ):
        lines = [line for line in lines if np.isfinite(line[1]).any()][:6]
        if not lines:
            continue
        marked = None
        if name == "training_scores":
            best_by = next((values for key, values in lines if key.lower().endswith("map")), lines[0][1])
            marked = (float(np.nanargmax(best_by)) + 1, "best")
        ends = "; ".join(f"{key} from {values[0]:.4g} to {values[-1]:.4g}" for key, values in lines)
        named = [(_HISTORY_NAMES.get(key, key), values) for key, values in lines]
        everything = np.concatenate([values[np.isfinite(values)] for _, values in lines])
        log = name == "training_loss" and everything.min() > 0 and everything.max() > 20 * everything.min()
        data = plots.Series(epoch, named, "Epoch", label + (" (log scale)" if log else ""), marked, log)
        found.append(
            make_figure(
                name,
                title,
                f"Over {pluralise(length, 'epoch')}.",
                f"{title} over {pluralise(length, 'epoch')}: {ends}.",
                plots.plot_series,
                data,
                columns_table(name, {"epoch": epoch, **dict(lines)}),
            )
        )
    return found


def changes_figure(scores: Scores, baseline: Scores, by_class: ClassChanges) -> Figure | None:
    """Average precision by class, before and after."""
    compared = by_class.compared
    if not compared.any():
        return None
    before, after = baseline.columns["ap"][compared], scores.columns["ap"][compared]
    data = plots.Changes(before, after, by_class.exceeds[compared])
    up, down = (int((by_class.exceeds & (by_class.delta * sign > 0)).sum()) for sign in (1, -1))
    alternative = (
        f"Of {compared.sum():,} classes {up:,} got better and {down:,} worse beyond chance; the mean change is "
        f"{signed(float((after - before).mean()))}."
    )
    index = np.flatnonzero(compared)
    numbers = columns_table(
        "changes",
        {
            "index": index,
            "name": [scores.names[i] for i in index],
            "ap_before": before,
            "ap_after": after,
            "delta": by_class.delta[compared],
            "low": by_class.low[compared],
            "high": by_class.high[compared],
            "p": by_class.p[compared],
            "exceeds": by_class.exceeds[compared].astype(int),
        },
    )
    return make_figure(
        "changes",
        "Each class, before and after",
        alternative + " Above the diagonal is better.",
        alternative,
        plots.plot_changes,
        data,
        numbers,
    )


def prediction_figure(statistics: PredictionStatistics) -> Figure:
    """Distribution of the highest probability of each video."""
    data = Histogram(
        statistics.top_edges,
        statistics.top_count,
        "Highest probability of the video",
        "Videos",
        marked=(statistics.threshold, f"threshold {statistics.threshold:g}"),
    )
    share = statistics.top_count[statistics.top_edges[:-1] >= statistics.threshold - 1e-9].sum() / max(
        statistics.videos, 1
    )
    text = f"{100 * share:.0f} % of {statistics.videos:,} videos have a class that reaches the threshold."
    return make_figure(
        "top_probability",
        "Highest probability per video",
        text,
        text,
        plot_histogram,
        data,
        columns_table(
            "top_probability",
            {"from": statistics.top_edges[:-1], "to": statistics.top_edges[1:], "videos": statistics.top_count},
        ),
    )


def short(text: str, length: int) -> str:
    """Cuts a label for a figure to a width of so many Latin letters; a wide character (CJK, emoji) takes two."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    text = f" {text}" if text.startswith("_") else text  # a legend leaves out what starts with _
    widths = [0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text]
    if sum(widths) <= length:
        return text
    kept = next(place for place, end in enumerate(itertools.accumulate(widths)) if end > length - 1)
    return text[:kept] + "…"


def timeline_figures(scores: Scores, timelines: Sequence[Timeline]) -> list[Figure]:
    """What the model says of each moment of single videos."""
    return [_timeline_figure(scores, place, timeline) for place, timeline in enumerate(timelines)]


def _timeline_figure(scores: Scores, place: int, timeline: Timeline) -> Figure:
    names = [scores.distinct_name(index) for index in timeline.class_indices]
    step = float(timeline.seconds[1]) if len(timeline.seconds) > 1 else 1.0
    end = len(timeline.seconds) * step
    means = timeline.probabilities.mean(axis=0)
    alternative = (
        f"Probability over {end:.0f} seconds of {timeline.video_id}; in the mean "
        + ", ".join(f"{name} {mean:.2f}" for name, mean in zip(names, means, strict=True))
        + "."
    )
    numbers = columns_table(
        f"timeline_{place + 1}",
        {
            "seconds": timeline.seconds,
            **{
                _column_of(scores, index): timeline.probabilities[:, row]
                for row, index in enumerate(timeline.class_indices)
            },
        },
    )
    return make_figure(
        numbers.name,
        timeline.video_id,
        "Probability of each class (white 0, dark 1; beside its name the mean). Each moment is judged by itself with "
        "two on either side.",
        alternative,
        plots.plot_timeline,
        plots.TimelineMap(step, [short(name, 24) for name in names], timeline.probabilities, timeline.pictures),
        numbers,
        size=(9.6, 0.7 + 0.26 * (len(names) + (plots.PICTURE_ROWS if timeline.pictures else 0))),
        wide=True,
    )
