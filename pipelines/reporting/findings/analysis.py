"""What the report says about a run, computed from its metrics: intervals, groups, confusions, changes, verdict."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.page.tables import Table, many, signed
from vcls_model.commands import UsageError, unknown_choice

# Normal quantile of a 95 % interval.
Z95 = 1.959964
# Below so many positives a class's average precision says little: its 95 % interval is wider than 0.5 for most values.
FEW_POSITIVES = 10


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of `metrics.json`: its key, what to call it, what it means, and whether more is better."""

    key: str
    title: str
    meaning: str
    higher_is_better: bool = True


METRICS = (
    Metric(
        "gap_at_20", "GAP@20", "Pooled over every video's 20 best classes, how well right answers rank above wrong ones"
    ),
    Metric("map", "mAP", "Mean over classes of average precision, all videos ranked: every class counts the same"),
    Metric("hit_at_1", "Hit@1", "Share of videos whose best class is right"),
    Metric("perr", "PERR", "Share of right classes when each video is given as many as it has labels"),
    Metric("map_at_20", "mAP@20", "As mAP, but a class sees only the videos that rank it among their 20 best"),
    Metric("macro_roc_auc", "ROC AUC", "Chance that a video of a class scores above one without it, mean of classes"),
    Metric("f1_micro", "F1 (micro)", "Balance of precision and recall over all decisions at the threshold"),
    Metric("f1_macro", "F1 (macro)", "The same by class, then the mean of classes"),
    Metric("f1_weighted", "F1 (weighted)", "The same by class, weighted by the positives of the class"),
    Metric(
        "expected_calibration_error",
        "Calibration error",
        "Mean distance between a predicted probability and the share that is right, all pairs",
        higher_is_better=False,
    ),
    Metric(
        "expected_calibration_error_at_20",
        "Calibration error@20",
        "The same over every video's 20 best classes, where probabilities are large enough to matter",
        higher_is_better=False,
    ),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over videos (NaN where none is known) and its certified binning interval."""

    metric: Metric
    value: float
    low: float = math.nan
    high: float = math.nan
    binning_low: float = math.nan
    binning_high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether the spread over videos is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclasses.dataclass(frozen=True)
class Change:
    """How a metric differs from the baseline's, `delta` = this run − baseline, with 95 % interval (NaN if unknown)."""

    now: Estimate
    before: Estimate
    delta: float
    low: float
    high: float

    @property
    def exceeds(self) -> bool:
        """Whether the change is larger than chance explains."""
        return self.low > 0 or self.high < 0

    @property
    def improves(self) -> bool:
        """Whether the sign of the change is the good one."""
        return (self.delta > 0) == self.now.metric.higher_is_better and self.delta != 0


def wilson_interval(successes: np.ndarray | float, trials: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of a share (Wilson 1927); NaN without trials."""
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


def _summary_number(summary: dict[str, Any], key: str) -> float:
    value = summary.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def estimates(scores: Scores) -> list[Estimate]:
    """The headline metrics that the run has, in the order of `METRICS`."""
    assert scores.summary is not None
    summary = scores.summary
    found = []
    for metric in METRICS:
        value = _summary_number(summary, metric.key)
        if not math.isfinite(value):
            continue
        low, high = _summary_number(summary, f"{metric.key}_ci_low"), _summary_number(summary, f"{metric.key}_ci_high")
        if metric.key == "hit_at_1" and not math.isfinite(low):
            videos = _summary_number(summary, "videos")
            low, high = (float(bound) for bound in wilson_interval(value * videos, videos))
        found.append(
            Estimate(
                metric,
                value,
                low,
                high,
                _summary_number(summary, f"{metric.key}_lower"),
                _summary_number(summary, f"{metric.key}_upper"),
            )
        )
    return found


def estimate_of(found: Sequence[Estimate], key: str) -> Estimate | None:
    """The estimate of one metric, or None."""
    return next((estimate for estimate in found if estimate.metric.key == key), None)


def changes(now: Sequence[Estimate], before: Sequence[Estimate]) -> list[Change]:
    """Differences of the metrics that both runs have."""
    found = []
    for estimate in now:
        other = estimate_of(before, estimate.metric.key)
        if other is None:
            continue
        low, high = difference_interval(other.value, other.low, other.high, estimate.value, estimate.low, estimate.high)
        found.append(Change(estimate, other, estimate.value - other.value, float(low), float(high)))
    return found


@dataclasses.dataclass(frozen=True)
class ClassChanges:
    """Average precision by class, this run against the baseline.

    Attributes:
        compared: (C,) bool, the classes with a positive in both runs.
        delta, low, high: (C,) difference of AP and its 95 % interval, NaN where not compared.
        exceeds: (C,) bool, the interval leaves out 0.
    """

    compared: np.ndarray
    delta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    exceeds: np.ndarray


def class_changes(scores: Scores, baseline: Scores) -> ClassChanges:
    """Compares two runs class by class."""
    bounds = []
    for run in (baseline, scores):
        bounds.append((run.columns["ap"], *class_intervals(run)))
    (before, before_low, before_high), (after, after_low, after_high) = bounds
    compared = np.isfinite(before) & np.isfinite(after)
    low, high = difference_interval(before, before_low, before_high, after, after_low, after_high)
    delta = after - before
    return ClassChanges(
        compared,
        np.where(compared, delta, np.nan),
        np.where(compared, low, np.nan),
        np.where(compared, high, np.nan),
        compared & ((low > 0) | (high < 0)),
    )


@dataclasses.dataclass(frozen=True)
class Group:
    """Classes taken together: mean AP over those with positives, its 95 % interval over classes, and sizes."""

    name: str
    note: str
    classes: int
    measured: int
    positives: int
    ap: float
    ap_low: float
    ap_high: float
    f1: float


def _group(name: str, note: str, members: np.ndarray, scores: Scores) -> Group:
    ap, support = scores.columns["ap"][members], scores.columns["support"][members]
    measured = np.isfinite(ap)
    count = int(measured.sum())
    mean = float(ap[measured].mean()) if count else math.nan
    half = Z95 * float(ap[measured].std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    f1 = scores.columns["f1"][members][measured]
    return Group(
        name,
        note,
        int(members.sum()),
        count,
        int(support.sum()),
        mean,
        max(mean - half, 0.0),
        min(mean + half, 1.0),
        float(np.nanmean(f1)) if np.isfinite(f1).any() else math.nan,
    )


def frequency(scores: Scores) -> tuple[np.ndarray, str]:
    """Examples of each class, (C,), and what they count: training examples if recorded, else positives scored here."""
    if np.isfinite(scores.train_count).any() and np.nansum(scores.train_count) > 0:
        return np.nan_to_num(scores.train_count), "training examples"
    return scores.columns["support"], "positives in the scored videos"


def frequency_groups(scores: Scores) -> list[Group]:
    """Head, torso and tail, as `metrics.json` slices them.

    Of the classes with positives, by falling number of positives in the scored videos, the first tenth, the next four
    tenths, and the rest.
    """
    support = scores.columns["support"]
    order = np.argsort(-support, kind="stable")
    order = order[support[order] > 0]
    head, torso = math.ceil(len(order) * 0.1), math.ceil(len(order) * 0.5)
    groups = []
    for name, note, chosen in (
        ("Head", "the most frequent tenth of the classes", order[:head]),
        ("Torso", "the next four tenths", order[head:torso]),
        ("Tail", "the less frequent half", order[torso:]),
    ):
        members = np.zeros(len(support), bool)
        members[chosen] = True
        if members.any():
            groups.append(_group(name, note, members, scores))
    return groups


def vertical_groups(scores: Scores) -> list[Group]:
    """One group a vertical, most positives first (a class counts in each of its verticals); [] without verticals."""
    members: dict[str, np.ndarray] = {}
    for index, verticals in enumerate(scores.verticals):
        for name in verticals:
            members.setdefault(name, np.zeros(scores.class_count, bool))[index] = True
    groups = [_group(name, "", chosen, scores) for name, chosen in members.items()]
    return sorted(groups, key=lambda group: (-group.positives, group.name))


def size_groups(scores: Scores) -> list[tuple[int, int, np.ndarray]]:
    """Measured classes by number of examples, in steps 1, 3, 10, 30, …: (from, below, members bool (C,))."""
    count, _ = frequency(scores)
    measured = np.isfinite(scores.columns["ap"])
    edges = [0, 1, *(int(step * 10**power) for power in range(9) for step in (3, 10))]
    groups = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        members = measured & (count >= low) & (count < high)
        if members.any():
            groups.append((low, high, members))
    return groups


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Classes at one end of the scale, and whether each one's whole interval lies beyond the mean of all classes."""

    classes: list[int]
    sure: bool


def span(low: int, high: int) -> str:
    """The whole numbers from `low` to below `high`, in words."""
    return f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"


def best_and_worst(scores: Scores, how_many: int = 12) -> tuple[Ranking, Ranking]:
    """Classes that are surely good and surely bad: highest lower end, and lowest upper end, of the interval of AP.

    So a class with few positives, whose AP may be luck, enters neither list; nor does one whose interval holds the mean
    of all classes. Where no class is surely so, the list holds the nearest to it.
    """
    low, high = class_intervals(scores)
    ap = scores.columns["ap"]
    measured = np.flatnonzero(np.isfinite(ap))
    mean = ap[measured].mean() if len(measured) else math.nan
    rankings = []
    for sure, likely, key in ((low > mean, ap >= mean, -low), (high < mean, ap <= mean, high)):
        chosen = measured[sure[measured]] if sure[measured].any() else measured[likely[measured]]
        order = chosen[np.argsort(key[chosen], kind="stable")]
        rankings.append(Ranking(order[:how_many].tolist(), bool(sure[measured].any())))
    return rankings[0], rankings[1]


def choose_classes(scores: Scores, wanted: Sequence[str]) -> list[int]:
    """The classes whose curves are drawn: `wanted` (names or indices), else a frequent, a middling and a weak one.

    Raises:
        UsageError: a name is not in the vocabulary.
    """
    if wanted:
        places = {name.casefold(): index for index, name in reversed(list(enumerate(scores.names)))}
        chosen = []
        for name in wanted:
            if name.isdecimal() and int(name) < scores.class_count:
                chosen.append(int(name))
            elif name.casefold() in places:
                chosen.append(places[name.casefold()])
            else:
                error = unknown_choice("class", name, scores.names)
                raise UsageError(str(error).split(" (known:")[0])
        return chosen
    ap, support = scores.columns["ap"], scores.columns["support"]
    known = np.flatnonzero(np.isfinite(ap) & (support >= min(FEW_POSITIVES, np.nanmax(support, initial=0))))
    if not len(known):
        return []
    by_ap = known[np.argsort(ap[known], kind="stable")]
    frequent = int(known[np.argmax(support[known])])
    return list(dict.fromkeys([frequent, int(by_ap[len(by_ap) // 2]), int(by_ap[len(by_ap) // 10])]))


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """A class that was missed and one that was predicted in its stead, in `count` videos."""

    true_index: int
    predicted_index: int
    count: int
    missed: int


def confused_pairs(scores: Scores, how_many: int = 30) -> list[ConfusedPair]:
    """The pairs that were confused most often; `missed` is how often the true class was missed in all."""
    rows = scores.confusion[scores.confusion[:, 0] != scores.confusion[:, 1]]
    right = np.zeros(scores.class_count, np.int64)
    same = scores.confusion[scores.confusion[:, 0] == scores.confusion[:, 1]]
    right[same[:, 0]] = same[:, 2]
    order = np.lexsort((rows[:, 1], rows[:, 0], -rows[:, 2]))[:how_many]
    return [
        ConfusedPair(int(true), int(predicted), int(count), int(scores.columns["support"][true] - right[true]))
        for true, predicted, count in rows[order]
    ]


def vertical_confusion(scores: Scores) -> tuple[list[str], np.ndarray]:
    """Counts (V, V) of true vertical (row) × predicted, most frequent first; ([], …) without verticals."""
    if not scores.has_verticals:
        return [], np.zeros((0, 0), np.int64)
    mains = [scores.main_vertical(index) for index in range(scores.class_count)]
    positives: dict[str, float] = dict.fromkeys(mains, 0.0)
    for name, support in zip(mains, scores.columns["support"], strict=True):
        positives[name] += support
    names = sorted(positives, key=lambda name: (-positives[name], name))
    place = {name: row for row, name in enumerate(names)}
    of_class = np.array([place[name] for name in mains], np.int64)
    counts = np.zeros((len(names), len(names)), np.int64)
    true, predicted, count = scores.confusion.T
    np.add.at(counts, (of_class[true], of_class[predicted]), count)
    return names, counts


def class_confusion(scores: Scores, how_many: int = 25) -> tuple[list[str], np.ndarray]:
    """Counts among the classes confused most often, for a vocabulary without verticals."""
    rows = scores.confusion
    weight = np.zeros(scores.class_count, np.int64)
    off = rows[rows[:, 0] != rows[:, 1]]
    np.add.at(weight, off[:, 0], off[:, 2])
    np.add.at(weight, off[:, 1], off[:, 2])
    chosen = [int(index) for index in np.argsort(-weight, kind="stable")[:how_many] if weight[index]]
    place = np.full(scores.class_count, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    counts = np.zeros((len(chosen), len(chosen)), np.int64)
    known = (place[rows[:, 0]] >= 0) & (place[rows[:, 1]] >= 0)
    np.add.at(counts, (place[rows[known, 0]], place[rows[known, 1]]), rows[known, 2])
    return [scores.names[index] for index in chosen], counts


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A bar that the model must reach: a metric of `METRICS` and its least (or greatest) value."""

    metric: Metric
    bar: float

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Reads `gap_at_20=0.7`.

        Raises:
            UsageError: it is not of that form, or no such metric.
        """
        key, equals, value = text.partition("=")
        try:
            bar = float(value)
        except ValueError:
            bar = math.nan
        if not equals or not math.isfinite(bar):
            raise UsageError(f"--require takes METRIC=NUMBER like gap_at_20=0.7, got {text!r}")
        known = {metric.key: metric for metric in METRICS}
        if key not in known:
            raise unknown_choice("metric", key, known)
        return cls(known[key], bar)


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the verdict: `state` is "good", "attention", "bad" or "note"."""

    state: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer at the top of the page."""

    state: str
    title: str
    text: str
    checks: list[Check]


def check_requirement(requirement: Requirement, found: Sequence[Estimate]) -> Check:
    """Whether a bar is reached for certain, missed for certain, or neither."""
    estimate = estimate_of(found, requirement.metric.key)
    sign = "≥" if requirement.metric.higher_is_better else "≤"
    title = f"{requirement.metric.title} {sign} {requirement.bar:g}"
    if estimate is None:
        return Check("bad", title, "This run has no such metric.")
    low, high = (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
    worse, better = (low, high) if requirement.metric.higher_is_better else (-high, -low)
    bar = requirement.bar if requirement.metric.higher_is_better else -requirement.bar
    interval = f"{estimate.value:.3f} ({low:.3f} to {high:.3f})" if estimate.has_interval else f"{estimate.value:.3f}"
    if worse >= bar:
        return Check("good", title, f"Reached: {interval}.")
    if better < bar:
        return Check("bad", title, f"Missed: {interval}.")
    return Check("attention", title, f"Undecided: the interval {interval} holds the bar. More videos would decide.")


def verdict(
    scores: Scores,
    found: Sequence[Estimate],
    against: Sequence[Change] | None,
    by_class: ClassChanges | None,
    requirements: Sequence[Requirement],
    *,
    same_labels: bool = True,
) -> Verdict:
    """The answer to "does it ship", from bars and baseline where there are any, and what to mind in any case.

    Args:
        scores: this run.
        found: its headline metrics.
        against: their changes against a baseline, if there is one.
        by_class: changes by class, if there is one.
        requirements: bars that the model must reach.
        same_labels: the baseline was measured on as many positives of each class, as the same videos would have.
    """
    checks = [check_requirement(requirement, found) for requirement in requirements]
    lead = next((entry for key in ("gap_at_20", "map", "hit_at_1") if (entry := estimate_of(found, key))), None)
    if lead is None:
        headline, text = "No metric could be computed", "The scored videos carry too few labels."
    else:
        headline = f"{lead.metric.title} {lead.value:.3f}"
        headline += f" ({lead.low:.3f} to {lead.high:.3f})" if lead.has_interval else ""
        text = (
            "No bar (--require) and no previous run (--baseline) was given, so there is nothing to pass or fail: the "
            "figures below say what the model can do."
        )
    states, titles, texts = [], [], []
    if checks:
        bars = {check.state for check in checks}
        states.append("bad" if "bad" in bars else "attention" if "attention" in bars else "good")
        titles.append(
            {"good": "Every bar is reached", "bad": "A bar is missed", "attention": "A bar is undecided"}[states[0]]
        )
        reached = sum(check.state == "good" for check in checks)
        texts.append(f"{reached} of {many(len(checks), 'bar')} reached for certain; {headline}.")
    if against:
        change = next((entry for entry in against if lead and entry.now.metric == lead.metric), against[0])
        states.append("attention" if not change.exceeds else "good" if change.improves else "bad")
        titles.append(
            {
                "good": "better than the baseline, beyond chance",
                "bad": "worse than the baseline, beyond chance",
                "attention": "no change against the baseline beyond chance",
            }[states[-1]]
        )
        texts.append(_change_in_words(change, by_class))
    if titles:
        title = ", and ".join(titles)
        headline, text = title[0].upper() + title[1:], " ".join(texts)
    state = next((state for state in ("bad", "attention", "good") if state in states), "note")
    if not same_labels:
        other = "The baseline was measured on other videos: the number of positives differs by class, so part of the "
        checks.append(Check("attention", "Comparison", other + "change may come from the videos."))
    return Verdict(state, headline, text, checks + _standing_checks(scores))


def _change_in_words(change: Change, by_class: ClassChanges | None) -> str:
    text = (
        f"{change.now.metric.title} {change.before.value:.3f} → {change.now.value:.3f} ({signed(change.delta)}); 95 % "
        f"interval of the difference {signed(change.low)} to {signed(change.high)}."
    )
    if by_class is None:
        return text
    up, down = (int((by_class.exceeds & (by_class.delta * sign > 0)).sum()) for sign in (1, -1))
    return (
        f"{text} By class: {up:,} better and {down:,} worse beyond their interval, of {int(by_class.compared.sum()):,} "
        "compared."
    )


def slice_tables(scores: Scores) -> list[Table]:
    """One table for each feature of the videos by which the score job sliced its metrics (verticals have their own)."""
    slices = (scores.summary or {}).get("slices")
    tables = []
    for feature, values in (slices or {}).items():
        if feature in ("frequency", "vertical") or not isinstance(values, dict):
            continue
        known = {metric.key: metric.title for metric in METRICS} | {"videos": "Videos", "labels": "Labels"}
        keys = [key for key in known if any(key in figures for figures in values.values())]
        keys.sort(key=lambda key: key not in ("videos", "labels"))
        tables.append(
            Table(
                "slice_" + "".join(character if character.isalnum() else "_" for character in feature),
                (feature, *(known[key] for key in keys)),
                [[value, *(figures.get(key) for key in keys)] for value, figures in values.items()],
            )
        )
    return tables


def segment_rows(scores: Scores) -> list[int]:
    """Classes with a positive among the rated segments, the highest AP@K first, the better measured first of equals."""
    if scores.segments is None:
        return []
    measured = np.flatnonzero(scores.segments.positives > 0)
    order = np.lexsort((-scores.segments.positives[measured], -scores.segments.ap[measured]))
    return measured[order].tolist()


def _standing_checks(scores: Scores) -> list[Check]:
    info, support = scores.info, scores.columns["support"]
    checks = []
    split = _plain(info.get("split"))
    if split in ("test", "validate"):
        checks.append(
            Check(
                "good" if split == "test" else "attention",
                "Held out",
                (
                    "Only videos of the test split were scored."
                    if split == "test"
                    else "Scored on the validation split, which chose the thresholds: the figures flatter a little."
                ),
            )
        )
    else:
        checks.append(
            Check(
                "attention",
                "Held out",
                (
                    "The training split was scored: the figures flatter."
                    if split == "train"
                    else "Every video of the input was scored. If the model learnt from some, the figures flatter; "
                    "--split=test of the score job keeps the held-out ones."
                ),
            )
        )
    if scores.segments is not None:
        checks.append(
            Check(
                "note",
                "Segments",
                f"These records are segments of which raters saw {scores.segments.summary['rated_pairs']:,} pairs of "
                "segment and class. Judge by MAP@K over those pairs: every other figure counts a class that nobody "
                "was asked about as absent, and is too low.",
            )
        )
    enough, measured = int((support >= FEW_POSITIVES).sum()), int((support > 0).sum())
    share = support[support >= FEW_POSITIVES].sum() / max(support.sum(), 1)
    checks.append(
        Check(
            "good" if share >= 0.9 else "attention",
            "Evidence",
            f"{measured:,} of {scores.class_count:,} classes have a positive among the scored videos; {enough:,} have "
            f"at least {FEW_POSITIVES} and hold {100 * share:.0f} % of the labels. "
            + ("" if enough == scores.class_count else "This run says little of the others."),
        )
    )
    read, rejected = info.get("records_read"), info.get("records_rejected", 0)
    if read:
        checks.append(
            Check(
                "good" if not rejected else "attention",
                "Input",
                (
                    f"All {read:,} records could be read."
                    if not rejected
                    else f"{rejected:,} of {read:,} records ({100 * rejected / read:.2g} %) were rejected, see below."
                ),
            )
        )
    return checks


def _plain(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("name") or value.get("split")
    return value if isinstance(value, str) else None
