"""The media files of `bench/extract.py`: 20 made ones and real clips, and one file that plays for an hour."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

RATE = 30
SOUND_RATE = 48_000
MEDIA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "media"
CLIPS = MEDIA / "clips"
HEIGHTS = {360: (640, 360), 720: (1280, 720)}


def kinds() -> dict[str, tuple[str, str, dict[str, str]]]:
    """Name -> suffix, encoder, options."""
    table = {}
    for b_frames in (0, 3):
        for seconds in (1, 2, 10):
            options = {
                "preset": "veryfast",
                "crf": "24",
                "bf": str(b_frames),
                "g": str(seconds * RATE),
                "sc_threshold": "0",
            }
            table[f"h264_{'b' if b_frames else 'p'}_key{seconds}"] = (".mp4", "libx264", options)
    for seconds in (2, 10):
        hevc = f"keyint={seconds * RATE}:log-level=none"
        table[f"hevc_key{seconds}"] = (".mp4", "libx265", {"preset": "ultrafast", "x265-params": hevc})
        vp9 = {"deadline": "realtime", "cpu-used": "8", "b": "1M", "g": str(seconds * RATE), "lag-in-frames": "16"}
        table[f"vp9_key{seconds}"] = (".webm", "libvpx-vp9", vp9)
    return table


def scenes(width: int, height: int, seconds: int) -> Iterator[Any]:
    """`av.VideoFrame`s in yuv420p: a window that wanders over real clips, or over a made texture."""
    import av

    clips = sorted(CLIPS.glob("V_*.mp4"))[:: len(list(CLIPS.glob("V_*.mp4"))) // 6 or 1]
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (90, 160, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    count = 0
    while count < seconds * RATE:
        source: Iterator[Any] = iter([av.VideoFrame.from_ndarray(texture, format="rgb24")] * 300)
        if clips:
            source = av.open(str(clips[count // 300 % len(clips)])).decode(video=0)
        for frame in source:
            picture = frame.reformat(width * 5 // 4, height * 5 // 4 // 2 * 2, format="rgb24").to_ndarray()
            left = int((1 + np.sin(count / 40)) / 2 * (picture.shape[1] - width))
            top = int((1 + np.cos(count / 55)) / 2 * (picture.shape[0] - height))
            window = np.ascontiguousarray(picture[top : top + height, left : left + width])
            yield av.VideoFrame.from_ndarray(window, format="rgb24").reformat(format="yuv420p")
            count += 1
            if count == seconds * RATE or count % 300 == 0:
                break


def voice(seconds: int) -> np.ndarray:
    """Mono sound, int16 (1, samples) at 48 kHz: a melody over noise, so that encoders have something to do."""
    time = np.arange(seconds * SOUND_RATE) / SOUND_RATE
    pitch = 220 * 2 ** (np.floor(time * 2) * 5 % 12 / 12)
    noise = np.random.default_rng(1).normal(0, 0.02, len(time))
    return ((0.3 * np.sin(2 * np.pi * pitch * time) + noise) * 32767).clip(-32768, 32767).astype("<i2")[None]


def make_files(directory: Path, seconds: int) -> list[Path]:
    """The 20 files, with sound; those that are there already are used again."""
    import av

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for height, (width, _) in HEIGHTS.items():
        kinds_by_path = {directory / f"{name}_{height}{kind[0]}": kind for name, kind in kinds().items()}
        paths += list(kinds_by_path)
        missing = {path: kind for path, kind in kinds_by_path.items() if not path.exists()}
        outputs = []
        for path, (suffix, codec, options) in missing.items():
            container = av.open(str(path.with_name("partial_" + path.name)), "w")
            stream: Any = container.add_stream(codec, rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            spoken: Any = container.add_stream("aac" if suffix == ".mp4" else "libopus", rate=SOUND_RATE, layout="mono")
            outputs.append((path, container, stream, spoken))
        samples = voice(seconds)
        for number, frame in enumerate(scenes(width, height, seconds) if outputs else ()):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            for _, container, stream, spoken in outputs:
                container.mux(stream.encode(frame))
                if number % RATE == 0:
                    at = number * SOUND_RATE // RATE
                    block = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(samples[:, at : at + SOUND_RATE]), "s16", "mono"
                    )
                    block.sample_rate, block.pts, block.time_base = SOUND_RATE, at, Fraction(1, SOUND_RATE)
                    container.mux(spoken.encode(block))
        for path, container, stream, spoken in outputs:
            container.mux(stream.encode())
            container.mux(spoken.encode())
            container.close()
            Path(path.with_name("partial_" + path.name)).rename(path)
    return paths


def repeat_file(source: Path, target: Path, times: int) -> Path:
    """A file that plays the video of another so many times, copied packet by packet; made once."""
    import av

    if target.exists():
        return target
    partial = target.with_name("partial_" + target.name)
    with av.open(str(partial), "w") as output:
        stream: Any = None
        shift = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                length = int(video.frames / video.average_rate / video.time_base)
                for packet in container.demux(video):
                    if packet.size:
                        packet.pts += shift
                        packet.dts += shift
                        packet.stream = stream
                        output.mux(packet)
                shift += length
    partial.rename(target)
    return target


def real_clips(count: int) -> list[Path]:
    """Up to `count` real clips, evenly chosen; none where there are none beside this checkout."""
    clips = sorted(CLIPS.glob("V_*.mp4"))
    return clips[:: max(1, len(clips) // count)][:count] if count else []


def duration(path: Path) -> float:
    """Length in seconds by the header."""
    import av

    with av.open(str(path)) as container:
        return float(container.duration / av.time_base)
