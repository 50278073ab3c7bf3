"""Reads the variables of a TensorFlow SavedModel or checkpoint without TensorFlow.

A checkpoint is an index, which is a sorted string table as LevelDB writes it (github.com/google/leveldb,
doc/table_format.md) whose values are `BundleEntryProto`s (tensorflow/core/protobuf/tensor_bundle.proto), and one data
file that the entries point into.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError

_FOOTER_BYTES = 48
_TABLE_MAGIC = 0xDB4775248B80FB57
_FLOAT32 = 1  # DT_FLOAT


def read_float_variables(prefix: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 variables under `prefix` (…/variables/variables), by their keys in the checkpoint.

    Raises:
        JobError: a file is damaged, compressed, or of several shards, which small checkpoints never are.
    """
    index = prefix.with_name(prefix.name + ".index").read_bytes()
    data = prefix.with_name(prefix.name + ".data-00000-of-00001").read_bytes()
    variables = {}
    try:
        for key, value in _table_entries(index):
            entry = _fields(value)
            if key and entry.get(1) == _FLOAT32:
                variables[key.decode()] = _variable(entry, data)
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{prefix}.index is damaged: {error}") from error
    return variables


def _variable(entry: dict[int, Any], data: bytes) -> npt.NDArray[np.float32]:
    shape = tuple(_fields(size).get(1, 0) for number, size in _all_fields(entry.get(2, b"")) if number == 2)
    offset, size = entry.get(4, 0), entry[5]
    if size != 4 * math.prod(shape) or offset + size > len(data) or entry.get(3, 0):
        raise ValueError("a variable lies outside the data file")
    return np.frombuffer(data, "<f4", math.prod(shape), offset).reshape(shape)


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted string table, in order."""
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _TABLE_MAGIC:
        raise ValueError("it does not end as a table does")
    position = _varint(footer, _varint(footer, 0)[1])[1]  # past the handle of the meta index, which is empty
    index_offset, position = _varint(footer, position)
    index_size, _ = _varint(footer, position)
    for _, handle in _block_entries(table, index_offset, index_size):
        offset, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        yield from _block_entries(table, offset, size)


def _block_entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; each key leaves out what it shares with the key before it."""
    block = table[offset : offset + size]
    if len(block) != size or table[offset + size] != 0:
        raise ValueError("a block is cut short or compressed")
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")  # restart points come last
    key, position = b"", 0
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position


def _fields(message: bytes) -> dict[int, Any]:
    """A protobuf message's fields by number; of a repeated one the last."""
    return dict(_all_fields(message))


def _all_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        elif kind == 5:
            value, position = message[position : position + 4], position + 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        yield tag >> 3, value
