"""Counts of all scores by class and bin.

The table of counts is larger than any cache, so `count_scores` first writes the bins of some thousand rows, 32 classes
(one cache line) to a tile, and then takes tile after tile: the few parts of the table that a tile adds to stay in the
first caches meanwhile.
"""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.metrics.kernels.bins import bin_of, ordered_bits, score_of

njit = njit_of(__package__)
_TILE_CLASSES = 32
# The table is walked through once per so many rows; their tiles take 16 MB at 3,862 classes.
_TILE_ROWS = 2048


@njit
def _tile_bins(logits, tiles):
    for r in range(logits.shape[0]):
        for tile in range(tiles.shape[0]):
            scores = logits[r, tile * _TILE_CLASSES : (tile + 1) * _TILE_CLASSES]
            bins = tiles[tile, r]
            for j in range(_TILE_CLASSES):
                bins[j] = np.uint16(bin_of(scores[j]))


@njit
def _count_tiles(tiles, rows, table):
    bin_count = np.uint64(table.shape[1])
    flat = table.reshape(-1)
    starts = np.empty(_TILE_CLASSES, np.uint64)
    for tile in range(tiles.shape[0]):
        for j in range(_TILE_CLASSES):
            starts[j] = np.uint64(tile * _TILE_CLASSES + j) * bin_count
        for r in range(rows):
            for j in range(_TILE_CLASSES):
                flat[starts[j] + np.uint64(tiles[tile, r, j])] += np.uint16(1)


@njit
def count_scores(logits, table):
    """Adds each of (B, C) float32 scores, no NaN, to its class's row of `table` (C, bins) uint16."""
    rows, class_count = logits.shape
    whole = class_count // _TILE_CLASSES
    # One row more than is used: tiles a power of two apart would share their places in the caches.
    tiles = np.empty((whole, min(rows, _TILE_ROWS) + 1, _TILE_CLASSES), np.uint16)
    for top in range(0, rows, _TILE_ROWS):
        part = logits[top : top + _TILE_ROWS]
        _tile_bins(part, tiles)
        _count_tiles(tiles, part.shape[0], table)
        for c in range(whole * _TILE_CLASSES, class_count):
            for r in range(part.shape[0]):
                table[c, bin_of(part[r, c])] += np.uint16(1)


@njit
def carry_counts(counts, table):
    """Moves the counts (C, bins) uint16 that are above half of what they can hold to `table` (C, bins) uint32."""
    for c in range(counts.shape[0]):
        above = np.uint16(0)
        for b in range(counts.shape[1]):
            above |= counts[c, b]
        if above >> 15:
            for b in range(counts.shape[1]):
                if counts[c, b] >> 15:
                    table[c, b] += np.uint32(counts[c, b])
                    counts[c, b] = 0


@njit
def count_positives(logits, labels, label_starts, positives):
    """Adds the scores of the true labels to `positives` (C, bins) uint32."""
    for r in range(logits.shape[0]):
        for i in range(label_starts[r], label_starts[r + 1]):
            positives[labels[i], bin_of(logits[r, labels[i]])] += np.uint32(1)


@njit
def count_in_cells(logits, rows, labels, label_starts, cell_of_bin, table, positives):
    """Adds the scores of some rows of (B, C) logits, and those of their true labels, to tables (C, cells) uint32.

    Args:
        logits: (B, C) float32, no NaN.
        rows: (n,) int64, the rows to count.
        labels, label_starts: true classes, those of row r are labels[label_starts[r] : label_starts[r + 1]].
        cell_of_bin: (bins,) int64, the cell that each bin is part of.
        table, positives: what is added to.
    """
    for r in rows:
        for c in range(logits.shape[1]):
            table[c, cell_of_bin[bin_of(logits[r, c])]] += np.uint32(1)
        for i in range(label_starts[r], label_starts[r + 1]):
            positives[labels[i], cell_of_bin[bin_of(logits[r, labels[i]])]] += np.uint32(1)


@njit
def score_keys(logits, labels, label_starts):
    """(C, B) uint64: ordered score << 1 | whether it is a true label's."""
    rows, class_count = logits.shape
    keys = np.empty((class_count, rows), np.uint64)
    for r in range(rows):
        for c in range(class_count):
            keys[c, r] = np.uint64(ordered_bits(logits[r, c])) << np.uint64(1)
        for i in range(label_starts[r], label_starts[r + 1]):
            keys[labels[i], r] |= np.uint64(1)
    return keys


@njit
def count_keys(keys, table, positives):
    """Adds what `score_keys` made to the tables of counts."""
    for c in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            b = bin_of(score_of(np.uint32(keys[c, i] >> np.uint64(1))))
            table[c, b] += np.uint32(1)
            if keys[c, i] & np.uint64(1):
                positives[c, b] += np.uint32(1)
