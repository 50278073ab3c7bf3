"""Sound: clicks at known times, in step with the pictures."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, number_of
from vcls_model.media.rows import MediaRow, Request, RowReader
from vcls_model.media.sampling import Sampling

RATE = 16000


def clicks(seconds: float, at: list[float]) -> np.ndarray:
    """Bursts of 10 ms of noise at the given times, float32 at 16 kHz."""
    samples = np.zeros(int(seconds * RATE), np.float32)
    for time in at:
        first = int(time * RATE)
        burst = np.random.default_rng(0).uniform(-0.9, 0.9, 160)
        samples[first : first + 160] = burst[: len(samples) - first]
    return samples


def onsets(rows: list[MediaRow]) -> list[float]:
    """When the bursts in the rows' patches begin, in seconds after the first presentation time."""
    times = []
    for row in rows:
        assert row.sound is not None
        loud = np.flatnonzero(np.abs(row.sound) > 0.3)
        starts = loud[np.insert(np.diff(loud) > 800, 0, True)] if len(loud) else loud
        times += [row.target_seconds + start / RATE for start in starts]
    return times


def read(path: Path, request: Request | None = None) -> list[MediaRow]:
    with RowReader(str(path), request or Request()) as reader:
        return list(reader)


def write_wav(path: Path, samples: np.ndarray, rate: int, layout: str, codec: str = "pcm_s16le") -> Path:
    """Writes `samples`, (channels, samples), float32 in [-1, 1]."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        packed = np.ascontiguousarray((samples.T * 32767).astype(np.int16).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "pcm_s16le"), (".mp4", "aac"), (".mkv", "libopus")])
def test_sound_is_in_step_with_pictures(tmp_path: Path, suffix: str, codec: str) -> None:
    at = [0.2, 1.5, 2.05, 3.9]
    path = make_clip(
        tmp_path / f"clip{suffix}",
        [Fraction(n, 25) for n in range(125)],
        sound=clicks(5, at),
        sound_codec=codec,
    )
    rows = read(path)
    assert [number_of(row.picture) for row in rows if row.picture is not None] == [0, 25, 50, 75, 100]
    assert onsets(rows) == pytest.approx(at, abs=0.004)
    # The last 25 ms of each second are in no patch.
    late = make_clip(tmp_path / f"late{suffix}", [Fraction(n, 25) for n in range(50)], sound=clicks(2, [0.985]))
    assert onsets(read(late)) == []


def test_pictures_set_the_clock(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "late_picture.mkv",
        [2 + Fraction(n, 25) for n in range(75)],
        sound=clicks(5, [1.0, 2.5, 4.25]),
        sound_codec="pcm_s16le",
    )
    rows = read(path)
    assert len(rows) == 3
    assert onsets(rows) == pytest.approx([0.5, 2.25], abs=0.002)  # what is heard before the first picture is left out


def test_sound_that_begins_late_or_ends_early_is_silent_elsewhere(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "short_sound.mkv",
        [Fraction(n, 25) for n in range(125)],
        sound=clicks(1, [0.5]),
        sound_start=1.25,
        sound_codec="pcm_s16le",
    )
    rows = read(path)
    assert len(rows) == 5 and all(row.sound is not None for row in rows)
    assert onsets(rows) == pytest.approx([1.75], abs=0.002)
    assert rows[4].sound is not None and not rows[4].sound.any()


def test_gaps_between_timestamps_are_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0.0, 3.0):
            samples = (clicks(1, [0.5])[None] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), int(start * RATE)
            container.mux(stream.encode(frame))
    rows = read(path)
    assert len(rows) == 4
    assert onsets(rows) == pytest.approx([0.5, 3.5], abs=0.002)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 16000])
def test_any_rate_becomes_16_khz(tmp_path: Path, rate: int) -> None:
    time = np.arange(3 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)[None].astype(np.float32)
    rows = read(write_wav(tmp_path / "tone.wav", tone, rate, "mono"))
    assert len(rows) == 3
    for row in rows:
        assert row.sound is not None and row.sound.shape == (15600,) and row.picture is None
        reference = 0.5 * np.sin(2 * np.pi * 440 * (row.target_seconds + np.arange(15600) / RATE))
        assert np.abs(row.sound - reference)[100:-400].max() < 0.02


def test_stereo_is_averaged_and_surround_does_not_clip(tmp_path: Path) -> None:
    left, right = np.full((1, RATE), 0.8, np.float32), np.full((1, RATE), -0.2, np.float32)
    stereo = read(write_wav(tmp_path / "stereo.wav", np.concatenate([left, right]), RATE, "stereo"))
    assert stereo[0].sound is not None and np.abs(stereo[0].sound - 0.3).max() < 1e-3
    full = read(write_wav(tmp_path / "surround.wav", np.full((6, RATE), 0.9, np.float32), RATE, "5.1"))
    assert full[0].sound is not None and np.abs(full[0].sound - 0.9).max() < 1e-3


@pytest.mark.parametrize(("seconds", "rows"), [(0.1, 1), (1.0, 1), (1.4, 1), (1.5, 2), (2.48, 2), (2.49, 3), (5.0, 5)])
def test_sound_alone_has_a_row_for_every_half_patch(tmp_path: Path, seconds: float, rows: int) -> None:
    tone = np.full((1, int(seconds * RATE)), 0.5, np.float32)
    got = read(write_wav(tmp_path / "tone.wav", tone, RATE, "mono"))
    assert len(got) == rows
    heard = sum(int((np.abs(row.sound) > 0.4).sum()) for row in got if row.sound is not None)
    assert heard <= seconds * RATE


def test_segments_of_sound(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "clicks.wav", clicks(6, [0.5, 2.25, 4.75])[None], RATE, "mono")
    rows = read(path, Request(sampling=Sampling(start=2, end=5)))
    assert [row.target_seconds for row in rows] == [2, 3, 4]
    assert onsets(rows) == pytest.approx([2.25, 4.75], abs=0.002)


def test_real_sounds_have_five_rows(shared_data: Path) -> None:
    directory = shared_data / "media" / "sounds"
    if not directory.is_dir():
        pytest.skip("the developers' sounds are not beside this checkout")
    for path in sorted(directory.iterdir())[::20]:
        rows = read(path)
        assert len(rows) == 5 and all(row.sound is not None for row in rows)
        assert max(np.abs(row.sound).max() for row in rows if row.sound is not None) > 0.01
