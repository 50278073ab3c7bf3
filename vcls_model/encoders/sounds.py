"""What a sound encoder wants to hear, and how a waveform becomes that: one patch per second, log-mel spectrograms.

The spectrogram is the one that VGGish and YAMNet share (tensorflow/models, research/audioset): windows of 25 ms
(periodic Hann) every 10 ms, magnitudes of a 512-point Fourier transform, 64 triangular bands equally spaced on the mel
scale from 125 to 7,500 Hz, and the logarithm after a small offset.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
PATCH_FRAMES = 96
MEL_BANDS = 64
_WINDOW = 400  # 25 ms
_HOP = 160  # 10 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7_500.0
PATCH_SAMPLES = (PATCH_FRAMES - 1) * _HOP + _WINDOW  # 15,600: 96 hops are 0.96 s, the last window ends at 0.975 s

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class SoundInput:
    """A patch of a 16 kHz mono waveform in [-1, 1].

    Attributes:
        samples: of one patch.
        features: whether the network takes the waveform or its log-mel spectrogram (96 frames of 64 bands).
        log_offset: added to each band's magnitude before the logarithm.
        network_shape: of what the network takes for one patch; as many values as `samples`, or 96 × 64.
    """

    samples: int = PATCH_SAMPLES
    features: Literal["waveform", "log_mel"] = "log_mel"
    log_offset: float = 0.001
    network_shape: tuple[int, ...] = (PATCH_FRAMES, MEL_BANDS)

    row_type = np.float32

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one patch: (samples,)."""
        return (self.samples,)

    def patches(self, waveform: Floats, rows: int) -> Floats:
        """Patches (rows, samples): row k begins k seconds after the first sample; zeros follow the sound's end.

        Args:
            waveform: 16 kHz mono, (n,).
            rows: one per second, as many as the video has pictures. A video without sound has no patches: the caller
                leaves the modality out, since absence is not silence.
        """
        patches = np.zeros((rows, self.samples), np.float32)
        for row in range(rows):
            heard = waveform[row * SAMPLE_RATE :][: self.samples]
            patches[row, : len(heard)] = heard
        return patches

    def network_input(self, patches: Floats) -> Floats:
        """(N, …) as the network takes it, of patches (N, samples); each patch is computed for itself."""
        if self.features == "log_mel":
            patches = np.array([log_mel(patch, self.log_offset) for patch in patches], np.float32)
        return patches.reshape(len(patches), *self.network_shape)

    def check(self, patches: Floats) -> None:
        """Raises `ValueError` unless these are patches, (N, samples) float32, all finite."""
        if patches.dtype != np.float32 or patches.ndim != 2 or patches.shape[1] != self.samples:
            raise ValueError(
                f"expected float32 patches of shape (N, {self.samples}), got {patches.dtype} of {patches.shape}"
            )
        if not np.isfinite(patches).all():
            raise ValueError("a sound patch holds NaN or infinity")


def log_mel(patch: Floats, offset: float) -> Floats:
    """Log-mel spectrogram (96, 64) of one patch of 15,600 samples."""
    frames = np.lib.stride_tricks.sliding_window_view(patch.astype(np.float64), _WINDOW)[::_HOP]
    magnitudes = np.abs(np.fft.rfft(frames * _hann(), _FFT))
    bands = _mel_bands(magnitudes)
    return np.log(bands + offset).astype(np.float32)


@functools.cache
def _hann() -> npt.NDArray[np.float64]:
    """The periodic Hann window, (400,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)


def _mel_bands(magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bands (n, 64) of magnitudes (n, 257).

    Band m rises from 0 at edge m to 1 at edge m + 1 and falls to 0 at edge m + 2, linearly in 1127 ln(1 + f / 700). So
    it is the rising part of what lies between its first two edges, and what the next band's rising part leaves of what
    lies between its last two. A matrix product would sum in an order that follows the number of BLAS's threads.
    """
    rising, starts = _mel_slopes()
    slopes = np.add.reduceat(magnitudes * rising, starts, axis=1)[:, :-1]
    totals = np.add.reduceat(magnitudes, starts, axis=1)[:, :-1]
    bands: npt.NDArray[np.float64] = slopes[:, :-1] + (totals - slopes)[:, 1:]
    return bands


@functools.cache
def _mel_slopes() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """How far each frequency (257,) is between its edges, and the first from each edge on (66,), all different."""
    mel = 1127 * np.log1p(np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE) / 700)
    low, high = (1127 * np.log1p(hertz / 700) for hertz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = np.linspace(low, high, MEL_BANDS + 2)
    starts = np.searchsorted(mel, edges)
    between = np.clip(np.searchsorted(edges, mel, side="right") - 1, 0, MEL_BANDS)
    rising = (mel - edges[between]) / (edges[between + 1] - edges[between])
    return rising, starts
