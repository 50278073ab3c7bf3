"""The directions that tell labels apart and the layer that turns features towards them, against numpy."""

from pathlib import Path

import keras
import numpy as np
import pytest

from vcls_model.commands import UsageError
from vcls_model.layers import LabelProjection
from vcls_model.models import build_model, resolve_hyperparameters
from vcls_model.models.label_directions import KEY_POWER, RIDGES, TOLERATED, LabelDirections, find_label_directions
from vcls_model.models.neighbour_memory import remember
from vcls_model.models.video_vectors import joined_vectors
from vcls_model.records.schema import FRAMES, Modality

VIDEO = (Modality("sight", 6, "vector", "float32"), Modality("sound", 3, "vector", "float32"))
CLASSES = 4


def make_videos(count: int = 300, seed: int = 0):  # type: ignore[no-untyped-def]
    """Videos whose labels depend on two directions of `sight` alone."""
    random = np.random.default_rng(seed)
    inputs = {
        "sight": random.normal(size=(count, 6)).astype(np.float32) + 1,
        "sound": random.normal(size=(count, 3)).astype(np.float32),
    }
    first, second = inputs["sight"][:, 0] - inputs["sight"][:, 1], inputs["sight"][:, 2]
    labels = [
        [label for label, carried in enumerate((a > 1, a < -1, b > 2, b < 0)) if carried]
        for a, b in zip(first, second, strict=True)
    ]
    return inputs, labels


def batches(inputs, labels, size: int):  # type: ignore[no-untyped-def]
    for begin in range(0, len(labels), size):
        some = labels[begin : begin + size]
        yield (
            {name: values[begin : begin + size] for name, values in inputs.items()},
            np.array([label for video in some for label in video], np.int64),
            np.array([len(v) for v in some]),
        )


