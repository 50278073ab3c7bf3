"""Modalities that a video lacks contribute nothing, in every model; with all of them there, nothing changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.vcls_model.models.test_models import BATCH, CLASSES, MIXTURE, batch_of, modalities_of, small
from vcls_model.layers import LabelProjection, MemoryKey, NeighbourVote, SharedNeighbourVote
from vcls_model.models import MODEL_NAMES, build_model
from vcls_model.models.label_directions import KEY_POWER, LabelDirections, find_label_directions
from vcls_model.models.neighbour_memory import Memory, remember, shares_of
from vcls_model.records.raw_values import RawValues
from vcls_model.records.schema import VECTOR, Modality

LABELS = (np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 1, 1, 2]))
LACKING = np.array([True, False, True, False, False, False])
# Every model with its modalities joined; where they stay apart, some of each kind.
PLANS = [(name, "early") for name in MODEL_NAMES]
PLANS += [(name, fusion) for name in ("dense", "residual", "nextvlad", "attention_rnn") for fusion in ("late", "score")]
PAIR = [Modality("rgb", 16, VECTOR, "float32"), Modality("audio", 8, VECTOR, "float32")]


def build(name: str, modalities: Sequence[Modality], presence: bool, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_model(name, modalities, CLASSES, presence=presence, **{**small(name), **options})


def present(batch: dict[str, np.ndarray], modalities: Sequence[Modality], *missing: str) -> dict[str, np.ndarray]:
    """The batch with presence, where the videos of `LACKING` have none of `missing`."""
    has = {
        f"has_{each.name}": np.where(LACKING & (each.name in missing), 0, 1).astype(np.float32) for each in modalities
    }
    return {**batch, **has}


def spoilt(batch: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The batch with other values in the place of a modality that the videos of `LACKING` lack."""
    values = batch[name].copy()
    values[LACKING] = np.nan
    return {**batch, name: values}


@pytest.mark.parametrize(("name", "fusion"), PLANS)
def test_what_is_missing_contributes_nothing(name: str, fusion: str, tmp_path: Path) -> None:
    modalities = modalities_of(name)
    raw = {
        each.name: RawValues(np.ones(each.width, np.float32), np.ones(each.width, np.float32)) for each in modalities
    }
    options = {"fusion": fusion, "linear_skip": True, "modality_norm": "unit", "input_norm": "l2", "raw_values": raw}
    model = build(name, modalities, True, **options)
    whole = present(batch_of(name), modalities)
    lacking = present(batch_of(name), modalities, "audio")
    logits = model(lacking).numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(model(spoilt(lacking, "audio")).numpy(), logits)
    np.testing.assert_allclose(logits[~LACKING], model(whole).numpy()[~LACKING], rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits[LACKING], model(whole).numpy()[LACKING], atol=1e-4)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(lacking), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "fusion"), PLANS)
def test_with_everything_there_a_model_is_what_it_was(name: str, fusion: str) -> None:
    modalities = modalities_of(name)
    plain, bearing = (build(name, modalities, presence, fusion=fusion) for presence in (False, True))
    assert [weight.shape for weight in plain.weights] == [weight.shape for weight in bearing.weights]
    batch = batch_of(name)
    np.testing.assert_array_equal(bearing(present(batch, modalities)).numpy(), plain(batch).numpy())


@pytest.mark.parametrize("missing", ["title", "audio", "rgb"])
@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("average", "early"),
        ("average", "late"),
        ("average", "score"),
        ("attention_rnn", "early"),
        ("residual", "early"),
    ],
)
def test_mixtures_of_frames_and_vectors_bear_it_too(name: str, fusion: str, missing: str) -> None:
    model = build(name, MIXTURE, True, fusion=fusion)
    batch = present(batch_of(MIXTURE), MIXTURE, missing)
    logits = model(batch).numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(model(spoilt(batch, missing)).numpy(), logits)


def test_a_video_without_frames_is_its_title() -> None:
    model = build("average", MIXTURE, True, fusion="score")
    batch = present(batch_of(MIXTURE), MIXTURE, "rgb", "audio")
    title = keras.Model(model.inputs, model.get_layer("classifier_title_logits").output)
    np.testing.assert_allclose(model(batch).numpy()[LACKING], title(batch).numpy()[LACKING], rtol=1e-5, atol=1e-6)


