"""A progress line while a job runs, on a terminal or in a log file, whatever runs the pipeline."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Protocol, TextIO

from vcls_model import storage

_TERMINAL_SECONDS = 1.0
_FILE_SECONDS = 5.0
_OBJECT_STORE_SECONDS = 20.0


class Progress(Protocol):
    """What is done of a job, as what it has written so far tells."""

    def look(self) -> None:
        """Takes in what was written since the last look."""

    def line(self) -> str:
        """What is done, how fast, and the time left."""


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


@contextlib.contextmanager
def shown_progress(progress: Progress, output: str, stream: TextIO | None = None) -> Iterator[None]:
    """Shows the line while the block runs: rewritten in place on a terminal, one line now and then in a file.

    Args:
        progress: looked at now and then, in a thread of its own.
        output: where the job writes: an object store is looked at less often.
        stream: to write to, by default stderr.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    pause = (
        _OBJECT_STORE_SECONDS if storage.is_object_store(output) else _TERMINAL_SECONDS if terminal else _FILE_SECONDS
    )
    stopped = threading.Event()
    width = 0

    def show() -> None:
        nonlocal width
        try:
            progress.look()
        except (OSError, ValueError):  # a file that is just being replaced: look again later
            return
        line = progress.line()
        if terminal:
            print(f"\r{line:<{width}}", end="", file=stream, flush=True)
            width = len(line)
        else:
            print(line, file=stream, flush=True)

    def watch() -> None:
        while not stopped.wait(pause):
            show()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()
        show()
        if terminal:
            print(file=stream)
