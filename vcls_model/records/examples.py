"""A careful reader and writer of tf.train.Example and SequenceExample, a record at a time, in plain Python.

Reads every encoding that the protocol buffer format allows: any order, packed or not, repeated fields merged, unknown
fields skipped. Used for the few records that the kernels of `pipelines.parsing` do not take.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not the message they should be."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One tf.train.Feature.

    Attributes:
        kind: `"bytes"`, `"float"`, `"int64"`, or None when it holds no list.
        values: list of bytes, float32 array, or list of int.
    """

    kind: str | None
    values: Sequence[bytes] | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """The features (or context) and feature lists of one record."""

    features: dict[str, Feature]
    feature_lists: dict[str, list[Feature]]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a number is not whole")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        value: int | memoryview
        if wire_type == VARINT:
            value, at = _varint(data, at)
        else:
            if wire_type == BYTES:
                size, at = _varint(data, at)
            elif wire_type in (FIXED64, FIXED32):
                size = 8 if wire_type == FIXED64 else 4
            else:
                raise WireError(f"wire type {wire_type}")
            if size > len(data) - at:
                raise WireError("a field is longer than its message")
            value = data[at : at + size]
            at += size
        yield number, wire_type, value


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, wire_type, value in _fields(data):
        if number == wanted:
            if wire_type != BYTES:
                raise WireError(f"field {number} has wire type {wire_type}")
            assert isinstance(value, memoryview)
            yield value


def _int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _feature(data: memoryview) -> Feature:
    kind: str | None = None
    byte_values: list[bytes] = []
    floats: list[bytes] = []
    integers: list[int] = []
    for number, wire_type, value in _fields(data):
        if number not in (1, 2, 3):
            continue
        if wire_type != BYTES:
            raise WireError("a feature holds no list")
        assert isinstance(value, memoryview)
        found = ("bytes", "float", "int64")[number - 1]
        if found != kind:  # of a oneof, the last counts
            kind, byte_values, floats, integers = found, [], [], []
        if number == 1:
            byte_values.extend(bytes(item) for item in _messages(value, 1))
        elif number == 2:
            floats.extend(_floats(value))
        else:
            integers.extend(_integers(value))
    if kind == "float":
        return Feature(kind, np.frombuffer(b"".join(floats), "<f4"))
    return Feature(kind, integers if kind == "int64" else byte_values)


def _floats(data: memoryview) -> Iterator[bytes]:
    for number, wire_type, value in _fields(data):
        if number == 1:
            if wire_type not in (BYTES, FIXED32):
                raise WireError("a float list holds something else")
            assert isinstance(value, memoryview)
            if len(value) % 4:
                raise WireError("packed floats are not whole")
            yield bytes(value)


def _integers(data: memoryview) -> Iterator[int]:
    for number, wire_type, value in _fields(data):
        if number == 1 and wire_type == VARINT:
            assert isinstance(value, int)
            yield _int64(value)
        elif number == 1 and wire_type == BYTES:
            assert isinstance(value, memoryview)
            at = 0
            while at < len(value):
                item, at = _varint(value, at)
                yield _int64(item)
        elif number == 1:
            raise WireError("an int64 list holds something else")


def _entry(data: memoryview) -> tuple[str, memoryview]:
    key, content = b"", memoryview(b"")
    for number, wire_type, value in _fields(data):
        if number in (1, 2):
            if wire_type != BYTES:
                raise WireError("a map entry is not one")
            assert isinstance(value, memoryview)
            if number == 1:
                key = bytes(value)
            else:
                content = value
    try:
        return key.decode(), content
    except UnicodeDecodeError:
        raise WireError("the name of a feature is not UTF-8") from None


def parse_record(payload: bytes) -> Record:
    """Parses a serialized tf.train.Example or SequenceExample (an Example is one without feature lists).

    Raises:
        WireError: it is neither.
    """
    data = memoryview(payload)
    features: dict[str, Feature] = {}
    feature_lists: dict[str, list[Feature]] = {}
    for part in _messages(data, 1):
        for entry in _messages(part, 1):
            key, content = _entry(entry)
            features[key] = _feature(content)
    for part in _messages(data, 2):
        for entry in _messages(part, 1):
            key, content = _entry(entry)
            feature_lists[key] = [_feature(item) for item in _messages(content, 1)]
    return Record(features, feature_lists)


def write_varint(value: int) -> bytes:
    """The bytes of one varint; a negative int64 takes ten."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_message(number: int, content: bytes) -> bytes:
    """One length-delimited field."""
    return write_varint(number << 3 | BYTES) + write_varint(len(content)) + content


def bytes_feature(*values: bytes) -> bytes:
    """A serialized Feature of byte strings."""
    return write_message(1, b"".join(write_message(1, value) for value in values))


def float_feature(values: np.ndarray) -> bytes:
    """A serialized Feature of packed float32."""
    return write_message(2, write_message(1, np.asarray(values, "<f4").tobytes()))


def int64_feature(values: Sequence[int]) -> bytes:
    """A serialized Feature of packed int64."""
    packed = b"".join(write_varint(int(value)) for value in values)
    return write_message(3, write_message(1, packed) if packed else b"")


def _map(entries: dict[str, bytes]) -> bytes:
    return b"".join(
        write_message(1, write_message(1, name.encode()) + write_message(2, value)) for name, value in entries.items()
    )


def write_example(features: dict[str, bytes]) -> bytes:
    """A serialized tf.train.Example of serialized Features, in the order given."""
    return write_message(1, _map(features))


def write_sequence_example(context: dict[str, bytes], feature_lists: dict[str, Sequence[bytes]]) -> bytes:
    """A serialized tf.train.SequenceExample of serialized Features, in the order given."""
    lists = {name: b"".join(write_message(1, item) for item in items) for name, items in feature_lists.items()}
    return write_message(1, _map(context)) + write_message(2, _map(lists))
