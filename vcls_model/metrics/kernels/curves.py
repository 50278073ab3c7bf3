"""Curves of every class, and average precision of resampled counts."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)


@njit
def class_curves(table, positives, grid_size):
    """Precision at recall and true positive rate at false positive rate, on `grid_size` even points from 0 to 1.

    Precision at recall r is that of the highest bin edge whose recall is at least r; the true positive rate is
    interpolated linearly along the ROC curve. Rows are NaN for classes without positives (ROC: or negatives).

    Returns:
        (C, grid_size) float32 twice.
    """
    class_count, bin_count = table.shape
    precision = np.full((class_count, grid_size), np.nan, np.float32)
    rate = np.full((class_count, grid_size), np.nan, np.float32)
    steps = grid_size - 1
    for c in range(class_count):
        support = np.int64(0)
        total = np.int64(0)
        for b in range(bin_count):
            support += positives[c, b]
            total += table[c, b]
        if support == 0:
            continue
        negatives = total - support
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        pr_at = 0
        roc_at = 0
        for i in range(bin_count):
            b = bin_count - 1 - i
            entries = np.int64(table[c, b])
            if entries == 0:
                continue
            p = np.int64(positives[c, b])
            n = entries - p
            above_positives += p
            while p > 0 and pr_at < grid_size and above_positives * steps >= pr_at * support:
                precision[c, pr_at] = above_positives / (above_positives + above_negatives + n)
                pr_at += 1
            while n > 0 and roc_at < grid_size and (above_negatives + n) * steps >= roc_at * negatives:
                fraction = (roc_at * negatives / steps - above_negatives) / n
                rate[c, roc_at] = (above_positives - p + fraction * p) / support
                roc_at += 1
            above_negatives += n
    return precision, rate


@njit
def resampled_precisions(hits, hard_negatives, easy_negatives, weights):
    """Sums of precisions at the positives for resampled counts over coarse cells.

    Args:
        hits, hard_negatives: (R, C, cells) float32, counts of each resample, cells by ascending score.
        easy_negatives: (C, cells) float64, negatives that are not resampled but scaled by the resample's weight.
        weights: (R,) float64, number of videos in the resample over their number in the data.

    Returns:
        (R, C) float64 sums, and (R, C) float64 numbers of positives.
    """
    resamples, class_count, cells = hits.shape
    sums = np.zeros((resamples, class_count))
    positives = np.zeros((resamples, class_count))
    for r in range(resamples):
        for c in range(class_count):
            above_positives = 0.0
            above_negatives = 0.0
            for i in range(cells):
                b = cells - 1 - i
                p = float(hits[r, c, b])
                n = hard_negatives[r, c, b] + easy_negatives[c, b] * weights[r]
                if p > 0:
                    # The cell's positives, spread evenly among its negatives, at their middle.
                    middle = above_positives + 0.5 * (p + 1)
                    sums[r, c] += p * middle / (middle + above_negatives + 0.5 * n)
                above_positives += p
                above_negatives += n
            positives[r, c] = above_positives
    return sums, positives
