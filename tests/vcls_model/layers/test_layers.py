"""Every layer: shape, padding, config, saving, gradients, and its formula against plain numpy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from vcls_model.layers import (
    AttentionPool,
    BagOfFrames,
    ClearPadding,
    ContextGating,
    FeatureAttentionPool,
    FrameMask,
    L2Normalise,
    LabelGraphHead,
    MaskedConvolution,
    MaxPool,
    MeanPool,
    MemoryKey,
    MixtureOfExperts,
    NeighbourVote,
    NetVLAD,
    NeXtVLAD,
    PositionEncoding,
    ScoreGating,
    SqueezeExciteGating,
    TransformerBlock,
)

BATCH, STEPS, WIDTH = 4, 5, 8
LENGTHS = np.array([5, 3, 1, 4], np.int32)
MASK = np.arange(STEPS)[None, :] < LENGTHS[:, None]
GRAPH = {
    "neighbours": np.array([[c + 1 & 7, c + 3 & 7] for c in range(WIDTH)], np.int32),
    "strength": np.linspace(0.1, 0.9, WIDTH * 2, dtype=np.float32).reshape(WIDTH, 2),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer to test: how to make it, whether it takes frames, and the shape that it gives."""

    make: Callable[..., Any]
    framed: bool
    shape: tuple[int, ...]


CASES = {
    "mean": Case(MeanPool, True, (BATCH, WIDTH)),
    "max": Case(MaxPool, True, (BATCH, WIDTH)),
    "clear": Case(ClearPadding, True, (BATCH, STEPS, WIDTH)),
    "attention": Case(lambda **k: AttentionPool(6, 3, **k), True, (BATCH, 3 * WIDTH)),
    "feature_attention": Case(FeatureAttentionPool, True, (BATCH, WIDTH)),
    "bag_of_frames": Case(lambda **k: BagOfFrames(7, **k), True, (BATCH, 7)),
    "netvlad": Case(lambda **k: NetVLAD(3, **k), True, (BATCH, 3 * WIDTH)),
    "nextvlad": Case(lambda **k: NeXtVLAD(3, 4, 2, **k), True, (BATCH, 3 * 4)),
    "convolution": Case(lambda **k: MaskedConvolution(6, 3, 2, **k), True, (BATCH, STEPS, 6)),
    "transformer": Case(lambda **k: TransformerBlock(2, 12, 0.0, **k), True, (BATCH, STEPS, WIDTH)),
    "position": Case(PositionEncoding, False, (BATCH, STEPS, WIDTH)),
    "l2": Case(L2Normalise, False, (BATCH, WIDTH)),
    "gating": Case(ContextGating, False, (BATCH, WIDTH)),
    "gating_bias": Case(lambda **k: ContextGating(batch_norm=False, **k), False, (BATCH, WIDTH)),
    "squeeze_excite": Case(lambda **k: SqueezeExciteGating(2, **k), False, (BATCH, WIDTH)),
    "score_gating": Case(ScoreGating, False, (BATCH, WIDTH)),
    "mixture": Case(lambda **k: MixtureOfExperts(5, 3, **k), False, (BATCH, 5)),
    "label_graph": Case(lambda **k: LabelGraphHead(2, 2, **GRAPH, **k), False, (BATCH, WIDTH)),
}
FRAMED = [name for name, case in CASES.items() if case.framed]
each_layer = pytest.mark.parametrize("name", CASES)


def inputs_of(name: str, seed: int = 0) -> list[np.ndarray]:
    """Random call arguments for a layer of `CASES`."""
    rng = np.random.default_rng(seed)
    framed = CASES[name].framed or name == "position"
    features = rng.normal(size=(BATCH, STEPS, WIDTH) if framed else (BATCH, WIDTH)).astype(np.float32)
    return [features, MASK] if CASES[name].framed else [features]


def made(name: str) -> Any:
    """The layer, built, with every weight (statistics of batch normalisation too) set at random."""
    layer = CASES[name].make(name=name)
    layer(*inputs_of(name))
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        if "int" not in weight.dtype:
            values = rng.normal(size=weight.shape) * 0.5
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return layer


