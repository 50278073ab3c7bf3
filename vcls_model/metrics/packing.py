"""Arrays of counts as few bytes. The same content always gives the same bytes (with one zlib version).

Counts of neighbouring cells are samples of nearly the same rate, and differ by about the root of their size. So each
cell is told by how much it differs from the mean of the two before it, and differences are grouped by the sum of those
two, which says how large they tend to be: each group gets a Huffman code of its own (zlib's), after its lowest bits,
which are noise, were put aside as they are.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vcls_model.metrics import kernels

_MAGIC = b"VCLSMET2"
_LEVEL = 4
# Arrays are packed a piece at a time: what that takes besides does not grow with the array.
_PIECE_CELLS = 1 << 19
_SAMPLE = 4096
_MOST_LOW_BITS = 48


def pack(header: dict[str, Any], arrays: Mapping[str, np.ndarray | tuple[np.ndarray, ...]]) -> bytes:
    """Serialises a JSON-able header and arrays of non-negative integers below 2^60.

    Args:
        header: small; written with sorted keys.
        arrays: any shape and integer type; written sorted by name. They take the fewest bytes when neighbours along
            the last axis are alike. Of several arrays of a shape their sum is written, in the type of the first.
    """
    parts, entries = [], []
    scratch = _Scratch(_PIECE_CELLS)
    for name in sorted(arrays):
        found = arrays[name]
        array, *more = found if isinstance(found, tuple) else (found,)
        flat, *others = (np.ascontiguousarray(each).reshape(-1) for each in (array, *more))
        pieces = []
        for start in range(0, flat.size, _PIECE_CELLS):
            piece = flat[start : start + _PIECE_CELLS]
            values = scratch.values[: piece.size]
            values[:] = piece
            for other in others:
                values += other[start : start + _PIECE_CELLS]
            groups, streams = _pack_piece(values, scratch)
            pieces.append([groups, [len(stream) for stream in streams]])
            parts += streams
        entries.append([name, array.dtype.str, list(array.shape), pieces])
    head = json.dumps({"header": header, "arrays": entries}, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join([struct.pack("<I", len(head)), head, *parts])
    return b"".join([_MAGIC, struct.pack("<I", zlib.crc32(body)), body])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `pack` wrote.

    Raises:
        ValueError: `data` is not that, or is damaged.
    """
    if data[:8] != _MAGIC:
        raise ValueError("not a metric accumulator, or one of another version")
    try:
        checksum, size = struct.unpack_from("<II", data, 8)
        view, position = memoryview(data), 16 + size
        if zlib.crc32(view[12:]) != checksum:
            raise ValueError("its checksum is wrong")
        head = json.loads(data[16:position])
        arrays, scratch = {}, _Scratch(_PIECE_CELLS)
        for name, kind, shape, pieces in head["arrays"]:
            array = np.empty(shape, np.dtype(kind))
            flat = array.reshape(-1)
            for number, (groups, lengths) in enumerate(pieces):
                ends = position + np.cumsum(lengths)
                streams = [view[end - length : end] for end, length in zip(ends.tolist(), lengths, strict=True)]
                position = int(ends[-1])
                piece = flat[number * _PIECE_CELLS : (number + 1) * _PIECE_CELLS]
                piece[:] = _unpack_piece(groups, streams, piece.size, scratch)
            arrays[name] = array
        return head["header"], arrays
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, struct.error, zlib.error) as error:
        raise ValueError(f"a damaged metric accumulator: {error}") from None


class _Scratch:
    """Arrays that serve all pieces: making them anew for each would take longer than filling them."""

    def __init__(self, cells: int):
        self.values, self.changes, self.by_group = (np.empty(cells, np.int64) for _ in range(3))
        self.numbers, self.symbols = (np.empty(cells, np.uint8) for _ in range(2))


def _pack_piece(values: np.ndarray, scratch: _Scratch) -> tuple[list[list[int]], list[bytes]]:
    """Groups (number, low bits put aside, cells), and streams: differences too large for a byte, each group's
    differences, each group's low bits."""
    numbers, changes, by_group = (each[: values.size] for each in (scratch.numbers, scratch.changes, scratch.by_group))
    sizes = kernels.group_changes(values, numbers, changes, by_group)
    shifts = np.zeros(kernels.GROUPS_OF_COUNTS, np.int64)
    groups, symbols, low_bits = [], [], []
    ends = np.cumsum(sizes)
    for number in np.flatnonzero(sizes).tolist():
        part = by_group[ends[number] - sizes[number] : ends[number]]
        sample = np.sort(part[:: 1 + part.size // _SAMPLE])
        # Nine of ten fit into 6 bits, so that hardly any does not fit into 8.
        shift = min(max(0, int(sample[sample.size * 9 // 10]).bit_length() - 6), _MOST_LOW_BITS)
        kernels.symbols_of(part, shift, scratch.symbols)
        symbols.append(_huffman(scratch.symbols[: part.size]))
        low_bits.append(kernels.pack_low_bits(part, shift).tobytes())
        groups.append([number, shift, int(part.size)])
        shifts[number] = shift
    large = kernels.large_changes(numbers, changes, shifts).astype("<i8")
    return groups, [_huffman(large.view(np.uint8).reshape(-1, 8).T), *symbols, *low_bits]


def _huffman(symbols: np.ndarray) -> bytes:
    # Runs are worth a code (many counts are zero); repetitions in what is mostly noise are not.
    coder = zlib.compressobj(_LEVEL, strategy=zlib.Z_RLE)
    return coder.compress(symbols.tobytes()) + coder.flush()


def _unpack_piece(groups: list[list[int]], streams: list[memoryview], count: int, scratch: _Scratch) -> np.ndarray:
    """The counts of a piece, in an array of `scratch`."""
    starts, ends, shifts = (np.zeros(kernels.GROUPS_OF_COUNTS, np.int64) for _ in range(3))
    symbols, low_bits, values = (each[:count] for each in (scratch.symbols, scratch.changes, scratch.values))
    at = 0
    for place, (number, shift, size) in enumerate(groups):
        told = np.frombuffer(zlib.decompress(streams[1 + place]), np.uint8)
        packed = np.frombuffer(streams[1 + len(groups) + place], np.uint8)
        if not (told.size == size <= count - at and 0 <= shift <= _MOST_LOW_BITS and size * shift <= packed.size * 8):
            raise ValueError("a group of its counts is cut short")
        symbols[at : at + size] = told
        kernels.unpack_low_bits(packed, shift, low_bits[at : at + size])
        starts[number], ends[number], shifts[number] = at, at + size, shift
        at += size
    planes = np.frombuffer(zlib.decompress(streams[0]), np.uint8)
    large = planes.reshape(8, -1).T.copy().view("<i8").reshape(-1)
    if at != count or not kernels.restore_counts(symbols, low_bits, starts, ends, shifts, large, values):
        raise ValueError("its counts do not fit together")
    return values
