"""Zigzag differences of neighbours, byte by byte, and back; `packing` says what for."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)


@njit
def bytes_of_changes(values):
    """How many bytes the largest zigzag difference of neighbours in `values` (n,) int64 takes."""
    bits, before = np.uint64(0), np.int64(0)
    for value in values:
        change = value - before
        bits |= np.uint64((change << 1) ^ (change >> 63))
        before = value
    width = 0
    while bits:
        bits >>= np.uint64(8)
        width += 1
    return width


@njit
def split_planes(values, planes):
    """Fills `planes` (width, n) uint8 with the bytes of the zigzag differences, the lowest first."""
    before = np.int64(0)
    for place in range(values.shape[0]):
        change = values[place] - before
        before = values[place]
        number = np.uint64((change << 1) ^ (change >> 63))
        for plane in range(planes.shape[0]):
            planes[plane, place] = number & np.uint64(255)
            number >>= np.uint64(8)


@njit
def join_planes(planes, values):
    """Undoes `split_planes`; False where a value is negative, which no count is."""
    total, lowest = np.int64(0), np.int64(0)
    for place in range(values.shape[0]):
        number = np.uint64(0)
        for plane in range(planes.shape[0]):
            number |= np.uint64(planes[plane, place]) << np.uint64(8 * plane)
        total += np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1))
        values[place] = total
        lowest = min(lowest, total)
    return lowest >= 0
