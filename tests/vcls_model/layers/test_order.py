"""Models that read sequences learn the order of frames, which no pool can."""

from typing import Any

import keras
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vcls_model.models import build_model
from vcls_model.records.schema import FRAMES, Modality

WIDTH = 8


def ordered_videos(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Noise with one frame of mark A and one of mark B: class 0 if A comes first, class 1 if B does."""
    rng = np.random.default_rng(seed)
    steps = 8
    lengths = rng.integers(4, steps + 1, count).astype(np.int32)
    frames = rng.normal(scale=0.3, size=(count, steps, WIDTH)).astype(np.float32)
    for video, length in enumerate(lengths):
        first, second = rng.choice(length, 2, replace=False)
        frames[video, first, 0] += 3
        frames[video, second, 1] += 3
    first_is_a = frames[:, :, 0].argmax(1) < frames[:, :, 1].argmax(1)
    return {"rgb": frames, "num_frames": lengths}, np.stack([first_is_a, ~first_is_a], axis=1).astype(np.float32)


def average_precision(name: str, **options: Any) -> float:
    """Of class 0 on new videos, after training."""
    keras.utils.set_random_seed(0)
    model = build_model(name, [Modality("rgb", WIDTH, FRAMES, "float32")], 2, **options)
    inputs, labels = ordered_videos(1024, 1)
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(inputs, labels, batch_size=128, epochs=12, verbose=0)
    inputs, labels = ordered_videos(512, 2)
    return float(average_precision_score(labels[:, 0], model.predict(inputs, batch_size=512, verbose=0)[:, 0]))


SEQUENCE_MODELS: dict[str, dict[str, Any]] = {
    "cnn_rnn": {"filters": (16,), "kernel_size": 3, "recurrent_units": (16,), "hidden_units": (16,), "dropout": 0.0},
    "multiscale_cnn": {"filters": 8, "blocks": 3, "hidden_units": (16,), "dropout": 0.0},
    "attention_rnn": {
        "recurrent_units": (16,),
        "attention_units": 8,
        "heads": 2,
        "hidden_units": (16,),
        "dropout": 0.0,
    },
    "transformer": {"units": 16, "blocks": 2, "heads": 2, "inner_units": 32, "dropout": 0.0},
}


@pytest.mark.slow
def test_an_average_stays_at_chance() -> None:
    assert 0.4 < average_precision("average", hidden_units=(16,), dropout=0.0) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cnn_rnn", *(pytest.param(name, marks=pytest.mark.long) for name in SEQUENCE_MODELS if name != "cnn_rnn")]
)
def test_sequence_models_learn_the_order(name: str) -> None:
    assert average_precision(name, **SEQUENCE_MODELS[name]) > 0.9
