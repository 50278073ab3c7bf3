"""Every metric that a person is shown: what it is called, what it means and where it appears.

A metric that follows from counts already kept is added here and in `result.compute_result`, nowhere else: training
curves, command summaries, the report's tables and `--require` all filter this list. Pure Python, so that `--help` can
name metrics without loading numpy.
"""

import dataclasses
from collections.abc import Mapping, Sequence

# What metrics.json has slices by without being asked: no feature may be called so.
OWN_SLICES = ("frequency", "vertical")


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric of metrics.json.

    Attributes:
        key: name in metrics.json; its bounds, where there are any, are `<key>_lower` and `<key>_upper` (certified) and
            `<key>_ci_low` and `<key>_ci_high` (95 % over videos).
        title: what people call it.
        meaning: one sentence without a full stop.
        higher_is_better: the direction; False for errors.
        headline: whether command summaries and comparisons of models show it.
        in_history: whether training computes it after each epoch, as column `val_<key>` of history.csv.
    """

    key: str
    title: str
    meaning: str
    higher_is_better: bool = True
    headline: bool = False
    in_history: bool = False


METRICS = (
    Metric(
        "gap_at_20",
        "GAP@20",
        "Average precision of one ranking that pools every video's 20 best classes (global average precision)",
        headline=True,
        in_history=True,
    ),
    Metric(
        "map",
        "mAP",
        "Mean over classes of average precision, with all videos ranked: every class counts the same",
        headline=True,
        in_history=True,
    ),
    Metric("hit_at_1", "Hit@1", "Fraction of videos whose best class is correct", headline=True, in_history=True),
    Metric(
        "perr",
        "PERR",
        "Fraction of correct classes when each video gets as many predictions as it has labels",
        headline=True,
        in_history=True,
    ),
    Metric("map_at_20", "mAP@20", "As mAP, but a class sees only the videos that rank it among their 20 best"),
    Metric(
        "macro_roc_auc",
        "ROC AUC",
        "Probability that a video with the class scores above one without it, mean over classes",
    ),
    Metric("f1_micro", "F1 (micro)", "Harmonic mean of precision and recall over all decisions at the threshold"),
    Metric("f1_macro", "F1 (macro)", "F1 of each class, mean over classes"),
    Metric("f1_weighted", "F1 (weighted)", "F1 of each class, weighted by its positives"),
    Metric(
        "expected_calibration_error",
        "Calibration error",
        "Mean distance between predicted probability and fraction of positives, over all pairs of video and class",
        higher_is_better=False,
    ),
    Metric(
        "expected_calibration_error_at_20",
        "Calibration error@20",
        "The same over every video's 20 best classes, where probabilities are large enough to matter",
        higher_is_better=False,
    ),
)

# The metric by which training chooses weights and tuning compares trials.
SELECTION_METRIC = "map"

HEADLINE = tuple(metric for metric in METRICS if metric.headline)
# What weights are chosen by comes first.
IN_HISTORY = tuple(
    sorted((metric for metric in METRICS if metric.in_history), key=lambda metric: metric.key != SELECTION_METRIC)
)


def history_column(key: str) -> str:
    """The column of history.csv that holds a metric of the validation split."""
    return f"val_{key}"


def describe(summary: Mapping[str, float | None], metrics: Sequence[Metric] = HEADLINE) -> str:
    """One line such as "gap_at_20 0.8215, map 0.4513": those of `metrics` that the summary has a value for."""
    values = ((metric.key, summary.get(metric.key)) for metric in metrics)
    return ", ".join(f"{key} {value:.4f}" for key, value in values if value is not None)
