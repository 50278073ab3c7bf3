"""Texts in every model: read beside whatever else there is, alone, projected, mixed."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.vcls_model.models.test_models import BATCH, CLASSES, GRAPH, STEPS, small
from vcls_model.input.options import InputOptions
from vcls_model.layers import LineBags, TextBag
from vcls_model.models import MODEL_NAMES, MODELS, build_model
from vcls_model.models.catalogue import FRAME_LEVEL
from vcls_model.models.label_directions import find_label_directions
from vcls_model.models.neighbour_memory import remember
from vcls_model.records.schema import FRAMES, LINE_TOKENS, TEXT, TOKENS, VECTOR, Modality
from vcls_model.records.transformed import TransformedModality
from vcls_model.training.options import TrainOptions
from vcls_model.training.step import BatchLoss

BUCKETS = 50
TITLE = TransformedModality("title", BUCKETS, TEXT, TOKENS)
TAGS = TransformedModality("tags", BUCKETS, TEXT, TOKENS)
CAPTIONS = TransformedModality("captions", BUCKETS, TEXT, LINE_TOKENS)
RGB = Modality("rgb", 16, FRAMES, "float32")
PLACE = Modality("place", 4, VECTOR, "float32")


def modalities_of(name: str) -> list[Modality]:
    return [RGB, TITLE, PLACE, TAGS] if MODELS[name].level == FRAME_LEVEL else [TITLE, PLACE, TAGS]


def bags(random: np.random.Generator, longest: int) -> np.ndarray:
    """Buckets and weights, float32 (B, L, 2), filled with weights of 0."""
    buckets = random.integers(0, BUCKETS, (BATCH, longest))
    weights = random.random((BATCH, longest)) * (np.arange(longest) < random.integers(1, longest + 1, BATCH)[:, None])
    return np.stack([buckets, weights], axis=-1).astype(np.float32)


def batch_of(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    batch = {
        "title": bags(random, 7),
        "tags": bags(random, 3),
        "place": random.normal(size=(BATCH, 4)).astype(np.float32),
    }
    if MODELS[name].level == FRAME_LEVEL:
        batch["rgb"] = random.normal(size=(BATCH, STEPS, 16)).astype(np.float32)
        batch["num_frames"] = np.array([5, 3, 1, 4, 2, 5], np.int32)
    return batch


def build(name: str, modalities: list[Modality], **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_model(name, modalities, CLASSES, label_graph=GRAPH, text_width=8, **{**small(name), **options})


@pytest.mark.parametrize(
    ("name", "fusion"),
    [*((name, "early") for name in MODEL_NAMES), *itertools.product(("dense", "dbof"), ("late", "score"))],
)
def test_every_model_reads_texts(name: str, fusion: str, tmp_path: Any) -> None:
    model = build(name, modalities_of(name), fusion=fusion, linear_skip=True, modality_norm="unit", input_dropout=0.1)
    batch = batch_of(name)
    logits = model(batch).numpy()
    assert logits.shape == (BATCH, CLASSES) and np.isfinite(logits).all()
    for text in ("title", "tags"):
        emptied = model({**batch, text: np.zeros_like(batch[text])}).numpy()
        assert (np.abs(emptied - logits).max(axis=1) > 1e-6).all(), text
        # What fills a bag says nothing, whatever bucket it names.
        longer = np.concatenate([batch[text], np.zeros_like(batch[text])], axis=1)
        longer[:, batch[text].shape[1] :, 0] = 9
        np.testing.assert_allclose(model({**batch, text: longer}).numpy(), logits, rtol=1e-5, atol=1e-5)
    if fusion == "early":
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(batch), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if MODELS[name].level != FRAME_LEVEL])
def test_texts_alone(name: str) -> None:
    batch = {key: batch_of(name)[key] for key in ("title", "tags")}
    logits = build(name, [TITLE, TAGS], linear_skip=True)(batch).numpy()
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).min() > 0


@pytest.mark.parametrize("name", ["wide", "attention_rnn"])
def test_projection_and_neighbours_leave_texts_out(name: str) -> None:
    others = [modality for modality in modalities_of(name) if modality.kind != TEXT]
    batch = batch_of(name)
    counted = [(batch, np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 0, 3, 1]))]
    found = find_label_directions(counted, others, CLASSES, "none")
    memory = remember(counted, others, CLASSES, directions=found)
    model = build(name, modalities_of(name), label_projection=0.75, label_directions=found, neighbours=2, memory=memory)
    logits = model(batch).numpy()
    emptied = model({**batch, "title": np.zeros_like(batch["title"])}).numpy()
    assert np.isfinite(logits).all() and np.abs(emptied - logits).max() > 1e-6


def test_a_bag_is_the_weighted_sum_of_its_vectors() -> None:
    layer = TextBag(4, 2)
    layer.build((None, None, 2))
    layer.table.assign([[1, 2], [3, 4], [5, 6], [7, 8]])
    layer.importance.assign([1, 0.5, 1, 1])
    bag = np.array([[[1, 0.8], [3, 0.1], [0, 0]], [[0, 0], [0, 0], [0, 0]]], np.float32)
    expected = np.array([[3 * 0.4 + 7 * 0.1, 4 * 0.4 + 8 * 0.1], [0, 0]]) / 0.1
    np.testing.assert_allclose(layer(bag), expected, rtol=1e-5)
    again = TextBag.from_config(layer.get_config())
    assert (again.buckets, again.width) == (4, 2)


def test_bags_begin_with_a_variance_of_1() -> None:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    weights = random.random((400, 30))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    bag = np.stack([np.argsort(random.random((400, 1000)))[:, :30], weights], axis=-1).astype(np.float32)
    assert np.std(TextBag(1000, 64)(bag)) == pytest.approx(1, abs=0.05)


def test_mixup_mixes_bags() -> None:
    """Half of one video and half of another: the vector of the mixture is the mean of theirs, whatever their words."""
    model = build("logistic", [TITLE])
    loss = BatchLoss(model, [TITLE], TrainOptions(InputOptions(BATCH)), [])
    features = {"title": tf.constant(bags(np.random.default_rng(0), 5))}
    shares = tf.constant([0.5, 0.25, 1.0, 0.0, 0.5, 0.5])
    mixed = loss._mixed(features, shares)["title"]
    bag = model.get_layer("title_text")
    own = bag(features["title"]).numpy()
    part = shares.numpy()[:, None]
    np.testing.assert_allclose(bag(mixed), part * own + (1 - part) * own[::-1], rtol=1e-4, atol=1e-5)


def lines(random: np.random.Generator, longest: int) -> np.ndarray:
    """Buckets, weights and frames, float32 (B, L, 3)."""
    return np.concatenate([bags(random, longest), random.integers(0, STEPS, (BATCH, longest, 1))], -1).astype(
        np.float32
    )


@pytest.mark.parametrize(
    ("name", "fusion"),
    [*((name, "early") for name in MODEL_NAMES), *itertools.product(("dense", "dbof"), ("late", "score"))],
)
def test_every_model_reads_texts_of_seconds(name: str, fusion: str) -> None:
    """Together with frames and another text; a video-level model by the mean of the frames and all that is said."""
    model = build(name, [RGB, TITLE, CAPTIONS], fusion=fusion, linear_skip=True)
    random = np.random.default_rng(0)
    batch = {**batch_of("dbof"), "captions": lines(random, 9)}
    batch = {key: batch[key] for key in ("rgb", "title", "captions", "num_frames")}
    logits = model(batch).numpy()
    assert logits.shape == (BATCH, CLASSES) and np.isfinite(logits).all()
    emptied = model({**batch, "captions": np.zeros_like(batch["captions"])}).numpy()
    assert np.abs(emptied - logits).max() > 1e-6
    # What is said after the last frame is not heard, and what fills the bags says nothing.
    later = np.array(batch["captions"])
    later[..., 2] = np.where(later[..., 2] < batch["num_frames"][:, None], later[..., 2], STEPS + 3)
    filled = np.concatenate([later, np.full((BATCH, 4, 3), [9, 0, 1])], axis=1).astype(np.float32)
    if MODELS[name].level == FRAME_LEVEL:
        np.testing.assert_allclose(model({**batch, "captions": filled}).numpy(), logits, rtol=1e-4, atol=1e-5)


def test_the_bag_of_a_frame_is_a_bag() -> None:
    random = np.random.default_rng(0)
    said, mask = lines(random, 9), np.arange(STEPS) < np.array([5, 3, 1, 4, 2, 5])[:, None]
    layer, bag = LineBags(BUCKETS, 4), TextBag(BUCKETS, 4)
    rows = layer(said, mask).numpy()
    bag.build((None, None, 2))
    bag.table.assign(layer.table)
    assert rows.shape == (BATCH, STEPS, 4)
    for frame in range(STEPS):
        own = (
            said * np.array([1, 1, 0]) * np.stack([np.ones((BATCH, 9)), said[..., 2] == frame, np.ones((BATCH, 9))], -1)
        )
        expected = bag(own[..., :2].astype(np.float32)).numpy() * mask[:, frame, None]
        np.testing.assert_allclose(rows[:, frame], expected, rtol=1e-5, atol=1e-5)


def test_mixup_mixes_what_is_said_in_each_frame() -> None:
    model = build("average", [RGB, CAPTIONS])
    loss = BatchLoss(model, [CAPTIONS], TrainOptions(InputOptions(BATCH)), [])
    said, mask = lines(np.random.default_rng(0), 5), np.ones((BATCH, STEPS), bool)
    shares = tf.constant([0.5, 0.25, 1.0, 0.0, 0.5, 0.5])
    mixed = loss._mixed({"captions": tf.constant(said)}, shares)["captions"]
    layer = model.get_layer("captions_text")
    own, part = layer(said, mask).numpy(), shares.numpy()[:, None, None]
    np.testing.assert_allclose(layer(mixed, mask), part * own + (1 - part) * own[::-1], rtol=1e-4, atol=1e-5)


def test_modality_dropout_leaves_texts_out_but_never_all() -> None:
    others = [TransformedModality("place", 4, VECTOR, "float32"), TITLE, CAPTIONS]
    model = build("dense", [others[0], TITLE], presence=True)
    options = TrainOptions(InputOptions(BATCH), modality_dropout=0.5)
    loss = BatchLoss(model, others, options, [], [["place"], ["title"], ["captions"]])
    random = np.random.default_rng(0)
    title, captions = bags(random, 3), lines(random, 4)
    title[1], captions[1] = 0, 0  # the second has its place alone
    has = {"title": tf.constant(title), "captions": tf.constant(captions), "has_place": tf.ones(BATCH)}
    draws = tf.constant(
        [[0.1, 0.9, 0.9], [0.1, 0.1, 0.1], [0.9, 0.1, 0.9], [0.1, 0.1, 0.1], [0.9, 0.9, 0.1], [0.9] * 3]
    )
    left = loss._without_some(has, draws)
    assert left["has_place"].numpy().tolist() == [0, 1, 1, 1, 1, 1]  # the fourth would have lost all
    assert (left["title"].numpy()[..., 1] > 0).any(axis=1).tolist() == [True, False, False, True, True, True]
    assert (left["captions"].numpy()[..., 1] > 0).any(axis=1).tolist() == [True, False, True, True, False, True]


def test_scores_of_a_video_without_anything_else_are_those_of_its_texts() -> None:
    model = build("dense", modalities_of("dense"), presence=True, fusion="score")
    batch = {**batch_of("dense"), "has_place": np.zeros(BATCH, np.float32)}
    texts = [
        keras.Model(model.inputs, model.get_layer(f"classifier_{text}_logits").output) for text in ("title", "tags")
    ]
    expected = np.mean([each(batch).numpy() for each in texts], axis=0)
    np.testing.assert_allclose(model(batch).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fusion"),
    [*((name, "early") for name in MODEL_NAMES), *itertools.product(("dense", "dbof"), ("late", "score"))],
)
def test_every_model_bears_videos_that_have_texts_alone(name: str, fusion: str) -> None:
    """The first has its title alone, the second its captions; what stands where the others would be says nothing."""
    modalities = [*modalities_of(name), *([CAPTIONS] if MODELS[name].level == FRAME_LEVEL else [])]
    model = build(name, modalities, presence=True, fusion=fusion, linear_skip=True, modality_norm="unit")
    random = np.random.default_rng(0)
    batch, has = batch_of(name), np.ones(BATCH, np.float32)
    has[:2] = 0
    others = [each for each in modalities if each.kind != TEXT]
    batch |= {f"has_{each.name}": has for each in others}
    if MODELS[name].level == FRAME_LEVEL:
        batch["captions"] = lines(random, 9)
        batch["captions"][0] = 0
        batch["num_frames"][:2] = [1, STEPS]
    logits = model(batch).numpy()
    assert np.isfinite(logits).all()
    spoilt = dict(batch)
    for each in others:
        spoilt[each.name] = batch[each.name].copy()
        spoilt[each.name][:2] = np.nan
    np.testing.assert_array_equal(model(spoilt).numpy(), logits)
    untitled = model({**batch, "title": np.zeros_like(batch["title"])}).numpy()
    assert np.abs(untitled - logits)[0].max() > 1e-6
    if MODELS[name].level == FRAME_LEVEL:
        silent = model({**batch, "captions": np.zeros_like(batch["captions"])}).numpy()
        np.testing.assert_array_equal(silent[0], logits[0])
        assert np.abs(silent - logits)[1].max() > 1e-6


@pytest.mark.parametrize("name", ["wide", "attention_rnn"])
def test_projection_and_neighbours_bear_videos_that_have_texts_alone(name: str) -> None:
    others = [modality for modality in modalities_of(name) if modality.kind != TEXT]
    has = np.ones(BATCH, np.float32)
    has[0] = 0
    batch = {**batch_of(name), **{f"has_{each.name}": has for each in others}}
    for each in others:
        batch[each.name][0] = 0
    counted = [(batch, np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 1, 1, 2]))]
    found = find_label_directions(counted, others, CLASSES, "none")
    memory = remember(counted, others, CLASSES, directions=found, presence=True)
    options = {"label_projection": 0.75, "label_directions": found, "presence": True}
    voting = build(name, modalities_of(name), neighbours=2, memory=memory, **options)
    alone = build(name, modalities_of(name), **options)
    logits = voting(batch).numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[0], alone(batch).numpy()[0])  # with nothing to compare, none votes
    assert np.abs(logits - alone(batch).numpy())[1:].max() > 1e-6