def test_scores_are_averaged_over_what_is_there() -> None:
    model = build("logistic", PAIR, True, fusion="score")
    batch = batch_of(PAIR)
    alone = {
        each.name: keras.Model(model.inputs, model.get_layer(f"classifier_{each.name}_logits").output) for each in PAIR
    }
    lacking = present(batch, PAIR, "audio")
    rgb, audio = (alone[name](lacking).numpy() for name in ("rgb", "audio"))
    expected = np.where(LACKING[:, None], rgb, (rgb + audio) / 2)
    np.testing.assert_allclose(model(lacking).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_is_left_is_as_long_as_the_whole() -> None:
    model = build("logistic", PAIR, True, modality_norm="l2")
    fused = keras.Model(model.inputs, model.get_layer("fused_rescaled").output)
    for missing in ("rgb", "audio", None):
        values = fused(present(batch_of(PAIR), PAIR, *([missing] if missing else []))).numpy()
        np.testing.assert_allclose(np.square(values).sum(axis=1), 24, rtol=1e-4)


def counted(*missing: str, modalities: Sequence[Modality] = PAIR) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """The training videos, of which some lack modalities, whose values are 0."""
    batch = present(batch_of(list(modalities), seed=5), modalities, *missing)
    for name in missing:
        batch[name] = np.where(LACKING.reshape(-1, *[1] * (batch[name].ndim - 1)), 0, batch[name])
    return [(batch, *LABELS)]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_projection_and_neighbours_bear_it(name: str, tmp_path: Path) -> None:
    modalities = modalities_of(name)
    videos = counted("audio", modalities=modalities)
    found = find_label_directions(videos, modalities, CLASSES, "l2")
    memory = remember(videos, modalities, CLASSES, directions=found, modality_norm="l2", presence=True)
    options = {"fusion": "early", "modality_norm": "l2", "label_projection": 0.75, "neighbours": 2}
    model = build(name, modalities, True, memory=memory, label_directions=found, **options)
    lacking = present(batch_of(name), modalities, "rgb")
    logits = model(lacking).numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(model(spoilt(lacking, "rgb")).numpy(), logits)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(lacking), logits, rtol=1e-5, atol=1e-5)


def similarities(
    memory: Memory, directions: LabelDirections | None, query: np.ndarray, presence: np.ndarray
) -> np.ndarray:
    """(B, N), what the layer computes."""
    space = {}
    if directions is not None:
        space = {"turned": 24, "mean": directions.mean, "turn": directions.key_turn}
    assert memory.presence is not None
    layer = SharedNeighbourVote(
        *memory.labels.shape,
        neighbours=2,
        keys=memory.keys,
        labels=memory.labels,
        sizes=[16, 8],
        complete=bool(memory.presence.all()),
        grams=memory.grams,
        presence=memory.presence.astype(np.float32),
        **space,
    )
    layer(np.zeros((BATCH, CLASSES), np.float32), query, presence)
    return np.asarray(layer._similarity(keras.ops.convert_to_tensor(query), keras.ops.convert_to_tensor(presence)))


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("remembered_lack", [(), ("audio",)])
@pytest.mark.parametrize("query_lacks", [(), ("audio",), ("rgb",)])
def test_videos_are_compared_by_what_both_have(
    projected: bool, remembered_lack: tuple[str, ...], query_lacks: tuple[str, ...]
) -> None:
    """Against the definition, pair by pair."""
    videos = counted(*remembered_lack)
    directions = find_label_directions(counted(), PAIR, CLASSES, "none") if projected else None
    memory = remember(videos, PAIR, CLASSES, directions=directions, presence=True)
    batch = present(batch_of(PAIR, seed=9), PAIR, *query_lacks)
    shares = shares_of(PAIR)

    def joined(source: dict[str, np.ndarray]) -> np.ndarray:
        if directions is not None:
            return np.concatenate([source["rgb"], source["audio"]], axis=1)
        return np.concatenate(
            [
                source[each.name]
                / np.maximum(np.linalg.norm(source[each.name], axis=1, keepdims=True), 1e-6)
                * share**0.5
                for each, share in zip(PAIR, shares, strict=True)
            ],
            axis=1,
        )

    one, other = joined(batch), joined(videos[0][0])
    here, there = (np.stack([source["has_rgb"], source["has_audio"]], axis=1) > 0 for source in (batch, videos[0][0]))
    expected = np.zeros((BATCH, BATCH))
    for b in range(BATCH):
        for n in range(BATCH):
            both = np.repeat(here[b] & there[n], [16, 8])
            x, k = one[b], other[n]
            if directions is not None:
                x, k = x - directions.mean, k - directions.mean
            x, k = np.where(both, x, 0), np.where(both, k, 0)
            if directions is not None:
                turn = directions.directions * directions.strengths**KEY_POWER
                x, k = x @ turn, k @ turn
            expected[b, n] = x @ k / (np.linalg.norm(x) * np.linalg.norm(k)) if both.any() else -1e3
    query = np.where(np.repeat(here, [16, 8], axis=1), one, 0).astype(np.float32)
    found = similarities(memory, directions, query, here.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-3)  # keys are float16


