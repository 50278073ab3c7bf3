"""Relatives of the odd files, made here: rare codecs, many channels, streams joined, cut, zeroed or without decoder."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, number_of
from vcls_model.media import errors
from vcls_model.media.convert import Converter
from vcls_model.media.demuxing import packets_with_content
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import Limits, MediaRow, Outcome, Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MediaReader, MediaRows

RATE = 25
# codec, suffix, pixel format: what cameras of all ages, screen recorders and cutting programs write
CODECS = [
    ("mjpeg", "mov", "yuvj420p"),
    ("mjpeg", "avi", "yuvj422p"),
    ("mpeg1video", "mpg", "yuv420p"),
    ("mpeg2video", "ts", "yuv420p"),
    ("mpeg2video", "vob", "yuv420p"),
    ("mpeg4", "mp4", "yuv420p"),
    ("mpeg4", "avi", "yuv420p"),
    ("msmpeg4", "avi", "yuv420p"),
    ("wmv1", "wmv", "yuv420p"),
    ("wmv2", "wmv", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("flashsv", "flv", "bgr24"),
    ("svq1", "mov", "yuv410p"),
    ("qtrle", "mov", "argb"),
    ("rpza", "mov", "rgb555le"),
    ("zmbv", "avi", "bgr0"),
    ("snow", "avi", "yuv420p"),
    ("huffyuv", "avi", "yuv422p"),
    ("utvideo", "avi", "gbrp"),
    ("ffv1", "mkv", "gray16le"),
    ("ffv1", "mkv", "ya8"),
    ("ffv1", "mkv", "yuv410p"),
    ("ffv1", "mkv", "gbrp16le"),
    ("ffv1", "mkv", "bgra"),
    ("prores_ks", "mov", "yuva444p10le"),
    ("v210", "mov", "yuv422p10le"),
    ("png", "mov", "rgba"),
    ("rawvideo", "avi", "bgr24"),
    ("rawvideo", "nut", "rgb565le"),
    ("jpegls", "avi", "rgb24"),
    ("gif", "gif", "rgb8"),
    ("apng", "apng", "rgb24"),
    ("libvpx", "webm", "yuva420p"),
    ("libx264rgb", "mkv", "rgb24"),
    ("libx264", "mp4", "gray"),
]


def read(path: Path, pictures: bool = True, **sampling: object) -> tuple[list[MediaRow], Outcome]:
    request = Request(Request().pictures if pictures else None, sampling=Sampling(**sampling))  # type: ignore[arg-type]
    with RowReader(str(path), request) as reader:
        rows = list(reader)
    assert reader.outcome is not None
    return rows, reader.outcome


def numbers(rows: list[MediaRow]) -> list[int]:
    return [number_of(row.picture) for row in rows if row.picture is not None]


def clip(path: Path, seconds: float = 1.0, **options: Any) -> Path:
    return make_clip(path, [Fraction(number, RATE) for number in range(round(seconds * RATE))], rate=RATE, **options)


def write_sound(path: Path, codec: str, seconds: float = 3.0, layout: str = "mono", rate: int = 48000) -> Path:
    """A tone of 440 Hz, the same in all channels."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
        samples = np.repeat(wave[None], stream.codec_context.layout.nb_channels, 0)
        step = stream.codec_context.frame_size or 4096
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for first in range(0, samples.shape[1], step):
            packed = np.ascontiguousarray(samples[:, first : first + step].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("codec", "suffix", "pixels"), CODECS)
def test_rare_codecs_give_the_frames_that_were_asked_for(tmp_path: Path, codec: str, suffix: str, pixels: str) -> None:
    options = {"strict": "-2"} if codec == "snow" else {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    path = clip(tmp_path / f"clip.{suffix}", codec=codec, pix_fmt=pixels, options=options)
    rows, outcome = read(path, fps=4)
    assert outcome.reason is None
    assert numbers(rows) == [0, 6, 12, 19]
    everything, _ = read(path, fps=4, mode="everything")
    for row, full in zip(rows, everything, strict=True):
        assert np.array_equal(row.picture, full.picture)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate"),
    [
        ("a.opus", "libopus", "7.1", 48000),
        ("a.flac", "flac", "7.1", 48000),
        ("a.ogg", "libopus", "stereo", 24000),
        ("a.wav", "pcm_f32le", "7.1(wide)", 48000),
        ("a.wav", "pcm_u8", "mono", 8000),
        ("a.mka", "flac", "5.1", 96000),
        ("a.voc", "pcm_u8", "mono", 16000),
        ("a.aiff", "pcm_s24be", "5.1", 44100),
        ("a.caf", "pcm_s16be", "stereo", 11025),
        ("a.tta", "tta", "stereo", 48000),
    ],
)
def test_sound_of_any_layout_is_heard(tmp_path: Path, name: str, codec: str, layout: str, rate: int) -> None:
    rows, outcome = read(write_sound(tmp_path / name, codec, layout=layout, rate=rate))
    assert outcome.reason is None and [row.index for row in rows] == [0, 1, 2]
    for row in rows:
        assert row.sound is not None
        spectrum = np.abs(np.fft.rfft(row.sound[:8000]))
        assert abs(int(spectrum.argmax()) * 2 - 440) <= 4
        assert row.sound.std() == pytest.approx(0.3 / np.sqrt(2), rel=0.2)


