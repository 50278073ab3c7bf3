"""Clips made for tests: each frame carries its own number in its pixels, so that a picture tells which frame it is."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 12


def numbered_frame(number: int, width: int = 256, height: int = 256) -> np.ndarray:
    """An RGB frame, (height, width, 3), whose middle shows `number` as 3 x 4 squares, high bits first."""
    moving = (np.add.outer(np.arange(height) * 2, np.arange(width)) + 5 * number) % 256
    frame = np.stack([moving, 255 - moving, np.full_like(moving, 90)], axis=-1).astype(np.uint8)
    bits = [(number >> (BITS - 1 - bit)) & 1 for bit in range(BITS)]
    grid = np.array(bits, np.uint8).reshape(3, 4) * 220 + 16
    top, left = height // 4, width // 4
    tall, wide = height // 2 // 3, width // 2 // 4
    frame[top : top + 3 * tall, left : left + 4 * wide] = np.kron(grid, np.ones((tall, wide), np.uint8))[..., None]
    return frame


def number_of(picture: np.ndarray, crop_fraction: float = 224 / 256) -> int:
    """The number that a picture of a square `numbered_frame` shows, after a centre crop."""
    size = len(picture)
    edge = 0.5 - 0.25 / crop_fraction
    tall, wide = (1 - 2 * edge) * size / 3, (1 - 2 * edge) * size / 4
    bits = []
    for row in range(3):
        for column in range(4):
            y, x = int((edge * size) + (row + 0.5) * tall), int((edge * size) + (column + 0.5) * wide)
            bits.append(picture[y - 4 : y + 5, x - 4 : x + 5].mean() > 128)
    return int("".join("01"[int(bit)] for bit in bits), 2)


def _quick(codec: str) -> dict[str, str]:
    """Options that make an encoder fast where the content does not matter."""
    if codec == "libx264":
        return {"preset": "superfast", "threads": "1"}
    return {"preset": "ultrafast"} if codec == "libx265" else {}


def make_clip(
    path: Path,
    times: Sequence[Fraction | float],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (160, 160),
    rate: int = 30,
    container_options: dict[str, str] | None = None,
    draw: Callable[[int, int, int], np.ndarray] = numbered_frame,
    prepare: Callable[[Any], None] | None = None,
    sound: np.ndarray | None = None,
    sound_start: float = 0.0,
    sound_codec: str = "aac",
) -> Path:
    """Writes a clip whose frame n is shown at `times[n]` seconds.

    Args:
        path: its suffix names the container.
        options: of the encoder.
        draw: frame number, width, height -> RGB frame.
        prepare: called with the video stream before the first frame.
        sound: mono samples at 16 kHz, float32 in [-1, 1], whose first is heard at `sound_start` seconds.
    """
    base = Fraction(1, rate) if codec.startswith("mpeg") else Fraction(1, 90000)  # MPEG encoders know few time bases
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=_quick(codec) | (options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        if prepare:
            prepare(stream)
        voice = container.add_stream(sound_codec, rate=16000, layout="mono") if sound is not None else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(Fraction(time) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None and sound is not None:
            for first in range(0, len(sound), 1024):
                chunk = av.AudioFrame.from_ndarray(sound[None, first : first + 1024].astype(np.float32), "fltp", "mono")
                chunk.sample_rate, chunk.time_base = 16000, Fraction(1, 16000)
                chunk.pts = round(sound_start * 16000) + first
                container.mux(voice.encode(chunk))
            container.mux(voice.encode())
    return path
