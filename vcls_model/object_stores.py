"""Object stores (gs://, s3:// and others that Beam knows): the only module of this package that imports Beam.

Paths are taken literally: files are listed by prefix, and what Beam would read as a pattern is escaped.
`vcls_model.storage` imports this module for `://` paths only.
"""

import contextlib
import functools
import os
import shutil
import threading
import types
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from vcls_model.commands import JobError, UsageError

_BYTES = "application/octet-stream"


class _SharedSession:
    """Stands in for the boto3 session that Beam makes for each file, which costs 0.15 s of CPU and a connection.

    boto3 clients are thread-safe and renew expiring credentials themselves, so one per set of arguments and of AWS_
    environment variables is enough.
    """

    _lock = threading.Lock()
    _clients: dict[Any, Any] = {}

    def client(self, **arguments: Any) -> Any:
        import boto3

        settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        key = (tuple(sorted(arguments.items())), tuple(settings))
        with self._lock:
            if key not in self._clients:
                self._clients[key] = boto3.session.Session().client(**arguments)
            return self._clients[key]


@functools.cache
def _share_s3_clients() -> None:
    from apache_beam.io.aws.clients.s3 import boto3_client

    if boto3_client.boto3 is not None:  # None where boto3 is not installed
        boto3_client.boto3 = types.SimpleNamespace(session=types.SimpleNamespace(Session=_SharedSession))


@contextlib.contextmanager
def _store(path: str) -> Iterator[Any]:
    """Beam's file system for `path`; an error of the store becomes a `JobError` that names the path and the reason."""
    if FileSystems._pipeline_options is None:  # s3:// refuses to start without options, even empty ones
        FileSystems.set_options(PipelineOptions([]))
    if path.startswith("s3://"):
        _share_s3_clients()
    try:
        yield FileSystems.get_filesystem(path)
    except (UsageError, JobError, GeneratorExit):
        raise
    except Exception as error:  # each store's client has exceptions of its own, and may not be installed
        status = _http_status(error)
        if status in (401, 403):
            reason = f"no permission (HTTP {status}): check the credentials and their permissions on this bucket"
        elif status == 404:
            reason = "there is no such bucket or object (HTTP 404)"
        else:
            reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise JobError(f"{path}: {reason}") from error


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, wherever the store's client keeps it; None if there is none."""
    while error is not None:
        for holder in (error, getattr(error, "response", None)):
            for name in ("code", "status_code"):
                if isinstance(status := getattr(holder, name, None), int):
                    return int(status)
        details = getattr(error, "exception_details", None) or {}
        error = next((each for each in details.values() if isinstance(each, Exception)), error.__cause__)
    return None


def open_for_reading(path: str) -> BinaryIO:
    """A stream over the bytes of an object as they are stored."""
    with _store(path) as store:
        return cast(BinaryIO, store.open(path, _BYTES, compression_type="uncompressed"))


def read_bytes(path: str) -> bytes:
    """The whole content of an object."""
    with open_for_reading(path) as stream, _store(path):
        return stream.read()


def upload(path: str, source: BinaryIO, size_bytes: int) -> None:
    """Writes what is left of `source` to an object, which becomes visible when it is complete."""
    with _store(path) as store:
        if size_bytes == 0 and path.startswith("s3://"):
            _put_empty_object(path)
            return
        target = store.create(path, _BYTES, compression_type="uncompressed")
        try:
            with target as stream:
                shutil.copyfileobj(source, stream, 8 << 20)
        except BaseException:
            if path.startswith("gs://"):
                # Or the garbage collector closes the stream: that uploads again, and waits two minutes for an answer.
                target._buffer.close()
            raise


def _put_empty_object(path: str) -> None:
    # Beam uploads to S3 in parts, and S3 refuses an upload of no parts.
    from apache_beam.io.aws import s3io

    bucket, key = s3io.parse_s3_path(path)
    s3io.S3IO(options=FileSystems._pipeline_options).client.client.put_object(Bucket=bucket, Key=key, Body=b"")


def reach(bucket: str) -> None:
    """Asks for an object, to see that the store answers; that there is none, or that it refuses, is an answer.

    Raises:
        JobError: it cannot be asked.
    """
    try:
        exists(f"{bucket}/.reach")
    except JobError as error:
        if _http_status(error.__cause__) not in (401, 403):
            raise


def exists(path: str) -> bool:
    """Whether there is an object of this name."""
    with _store(path) as store:
        return bool(store.exists(path))


def status(path: str) -> tuple[int, float] | None:
    """(size in bytes, time of modification in seconds) of an object; None if there is none of this name."""
    with _store(path) as store:
        if not store.exists(path):
            return None
        metadata = store.metadata(path)
    return metadata.size_in_bytes, float(metadata.last_updated_in_seconds)


def checksum(path: str) -> str:
    """What the store itself says of the content of an object: a checksum or an entity tag."""
    with _store(path) as store:
        return str(store.checksum(path))


def list_prefix(prefix: str) -> Iterator[tuple[str, int, float]]:
    """(path, size in bytes, time of modification in seconds) of every object whose name begins with `prefix`."""
    with _store(prefix) as store:
        entries: Iterator[FileMetadata] = store._list(prefix)
        for entry in entries:
            if not entry.path.endswith("/"):  # consoles make such empty objects to show a folder
                yield entry.path, entry.size_in_bytes, float(entry.last_updated_in_seconds)


def holds_anything(directory: str) -> bool:
    """Whether the name of any object begins with `directory` and a slash."""
    return next(list_prefix(directory.rstrip("/") + "/"), None) is not None


def delete_object(path: str) -> None:
    """Removes one object; nothing happens when it is not there."""
    with _store(path) as store:
        if not store.exists(path):
            return
        if path.startswith("gs://"):
            store._gcsIO().delete(path)  # store.delete would match a pattern
        else:
            store.delete([path if path.startswith("s3://") else _escaped(path)])


def delete_below(directory: str) -> None:
    """Removes every object whose name begins with `directory` and a slash."""
    root = directory.rstrip("/") + "/"
    if holds_anything(root):
        with _store(root) as store:
            store.delete([root if root.startswith(("s3://", "gs://")) else _escaped(root)])
        if holds_anything(root):  # Beam's client of Google's store only logs what it could not delete
            raise JobError(f"{directory}: not all objects could be deleted: check the permissions on this bucket")


def _escaped(path: str) -> str:
    """`path` as a pattern that matches nothing but itself, for the file systems that delete by pattern."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
