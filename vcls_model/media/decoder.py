"""A video decoder that leaves out frames on request and survives what it cannot decode."""

import heapq
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

# Decoders whose "not used for reference" is exact: leaving such frames out changes no other frame.
_CAN_SKIP = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "vp8"})

# Codecs whose key frames forget all that was before. Others (SMC, RPZA, Cinepak, …) may paint into the last picture at
# what a container calls a key frame.
_CLEAN_KEY_CODECS = (
    "av1,ffv1,ffvhuff,flv,h261,h263,h263i,h264,hevc,huffyuv,libdav1d,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4,"
    "msmpeg4v1,msmpeg4v2,png,rawvideo,rv10,rv20,rv30,rv40,theora,utvideo,v210,vc1,vp8,vp9,wmv1,wmv2,wmv3"
)
_CLEAN_KEYS = frozenset(_CLEAN_KEY_CODECS.split(","))

_PREDICTED_TYPES = (2, 3, 4)  # AVPictureType P, B and S


def refers_to_others(frame: Any) -> bool:
    """Whether a frame was decoded with the help of others, so that decoding cannot start with it."""
    return not frame.key_frame and int(frame.pict_type) in _PREDICTED_TYPES


class VideoDecoder:
    """Decodes one stream on one thread.

    Attributes:
        step: a frame interval by the header's frame rate, in the stream's units.
        errors: packets that could not be decoded and frames flagged as corrupt, since `reset`.
        total_errors: the same, since the start.
        clean_keys: whether decoding may start at what the container calls a key frame.
        orders_times: whether the n-th frame gets the n-th of the packets' times in increasing order: for containers
            that have one time per packet but do not know in which order frames are shown.
    """

    def __init__(self, stream: Any, max_pixels: int) -> None:
        self._context = stream.codec_context
        self._context.thread_count = 1
        self._context.thread_type = "NONE"
        self._context.options = {"max_pixels": str(max_pixels)}
        rate = stream.average_rate or stream.guessed_rate or 25
        self.step = max(1, round(1 / (Fraction(rate) * stream.time_base)))
        self._can_skip = self._context.name in _CAN_SKIP
        self.clean_keys = self._context.name in _CLEAN_KEYS or self._context.codec.intra_only
        self._skipping = False
        self._fed = False
        self._next_time = 0
        self.errors = 0
        self.total_errors = 0
        self.orders_times = False
        self._times: list[int] = []

    def reset(self) -> None:
        """Forgets all state: the next packet must be a random access point."""
        if self._fed:
            self._context.flush_buffers()
            self._fed = False
        self.errors = 0

    def feed(self, packet: Any, needed: bool = True) -> Iterator[Any]:
        """Decodes a packet; yields the good frames that come out, in the order of presentation.

        Args:
            packet: an `av.Packet`.
            needed: whether its frame is; if not, it is left out where no other frame refers to it.
        """
        if self._can_skip and self._skipping is needed:
            self._skipping = not needed
            self._context.skip_frame = "NONREF" if self._skipping else "DEFAULT"
        self._fed = True
        time = packet.pts if packet.pts is not None else packet.dts
        if self.orders_times and time is not None:
            heapq.heappush(self._times, time)
        yield from self._decoded(packet)

    def drain(self) -> Iterator[Any]:
        """Yields the good frames that the decoder still holds, and forgets its state."""
        if self._fed:
            yield from self._decoded(None)
            self._context.flush_buffers()
            self._fed = False

    def time_of(self, frame: Any) -> int:
        """A frame's time in the stream's units; one frame interval after the last where the file does not say."""
        time = frame.pts if frame.pts is not None else frame.dts
        if self.orders_times and self._times:
            time = heapq.heappop(self._times)
        if time is None:
            time = self._next_time
        self._next_time = time + self.step
        return time

    def _decoded(self, packet: Any) -> Iterator[Any]:
        try:
            frames = self._context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.errors += 1
            self.total_errors += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self.errors += 1
                self.total_errors += 1
            else:
                yield frame
