"""Differences of neighbouring counts, grouped by how large they tend to be; for `packing.py`."""

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
def group_changes(values, groups, changes, by_group):
    """How each of (n,) int64 counts differs from the mean of the two before it, grouped by the sum of those two.

    Args:
        values: (n,) int64.
        groups: (n,) uint8, set to the group of each.
        changes: (n,) int64, set to the differences, zigzag: 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
        by_group: (n,) int64, set to the same, one group after the other.

    Returns:
        Sizes of the groups (128,) int64.
    """
    sizes = np.zeros(GROUPS_OF_COUNTS, np.int64)
    before = np.int64(0)
    last = np.int64(0)
    for i in range(values.shape[0]):
        known = before + last
        change = values[i] - (known >> 1)
        group = _group_of_count(known)
        groups[i] = group
        sizes[group] += 1
        changes[i] = (change << 1) ^ (change >> 63)
        before = last
        last = values[i]
    places = np.cumsum(sizes) - sizes
    for i in range(values.shape[0]):
        by_group[places[groups[i]]] = changes[i]
        places[groups[i]] += 1
    return sizes


@njit
def large_changes(groups, changes, shifts):
    """Those of the differences of `group_changes` that do not fit into a byte without their low bits, in order."""
    n = 0
    for i in range(changes.shape[0]):
        n += changes[i] >> shifts[groups[i]] >= ESCAPE
    large = np.empty(n, np.int64)
    n = 0
    for i in range(changes.shape[0]):
        if changes[i] >> shifts[groups[i]] >= ESCAPE:
            large[n] = changes[i]
            n += 1
    return large


@njit
def symbols_of(changes, shift, symbols):
    """Sets `symbols` (n,) uint8 to the differences without their low bits, `ESCAPE` for those that do not fit."""
    for i in range(changes.shape[0]):
        symbols[i] = np.uint8(min(changes[i] >> shift, ESCAPE))


@njit
def pack_low_bits(values, width):
    """The `width` low bits of each value, one value after the other, as bytes."""
    packed = np.zeros((values.shape[0] * width + 7) // 8, np.uint8)
    held = np.uint64(0)
    bits = 0
    at = 0
    mask = np.uint64((1 << width) - 1)
    for i in range(values.shape[0]):
        held |= (np.uint64(values[i]) & mask) << np.uint64(bits)
        bits += width
        while bits >= 8:
            packed[at] = np.uint8(held & np.uint64(255))
            held >>= np.uint64(8)
            bits -= 8
            at += 1
    if bits > 0:
        packed[at] = np.uint8(held)
    return packed


@njit
def unpack_low_bits(packed, width, low_bits):
    """Undoes `pack_low_bits`: fills `low_bits` (n,) int64 from enough bytes."""
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
    """Undoes `group_changes`.

    Args:
        symbols: (n,) uint8 differences without their low bits, by group; `ESCAPE` stands for the next of `large`.
        low_bits: (n,) int64, those of `symbols`.
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
