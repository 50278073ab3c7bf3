"""Hashes of byte strings, to see which come twice."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)

# FNV-1a of 64 bits (Fowler, Noll, Vo), then the last steps of SplitMix64 (Steele, Lea, Flood), without which short
# strings would differ in few bits.
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.array([30, 27, 31], np.uint64)


@njit
def hash_bytes(data, begins, lengths, target):
    """Writes the hash of each byte string data[begins[r]:][:lengths[r]] to `target`, uint64 (R,)."""
    for row in range(begins.shape[0]):
        value = _OFFSET
        for at in range(begins[row], begins[row] + lengths[row]):
            value = (value ^ np.uint64(data[at])) * _PRIME
        value = (value ^ (value >> _SHIFTS[0])) * _FIRST
        value = (value ^ (value >> _SHIFTS[1])) * _SECOND
        target[row] = value ^ (value >> _SHIFTS[2])
