"""State dicts are read without PyTorch, and a hostile one runs nothing."""

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcls_model.commands import JobError
from vcls_model.encoders.torch_weights import read_state_dict

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Global:
    """Pickles as a name of a module that need not exist here, called with `arguments`."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Call:
    def __init__(self, function: _Global, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments


class _Stored:
    def __init__(self, kind: str, key: str, count: int) -> None:
        self.kind, self.key, self.count = kind, key, count


class _Writer(pickle._Pickler):
    """Writes torch's names without torch."""

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(value, _Stored):
            self.save(("storage", _Global("torch", value.kind), value.key, "cpu", value.count, None))
            self.write(pickle.BINPERSID)
        else:
            super().save(value, save_persistent_id)


def tensor(stored: _Stored, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> _Call:
    rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
    return _Call(rebuild, (stored, offset, shape, strides, False, collections.OrderedDict()))


def write(path: Path, state: Any, keys: list[str], storages: list[np.ndarray]) -> Path:
    with open(path, "wb") as stream:
        for value in (MAGIC, VERSION, {"little_endian": True}, state, keys):
            _Writer(stream, protocol=2).dump(value)
        for storage in storages:
            stream.write(struct.pack("<q", storage.size) + storage.tobytes())
    return path


def good_file(path: Path) -> Path:
    elements = np.arange(12, dtype="<f4")
    state = collections.OrderedDict(
        kernel=tensor(_Stored("FloatStorage", "7", 12), 0, (3, 4), (1, 3)),
        tail=tensor(_Stored("FloatStorage", "7", 12), 10, (2,), (1,)),
        count=tensor(_Stored("LongStorage", "8", 1), 0, (), ()),
    )
    return write(path, state, ["7", "8"], [elements, np.array([5], "<i8")])


def test_strides_offsets_and_types_are_honoured(tmp_path: Path) -> None:
    state = read_state_dict(good_file(tmp_path / "good.pth"))
    np.testing.assert_array_equal(state["kernel"], np.arange(12, dtype=np.float32).reshape(4, 3).T)
    np.testing.assert_array_equal(state["tail"], [10, 11])
    assert state["count"] == 5 and state["count"].dtype == np.int64


def test_a_pickle_that_wants_to_run_a_command_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for module in (os.system.__module__, "os", "subprocess", "builtins"):
        name = {"subprocess": "getoutput", "builtins": "eval"}.get(module, "system")
        command = f"open({str(mark)!r}, 'w')" if name == "eval" else f"touch {mark}"
        state = collections.OrderedDict(a=_Call(_Global(module, name), (command,)))
        with pytest.raises(JobError, match=f"it asks for {module}.{name}"):
            read_state_dict(write(tmp_path / "bad.pth", state, [], []))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (13,), (1,)), (11, (2,), (1,)), (0, (2, 2), (1, 12)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    state = collections.OrderedDict(a=tensor(_Stored("FloatStorage", "7", 12), offset, shape, strides))
    with pytest.raises(JobError, match="a tensor"):
        read_state_dict(write(tmp_path / "bad.pth", state, ["7"], [np.zeros(12, "<f4")]))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = good_file(tmp_path / "good.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        with pytest.raises(JobError, match="not a readable state dict"):
            read_state_dict(cut)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02J\xff\xff\xff\xff."])
def test_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(JobError, match="not a readable state dict"):
        read_state_dict(path)


def test_a_storage_of_another_size_is_refused(tmp_path: Path) -> None:
    state = collections.OrderedDict(a=tensor(_Stored("FloatStorage", "7", 12), 0, (12,), (1,)))
    with pytest.raises(JobError, match="a storage has 11 elements, its tensors need 12"):
        read_state_dict(write(tmp_path / "bad.pth", state, ["7"], [np.zeros(11, "<f4")]))


def test_anything_but_named_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="more than named tensors"):
        read_state_dict(write(tmp_path / "bad.pth", collections.OrderedDict(a=3), [], []))
    with pytest.raises(JobError, match="not those of its tensors"):
        read_state_dict(write(tmp_path / "bad.pth", [1, 2], [], []))
