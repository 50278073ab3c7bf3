"""What all ways of choosing frames share: the packets, the decoder, the clock, and decoding everything."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from vcls_model.media.decoder import VideoDecoder, refers_to_others
from vcls_model.media.packets import GroupReader, PacketGroup
from vcls_model.media.probe import OpenMedia
from vcls_model.media.sampling import Chosen, Clock, Picker, Sampling

SEEK_MARGIN_SECONDS = 1


class FalseKeyError(Exception):
    """A packet that the container calls a key frame's is none."""


class Chooser:
    """Chooses the nearest frame for each row by decoding every packet; others do less.

    Attributes:
        clock: knows the first presentation time once the first frame is chosen.
        reader, decoder, picker: the stages that packets and frames pass.
        substituted: rows whose own frame was missing or damaged, so that they hold another.
        end: the latest presentation time met, in the stream's units.
        gap: the time between that frame and the one before.
    """

    def __init__(self, media: OpenMedia, sampling: Sampling) -> None:
        self._media = media
        self._sampling = sampling
        self.start()
        self.clock = Clock(sampling, Fraction(self._stream.time_base))
        self.picker = Picker(self.clock, media.limits.max_seconds)
        self.substituted = 0
        self.end: int | None = None
        self.gap = 0
        self._opened: PacketGroup | None = None
        self._fed: PacketGroup | None = None
        self._expected: set[int] | None = None

    def start(self) -> None:
        """Reads and decodes from the container's beginning."""
        self._stream: Any = self._media.video
        self.reader = GroupReader(self._media.container, self._stream)
        self.decoder = VideoDecoder(self._stream, self._media.limits.max_pixels)

    def skip_to_segment(self, first: PacketGroup, following: PacketGroup | None) -> Iterator[PacketGroup] | None:
        """The groups from shortly before the first row on, where a container's index leads there; None elsewhere.

        Args:
            first, following: the groups at the beginning of the stream, which are not those that are asked for.
        """
        if not self._media.seekable or following is None or self.clock.origin is None:
            return None
        margin = max(SEEK_MARGIN_SECONDS / self._stream.time_base, 2 * self.decoder.step)
        target = int(self.clock.due(0) - margin)
        if following.key_time is None or target <= following.key_time or first.shift or following.shift:
            return None
        try:
            self._media.container.seek(target, stream=self._stream)
        except av.error.FFmpegError:
            return self._from_start()
        groups = iter(self.reader)
        group = next(groups, None)
        if group is None or not group.opens or group.key_time is None or group.key_time > target:
            return self._from_start()
        return itertools.chain((group,), groups)

    def _from_start(self) -> Iterator[PacketGroup]:
        """All groups, after an index has led astray."""
        self._media.reopen()
        self.start()
        return iter(self.reader)

    def choose(self) -> Iterator[Chosen]:
        """The nearest frame for each row, in order."""
        groups = iter(self.reader)
        first = next(groups, None)
        if first is not None:
            self.decoder.orders_times = self.has_no_times(first)
            yield from self.choose_from_all(itertools.chain((first,), groups))

    def choose_from_all(self, groups: Iterator[PacketGroup]) -> Iterator[Chosen]:
        """Decodes every packet without a break."""
        group = None
        for group in groups:
            yield from self.decode_all(group)
            if self.picker.done:
                return
            self.note_end(group)
        if group is not None:
            yield from self.feed(self.decoder.drain(), group)
            self.note_end(group)
        yield from self.picker.finish()

    def decode_all(self, group: PacketGroup) -> Iterator[Chosen]:
        """Decodes a whole group and lets all its frames come by; some remain in the decoder."""
        if self._fed is not None and self._fed.shift != group.shift:  # what remains there has another clock
            yield from self.feed(self.decoder.drain(), self._fed)
        self._fed = group
        for packet in group.packets:
            if self.picker.done:
                return
            yield from self.feed(self.decoder.feed(packet), group)

    def feed(self, frames: Iterator[Any], group: PacketGroup) -> Iterator[Chosen]:
        """Lets frames come by; counts the rows that get another frame than the expected ones."""
        for frame in frames:
            for chosen in self.picker.feed(self.time_of(frame, group), frame):
                self.substituted += self._expected is not None and chosen.time not in self._expected
                yield chosen

    def time_of(self, frame: Any, group: PacketGroup) -> int:
        """A frame's time; raises `FalseKeyError` where it should have opened the group but refers to others."""
        time = self.decoder.time_of(frame) + group.shift
        if group is self._opened and time == group.key_time and refers_to_others(frame):
            raise FalseKeyError
        return time

    def has_no_times(self, group: PacketGroup) -> bool:
        """Whether packets do not tell when frames are shown: no times, or those of an order that is not shown.

        AVI, for one, has a time per packet, as if frames were shown in the order in which they are decoded.
        """
        if group.timeless:
            return True
        pts = [packet.pts for packet in group.packets]
        if not self._stream.codec_context.has_b_frames or len(pts) < 3 or pts != sorted(pts):
            return False
        frames = itertools.chain(*(self.decoder.feed(packet) for packet in group.packets), self.decoder.drain())
        shown = [frame.pts for frame in frames if frame.pts is not None]
        self.decoder.total_errors = 0
        self.decoder.reset()
        return shown != sorted(shown)

    def note_end(self, group: PacketGroup) -> None:
        """Keeps the latest presentation time."""
        times = group.times
        if group.timeless or self.decoder.orders_times:
            times = [] if self.picker.last_time is None else [self.picker.last_time]
        if times:
            earlier = times[-2] if len(times) > 1 else self.end if self.end is not None else times[-1]
            self.gap, self.end = times[-1] - earlier or self.gap, times[-1]
