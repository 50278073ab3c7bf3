"""Every model by name: building, padding, saving, gradients, hyperparameters, and errors for what cannot be built."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from vcls_model.commands import UsageError
from vcls_model.models import (
    MODEL_NAMES,
    MODELS,
    build_model,
    catalogue,
    default_hyperparameters,
    resolve_hyperparameters,
    select_modalities,
)
from vcls_model.models.assembly import TRUNKS
from vcls_model.models.catalogue import FRAME_LEVEL, VIDEO_LEVEL
from vcls_model.models.head import depends_on_classes
from vcls_model.models.label_directions import find_label_directions
from vcls_model.models.label_graph import count_label_graph
from vcls_model.models.neighbour_memory import remember
from vcls_model.records.schema import FRAMES, VECTOR, Modality

CLASSES, BATCH, STEPS = 7, 6, 5
FRAME_MODELS = [name for name in MODEL_NAMES if MODELS[name].level == FRAME_LEVEL]
SMALL: dict[str, Any] = {
    "units": 16,
    "hidden_units": (12,),
    "clusters": 4,
    "filters": 6,
    "recurrent_units": (6,),
    "attention_units": 6,
    "heads": 2,
    "inner_units": 12,
    "blocks": 1,
    "link_units": 5,
    "frame_units": (8,),
    "reduction": 2,
    "kernel_sizes": (1, 3),
}
GRAPH = count_label_graph(np.array([0, 1, 1, 2, 0, 1, 4]), np.array([2, 2, 3]), CLASSES, degree=3)


def small(name: str) -> dict[str, Any]:
    """Hyperparameters that make the model tiny."""
    sizes = {key: value for key, value in SMALL.items() if key in default_hyperparameters(name)}
    return {**sizes, "filters": (6, 6)} if name == "cnn_rnn" else sizes


def modalities_of(name: str) -> list[Modality]:
    kind = FRAMES if MODELS[name].level == FRAME_LEVEL else VECTOR
    return [Modality("rgb", 16, kind, "float32"), Modality("audio", 8, kind, "float32")]


MIXTURE = [
    Modality("rgb", 16, FRAMES, "float32"),
    Modality("title", 4, VECTOR, "float32"),
    Modality("audio", 8, FRAMES, "float32"),
]


def batch_of(modalities: str | list[Modality], seed: int = 0) -> dict[str, np.ndarray]:
    """A model's input for modalities, or for those that its level is made of."""
    rng = np.random.default_rng(seed)
    modalities = modalities_of(modalities) if isinstance(modalities, str) else modalities
    batch = {
        m.name: rng.normal(size=(BATCH, *((STEPS,) if m.kind == FRAMES else ()), m.width)).astype(np.float32)
        for m in modalities
    }
    if any(m.kind == FRAMES for m in modalities):
        batch["num_frames"] = np.array([5, 3, 1, 4, 2, 5], np.int32)
    return batch


