"""Reads states of format 2, which version 0.1 wrote, so that a scores directory begun with it can be completed.

A cell is stored as its zigzag difference from the mean of the two cells before it; differences are grouped by the sum
of those two, each group with a Huffman code of its own (zlib's) and its lowest bits beside it, uncoded.
"""

import zlib
from typing import Any

import numpy as np

from vcls_model.metrics import kernels

MAGIC = b"VCLSMET2"
_PIECE_CELLS = 1 << 19
_MOST_LOW_BITS = 48
_CELL_TYPES = {np.dtype(code).str: np.dtype(code) for code in "bBhHiIqQ"}


def cell_type(name: str) -> np.dtype[Any]:
    """The integer type that a header calls `name`. Numpy reads far more than that from a text, and fails in many ways.

    Raises:
        KeyError: it is not an integer type.
    """
    return _CELL_TYPES[name]


def read_arrays(entries: list[list[Any]], body: memoryview) -> dict[str, np.ndarray]:
    """The arrays that a header lists.

    Args:
        entries: name, dtype, shape and pieces of each array.
        body: the streams of all pieces.

    Raises:
        ValueError, zlib.error: the streams do not fit the entries.
    """
    arrays, position = {}, 0
    for name, kind, shape, pieces in entries:
        array = np.empty(shape, cell_type(kind))
        flat = array.reshape(-1)
        for number, (groups, lengths) in enumerate(pieces):
            ends = position + np.cumsum(lengths)
            streams = [body[end - length : end] for end, length in zip(ends.tolist(), lengths, strict=True)]
            position = int(ends[-1])
            piece = flat[number * _PIECE_CELLS : (number + 1) * _PIECE_CELLS]
            piece[:] = _read_piece(groups, streams, piece.size)
        arrays[name] = array
    return arrays


def _read_piece(groups: list[list[int]], streams: list[memoryview], count: int) -> np.ndarray:
    starts, ends, shifts = (np.zeros(kernels.GROUPS_OF_COUNTS, np.int64) for _ in range(3))
    symbols, low_bits, values = (np.empty(count, kind) for kind in (np.uint8, np.int64, np.int64))
    at = 0
    for place, (number, shift, size) in enumerate(groups):
        decoded = np.frombuffer(zlib.decompress(streams[1 + place]), np.uint8)
        packed = np.frombuffer(streams[1 + len(groups) + place], np.uint8)
        whole = decoded.size == size <= count - at and size * shift <= packed.size * 8
        if not whole or not 0 <= shift <= _MOST_LOW_BITS:
            raise ValueError("a group of its counts is cut short")
        symbols[at : at + size] = decoded
        kernels.unpack_low_bits(packed, shift, low_bits[at : at + size])
        starts[number], ends[number], shifts[number] = at, at + size, shift
        at += size
    planes = np.frombuffer(zlib.decompress(streams[0]), np.uint8)
    large = planes.reshape(8, -1).T.copy().view("<i8").reshape(-1)
    if at != count or not kernels.restore_counts(symbols, low_bits, starts, ends, shifts, large, values):
        raise ValueError("its counts do not fit together")
    return values
