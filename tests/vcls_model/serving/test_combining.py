"""The mean of models over arrays and the mean in an exported graph: one rule."""

import numpy as np
import pytest

from vcls_model.metrics.binning import sigmoid
from vcls_model.serving.combining import combined_in_graph, mean_of_models


def in_graph(logits: list[np.ndarray], weights: list[float], combine: str = "probability") -> np.ndarray:
    import tensorflow as tf

    return combined_in_graph([tf.constant(each) for each in logits], weights, combine).numpy()


def test_mean_of_models_in_probabilities() -> None:
    rng = np.random.default_rng(3)
    logits = [rng.normal(-3, 4, (50, 7)).astype(np.float32) for _ in range(3)]
    expected = np.mean([1 / (1 + np.exp(-each.astype(np.float64))) for each in logits], axis=0)
    np.testing.assert_allclose(sigmoid(mean_of_models(logits)), expected, rtol=1e-5)
    np.testing.assert_array_equal(mean_of_models(logits[:1]), logits[0])
    far = [np.array([[-70.0, 70.0, np.inf, np.nan]], np.float32)] * 2
    np.testing.assert_allclose(mean_of_models(far), [[-70, 70, 80, np.nan]], rtol=1e-5)


def test_arrays_and_graph_give_the_same_mean() -> None:
    rng = np.random.default_rng(5)
    logits = [rng.normal(-3, 6, (40, 9)).astype(np.float32) for _ in range(3)]
    ends = np.array([-np.inf, -200, -80, -79, 0, 79, 80, 200, np.inf], np.float32)
    for each, row in zip(logits, (ends, ends[::-1], ends), strict=True):
        each[0] = row
    logits[1][1, 4] = np.nan
    expected = mean_of_models(logits)
    np.testing.assert_allclose(in_graph(logits, [1 / 3] * 3), expected, rtol=1e-5, atol=1e-5)
    assert np.isnan(expected[1, 4]) and np.isfinite(np.delete(expected.reshape(-1), 13)).all()


def test_the_graph_weights_its_members() -> None:
    logits = [np.array([[-1.0, 2.0, -90.0]], np.float32), np.array([[3.0, -4.0, -60.0]], np.float32)]
    mean = 0.8 * sigmoid(logits[0]) + 0.2 * sigmoid(logits[1])
    np.testing.assert_allclose(sigmoid(in_graph(logits, [0.8, 0.2])), mean, rtol=1e-5)
    np.testing.assert_allclose(in_graph(logits, [0.8, 0.2], "logit"), [[-0.2, 0.8, -76.0]], rtol=1e-5)


def test_probabilities_keep_both_tails() -> None:
    logits = [np.array([[-78.0, 78.0, 0.0]], np.float32), np.array([[-80.0, 80.0, 2.0]], np.float32)]
    joined = in_graph(logits, [0.5, 0.5])[0]
    assert joined[0] == pytest.approx(np.log(0.5 * (1 + np.exp(-2))) - 78, abs=1e-3)
    assert joined[1] == pytest.approx(-joined[0], abs=1e-3)
