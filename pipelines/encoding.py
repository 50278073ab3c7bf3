"""Arrays to framed, serialized tf.train.Example records, a batch at a time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model import record_kernels as kernels
from vcls_model.record_kernels import FOOTER_BYTES, HEADER_BYTES

# From each of these on a varint takes one byte more.
_VARINT_STEPS = 1 << np.arange(7, 35, 7)


@dataclasses.dataclass(frozen=True)
class BytesColumn:
    """One byte string a record: data[begins[r]:begins[r] + lengths[r]]; uint8, int64, int64."""

    data: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "BytesColumn":
        """From a list of byte strings."""
        lengths = np.array([len(value) for value in values], np.int64)
        return cls(np.frombuffer(b"".join(values) or b"\0", np.uint8), np.cumsum(lengths) - lengths, lengths)


@dataclasses.dataclass(frozen=True)
class IntegerColumn:
    """A list of integers a record, none negative: values[begins[r]:begins[r] + counts[r]]; int64."""

    values: np.ndarray
    begins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of_lengths(cls, values: np.ndarray, counts: np.ndarray) -> "IntegerColumn":
        """From lists one after another and their lengths."""
        return cls(values, np.cumsum(counts) - counts, counts)


@dataclasses.dataclass(frozen=True)
class FloatColumn:
    """One vector a record: row r of float32 (B, D)."""

    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class CodesColumn:
    """The frames of a record as one byte string: rows begins[r] to begins[r] + frames[r] of uint8 (N, D).

    Each code c of dimension d is written as table[d, c], uint8 (D, 256).
    """

    codes: np.ndarray
    begins: np.ndarray
    frames: np.ndarray
    table: np.ndarray


Column = BytesColumn | IntegerColumn | FloatColumn | CodesColumn


def encode_examples(columns: dict[str, Column], chosen: np.ndarray) -> np.ndarray:
    """Serializes and frames the chosen records, in the order given.

    Args:
        columns: features by name, in the order in which they are written.
        chosen: int64 (R,), which records of the columns.

    Returns:
        uint8: the bytes of R TFRecords.
    """
    names = {name: np.frombuffer(name.encode(), np.uint8) for name in columns}
    packed = {name: _packed_lengths(column, chosen) for name, column in columns.items()
              if isinstance(column, IntegerColumn)}
    features = np.zeros(len(chosen), np.int64)
    for name, column in columns.items():
        if isinstance(column, IntegerColumn):
            content = packed[name]
        elif isinstance(column, FloatColumn):
            content = np.full(len(chosen), 4 * column.rows.shape[1], np.int64)
        elif isinstance(column, CodesColumn):
            content = column.frames[chosen] * column.codes.shape[1]
        else:
            content = column.lengths[chosen]
        features += _feature_lengths(len(names[name]), content)
    lengths = 1 + _varint_lengths(features) + features
    framed = HEADER_BYTES + lengths + FOOTER_BYTES
    starts = np.cumsum(framed) - framed + HEADER_BYTES
    target = np.empty(int(framed.sum()), np.uint8)
    at = starts.copy()
    kernels.put_example_heads(target, at, features)
    for name, column in columns.items():
        if isinstance(column, IntegerColumn):
            kernels.put_integers(target, at, names[name], column.values, column.begins[chosen],
                                 column.counts[chosen], packed[name])
        elif isinstance(column, FloatColumn):
            kernels.put_floats(target, at, names[name], column.rows.view(np.uint8), chosen)
        elif isinstance(column, CodesColumn):
            kernels.put_mapped_codes(target, at, names[name], column.codes, column.begins[chosen],
                                     column.frames[chosen], column.table)
        else:
            kernels.put_bytes(target, at, names[name], column.data, column.begins[chosen], column.lengths[chosen])
    kernels.frame_payloads(target, starts, lengths)
    return target


def _packed_lengths(column: IntegerColumn, chosen: np.ndarray) -> np.ndarray:
    lengths = np.empty(len(chosen), np.int64)
    kernels.packed_bytes(column.values, column.begins[chosen], column.counts[chosen], lengths)
    return lengths


def _varint_lengths(values: Any) -> Any:
    return 1 + np.searchsorted(_VARINT_STEPS, values, side="right")


def _message_lengths(lengths: Any) -> Any:
    return 1 + _varint_lengths(lengths) + lengths


def _feature_lengths(name_length: int, content: np.ndarray) -> np.ndarray:
    """Bytes of the map entry of a feature whose list holds one message of `content` bytes."""
    feature = _message_lengths(_message_lengths(_message_lengths(content)))
    return _message_lengths(_message_lengths(np.int64(name_length)) + feature)
