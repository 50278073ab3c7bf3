"""Serialized tf.train.Example and SequenceExample, one at a time: a reader of every encoding, and the writers.

The messages are declared here as TensorFlow's `example.proto` and `feature.proto` number their fields, so that reading
a record needs no TensorFlow. The kernels read and write whole batches; this is for the few records that they leave, for
looking at a record, and for writing records of frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_FIELD = descriptor_pb2.FieldDescriptorProto
# By message: its fields, numbered from 1: (name, type, how often).
_MESSAGES: dict[str, list[tuple[str, int | str, str]]] = {
    "BytesList": [("value", _FIELD.TYPE_BYTES, "repeated")],
    "FloatList": [("value", _FIELD.TYPE_FLOAT, "repeated")],
    "Int64List": [("value", _FIELD.TYPE_INT64, "repeated")],
    "Feature": [
        ("bytes_list", "BytesList", "oneof"),
        ("float_list", "FloatList", "oneof"),
        ("int64_list", "Int64List", "oneof"),
    ],
    "Features": [("feature", "Feature", "map")],
    "FeatureList": [("feature", "Feature", "repeated")],
    "FeatureLists": [("feature_list", "FeatureList", "map")],
    "Example": [("features", "Features", "once")],
    "SequenceExample": [("context", "Features", "once"), ("feature_lists", "FeatureLists", "once")],
}


# What a Feature holds: byte strings, whole numbers, or float32 (n,).
Values = list[bytes] | list[int] | np.ndarray


class ExampleError(ValueError):
    """The bytes are not the message they should be."""


def _declare() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="records.proto", package="records", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind, mode) in enumerate(fields, 1):
            field = message.field.add(name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL)
            if mode in ("repeated", "map"):
                field.label = _FIELD.LABEL_REPEATED
            if mode == "oneof":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="kind")
                field.oneof_index = 0
            if isinstance(kind, int):
                field.type = kind  # type: ignore[assignment]
                continue
            field.type = _FIELD.TYPE_MESSAGE
            field.type_name = f".records.{kind}"
            if mode == "map":
                entry_name = "".join(part.title() for part in field_name.split("_")) + "Entry"
                field.type_name = f".records.{name}.{entry_name}"
                entry = message.nested_type.add(name=entry_name)
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING)
                entry.field.add(
                    name="value",
                    number=2,
                    label=_FIELD.LABEL_OPTIONAL,
                    type=_FIELD.TYPE_MESSAGE,
                    type_name=f".records.{kind}",
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"records.{name}"))


_POOL = _declare()
_Feature, _Example, _SequenceExample = map(_message_class, ("Feature", "Example", "SequenceExample"))


class Feature:
    """One tf.train.Feature.

    Args:
        message: the protocol buffer.
    """

    def __init__(self, message: Any) -> None:
        self.message = message

    @property
    def kind(self) -> str | None:
        """`"bytes"`, `"float"`, `"int64"`, or None when it holds no list."""
        name = self.message.WhichOneof("kind")
        return name and name.removesuffix("_list")

    @property
    def values(self) -> Values:
        """List of bytes, float32 array, or list of int; empty when it holds no list."""
        kind = self.kind
        if kind is None:
            return []
        values = getattr(self.message, f"{kind}_list").value
        if kind != "float":
            return list(values)
        # The bytes of the list end in its values as they are in memory: a hundred times as fast as one by one.
        packed = self.message.float_list.SerializeToString()
        return np.frombuffer(packed[len(packed) - 4 * len(values) :], "<f4").astype(np.float32)


class Record:
    """A record that was read.

    Attributes:
        features: by name; of a SequenceExample its context.
        feature_lists: by name; none in an Example.
    """

    def __init__(self, message: Any) -> None:
        self.features = {name: Feature(feature) for name, feature in message.context.feature.items()}
        self.feature_lists = {
            name: [Feature(feature) for feature in part.feature]
            for name, part in message.feature_lists.feature_list.items()
        }


def parse_record(payload: bytes) -> Record:
    """Parses a serialized tf.train.Example or SequenceExample (an Example is one without feature lists).

    Raises:
        ExampleError: it is neither.
    """
    try:
        return Record(_SequenceExample.FromString(payload))
    except DecodeError:  # its text says no more than that
        raise ExampleError("not a tf.train.Example or SequenceExample") from None


def parse_feature(payload: bytes) -> Feature:
    """Parses a serialized tf.train.Feature.

    Raises:
        ExampleError: it is not one.
    """
    try:
        return Feature(_Feature.FromString(payload))
    except DecodeError:
        raise ExampleError("not a tf.train.Feature") from None


def bytes_feature(*values: bytes) -> Feature:
    """A Feature of byte strings."""
    feature = _Feature()
    feature.bytes_list.value.extend(values)
    return Feature(feature)


def float_feature(values: np.ndarray) -> Feature:
    """A Feature of float32 values."""
    feature = _Feature()
    feature.float_list.value.extend(np.asarray(values, np.float32).tolist())
    return Feature(feature)


def int64_feature(values: Sequence[int]) -> Feature:
    """A Feature of integers."""
    feature = _Feature()
    feature.int64_list.SetInParent()  # an empty list is one, too
    feature.int64_list.value.extend(values)
    return Feature(feature)


def write_example(features: Mapping[str, Feature]) -> bytes:
    """A serialized tf.train.Example.

    Example:
        >>> payload = write_example({"id": bytes_feature(b"video"), "labels": int64_feature([3, 17])})
        >>> parse_record(payload).features["labels"].values
        [3, 17]
    """
    message = _Example()
    for name, feature in features.items():
        message.features.feature[name].CopyFrom(feature.message)
    return message.SerializeToString(deterministic=True)


def write_sequence_example(context: Mapping[str, Feature], frames: Mapping[str, Sequence[bytes]]) -> bytes:
    """A serialized tf.train.SequenceExample, as YouTube-8M's frame-level records are.

    Example:
        >>> codes = np.zeros((120, 1024), np.uint8)  # 120 seconds
        >>> payload = write_sequence_example({"id": bytes_feature(b"video")}, {"rgb": [row.tobytes() for row in codes]})

    Args:
        context: features of the whole video.
        frames: by name of a modality, the codes of each frame.
    """
    message = _SequenceExample()
    for name, feature in context.items():
        message.context.feature[name].CopyFrom(feature.message)
    for name, rows in frames.items():
        part = message.feature_lists.feature_list[name]  # also puts an empty list in its place
        for row in rows:
            part.feature.add().bytes_list.value.append(row)
    return message.SerializeToString(deterministic=True)
