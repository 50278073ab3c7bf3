"""Files on local disks and object stores (gs://, s3://): atomic writes, globs, the rule for output directories.

Local paths never import Beam; `://` paths go through its file systems.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from vcls_model.commands import JobError, UsageError, check_writable, spare_inputs
from vcls_model.s3_clients import share_clients

# An upload larger than this waits for its turn on the worker's scratch disk rather than in its memory.
_SPOOL_BYTES = 64 << 20


def _file_systems():  # type: ignore[no-untyped-def]
    # Imported here: apache_beam costs two seconds, which --help must not pay.
    from apache_beam.io.filesystems import FileSystems

    if FileSystems._pipeline_options is None:  # s3:// refuses to start without options, be they empty
        from apache_beam.options.pipeline_options import PipelineOptions

        FileSystems.set_options(PipelineOptions([]))
    return FileSystems


@contextlib.contextmanager
def _object_store(path: str) -> Iterator[Any]:
    """Beam's file systems for use on `path`; what its store refuses becomes a `JobError` that names path and reason."""
    if path.startswith("s3://"):
        share_clients()
    try:
        yield _file_systems()
    except (UsageError, JobError, GeneratorExit):
        raise
    except Exception as error:  # each store's client has exceptions of its own, and may not be installed
        status = _http_status(error)
        if status in (401, 403):
            reason = f"no permission (HTTP {status}): check the credentials and what they may do with this bucket"
        elif status == 404:
            reason = "there is no such bucket or object (HTTP 404)"
        else:
            reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise JobError(f"{path}: {reason}") from error


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status that a store's client found, wherever the client keeps it; None when it kept none."""
    while error is not None:
        for holder in (error, getattr(error, "response", None)):
            for name in ("code", "status_code"):
                if isinstance(status := getattr(holder, name, None), int):
                    return int(status)
        details = getattr(error, "exception_details", None) or {}
        error = next((each for each in details.values() if isinstance(each, Exception)), error.__cause__)
    return None


def join(directory: str, *parts: str) -> str:
    """Joins path parts for whatever file system `directory` is on."""
    if "://" in directory:
        return "/".join([directory.rstrip("/"), *parts])
    return os.path.join(directory, *parts)


def absolute(path: str) -> str:
    """The same file for a worker on this machine that has another working directory."""
    return path if is_object_store(path) else os.path.abspath(path.removeprefix("file://"))


def is_object_store(path: str) -> bool:
    """Whether `path` is on an object store: no rename, but a file appears only when closed."""
    return "://" in path and not path.startswith("file://")


def write_atomically(path: str, data: bytes) -> None:
    """Writes `data` under a temporary name and renames it: a reader sees all of it or nothing.

    On an object store an upload becomes visible when it is complete, so the final name is written once.
    A failed write (a full disk, say) removes what it left and raises.
    """
    if is_object_store(path):
        _upload(path, io.BytesIO(data), len(data))
        return
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                view = view[stream.write(view) :]
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """A stream to write a large file to: it appears under its name if the block ends without an error, else not at all.

    It survives the death of the process, but not of the machine: it is not forced to the disk.
    """
    if is_object_store(path):
        # Closing an upload completes it, also after an error: so the file is whole before its upload begins.
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield cast(BinaryIO, spool)
            size = spool.tell()
            spool.seek(0)
            _upload(path, cast(BinaryIO, spool), size)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb") as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _upload(path: str, source: BinaryIO, size_bytes: int) -> None:
    with _object_store(path) as file_systems:
        if size_bytes == 0 and path.startswith("s3://"):
            _put_empty_object(path, file_systems)
            return
        with file_systems.create(path, "application/octet-stream", compression_type="uncompressed") as stream:
            shutil.copyfileobj(source, stream, 8 << 20)


def _put_empty_object(path: str, file_systems: Any) -> None:
    # Beam uploads to S3 in parts, and S3 refuses an upload of no parts.
    from apache_beam.io.aws import s3io

    bucket, key = s3io.parse_s3_path(path)
    s3io.S3IO(options=file_systems._pipeline_options).client.client.put_object(Bucket=bucket, Key=key, Body=b"")


def _temporary_name(path: str) -> str:
    return f"{path}.tmp-{uuid.uuid4().hex[:12]}"


def remove_temporaries(directory: str) -> None:
    """Removes what writers that were killed left directly below `directory`: for the end of a job, when none writes.

    An object store has no such files: there an upload that was not completed never has a name.
    """
    if is_object_store(directory):
        return
    for name in _listdir(directory):
        if re.search(r"\.tmp-[0-9a-f]{12}$", name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))


