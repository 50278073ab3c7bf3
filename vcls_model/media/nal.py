"""What NAL units say that a packet's flags do not: whether decoding may start here, whether layers depend on it.

Sources: ITU-T H.264 (7.3.1, D.1.8), ITU-T H.265 (7.3.1.2, 7.4.2.2); length prefixes by ISO/IEC 14496-15.
"""

from collections.abc import Iterator
from typing import Any

_H264_IDR, _H264_SEI, _H264_SLICE = 5, 6, 1
_SEI_RECOVERY_POINT = 6
_HEVC_VCL_TYPES = 32  # NAL unit types below it carry slices


def length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit; 0 where start codes separate them (transport streams, raw files)."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def units(data: bytes, prefix: int) -> Iterator[tuple[int, int]]:
    """Start and end of each NAL unit in a packet, header included; stops where lengths leave the packet."""
    if prefix:
        position = 0
        while position + prefix < len(data):
            start = position + prefix
            position = start + int.from_bytes(data[position:start], "big")
            if position > len(data):
                return
            yield start, position
        return
    start = data.find(b"\0\0\1")
    while start >= 0:
        end = data.find(b"\0\0\1", start + 3)
        yield start + 3, len(data) if end < 0 else end
        start = end


class AccessPoints:
    """Judges the packets of one stream; for codecs without NAL units, flags are all there is."""

    def __init__(self, codec_context: Any) -> None:
        self._codec = codec_context.name
        self._prefix = length_size(self._codec, codec_context.extradata)

    def opens(self, packet: Any) -> bool:
        """Whether a packet flagged as key is one from which decoding is exact.

        H.264's flag also marks the first packet of a gradual refresh, from which frames are complete only later.
        """
        if not packet.is_keyframe:
            return False
        if self._codec != "h264":
            return True
        data = bytes(packet)
        for start, end in units(data, self._prefix):
            if start >= end:
                continue
            kind = data[start] & 31
            if kind == _H264_IDR:
                return True
            if kind == _H264_SEI and _recovers_at_once(data[start + 1 : end]):
                return True
            if kind == _H264_SLICE:
                return False
        return False

    def has_upper_layer(self, packet: Any) -> bool:
        """Whether an HEVC packet belongs to a temporal layer above the lowest.

        There, "not used for reference" is meant within a layer alone: leaving such frames out would spoil others.
        """
        if self._codec != "hevc":
            return False
        data = bytes(packet)
        for start, end in units(data, self._prefix):
            if end - start > 2 and (data[start] >> 1 & 63) < _HEVC_VCL_TYPES:
                return (data[start + 1] & 7) > 1
        return False


def _recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI unit's payloads hold a recovery point that is exact from its own frame on."""
    payloads = sei.replace(b"\0\0\3", b"\0\0")
    position = 0
    while position + 2 < len(payloads):
        kind, position = _sum_of_bytes(payloads, position)
        size, position = _sum_of_bytes(payloads, position)
        if kind == _SEI_RECOVERY_POINT:
            # recovery_frame_cnt is ue(v), whose code for 0 is a single set bit.
            return position < len(payloads) and bool(payloads[position] & 0x80)
        position += size
    return False


def _sum_of_bytes(data: bytes, position: int) -> tuple[int, int]:
    """A number coded as bytes of 255 and a last one below, and the position after it."""
    total = 0
    while position < len(data) and data[position] == 255:
        total += 255
        position += 1
    return (total + data[position], position + 1) if position < len(data) else (total, position)
