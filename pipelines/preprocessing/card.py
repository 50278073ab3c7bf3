"""The data card: one self-contained HTML page about a transformed dataset."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.pages.templates import environment
from pipelines.preprocessing.charts import Axis, band_chart, bar_chart, line_chart
from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.manifests import MOST_LABELS_SHOWN, Summary
from pipelines.preprocessing.statistics import Fitted, Moments
from vcls_model.records.splits import SPLITS

_FREQUENT = 15
_PAIRS = 15
_FRAME_BIN = 10


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with its words: title, caption, and the picture as an SVG element."""

    title: str
    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Together:
    """Which of the most frequent classes occur together: shares[i][j] of the videos of class i also have class j."""

    names: list[str]
    shares: list[list[float | None]]


def render_card(
    config: JobConfig,
    info: dict[str, Any],
    summary: Summary,
    features: Fitted,
) -> str:
    """The page's HTML."""
    names = [info.name for info in config.classes]
    return (
        environment("pipelines.preprocessing")
        .get_template("data_card.html")
        .render(
            info=info,
            config=config,
            transform=config.transform,
            splits=_split_rows(summary),
            charts=[*label_charts(summary), *frame_charts(summary), *feature_charts(config, summary, features)],
            frequent=frequent_classes(summary, names),
            together=occur_together(summary, names),
            pairs=[(names[one], names[two], count) for (one, two), count in _top_pairs(summary)],
        )
    )


def _split_rows(summary: Summary) -> list[dict[str, Any]]:
    rows = []
    for split, name in enumerate(SPLITS):
        counts, records = summary.class_counts[split], int(summary.written[split])
        rows.append(
            {
                "name": name,
                "records": records,
                "share": records / max(summary.records_written, 1),
                "classes": int((counts > 0).sum()),
                "labels": counts.sum() / records if records else 0.0,
            }
        )
    return rows


def label_charts(summary: Summary) -> list[Chart]:
    """Label frequency (rank and size, both logarithmic) and labels per video."""
    counts = np.sort(summary.class_counts.sum(axis=0))[::-1]
    counts = counts[counts > 0]
    charts = []
    if len(counts) > 1:
        # A long tail has thousands of equal neighbours: a few hundred points draw the same line.
        shown = np.unique(np.geomspace(1, len(counts), 400).astype(int))
        charts.append(
            Chart(
                "Label frequency",
                line_chart(
                    Axis("Rank of the class, most frequent first", 1, len(counts), log=True),
                    Axis("Videos", 1, float(counts[0]) * 1.1, log=True),
                    shown.tolist(),
                    counts[shown - 1].tolist(),
                    f"Videos per class on two logarithmic axes, from {counts[0]:,} down to {counts[-1]:,}",
                ),
                f"{len(counts):,} of {summary.class_counts.shape[1]:,} classes occur. The most frequent is on "
                f"{counts[0]:,} videos, the median class on {int(np.median(counts)):,}; "
                f"{int((counts < 10).sum()):,} classes are on fewer than 10.",
            )
        )
    per_video = summary.label_counts
    if per_video.sum():
        last = int(np.flatnonzero(per_video)[-1])
        mean = float(np.average(np.arange(len(per_video)), weights=per_video))
        more = f" The last bar counts {MOST_LABELS_SHOWN} and more." if last == MOST_LABELS_SHOWN else ""
        charts.append(
            Chart(
                "Labels per video",
                bar_chart(
                    Axis("Labels", -0.5, last + 0.5),
                    Axis("Videos", 0, float(per_video.max()) * 1.05),
                    [index - 0.5 for index in range(last + 1)],
                    [index + 0.5 for index in range(last + 1)],
                    per_video[: last + 1].tolist(),
                    f"Videos by number of labels, mean {mean:.2f}",
                ),
                f"{mean:.2f} labels per video on average, at most {last}.{more}",
            )
        )
    return charts