def run(layer: Any, *arguments: Any, **options: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(*arguments, **options))


@each_layer
def test_shape_is_the_announced_one(name: str) -> None:
    layer = CASES[name].make()
    arguments = inputs_of(name)
    assert run(layer, *arguments).shape == CASES[name].shape
    symbolic = [keras.KerasTensor((None, *a.shape[1:]), dtype=str(a.dtype)) for a in arguments]
    assert layer(*symbolic).shape == (None, *CASES[name].shape[1:])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FRAMED)
def test_padding_never_changes_an_output(name: str, training: bool) -> None:
    frames, _ = inputs_of(name)
    more = 3
    garbage = np.full((BATCH, STEPS + more, WIDTH), 900.0, np.float32)
    garbage[:, :STEPS][MASK] = frames[MASK]
    wider = np.concatenate([MASK, np.zeros((BATCH, more), bool)], axis=1)
    # A layer for each, because training moves the statistics.
    expected = run(made(name), frames, MASK, training=training)
    got = run(made(name), garbage, wider, training=training)
    if expected.ndim == 3:
        expected, got = expected[MASK], got[:, :STEPS][MASK]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FRAMED)
def test_a_video_without_frames_gives_finite_values(name: str) -> None:
    frames, _ = inputs_of(name)
    assert np.isfinite(run(made(name), frames, np.zeros_like(MASK))).all()


@each_layer
def test_config_round_trip(name: str) -> None:
    layer = made(name)
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    arguments = inputs_of(name)
    twin(*arguments)
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(run(twin, *arguments), run(layer, *arguments))


def model_of(layer: Any, name: str) -> keras.Model:
    """A functional model of that layer alone."""
    symbols = [keras.Input(a.shape[1:], dtype=str(a.dtype)) for a in inputs_of(name)]
    return keras.Model(symbols, layer(*symbols))


@each_layer
def test_save_and_load(name: str, tmp_path: Path) -> None:
    layer = made(name)
    model_of(layer, name).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    arguments = inputs_of(name)
    np.testing.assert_allclose(run(loaded, arguments), run(layer, *arguments), rtol=1e-6, atol=1e-6)


@each_layer
@pytest.mark.parametrize("training", [False, True])
def test_a_gradient_reaches_every_weight(name: str, training: bool) -> None:
    layer = made(name)
    arguments = inputs_of(name)
    with tf.GradientTape() as tape:
        output = layer(*arguments, training=training) if name not in ("mixture", "label_graph") else layer(*arguments)
        direction = np.random.default_rng(3).normal(size=output.shape).astype(np.float32)
        loss = tf.reduce_sum(output * direction)
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(gradient).all(), weight.path
        # The bias of attention's keys shifts all of a query's scores alike: its gradient is 0 by the formula.
        if not weight.path.endswith("key/bias"):
            assert np.abs(gradient).max() > 1e-7, weight.path


@each_layer
def test_half_precision_stays_finite(name: str) -> None:
    layer = CASES[name].make(dtype="mixed_float16")
    assert np.isfinite(run(layer, *inputs_of(name)).astype(np.float32)).all()


# The formulas, in numpy, from the papers.


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def batch_norm(x: np.ndarray, layer: Any) -> np.ndarray:
    gamma, beta, mean, variance = layer.get_weights()
    return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    return {weight.name: keras.ops.convert_to_numpy(weight) for weight in layer._trainable_variables}


def real_frames(name: str) -> list[np.ndarray]:
    """The frames of each video without its padding."""
    frames, mask = inputs_of(name)
    return [video[real] for video, real in zip(frames, mask, strict=True)]


def test_frame_mask() -> None:
    frames = np.zeros((3, 4, 2), np.float32)
    got = run(FrameMask(), frames, np.array([0, 2, 4], np.int32))
    assert got.tolist() == [[False] * 4, [True, True, False, False], [True] * 4]


