"""The nearest key frame for each row: decodes nothing else, for a fraction of the time and of the accuracy."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from vcls_model.media.choosing import Chooser
from vcls_model.media.decoder import refers_to_others
from vcls_model.media.packets import PacketGroup
from vcls_model.media.probe import OpenMedia
from vcls_model.media.sampling import Chosen, Sampling


class KeyFrameChooser(Chooser):
    """Decodes key frames alone, and of these the chosen ones; the neighbour takes the place of one that is damaged."""

    def __init__(self, media: OpenMedia, sampling: Sampling) -> None:
        super().__init__(media, sampling)
        self._group: PacketGroup | None = None
        self._good: tuple[int, Any] | None = None
        self._waiting: list[int] = []

    def choose(self) -> Iterator[Chosen]:
        """The nearest key frame for each row; the nearest frame where a stream has no times or no key frames."""
        groups = iter(self.reader)
        first = next(groups, None)
        if first is None:
            return
        timeless = self.has_no_times(first)
        if timeless or not first.opens or not self.decoder.clean_keys:
            self.decoder.orders_times = timeless and first.opens
            yield from self.choose_from_all(itertools.chain((first,), groups))
            return
        for group in itertools.chain((first,), groups):
            key = group.key_time
            if group.opens and key in group.times:
                if self.clock.origin is None:
                    self.clock.origin = key if group.leading else group.times[0]
                for chosen in self.picker.feed(key, group):
                    yield from self._decode(chosen)
            self.note_end(group)
            if self.picker.done:
                return
        if self.end is not None:
            for chosen in self.picker.finish(self.end + Fraction(self.gap, 2)):
                yield from self._decode(chosen)

    def _decode(self, chosen: Chosen) -> Iterator[Chosen]:
        """The key frame of the chosen group, for its row and for rows that wait for the first good one."""
        group = chosen.picture
        if group is not self._group:
            self._group = group
            self.decoder.reset()
            frames = [*self.decoder.feed(group.packets[0]), *self.decoder.drain()]
            if frames and not refers_to_others(frames[0]):
                self._good = chosen.time, frames[0]
        if self._good is None:
            self._waiting.append(chosen.row)
            return
        for row in (*self._waiting, chosen.row):
            self.substituted += self._good[0] != chosen.time
            yield Chosen(row, *self._good)
        self._waiting.clear()
