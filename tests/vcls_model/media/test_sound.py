"""Sound: clicks at known times, in step with the pictures."""

import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, number_of
from vcls_model.encoders.sounds import log_mel
from vcls_model.media.requests import MediaRow, Request
from vcls_model.media.rows import RowReader
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


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "libopus")])
@pytest.mark.parametrize("pictures", [True, False])
def test_segments_far_in_are_sought_and_sound_as_the_whole_does(
    tmp_path: Path, suffix: str, codec: str, pictures: bool
) -> None:
    time = np.arange(40 * RATE) / RATE
    sound = (0.1 * np.sin(2 * np.pi * (300 + 20 * time) * time)).astype(np.float32) + clicks(40, [31.25, 33.5])
    path = make_clip(
        tmp_path / f"clip{suffix}",
        [Fraction(number, 5) for number in range(200)],
        options={"g": "10"},
        rate=5,
        sound=sound,
        sound_codec=codec,
    )
    how = {} if pictures else {"pictures": None}
    whole = read(path, Request(**how))
    segment = read(path, Request(sampling=Sampling(start=30, end=35), **how))
    assert [row.target_seconds for row in segment] == [30, 31, 32, 33, 34]
    assert onsets(segment) == pytest.approx(onsets(whole[30:35]), abs=0.001)
    for row, other in zip(segment, whole[30:35], strict=True):
        assert row.sound is not None and other.sound is not None
        # Matroska counts in ms, so that waveforms may be shifted by half of one; what encoders hear stays.
        assert np.abs(log_mel(row.sound, 0.001) - log_mel(other.sound, 0.001)).mean() < 0.05


def test_real_sounds_have_five_rows(shared_data: Path) -> None:
    directory = shared_data / "media" / "sounds"
    if not directory.is_dir():
        pytest.skip("the developers' sounds are not beside this checkout")
    for path in sorted(directory.iterdir())[::20]:
        rows = read(path)
        assert len(rows) == 5 and all(row.sound is not None for row in rows)
        assert max(np.abs(row.sound).max() for row in rows if row.sound is not None) > 0.01


@pytest.mark.parametrize(
    ("rate", "channels", "codec", "suffix"),
    [
        (44100, 2, "pcm_s16le", ".wav"),
        (48000, 2, "aac", ".m4a"),
        (22050, 1, "libvorbis", ".ogg"),
        (8000, 1, "pcm_s16le", ".wav"),
        (44100, 1, "libmp3lame", ".mp3"),
    ],
)
def test_rows_are_what_the_ffmpeg_program_makes_of_the_sound(
    tmp_path: Path, rate: int, channels: int, codec: str, suffix: str
) -> None:
    program = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg program").get_ffmpeg_exe()
    wav, path = tmp_path / "source.wav", tmp_path / f"sound{suffix}"
    time = np.arange(4 * rate) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (channels, len(time)))
    voices = [0.3 * np.sin(2 * np.pi * (200 + 150 * channel + 40 * time) * time) for channel in range(channels)]
    write_wav(wav, (np.array(voices) + noise).astype(np.float32), rate, ("mono", "stereo")[channels - 1])
    command = [program, "-loglevel", "error", "-y", "-i", str(wav), "-c:a", codec, str(path)]
    subprocess.run(command, check=True)
    rows = read(path)
    command = [program, "-loglevel", "error", "-i", str(path), "-af", "aresample=16000", "-f", "f32le", "-"]
    heard = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)
    expected = heard.reshape(-1, channels).mean(axis=1)
    assert len(rows) >= 4
    for row in rows[:3]:
        assert row.sound is not None
        first = round(row.target_seconds * RATE)
        patch = expected[first : first + 15600]
        error = np.sqrt(np.mean((row.sound - patch) ** 2) / np.mean(patch**2))
        assert error < 0.01, f"row {row.index}: {error:.4f}"
