"""Files of a training run, on a disk or an object store, through TensorFlow's file systems."""

import contextlib
import fnmatch
import json
import os
import uuid
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from vcls_model.commands import JobError, UsageError, check_writable, spare_inputs


def join(directory: str, *parts: str) -> str:
    """Joins path parts for whatever file system `directory` is on."""
    return tf.io.gfile.join(directory, *parts)


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    return tf.io.gfile.exists(path)


def list_files(directory: str, pattern: str) -> list[str]:
    """Paths of the entries of a directory whose names match a glob, sorted; [] when there are none or no directory."""
    if not exists(directory):
        return []
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(directory))
    return sorted(join(directory, name) for name in names if fnmatch.fnmatchcase(name, pattern))


def read_bytes(path: str) -> bytes:
    """The whole content of a file."""
    if os.path.isfile(path):  # TensorFlow would mix a file with the one that replaces it meanwhile
        with open(path, "rb") as local:
            return local.read()
    with tf.io.gfile.GFile(path, "rb") as stream:
        return stream.read()


def read_text(path: str) -> str:
    """The whole content of a small text file, a byte-order mark removed."""
    return read_bytes(path).decode("utf-8-sig")


def read_json(path: str) -> Any:
    """Reads one JSON document; a `JobError` names the file that is not one."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from None


def write_atomically(path: str, data: bytes) -> None:
    """Writes `data` under a temporary name and renames it: a reader sees all of it or nothing."""
    temporary = f"{path}.tmp-{uuid.uuid4().hex[:12]}"
    try:
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(temporary, "wb") as stream:
            stream.write(data)
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException as error:
        with contextlib.suppress(tf.errors.OpError):
            if tf.io.gfile.exists(temporary):
                tf.io.gfile.remove(temporary)
        if isinstance(error, tf.errors.OpError):
            raise JobError(f"{path} cannot be written: {error.message}") from error
        raise


def write_text(path: str, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    write_atomically(path, text.encode())


def write_json(path: str, value: Any) -> None:
    """Writes one JSON document atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def check_output(directory: str, *, resume: bool, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """Enforces the rule for output directories.

    Args:
        directory: where the job writes.
        resume, overwrite: what the user asked for.
        inputs: what the job reads, which `overwrite` must not delete.

    Raises:
        UsageError: `directory` is a file, or holds something and neither `resume` nor `overwrite` is set, or both are,
            or `overwrite` is and it holds an input.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    check_writable(directory)
    if not exists(directory):
        return
    if not tf.io.gfile.listdir(directory):
        return
    if overwrite:
        spare_inputs(directory, inputs)
    elif not resume:
        raise UsageError(f"output directory {directory} is not empty: continue with --resume, "
                         "replace it with --overwrite, or name another")


def clear(directory: str) -> None:
    """Deletes a directory and what it holds, if it is there."""
    if exists(directory):
        tf.io.gfile.rmtree(directory)
