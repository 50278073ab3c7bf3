"""Files on local disks and object stores (gs://, s3://): atomic writes, and the one door for patterns.

A path is taken literally everywhere but in `list_files`, the one place where patterns are expanded. Local paths never
import Beam.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, BinaryIO, cast

from vcls_model.commands import JobError, UsageError
from vcls_model.patterns import expression_of, files_below, is_pattern, is_skipped

# An upload larger than this waits for its turn on the worker's scratch disk rather than in its memory.
_SPOOL_BYTES = 64 << 20
# Vocabularies, schemas and what jobs say of themselves have megabytes at most.
_SMALL_BYTES = 256 << 20
# The lock of a job that writes to a directory, see `locks`, and what its files' names begin with: no part of what the
# directory holds.
LOCK_NAME = ".vcls-lock"
# `content_digest` looks at so much of either end of a file: a tenth of a millisecond, and all of a small one.
DIGESTED_BYTES = 16 << 10


def _stores() -> ModuleType:
    # Imported here: Beam takes two seconds to import, which local paths do not need.
    from vcls_model import object_stores

    return object_stores


def join(directory: str, *parts: str) -> str:
    """Joins path parts for whatever file system `directory` is on."""
    if is_object_store(directory):
        return "/".join([directory.rstrip("/"), *parts])
    return os.path.join(directory, *parts)


def absolute(path: str) -> str:
    """Makes a local path absolute, so that workers with another working directory find it; no name stays none."""
    return path if is_object_store(path) or not path.strip() else os.path.abspath(local_path(path))


def resolved(path: str) -> str:
    """A local path as it is without symbolic links; an object store's address stays as it is."""
    return path if is_object_store(path) else os.path.realpath(local_path(path))


def is_object_store(path: str) -> bool:
    """Whether `path` is on an object store: no rename, but a file appears only when closed."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None and not path.startswith("file://")


def local_path(path: str) -> str:
    """A local path as the system takes it: without `file://`."""
    return path.removeprefix("file://")


def write_atomically(path: str, data: bytes) -> None:
    """Writes `data` under a temporary name and renames it: a reader sees all of it or nothing.

    On an object store an upload becomes visible when it is complete, so the final name is written once.
    A failed write (a full disk, say) removes what it left and raises.
    """
    if is_object_store(path):
        _stores().upload(path, io.BytesIO(data), len(data))
        return
    with _replacing(local_path(path), buffering=0) as stream:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())


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
            _stores().upload(path, cast(BinaryIO, spool), size)
        return
    with _replacing(local_path(path)) as stream:
        yield stream


@contextlib.contextmanager
def _replacing(path: str, buffering: int = -1) -> Iterator[BinaryIO]:
    """A stream to a temporary file beside `path`, which takes its place if the block ends without an error."""
    _refuse_device(path)
    temporary = _temporary_name(path)
    try:
        try:
            stream = open(temporary, "wb", buffering)  # noqa: SIM115  # it is closed below
        # A job of many shards writes thousands of files: the directory is asked for only where there is none.
        except (FileNotFoundError, NotADirectoryError):
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            stream = open(temporary, "wb", buffering)  # noqa: SIM115
        with stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


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
                os.unlink(os.path.join(local_path(directory), name))


def write_text(path: str, text: str) -> None:
    """Writes a text file atomically, as UTF-8; bytes of a path that are not UTF-8 become `\\udcff`, as in JSON."""
    write_atomically(path, text.encode(errors="backslashreplace"))


def to_json(value: Any, **style: Any) -> str:
    """The one way in which this project writes JSON: what any strict reader takes.

    Args:
        value: mappings, lists, tuples, text, numbers, booleans and None.
        style: of `json.dumps`, such as `indent`.

    Returns:
        The text. NaN and infinity, which JSON lacks, are null; lone surrogates (of paths not in UTF-8) are escaped.
    """
    text = json.dumps(_finite(value), allow_nan=False, **style)
    return text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_finite(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(data: bytes | str, origin: str) -> Any:
    """Reads one JSON document; the NaN and infinity that the first release wrote read as None.

    Raises:
        JobError: `data` is not JSON, names a key twice in an object, or is nested too deep; the message begins with
            `origin`.
    """
    try:
        text = data.decode(json.detect_encoding(data)) if isinstance(data, bytes) else data
        return json.loads(text.removeprefix("\ufeff"), parse_constant=lambda _: None, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise JobError(f"{origin} is not JSON: {error}") from None


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice in one object")
    return entries


def write_json(path: str, value: Any) -> None:
    """Writes one JSON document atomically, keys in the order given; see `to_json`."""
    write_text(path, to_json(value, indent=1, ensure_ascii=False) + "\n")


def open_for_reading(path: str) -> BinaryIO:
    """A stream over the bytes of a file as they are stored: never decompressed, whatever the suffix.

    Raises:
        JobError: it is a pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    if is_object_store(path):
        return cast(BinaryIO, _stores().open_for_reading(path))
    _refuse_device(local_path(path))
    return open(local_path(path), "rb", buffering=0)


