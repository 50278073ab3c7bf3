"""Lets the threads of one process share out the files of a job: whoever is done takes what no other has begun.

A runner on one machine deals the files to its threads before any is opened, when nobody knows how long each will take.
"""

import contextlib
import os
import socket
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence

Place = tuple[int, int]  # index of a shard, place of a file in it


class _Progress:
    """What the threads of this process have begun and done of a job."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Place, threading.Lock] = {}
        self.done: set[Place] = set()

    def lock(self, place: Place) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(place, threading.Lock())


_PROGRESS: "weakref.WeakValueDictionary[str, _Progress]" = weakref.WeakValueDictionary()
_GUARD = threading.Lock()


def _progress_of(job: str) -> _Progress:
    with _GUARD:
        progress = _PROGRESS.get(job)
        if progress is None:
            progress = _PROGRESS[job] = _Progress()
        return progress


class SharedFiles:
    """The files of a job, as its steps carry them to wherever they run; picklable.

    Args:
        places: all files, those that take longest first.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._job = uuid.uuid4().hex
        self._home = _this_process()
        self._progress: _Progress | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_progress": None}  # locks stay where they are

    @contextlib.contextmanager
    def working_on(self, place: Place, wait: bool = True) -> Iterator[bool]:
        """Keeps other threads from a file while the block runs, after which it counts as done unless the block raises.

        Yields whether there is anything to do: not where the file is done, nor where another thread has it and the
        caller does not `wait` for that one's end.
        """
        progress = self._shared()
        lock = progress.lock(place)
        if not lock.acquire(blocking=wait):
            yield False
            return
        try:
            yield place not in progress.done
            progress.done.add(place)
        finally:
            lock.release()

    def of_this_process(self) -> Iterator[Place]:
        """All files, in the process that planned the job; none on workers, whose share of them is not known here."""
        if _this_process() == self._home:
            yield from self._places

    def _shared(self) -> _Progress:
        if self._progress is None:
            self._progress = _progress_of(self._job)
        return self._progress


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()