def test_joined_streams_go_on_with_a_clock_and_a_size_of_their_own(tmp_path: Path) -> None:
    first = clip(tmp_path / "a.ts", 2.0).read_bytes()
    second = clip(tmp_path / "b.ts", 2.0, size=(320, 320)).read_bytes()
    (tmp_path / "joined.ts").write_bytes(first + second + first)
    for mode in ("exact", "everything"):
        rows, _ = read(tmp_path / "joined.ts", mode=mode)
        assert [row.actual_seconds for row in rows] == [0, 1, 2, 3, 4, 5]
        assert numbers(rows) == [0, 25] * 3


@pytest.mark.parametrize(
    ("name", "codec", "part", "reason", "rows"),
    [
        ("a.mp3", "mp3", 0.5, "truncated", 2),
        ("a.aiff", "pcm_s16be", 0.5, "truncated", 2),
        ("a.flac", "flac", 0.5, "truncated", 2),
        ("a.mka", "pcm_s16le", 0.5, "truncated", 2),
        ("a.aac", "aac", 0.5, "damaged", 2),  # nothing says that there was more than the broken packet
        ("a.wav", "pcm_s16le", 0.5, None, 2),
        ("a.mp3", "mp3", 1.0, None, 4),
        ("a.aac", "aac", 1.0, None, 4),
    ],
)
def test_what_is_missing_of_a_sound_file_is_told(
    tmp_path: Path, name: str, codec: str, part: float, reason: str | None, rows: int
) -> None:
    path = write_sound(tmp_path / name, codec, 4.0)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    read_rows, outcome = read(path)
    assert (outcome.reason, len(read_rows)) == (reason, rows)


def test_what_is_missing_of_a_file_with_sound_is_told(tmp_path: Path) -> None:
    times = [Fraction(number, RATE) for number in range(4 * RATE)]
    path = make_clip(tmp_path / "a.flv", times, rate=RATE, sound=np.zeros(4 * 16000, np.float32), options={"g": "25"})
    assert read(path)[1].reason is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows, outcome = read(path)
    assert outcome.reason == errors.TRUNCATED and 1 < len(rows) < 4
    assert numbers(rows) == [25 * row.index for row in rows]


@pytest.mark.parametrize("keep", [40, 300, 700])
def test_a_file_that_breaks_off_in_its_header_is_truncated(tmp_path: Path, keep: int) -> None:
    path = clip(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MediaError) as refusal:
        read(path)
    assert refusal.value.reason == errors.TRUNCATED


def test_a_stream_without_a_decoder_is_told(tmp_path: Path) -> None:
    sound = np.zeros(32000, np.float32)
    path = make_clip(tmp_path / "a.mp4", [Fraction(n, RATE) for n in range(50)], rate=RATE, sound=sound)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    rows, outcome = read(path)
    assert [row.picture for row in rows] == [None, None] and outcome.reason == errors.UNSUPPORTED_CODEC
    assert outcome.message is not None and "video" in outcome.message
    assert read(path, pictures=False)[1].reason is None  # nothing of what was asked for is missing
    path.write_bytes(content.replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    rows, outcome = read(path)
    assert numbers(rows) == [0, 25] and outcome.reason == errors.UNSUPPORTED_CODEC
    alone = clip(tmp_path / "b.mp4")
    alone.write_bytes(alone.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(MediaError) as refusal:
        read(alone)
    assert refusal.value.reason == errors.UNSUPPORTED_CODEC


def test_a_picture_of_too_many_pixels_is_refused_by_its_size(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mov", 0.1, codec="png", pix_fmt="gray", size=(640, 480))
    with (
        pytest.raises(MediaError, match="640 x 480") as refusal,
        RowReader(str(path), Request(limits=Limits(max_pixels=100_000))),
    ):
        pass
    assert refusal.value.reason == errors.TOO_LARGE


def test_raw_motion_jpeg_is_a_video_and_a_jpeg_is_none(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mjpeg", codec="mjpeg", pix_fmt="yuvj420p")
    rows, _ = read(path, fps=5)
    assert numbers(rows) == [0, 5, 10, 15, 20]
    content = path.read_bytes()
    (tmp_path / "still.mp4").write_bytes(content[: content.index(b"\xff\xd9") + 2])
    with pytest.raises(MediaError) as refusal:
        read(tmp_path / "still.mp4")
    assert refusal.value.reason == errors.UNKNOWN_FORMAT


@pytest.mark.parametrize("used_up", [False, True])
def test_a_child_that_used_up_its_memory_serves_no_further_file(tmp_path: Path, used_up: bool) -> None:
    path = str(clip(tmp_path / "a.mp4", 0.2))
    with MediaReader() as reader:
        reader.probe(path)
        rows = MediaRows(reader, path, Limits())
        rows._finish({"kind": "outcome", "outcome": None, "used_up": used_up})
        rows.close()
        assert (reader.pid is None) == used_up


def test_a_stream_that_appears_on_the_way_ends_nothing_early() -> None:
    class Packet:
        size = 1

        def has_sidedata(self, _: str) -> bool:
            return False

    class Container:
        def demux(self, _: object) -> Iterator[Packet]:
            yield from [Packet(), Packet()]
            raise IndexError("list index out of range")  # as PyAV does in its flush

    noted: list[None] = []
    assert len(list(packets_with_content(Container(), None, "video", lambda: noted.append(None)))) == 2
    assert not noted


def test_colours_of_packed_formats_cost_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frame:
        format = type("Format", (), {"name": "rgb24"})
        width = height = 8
        interlaced_frame = False
        side_data = ()

        def reformat(self, **options: object) -> "Frame":
            assert options == {"format": "rgb24", "threads": 1}
            return self

        def to_ndarray(self) -> np.ndarray:
            return np.full((8, 8, 3), 5, np.uint8)

    assert (Converter(Request().pictures).convert(Frame()) == 5).all()  # type: ignore[arg-type]
