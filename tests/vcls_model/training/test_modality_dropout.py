"""Modalities left out in training: how often, never all, what belongs together, mixtures, and by the seed alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data
from vcls_model import train
from vcls_model.commands import UsageError
from vcls_model.input.options import InputOptions
from vcls_model.models import build_model
from vcls_model.records.schema import VECTOR
from vcls_model.records.transformed import TransformedModality, senses_of
from vcls_model.training import checkpoints
from vcls_model.training.flags import ineffective_flags
from vcls_model.training.options import TrainOptions
from vcls_model.training.step import BatchLoss

MODALITIES = [TransformedModality("rgb", 3, VECTOR, "float32"), TransformedModality("audio", 2, VECTOR, "float32")]
VIDEOS = 20_000


def loss_of(**options: Any) -> BatchLoss:
    model = build_model("logistic", MODALITIES, 4, presence=True)
    return BatchLoss(model, MODALITIES, TrainOptions(InputOptions(8), **options), [], [["rgb"], ["audio"]])


def test_a_modality_goes_as_often_as_asked_but_never_all() -> None:
    loss = loss_of(modality_dropout=0.3)
    has = {"has_rgb": tf.ones(VIDEOS), "has_audio": tf.constant(np.arange(VIDEOS) % 2, tf.float32)}
    draws = tf.random.stateless_uniform([VIDEOS, 2], [1, 2])
    left = loss._without_some(has, draws)
    rgb, audio = left["has_rgb"].numpy(), left["has_audio"].numpy()
    assert np.all(rgb + audio >= 1)
    alone, both = np.arange(VIDEOS) % 2 == 0, np.arange(VIDEOS) % 2 == 1
    assert rgb[alone].all() and not audio[alone].any()  # what is missing stays so, and nothing else may go
    # Either goes unless the other does, too.
    assert abs((audio[both] == 0).mean() - 0.3 * 0.7) < 0.01
    assert abs((rgb[both] == 0).mean() - 0.3 * 0.7) < 0.01
    assert loss._without_some(has, None) is has


def test_what_is_pooled_from_one_modality_goes_together() -> None:
    schema = training_data.FRAME_SCHEMA
    names = ("rgb_mean", "rgb_std", "audio_mean", "audio_std")
    modalities = [TransformedModality(name, 2, VECTOR, "float32") for name in names]
    assert senses_of(modalities, schema) == [["rgb_mean", "rgb_std"], ["audio_mean", "audio_std"]]


def test_a_mixture_has_what_either_video_has() -> None:
    loss = loss_of(mixup=0.4)
    features = {
        "rgb": tf.constant([[1.0, 1, 1], [3, 3, 3]]),
        "audio": tf.constant([[0.0, 0], [4, 4]]),
        "has_rgb": tf.ones(2),
        "has_audio": tf.constant([0.0, 1]),
    }
    mixed = loss._mixed(features, tf.constant([0.75, 1.0]))
    assert mixed["has_audio"].numpy().tolist() == [1, 1]
    np.testing.assert_allclose(mixed["audio"], [[1, 1], [4, 4]])
    # A video that is not mixed has what it has.
    assert loss._mixed(features, tf.constant([1.0, 1.0]))["has_audio"].numpy().tolist() == [0, 1]


@pytest.mark.slow
def test_the_seed_alone_decides_and_it_changes_the_weights(video_data: Path, tmp_path: Path) -> None:
    def weights(name: str, *flags: str) -> list[np.ndarray]:
        small = ["--hidden_units=8", "--batch_size=20", "--epochs=2", "--quiet"]
        train.run([f"--data={video_data}", f"--output={tmp_path / name}", "--model=dense", *small, *flags])
        return list(checkpoints.load(str(tmp_path / name / "checkpoints" / "best.npz"))[0]["model"])

    one, again = (weights(name, "--modality_dropout=0.4") for name in ("one", "again"))
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    without = weights("without")
    assert any(not np.array_equal(first, second) for first, second in zip(one, without, strict=True))


def test_where_there_is_one_modality_the_flag_has_no_effect_and_says_so() -> None:
    argv = ["--data=d", "--output=o", "--modality_dropout=0.2"]
    sentence = "--modality_dropout has no effect because the records have one modality"
    assert ineffective_flags(argv, reads_frames=True, modalities=1) == [sentence]
    assert ineffective_flags(argv, reads_frames=True, modalities=2) == []


def test_a_fraction_is_below_one() -> None:
    with pytest.raises(UsageError, match=r"modality_dropout must lie in \[0, 1\), got 1.0"):
        TrainOptions(InputOptions(8), modality_dropout=1.0)
