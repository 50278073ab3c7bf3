"""Sums over the features of many records: for statistics."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)


@njit
def add_float_moments(rows, chosen, total, squares, lowest, highest):
    """Adds the chosen rows of float32 (B, D) to float64 (D,) sums, in order, and widens the range seen."""
    for row in range(rows.shape[0]):
        if chosen[row]:
            for column in range(rows.shape[1]):
                value = np.float64(rows[row, column])
                total[column] += value
                squares[column] += value * value
                lowest[column] = min(lowest[column], value)
                highest[column] = max(highest[column], value)


@njit
def add_code_moments(buffer, begins, strides, frames, chosen, total, squares, lowest, highest):
    """Adds the frames of the chosen records, rows of D codes, to int64 (D,) sums and widens the range seen."""
    width = total.shape[0]
    block_total = np.zeros(width, np.uint32)
    block_squares = np.zeros(width, np.uint32)
    rows = 0
    for record in range(begins.shape[0]):
        if not chosen[record]:
            continue
        for frame in range(frames[record]):
            begin = begins[record] + frame * strides[record]
            row = buffer[begin : begin + width]
            for column in range(width):
                value = np.uint32(row[column])
                block_total[column] += value
                block_squares[column] += value * value
                lowest[column] = min(lowest[column], row[column])
                highest[column] = max(highest[column], row[column])
            rows += 1
            # 65,536 squares of at most 255 * 255 still fit into 32 bits.
            if rows == 65536:
                _move_sums(block_total, total)
                _move_sums(block_squares, squares)
                rows = 0
    _move_sums(block_total, total)
    _move_sums(block_squares, squares)


@njit
def _move_sums(block, target):
    for column in range(target.shape[0]):
        target[column] += block[column]
        block[column] = 0


@njit
def count_pairs(values, lengths, first, second):
    """Writes every pair of labels a < b of each record to `first` and `second`; returns how many there were."""
    at = 0
    count = 0
    for record in range(lengths.shape[0]):
        end = at + lengths[record]
        for one in range(at, end):
            for other in range(one + 1, end):
                first[count] = values[one]
                second[count] = values[other]
                count += 1
        at = end
    return count
