"""Classes grouped by frequency, vertical and number of examples, and classes picked out for the page."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipelines.reporting.findings.intervals import FEW_POSITIVES, Z95, class_intervals
from pipelines.reporting.inputs.scores import Scores
from vcls_model.commands import UsageError, unknown_choice


@dataclasses.dataclass(frozen=True)
class ClassGroup:
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


def _group(name: str, note: str, members: np.ndarray, scores: Scores) -> ClassGroup:
    ap, support = scores.columns["ap"][members], scores.columns["support"][members]
    measured = np.isfinite(ap)
    count = int(measured.sum())
    mean = float(ap[measured].mean()) if count else math.nan
    half = Z95 * float(ap[measured].std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    f1 = scores.columns["f1"][members][measured]
    return ClassGroup(
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


def frequency_groups(scores: Scores) -> list[ClassGroup]:
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


def vertical_groups(scores: Scores) -> list[ClassGroup]:
    """One group per vertical, most positives first (a class counts in each of its verticals); [] without verticals."""
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


def span(low: int, high: int) -> str:
    """The whole numbers from `low` to below `high`, in words."""
    return f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Classes at one end of the scale, and whether each one's whole interval lies beyond the mean of all classes."""

    classes: list[int]
    sure: bool


def best_and_worst(scores: Scores, how_many: int = 12) -> tuple[Ranking, Ranking]:
    """Classes that are reliably good and reliably bad: highest lower end, and lowest upper end, of the interval of AP.

    A class with few positives, whose AP may be chance, enters neither list; nor does one whose interval holds the mean
    of all classes. Where no class is reliably so, the list holds the closest ones.
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


def _index_of(name: str, names: Sequence[str]) -> int:
    """The class that a user calls `name`: its index, its name, or its name in another case."""
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    exact = [index for index, each in enumerate(names) if each == name]
    matches = exact or [index for index, each in enumerate(names) if each.casefold() == name.casefold()]
    if not matches:
        raise UsageError(str(unknown_choice("class", name, names)).split(" (known:")[0])
    if len(matches) > 1:
        shown = ", ".join(f"{index} ({names[index]})" for index in matches)
        raise UsageError(f"--classes={name}: {len(matches)} classes have that name; name one by its index: {shown}")
    return matches[0]


def choose_classes(scores: Scores, names: Sequence[str]) -> list[int]:
    """The classes whose curves are drawn: `names` (names or indices), else a frequent, a median and a weak one.

    Raises:
        UsageError: a name is not in the vocabulary, or several classes have it.
    """
    if names:
        return [_index_of(name, scores.names) for name in names]
    ap, support = scores.columns["ap"], scores.columns["support"]
    known = np.flatnonzero(np.isfinite(ap) & (support >= min(FEW_POSITIVES, np.nanmax(support, initial=0))))
    if not len(known):
        return []
    by_ap = known[np.argsort(ap[known], kind="stable")]
    frequent = int(known[np.argmax(support[known])])
    return list(dict.fromkeys([frequent, int(by_ap[len(by_ap) // 2]), int(by_ap[len(by_ap) // 10])]))


def segment_rows(scores: Scores) -> list[int]:
    """Classes with a positive among the rated segments, the highest AP@K first, the better measured first of equals."""
    if scores.segments is None:
        return []
    measured = np.flatnonzero(scores.segments.positives > 0)
    order = np.lexsort((-scores.segments.positives[measured], -scores.segments.ap[measured]))
    return measured[order].tolist()
