"""The data card: one self-contained HTML page about a transformed dataset."""

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.pages.drawing import draw_svg
from pipelines.pages.plots import Histogram, plot_histogram
from pipelines.pages.templates import environment
from pipelines.preprocessing.card_plots import ClassRanks, Spread, plot_ranking, plot_spread
from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.manifests import MOST_LABELS_SHOWN, Summary
from pipelines.preprocessing.statistics import Moments
from vcls_model.records.splits import SPLITS

_FREQUENT = 15
_PAIRS = 15
_FRAME_BIN = 10
_SIZE = (5.2, 2.6)  # inches


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title, caption: as printed.
        alternative: what a reader who cannot see it must know.
        svg: the picture.
    """

    title: str
    caption: str
    alternative: str
    svg: bytes

    @property
    def data_uri(self) -> str:
        """The SVG as an address for `<img src>`."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclasses.dataclass(frozen=True)
class Together:
    """Which of the most frequent classes occur together: shares[i][j] of the videos of class i also have class j."""

    names: list[str]
    shares: list[list[float | None]]


def render_card(
    config: JobConfig,
    info: dict[str, Any],
    summary: Summary,
    features: dict[str, Moments],
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
        charts.append(
            Chart(
                "Label frequency",
                f"{len(counts):,} of {summary.class_counts.shape[1]:,} classes occur. The most frequent is on "
                f"{counts[0]:,} videos, the median class on {int(np.median(counts)):,}; "
                f"{int((counts < 10).sum()):,} classes are on fewer than 10.",
                f"Videos per class on two logarithmic axes, from {counts[0]:,} down to {counts[-1]:,}",
                draw_svg(plot_ranking, ClassRanks(counts), _SIZE),
            )
        )
    per_video = summary.label_counts
    if per_video.sum():
        last = int(np.flatnonzero(per_video)[-1])
        mean = float(np.average(np.arange(len(per_video)), weights=per_video))
        more = f" The last bar counts {MOST_LABELS_SHOWN} and more." if last == MOST_LABELS_SHOWN else ""
        bars = Histogram(np.arange(last + 2) - 0.5, per_video[: last + 1], "Labels", "Videos")
        charts.append(
            Chart(
                "Labels per video",
                f"{mean:.2f} labels per video on average, at most {last}.{more}",
                f"Videos by number of labels, mean {mean:.2f}",
                draw_svg(plot_histogram, bars, _SIZE),
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
            f"{mean:.0f} frames on average.{cut}",
            f"Videos by number of frames, mean {mean:.0f}",
            draw_svg(plot_histogram, Histogram(edges, bins, "Frames (one per second)", "Videos"), _SIZE),
        )
    ]


def feature_charts(config: JobConfig, summary: Summary, features: dict[str, Moments]) -> list[Chart]:
    """Mean and spread of each dimension, before (all training values) and after (a sample of them)."""
    charts = []
    for name, moments in features.items():
        if moments.count:
            spread = Spread(moments.mean, moments.std)
            charts.append(_feature_chart(f"{name}, before", spread, f"All {moments.count:,} training vectors."))
    for feature in config.transform.transformed():
        count, total, squares = summary.sampled.get(feature.name, (np.zeros(1), np.zeros(0), np.zeros(0)))
        if count[0]:
            mean = total / count[0]
            spread = Spread(mean, np.sqrt(np.maximum(squares / count[0] - mean * mean, 0)))
            sample = f"A sample of {int(count[0]):,} training vectors as written."
            charts.append(_feature_chart(f"{feature.name}, after", spread, sample))
    return charts


def _feature_chart(title: str, spread: Spread, words: str) -> Chart:
    mean, std = spread.mean, spread.std
    return Chart(
        title,
        f"Line: mean; band: one standard deviation either way. {words} Means from {mean.min():.3g} to "
        f"{mean.max():.3g}, standard deviations from {std.min():.3g} to {std.max():.3g}.",
        f"Mean and standard deviation of each of {len(mean)} dimensions of {title}",
        draw_svg(plot_spread, spread, _SIZE),
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
