"""From a score to its bin, its coarse cell and its sortable bits, one at a time."""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.metrics.kernels.grid import BINS_PER_LOGIT, BOUNDS, OFFSETS

njit = njit_of(__package__)
_LOWEST = np.float32(BOUNDS[0])
_HIGHEST = np.nextafter(np.float32(BOUNDS[-1]), np.float32(0))
_FINEST = np.float32(max(BINS_PER_LOGIT))
_LOW_SHIFT, _MIDDLE_SHIFT, _HIGH_SHIFT = (
    np.int32((max(BINS_PER_LOGIT) // bins).bit_length() - 1) for bins in BINS_PER_LOGIT
)
_LOW_OFFSET, _MIDDLE_OFFSET, _HIGH_OFFSET = (np.int32(offset) for offset in OFFSETS)


@njit(inline="always")
def bin_of(x):
    # The product with a power of two is exact in float32, and so are the bin edges; shifts round down as floor does.
    x = x if x > _LOWEST else _LOWEST
    x = x if x < _HIGHEST else _HIGHEST
    finest = np.int32(np.floor(x * _FINEST))
    low = np.int32((finest >> _LOW_SHIFT) + _LOW_OFFSET)
    middle = np.int32((finest >> _MIDDLE_SHIFT) + _MIDDLE_OFFSET)
    high = np.int32((finest >> _HIGH_SHIFT) + _HIGH_OFFSET)
    rising = low if low > middle else middle
    return rising if rising < high else high


@njit
def coarse_bin(x, edges):
    """Index of the cell of `edges` (ascending, exclusive upper ends) that holds `x`."""
    b = 0
    while b < edges.shape[0] and x >= edges[b]:
        b += 1
    return b


@njit
def ordered_bits(x):
    """uint32 that sorts as the float32 `x` does; both zeros give the same."""
    bits = np.float32(x + np.float32(0)).view(np.uint32)
    if bits >> np.uint32(31):
        return ~bits
    return bits | np.uint32(0x80000000)


@njit
def score_of(bits):
    if bits >> np.uint32(31):
        return np.uint32(bits ^ np.uint32(0x80000000)).view(np.float32)
    return np.uint32(~bits).view(np.float32)
