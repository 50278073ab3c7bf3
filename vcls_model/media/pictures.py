"""The picture nearest to each wanted moment, decoding as little as possible and nothing differently.

Presentation times are read from packets, one group of pictures ahead, so that it is known which frames are wanted before
any is decoded. Of a group only what the wanted frames need is decoded: its tail after the last wanted frame is left out,
and so are frames that no other refers to. Where that does not give every wanted frame, the group is decoded whole, with
its neighbours, and the nearest good frame takes the place.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from vcls_model.media.convert import Converter, PictureFormat
from vcls_model.media.decoder import Decoder, refers_to_others
from vcls_model.media.errors import TOO_LARGE, MediaError
from vcls_model.media.packets import Group, GroupReader
from vcls_model.media.probe import OpenMedia
from vcls_model.media.sampling import Chosen, Clock, Picker, Sampling, nearest

_MAX_PLANNED = 64  # wanted frames of a group that are held until it is known that none is missing


class _FalseKey(Exception):
    """A packet that the container calls a key frame's is none."""


class _Plan(NamedTuple):
    """Frames wanted of a group (times), the first row that they do not decide, whether the next group's leading ones are."""

    wanted: set[int]
    stop: int
    leading: bool


@dataclass(frozen=True)
class Picture:
    """One row's picture.

    Attributes:
        row: its number.
        wanted_seconds, actual_seconds: the moment asked for and the frame's own, after the first presentation time.
        pixels: RGB, (size, size, 3), uint8.
    """

    row: int
    wanted_seconds: float
    actual_seconds: float
    pixels: np.ndarray


