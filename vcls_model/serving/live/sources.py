"""Streams that the service pulls itself: cameras and broadcasts, files at the speed of play, growing files."""

import dataclasses
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vcls_model.commands import JobError, UsageError
from vcls_model.media.containers import CONTAINERS
from vcls_model.media.errors import EMPTY, OUT_OF_RANGE, TRUNCATED, MediaError
from vcls_model.media.requests import Limits, MediaRow, Request
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MediaReader
from vcls_model.serving.live.engine import Engine
from vcls_model.serving.live.events import LabelEvent
from vcls_model.serving.live.session import Answer, Frame, Session

_LOG = logging.getLogger(__name__)
_PROTOCOLS = ("rtsp", "rtp", "udp", "tcp", "tls", "http", "https", "crypto")
_ADDRESSES = ("rtsp://", "rtsps://", "http://", "https://")
_LOOP, _GROWING = "loop:", "growing:"
_LONGEST_PAUSE = 30.0
_DEADLINE_PER_MINUTE = 180.0  # a live minute takes a minute to come
_POLL_SECONDS = 1.0
_OVER_AFTER_SECONDS = 30.0
_PATIENCE_SECONDS = 0.2
_SETTLING_SECONDS = 2.0
_SYSTEM_ERROR = re.compile(r"\[Errno \d+\] ")


@dataclasses.dataclass(frozen=True)
class Source:
    """A stream to pull.

    Attributes:
        name: of the stream.
        address: `rtsp://…`, `http(s)://…` (HLS or a file), the path of a file that plays once, `loop:PATH` for one that
            plays again and again, or `growing:PATH` for one that is being recorded.
    """

    name: str
    address: str

    @classmethod
    def parse(cls, flag: str) -> "Source":
        """From `NAME=ADDRESS`; raises `UsageError`."""
        name, equals, address = flag.partition("=")
        if not equals or not address or not name or not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--source={flag}: expected NAME=ADDRESS, NAME of letters, digits, - and _")
        source = cls(name, address)
        if source.path is not None and not source.is_growing and not os.path.isfile(source.path):
            raise UsageError(f"--source={flag}: there is no file {source.path}")
        return source

    @property
    def is_growing(self) -> bool:
        """Whether it is a file that is being recorded."""
        return self.address.startswith(_GROWING)

    @property
    def is_loop(self) -> bool:
        """Whether it begins again at its end."""
        return self.address.startswith(_LOOP)

    @property
    def path(self) -> str | None:
        """Of a local file; None for an address."""
        if self.address.lower().startswith(_ADDRESSES):
            return None
        return self.address.removeprefix(_LOOP).removeprefix(_GROWING)