def test_mean_and_max_of_real_frames() -> None:
    np.testing.assert_allclose(run(MeanPool(), *inputs_of("mean")), [v.mean(0) for v in real_frames("mean")], rtol=1e-5)
    np.testing.assert_allclose(run(MaxPool(), *inputs_of("max")), [v.max(0) for v in real_frames("max")])


def test_clear_padding_drops_what_is_not_a_number() -> None:
    frames = np.where(MASK[:, :, None], 1.5, np.nan).astype(np.float32)
    np.testing.assert_array_equal(run(ClearPadding(), frames, MASK)[:, :, 0], MASK * 1.5)


def test_attention_pool_formula() -> None:
    layer = made("attention")
    w = weights_of(layer)
    expected = []
    for video in real_frames("attention"):
        scores = np.tanh(video @ w["kernel"] + w["bias"]) @ w["context"]  # (T, H)
        expected.append((softmax(scores.T) @ video).ravel())
    np.testing.assert_allclose(run(layer, *inputs_of("attention")), expected, rtol=1e-4, atol=1e-5)


def test_feature_attention_formula() -> None:
    layer = made("feature_attention")
    w = weights_of(layer)
    expected = []
    for video in real_frames("feature_attention"):
        q = sigmoid(video @ w["kernel"] + w["bias"])
        expected.append((q / q.sum(0) * video).sum(0))
    np.testing.assert_allclose(run(layer, *inputs_of("feature_attention")), expected, rtol=1e-4, atol=1e-5)


def test_bag_of_frames_formula() -> None:
    layer = made("bag_of_frames")
    expected = [
        np.clip(batch_norm(video @ weights_of(layer)["kernel"], layer.normalise), 0, 6).max(0)
        for video in real_frames("bag_of_frames")
    ]
    np.testing.assert_allclose(run(layer, *inputs_of("bag_of_frames")), expected, rtol=1e-4, atol=1e-5)


def test_netvlad_formula() -> None:
    layer = made("netvlad")
    w = weights_of(layer)
    expected = []
    for video in real_frames("netvlad"):
        assigned = softmax(batch_norm(video @ w["kernel"], layer.normalise))
        descriptors = []
        for k in range(3):
            total = sum(assigned[t, k] * (video[t] - w["centres"][k]) for t in range(len(video)))
            descriptors.append(total / np.linalg.norm(total))
        flat = np.concatenate(descriptors)
        expected.append(flat / np.linalg.norm(flat))
    np.testing.assert_allclose(run(layer, *inputs_of("netvlad")), expected, rtol=1e-4, atol=1e-5)


def test_nextvlad_formula() -> None:
    layer = made("nextvlad")
    w = weights_of(layer)
    groups, clusters, group_width = 4, 3, 2 * WIDTH // 4
    expected = []
    for video in real_frames("nextvlad"):
        wide = video @ w["expand_kernel"] + w["expand_bias"]
        attention = sigmoid(wide @ w["attention_kernel"] + w["attention_bias"])
        logits = batch_norm(wide @ w["assign_kernel"], layer.normalise)
        totals = np.zeros((clusters, group_width))
        for t in range(len(video)):
            for g in range(groups):
                piece = wide[t, g * group_width : (g + 1) * group_width]
                assigned = softmax(logits[t, g * clusters : (g + 1) * clusters])
                for k in range(clusters):
                    totals[k] += attention[t, g] * assigned[k] * (piece - w["centres"][k])
        expected.append((totals / np.linalg.norm(totals, axis=1, keepdims=True)).ravel())
    np.testing.assert_allclose(run(layer, *inputs_of("nextvlad")), expected, rtol=1e-4, atol=1e-5)


def test_nextvlad_needs_groups_that_divide() -> None:
    with pytest.raises(ValueError, match="groups must divide expansion x width = 16, got 5"):
        NeXtVLAD(3, 5, 2)(*inputs_of("nextvlad"))