def open_for_appending(path: str) -> BinaryIO:
    """A stream, without a buffer, at the end of a file on a disk, which is made if it is not there.

    Raises:
        JobError: it is a pipe, which may make its writer wait for ever, a socket or a device.
        OSError: it cannot be opened.
    """
    _refuse_device(local_path(path))
    return cast(BinaryIO, open(local_path(path), "ab", buffering=0))


def read_bytes(path: str) -> bytes:
    """The whole content of a small file; raises as `open_for_reading` does."""
    if is_object_store(path):
        return cast(bytes, _stores().read_bytes(path))
    _refuse_device(local_path(path))
    with open(local_path(path), "rb") as stream:
        return stream.read()


def _refuse_device(path: str) -> None:
    """Raises `JobError` for what never ends, or makes its reader wait for ever, and what no file must replace."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # whoever opens it says what is wrong
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise JobError(f"{path} is a pipe, a socket or a device, not a file")


def refuse_devices_below(directory: str) -> None:
    """Raises `JobError` if there is a pipe, a socket or a device in a local directory that a library is to read."""
    for folder, _, names in os.walk(directory):
        for name in names:
            _refuse_device(os.path.join(folder, name))


def read_small(path: str, most_bytes: int = _SMALL_BYTES) -> bytes:
    """The whole content of a file that people write, or that describes data.

    Args:
        path: of the file.
        most_bytes: that such a file has.

    Raises:
        JobError: it is far too large to be one, or no file.
        OSError: it cannot be opened.
    """
    if not is_object_store(path) and (size := size_of(path)) > most_bytes:
        raise JobError(f"{path} has {size:,} bytes: it is not a file of this kind")
    return read_bytes(path)


def read_text(path: str) -> str:
    """The whole content of a small UTF-8 text file, without its byte-order mark."""
    return read_small(path).decode("utf-8-sig")


def read_json(path: str) -> Any:
    """Reads one JSON document; a `JobError` names the file that is not one."""
    return from_json(read_small(path), path)


def changed_settings(path: str, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs from the settings that an earlier run kept: (then, now) by key; {} when it kept none.

    Args:
        path: JSON that `write_json` wrote of settings like these.
        now: this run's settings.
    """
    if not exists(path):
        return {}
    then, now = read_json(path), from_json(to_json(now), path)  # lists for tuples, as in the file
    if not isinstance(then, dict):
        raise JobError(f"{path} is damaged: it does not hold the settings of a run; start over with --overwrite")
    return {key: (then.get(key), now.get(key)) for key in sorted({*then, *now}) if then.get(key) != now.get(key)}


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
    """A path at which a program that only knows disks finds the files of `directory`, for as long as the block runs.

    It holds none of the characters that TensorFlow reads as a pattern: such a directory is shown by a symbolic link.
    """
    if not is_object_store(directory):
        with plain_name(local_path(directory)) as plain:
            yield plain
        return
    root = directory.rstrip("/") + "/"
    with tempfile.TemporaryDirectory(prefix="vcls-") as scratch:
        for path, _, _ in list(_stores().list_prefix(root)):
            parts = path.removeprefix(root).split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise JobError(f"{path!r} cannot be copied to a disk: its name has an empty part, '.' or '..'")
            local = os.path.join(scratch, *parts)
            os.makedirs(os.path.dirname(local), exist_ok=True)
            copy_to_disk(path, local)
        yield scratch