@pytest.mark.parametrize(("count", "size"), [(300, 300), (300, 7), (24, 24)])
@pytest.mark.parametrize("norm", ["none", "l2", "unit"])
def test_directions_are_those_of_a_ridge_regression(count: int, size: int, norm: str) -> None:
    inputs, labels = make_videos(count)
    found = find_label_directions(batches(inputs, labels, size), VIDEO, CLASSES, norm)
    x = joined_vectors([inputs["sight"], inputs["sound"]], norm).astype(np.float64)
    y = np.array([[float(label in video) for label in range(CLASSES)] for video in labels])
    centred = x - x.mean(axis=0)
    rare = y / np.maximum(y.sum(axis=0), 5) ** 0.25
    ones = np.full((len(x), len(x)), 1 / len(x))
    errors = []
    for penalty in RIDGES * np.trace(centred.T @ centred) / 9:  # the residuals and degrees of freedom of each fit
        hat = ones + centred @ np.linalg.inv(centred.T @ centred + penalty * np.eye(9)) @ centred.T
        errors.append(np.sum((rare - hat @ rare) ** 2) / np.trace(np.eye(len(x)) - hat) ** 2)
    first = int(np.flatnonzero(np.array(errors) <= TOLERATED * min(errors))[0])
    assert first > 0 if count == 24 else first < len(RIDGES) - 1
    penalty = RIDGES[first] * np.trace(centred.T @ centred) / 9
    # Augmented least squares, an independent way to a ridge regression.
    tall = np.concatenate([centred, np.sqrt(penalty) * np.eye(9)])
    weights = np.linalg.lstsq(tall, np.concatenate([rare, np.zeros((9, CLASSES))]), rcond=None)[0]
    left, strengths, _ = np.linalg.svd(weights, full_matrices=False)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.strengths[:CLASSES], np.maximum(strengths / strengths[0], 0.01), rtol=1e-3)
    assert (found.strengths[CLASSES:] == np.float32(0.01)).all()
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(9), atol=1e-5)
    overlap = np.abs(np.sum(found.directions[:, :2] * left[:, :2], axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_the_strongest_directions_are_the_planted_ones() -> None:
    inputs, labels = make_videos(4000)
    found = find_label_directions(batches(inputs, labels, 500), VIDEO, CLASSES, "none")
    planted = np.zeros((9, 2))
    planted[[0, 1], 0] = 0.5**0.5, -(0.5**0.5)
    planted[2, 1] = 1
    # Both span the same plane.
    np.testing.assert_allclose(np.linalg.svd(planted.T @ found.directions[:, :2])[1], 1, atol=0.01)
    assert found.strengths[1] > 4 * found.strengths[2]


def test_few_videos_do_not_make_noise_look_strong() -> None:
    """As many videos as features: an almost unpenalised fit would go through all labels."""
    random = np.random.default_rng(5)
    x = random.normal(size=(100, 90)).astype(np.float32)
    carried = x[:, 0] + 0.3 * random.normal(size=100) > 0
    found = find_label_directions(
        [({"sight": x}, np.zeros(int(carried.sum()), np.int64), carried.astype(np.int64))],
        (Modality("sight", 90, "vector", "float32"),),
        1,
        "none",
    )
    centred = x.astype(np.float64) - x.mean(axis=0)
    least = np.sqrt(RIDGES[0] * np.mean(np.sum(centred**2, axis=0)))
    free = np.linalg.lstsq(
        np.vstack([centred, least * np.eye(90)]), np.append(carried - carried.mean(), np.zeros(90)), rcond=None
    )[0]
    assert abs(found.directions[0, 0]) > 1.3 * abs(free[0]) / np.linalg.norm(free)


def test_frames_count_by_their_mean() -> None:
    inputs, labels = make_videos(40)
    framed = tuple(Modality(one.name, one.width, FRAMES, "uint8") for one in VIDEO)
    # Every video's vector as the mean of two frames, then one of padding that must not count.
    sequences = {name: np.stack([values + 1, values - 1, values + 9], axis=1) for name, values in inputs.items()}
    sequences["num_frames"] = np.full(40, 2)
    expected = find_label_directions(batches(inputs, labels, 40), VIDEO, CLASSES, "none")
    found = find_label_directions(batches(sequences, labels, 40), framed, CLASSES, "none")
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.strengths, expected.strengths, rtol=1e-3)


def test_no_video_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no video"):
        find_label_directions([], VIDEO, CLASSES, "none")


def some_directions(width: int = 9) -> LabelDirections:
    random = np.random.default_rng(3)
    turned = np.linalg.qr(random.normal(size=(width, width)))[0]
    return LabelDirections(
        random.normal(size=width).astype(np.float32),
        turned.astype(np.float32),
        np.linspace(1, 0.1, width, dtype=np.float32),
    )


def layer_of(found: LabelDirections, **options) -> LabelProjection:  # type: ignore[no-untyped-def]
    return LabelProjection(mean=found.mean, directions=found.directions, strengths=found.strengths, **options)


@pytest.mark.parametrize("shape", [(5, 9), (5, 4, 9)])
def test_the_layer_is_its_formula(shape: tuple[int, ...]) -> None:
    found = some_directions()
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    x.reshape(-1, 9)[2] = 0
    h = ((x - found.mean) @ found.directions) * found.strengths**0.75
    expected = h / np.sqrt((h**2).mean(axis=-1, keepdims=True)) * (x**2).mean(axis=-1, keepdims=True)
    layer = layer_of(found)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert (np.asarray(layer(x)).reshape(-1, 9)[2] == 0).all()  # padding stays padding
    unit = layer_of(found, unit=True, power=KEY_POWER)
    np.testing.assert_allclose(unit(x.reshape(-1, 9)), found.keys(x.reshape(-1, 9)), atol=1e-5)


def test_the_layer_comes_back_from_its_config_and_learns_nothing() -> None:
    layer = layer_of(some_directions(), power=0.3)
    layer.build((None, 9))
    assert not layer.trainable_weights
    again = LabelProjection.from_config(layer.get_config())
    again.build((None, 9))
    again.set_weights(layer.get_weights())
    x = np.ones((2, 9), np.float32)
    np.testing.assert_array_equal(layer(x), again(x))
    with pytest.raises(ValueError, match="mean must have shape"):
        layer_of(some_directions(8)).build((None, 9))
    with pytest.raises(ValueError, match="either"):
        LabelProjection()


@pytest.mark.parametrize("name", ["wide", "multiscale_cnn"])
def test_models_project_and_compare_neighbours_by_it(name: str, tmp_path: Path) -> None:
    inputs, labels = make_videos(12)
    modalities = VIDEO
    if name != "wide":
        modalities = tuple(Modality(one.name, one.width, FRAMES, "uint8") for one in VIDEO)
        inputs = {
            **{key: np.stack([values, values], axis=1) for key, values in inputs.items()},
            "num_frames": np.full(12, 2, np.int32),
        }
    options = {"modality_norm": "l2", "label_projection": 0.75, "neighbours": 1, "neighbour_weight": 0.9}
    found = find_label_directions(batches(inputs, labels, 5), modalities, CLASSES, "l2")
    memory = remember(batches(inputs, labels, 5), modalities, CLASSES, directions=found, modality_norm="l2")
    model = build_model(name, modalities, CLASSES, label_directions=found, memory=memory, **options)
    predicted = keras.ops.convert_to_numpy(keras.ops.sigmoid(model(inputs)))
    for video, carried in enumerate(labels):  # each finds itself
        assert (predicted[video] > 0.5).nonzero()[0].tolist() == carried
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(inputs), model(inputs), atol=1e-5)
    with pytest.raises(ValueError, match="label_projection needs label_directions"):
        build_model(name, modalities, CLASSES, memory=memory, **options)


def test_it_needs_the_modalities_joined() -> None:
    with pytest.raises(UsageError, match="it needs fusion=early"):
        resolve_hyperparameters("wide", {"label_projection": 0.5, "fusion": "late"})
    with pytest.raises(UsageError, match=r"must lie in \[0, 10\)"):
        resolve_hyperparameters("wide", {"label_projection": -1})
