"""How far each group of videos moves an average precision: what the spread of a paired difference is computed from.

The infinitesimal jackknife (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 6): the
variance of a bootstrap that draws whole groups of videos is, to first order, the sum over groups of the squared
derivatives of the figure with respect to the group's weight. The derivatives of two runs over the same videos are
subtracted group by group, so that what both runs find hard or easy cancels.
"""

import numpy as np

from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import BIN_COUNT, bins_of
from vcls_model.metrics.layout import GROUPS
from vcls_model.metrics.spread import GroupInfluence

_CLASSES_PER_CHUNK = 512


def derivatives(totals: np.ndarray, positives: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d AP / d weight of one more score, by the bin that it lies in, for K rankings.

    With the precision p, positives n and scores N at and above a bin, and the sums over the bins at and below a score's
    own, a positive moves AP by (p + sum n (1 - p) / N - AP) / P, a negative by -(sum n p / N) / P.

    Args:
        totals: (K, bins) counts of all scores, the lowest bin first.
        positives: (K, bins) counts of the scores of true labels.
        support: (K,) positives P of each ranking, those outside of it included; above 0 where there are any.

    Returns:
        Of a positive and of a negative in each bin, (K, bins) float64 each; all 0 for a ranking without positives.
    """
    above, hits = (counts[:, ::-1].astype(np.float64).cumsum(axis=1)[:, ::-1] for counts in (totals, positives))
    precision = np.divide(hits, above, out=np.zeros_like(above), where=above > 0)
    weights = np.divide(positives, above, out=np.zeros_like(above), where=above > 0)
    whole = np.maximum(np.asarray(support, np.float64), 1)[:, None]
    ap = (positives * precision).sum(axis=1, keepdims=True) / whole
    of_positive = (precision + np.cumsum(weights * (1 - precision), axis=1) - ap) / whole
    of_negative = -np.cumsum(weights * precision, axis=1) / whole
    none = np.asarray(support) == 0
    of_positive[none], of_negative[none] = 0, 0
    return of_positive, of_negative


class InfluenceSums:
    """Adds up the influence of the videos of a run by group, from its counts and a pass over its predictions.

    The counts say how much each score moves a class; the predictions say whose score it is. What predictions leave out,
    scores far down the ranking, is shared among the groups: true labels by their number, negatives by that of videos.

    Memory at 3,862 classes: two tables of 33 MB and three of 2 MB, whatever the number of videos.
    """

    def __init__(self, accumulator: MetricAccumulator):
        """Args:
        accumulator: the counts of the run.
        """
        classes = self._class_count = accumulator.class_count
        table, positives = accumulator.tables()
        self._of_positive = np.empty((classes, BIN_COUNT), np.float32)
        self._of_negative = np.empty((classes, BIN_COUNT), np.float32)
        # (2, C): the sums over all negatives, and all positives, of a class.
        self._whole = np.zeros((2, classes))
        self._measured = int(np.count_nonzero(positives.any(axis=1)))
        for first in range(0, classes, _CLASSES_PER_CHUNK):
            chunk = slice(first, first + _CLASSES_PER_CHUNK)
            hits = positives[chunk].astype(np.int64)
            of_positive, of_negative = derivatives(table[chunk], hits, hits.sum(axis=1))
            self._whole[0, chunk] = ((table[chunk] - hits) * of_negative).sum(axis=1)
            self._whole[1, chunk] = (hits * of_positive).sum(axis=1)
            self._of_positive[chunk], self._of_negative[chunk] = of_positive, of_negative
        self._seen = np.zeros((2, classes * GROUPS))
        self._unseen = np.zeros(classes * GROUPS, np.int64)
        self._videos = np.zeros(GROUPS, np.int64)
        self._gap = _gap_influence(accumulator)

    def add(
        self, groups: np.ndarray, rows: np.ndarray, classes: np.ndarray, logits: np.ndarray, hits: np.ndarray
    ) -> None:
        """Adds the predictions of B labelled videos.

        Args:
            groups: (B,) int64 in [0, GROUPS), the group of each video.
            rows: (n,) the video of each prediction.
            classes: (n,) its class, in [0, C).
            logits: (n,) its score.
            hits: (n,) bool, whether the class is a label of the video.
        """
        self._videos += np.bincount(groups, minlength=GROUPS)
        bins = bins_of(logits)
        keys = classes * GROUPS + groups[rows]
        for number, (chosen, table) in enumerate(((~hits, self._of_negative), (hits, self._of_positive))):
            values = table[classes[chosen], bins[chosen]]
            self._seen[number] += np.bincount(keys[chosen], values, self._seen.shape[1])

    def add_unseen(self, groups: np.ndarray, classes: np.ndarray) -> None:
        """Adds true labels that the predictions leave out: (n,) the group of the video and the class of each."""
        self._unseen += np.bincount(classes * GROUPS + groups, minlength=self._unseen.size)

    def result(self) -> GroupInfluence:
        """The influence of each group."""
        shape = (self._class_count, GROUPS)
        negatives, positives = self._seen.reshape(2, *shape)
        unseen = self._unseen.reshape(shape)
        left = self._whole - self._seen.reshape(2, *shape).sum(axis=2)
        each = left[1] / np.maximum(unseen.sum(axis=1), 1)
        videos = self._videos / max(self._videos.sum(), 1)
        ap = negatives + positives + unseen * each[:, None] + left[0][:, None] * videos
        return GroupInfluence(self._gap, ap.sum(axis=0) / max(self._measured, 1), ap.T)


def _gap_influence(accumulator: MetricAccumulator) -> np.ndarray:
    hits, totals = accumulator.pooled_hits.astype(np.int64), accumulator.pooled_totals.astype(np.int64)
    labels = accumulator.group_labels
    of_positive, of_negative = derivatives(totals.sum(axis=1)[None], hits.sum(axis=1)[None], np.array([labels.sum()]))
    # A label outside every video's best 20 only lowers GAP, by as much as a positive below all others.
    gap = float((hits.sum(axis=1) * of_positive[0]).sum() + ((totals - hits).sum(axis=1) * of_negative[0]).sum())
    outside = labels - hits.sum(axis=0)
    each = -gap / outside.sum() if outside.sum() else 0.0
    return of_positive[0] @ hits + of_negative[0] @ (totals - hits) + outside * each
