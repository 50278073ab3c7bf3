"""The graph of label co-occurrence, counted from training labels. numpy only."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelGraph:
    """Each class's strongest neighbours.

    Attributes:
        neighbours: int32 (C, K): the classes whose presence says most about a class; rows with fewer are filled with 0.
        strength: float32 (C, K): P(class | neighbour) in [0, 1]; 0 where there is no neighbour.
    """

    neighbours: np.ndarray
    strength: np.ndarray


def count_label_graph(
    label_values: np.ndarray, label_lengths: np.ndarray, class_count: int, *, degree: int = 8, smoothing: float = 5.0
) -> LabelGraph:
    """Counts which labels occur together.

    Args:
        label_values: int (n,), labels of all training videos, one video after the other; no video names a label twice.
        label_lengths: int (B,), number of labels of each video; they add to n.
        class_count: number of classes C.
        degree: neighbours per class, K.
        smoothing: added to the denominator of P(class | neighbour), so that a pair seen once does not count as certain.

    Raises:
        ValueError: a label is outside [0, C), or the lengths do not add up.
    """
    values = np.asarray(label_values, np.int64)
    lengths = np.asarray(label_lengths, np.int64)
    if lengths.sum() != len(values):
        raise ValueError(f"label_lengths add to {lengths.sum()}, but there are {len(values)} labels")
    if len(values) and (values.min() < 0 or values.max() >= class_count):
        raise ValueError(f"labels must lie in [0, {class_count}), got {values.min()}..{values.max()}")
    degree = min(degree, class_count)
    counts = np.bincount(values, minlength=class_count)
    pairs = _ordered_pairs(values, lengths, class_count)
    keys, together = np.unique(pairs, return_counts=True)
    target, source = keys // class_count, keys % class_count
    probability = together / (counts[source] + smoothing)
    neighbours = np.zeros((class_count, degree), np.int32)
    strength = np.zeros((class_count, degree), np.float32)
    order = np.lexsort((source, -probability, target))
    target, source, probability = target[order], source[order], probability[order]
    starts = np.searchsorted(target, np.arange(class_count))
    rank = np.arange(len(target)) - starts[target]
    kept = rank < degree
    neighbours[target[kept], rank[kept]] = source[kept]
    strength[target[kept], rank[kept]] = probability[kept]
    return LabelGraph(neighbours, strength)


def _ordered_pairs(values: np.ndarray, lengths: np.ndarray, class_count: int) -> np.ndarray:
    """`target * class_count + source` for every ordered pair of different labels of a video."""
    repeats = np.repeat(lengths, lengths)
    left = np.repeat(values, repeats)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    within = np.arange(len(left)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    right = values[np.repeat(starts, repeats) + within]
    different = left != right
    return left[different] * class_count + right[different]
