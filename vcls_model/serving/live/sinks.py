"""Where label events of pulled streams go: a file of JSON lines, or an address that is called."""

import http.client
import logging
import os
import queue
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

from vcls_model import storage

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 1000
_TRIES = 4
_SECONDS = 10.0
_CLOSING_SECONDS = 2.0


class EventSink(Protocol):
    """Takes events; never blocks."""

    def put(self, event: Mapping[str, Any]) -> None:
        """One event, as JSON will show it."""

    def close(self) -> None:
        """Delivers what can be delivered at once, then ends."""


class LinesFile:
    """Appends a line of JSON per event; each is written whole before the next."""

    def __init__(self, path: str) -> None:
        self._file = storage.open_for_appending(path)
        self._lock = threading.Lock()
        self._ends_in_part = _ends_in_part(path)

    def put(self, event: Mapping[str, Any]) -> None:
        """Writes the event; one for which there is no room is lost, and the log says so."""
        line = storage.to_json(event).encode() + b"\n"
        with self._lock:
            left = memoryview(b"\n" + line if self._ends_in_part else line)
            try:
                while left:
                    left = left[self._file.write(left) :]
                self._ends_in_part = False
            except OSError as error:  # which must not end the thread that labels all streams
                self._ends_in_part |= len(left) < len(line)
                _LOG.error("the file of events failed, and one was lost: %s", error)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _ends_in_part(path: str) -> bool:
    """Whether the last line of a file is not whole: a machine that lost its power may have left it so."""
    with storage.open_for_reading(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        return size > 0 and file.read(1) != b"\n"


class Webhook:
    """Posts each event as JSON, in order, tries again with growing pauses, and gives an event up after four tries."""

    def __init__(self, url: str, *, pause_seconds: float = 1.0) -> None:
        self._url = url
        self._pause = pause_seconds
        self._events: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, Any]) -> None:
        """Queues the event; one that finds 1,000 waiting is lost, and the log says so."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            _LOG.error("the webhook is too slow: an event was lost")

    def close(self) -> None:
        """Tries the events in the queue once each, for some seconds at most."""
        self._closing.set()
        try:
            self._events.put(None, timeout=_CLOSING_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSING_SECONDS)

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            self._post(storage.to_json(event).encode())

    def _post(self, content: bytes) -> None:
        for attempt in range(_TRIES):
            if attempt and self._closing.wait(self._pause * 2 ** (attempt - 1)):
                break
            request = urllib.request.Request(self._url, content, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS):
                    return
            except (OSError, http.client.HTTPException) as error:  # a refusal, or no HTTP at all
                _LOG.warning("the webhook failed: %s", error)
        _LOG.error("an event was given up")
