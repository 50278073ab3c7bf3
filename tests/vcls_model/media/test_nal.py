"""Random access points and layers as NAL units give them, on streams of known structure."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.vcls_model.media.clips import make_clip
from vcls_model.media.nal import AccessPoints, units

TIMES = [Fraction(n, 30) for n in range(90)]
X265 = "keyint=25:log-level=none:pools=none:frame-threads=1"


def judge(path: Path) -> tuple[int, int, int]:
    """Packets flagged as key, of these random access points, and packets of upper layers."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        points = AccessPoints(stream.codec_context)
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [packet for packet in packets if packet.is_keyframe]
        return len(keys), sum(map(points.opens, keys)), sum(map(points.has_upper_layer, packets))


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_closed_and_open_groups_can_be_entered(tmp_path: Path, suffix: str) -> None:
    for name, params in (("closed", "scenecut=0"), ("open", "open-gop=1:scenecut=0")):
        path = make_clip(tmp_path / f"{name}{suffix}", TIMES, options={"g": "30", "bf": "3", "x264-params": params})
        assert judge(path) == (3, 3, 0)


def test_a_gradual_refresh_cannot_be_entered(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "refresh.ts", TIMES, options={"g": "30", "x264-params": "intra-refresh=1"})
    flagged, entered, _ = judge(path)
    assert flagged > 1 and entered == 1


@pytest.mark.parametrize(("params", "layered"), [("", False), (":temporal-layers=2", True)])
def test_layers_of_hevc(tmp_path: Path, params: str, layered: bool) -> None:
    path = make_clip(tmp_path / "layers.mp4", TIMES, codec="libx265", options={"x265-params": X265 + params})
    flagged, entered, upper = judge(path)
    assert flagged == entered == 4
    assert (upper > 0) is layered


def test_units_are_split_by_length_or_start_code() -> None:
    assert list(units(b"\0\0\0\2ab\0\0\0\1c", 4)) == [(4, 6), (10, 11)]
    assert list(units(b"\0\0\1ab\0\0\1c", 0)) == [(3, 5), (8, 9)]
    assert list(units(b"\0\0\0\x63ab", 4)) == []  # a length that leaves the packet
    assert list(units(b"", 4)) == list(units(b"", 0)) == []
