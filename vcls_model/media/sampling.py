"""Target moments, and the choice of the nearest picture for each as pictures come by."""

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

MODES = ("exact", "keyframes", "everything")
MAX_FPS = 240
BLOCK_ROWS = 30


@dataclass(frozen=True)
class Sampling:
    """The rows that a file is asked for; row k is at `start` + k / `fps` seconds after the first presentation time.

    Attributes:
        fps: rows per second.
        start, end: the segment in seconds; a row at `end` is out. None for `end` means up to the file's own.
        max_seconds: length of the segment at most.
        mode: `exact`, the nearest frame; `keyframes`, the nearest key frame; `everything`, as exact but without any
            shortcut, to compare with.
        part, parts: which share of the rows to make where several processes share a file: rows go round in blocks of
            `BLOCK_ROWS`, so that all processes come through the file together.
    """

    fps: float = 1.0
    start: float = 0.0
    end: float | None = None
    max_seconds: float | None = None
    mode: str = "exact"
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be in (0, {MAX_FPS}], got {self.fps}")
        if not (self.start >= 0 and math.isfinite(self.start)):
            raise ValueError(f"start must be 0 or more seconds, got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"end must be after start, got {self.end} and {self.start}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be positive, got {self.max_seconds}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must be in [0, parts), got {self.part} of {self.parts}")

    def seconds(self, row: int) -> Fraction:
        """When a row is due, in seconds after the first presentation time; exact."""
        return _decimal(self.start) + row / _decimal(self.fps)

    @property
    def stop_row(self) -> float:
        """The first row that is not asked for: a whole number, or infinity."""
        limits: list[float] = [math.inf]
        if self.end is not None:
            limits.append(math.ceil((_decimal(self.end) - _decimal(self.start)) * _decimal(self.fps)))
        if self.max_seconds is not None:
            limits.append(math.ceil(_decimal(self.max_seconds) * _decimal(self.fps)))
        return min(limits)

    def has(self, row: int) -> bool:
        """Whether `row` is in this part of the rows."""
        return row // BLOCK_ROWS % self.parts == self.part


def _decimal(number: float) -> Fraction:
    """The number that was typed: 0.1 is a tenth, not the nearest binary fraction."""
    return Fraction(str(float(number)))


class Clock:
    """Rows' due times in units of a stream's time base, once the first presentation time is known."""

    def __init__(self, sampling: Sampling, time_base: Fraction) -> None:
        self.sampling = sampling
        self.time_base = time_base
        self.origin: int | None = None

    def due(self, row: int) -> Fraction:
        """When `row` is due, in the stream's own units."""
        assert self.origin is not None
        return self.origin + self.sampling.seconds(row) / self.time_base

    @property
    def origin_seconds(self) -> float:
        """The first presentation time on the container's own clock."""
        assert self.origin is not None
        return float(self.origin * self.time_base)

    def seconds(self, time: int) -> float:
        """A stream's time in seconds after its first presentation time."""
        assert self.origin is not None
        return float((time - self.origin) * self.time_base)


def nearest(times: Sequence[int], due: Fraction) -> int:
    """The time in increasing `times` that is nearest to `due`, the earlier of two."""
    after = bisect.bisect_right(times, due)
    if after == 0:
        return times[0]
    if after == len(times):
        return times[-1]
    return times[after - 1] if due - times[after - 1] <= times[after] - due else times[after]


@dataclass(frozen=True)
class Chosen:
    """A row's picture: its number, and the time (stream units) and content of the nearest frame."""

    row: int
    time: int
    picture: Any


class Picker:
    """Chooses the nearest of the frames that come by, in increasing order of time, for each row in turn.

    Attributes:
        row: the first row that is not decided yet.
        stop: the first row that is not asked for.
        last_time: the time of the last frame that came by.
        gap: the time between the last two frames.
    """

    def __init__(self, clock: Clock, max_seconds: float) -> None:
        """`max_seconds` bounds the rows: one row after it is chosen, and no more."""
        self._clock = clock
        self.row = 0
        self.stop = min(clock.sampling.stop_row, int(max_seconds * clock.sampling.fps) + 2)
        self._picture: Any = None
        self._due: Fraction | None = None
        self.last_time: int | None = None
        self.gap = 0

    @property
    def done(self) -> bool:
        return self.row >= self.stop

    def feed(self, time: int, picture: Any) -> Iterator[Chosen]:
        """Takes the next frame, yields the rows that it decides. Frames out of order are passed over."""
        if self._clock.origin is None:
            self._clock.origin = time
        if self.last_time is not None:
            if time <= self.last_time:
                return
            self.gap = time - self.last_time
        while not self.done and (due := self._next_due()) <= time:
            if self.last_time is not None and due - self.last_time <= time - due:
                yield from self._decide(self.last_time, self._picture)
            else:
                yield from self._decide(time, picture)
        self.last_time, self._picture = time, picture

    def settle(self, stop: float) -> Iterator[Chosen]:
        """Gives the last frame to all rows before `stop`: no later frame can be nearer."""
        while self.last_time is not None and not self.done and self.row < stop:
            yield from self._decide(self.last_time, self._picture)

    def finish(self, limit: Fraction | None = None) -> Iterator[Chosen]:
        """At the end of the stream: rows due up to `limit` get the last frame.

        Without a limit, this is half a frame interval after the last frame.
        """
        if self.last_time is None:
            return
        limit = self.last_time + Fraction(self.gap, 2) if limit is None else limit
        while not self.done and self._next_due() <= limit:
            yield from self._decide(self.last_time, self._picture)

    def _next_due(self) -> Fraction:
        if self._due is None:
            self._due = self._clock.due(self.row)
        return self._due

    def _decide(self, time: int, picture: Any) -> Iterator[Chosen]:
        row = self.row
        self.row += 1
        self._due = None
        if self._clock.sampling.has(row):
            yield Chosen(row, time, picture)