def copy_to_disk(path: str, local: str) -> None:
    """Copies a file, wherever it is, to a local path, for a program that only knows disks."""
    with open_for_reading(path) as source, open(local, "wb") as target:
        shutil.copyfileobj(source, target, 8 << 20)


@contextlib.contextmanager
def replace_directory(path: str) -> Iterator[str]:
    """A local directory to write to, for a program that only knows disks: it replaces `path` if the block succeeds.

    Like `local_copy`, its name holds none of the characters that TensorFlow reads as a pattern.
    """
    if is_object_store(path):
        with tempfile.TemporaryDirectory(prefix="vcls-") as scratch:
            yield scratch
            delete(path)
            for folder, _, names in os.walk(scratch):
                parts = [] if folder == scratch else os.path.relpath(folder, scratch).split(os.sep)
                for name in names:
                    with open(os.path.join(folder, name), "rb") as source:
                        size = os.fstat(source.fileno()).st_size
                        _stores().upload(join(path, *parts, name), source, size)
        return
    path = local_path(path).rstrip("/")
    temporary = f"{path}.tmp"
    delete(temporary)  # of a process that was killed
    os.makedirs(temporary)
    with plain_name(temporary) as plain:
        yield plain
    delete(path)
    os.rename(temporary, path)


@contextlib.contextmanager
def plain_name(directory: str) -> Iterator[str]:
    """A path of a local directory, on this machine, that TensorFlow takes as it is: UTF-8, and no pattern.

    That of a symbolic link, if need be, which lasts as long as the block. Addresses of object stores stay as they are.
    """
    plain = not is_pattern(directory) and "\\" not in directory
    if is_object_store(directory) or (plain and os.fsencode(directory).decode(errors="replace") == directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="vcls-") as scratch:
        link = os.path.join(scratch, "directory")
        os.symlink(os.path.abspath(directory), link)
        yield link


def reach(bucket: str) -> None:
    """Asks an object store for something small, to see that it answers; a refusal is an answer.

    Raises:
        JobError: it cannot be asked.
    """
    _stores().reach(bucket)


def exists(path: str) -> bool:
    """Whether a file (or, on a disk, a directory) is there."""
    if is_object_store(path):
        return bool(_stores().exists(path))
    return os.path.exists(local_path(path))


def size_of(path: str) -> int:
    """Size of a file in bytes, -1 when it is not there."""
    status = status_of(path)
    return -1 if status is None else status[0]


def status_of(path: str) -> tuple[int, float] | None:
    """(size in bytes, time of modification in seconds) of a file; None when it is not there."""
    if is_object_store(path):
        status: tuple[int, float] | None = _stores().status(path)
        return status
    try:
        return _described(local_path(path))[1:]
    except FileNotFoundError:
        return None


