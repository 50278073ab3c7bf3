"""Reads a PyTorch state dict without PyTorch and without trusting its pickles.

Handles the format that `torch.save` wrote before version 1.6: a magic number, a version, a note on the machine, the
state dict, the storages' keys, each a pickle, and then each storage as a count of elements and its little-endian bytes.
"""

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_STORAGES: dict[Any, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage:
    """Elements that tensors are views of; filled in after the pickles, which come first in the file."""

    def __init__(self, dtype: np.dtype[Any], count: int) -> None:
        self.dtype = dtype
        self.count = count
        self.elements: npt.NDArray[Any] | None = None


class _Tensor:
    """A view of a storage: what `torch._utils._rebuild_tensor_v2` would have made."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        numbers = [offset, *shape, *strides]
        if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
            raise pickle.UnpicklingError("a tensor with an impossible shape")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 in shape or last >= storage.count:
            raise pickle.UnpicklingError("a tensor that reaches past its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def array(self) -> npt.NDArray[Any]:
        """A contiguous copy."""
        elements = self.storage.elements
        assert elements is not None
        steps = [stride * elements.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, steps))


class _Unpickler(pickle.Unpickler):
    """Knows the four names that a state dict of floats needs, and no other."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function for each look-up: a pickle's BUILD may set attributes on what it is given.
            return lambda *arguments: _Tensor(*arguments)
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, view = pid
        if kind != "storage" or storage not in _STORAGES or view is not None or type(count) is not int:
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return self.storages.setdefault(key, _Storage(_STORAGES[storage], count))


def read_state_dict(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a state dict by name, float32 or int64, each contiguous.

    Raises:
        JobError: the file is cut short, is not of this format, or its pickles ask for anything but tensors.
    """
    with io.BufferedReader(io.FileIO(path)) as stream:  # the unpickler reads a few bytes at a time
        try:
            return _read(stream)  # type: ignore[arg-type]  # of a raw file
        except JobError:
            raise
        except Exception as error:  # a hostile pickle may raise any exception there is
            raise JobError(f"{path} is not a readable state dict: {error}") from error


def _read(stream: io.BufferedReader) -> dict[str, npt.NDArray[Any]]:
    if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != _VERSION:
        raise pickle.UnpicklingError("it does not begin as torch.save's files do")
    _Unpickler(stream).load()  # sizes of C types on the machine that wrote it
    unpickler = _Unpickler(stream)
    tensors = unpickler.load()
    keys = _Unpickler(stream).load()
    if type(tensors) is not collections.OrderedDict or sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError("its storages are not those of its tensors")
    for key in keys:
        storage = unpickler.storages[key]
        count = int.from_bytes(_read_exactly(stream, 8), "little")
        if count != storage.count:
            raise pickle.UnpicklingError(f"a storage has {count} elements, its tensors need {storage.count}")
        storage.elements = np.frombuffer(_read_exactly(stream, count * storage.dtype.itemsize), storage.dtype)
    if not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()):
        raise pickle.UnpicklingError("it holds more than named tensors")
    return {name: tensor.array() for name, tensor in tensors.items()}


def _read_exactly(stream: io.BufferedReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise pickle.UnpicklingError("it is cut short")
    return data
