"""Reads media files in a child process, so that a file that hangs, crashes or exhausts memory costs only itself.

    with MediaReader() as reader:
        with reader.read("clip.mp4", Request()) as rows:
            for row in rows: ...
        print(rows.outcome)

The child serves one file after the other; when it has to be killed, the next file gets a new one. Rows come through a
pipe that holds a few, so the child waits where the caller is slow. Only the time in which the caller waits counts for
the deadline.
"""

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from vcls_model.commands import JobError
from vcls_model.media import errors
from vcls_model.media.children import end_child, start_child
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PATCH_SAMPLES, Limits, MediaFacts, MediaRow, Outcome, Request
from vcls_model.storage import from_json

_LENGTH = struct.Struct("<I")
_MAX_HEAD_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_START_SECONDS = 60.0  # for a child to import its libraries on a busy machine
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ
MIB = 1 << 20


@dataclass
class MediaReader:
    """Owns the child process; one file at a time, in one thread at a time.

    Attributes:
        seconds_per_minute: how long the caller may wait for a minute of media, and for anything to happen at all.
        memory_bytes: what the child may allocate beyond its libraries (8K video needs about a gigabyte).
    """

    seconds_per_minute: float = 60.0
    memory_bytes: int = 1024 * MIB
    _process: "subprocess.Popen[bytes] | None" = field(init=False, default=None)
    _complaints: IO[bytes] | None = field(init=False, default=None)
    _busy: bool = field(init=False, default=False)

    def read(self, path: str, request: Request | Limits) -> "MediaRows":
        """Starts to read a file; what goes wrong with it is raised as `MediaError` by the iteration over the rows.

        Args:
            path: a local file, or an address of a protocol that the limits allow.
            request: what to read; limits alone stand for nothing but the facts.

        Raises:
            RuntimeError: rows of another file have not been read or closed yet.
        """
        if self._busy:
            raise RuntimeError("this reader is still busy with another file: read or close its rows first")
        self._busy = True
        return MediaRows(self, os.path.abspath(path) if os.path.exists(path) else path, request)

    def probe(self, path: str, limits: Limits | None = None) -> MediaFacts:
        """The facts in a file's header, without its rows; raises `MediaError`."""
        with self.read(path, limits or Limits()) as rows:
            for _ in rows:
                raise AssertionError("a probe has no rows")
        assert rows.facts is not None
        return rows.facts

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process else None

    def interrupt(self) -> None:
        """Kills the child from another thread than that which reads: rows that are being waited for become an error."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the child."""
        process, self._process = self._process, None
        if process is not None:
            end_child(process)
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None

    def __enter__(self) -> "MediaReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        """The child, started where there is none or the last one has died between two files."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = start_child("vcls_model.media.child", str(self.memory_bytes), stderr=self._complaints)
        _enlarge(self._process.stdout)
        pipe = _Pipe(self._process, _START_SECONDS)
        try:
            if pipe.head()["kind"] != "ready":
                raise _Garbled("no greeting")
        except (_TooLate, _Ended, _Garbled, JobError) as error:
            complaint = self._last_complaint()
            self.close()
            raise JobError(
                f"the decoding process cannot start: {complaint or error!r}; is there a limit on its memory or on the "
                "number of processes (ulimit -a)?"
            ) from error
        return self._process

    def _last_complaint(self) -> str:
        """The last line that the child wrote to standard error."""
        if self._complaints is None:
            return ""
        self._complaints.seek(0)
        lines = self._complaints.read()[-4096:].decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


