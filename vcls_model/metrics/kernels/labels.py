"""What the true labels of the videos say about their scores and their best classes."""

from typing import NamedTuple

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.metrics.kernels.bins import bin_of, coarse_bin, ordered_bits

njit = njit_of(__package__)


class LabelRows(NamedTuple):
    """True classes of B videos: those of video r are `classes[starts[r] : starts[r + 1]]`.

    Attributes:
        classes: (n,) int64, each at most once per video.
        starts: (B + 1,) int64.
    """

    classes: np.ndarray
    starts: np.ndarray


class BestRows(NamedTuple):
    """The best classes of B videos in descending order of score, laid out as in `LabelRows`; no fewer than labels.

    Attributes:
        classes: (m,) int32.
        logits: (m,) float32.
        starts: (B + 1,) int64.
    """

    classes: np.ndarray
    logits: np.ndarray
    starts: np.ndarray


@njit
def mark_hits(labels, best, class_count):
    """Compares the best classes with the labels.

    Args:
        labels: `LabelRows`.
        best: `BestRows`.
        class_count: number of classes C.

    Returns:
        (m,) bool, whether each of `best` is a label of its video; and (B,) int64, how many labels of a video are among
        as many of its best as it has labels.
    """
    hits = np.zeros(best.classes.shape[0], np.bool_)
    recalled = np.zeros(labels.starts.shape[0] - 1, np.int64)
    video_of = np.full(class_count, -1, np.int64)
    for r in range(recalled.shape[0]):
        count = labels.starts[r + 1] - labels.starts[r]
        for i in range(labels.starts[r], labels.starts[r + 1]):
            video_of[labels.classes[i]] = r
        for i in range(best.starts[r], best.starts[r + 1]):
            hits[i] = video_of[best.classes[i]] == r
            if i - best.starts[r] < count:
                recalled[r] += hits[i]
    return hits, recalled


@njit
def count_labels(logits, labels, groups, thresholds, edges, true_positives, group_positives):
    """Adds the scores of the true labels to counts.

    Args:
        logits: (B, C) float32.
        labels: `LabelRows`.
        groups: (B,) int64, bootstrap group of each video.
        thresholds: (T, C) float32 logits.
        edges: upper ends of the coarse cells, logits.
        true_positives: (T, C) int64, added to where a label's score reaches its threshold.
        group_positives: (C, cells, groups) uint32, added to.

    Returns:
        (B,) int64, the label with the lowest score, the first of equals; -1 for a video without labels.
    """
    lowest = np.full(logits.shape[0], -1, np.int64)
    for r in range(logits.shape[0]):
        for i in range(labels.starts[r], labels.starts[r + 1]):
            label = labels.classes[i]
            x = logits[r, label]
            group_positives[label, coarse_bin(x, edges), groups[r]] += np.uint32(1)
            for t in range(thresholds.shape[0]):
                true_positives[t, label] += np.int64(x >= thresholds[t, label])
            if lowest[r] < 0 or x < logits[r, lowest[r]]:
                lowest[r] = label
    return lowest


@njit
def count_best(best, hits, keep, groups, edges, group_negatives, pooled_hits, pooled_totals):
    """Adds the `keep` best classes of every video to counts.

    Args:
        best: `BestRows`, at least `keep` classes per video.
        hits: (m,) bool of `mark_hits`.
        keep: how many of a video's best classes count.
        groups: (B,) int64, bootstrap group of each video.
        edges: upper ends of the coarse cells, logits.
        group_negatives: (C, cells, groups) uint32, added to where the class is not a label.
        pooled_hits, pooled_totals: (bins, groups) uint32, added to.

    Returns:
        (B * keep,) uint64 keys class << 33 | ordered score << 1 | hit; and the best class that is a label and the best
        that is not, (B,) int64 each, -1 where there is none.
    """
    rows = best.starts.shape[0] - 1
    keys = np.empty(rows * keep, np.uint64)
    best_hit = np.full(rows, -1, np.int64)
    best_false = np.full(rows, -1, np.int64)
    for r in range(rows):
        group = groups[r]
        for place in range(keep):
            i = best.starts[r] + place
            c = best.classes[i]
            x = best.logits[i]
            keys[r * keep + place] = (
                (np.uint64(c) << np.uint64(33)) | (np.uint64(ordered_bits(x)) << np.uint64(1)) | np.uint64(hits[i])
            )
            pooled_totals[bin_of(x), group] += np.uint32(1)
            if hits[i]:
                pooled_hits[bin_of(x), group] += np.uint32(1)
                if best_hit[r] < 0:
                    best_hit[r] = c
            else:
                group_negatives[c, coarse_bin(x, edges), group] += np.uint32(1)
                if best_false[r] < 0:
                    best_false[r] = c
    return keys, best_hit, best_false


@njit
def confused_classes(labels, best, hits, recalled, class_count):
    """Which classes were predicted in place of a label, when a video is given as many as it has labels.

    A label among them is paired with itself, any other with each of them that is not a label.

    Args:
        labels: `LabelRows`.
        best: `BestRows`.
        hits, recalled: as `mark_hits` gives them.
        class_count: number of classes C.

    Returns:
        (k,) int64 keys true class * C + predicted class, and the video of each (k,) int64.
    """
    rows = recalled.shape[0]
    size = np.int64(0)
    for r in range(rows):
        missed = labels.starts[r + 1] - labels.starts[r] - recalled[r]
        size += recalled[r] + missed * missed
    keys = np.empty(size, np.int64)
    videos = np.empty(size, np.int64)
    predicted_for = np.full(class_count, -1, np.int64)
    at = 0
    for r in range(rows):
        first = best.starts[r]
        count = labels.starts[r + 1] - labels.starts[r]
        for i in range(first, first + count):
            predicted_for[best.classes[i]] = r
        for label in labels.classes[labels.starts[r] : labels.starts[r + 1]]:
            if predicted_for[label] == r:
                keys[at] = label * class_count + label
                videos[at] = r
                at += 1
                continue
            for i in range(first, first + count):
                if not hits[i]:
                    keys[at] = label * class_count + best.classes[i]
                    videos[at] = r
                    at += 1
    return keys, videos
