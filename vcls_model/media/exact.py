"""The nearest frame for each row, decoding as little as possible and nothing differently.

Presentation times are read from packets, one group of pictures ahead, so that it is known which frames are targets
before any is decoded. Of a group only what the target frames need is decoded: its tail after the last target frame is
left out, and so are frames that no other refers to. Where that does not give every target frame, the group is decoded
whole, with its neighbours, and the nearest good frame takes the place.
"""

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from vcls_model.media.choosing import Chooser, FalseKeyError
from vcls_model.media.packets import PacketGroup
from vcls_model.media.probe import OpenMedia
from vcls_model.media.sampling import Chosen, Sampling, nearest

_MAX_PLANNED = 64  # target frames of a group that are held until it is known that none is missing


class DecodingPlan(NamedTuple):
    """What the next rows want of a group.

    Attributes:
        targets: times of the group's own frames.
        stop: the first row that these, and those before, do not decide.
        leading: whether frames of the next group are targets that may refer to this one.
    """

    targets: set[int]
    stop: int
    leading: bool


class ExactChooser(Chooser):
    """Plans by packets which frames to decode; bit-equal to decoding everything."""

    def __init__(self, media: OpenMedia, sampling: Sampling, convert: Callable[[Any], np.ndarray]) -> None:
        """`convert` turns a frame into what is handed on, so that no frame need be held."""
        super().__init__(media, sampling)
        self._convert = convert

    def choose(self) -> Iterator[Chosen]:
        """The nearest frame for each row; where key frames turn out to be none, by decoding everything."""
        try:
            yield from self._choose_by_groups()
        except FalseKeyError:
            self._media.reopen()
            self.start()
            self._expected, self._opened = None, None
            yield from self.choose_from_all(iter(self.reader))

    def _choose_by_groups(self) -> Iterator[Chosen]:
        groups = iter(self.reader)
        group, following = next(groups, None), next(groups, None)
        if group is None:
            return
        timeless = self.has_no_times(group) or (following is not None and following.timeless)
        if timeless or not self.decoder.clean_keys:
            self.decoder.orders_times = timeless
            yield from self.choose_from_all(itertools.chain(filter(None, (group, following)), groups))
            return
        previous: PacketGroup | None = None
        carried = not group.opens or bool(group.leading)  # what can be decoded first is not known from packets
        if not carried and group.times:
            self.clock.origin = group.times[0]
            if (further := self.skip_to_segment(group, following)) is not None:
                groups = further
                group, following = next(groups, None), next(groups, None)
                carried = group is not None and bool(group.leading)
        while group is not None and not self.picker.done:
            plan = self._plan(group, following, previous)
            entangled = following is not None and (not following.opens or plan.leading)
            if following is not None and entangled and not carried and group.can_take(following):
                group, following = group.joined(following), next(groups, None)
                continue
            simple = not carried and not entangled and len(plan.targets) <= _MAX_PLANNED
            pictures = self._decode_planned(group, plan.targets) if simple else None
            if pictures is not None:
                for time, picture in pictures:
                    yield from self.picker.feed(time, picture)
                yield from self.picker.settle(plan.stop)
                self._expected = None
            else:
                if not carried:
                    self.decoder.reset()
                    self._opened = group
                if simple:  # planned decoding failed
                    yield from self._start_mending(previous)
                if self._expected is not None:
                    self._expected |= plan.targets
                errors = self.decoder.errors
                yield from self.decode_all(group)
                carried = entangled or group.damaged or self.decoder.errors > errors
                if not carried or following is None:
                    yield from self.feed(self.decoder.drain(), group)
                if following is None:
                    yield from self.picker.finish()
            self.note_end(group)
            previous, group, following = group, following, None if following is None else next(groups, None)

    def _plan(self, group: PacketGroup, following: PacketGroup | None, previous: PacketGroup | None) -> DecodingPlan:
        """Which frames of `group` the next rows want, judged by the times of its neighbours, too."""
        row, targets, leading = self.picker.row, set[int](), False
        if self.clock.origin is None:
            return DecodingPlan(targets, row, bool(following and following.leading))
        own, last_time = set(group.times), self.picker.last_time
        later = following.times if following is not None else []
        if following is not None and following.shift != group.shift:  # what leads there belongs to another clock
            later = [time for time in later if time >= (following.key_time or time)]
        times = sorted(own.union(later, () if last_time is None else (last_time,)))
        if not times:
            return DecodingPlan(targets, row, leading)
        horizon: int | None
        if following is None:
            ends = [*(previous.times[-1:] if previous else ()), *group.times][-2:] or times[-1:]
            limit, horizon = ends[-1] + Fraction(ends[-1] - ends[0], 2), times[-1] + 1
        else:
            limit, horizon = Fraction(times[-1]), following.key_time
        while row < self.picker.stop and (due := self.clock.due(row)) <= limit:
            time = nearest(times, due)
            if horizon is not None and time >= horizon:
                break
            if self._sampling.has(row):
                if time in own:
                    targets.add(time)
                elif time != last_time:
                    leading = True
            row += 1
        return DecodingPlan(targets, row, leading)

    def _decode_planned(self, group: PacketGroup, targets: set[int]) -> list[tuple[int, np.ndarray]] | None:
        """The target frames of a group, converted, in order of time; None where one is missing or anything failed."""
        if not targets:
            return []
        self.decoder.reset()
        self._opened = group
        last = max(index for index, packet in enumerate(group.packets) if group.time_of(packet) in targets)
        pictures: dict[int, np.ndarray] = {}
        for packet in group.packets[: last + 1]:
            needed = group.upper_layers or group.time_of(packet) in targets
            self._keep(self.decoder.feed(packet, needed), group, targets, pictures)
        self._keep(self.decoder.drain(), group, targets, pictures)
        if group.damaged or self.decoder.errors or len(pictures) < len(targets):
            self.decoder.total_errors -= self.decoder.errors  # the group is decoded again
            return None
        return sorted(pictures.items())

    def _keep(
        self, frames: Iterator[Any], group: PacketGroup, targets: set[int], pictures: dict[int, np.ndarray]
    ) -> None:
        """Converts those frames that are targets."""
        for frame in frames:
            time = self.time_of(frame, group)
            if time in targets and time not in pictures:
                pictures[time] = self._convert(frame)

    def _start_mending(self, previous: PacketGroup | None) -> Iterator[Chosen]:
        """Decodes the group before a damaged one whole: its tail may be nearest, or hide what is damaged."""
        self._expected = set() if self.picker.last_time is None else {self.picker.last_time}
        if previous is not None:
            yield from self.decode_all(previous)
