"""One long file read by several child processes, which take turns in blocks of rows.

Each process reads all packets but decodes only the groups of pictures that its own rows need, so that no seeking, which
containers do not do exactly, is called for, and rows are the same as from one process.
"""

import dataclasses
import os
import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vcls_model.media.requests import MediaFacts, MediaRow, Outcome, Request
from vcls_model.media.sampling import BLOCK_ROWS
from vcls_model.media.sandbox import MIB, MediaReader


@dataclass
class SplitReader:
    """Reads files as `MediaReader` does, long ones with several processes.

    Attributes:
        processes: how many.
        split_seconds: files whose header promises less are read by one.
        seconds_per_minute, memory_bytes: of each process.
    """

    processes: int = 2
    split_seconds: float = 120.0
    seconds_per_minute: float = 60.0
    memory_bytes: int = 1024 * MIB
    _readers: list[MediaReader] = field(init=False)

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes must be positive, got {self.processes}")
        self._readers = [MediaReader(self.seconds_per_minute, self.memory_bytes) for _ in range(self.processes)]

    def read(self, path: str, request: Request) -> "SplitRows":
        """Probes a file, raising `MediaError` where that fails, and starts to read it."""
        facts = self._readers[0].probe(path, request.limits)
        lengths = [part.seconds_promised for part in (facts, facts.video, facts.audio) if part is not None]
        longest = max((length for length in lengths if length is not None), default=0.0)
        readers = self._readers if longest >= self.split_seconds else self._readers[:1]
        return SplitRows(readers, path, request, facts)

    def close(self) -> None:
        """Ends all processes."""
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> "SplitReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SplitRows:
    """The rows of one file in order, as they come from all processes; closing it before the end costs the processes.

    Attributes:
        facts: what the file's header says.
        outcome: how reading ended, once all rows have come.
    """

    def __init__(self, readers: list[MediaReader], path: str, request: Request, facts: MediaFacts) -> None:
        self.facts = facts
        self.outcome: Outcome | None = None
        self._parts = [_Part(reader, path, request, part, len(readers)) for part, reader in enumerate(readers)]

    def __enter__(self) -> "SplitRows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is still being read."""
        for part in self._parts:
            part.close()

    def __iter__(self) -> Iterator[MediaRow]:
        """Rows in order; raises `MediaError` as soon as a process fails where it has the next row."""
        try:
            count = 0
            # Rows have no gaps: the first that its process does not have is behind the last.
            while (row := self._parts[count // BLOCK_ROWS % len(self._parts)].next_row()) is not None:
                yield row
                count += 1
            self.outcome = _joined([part.finish() for part in self._parts])
        finally:
            self.close()


class _Part:
    """One process's share: a thread that takes rows from its pipe, so that no process waits for another's block."""

    def __init__(self, reader: MediaReader, path: str, request: Request, part: int, parts: int) -> None:
        sampling = dataclasses.replace(request.sampling, part=part, parts=parts)
        self._reader = reader
        self._rows = reader.read(path, dataclasses.replace(request, sampling=sampling))
        self._queue: queue.Queue[Any] = queue.Queue(BLOCK_ROWS + 2)
        self._closed = False
        self._end: Any = None
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            for row in self._rows:
                self._put(row)
                if self._closed:
                    return
            self._put(self._rows.outcome)
        except Exception as error:  # raised again in the caller's thread
            self._put(error)
        finally:
            self._rows.close()

    def _put(self, item: Any) -> None:
        while not self._closed:
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def next_row(self) -> MediaRow | None:
        """The next row; None after the last; raises what the thread met."""
        if self._end is None:
            item = self._queue.get()
            if isinstance(item, MediaRow):
                return item
            self._end = item
        if isinstance(self._end, Exception):
            raise self._end
        return None

    def finish(self) -> Outcome:
        """The outcome, when no further rows are expected; raises what the thread met."""
        while self.next_row() is not None:
            continue
        assert isinstance(self._end, Outcome)
        return self._end

    def close(self) -> None:
        """Ends the thread, and the process where it is still reading."""
        self._closed = True
        self._thread.join(timeout=0.5)
        if self._thread.is_alive() and self._reader.pid is not None:
            os.kill(self._reader.pid, signal.SIGKILL)  # it waits for a row that nobody will take
        self._thread.join()


def _joined(outcomes: list[Outcome]) -> Outcome:
    """The outcome of the whole from those of its parts."""
    first = next((outcome for outcome in outcomes if outcome.reason is not None), outcomes[0])
    return Outcome(
        rows=sum(outcome.rows for outcome in outcomes),
        seconds=max(outcome.seconds for outcome in outcomes),
        errors=sum(outcome.errors for outcome in outcomes),
        substituted=sum(outcome.substituted for outcome in outcomes),
        max_error_seconds=max(outcome.max_error_seconds for outcome in outcomes),
        reason=first.reason,
        message=first.message,
    )


def open_reader(processes: int, seconds_per_minute: float, memory_bytes: int) -> MediaReader | SplitReader:
    """A reader of files one after the other, long ones with up to so many processes.

    Args:
        processes: at least 1.
        seconds_per_minute, memory_bytes: what a file may cost, of each process; see `MediaReader`.
    """
    if processes > 1:
        return SplitReader(processes, seconds_per_minute=seconds_per_minute, memory_bytes=memory_bytes)
    return MediaReader(seconds_per_minute, memory_bytes)
