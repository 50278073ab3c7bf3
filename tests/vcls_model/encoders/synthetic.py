"""Pictures and sounds made by arithmetic alone, so that golden values hold on any machine."""

from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.encoders import Encoder, PictureInput


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth waves of colour with a hard-edged square, (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    channels = [(rows * (3 + channel + seed) + columns * (2 * channel + 1)) // 4 % 256 for channel in range(3)]
    pixels = np.stack(channels, axis=-1).astype(np.uint8)
    pixels[height // 3 : height // 2, width // 3 : width // 2] = (250, 20, 60 + seed)
    return pixels


def tones(seconds: float, *hertz: float) -> npt.NDArray[np.float32]:
    """A chord of sines that swells once per second, 16 kHz."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    swell = np.sin(np.pi * (time % 1.0)) ** 2
    return (0.3 / len(hertz) * swell * sum(np.sin(2 * np.pi * pitch * time) for pitch in hertz)).astype(np.float32)


def melody() -> npt.NDArray[np.float32]:
    """Eight plucked notes with six harmonics each, 4 s at 16 kHz."""
    time = np.arange(64_000) / 16_000
    sound = np.zeros(len(time))
    for note, pitch in enumerate((261.6, 329.6, 392.0, 523.3, 392.0, 329.6, 261.6, 392.0)):
        since = np.maximum(time - note / 2, 0)
        harmonics = sum(np.sin(2 * np.pi * pitch * order * since) / order for order in range(1, 7))
        sound += 0.2 * (since > 0) * np.exp(-4 * since) * harmonics
    return sound.astype(np.float32)


def inputs(encoder: Encoder) -> npt.NDArray[Any]:
    """Eight different rows for an encoder."""
    spec = encoder.info.input
    if isinstance(spec, PictureInput):
        return np.stack([spec.prepare(picture(240, 320, seed)) for seed in range(8)])
    return np.concatenate([spec.patches(melody(), 4), spec.patches(melody()[::-1], 4)])
