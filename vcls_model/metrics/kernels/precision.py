"""Average precision and other figures of a ranking of which only counts by cell are known."""

import math

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)
# Below this the harmonic sums are added term by term; above, the asymptotic series is exact to double precision.
_SERIES_START = 64


@njit
def harmonic(start, count):
    """Sum of 1 / (start + k) for k = 1 ... count, `start` >= 0."""
    total = 0.0
    while count > 0 and (start < _SERIES_START or count < 4):
        start += 1
        count -= 1
        total += 1.0 / start
    if count > 0:
        # digamma(b + 1) - digamma(a + 1) with digamma(x + 1) = ln x + 1/2x - 1/12x^2 + 1/120x^4 - ...
        a = float(start)
        b = float(start + count)
        total += math.log1p(count / a) + 0.5 * (1 / b - 1 / a) - (1 / b**2 - 1 / a**2) / 12
        total += (1 / b**4 - 1 / a**4) / 120 - (1 / b**6 - 1 / a**6) / 252
    return total


@njit
def tied_terms(above_positives, above_negatives, p, n):
    """What a cell of p positives and n negatives of unknown order adds to the sum of precisions at the positives.

    Returns (tied, lowest, highest): all of the cell at one threshold, which is how scikit-learn counts equal scores;
    negatives first; positives first and tied. (P + k) / (P + k + D) = 1 - D / (P + k + D) turns the lowest,
    the sum of that over k = 1 ... p with D negatives, into a harmonic sum.
    """
    if p == 0:
        return 0.0, 0.0, 0.0
    reached = float(above_positives + p)
    negatives = above_negatives + n
    tied = p * reached / (reached + negatives)
    highest = p * reached / (reached + above_negatives)
    lowest = p - negatives * harmonic(above_positives + negatives, p)
    return tied, min(lowest, tied), highest


@njit
def cell_precisions(owners, positives, totals, limit, owner_count):
    """Sums of precisions at the positives over sorted cells, for each owner.

    Args:
        owners: (n,) int64, ascending: the class of each cell, or 0.
        positives, totals: (n,) int64 counts of each cell, cells of an owner by ascending score.
        limit: only the best `limit` entries of an owner count; a cell that crosses it is split in proportion.
        owner_count: number of owners.

    Returns:
        (owner_count, 3) float64: tied, lowest, highest.
    """
    sums = np.zeros((owner_count, 3))
    owner = np.int64(-1)
    above_positives = np.int64(0)
    above_negatives = np.int64(0)
    for at in range(owners.shape[0]):
        i = owners.shape[0] - 1 - at
        if owners[i] != owner:
            owner = owners[i]
            above_positives = np.int64(0)
            above_negatives = np.int64(0)
        room = limit - above_positives - above_negatives
        if room <= 0:
            continue
        p = positives[i]
        n = totals[i] - p
        if p + n <= room:
            tied, lowest, highest = tied_terms(above_positives, above_negatives, p, n)
        else:
            fewest = max(0, room - n)
            most = min(p, room)
            lowest = tied_terms(above_positives, above_negatives, fewest, room - fewest)[1]
            highest = tied_terms(above_positives, above_negatives, most, room - most)[2]
            likely = int(round(p * room / (p + n)))
            tied = tied_terms(above_positives, above_negatives, likely, room - likely)[0]
        sums[owner, 0] += tied
        sums[owner, 1] += lowest
        sums[owner, 2] += highest
        above_positives += p
        above_negatives += n
    return sums


@njit
def exact_statistics(keys):
    """Per-class figures of the full ranking from every score.

    Args:
        keys: (C, N) uint64 of `score_keys`, each row ascending.

    Returns:
        (C, 4) float64: sum of precisions (tied, lowest, highest), which differ where scores tie, and area under
        the ROC curve times positives times negatives.
    """
    class_count, rows = keys.shape
    out = np.zeros((class_count, 4))
    for c in range(class_count):
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        i = rows - 1
        while i >= 0:
            score = keys[c, i] >> np.uint64(1)
            p = np.int64(0)
            n = np.int64(0)
            while i >= 0 and keys[c, i] >> np.uint64(1) == score:
                if keys[c, i] & np.uint64(1):
                    p += 1
                else:
                    n += 1
                i -= 1
            terms = tied_terms(above_positives, above_negatives, p, n)
            out[c, 0] += terms[0]
            out[c, 1] += terms[1]
            out[c, 2] += terms[2]
            out[c, 3] += n * (above_positives + 0.5 * p)
            above_positives += p
            above_negatives += n
    return out


@njit
def class_statistics(table, positives, bin_probability, calibration_bin, calibration_bins):
    """Per-class figures of the full ranking, from counts by bin.

    Args:
        table: (C, bins) uint32, all scores.
        positives: (C, bins) uint32, scores of true labels.
        bin_probability: (bins,) float64, probability at the middle of each bin.
        calibration_bin: (bins,) int64, the calibration cell of each bin.
        calibration_bins: number of calibration cells.

    Returns:
        (C, 9) float64: support, sum of precisions (tied, lowest, highest), ROC area times positives times
        negatives, bin whose lower edge has the best F1, that F1, calibration error, mean probability. Ratios without
        a denominator are NaN.
    """
    class_count, bin_count = table.shape
    out = np.empty((class_count, 9))
    counts = np.empty(calibration_bins)
    hits = np.empty(calibration_bins)
    confidence = np.empty(calibration_bins)
    for c in range(class_count):
        support = np.int64(0)
        total = np.int64(0)
        for b in range(bin_count):
            support += positives[c, b]
            total += table[c, b]
        counts[:] = 0
        hits[:] = 0
        confidence[:] = 0
        above_positives = np.int64(0)
        above_negatives = np.int64(0)
        tied = 0.0
        lowest = 0.0
        highest = 0.0
        area = 0.0
        best_f1 = -1.0
        best_bin = np.int64(-1)
        for i in range(bin_count):
            b = bin_count - 1 - i
            entries = np.int64(table[c, b])
            if entries == 0:
                continue
            p = np.int64(positives[c, b])
            n = entries - p
            if p > 0:
                terms = tied_terms(above_positives, above_negatives, p, n)
                tied += terms[0]
                lowest += terms[1]
                highest += terms[2]
            area += n * (above_positives + 0.5 * p)
            above_positives += p
            above_negatives += n
            if p > 0:
                f1 = 2.0 * above_positives / (above_positives + above_negatives + support)
                if f1 > best_f1:
                    best_f1 = f1
                    best_bin = b
            cell = calibration_bin[b]
            counts[cell] += entries
            hits[cell] += p
            confidence[cell] += entries * bin_probability[b]
        error = 0.0
        probability = 0.0
        for cell in range(calibration_bins):
            error += abs(confidence[cell] - hits[cell])
            probability += confidence[cell]
        out[c, 0] = support
        out[c, 1] = tied
        out[c, 2] = lowest
        out[c, 3] = highest
        out[c, 4] = area
        out[c, 5] = best_bin
        out[c, 6] = best_f1 if support > 0 else np.nan
        out[c, 7] = error / total if total > 0 else np.nan
        out[c, 8] = probability / total if total > 0 else np.nan
    return out
