"""What rows should be, computed without the code under test: PyAV decodes every frame, swscale does the colours."""

import bisect
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np


def decode_everything(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Times in seconds after the first, and RGB frames at full size, of a file's first video stream."""
    frames: list[tuple[Fraction, np.ndarray]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                decoded: Sequence[Any] = packet.decode()
            except av.error.InvalidDataError:
                continue
            frames += [
                (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
                for frame in decoded
                if not frame.is_corrupt and frame.pts is not None
            ]
    return [(time - frames[0][0], pixels) for time, pixels in frames]


def nearest_rows(times: Sequence[Fraction], fps: Fraction = Fraction(1)) -> list[int]:
    """The index of the frame nearest to each k / fps, the earlier of two, as far as half an interval after the last."""
    last_gap = times[-1] - times[-2] if len(times) > 1 else Fraction(0)
    chosen, row = [], 0
    while (due := row / fps) <= times[-1] + last_gap / 2:
        after = bisect.bisect_left(times, due)
        candidates = range(max(0, after - 1), min(len(times), after + 1))
        chosen.append(min(candidates, key=lambda index: (abs(times[index] - due), index)))
        row += 1
    return chosen


def centre_square(pixels: np.ndarray, aspect: Fraction, size: int = 224) -> np.ndarray:
    """The centre of a frame that is square on the screen, at `size`, by area averages."""
    height, width = pixels.shape[:2]
    side = float(Fraction(size, size + 32)) * min(width * float(aspect), height)
    tall, wide = side, side / float(aspect)
    left, top = (width - wide) / 2, (height - tall) / 2
    scale = np.array([[size / wide, 0, -left * size / wide], [0, size / tall, -top * size / tall]])
    scale[:, 2] += [0.5 * size / wide - 0.5, 0.5 * size / tall - 0.5]  # pixels are areas: their centres are at halves
    return cv2.warpAffine(pixels, scale, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two pictures after blurring, in grey levels: what a person would see."""
    blurred = [cv2.blur(picture.astype(np.float32), (9, 9)) for picture in (one, other)]
    return float(np.abs(blurred[0] - blurred[1]).mean())