class PictureReader:
    """Iterates over the pictures of a file's video stream.

    Attributes:
        clock: knows the first presentation time once the first picture has come.
        substituted: rows whose own frame was missing or damaged, so that they hold another.
        end: the latest presentation time met, in the stream's units.
    """

    def __init__(self, media: OpenMedia, sampling: Sampling, picture_format: PictureFormat) -> None:
        assert media.video is not None and media.facts.video is not None
        self._limits = media.limits
        self._media = media
        self._start()
        self._converter = Converter(picture_format, media.facts.video.sample_aspect_ratio)
        self._sampling = sampling
        self.clock = Clock(sampling, Fraction(media.video.time_base))
        self._picker = Picker(self.clock, self._limits.max_seconds)
        self._expected: set[int] | None = None
        self._opened: Group | None = None
        self._converted: tuple[Any, np.ndarray] | None = None
        self.substituted = 0
        self.end: int | None = None
        self._gap = 0

    def _start(self) -> None:
        """Reads and decodes from the container's beginning."""
        self._reader = GroupReader(self._media.container, self._media.video)
        self._decoder = Decoder(self._media.video, self._limits.max_pixels)

    @property
    def errors(self) -> int:
        """Packets and frames that could not be read or decoded."""
        return self._reader.errors + self._decoder.total_errors

    @property
    def decoded(self) -> bool:
        """Whether any frame was there to choose from."""
        return self._picker.last_time is not None or self._picker.row > 0

    @property
    def packets(self) -> int:
        """Packets of the stream read so far."""
        return self._reader.count

    @property
    def seconds(self) -> float:
        """Length of the presentation as far as it was read, the last frame included; 0 before any."""
        if self.end is None or self.clock.origin is None:
            return 0.0
        return self.clock.seconds(self.end) + float((self._gap or self._decoder.step) * self.clock.time_base)

    def __iter__(self) -> Iterator[Picture]:
        choose = self._choose_keys if self._sampling.mode == "keyframes" else self._choose_checked
        for chosen in choose():
            wanted = self._sampling.seconds(chosen.row)
            if wanted > self._limits.max_seconds:
                message = (
                    f"the presentation is longer than {self._limits.max_seconds:,.0f} seconds; name a segment of it"
                )
                raise MediaError(TOO_LARGE, message)
            yield Picture(chosen.row, float(wanted), self.clock.seconds(chosen.time), self._pixels(chosen.picture))

    def _pixels(self, picture: Any) -> np.ndarray:
        """A frame converted, or what was converted before; rows that share a frame share the array."""
        if isinstance(picture, np.ndarray):
            return picture
        if self._converted is None or self._converted[0] is not picture:
            self._converted = picture, self._converter.convert(picture)
        return self._converted[1]

    def _choose_checked(self) -> Iterator[Chosen]:
        """As `_choose`; where key frames turn out to be none, the rest of the rows comes from decoding everything."""
        try:
            yield from self._choose()
        except _FalseKey:
            self._media.reopen()
            self._start()
            self._expected, self._opened = None, None
            yield from self._stream_all(iter(self._reader))

    def _choose(self) -> Iterator[Chosen]:
        """The nearest frame for each row, group by group."""
        groups = iter(self._reader)
        group, following = next(groups, None), next(groups, None)
        if group is None:
            return
        self._decoder.orders_times = self._has_no_times(group, following)
        if self._sampling.mode == "everything" or self._decoder.orders_times:
            yield from self._stream_all(itertools.chain(filter(None, (group, following)), groups))
            return
        previous: Group | None = None
        carried = not group.opens or bool(group.leading)  # what can be decoded first is not known from packets
        if not carried and group.times:
            self.clock.origin = group.times[0]
        while group is not None and not self._picker.done:
            plan = self._plan(group, following, previous)
            entangled = following is not None and (not following.opens or plan.leading)
            if (
                entangled
                and following is not None
                and not carried
                and not group.full
                and following.shift == group.shift
            ):
                group, following = group.joined(following), next(groups, None)
                continue
            simple = not carried and not entangled and len(plan.wanted) <= _MAX_PLANNED
            pictures = self._decode_planned(group, plan.wanted) if simple else None
            if pictures is not None:
                for time, pixels in pictures:
                    yield from self._picker.feed(time, pixels)
                yield from self._picker.settle(plan.stop)
                carried, self._expected = False, None
            else:
                if not carried:
                    self._decoder.reset()
                    self._opened = group
                if (
                    simple
                ):  # planned decoding failed: frames of the group before may be nearest, or hide what is damaged
                    self._expected = set() if self._picker.last_time is None else {self._picker.last_time}
                    yield from self._stream(previous) if previous is not None else ()
                if self._expected is not None:
                    self._expected |= plan.wanted
                errors = self._decoder.errors
                yield from self._stream(group)
                carried = entangled or group.damaged or self._decoder.errors > errors
                if not carried or following is None:
                    yield from self._feed(self._decoder.drain(), group)
                if following is None:
                    yield from self._picker.finish()
            self._note_end(group)
            previous, group, following = group, following, None if following is None else next(groups, None)

    def _has_no_times(self, group: Group, following: Group | None) -> bool:
        """Whether packets do not tell when frames are shown: they have no times, or those of an order that is not shown.

        AVI, for one, has a time per packet, as if frames were shown in the order in which they are decoded.
        """
        if group.timeless or (following is not None and following.timeless):
            return True
        pts = [packet.pts for packet in group.packets]
        if not self._media.video.codec_context.has_b_frames or len(pts) < 3 or pts != sorted(pts):
            return False
        self._decoder.reset()
        frames = itertools.chain(*(self._decoder.feed(packet) for packet in group.packets), self._decoder.drain())
        shown = [frame.pts for frame in frames if frame.pts is not None]
        self._decoder.total_errors = 0
        return shown != sorted(shown)

    def _plan(self, group: Group, following: Group | None, previous: Group | None) -> _Plan:
        """Which frames of `group` the next rows want, judged by the times of its neighbours, too."""
        if self.clock.origin is None:
            return _Plan(set(), self._picker.row, bool(following and following.leading))
        own = set(group.times)
        later = following.times if following is not None else []
        times = sorted(own.union(later, () if self._picker.last_time is None else (self._picker.last_time,)))
        row, wanted, leading = self._picker.row, set(), False
        if not times:
            return _Plan(wanted, row, leading)
        if following is None:
            last = [*(previous.times[-1:] if previous else ()), *group.times][-2:] or times[-1:]
            limit = last[-1] + Fraction(last[-1] - last[0], 2)
            horizon = times[-1] + 1
        else:
            limit = Fraction(times[-1])
            horizon = following.key_time if following.key_time is not None else times[-1]
        while row < self._picker.stop and (due := self.clock.due(row)) <= limit:
            time = nearest(times, due)
            if time >= horizon:
                break
            if self._sampling.has(row):
                if time in own:
                    wanted.add(time)
                else:
                    leading = leading or time != self._picker.last_time
            row += 1
        return _Plan(wanted, row, leading)

    def _decode_planned(self, group: Group, wanted: set[int]) -> list[tuple[int, np.ndarray]] | None:
        """The wanted frames of a group, converted, in order of time; None where one is missing or anything went wrong."""
        if not wanted:
            return []
        self._decoder.reset()
        self._opened = group
        last = max(index for index, packet in enumerate(group.packets) if group.time_of(packet) in wanted)
        pictures: dict[int, np.ndarray] = {}
        for packet in group.packets[: last + 1]:
            needed = group.upper_layers or group.time_of(packet) in wanted
            self._keep(self._decoder.feed(packet, needed), group, wanted, pictures)
        self._keep(self._decoder.drain(), group, wanted, pictures)
        if group.damaged or self._decoder.errors or len(pictures) < len(wanted):
            self._decoder.total_errors -= self._decoder.errors  # the group is decoded again
            return None
        return sorted(pictures.items())

    def _keep(self, frames: Iterator[Any], group: Group, wanted: set[int], pictures: dict[int, np.ndarray]) -> None:
        for frame in frames:
            time = self._time_of(frame, group)
            if time in wanted and time not in pictures:
                pictures[time] = self._converter.convert(frame)

    def _time_of(self, frame: Any, group: Group) -> int:
        """A frame's time; raises `_FalseKey` where it should have opened the group and refers to others."""
        time = self._decoder.time_of(frame) + group.shift
        if group is self._opened and time == group.key_time and refers_to_others(frame):
            raise _FalseKey
        return time

    def _stream(self, group: Group) -> Iterator[Chosen]:
        """Decodes a whole group and lets all its frames come by; some remain in the decoder."""
        for packet in group.packets:
            if self._picker.done:
                return
            yield from self._feed(self._decoder.feed(packet), group)

    def _feed(self, frames: Iterator[Any], group: Group) -> Iterator[Chosen]:
        for frame in frames:
            for chosen in self._picker.feed(self._time_of(frame, group), frame):
                self.substituted += self._expected is not None and chosen.time not in self._expected
                yield chosen

    def _stream_all(self, groups: Iterator[Group]) -> Iterator[Chosen]:
        """Decodes every packet: for streams without times, whose frames must be counted, and to compare with."""
        for group in groups:
            yield from self._stream(group)
            if self._picker.done:
                return
            self._note_end(group)
            last = group
        yield from self._feed(self._decoder.drain(), last)
        self._note_end(last)
        yield from self._picker.finish()

    def _choose_keys(self) -> Iterator[Chosen]:
        """The nearest key frame for each row; only frames that are chosen are decoded."""
        groups = iter(self._reader)
        first = next(groups, None)
        if first is None:
            return
        if self._has_no_times(first, None):
            self._decoder.orders_times = True
            yield from self._stream_all(itertools.chain((first,), groups))
            return
        keys = _Keys(self._decoder)
        for group in itertools.chain((first,), groups):
            if self._picker.done:
                return
            key = group.key_time
            if group.opens and key in group.times:
                if self.clock.origin is None:
                    self.clock.origin = key if group.leading else group.times[0]
                for chosen in self._picker.feed(key, group):
                    yield from keys.decode(chosen)
            self._note_end(group)
        if self.end is not None:
            for chosen in self._picker.finish(self.end + Fraction(self._gap, 2)):
                yield from keys.decode(chosen)

    def _note_end(self, group: Group) -> None:
        times = group.times if not group.timeless else [self._picker.last_time or 0]
        if times:
            earlier = times[-2] if len(times) > 1 else self.end if self.end is not None else times[-1]
            self._gap, self.end = times[-1] - earlier, times[-1]


class _Keys:
    """Decodes key frames alone; one that cannot be decoded is replaced by its neighbour."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._group: Group | None = None
        self._last: tuple[int, Any] | None = None
        self._waiting: list[int] = []

    def decode(self, chosen: Chosen) -> Iterator[Chosen]:
        """The chosen group's key frame for the chosen row, and for rows that wait for the first one that can be decoded."""
        group = chosen.picture
        if group is not self._group:
            self._group = group
            self._decoder.reset()
            frames = [*self._decoder.feed(group.packets[0]), *self._decoder.drain()]
            if frames and not refers_to_others(frames[0]):
                self._last = chosen.time, frames[0]
        self._waiting.append(chosen.row)
        if self._last is not None:
            for row in self._waiting:
                yield Chosen(row, *self._last)
            self._waiting.clear()
