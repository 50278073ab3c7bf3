"""Checkpoints: arrays and a few facts in one file that is there as a whole or not at all."""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError


def save(path: str, arrays: dict[str, Sequence[Any]], facts: dict[str, Any]) -> None:
    """Writes groups of variables and JSON-able facts.

    Args:
        path: the file; an older one is replaced in one step.
        arrays: for each group (`model`, `optimizer`, …) its variables, in order.
        facts: where the run stands.
    """
    flat = {
        f"{group}/{number:05d}": np.asarray(value)
        for group, values in arrays.items()
        for number, value in enumerate(values)
    }
    # bfloat16 is unknown to numpy's format; float32 holds its every value.
    flat = {name: value.astype(np.float32) if value.dtype.name == "bfloat16" else value for name, value in flat.items()}
    stream = io.BytesIO()
    np.savez(stream, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **flat)  # type: ignore[arg-type]
    storage.write_atomically(path, stream.getvalue())


def load(path: str) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
        JobError: the file is not a checkpoint.
    """
    try:
        with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as data:
            facts = json.loads(data["facts"].tobytes())
            groups: dict[str, list[np.ndarray]] = {}
            for name in sorted(name for name in data.files if name != "facts"):
                groups.setdefault(name.split("/", 1)[0], []).append(data[name])
            return groups, facts
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise JobError(f"{path} is not a checkpoint of this program: {error}") from None


def restore(variables: Sequence[Any], values: Sequence[np.ndarray], path: str) -> None:
    """Assigns a checkpoint's group to variables, in order.

    Raises:
        JobError: the number of variables or a shape differs: the checkpoint is of another model.
    """
    if len(variables) != len(values):
        raise JobError(
            f"{path} holds {len(values)} variables where this model has {len(variables)}: "
            "it is of another model or other options"
        )
    for variable, value in zip(variables, values, strict=True):
        if tuple(variable.shape) != value.shape:
            raise JobError(f"{path}: {variable.name} has shape {value.shape} there and {tuple(variable.shape)} here")
        variable.assign(value)
