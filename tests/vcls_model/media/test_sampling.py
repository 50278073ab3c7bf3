"""Row times, proved on clips that carry their frame number in their pixels."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, number_of
from tests.vcls_model.media.oracle import nearest_rows
from vcls_model.media.errors import MediaError
from vcls_model.media.pictures import PictureReader
from vcls_model.media.probe import open_media
from vcls_model.media.requests import Limits, MediaRow, PictureFormat, Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling

CONSTANT = [Fraction(n, 30) for n in range(150)]
NTSC = [Fraction(n * 1001, 30000) for n in range(150)]
X265 = "log-level=none:pools=none:frame-threads=1"
OPEN = {"g": "25", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}


def variable() -> list[Fraction]:
    """Frame times of a clip whose intervals change between 1/60 and 1/2 s."""
    steps = np.random.default_rng(3).choice([1500, 3000, 7500, 18000, 45000], 150)
    return [Fraction(int(tick), 90000) for tick in np.cumsum(steps) - steps[0]]


VARIABLE = variable()
CASES: dict[str, tuple[str, Sequence[Fraction], dict[str, Any]]] = {
    "constant": (".mp4", CONSTANT, {"options": {"g": "30", "bf": "0"}}),
    "b_frames": (".mp4", NTSC, {"options": {"g": "40", "bf": "3"}}),
    "b_frames_in_matroska": (".mkv", NTSC, {"options": {"g": "250", "bf": "3"}}),
    "variable": (".mp4", VARIABLE, {"options": {"g": "40", "bf": "2"}}),
    "one_group": (".mkv", VARIABLE, {"options": {"g": "500", "bf": "2"}}),
    "late_start": (".ts", [50 + time for time in CONSTANT], {"options": {"g": "30", "bf": "3"}}),
    "open_groups": (".mp4", NTSC, {"options": OPEN}),
    "open_groups_in_transport_stream": (".ts", NTSC, {"options": OPEN}),
    "gradual_refresh": (".ts", CONSTANT, {"options": {"g": "30", "x264-params": "intra-refresh=1"}}),
    "hevc": (".mp4", NTSC, {"codec": "libx265", "options": {"x265-params": f"keyint=25:{X265}"}}),
    "hevc_layers": (".mp4", NTSC, {"codec": "libx265", "options": {"x265-params": f"temporal-layers=2:{X265}"}}),
    "vp9": (".webm", NTSC, {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "50"}}),
    "mpeg2": (".ts", CONSTANT, {"codec": "mpeg2video", "options": {"g": "15", "bf": "2", "b": "3M"}}),
    "mpeg4_in_avi": (".avi", CONSTANT, {"codec": "mpeg4", "options": {"g": "30", "bf": "2", "b": "2M"}}),
    "h264_in_avi": (".avi", CONSTANT, {"options": {"g": "30", "bf": "2"}}),  # whose times are in decoding order
    "every_frame_a_key": (".mov", CONSTANT, {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"b": "4M"}}),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def clip(directory: Path, name: str) -> tuple[Path, Sequence[Fraction]]:
    suffix, times, options = CASES[name]
    path = directory / (name + suffix)
    return path if path.exists() else make_clip(path, times, **options), times


def read(path: Path, **sampling: Any) -> list[MediaRow]:
    with RowReader(str(path), Request(sound=False, sampling=Sampling(**sampling))) as reader:
        return list(reader)


def numbers(rows: list[MediaRow]) -> list[int]:
    return [number_of(row.picture) for row in rows if row.picture is not None]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fps", [1, 3.1])
def test_rows_show_the_nearest_frame(clips: Path, name: str, fps: float) -> None:
    path, times = clip(clips, name)
    rows = read(path, fps=fps)
    expected = nearest_rows([time - times[0] for time in times], Fraction(str(fps)))
    assert numbers(rows) == expected
    for row, index in zip(rows, expected, strict=True):
        assert row.target_seconds == pytest.approx(row.index / fps)
        assert row.actual_seconds == pytest.approx(float(times[index] - times[0]), abs=0.0011)  # Matroska counts in ms


@pytest.mark.parametrize("name", CASES)
def test_plans_are_bit_equal_to_decoding_everything(clips: Path, name: str) -> None:
    path, _ = clip(clips, name)
    for row, full in zip(read(path, fps=2.3), read(path, fps=2.3, mode="everything"), strict=True):
        assert row.actual_seconds == full.actual_seconds
        assert np.array_equal(row.picture, full.picture)  # type: ignore[arg-type]


def test_frames_that_an_edit_list_cuts_away_are_not_shown(clips: Path) -> None:
    times = [Fraction(n - 17, 30) for n in range(120)]
    path = make_clip(clips / "edit_list.mp4", times, options={"g": "30", "bf": "2"})
    assert numbers(read(path, fps=2)) == [17, 32, 47, 62, 77, 92, 107]


@pytest.mark.parametrize("frames", [1, 2, 14])
def test_clips_under_half_a_second_have_one_row(clips: Path, frames: int) -> None:
    path = make_clip(clips / f"short_{frames}.mp4", CONSTANT[:frames], options={"bf": "2"})
    assert numbers(read(path)) == [0]


def test_segments_count_from_their_start(clips: Path) -> None:
    path, _ = clip(clips, "b_frames")
    rows = read(path, start=1.5, end=4)
    assert [row.target_seconds for row in rows] == [1.5, 2.5, 3.5]
    assert numbers(rows) == [45, 75, 105]
    assert [row.index for row in rows] == [0, 1, 2]
    assert numbers(read(path, start=1.5, max_seconds=2)) == [45, 75]
    assert numbers(read(path, start=4.9)) == [147]
    with pytest.raises(MediaError, match="starts at 7 s, but the presentation has 5.0") as refusal:
        read(path, start=7)
    assert refusal.value.reason == "out_of_range"


@pytest.mark.parametrize("name", CASES)
def test_segments_are_bit_equal_to_decoding_everything(clips: Path, name: str) -> None:
    path, _ = clip(clips, name)
    segment = {"fps": 7.3, "start": 3.35, "end": 4.8}
    expected, rows = read(path, mode="everything", **segment), read(path, **segment)
    assert len(rows) == len(expected) > 5
    assert [row.actual_seconds for row in rows] == [row.actual_seconds for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.picture, other.picture)


@pytest.mark.parametrize(("suffix", "most"), [(".mp4", 130), (".mkv", 130), (".ts", 700)])
def test_segments_begin_where_the_index_leads(clips: Path, suffix: str, most: int) -> None:
    times = [Fraction(n, 2) for n in range(700)]
    path = make_clip(clips / f"seek{suffix}", times, options={"g": "20"})
    with open_media(str(path), Limits()) as media:
        pictures = PictureReader(media, Sampling(start=300, end=302), PictureFormat())
        assert [number_of(picture.pixels) for picture in pictures] == [600, 602]
        assert pictures.packets <= most


def test_whole_clips_have_more_than_300_rows(clips: Path) -> None:
    path = make_clip(clips / "long.mp4", [Fraction(n, 2) for n in range(700)], options={"g": "20"}, size=(64, 64))
    assert len(read(path)) == 350


def test_long_stills_repeat_their_frame(clips: Path) -> None:
    path = make_clip(clips / "slides.mp4", [Fraction(0), Fraction(5), Fraction(11)])
    assert numbers(read(path)) == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_parts_make_up_the_whole(clips: Path) -> None:
    path, _ = clip(clips, "open_groups")
    whole = read(path, fps=24)
    parts = [read(path, fps=24, part=part, parts=2) for part in (0, 1)]
    assert sorted(row.index for part in parts for row in part) == [row.index for row in whole]
    assert {row.index // 30 % 2 for row in parts[1]} == {1}
    for row in parts[0] + parts[1]:
        assert np.array_equal(row.picture, whole[row.index].picture)  # type: ignore[arg-type]


def test_key_frames_are_the_nearest_ones_and_tell_their_error(clips: Path) -> None:
    path = make_clip(clips / "keys.mp4", CONSTANT, options={"g": "40", "bf": "2", "x264-params": "scenecut=0"})
    rows = read(path, mode="keyframes")
    assert numbers(rows) == [0, 40, 40, 80, 120]  # 2.0 is as far from frame 40 as from 80
    assert [row.actual_seconds for row in rows] == pytest.approx([0, 4 / 3, 4 / 3, 8 / 3, 4])
    with RowReader(str(path), Request(sound=False, sampling=Sampling(mode="keyframes"))) as reader:
        list(reader)
        assert reader.outcome is not None and reader.outcome.max_error_seconds == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "bad",
    [{"fps": 0}, {"fps": float("nan")}, {"start": -1}, {"start": 2, "end": 2}, {"max_seconds": 0}, {"mode": "fast"}]
    + [{"part": 2, "parts": 2}],
)
def test_samplings_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Sampling(**bad)