def test_convolution_formula() -> None:
    layer = made("convolution")
    kernel = layer.convolve.get_weights()[0]  # (3, D, F)
    expected = np.zeros((BATCH, STEPS, 6))
    for b, video in enumerate(real_frames("convolution")):
        for t in range(len(video)):
            total = np.zeros(6)
            for tap, reach in enumerate((-2, 0, 2)):
                if 0 <= t + reach < len(video):
                    total += video[t + reach] @ kernel[tap]
            expected[b, t] = np.maximum(batch_norm(total, layer.normalise), 0)
    np.testing.assert_allclose(run(layer, *inputs_of("convolution")), expected, rtol=1e-4, atol=1e-5)


def test_position_encoding_formula() -> None:
    got = run(PositionEncoding(), np.zeros((1, 4, 6), np.float32))[0]
    for t in range(4):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(got[t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], atol=1e-5)
    with pytest.raises(ValueError, match="even width, got 7"):
        PositionEncoding()(np.zeros((1, 4, 7), np.float32))


def layer_norm(x: np.ndarray, layer: Any) -> np.ndarray:
    gamma, beta = layer.get_weights()
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.epsilon) * gamma + beta


def test_transformer_formula() -> None:
    layer = made("transformer")
    query, query_bias, key, key_bias, value, value_bias, out, out_bias = layer.attention.get_weights()
    inner, inner_bias = layer.inner.get_weights()
    outer, outer_bias = layer.outer.get_weights()
    got = run(layer, *inputs_of("transformer"))
    for b, video in enumerate(real_frames("transformer")):
        normed = layer_norm(video, layer.attention_norm)
        attended = np.zeros_like(video) + out_bias
        for h in range(2):
            q, k, v = (
                normed @ w[:, h] + bias[h] for w, bias in ((query, query_bias), (key, key_bias), (value, value_bias))
            )
            attended += softmax(q @ k.T / np.sqrt(WIDTH // 2)) @ v @ out[h]
        video = video + attended
        hidden = layer_norm(video, layer.dense_norm) @ inner + inner_bias
        hidden = keras.ops.convert_to_numpy(keras.ops.gelu(hidden.astype(np.float32), approximate=False))
        np.testing.assert_allclose(got[b, : len(video)], video + hidden @ outer + outer_bias, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="heads must divide the width 8, got 3"):
        TransformerBlock(3, 4)(*inputs_of("transformer"))


def test_l2_normalise_formula() -> None:
    (x,) = inputs_of("l2")
    expected = x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(WIDTH)
    np.testing.assert_allclose(run(L2Normalise(), x), expected, rtol=1e-5)
    assert not run(L2Normalise(), np.zeros((1, 3), np.float32)).any()


def test_context_gating_formula() -> None:
    (x,) = inputs_of("gating")
    layer = made("gating")
    expected = x * sigmoid(batch_norm(x @ weights_of(layer)["kernel"], layer.normalise))
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-4, atol=1e-6)
    layer = made("gating_bias")
    w = weights_of(layer)
    np.testing.assert_allclose(run(layer, x), x * sigmoid(x @ w["kernel"] + w["bias"]), rtol=1e-4, atol=1e-6)


def test_squeeze_excite_formula() -> None:
    (x,) = inputs_of("squeeze_excite")
    layer = made("squeeze_excite")
    w = weights_of(layer)
    narrow = np.maximum(batch_norm(x @ w["squeeze"], layer.normalise), 0)
    np.testing.assert_allclose(run(layer, x), x * sigmoid(narrow @ w["excite"] + w["bias"]), rtol=1e-4, atol=1e-6)


def test_score_gating_formula() -> None:
    (z,) = inputs_of("score_gating")
    layer = made("score_gating")
    p = sigmoid(z) * sigmoid(batch_norm(sigmoid(z) @ weights_of(layer)["kernel"], layer.normalise))
    np.testing.assert_allclose(run(layer, z), np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


def test_mixture_of_experts_formula() -> None:
    (x,) = inputs_of("mixture")
    layer = made("mixture")
    w = weights_of(layer)
    gates = softmax((x @ w["gate_kernel"]).reshape(BATCH, 5, 4))
    experts = sigmoid((x @ w["expert_kernel"] + w["expert_bias"]).reshape(BATCH, 5, 3))
    p = (gates[..., :3] * experts).sum(-1)
    np.testing.assert_allclose(run(layer, x), np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


def test_mixture_of_experts_keeps_its_digits_far_from_zero() -> None:
    layer = made("mixture")
    with_large = run(layer, np.full((1, WIDTH), 60.0, np.float32))
    assert np.isfinite(with_large).all() and np.abs(with_large).max() > 20


def test_label_graph_formula() -> None:
    (z,) = inputs_of("label_graph")
    layer = made("label_graph")
    strength = weights_of(layer)["strength"]
    scores = z
    for _ in range(2):
        p = sigmoid(scores)
        scores = z + np.stack(
            [sum(strength[c, k] * p[:, GRAPH["neighbours"][c, k]] for k in range(2)) for c in range(WIDTH)], axis=1
        )
    np.testing.assert_allclose(run(layer, z), scores, rtol=1e-5, atol=1e-5)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_memory_key_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    got = run(MemoryKey((0.8, 0.2)), [a, b])
    np.testing.assert_allclose(got @ got.T, 0.8 * unit(a) @ unit(a).T + 0.2 * unit(b) @ unit(b).T, atol=1e-6)
    assert not run(MemoryKey((1.0,)), [np.zeros((1, 4), np.float32)]).any()


def neighbour_case() -> tuple[NeighbourVote, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A layer that remembers 9 videos with up to 2 of 5 labels, logits and queries, and the memory."""
    rng = np.random.default_rng(4)
    memory = {
        "keys": unit(rng.normal(size=(9, 6))).astype(np.float16),
        "labels": np.array([[0, 1], [2, 5], [5, 5], [3, 4], [1, 5], [0, 2], [4, 5], [2, 3], [1, 4]], np.int32),
    }
    layer = NeighbourVote(9, 2, 3, 7.0, 0.4, **memory, name="vote")
    return layer, rng.normal(size=(4, 5)).astype(np.float32), unit(rng.normal(size=(4, 6))).astype(np.float32), memory


def test_neighbour_vote_formula() -> None:
    layer, logits, query, memory = neighbour_case()
    similarity = query @ memory["keys"].astype(np.float32).T
    expected = 0.6 * sigmoid(logits)
    for row in range(4):
        nearest = np.argsort(-similarity[row])[:3]
        shares = softmax(7.0 * similarity[row, nearest])
        for share, video in zip(shares, nearest, strict=True):
            for label in memory["labels"][video]:
                if label < 5:
                    expected[row, label] += 0.4 * share
    np.testing.assert_allclose(sigmoid(run(layer, logits, query)), expected, rtol=1e-4)
    np.testing.assert_array_equal(run(layer, logits, query, training=True), logits)


def test_neighbour_vote_is_kept_with_the_weights(tmp_path: Path) -> None:
    layer, logits, query, _ = neighbour_case()
    inputs = [keras.Input((5,)), keras.Input((6,))]
    keras.Model(inputs, layer(*inputs)).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded([logits, query]), run(layer, logits, query), rtol=1e-6)
    assert "keys" not in layer.get_config()
    with pytest.raises(ValueError, match=r"memory must have shape \(9, 6\), got \(8, 6\)"):
        NeighbourVote(9, 2, keys=np.zeros((8, 6), np.float16))(logits, query)
    with pytest.raises(ValueError, match=r"weight must lie in \[0, 1\), got 1"):
        NeighbourVote(9, 2, weight=1)


def test_label_graph_starts_at_the_counted_strength() -> None:
    layer = CASES["label_graph"].make()
    layer(*inputs_of("label_graph"))
    np.testing.assert_array_equal(layer.strength.numpy(), GRAPH["strength"])
    with pytest.raises(ValueError, match=r"must have shape \(8, 3\), got \(8, 2\)"):
        LabelGraphHead(3, **GRAPH)(*inputs_of("label_graph"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttentionPool(0),
        lambda: NetVLAD(0),
        lambda: NeXtVLAD(2, 0),
        lambda: SqueezeExciteGating(0),
        lambda: MixtureOfExperts(0),
        lambda: LabelGraphHead(0),
    ],
)
def test_sizes_must_be_positive(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        make()