def frame_charts(summary: Summary) -> list[Chart]:
    """Frames per video, in bins of ten; none for records without frames."""
    counts = summary.frame_counts
    if not counts.sum():
        return []
    bins = np.add.reduceat(counts[1:], np.arange(0, len(counts) - 1, _FRAME_BIN))
    edges = np.minimum(np.arange(len(bins) + 1) * _FRAME_BIN + 1, len(counts))
    mean = float(np.average(np.arange(len(counts)), weights=counts))
    cut = (
        f" {summary.notes['videos_cut']:,} videos were cut, by {summary.notes['frames_cut']:,} frames in total."
        if summary.notes["videos_cut"]
        else ""
    )
    return [
        Chart(
            "Frames per video",
            bar_chart(
                Axis("Frames (one per second)", 0, float(len(counts))),
                Axis("Videos", 0, float(bins.max()) * 1.05),
                edges[:-1].tolist(),
                edges[1:].tolist(),
                bins.tolist(),
                f"Videos by number of frames, mean {mean:.0f}",
            ),
            f"{mean:.0f} frames on average.{cut}",
        )
    ]


def feature_charts(config: JobConfig, summary: Summary, features: Fitted) -> list[Chart]:
    """Mean and spread of each dimension, before (all training values) and after (a sample of them)."""
    charts = []
    for name, moments in features.items():
        if isinstance(moments, Moments) and moments.count:
            all_of_them = f"All {moments.count:,} training vectors."
            charts.append(_feature_chart(f"{name}, before", moments.mean, moments.std, all_of_them))
    for feature in config.transform.transformed():
        count, total, squares = summary.sampled.get(feature.name, (np.zeros(1), np.zeros(0), np.zeros(0)))
        if count[0]:
            mean = total / count[0]
            std = np.sqrt(np.maximum(squares / count[0] - mean * mean, 0))
            sample = f"A sample of {int(count[0]):,} training vectors as written."
            charts.append(_feature_chart(f"{feature.name}, after", mean, std, sample))
    return charts


def _feature_chart(title: str, mean: np.ndarray, std: np.ndarray, words: str) -> Chart:
    low, high = float((mean - std).min()), float((mean + std).max())
    margin = 0.05 * (high - low) or 1.0
    return Chart(
        title,
        band_chart(
            Axis("Dimension", 0, float(max(len(mean) - 1, 1))),
            Axis("Value", low - margin, high + margin),
            list(range(len(mean))),
            mean.tolist(),
            std.tolist(),
            f"Mean and standard deviation of each of {len(mean)} dimensions of {title}",
        ),
        f"Line: mean; band: one standard deviation either way. {words} Means from {mean.min():.3g} to "
        f"{mean.max():.3g}, standard deviations from {std.min():.3g} to {std.max():.3g}.",
    )


def frequent_classes(summary: Summary, names: Sequence[str]) -> list[tuple[str, int, float]]:
    """(name, videos, share of all videos) of the most frequent classes."""
    counts = summary.class_counts.sum(axis=0)
    order = np.argsort(-counts, kind="stable")[:_FREQUENT]
    return [
        (names[index], int(counts[index]), counts[index] / max(summary.records_written, 1))
        for index in order.tolist()
        if counts[index]
    ]


def occur_together(summary: Summary, names: Sequence[str]) -> Together:
    """Co-occurrence among the most frequent classes."""
    counts = summary.class_counts.sum(axis=0)
    order = [index for index in np.argsort(-counts, kind="stable")[:_FREQUENT].tolist() if counts[index]]
    shares: list[list[float | None]] = [
        [
            None if one == two else summary.pairs.count(min(one, two) * len(counts) + max(one, two)) / int(counts[one])
            for two in order
        ]
        for one in order
    ]
    return Together([names[index] for index in order], shares)


def _top_pairs(summary: Summary) -> list[tuple[tuple[int, int], int]]:
    classes = summary.class_counts.shape[1]
    return [(divmod(pair, classes), count) for pair, count in summary.pairs.most_common(_PAIRS)]
