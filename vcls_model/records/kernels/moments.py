"""Sums over the features of many records: for statistics."""

import math

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
def add_floats_exactly(values, digits, lowest_exponent):
    """Adds float64 (D,) to fixed-point `digits`, int64 (D, L), in units of 2**lowest_exponent.

    Exact where each value is a whole number of units below 2**(32 (L - 1)).
    """
    for row in range(values.shape[0]):
        fraction, exponent = math.frexp(values[row])
        sign = np.int64(-1) if fraction < 0 else np.int64(1)
        mantissa = np.uint64(abs(fraction) * 9007199254740992.0)  # 2**53: a whole number
        shift = np.int64(exponent) - 53 - lowest_exponent
        if shift < 0:
            mantissa >>= np.uint64(min(-shift, np.int64(63)))  # zeros, as the value is a whole number of units
            shift = np.int64(0)
        digit = shift >> 5
        bits = np.uint64(shift & 31)
        low = (mantissa & np.uint64(0xFFFFFFFF)) << bits
        high = (mantissa >> np.uint64(32)) << bits
        digits[row, digit] += sign * np.int64(low & np.uint64(0xFFFFFFFF))
        digits[row, digit + 1] += sign * np.int64((low >> np.uint64(32)) + (high & np.uint64(0xFFFFFFFF)))
        digits[row, digit + 2] += sign * np.int64(high >> np.uint64(32))


@njit
def add_integers_exactly(values, digits):
    """Adds int64 (D,), none negative, to `digits`, int64 (D, L), in units of 1."""
    for row in range(values.shape[0]):
        digits[row, 0] += values[row] & 0xFFFFFFFF
        digits[row, 1] += values[row] >> 32


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
