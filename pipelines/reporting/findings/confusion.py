"""Which classes are predicted in place of which."""

import dataclasses

import numpy as np

from pipelines.reporting.inputs.scores import Scores


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """A class that was missed and one that was predicted in its place, in `count` videos."""

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


def class_confusion(scores: Scores, how_many: int = 25) -> tuple[list[int], np.ndarray]:
    """Classes confused most often, and counts among them, for a vocabulary without verticals."""
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
    return chosen, counts
