"""Files through Beam's file systems (local, gs://, s3://): atomic writes, globs, the rules for output directories."""

import io
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from vcls_model.commands import JobError, UsageError


def _file_systems():  # type: ignore[no-untyped-def]
    # Imported here: apache_beam costs two seconds, which --help must not pay.
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def join(directory: str, *parts: str) -> str:
    """Joins path parts for whatever file system `directory` is on."""
    if "://" in directory:
        return "/".join([directory.rstrip("/"), *parts])
    return os.path.join(directory, *parts)


def is_object_store(path: str) -> bool:
    """Whether `path` is on an object store: no rename, but a file appears only when closed."""
    return "://" in path and not path.startswith("file://")


def write_atomically(path: str, data: bytes) -> None:
    """Writes `data` under a temporary name and renames it: a reader sees all of it or nothing.

    On an object store an upload becomes visible when it is complete, so the final name is written once.
    A failed write (a full disk, say) removes what it left and raises.
    """
    if is_object_store(path):
        with _file_systems().create(path, "application/octet-stream") as stream:
            stream.write(data)
        return
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, exist_ok=True)
    temporary = f"{path}.tmp-{uuid.uuid4().hex[:12]}"
    try:
        with open(temporary, "wb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                view = view[stream.write(view):]
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def write_json(path: str, value: Any) -> None:
    """Writes one JSON document atomically, keys in the order given."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def open_for_reading(path: str) -> BinaryIO:
    """A stream over the bytes of a file as they are stored: never decompressed, whatever the suffix."""
    if not is_object_store(path):
        return open(path.removeprefix("file://"), "rb", buffering=0)
    return cast(BinaryIO, _file_systems().open(path, "application/octet-stream", compression_type="uncompressed"))


def read_bytes(path: str) -> bytes:
    """The whole content of a small file."""
    if not is_object_store(path):  # spares the import of Beam
        with open(path.removeprefix("file://"), "rb") as local:
            return local.read()
    with _file_systems().open(path, "application/octet-stream", compression_type="uncompressed") as stream:
        return stream.read()


def read_json(path: str) -> Any:
    """Reads one JSON document; a `JobError` names the file that is not one."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from None


def exists(path: str) -> bool:
    """Whether a file (or, on a disk, a directory) is there."""
    if not is_object_store(path):
        return os.path.exists(path.removeprefix("file://"))
    return _file_systems().exists(path)


def list_files(pattern: str) -> list[tuple[str, int, float]]:
    """Files that match a glob (or comma-separated globs), sorted by path: (path, size in bytes, modified in seconds).

    One listing a glob, however many files it matches.

    Raises:
        UsageError: nothing matches a glob.
    """
    found: dict[str, tuple[str, int, float]] = {}
    for part in pattern.split(","):
        matches = _file_systems().match([part])[0].metadata_list
        files = [match for match in matches if not match.path.endswith("/") and not _is_directory(match.path)]
        if not files:
            raise UsageError(f"no file matches {part!r}")
        for match in files:
            found[match.path] = (match.path, match.size_in_bytes, match.last_updated_in_seconds)
    return [found[path] for path in sorted(found)]


def _is_directory(path: str) -> bool:
    return not is_object_store(path) and os.path.isdir(path)


def list_names(directory: str, suffix: str = "") -> list[str]:
    """Base names of the files directly below `directory` that end in `suffix`; [] when it is absent."""
    if not is_object_store(directory):
        return sorted(name for name in _listdir(directory) if name.endswith(suffix))
    matches = _file_systems().match([join(directory, "*" + suffix)])[0].metadata_list
    return sorted(match.path.rsplit("/", 1)[1] for match in matches)


def _listdir(directory: str) -> Sequence[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return ()


def prepare_output(directory: str, *, resume: bool, overwrite: bool) -> None:
    """Enforces the rule for output directories before a graph exists.

    Raises:
        UsageError: `directory` holds something and neither `resume` nor `overwrite` is set, or both are.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if not _holds_anything(directory):
        return
    if overwrite:
        _file_systems().delete([directory if not is_object_store(directory) else directory.rstrip("/") + "/"])
    elif not resume:
        raise UsageError(f"output directory {directory} is not empty: continue with --resume, "
                         "replace it with --overwrite, or name another")


def _holds_anything(directory: str) -> bool:
    if is_object_store(directory):
        return bool(_file_systems().match([directory.rstrip("/") + "/**"], [1])[0].metadata_list)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise UsageError(f"output {directory} is a file, not a directory")
    return bool(_listdir(directory))


def csv_text(data: bytes) -> io.StringIO:
    """Decodes a CSV, with or without a byte-order mark, for `csv.reader`."""
    return io.StringIO(data.decode("utf-8-sig"), newline="")