class SourcePlayer:
    """Pulls one source on a thread and offers its rows to the engine; comes back where the source is lost.

    Attributes:
        source: which.
        state: `starting`, `playing`, `waiting` (for another try) or `ended`.
        message: why it waits or ended; "" where all is well.
        picture: the last one, RGB (size, size, 3); None before any.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        deliver: Callable[[Session, Answer], None],
        finish: Callable[[Session, Sequence[LabelEvent]], None] | None = None,
        changed: Callable[["SourcePlayer"], None] | None = None,
    ) -> None:
        """
        Args:
            source: what to pull.
            engine: what labels it.
            deliver: takes the stream's answers, in the engine's threads.
            finish: takes the ends of the labels that are there when the stream ends, in the player's thread.
            changed: is told of each other state or message, in the player's thread.
        """
        self.source = source
        self.state = "starting"
        self.message = ""
        self.picture: np.ndarray | None = None
        self._engine = engine
        self._deliver = deliver
        self._finish = finish
        self._changed = changed
        self._stop = threading.Event()
        self._origin = 0.0  # where this try begins on the stream's clock
        self._last_seconds = 0.0  # of the last frame that was offered, labelled or not yet
        self._sequence = 0
        self._next_row = 0  # of a growing file, which is gone on with after an error
        self._thread = threading.Thread(target=self._run, name=f"source {source.name}", daemon=True)
        self._reader: MediaReader | None = None
        self.session: Session | None = None

    def start(self) -> None:
        """Begins to pull."""
        self.session = self._engine.open(self.source.name, self._answer)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Lets the thread end at its next row."""
        self._stop.set()

    def stop(self) -> None:
        """Ends the thread and its decoding process."""
        self._stop.set()
        self._thread.join(_PATIENCE_SECONDS)
        if self._reader is not None:
            self._reader.interrupt()  # a camera that has nothing to say would be waited for
        self._thread.join(5)

    def _is(self, state: str, message: str) -> None:
        if (state, message) != (self.state, self.message):
            self.state, self.message = state, message
            if self._changed is not None:
                self._changed(self)

    def _answer(self, answer: Answer) -> None:
        assert self.session is not None
        self._deliver(self.session, answer)

    def _run(self) -> None:
        media = self._engine.model.media
        assert media is not None and self.session is not None
        base = media.request()
        pause, why = 1.0, ""
        with MediaReader(_DEADLINE_PER_MINUTE, media.memory_bytes) as reader:
            self._reader = reader
            while not self._stop.is_set():
                before = self._sequence
                try:
                    for row in self._rows(reader, base):
                        self._offer(row)
                    if not self.source.is_loop and self.source.path is not None:
                        break
                    why = "" if self.source.is_loop else "the source ended"
                except MediaError as error:
                    if self._stop.is_set():
                        break
                    words = _SYSTEM_ERROR.sub("", error.message).replace(f": {self.source.address!r}", "")
                    words = words.replace(repr(self.source.address), "the source")  # it may hold a password
                    why = f"{error.reason}: {words}"
                    _LOG.warning("source %s: %s", self.source.name, why)
                    if self.source.path is not None and not self.source.is_growing and self._sequence == before:
                        break
                except (JobError, OSError) as error:  # no process to decode with, for want of memory or files
                    why = "the service cannot decode the source now"
                    _LOG.error("source %s: %s", self.source.name, error)
                if not self.source.is_growing and self._sequence:
                    self._origin = self._last_seconds + 1 / media.fps
                if self.source.is_loop and self._sequence > before:
                    continue
                pause = 1.0 if self._sequence > before else min(2 * pause, _LONGEST_PAUSE)
                self._is("waiting", why)
                self._stop.wait(pause)
        deadline = time.monotonic() + _SETTLING_SECONDS
        while not self.session.counts.settled and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._finish is not None:
            self._finish(self.session, self.session.tracker.finish())
        self._is("ended", "" if self._stop.is_set() else why)
        self._engine.close(self.session)

    def _offer(self, row: MediaRow) -> None:
        assert self.session is not None
        self._is("playing", "")
        while self.source.is_growing and self.session.pending is not None and not self._stop.is_set():
            time.sleep(0.01)  # a recording is caught up with, not skipped
        self._sequence += 1
        self.picture = row.picture
        now = time.monotonic()
        seconds = self._last_seconds = self._origin + row.target_seconds
        self._engine.offer(self.session, Frame(self._sequence, seconds, now, picture=row.picture, sound=row.sound))

    def _rows(self, reader: MediaReader, base: Request) -> Iterator[MediaRow]:
        path = self.source.path
        if path is None:
            sampling = dataclasses.replace(base.sampling, mode="everything")  # no shortcut that looks ahead
            limits = Limits(protocols=_PROTOCOLS, containers=f"{CONTAINERS},hls,rtsp")
            yield from self._until_stopped(
                reader, self.source.address, Request(base.pictures, base.sound, sampling, limits)
            )
        elif self.source.is_growing:
            yield from self._growing(reader, path, base)
        else:
            began = None  # with the first row, whatever its decoder took to start
            for row in self._until_stopped(reader, path, base):
                began = time.monotonic() - row.target_seconds if began is None else began
                self._stop.wait(max(0.0, began + row.target_seconds - time.monotonic()))
                yield row

    def _until_stopped(self, reader: MediaReader, path: str, request: Request) -> Iterator[MediaRow]:
        with reader.read(path, request) as rows:
            for row in rows:
                if self._stop.is_set():
                    return
                yield row

    def _growing(self, reader: MediaReader, path: str, base: Request) -> Iterator[MediaRow]:
        """The rows of a file as it grows; a row is certain once the next one is there."""
        size, grown = -1, time.monotonic()
        step = 1 / base.sampling.fps
        while not self._stop.is_set():
            over = time.monotonic() - grown > _OVER_AFTER_SECONDS
            now = _size(path)
            if now == size and not over:
                self._stop.wait(_POLL_SECONDS)
                continue
            if now != size:
                size, grown = now, time.monotonic()
            start = self._next_row * step
            sampling = Sampling(base.sampling.fps, start, None, None, base.sampling.mode)
            held: MediaRow | None = None
            try:
                for row in self._until_stopped(reader, path, dataclasses.replace(base, sampling=sampling)):
                    if held is not None:
                        self._next_row += 1
                        yield held
                    held = row
            except MediaError as error:
                if over or error.reason not in (EMPTY, OUT_OF_RANGE, TRUNCATED, "damaged", "not_found"):
                    raise
            if over:
                if held is not None:
                    yield held
                return
            self._stop.wait(_POLL_SECONDS)


def _size(path: str) -> int:
    """Of a file; 0 where there is none yet, or no more."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
