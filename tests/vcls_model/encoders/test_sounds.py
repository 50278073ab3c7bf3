"""Patches of a waveform and their spectrograms."""

import numpy as np
import pytest

from tests.vcls_model.encoders import oracles
from tests.vcls_model.encoders.synthetic import melody, tones
from vcls_model.encoders.sounds import PATCH_SAMPLES, SoundInput, _mel_bands, log_mel


def test_row_k_begins_at_second_k_and_zeros_follow_the_end() -> None:
    waveform = np.arange(40_000, dtype=np.float32)
    patches = SoundInput().patches(waveform, rows=4)
    assert patches.shape == (4, PATCH_SAMPLES) and PATCH_SAMPLES == 15_600
    assert patches[:3, 0].tolist() == [0, 16_000, 32_000]
    assert patches[1, -1] == 31_599
    assert patches[2, 7_999] == 39_999 and not patches[2, 8_000:].any() and not patches[3].any()
    assert SoundInput().patches(waveform, rows=0).shape == (0, PATCH_SAMPLES)


@pytest.mark.parametrize("offset", [0.001, 0.01])
def test_the_spectrogram_is_the_one_of_tf_signal(offset: float) -> None:
    for patch in SoundInput().patches(melody(), 4):
        np.testing.assert_allclose(log_mel(patch, offset), oracles.log_mel(patch, offset), atol=2e-3)


def test_every_frequency_adds_to_the_bands_as_tf_signal_says() -> None:
    import tensorflow as tf

    theirs = tf.signal.linear_to_mel_weight_matrix(64, 257, 16_000, 125.0, 7_500.0)
    np.testing.assert_allclose(_mel_bands(np.eye(257)), theirs, atol=2e-5)


def test_a_tone_is_loudest_in_its_band() -> None:
    spectrum = log_mel(tones(1, 1_000)[:PATCH_SAMPLES], 0.001).mean(axis=0)
    edges = np.linspace(*(1127 * np.log1p(np.array([125, 7500]) / 700)), 66)
    assert spectrum.argmax() == np.abs(edges[1:-1] - 1127 * np.log1p(1000 / 700)).argmin()


def test_silence_is_the_logarithm_of_the_offset() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(PATCH_SAMPLES, np.float32), 0.001), np.log(0.001), rtol=1e-6)


def test_another_shape_or_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="expected float32 patches"):
        SoundInput().check(np.zeros((1, 16_000), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        SoundInput().check(np.full((1, PATCH_SAMPLES), np.nan, np.float32))
