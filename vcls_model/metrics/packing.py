"""Arrays of counts as few bytes: sparse, by byte plane, deflated. The same content always gives the same bytes."""

import json
import struct
import zlib
from typing import Any

import numpy as np

_MAGIC = b"VCLSMET1"
# Counts of neighbouring bins look like noise to a dictionary coder; what helps is Huffman coding of each byte plane.
_LEVEL = 4
# Arrays are packed a piece at a time: what that takes besides does not grow with the array.
_PIECE_CELLS = 1 << 20


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Serialises a JSON-able header and arrays of non-negative integers.

    Args:
        header: small; written with sorted keys.
        arrays: any shape and integer type; written sorted by name.
    """
    parts, entries = [], []
    for name in sorted(arrays):
        array = arrays[name]
        flat = np.ascontiguousarray(array).reshape(-1)
        pieces = []
        for start in range(0, flat.size, _PIECE_CELLS):
            piece = flat[start : start + _PIECE_CELLS]
            at = np.flatnonzero(piece)
            values, is_change = _flatten(piece[at].astype(np.int64))
            body = _planes(np.diff(at, prepend=-1) - 1) + _planes(values)
            pieces.append([int(at.size), is_change, len(body)])
            parts.append(body)
        entries.append([name, array.dtype.str, list(array.shape), pieces])
    head = json.dumps({"header": header, "arrays": entries}, sort_keys=True).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(head)), head, *parts])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `pack` wrote.

    Raises:
        ValueError: `data` is not that, or is cut short.
    """
    if data[:8] != _MAGIC:
        raise ValueError("not a metric accumulator, or one of another version")
    try:
        (size,) = struct.unpack_from("<I", data, 8)
        head = json.loads(data[12 : 12 + size])
        position = 12 + size
        arrays = {}
        for name, kind, shape, pieces in head["arrays"]:
            array = np.zeros(shape, np.dtype(kind))
            flat = array.reshape(-1)
            for number, (count, is_change, length) in enumerate(pieces):
                body = memoryview(data)[position : position + length]
                if len(body) != length:
                    raise ValueError("cut short")
                position += length
                gaps, rest = _read_planes(body, count)
                values, _ = _read_planes(rest, count)
                if is_change:
                    signs = -(values & np.uint64(1)).astype(np.int64)
                    values = np.cumsum((values >> np.uint64(1)).astype(np.int64) ^ signs)
                piece = flat[number * _PIECE_CELLS : (number + 1) * _PIECE_CELLS]
                piece[np.cumsum(gaps.astype(np.int64) + 1) - 1] = values.astype(array.dtype)
            arrays[name] = array
    except (ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise ValueError(f"a damaged metric accumulator: {error}") from None
    return head["header"], arrays


def _flatten(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """The values, or their changes (zigzag: 0, -1, 1, -2 ... as 0, 1, 2, 3 ...) where those take fewer bits.

    Large counts of neighbouring bins differ by about the root of their size.
    """
    changes = np.diff(values, prepend=0)
    changes = (changes << 1) ^ (changes >> 63)
    is_change = bool(np.log2(1.0 + changes).sum() < np.log2(1.0 + values).sum())
    return (changes if is_change else values), is_change


def _planes(values: np.ndarray) -> bytes:
    values = np.ascontiguousarray(values).astype(np.uint64)
    width = max(1, (int(values.max()).bit_length() + 7) // 8) if values.size else 1
    as_bytes = values.view(np.uint8).reshape(-1, 8)[:, :width]
    planes = [zlib.compress(np.ascontiguousarray(as_bytes[:, i]).tobytes(), _LEVEL) for i in range(width)]
    return struct.pack("<B", width) + b"".join(struct.pack("<I", len(plane)) + plane for plane in planes)


def _read_planes(data: memoryview, count: int) -> tuple[np.ndarray, memoryview]:
    width = data[0]
    position = 1
    as_bytes = np.zeros((count, 8), np.uint8)
    for i in range(width):
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        as_bytes[:, i] = np.frombuffer(zlib.decompress(data[position : position + length]), np.uint8)
        position += length
    return as_bytes.reshape(-1).view(np.uint64), data[position:]