def test_complete_videos_are_compared_as_before() -> None:
    videos = counted()
    directions = find_label_directions(videos, PAIR, CLASSES, "none")
    query = np.concatenate([batch_of(PAIR, 9)[each.name] for each in PAIR], axis=1)
    old = remember(videos, PAIR, CLASSES, directions=directions)
    key = LabelProjection(
        power=KEY_POWER,
        unit=True,
        mean=directions.mean,
        directions=directions.directions,
        strengths=directions.strengths,
    )(query)
    expected = np.asarray(key) @ old.keys.astype(np.float32).T
    new = remember(videos, PAIR, CLASSES, directions=directions, presence=True)
    np.testing.assert_allclose(
        similarities(new, directions, query, np.ones((BATCH, 2), np.float32)), expected, atol=2e-3
    )


def test_videos_with_nothing_in_common_do_not_vote() -> None:
    videos = counted()
    batch = videos[0][0]
    batch["has_audio"] = np.zeros(BATCH, np.float32)  # nobody has sound
    batch["audio"] = np.zeros_like(batch["audio"])
    memory = remember(videos, PAIR, CLASSES, presence=True)
    assert memory.presence is not None
    layer = SharedNeighbourVote(
        *memory.labels.shape,
        neighbours=2,
        weight=0.5,
        keys=memory.keys,
        labels=memory.labels,
        sizes=[16, 8],
        complete=False,
        grams=memory.grams,
        presence=memory.presence.astype(np.float32),
    )
    logits = np.random.default_rng(0).normal(size=(BATCH, CLASSES)).astype(np.float32)
    query = np.asarray(MemoryKey(shares_of(PAIR))([batch["rgb"], batch["audio"]]))
    alone = np.tile(np.array([0, 1], np.float32), (BATCH, 1))
    np.testing.assert_array_equal(np.asarray(layer(logits, query * 0, alone)), logits)
    voted = np.asarray(layer(logits, query, 1 - alone))
    assert not np.allclose(voted, logits)
    assert isinstance(layer, NeighbourVote)  # so that a teacher can leave its vote out


def test_directions_come_from_the_videos_that_have_a_modality() -> None:
    """As mean-centred features in which what is missing is 0, computed from all rows at once."""
    videos = counted("audio")
    found = find_label_directions(videos, PAIR, CLASSES, "none")
    rgb, audio = (videos[0][0][name].astype(np.float64) for name in ("rgb", "audio"))
    mean = np.concatenate([rgb.mean(axis=0), audio[~LACKING].mean(axis=0)])
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    centred = np.concatenate([rgb - mean[:16], np.where(LACKING[:, None], 0, audio - mean[16:])], axis=1)
    # The same directions from complete videos that are centred already.
    batch = {"rgb": centred[:, :16].astype(np.float32), "audio": centred[:, 16:].astype(np.float32)}
    same = find_label_directions([(batch, *LABELS)], PAIR, CLASSES, "none")
    np.testing.assert_allclose(found.strengths, same.strengths, rtol=1e-3, atol=1e-4)