def build(name: str, modalities: list[Modality] | None = None, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    modalities = modalities or modalities_of(name)
    return build_model(name, modalities, CLASSES, label_graph=GRAPH, **{**small(name), **options})


def with_other_padding(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same videos with three more frames of padding, which are not numbers."""
    mask = np.arange(STEPS) < batch["num_frames"][:, None]
    padded = dict(batch)
    for name, values in batch.items():
        if values.ndim == 3:
            padded[name] = np.full((BATCH, STEPS + 3, values.shape[2]), np.nan, np.float32)
            padded[name][:, :STEPS][mask] = values[mask]
    return padded


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_builds_saves_and_loads_with_everything_switched_on(name: str, tmp_path: Path) -> None:
    model = build(name, fusion="late", linear_skip=True, modality_norm="l2", input_dropout=0.1, head="label_graph")
    batch = batch_of(name)
    logits = model(batch).numpy()
    assert logits.shape == (BATCH, CLASSES) and logits.dtype == np.float32 and np.isfinite(logits).all()
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_takes_projected_features(name: str, tmp_path: Path) -> None:
    """With neighbours compared likewise: saved and loaded; what padding holds changes nothing."""
    batch = batch_of(name)
    counted = [(batch, np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 0, 3, 1]))]
    found = find_label_directions(counted, modalities_of(name), CLASSES, "none")
    memory = remember(counted, modalities_of(name), CLASSES, directions=found)
    options = {"fusion": "early", "linear_skip": True, "input_dropout": 0.1, "label_projection": 0.75}
    model = build(name, neighbours=2, memory=memory, label_directions=found, **options)
    logits = model(batch).numpy()
    assert np.isfinite(logits).all()
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), logits, rtol=1e-5, atol=1e-5)
    if "num_frames" in batch:
        past = np.arange(STEPS)[None, :, None] >= batch["num_frames"][:, None, None]
        spoilt = {
            key: values if key == "num_frames" else np.where(past, np.float32(1e3), values)
            for key, values in batch.items()
        }
        np.testing.assert_allclose(model(spoilt).numpy(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_gradient_reaches_every_weight_through_the_loss(name: str) -> None:
    model = build(name, head="label_graph", linear_skip=True)
    with tf.GradientTape() as tape:
        logits = model(batch_of(name), training=True)
        labels = tf.cast(np.random.default_rng(0).random(logits.shape) < 0.3, tf.float32)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all(), weight.path
        # The bias of attention's keys has gradient 0 by its formula.
        if not weight.path.endswith("key/bias"):
            assert np.abs(values).max() > 0, weight.path


@pytest.mark.parametrize("name", FRAME_MODELS)
def test_padding_never_changes_an_output(name: str) -> None:
    model = build(name, linear_skip=True, modality_norm="l2")
    batch = batch_of(name)
    np.testing.assert_allclose(model(with_other_padding(batch)), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        *zip(MODEL_NAMES, itertools.cycle(["early", "late", "score"])),
        *itertools.product(["average", "logistic"], ["early", "late", "score"]),
    ],
)
def test_every_model_takes_a_mixture_of_frames_and_vectors(name: str, fusion: str, tmp_path: Path) -> None:
    """Saved and loaded; every input counts, and padding does not."""
    batch = batch_of(MIXTURE)
    counted = [(batch, np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 0, 3, 1]))]
    memory = remember(counted, MIXTURE, CLASSES)
    options = {"linear_skip": fusion == "late", "modality_norm": "l2", "input_dropout": 0.1}
    model = build(name, MIXTURE, fusion=fusion, neighbours=2, memory=memory, **options)
    assert set(model.input) == {"rgb", "title", "audio", "num_frames"}
    logits = model(batch).numpy()
    assert logits.shape == (BATCH, CLASSES) and np.isfinite(logits).all()
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(with_other_padding(batch)), logits, rtol=1e-4, atol=1e-5)
    for key in ("rgb", "title", "audio"):
        other = model({**batch, key: batch_of(MIXTURE, 1)[key]}).numpy()
        assert np.abs(other - logits).max(axis=1).min() > 1e-4, key


@pytest.mark.parametrize("name", ["average", "dense"])
def test_the_projection_of_a_mixture_joins_vectors_with_frames(name: str, tmp_path: Path) -> None:
    batch = batch_of(MIXTURE)
    counted = [(batch, np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 0, 3, 1]))]
    directions = find_label_directions(counted, MIXTURE, CLASSES, "none")
    memory = remember(counted, MIXTURE, CLASSES, directions=directions)
    options = {"fusion": "early", "label_projection": 0.75, "label_directions": directions}
    model = build(name, MIXTURE, neighbours=2, memory=memory, **options)
    logits = model(batch).numpy()
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(with_other_padding(batch)), logits, rtol=1e-4, atol=1e-5)
    if name == "average":  # linear below the mean: that of the frames joined with the title
        seen = keras.Model(model.input, model.get_layer("label_projection").output)(batch).numpy()
        joined = [batch["rgb"], np.repeat(batch["title"][:, None], STEPS, 1), batch["audio"]]
        turned = (np.concatenate(joined, 2) - directions.mean) @ directions.directions * directions.strengths**0.75
        cosine = (seen * turned).sum(-1) / np.linalg.norm(seen, axis=-1) / np.linalg.norm(turned, axis=-1)
        real = np.arange(STEPS) < batch["num_frames"][:, None]
        np.testing.assert_allclose(cosine[real], 1, atol=1e-5)


def test_a_vector_goes_around_the_trunk_of_frames() -> None:
    batch = batch_of(MIXTURE)
    real = np.arange(STEPS)[:, None] < batch["num_frames"][:, None, None]
    means = {
        key: np.where(real, batch[key], 0).sum(1) / batch["num_frames"][:, None] if key != "title" else batch[key]
        for key in ("rgb", "title", "audio")
    }
    joined = build("average", MIXTURE, hidden_units=(), frame_units=())
    kernel, bias = joined.get_layer("classifier_scores").get_weights()
    expected = np.concatenate([means["rgb"], means["audio"], means["title"]], 1) @ kernel + bias
    np.testing.assert_allclose(joined(batch), expected, rtol=1e-4, atol=1e-5)
    # A video-level model reads the mean of the frames, in the order of the modalities.
    mean = build("logistic", MIXTURE)
    kernel, bias = mean.get_layer("classifier_scores").get_weights()
    np.testing.assert_allclose(mean(batch), np.concatenate([*means.values()], 1) @ kernel + bias, rtol=1e-4, atol=1e-5)
    scored = build("average", MIXTURE, hidden_units=(), frame_units=(), fusion="score")
    parts = []
    for key, values in means.items():
        kernel, bias = scored.get_layer(f"classifier_{key}_scores").get_weights()
        parts.append(values @ kernel + bias)
    np.testing.assert_allclose(scored(batch), np.mean(parts, 0), rtol=1e-4, atol=1e-5)


def test_models_of_one_kind_have_the_layers_they_always_had() -> None:
    """`model.keras` holds weights by layer: names and their order are part of the format."""
    frames = build("average", fusion="late", linear_skip=True, modality_norm="l2", input_dropout=0.1)
    assert [layer.name for layer in frames.layers if layer.weights] == [
        "rgb_frame_0",
        "audio_frame_0",
        "rgb_frame_0_norm",
        "audio_frame_0_norm",
        "rgb_hidden_0",
        "audio_hidden_0",
        "rgb_hidden_0_norm",
        "audio_hidden_0_norm",
        "classifier_scores",
        "classifier_skip",
    ]
    assert {layer.name for layer in frames.layers if "skip" in layer.name} == {
        "rgb_skip_mean",
        "audio_skip_mean",
        "skip",
        "classifier_skip",
    }
    chain = build("chain")
    assert [layer.name for layer in chain.layers if layer.weights] == [
        "classifier_stage_0",
        "classifier_link_0",
        "classifier_stage_1",
        "classifier_link_1",
        "classifier_stage_2",
    ]


@pytest.mark.parametrize(
    ("name", "fusion"), [*itertools.product(MODEL_NAMES, ["early"]), *itertools.product(["dense", "chain"], ["score"])]
)
def test_only_layers_of_the_classes_are_named_classifier(name: str, fusion: str) -> None:
    options = {"fusion": fusion, "linear_skip": True, "head": "label_graph"}
    model = build(name, **options)
    keras.utils.set_random_seed(1)
    graph = count_label_graph(np.array([0, 1]), np.array([2]), CLASSES + 2, degree=3)
    other = build_model(name, modalities_of(name), CLASSES + 2, label_graph=graph, **{**small(name), **options})
    for layer, twin in zip(model.layers, other.layers, strict=True):
        if not depends_on_classes(layer):
            assert [w.shape for w in layer.weights] == [w.shape for w in twin.weights], layer.name
    assert any(layer.weights for layer in model.layers if depends_on_classes(layer))


def test_modality_norms_agree_on_unit_vectors_but_not_on_mixtures() -> None:
    models = [build("dense", modality_norm=norm) for norm in ("l2", "unit")]
    batch = {name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in batch_of("dense").items()}
    np.testing.assert_allclose(models[0](batch), models[1](batch), rtol=1e-4, atol=1e-5)
    shorter = {name: 0.5 * v for name, v in batch.items()}
    np.testing.assert_allclose(models[0](shorter), models[0](batch), rtol=1e-4, atol=1e-5)
    assert np.abs(models[1](shorter) - models[1](batch)).max() > 0.1


def test_score_fusion_averages_a_model_a_modality() -> None:
    model = build("logistic", fusion="score")
    batch = batch_of("logistic")
    parts = []
    for name in ("rgb", "audio"):
        kernel, bias = model.get_layer(f"classifier_{name}_scores").get_weights()
        parts.append(batch[name] @ kernel + bias)
    np.testing.assert_allclose(model(batch), (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-5)


def test_late_fusion_gives_the_narrow_modality_half_the_units() -> None:
    model = build("nextvlad", fusion="late", hidden_units=(12,))
    assert model.get_layer("rgb_hidden_0").units == 12 and model.get_layer("audio_hidden_0").units == 6
    assert model.get_layer("rgb_vlad").clusters == 4 and model.get_layer("audio_vlad").clusters == 2


@pytest.mark.parametrize(
    ("name", "options"), [("logistic", {}), ("moe", {"mixtures": 3}), ("dense", {"fusion": "score"})]
)
def test_biases_start_at_the_classes_log_odds(name: str, options: dict[str, Any]) -> None:
    prior = np.linspace(0.01, 0.3, CLASSES)
    model = build(name, class_prior=prior, **options)
    zeros = {m.name: np.zeros((1, m.width), np.float32) for m in modalities_of(name)}
    logits = model(zeros).numpy()[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), prior, rtol=1e-4)
    with pytest.raises(ValueError, match=r"must have shape \(7,\), got \(3,\)"):
        build(name, class_prior=prior[:3])


def test_a_chain_with_as_many_link_units_as_classes_has_no_prior_in_its_links() -> None:
    model = build("chain", class_prior=np.full(CLASSES, 0.01), link_units=CLASSES)
    for layer in model.layers:
        if layer.name.startswith("classifier_link") and layer.weights:
            assert (np.asarray(layer.bias) == 0).all()
    assert (np.asarray(model.get_layer("classifier_stage_0").expert_bias) < -3).all()


def test_dense_is_the_formula_of_the_brief() -> None:
    model = build("dense", hidden_units=(5,))
    (hidden, hidden_bias), (kernel, bias) = (layer.get_weights() for layer in model.layers if layer.weights)
    batch = batch_of("dense")
    features = np.concatenate([batch["rgb"], batch["audio"]], axis=1)
    expected = np.maximum(features @ hidden + hidden_bias, 0) @ kernel + bias
    np.testing.assert_allclose(model(batch), expected, rtol=1e-4, atol=1e-5)
    full = build_model("dense", [Modality("mean_rgb", 1024, VECTOR, "float32")], 3862)
    assert full.count_params() == 1024 * 1024 + 1024 + 1024 * 3862 + 3862


def test_a_model_without_frames_in_a_video_stays_finite() -> None:
    for name in ("cnn_rnn", "nextvlad", "transformer"):
        batch = {**batch_of(name), "num_frames": np.zeros(BATCH, np.int32)}
        assert np.isfinite(build(name)(batch)).all(), name


def test_mixed_precision_keeps_float32_logits() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for name in ("chain", "moe", "netvlad", "transformer"):
            logits = build(name, head="label_graph", linear_skip=True)(batch_of(name))
            assert logits.dtype == tf.float32 and np.isfinite(logits).all(), name
    finally:
        keras.config.set_dtype_policy(policy)


def test_names_and_hyperparameters_are_known_without_keras() -> None:
    code = (
        "import sys; from vcls_model.models import MODEL_NAMES, default_hyperparameters; "
        "[default_hyperparameters(n) for n in MODEL_NAMES]; "
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_issue_s_models_are_all_there() -> None:
    video = {"logistic", "dense", "moe", "residual", "chain"}
    frame = {"average", "cnn_rnn", "multiscale_cnn", "attention_rnn", "dbof", "netvlad", "nextvlad", "transformer"}
    assert {name for name in MODEL_NAMES if MODELS[name].level == VIDEO_LEVEL} >= video
    assert set(FRAME_MODELS) >= frame


def test_text_becomes_hyperparameters() -> None:
    got = resolve_hyperparameters("dense", {"hidden_units": "64,32", "dropout": "0.25", "linear_skip": "true"})
    assert got["hidden_units"] == (64, 32) and got["dropout"] == 0.25 and got["linear_skip"] is True
    assert resolve_hyperparameters("average", {"frame_units": ""})["frame_units"] == ()
    assert resolve_hyperparameters("dense", {"hidden_units": [8]})["hidden_units"] == (8,)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("denze", {}, "unknown model 'denze'; did you mean 'dense'"),
        ("dense", {"hiden_units": 3}, "did you mean 'hidden_units'"),
        ("dense", {"hidden_units": "a"}, r"hidden_units must be like \(1024,\), got 'a'"),
        ("dense", {"hidden_units": (0,)}, "hidden_units must be one or more positive integers"),
        ("dense", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ("dense", {"fusion": "lat"}, "unknown fusion 'lat'; did you mean 'late'"),
        ("dense", {"linear_skip": "perhaps"}, "linear_skip must be like False, got 'perhaps'"),
        ("moe", {"mixtures": 0}, "mixtures must be positive, got 0"),
        ("moe", {"mixtures": 2.5}, "mixtures must be like 2, got 2.5"),
    ],
)
def test_what_is_wrong_with_a_hyperparameter_is_said(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_hyperparameters(name, given)


def test_modalities_are_read_as_frames_or_pooled_but_not_both() -> None:
    frames, pooled = Modality("rgb", 4, FRAMES, "float32"), Modality("rgb_mean", 4, VECTOR, "float32")
    audio, title = Modality("audio", 4, FRAMES, "float32"), Modality("title", 4, VECTOR, "float32")
    with pytest.raises(UsageError, match="'nextvlad' reads sequences of frames, but .* one vector per video only"):
        build_model("nextvlad", [pooled, title], 3)
    assert select_modalities("dense", [frames, audio]) == (frames, audio)
    assert select_modalities("dense", [frames, title, audio, pooled]) == (title, audio, pooled)
    assert select_modalities("average", [frames, title, audio, pooled]) == (frames, title, audio)
    # Without its frames, a vector of such a name is one like any other.
    assert select_modalities("average", [audio, pooled]) == (audio, pooled)


def test_what_preprocess_pools_is_named_as_the_catalogue_expects() -> None:
    from pipelines.preprocessing.config import POOLS

    assert catalogue.POOLS == POOLS


def test_every_model_has_a_trunk_and_every_hyperparameter_a_meaning_and_a_valid_default() -> None:
    assert set(TRUNKS) == set(MODEL_NAMES)
    for name, info in MODELS.items():
        for key, declared in info.hyperparameters.items():
            assert declared.meaning and declared.parse(key, declared.default) == declared.default, (name, key)


@pytest.mark.parametrize("name", ["dense", "average"])
def test_neighbours_vote_for_their_labels(name: str) -> None:
    batch = batch_of(name)
    values, lengths = np.array([0, 1, 2, 3, 4, 5, 6, 0]), np.array([2, 1, 1, 0, 3, 1])
    memory = remember([(batch, values, lengths)], modalities_of(name), CLASSES, limit=5)
    assert memory.labels.tolist() == [[0, 1, 7], [2, 7, 7], [3, 7, 7], [7, 7, 7], [4, 5, 6]]
    plain = build(name)
    model = build(name, neighbours=1, neighbour_weight=0.4, memory=memory)
    model.set_weights(plain.get_weights() + model.get_layer("classifier_neighbours").get_weights())
    votes = np.zeros((5, CLASSES))
    for video, labels in enumerate(memory.labels):
        votes[video, labels[labels < CLASSES]] = 1
    expected = 0.6 / (1 + np.exp(-plain(batch).numpy()[:5])) + 0.4 * votes
    # Each remembered video is nearest to itself.
    np.testing.assert_allclose(1 / (1 + np.exp(-model(batch).numpy()[:5])), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="neighbours need memory"):
        build(name, neighbours=1)
    with pytest.raises(ValueError, match="no video to remember"):
        remember([], modalities_of(name), CLASSES)


@pytest.mark.parametrize("fusion", ["early", "late", "score"])
def test_members_are_models_of_their_own(fusion: str, tmp_path: Path) -> None:
    batch = batch_of("wide")
    options = {"fusion": fusion, "head": "label_graph", "linear_skip": True}
    prior = np.linspace(0.1, 0.7, CLASSES)
    model = build("wide", members=3, class_prior=prior, **options)
    assert "member1_audio_input_dropout" in {layer.name for layer in model.layers}
    plain = build("wide", **options)
    probabilities = []
    for member in ("", "member1_", "member2_"):
        for layer in plain.layers:
            if layer.weights:
                name = layer.name.removeprefix("classifier_")
                prefix = "classifier_" if depends_on_classes(layer) else ""
                layer.set_weights(model.get_layer(f"{prefix}{member}{name}").get_weights())
        probabilities.append(1 / (1 + np.exp(-plain(batch).numpy())))
    # They start from other random weights.
    assert np.abs(probabilities[0] - probabilities[1]).max() > 0.01
    logits = model(batch).numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.mean(probabilities, axis=0), rtol=1e-4)
    assert model.output_shape == (None, CLASSES)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), logits, rtol=1e-5, atol=1e-5)
    assert model(batch, training=True).shape == (3 * BATCH, CLASSES)


def test_the_label_graph_head_needs_its_graph() -> None:
    with pytest.raises(ValueError, match="needs label_graph"):
        build_model("dense", modalities_of("dense"), CLASSES, head="label_graph")