def content_digest(path: str) -> str:
    """Identifies the content of an input at the price of a moment: what notices a file replaced by one of equal size.

    On a disk it is a hash of the first and the last `DIGESTED_BYTES`, on an object store what the store says of the
    object.
    """
    if is_object_store(path):
        return str(_stores().checksum(path))
    digest = hashlib.sha256()
    with open(local_path(path), "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size  # 0 of a pipe, from which nothing may be taken
        if size:
            digest.update(stream.read(DIGESTED_BYTES))
            stream.seek(max(0, size - DIGESTED_BYTES))
            digest.update(stream.read(DIGESTED_BYTES))
    return digest.hexdigest()[:32]


def delete(path: str) -> None:
    """Removes what has exactly this name, a file or a directory with all in it; nothing happens if it is not there.

    Symbolic links are removed, never followed: not `path` itself, and not those in the directory.
    """
    if is_object_store(path):
        _stores().delete_below(path)
        _stores().delete_object(path.rstrip("/"))
        return
    path = local_path(path).rstrip("/") or "/"
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def empty_directory(directory: str) -> None:
    """Deletes what is below `directory` but for a lock, and nothing else; nothing happens if it is not there.

    The directory itself stays, so it may be a mount point or a symbolic link to a directory. Links below it are
    removed, never followed.
    """
    if is_object_store(directory):
        _stores().delete_below(directory)
        return
    for name in _listdir(directory):
        if not name.startswith(LOCK_NAME):
            delete(os.path.join(local_path(directory), name))


# (path, size in bytes, time of modification in seconds)
_File = tuple[str, int, float]


def list_files(pattern: str) -> list[_File]:
    """The files that a user names: a path, a pattern, or several of either separated by commas.

    * A name that exists is that file or directory, never a pattern: `[a]/x*` looks into the directory `[a]` if there
      is one. A name may contain commas: `a,b/*.csv` looks into the directory `a,b` if there is one.
    * `*` stands for any characters of a name, `?` for one, `[abc]`, `[a-z]` and `[!a]` for one of a set; `**` also
      stands for directories: `data/**/*.csv` finds files directly in `data` and in all directories below it.
    * A pattern without a directory looks into the working directory.
    * Patterns do not match hidden files and directories (a leading dot), `_SUCCESS` or `*.crc`, unless the pattern
      itself begins with a dot, is `_SUCCESS`, or ends in `.crc`.

    On an object store a pattern costs one listing, however many files it matches.

    Returns:
        (path, size in bytes, time of modification in seconds), sorted by path, each file once.

    Raises:
        UsageError: a path or pattern matches no file, or names a directory, a pipe, a socket or a device.
    """
    files = _expand(pattern) or _expand_several(pattern.split(","))
    _refuse_special(files)
    return [file for _, file in sorted({file[0]: file for file in files}.items())]


def _refuse_special(files: Iterable[_File]) -> None:
    """Inputs are read more than once, from the beginning: a pipe, a socket or a device would never end, or be empty."""
    for path, _, _ in files:
        if not is_object_store(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path!r} is a pipe, a socket or a device, not a file: write what it gives to a file")


def _expand_several(parts: Sequence[str]) -> list[_File]:
    """The files of all parts; parts that match nothing may be one name with commas."""
    # What the parts from here to the end match, or None if they cannot be divided so that each matches something.
    matched: list[list[_File] | None] = [*([None] * len(parts)), []]
    for start in reversed(range(len(parts))):
        for end in range(start + 1, len(parts) + 1):
            following = matched[end]
            if following is not None and (files := _expand(",".join(parts[start:end]))):
                matched[start] = [*files, *following]
                break
    if matched[0] is None:
        raise _no_match(next((part for part in parts if not _expand(part)), ",".join(parts)))
    return matched[0]


def _no_match(path: str) -> UsageError:
    if not path:
        return UsageError("a list of files has an empty part: is there a comma too many?")
    if not is_object_store(path) and os.path.isdir(local_path(path)):
        ending = next((os.path.splitext(name)[1] for name in list_names(path) if "." in name), ".tfrecord")
        return UsageError(f"{path!r} is a directory: name the files in it, as in {join(path, '*' + ending)!r}")
    hint = " (patterns do not match hidden files, _SUCCESS and *.crc)" if is_pattern(path) else ""
    return UsageError(f"no file matches {path!r}{hint}")


def _expand(path: str) -> list[_File]:
    """The files that one path or pattern names; [] if there is none."""
    if is_object_store(path):
        return [] if re.search(r",[a-z0-9]+://", path) else _expand_objects(path)
    path = local_path(path)
    if _is_file(path):
        return [_described(path)]
    if not is_pattern(path):
        return []
    root = "/" if path.startswith("/") else ""
    return [_described(file) for file in _expand_local(root, path.strip("/").split("/"))]


def _is_file(path: str) -> bool:
    return os.path.exists(path) and not os.path.isdir(path)  # a pipe is a file, too


def _described(path: str) -> _File:
    status = os.stat(path)
    return path, status.st_size, status.st_mtime


def _expand_local(directory: str, parts: Sequence[str]) -> Iterator[str]:
    """Files below `directory` ("" is the working directory) that match the parts of a pattern."""
    first, *rest = parts
    path = os.path.join(directory, first)
    if os.path.lexists(path) or not is_pattern(first):
        if rest and os.path.isdir(path):
            yield from _expand_local(path, rest)
        elif not rest and _is_file(path):
            yield path
        return
    expression = expression_of(parts)
    for relative in files_below(directory, parts):
        if expression.fullmatch(relative) and not is_skipped(relative, parts):
            yield os.path.join(directory, relative)


def _expand_objects(path: str) -> list[_File]:
    stores = _stores()
    if not is_pattern(path):
        status = stores.status(path)
        return [] if status is None else [(path, *status)]
    scheme, _, rest = path.partition("://")
    base, *parts = rest.split("/")
    base = f"{scheme}://{base}/"
    # Directories that exist are names; to ask costs a listing, so only those that look like a pattern are asked about.
    while len(parts) > 1 and (not is_pattern(parts[0]) or stores.holds_anything(base + parts[0])):
        base += parts.pop(0) + "/"
    start = re.match(r"[^*?[]*", parts[0])
    files = list(stores.list_prefix(base + (start.group() if start else "")))
    literal = [file for file in files if file[0] == path]
    if literal:
        return literal
    expression = expression_of(parts)
    return [
        file
        for file in files
        if expression.fullmatch(file[0], len(base)) and not is_skipped(file[0][len(base) :], parts)
    ]


def list_names(directory: str, suffix: str = "", prefix: str = "") -> list[str]:
    """Base names of the files directly below `directory` that begin and end so; [] when it is absent.

    Hidden files are none of them: file managers leave a `._part.parquet` beside each `part.parquet`.
    """
    if not is_object_store(directory):
        names: Iterable[str] = _listdir(directory)
    else:
        names = _objects_below(directory, prefix)
    return sorted(name for name in names if _is_listed(name, suffix, prefix))


def list_sizes(directory: str, suffix: str = "") -> dict[str, int]:
    """The files that `list_names` lists, with their sizes in bytes: one listing on an object store."""
    if not is_object_store(directory):
        return {name: size_of(join(directory, name)) for name in list_names(directory, suffix)}
    return {name: size for name, size in sorted(_objects_below(directory).items()) if _is_listed(name, suffix)}


def _objects_below(directory: str, prefix: str = "") -> dict[str, int]:
    root = directory.rstrip("/") + "/"
    return {path.removeprefix(root): size for path, size, _ in _stores().list_prefix(root + prefix)}


def _is_listed(name: str, suffix: str, prefix: str = "") -> bool:
    return name.startswith(prefix) and name.endswith(suffix) and not name.startswith(".") and "/" not in name


def _listdir(directory: str) -> Sequence[str]:
    try:
        return os.listdir(local_path(directory))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def holds_anything(directory: str) -> bool:
    """Whether anything but a lock is below a directory."""
    if is_object_store(directory):
        return bool(_stores().holds_anything(directory))
    return not all(name.startswith(LOCK_NAME) for name in _listdir(directory))
