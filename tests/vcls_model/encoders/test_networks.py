"""The two executors agree, on a small network with every kind of step."""

import numpy as np
import pytest

from vcls_model.commands import JobError
from vcls_model.encoders import load_encoder
from vcls_model.encoders.keras_network import KerasNetwork, keras_model
from vcls_model.encoders.network import Convolution, Network, fold, same_padding
from vcls_model.encoders.onnx_network import OnnxNetwork, onnx_model

GENERATOR = np.random.default_rng(7)


def convolution(outputs: int, inputs: int, size: int, **options: object) -> Convolution:
    def draw(*shape: int) -> np.ndarray:
        return GENERATOR.standard_normal(shape).astype(np.float32)

    return Convolution(draw(outputs, inputs, size, size), draw(outputs), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> Network:
    """Odd and even sizes, both strides, three activations, a depthwise step and a sum."""
    steps = (
        convolution(6, 3, 3, stride=2, activation="relu6"),
        convolution(6, 1, 5, stride=2, groups=6, activation="relu"),
        convolution(4, 6, 1),
        convolution(4, 4, 3, activation="relu", added_step=2),
        convolution(5, 4, 2, stride=2),
    )
    return Network(channels=3, height=22, width=17, steps=steps, mean=127.0, scale=128.0)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return GENERATOR.integers(0, 256, (7, 3, 22, 17)).astype(np.float32)


def test_the_model_is_what_onnx_calls_one(network: Network) -> None:
    import onnx

    model = onnx.load_from_string(onnx_model(network, batch=3))
    onnx.checker.check_model(model, full_check=True)
    assert [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim] == [3, 5]
    kernel = onnx.numpy_helper.to_array(model.graph.initializer[2])
    np.testing.assert_array_equal(kernel, network.steps[0].kernel)


def test_both_executors_give_the_same_features(network: Network, pictures: np.ndarray) -> None:
    by_onnx = OnnxNetwork(onnx_model(network)).run(pictures)
    assert by_onnx.shape == (7, 5)
    np.testing.assert_allclose(KerasNetwork(network, 4).run(pictures), by_onnx, atol=1e-4)
    np.testing.assert_allclose(keras_model(network)(pictures.transpose(0, 2, 3, 1)), by_onnx, atol=1e-4)


def test_batches_of_one_size_give_the_same_bits_in_any_order(network: Network, pictures: np.ndarray) -> None:
    compiled = KerasNetwork(network, 4)
    whole = compiled.run(pictures)
    np.testing.assert_array_equal(compiled.run(pictures[::-1])[::-1], whole)
    np.testing.assert_array_equal(np.concatenate([compiled.run(pictures[:1]), compiled.run(pictures[1:])]), whole)
    assert compiled.run(pictures[:0]).shape == (0, 5)


def test_a_machine_without_a_gpu_says_so() -> None:
    with pytest.raises(JobError, match="TensorFlow sees no GPU here"):
        load_encoder("efficientnet-lite0", "picture", device="gpu")


def test_folding_is_the_normalisation_of_the_convolution() -> None:
    kernel = GENERATOR.standard_normal((4, 3, 1, 1)).astype(np.float32)
    gamma, beta, mean = GENERATOR.standard_normal((3, 4)).astype(np.float32)
    variance = GENERATOR.random(4).astype(np.float32)
    folded, bias = fold(kernel, gamma, beta, mean, variance, 1e-3)
    x = GENERATOR.standard_normal(3).astype(np.float32)
    expected = gamma * (kernel[:, :, 0, 0] @ x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(folded[:, :, 0, 0] @ x + bias, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (224, 3, 2, (0, 1, 112)),
        (65, 3, 2, (1, 1, 33)),
        (14, 5, 2, (1, 2, 7)),
        (7, 3, 1, (1, 1, 7)),
        (4, 1, 2, (0, 0, 2)),
    ],
)
def test_same_padding_puts_the_odd_zero_after(
    size: int, window: int, stride: int, expected: tuple[int, int, int]
) -> None:
    assert same_padding(size, window, stride) == expected
