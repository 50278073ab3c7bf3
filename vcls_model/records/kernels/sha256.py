"""Which split a record belongs to is decided by the sha256 of its id (FIPS 180-4)."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)

_ROUND_CONSTANTS = np.array(
    [
        int((prime ** (1 / 3) % 1) * 2**32)
        for prime in [n for n in range(2, 312) if all(n % d for d in range(2, int(n**0.5) + 1))]
    ],
    np.uint32,
)


_HASH_START = np.array([int((prime**0.5 % 1) * 2**32) for prime in (2, 3, 5, 7, 11, 13, 17, 19)], np.uint32)


@njit
def _rotate_right(value, count):
    return np.uint32((value >> np.uint32(count)) | (value << np.uint32(32 - count)))


@njit
def _digest_block(state, words):
    """One round of compression: 64 bytes, as the first 16 of the 64 uint32 `words`, into the 8 uint32 of `state`."""
    for i in range(16, 64):
        one, two = words[i - 15], words[i - 2]
        first = _rotate_right(one, 7) ^ _rotate_right(one, 18) ^ (one >> np.uint32(3))
        second = _rotate_right(two, 17) ^ _rotate_right(two, 19) ^ (two >> np.uint32(10))
        words[i] = np.uint32(words[i - 16] + first + words[i - 7] + second)
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for i in range(64):
        choice = (e & f) ^ (~e & g)
        mixed = _rotate_right(e, 6) ^ _rotate_right(e, 11) ^ _rotate_right(e, 25)
        first = np.uint32(h + mixed + choice + _ROUND_CONSTANTS[i] + words[i])
        majority = (a & b) ^ (a & c) ^ (b & c)
        second = np.uint32((_rotate_right(a, 2) ^ _rotate_right(a, 13) ^ _rotate_right(a, 22)) + majority)
        h, g, f, e, d, c, b, a = g, f, e, np.uint32(d + first), c, b, a, np.uint32(first + second)
    for i, value in enumerate((a, b, c, d, e, f, g, h)):
        state[i] = np.uint32(state[i] + value)


@njit
def sha256_prefixes(data, begins, lengths, target):
    """The first 64 bits of the sha256 of data[begins[r]:begins[r] + lengths[r]], into uint64 `target`."""
    words = np.empty(64, np.uint32)
    state = np.empty(8, np.uint32)
    for record in range(begins.shape[0]):
        begin, length = begins[record], lengths[record]
        state[:] = _HASH_START
        # The message, a byte 128, zeros, and its length in bits in the last eight bytes of a block of 64.
        for block in range((length + 8) // 64 + 1):
            for word in range(16):
                value = np.uint32(0)
                for byte in range(4):
                    at = block * 64 + word * 4 + byte
                    content = np.uint32(0)
                    if at < length:
                        content = np.uint32(data[begin + at])
                    elif at == length:
                        content = np.uint32(128)
                    value = np.uint32((value << np.uint32(8)) | content)
                words[word] = value
            if block == (length + 8) // 64:
                words[14] = np.uint32((length * 8) >> 32)
                words[15] = np.uint32((length * 8) & 0xFFFFFFFF)
            _digest_block(state, words)
        target[record] = np.uint64(state[0]) << np.uint64(32) | np.uint64(state[1])
