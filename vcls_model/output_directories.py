"""The rule for output directories: what a job may write into, and what `--overwrite` may delete."""

import os
from collections.abc import Iterable

from vcls_model.commands import UsageError
from vcls_model.storage import empty_directory, holds_anything, is_object_store, local_path


def check_output(
    directory: str, *, resume: bool, overwrite: bool, inputs: Iterable[str | None] = (), resumable: bool = True
) -> None:
    """Enforces the rule for output directories; deletes nothing.

    Args:
        directory: where the job writes.
        resume, overwrite: what the user asked for.
        inputs: what the job reads, which `overwrite` must not delete.
        resumable: the job has a --resume, for the message.

    Raises:
        UsageError: `directory` is not empty and neither `resume` nor `overwrite` is set, or both are, or it cannot be
            written, or `overwrite` is set and the directory holds an input, the working directory or the home
            directory.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    check_writable(directory)
    if not holds_anything(directory):
        return
    if overwrite:
        _forbid_overwriting_ancestors(directory)
        forbid_inputs_inside_output(directory, inputs)
    elif not resume:
        raise UsageError(
            f"output directory {directory} is not empty: {'continue with --resume, ' if resumable else ''}"
            "replace it with --overwrite, or name another"
        )


def prepare_output(
    directory: str, *, resume: bool, overwrite: bool, inputs: Iterable[str | None] = (), resumable: bool = True
) -> None:
    """`check_output`, then `empty_directory` if `overwrite` is set."""
    check_output(directory, resume=resume, overwrite=overwrite, inputs=inputs, resumable=resumable)
    if overwrite:
        empty_directory(directory)


def forbid_inputs_inside_output(output: str, inputs: Iterable[str | None]) -> None:
    """Raises `UsageError` if the output directory is, or holds, one of the inputs, which --overwrite would delete.

    Args:
        output: a local path or an object store's address.
        inputs: files and directories that the job reads; None and empty ones do not count.
    """
    stored = is_object_store(output)
    own = output if stored else os.path.realpath(local_path(output))
    holder = own.rstrip("/") + "/"
    for path in inputs:
        if path and is_object_store(path) == stored:
            place = path if stored else os.path.realpath(local_path(path))
            if f"{place.rstrip('/')}/".startswith(holder):
                raise UsageError(f"--output={output} holds the input {path}: name another directory")


def check_writable(output: str) -> None:
    """Raises `UsageError` if a local directory can neither be written to nor created, or has no name."""
    if not output.strip():
        raise UsageError("the output has no name: is a variable of the shell not set?")
    if is_object_store(output):
        return
    place = os.path.abspath(local_path(output))
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise UsageError(f"output {output}: {place} is a file, not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"output {output}: there is no permission to write in {place}")


def _forbid_overwriting_ancestors(directory: str) -> None:
    if is_object_store(directory):
        return
    own = os.path.join(os.path.realpath(local_path(directory)), "")
    here, home = (os.path.join(os.path.realpath(place), "") for place in (os.getcwd(), os.path.expanduser("~")))
    if home.startswith(own) or (here.startswith(own) and here != own):
        raise UsageError(f"--overwrite would delete everything below {directory}: name a directory of its own")
