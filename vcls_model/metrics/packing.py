"""Arrays of counts as few bytes: differences of neighbours, byte by byte, through zstd.

Counts of neighbouring cells are samples of nearly the same rate, so their differences are small and of either sign.
Zigzag numbers (0, -1, 1, -2, ... as 0, 1, 2, 3, ...) keep the high bytes zero, and all bytes of one significance lie
together, so that zstd's entropy coder sees like with like. The same content always gives the same bytes (with one
version of zstd). States of the format before are still read, see `packing2.py`.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from vcls_model.metrics import kernels, packing2

_MAGIC = b"VCLSMET3"
_LEVEL = 3
# Arrays are packed a piece at a time: the memory that this takes does not grow with the array.
_PIECE_CELLS = 1 << 19
_SIGNS_OF_DAMAGE = (
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def pack(header: dict[str, Any], arrays: Mapping[str, np.ndarray | tuple[np.ndarray, ...]]) -> bytes:
    """Serialises a JSON-able header and arrays of non-negative integers below 2^62.

    Args:
        header: small; written with sorted keys.
        arrays: any shape and integer type; written sorted by name. They take the fewest bytes when neighbours along
            the last axis are similar. Of several arrays of a shape their sum is written, in the type of the first.
    """
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    parts, entries = [], []
    for name in sorted(arrays):
        given = arrays[name]
        array, *more = given if isinstance(given, tuple) else (given,)
        flat, *others = (np.ascontiguousarray(each).reshape(-1) for each in (array, *more))
        pieces = []
        for start in range(0, flat.size, _PIECE_CELLS):
            piece = slice(start, start + _PIECE_CELLS)
            values = flat[piece].astype(np.int64)
            for other in others:
                values += other[piece]
            planes = _byte_planes(values)
            packed = codec.compress(planes, asbytes=True)
            pieces.append([len(planes), len(packed)])
            parts.append(packed)
        entries.append([name, array.dtype.str, list(array.shape), pieces])
    # Python's dialect, which has infinities: logits among the examples may be infinite.
    head = json.dumps({"header": header, "arrays": entries}, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join([struct.pack("<I", len(head)), head, *parts])
    return b"".join([_MAGIC, struct.pack("<I", zlib.crc32(body)), body])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `pack` wrote, in this format or the one before.

    Raises:
        ValueError: `data` is not that, or is damaged.
    """
    if data[:8] not in (_MAGIC, packing2.MAGIC):
        raise ValueError("not a metric accumulator, or one of a version that this program does not read")
    try:
        checksum, size = struct.unpack_from("<II", data, 8)
        view, position = memoryview(data), 16 + size
        if zlib.crc32(view[12:]) != checksum:
            raise ValueError("its checksum is wrong")
        head = json.loads(data[16:position])  # infinities again
        read = _read_arrays if data[:8] == _MAGIC else packing2.read_arrays
        return head["header"], read(head["arrays"], view[position:])
    except _SIGNS_OF_DAMAGE as error:
        raise ValueError(f"a damaged metric accumulator: {error}") from None


def _read_arrays(entries: list[list[Any]], body: memoryview) -> dict[str, np.ndarray]:
    codec = pa.Codec("zstd")
    arrays = {}
    for name, kind, shape, pieces in entries:
        array = np.empty(shape, packing2.cell_type(kind))
        flat = array.reshape(-1)
        for number, (bytes_unpacked, bytes_packed) in enumerate(pieces):
            piece = flat[number * _PIECE_CELLS : (number + 1) * _PIECE_CELLS]
            if not 0 <= bytes_unpacked <= 8 * piece.size:
                raise ValueError("a piece has more bytes than its cells can hold")
            planes = codec.decompress(body[:bytes_packed], bytes_unpacked, asbytes=True)
            piece[:] = _from_byte_planes(planes, piece.size)
            body = body[bytes_packed:]
        arrays[name] = array
    return arrays


def _byte_planes(values: np.ndarray) -> bytes:
    """The lowest byte of every zigzag difference of (n,) int64, then the next byte of every one, as far as needed."""
    planes = np.empty((kernels.bytes_of_changes(values), values.size), np.uint8)
    kernels.split_planes(values, planes)
    return planes.tobytes()


def _from_byte_planes(planes: bytes, count: int) -> np.ndarray:
    """Undoes `_byte_planes`: (count,) int64."""
    values = np.empty(count, np.int64)
    if not kernels.join_planes(np.frombuffer(planes, np.uint8).reshape(len(planes) // count, count), values):
        raise ValueError("its counts do not fit together")
    return values