@dataclass
class MediaRows:
    """The rows of one file as they come; closing it before the end costs the child.

    Attributes:
        facts: what the file's header says, once the first row has come.
        outcome: how reading ended, once all rows have come.
    """

    _reader: MediaReader
    path: str
    request: Request | Limits
    facts: MediaFacts | None = None
    outcome: Outcome | None = None
    _ended: bool = False

    def __enter__(self) -> "MediaRows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the reader for the next file."""
        if not self._ended:
            self._ended = True
            self._reader.close()
        self._reader._busy = False

    def __iter__(self) -> Iterator[MediaRow]:
        """Rows in order.

        Raises:
            MediaError: there are none, or no more because decoding had to be ended.
            JobError: no file can be decoded here.
        """
        if self._ended:
            return
        count = 0
        try:
            process = self._reader._start()
        except BaseException:  # no fault of the file
            self.close()
            raise
        try:
            pipe = _Pipe(process, self._reader.seconds_per_minute)
            if isinstance(self.request, Request):
                pipe.reached(self.request.sampling.start)
            assert process.stdin is not None
            content = pickle.dumps((self.path, self.request))
            process.stdin.write(_LENGTH.pack(len(content)) + content)
            head = pipe.head()
            if head["kind"] == "facts":
                self.facts = MediaFacts.from_dict(head["facts"])
                head = pipe.head()
            while head["kind"] == "row":
                row = self._row(head, pipe)
                pipe.reached(row.target_seconds)
                count += 1
                yield row
                if self._ended:
                    return
                head = pipe.head()
            self._finish(head)
        except _TooLate as error:
            raise self._died(
                errors.DEADLINE, f"gave no row in time ({error}); --seconds_per_minute allows more", count
            ) from error
        except (_Ended, BrokenPipeError) as error:
            raise self._ended_early(count) from error
        except (_Garbled, JobError, KeyError, TypeError, ValueError) as error:
            raise self._died(errors.CRASHED, f"made the decoder answer nonsense ({error})", count) from error
        finally:
            self.close()

    def _row(self, head: dict[str, Any], pipe: "_Pipe") -> MediaRow:
        """A row from its announcement and the bytes behind it, whose number follows from the request alone."""
        picture = sound = None
        if head["picture"]:
            if not isinstance(self.request, Request) or self.request.pictures is None:
                raise _Garbled("a picture that was not asked for")
            size = self.request.pictures.size
            picture = np.frombuffer(pipe.read(size * size * 3), np.uint8).reshape(size, size, 3)
        if head["sound"]:
            sound = np.frombuffer(pipe.read(PATCH_SAMPLES * 4), np.float32)
        actual = head["actual"]
        return MediaRow(
            int(head["index"]), float(head["target"]), None if actual is None else float(actual), picture, sound
        )

    def _finish(self, head: dict[str, Any]) -> None:
        if head["kind"] == "outcome":
            self.outcome = Outcome(**head["outcome"]) if head["outcome"] else None
            self._ended = not head["used_up"]
        elif head["kind"] == "error":
            # After a failed allocation a library may hold anything: only a file's own faults leave the child in order.
            self._ended = head["reason"] not in (errors.MEMORY, errors.CRASHED) and not head["used_up"]
            raise MediaError(head["reason"], str(head["message"]))
        else:
            raise _Garbled(f"unknown answer {head['kind']!r}")

    def _died(self, reason: str, what: str, count: int) -> MediaError:
        return MediaError(reason, f"{self.path!r} {what}; {count} rows were read")

    def _ended_early(self, count: int) -> MediaError:
        process = self._reader._process
        status = _status(process) if process is not None else 0
        complaint = self._reader._last_complaint()
        if status == -signal.SIGKILL:
            return self._died(errors.MEMORY, "had its decoder killed, most likely for lack of memory", count)
        if "MemoryError" in complaint or "bad_alloc" in complaint:
            return self._died(errors.MEMORY, "needs more memory than the decoder may have", count)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return self._died(
            errors.CRASHED, f"made the decoder crash ({how}{': ' + complaint if complaint else ''})", count
        )


def _status(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a child that has closed its pipe."""
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class _TooLate(Exception):
    """The child did not answer in time."""


class _Ended(Exception):
    """The child closed its end of the pipe."""


class _Garbled(Exception):
    """The child's answer is none that it could give in good order."""


class _Pipe:
    """Reads a child's answers, counting the time that is spent waiting for them."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds_per_minute: float) -> None:
        assert process.stdout is not None
        self._file = process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._per_minute = seconds_per_minute
        self._minutes = 1.0
        self._waited = 0.0

    def reached(self, seconds: float) -> None:
        """Extends the deadline to follow the media's length, as far as it was really read."""
        self._minutes = max(self._minutes, 1.0 + seconds / 60)

    def head(self) -> dict[str, Any]:
        """The next announcement."""
        length = _LENGTH.unpack(self.read(_LENGTH.size))[0]
        if length > _MAX_HEAD_BYTES:
            raise _Garbled(f"an announcement of {length} bytes")
        head = from_json(bytes(self.read(length)), "an announcement of the decoder")
        if not isinstance(head, dict) or "kind" not in head:
            raise _Garbled("an announcement without a kind")
        return head

    def read(self, length: int) -> bytearray:
        """Exactly `length` bytes."""
        content = bytearray(length)
        view = memoryview(content)
        while view:
            self._wait()
            count = os.readv(self._file, [view])
            if not count:
                raise _Ended
            view = view[count:]
        return content

    def _wait(self) -> None:
        allowed = self._minutes * self._per_minute - self._waited
        start = time.monotonic()
        ready = allowed > 0 and self._poll.poll(1000 * min(allowed, self._per_minute))
        self._waited += time.monotonic() - start
        if not ready:
            raise _TooLate(f"waited {self._waited:.0f} s for {self._minutes:.1f} minutes")


def _enlarge(pipe: IO[bytes] | None) -> None:
    """Makes the pipe hold several rows, where the system lets it."""
    if pipe is not None and sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)
        except PermissionError:
            return  # over the user's limit: the default of 64 KiB does, too
