"""Writes ONNX models as bytes: the few messages of github.com/onnx/onnx, onnx/onnx.proto, that a network needs.

The `onnx` package would do it too, at the price of 120 MB of copies while a worker starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_OPSET = 17
_IR_VERSION = 8
_FLOAT = 1  # TensorProto.DataType
_INT, _INTS = 2, 7  # AttributeProto.AttributeType

Parts = list[bytes | memoryview]


class Graph:
    """A graph in the making: nodes in order, constants, and names given by number."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: Parts = []
        self._count = 0

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: int | Sequence[int]) -> str:
        """Adds an operator and returns the name of its output."""
        output = output or self._next_name()
        message = _texts(1, inputs) + _text(2, output) + _text(4, kind)
        for name, value in attributes.items():
            message += _message(5, _attribute(name, value))
        self._nodes.append(_message(1, message))
        return output

    def constant(self, value: npt.ArrayLike) -> str:
        """Adds float32 values and returns their name."""
        name = self._next_name()
        array: npt.NDArray[Any] = np.ascontiguousarray(value, "<f4").reshape(np.shape(value))
        head = b"".join(_number(1, size) for size in array.shape) + _number(2, _FLOAT) + _text(8, name)
        head += _varint(9 << 3 | 2) + _varint(array.nbytes)
        self._constants += [
            _varint(5 << 3 | 2),
            _varint(len(head) + array.nbytes),
            head,
            array.reshape(-1).data.cast("B"),
        ]
        return name

    def model(self, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]) -> bytes:
        """A serialized ModelProto.

        Args:
            inputs, outputs: shapes by name; all are float32.
        """
        graph: Parts = [*self._nodes, _text(2, "encoder"), *self._constants]
        graph += [_message(11, _value_info(name, shape)) for name, shape in inputs.items()]
        graph += [_message(12, _value_info(name, shape)) for name, shape in outputs.items()]
        size = sum(len(part) for part in graph)
        head = _number(1, _IR_VERSION) + _message(8, _number(2, _OPSET)) + _varint(7 << 3 | 2) + _varint(size)
        return b"".join([head, *graph])

    def _next_name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT)
    return _text(1, name) + b"".join(_number(8, one) for one in value) + _number(20, _INTS)


def _value_info(name: str, shape: Sequence[int]) -> bytes:
    dimensions = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor = _number(1, _FLOAT) + _message(2, dimensions)
    return _text(1, name) + _message(2, _message(1, tensor))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _texts(field: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(field, value) for value in values)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """A number that is not negative, seven bits per byte, the lowest first."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)
