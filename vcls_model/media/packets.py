"""A video stream's packets in groups of pictures, each with the times at which its frames are shown."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vcls_model.media.demuxing import packets_with_content
from vcls_model.media.nal import AccessPoints

MAX_GROUP_PACKETS = 1200  # longer groups are cut, so that memory does not follow the distance of key frames
MAX_GROUP_BYTES = 32 << 20


@dataclass
class PacketGroup:
    """Packets from one random access point up to the next.

    Attributes:
        packets: `av.Packet`s in decoding order.
        opens: whether decoding may start at the first one; else the group goes on where the previous one was cut.
        shift: what to add to the packets' and frames' times, in units of the time base, where the clock was set back.
        times: the frames' times (with shift) in increasing order, without those that an edit list cuts away.
        upper_layers: whether frames that nothing in their own layer refers to may still be referred to.
        damaged: whether the container said that a packet is corrupt, or reading failed within the group.
    """

    opens: bool
    shift: int = 0
    packets: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    size: int = 0
    upper_layers: bool = False
    damaged: bool = False
    timeless: bool = False

    def time_of(self, packet: Any) -> int | None:
        """When a packet's frame is shown, in units of the time base; None if it never is, or if that is not known."""
        return None if packet.pts is None or packet.is_discard else packet.pts + self.shift

    def close(self) -> None:
        """Computes what depends on all packets."""
        times = [self.time_of(packet) for packet in self.packets]
        self.timeless = any(packet.pts is None for packet in self.packets)
        self.times = sorted({time for time in times if time is not None})

    @property
    def key_time(self) -> int | None:
        """The time of the first packet's frame, shown or cut away by an edit list."""
        pts = self.packets[0].pts
        return None if pts is None else pts + self.shift

    @property
    def leading(self) -> list[int]:
        """Times before the key frame's: of frames that may refer to the previous group."""
        key = self.key_time
        return [] if key is None else [time for time in self.times if time < key]

    def joined(self, following: "PacketGroup") -> "PacketGroup":
        """This group and the next one as one."""
        both = PacketGroup(
            self.opens,
            self.shift,
            self.packets + following.packets,
            size=self.size + following.size,
            upper_layers=self.upper_layers or following.upper_layers,
            damaged=self.damaged or following.damaged,
        )
        both.close()
        return both

    def can_take(self, following: "PacketGroup") -> bool:
        """Whether the next group may be joined to this one: there is room, and their clocks agree."""
        return not self.full and self.shift == following.shift

    @property
    def full(self) -> bool:
        return len(self.packets) >= MAX_GROUP_PACKETS or self.size >= MAX_GROUP_BYTES


class GroupReader:
    """Iterates over the groups of a stream.

    Attributes:
        count: packets read.
        errors: how often reading failed or the container flagged a packet as corrupt.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self._stream = stream
        self.points = AccessPoints(stream.codec_context)
        self.count = 0
        self.errors = 0

    def __iter__(self) -> Iterator[PacketGroup]:
        group: PacketGroup | None = None
        errors = 0
        for packet in self.packets():
            opens = self.points.opens(packet)
            if group is None or opens or group.full:
                following = PacketGroup(opens, group.shift if group else 0)
                if group is not None:
                    group.close()
                    yield group
                    if opens:
                        following.shift = _shift(group, packet)
                group, errors = following, self.errors - bool(packet.is_corrupt)
            group.packets.append(packet)
            group.size += packet.size
            group.damaged = group.damaged or self.errors > errors
            group.upper_layers = group.upper_layers or self.points.has_upper_layer(packet)
        if group is not None:
            group.close()
            group.damaged = group.damaged or self.errors > errors
            yield group

    def packets(self) -> Iterator[Any]:
        """Packets with content, also behind a failure to read."""
        for packet in packets_with_content(self._container, self._stream, "video", self._note_error):
            self.count += 1
            self.errors += packet.is_corrupt
            yield packet

    def _note_error(self) -> None:
        self.errors += 1


def _shift(before: PacketGroup, key: Any) -> int:
    """The shift of the group that `key` opens: another one where the clock goes back behind the last group's key."""
    start = before.key_time
    if key.pts is None or start is None or key.pts + before.shift > start or not before.times:
        return before.shift
    last = before.times[-1]
    step = last - before.times[-2] if len(before.times) > 1 else max(1, before.packets[-1].duration or 1)
    return last + step - key.pts