def write_text(path: str, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    write_atomically(path, text.encode())


def write_json(path: str, value: Any) -> None:
    """Writes one JSON document atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def open_for_reading(path: str) -> BinaryIO:
    """A stream over the bytes of a file as they are stored: never decompressed, whatever the suffix."""
    if not is_object_store(path):
        return open(path.removeprefix("file://"), "rb", buffering=0)
    with _object_store(path) as file_systems:
        return cast(BinaryIO, file_systems.open(path, "application/octet-stream", compression_type="uncompressed"))


def read_bytes(path: str) -> bytes:
    """The whole content of a small file."""
    if not is_object_store(path):  # spares the import of Beam
        with open(path.removeprefix("file://"), "rb") as local:
            return local.read()
    with open_for_reading(path) as stream, _object_store(path):
        return stream.read()


def read_text(path: str) -> str:
    """The whole content of a small UTF-8 text file, without its byte-order mark."""
    return read_bytes(path).decode("utf-8-sig")


def read_json(path: str) -> Any:
    """Reads one JSON document; a `JobError` names the file that is not one."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from None


def changed_settings(path: str, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs from the settings that an earlier run kept: (then, now) by key; {} when it kept none.

    Args:
        path: JSON that `write_json` wrote of settings like these.
        now: this run's settings.
    """
    if not exists(path):
        return {}
    then, now = read_json(path), json.loads(json.dumps(now))  # lists for tuples, as in the file
    return {key: (then.get(key), now.get(key)) for key in sorted({*then, *now}) if then.get(key) != now.get(key)}


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
    """A path at which a program that only knows disks finds the files of `directory`; a copy lasts while in use."""
    if not is_object_store(directory):
        yield directory.removeprefix("file://")
        return
    root = directory.rstrip("/") + "/"
    with tempfile.TemporaryDirectory() as scratch:
        with _object_store(root) as file_systems:
            found = [match.path for match in file_systems.match([root + "**"])[0].metadata_list]
        for path in found:
            local = os.path.join(scratch, *path.removeprefix(root).split("/"))
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with open_for_reading(path) as source, open(local, "wb") as target:
                shutil.copyfileobj(source, target, 8 << 20)
        yield scratch


def exists(path: str) -> bool:
    """Whether a file (or, on a disk, a directory) is there."""
    if not is_object_store(path):
        return os.path.exists(path.removeprefix("file://"))
    with _object_store(path) as file_systems:
        return bool(file_systems.exists(path))


def size_of(path: str) -> int:
    """Bytes of a file, -1 when it is not there."""
    if not is_object_store(path):
        try:
            return os.path.getsize(path)
        except FileNotFoundError:
            return -1
    with _object_store(path) as file_systems:
        matches = file_systems.match([path])[0].metadata_list
    return matches[0].size_in_bytes if matches else -1


def delete(path: str) -> None:
    """Removes a file, or a directory and all in it; nothing happens when it is not there."""
    if not is_object_store(path):
        if os.path.exists(path):
            _file_systems().delete([path])
        return
    if _holds_anything(path):
        with _object_store(path) as file_systems:
            file_systems.delete([path.rstrip("/") + "/"])
    elif exists(path):
        with _object_store(path) as file_systems:
            file_systems.delete([path])


def list_files(pattern: str) -> list[tuple[str, int, float]]:
    """Files that match a glob (or comma-separated globs), sorted by path: (path, size in bytes, modified in seconds).

    One listing a glob, however many files it matches.

    Raises:
        UsageError: nothing matches a glob.
    """
    found: dict[str, tuple[str, int, float]] = {}
    for part in pattern.split(","):
        with _object_store(part) if is_object_store(part) else contextlib.nullcontext(_file_systems()) as file_systems:
            matches = file_systems.match([part])[0].metadata_list
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
    with _object_store(directory) as file_systems:
        matches = file_systems.match([join(directory, "*" + suffix)])[0].metadata_list
    return sorted(match.path.rsplit("/", 1)[1] for match in matches)


def _listdir(directory: str) -> Sequence[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return ()


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
        UsageError: `directory` is not empty and neither `resume` nor `overwrite` is set, or both are, or `overwrite` is
            and it holds an input, or it cannot be written.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    check_writable(directory)
    if not _holds_anything(directory):
        return
    if overwrite:
        spare_inputs(directory, inputs)
    elif not resume:
        raise UsageError(
            f"output directory {directory} is not empty: {'continue with --resume, ' if resumable else ''}"
            "replace it with --overwrite, or name another"
        )


def prepare_output(
    directory: str, *, resume: bool, overwrite: bool, inputs: Iterable[str | None] = (), resumable: bool = True
) -> None:
    """`check_output`, then empties the directory if `overwrite` is set."""
    check_output(directory, resume=resume, overwrite=overwrite, inputs=inputs, resumable=resumable)
    if overwrite:
        delete(directory)


def _holds_anything(directory: str) -> bool:
    if is_object_store(directory):
        with _object_store(directory) as file_systems:
            return bool(file_systems.match([directory.rstrip("/") + "/**"], [1])[0].metadata_list)
    return bool(_listdir(directory))


def csv_text(data: bytes) -> io.StringIO:
    """Decodes a CSV, with or without a byte-order mark, for `csv.reader`."""
    return io.StringIO(data.decode("utf-8-sig"), newline="")
