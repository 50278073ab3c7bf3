"""Reading counts as states of format 2 hold them; see `packing2.py` of the metrics."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)
# A packed difference that does not fit into a byte.
ESCAPE = 255
# Number of groups used to encode differences.
GROUPS_OF_COUNTS = 128
_LARGEST_COUNT = 1 << 60


@njit(inline="always")
def _group_of_count(known):
    """The group of a non-negative int64: itself below 8, then two groups to each doubling, at most 127."""
    if known < 8:
        return known
    # The exponent and the first bit of the fraction, as a float64 has them.
    return (np.float64(known).view(np.int64) >> 51) - 2 * (1023 + 3) + 8


@njit
def unpack_low_bits(packed, width, low_bits):
    """Fills `low_bits` (n,) int64 from bytes that hold `width` bits of each, one after the other, and are enough."""
    held = np.uint64(0)
    bits = 0
    at = 0
    mask = np.uint64((1 << width) - 1)
    for i in range(low_bits.shape[0]):
        while bits < width:
            held |= np.uint64(packed[at]) << np.uint64(bits)
            bits += 8
            at += 1
        low_bits[i] = np.int64(held & mask)
        held >>= np.uint64(width)
        bits -= width


@njit
def restore_counts(symbols, low_bits, starts, ends, shifts, large, values):
    """The counts of a piece.

    Args:
        symbols: (n,) uint8 zigzag differences without their low bits, by group; `ESCAPE`: the next of `large`.
        low_bits: (n,) int64, the low bits of the same.
        starts, ends, shifts: (128,) int64: where a group's symbols lie, and how many low bits they have.
        large: int64 whole differences.
        values: (n,) int64, set to the counts.

    Returns:
        Whether the arguments fit together.
    """
    at = starts.copy()
    used = 0
    before = np.int64(0)
    last = np.int64(0)
    for i in range(values.shape[0]):
        known = before + last
        group = _group_of_count(known)
        place = at[group]
        if place >= ends[group]:
            return False
        at[group] += 1
        if symbols[place] == ESCAPE:
            if used == large.shape[0]:
                return False
            change = large[used]
            used += 1
        else:
            change = (np.int64(symbols[place]) << shifts[group]) | low_bits[place]
        before = last
        last = (known >> 1) + ((change >> 1) ^ -(change & 1))
        if last < 0 or last > _LARGEST_COUNT:
            return False
        values[i] = last
    return used == large.shape[0]
