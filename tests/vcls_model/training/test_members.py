"""Members of one model learn as if each were alone."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data
from vcls_model.models import build_model
from vcls_model.records.transformed import open_transformed
from vcls_model.train import run
from vcls_model.training.flags import parse_config
from vcls_model.training.losses import sparse_loss
from vcls_model.training.options import LossOptions
from vcls_model.training.step import BatchLoss

LABELS = np.array([[1, -1], [2, 3], [-1, -1], [5, 0]], np.int32)


@pytest.mark.parametrize("mixup", [False, True])
def test_the_loss_is_the_mean_of_the_members_losses(mixup: bool, video_data: Path) -> None:
    data = open_transformed(str(video_data))
    keras.utils.set_random_seed(3)
    model = build_model("logistic", data.modalities, data.class_count, members=2)
    loss = BatchLoss(model, data.modalities, parse_config(["--data=a", "--output=b"]).options, [])
    videos = training_data.make_videos(training_data.VIDEO_SCHEMA, 4, 5)
    batch = {
        "features": {name: tf.constant(value, tf.float32) for name, value in videos.features.items()},
        "labels": tf.constant(LABELS),
    }
    shares = tf.constant([0.3, 0.8, 1.0, 0.6]) if mixup else None
    with tf.GradientTape() as tape:
        losses, logits = loss(batch, shares, training=True)
        total = tf.reduce_sum(losses)
    assert losses.shape == (4,) and float(losses[2]) == 0
    if not mixup:
        each = [sparse_loss(part, LABELS, LossOptions()).numpy() for part in tf.split(logits, 2)]
        np.testing.assert_allclose(losses, np.mean(each, axis=0) * (LABELS[:, 0] >= 0), rtol=1e-5)
    kernels = [model.get_layer(f"classifier_{name}scores").kernel.value for name in ("", "member1_")]
    gradients = tape.gradient(total, kernels)
    alone = build_model("logistic", data.modalities, data.class_count)
    alone_loss = BatchLoss(alone, data.modalities, loss.options, [])
    for name, gradient in zip(("", "member1_"), gradients, strict=True):
        alone.get_layer("classifier_scores").set_weights(model.get_layer(f"classifier_{name}scores").get_weights())
        kernel = alone.get_layer("classifier_scores").kernel.value
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(alone_loss(batch, shares, training=True)[0])
        np.testing.assert_allclose(gradient, tape.gradient(total, kernel) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_members_are_validated_and_exported_as_their_mean(video_data: Path, tmp_path: Path) -> None:
    flags = ["--model=wide", "--recipe=none", "--units=8", "--members=2", "--epochs=2", "--mixup=0.4", "--quiet"]
    info = run([f"--data={video_data}", f"--output={tmp_path / 'model'}", *flags])
    assert info["model"]["hyperparameters"]["members"] == 2
    model = keras.saving.load_model(tmp_path / "model" / "model.keras")
    videos = training_data.make_videos(training_data.VIDEO_SCHEMA, 5, 5)
    statistics = training_data.moments(
        training_data.make_videos(training_data.VIDEO_SCHEMA, 200, 77), training_data.VIDEO_SCHEMA
    )
    features = training_data.transform(videos, training_data.VIDEO_SCHEMA, statistics).features
    features |= {f"has_{name}": np.ones(5, np.float32) for name in features}
    served = tf.saved_model.load(str(tmp_path / "model" / "saved_model")).signatures["serving_default"]
    raw = tf.constant(training_data.serialize_raw(videos, training_data.VIDEO_SCHEMA))
    np.testing.assert_allclose(served(serialized=raw)["logits"], model(features), atol=1e-4)
