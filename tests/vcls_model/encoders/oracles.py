"""The networks once more, from their papers and in TensorFlow's own operations, batch normalisation not folded."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Arrays = dict[str, npt.NDArray[Any]]

# EfficientNet-B0's stages: kernel, stride, expansion, output channels, repeats (Tan and Le 2019, table 1).
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
           (3, 1, 6, 320, 1))  # fmt: skip


def efficientnet_lite(state: Arrays, pictures: npt.NDArray[np.uint8], width: float, depth: float) -> tuple[Any, Any]:
    """Features and logits of pictures (N, S, S, 3)."""

    def norm(x: Any, name: str) -> Any:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "bias", "weight")]
        return tf.nn.batch_normalization(x, *parts, variance_epsilon=1e-3)

    def convolve(x: Any, name: str, stride: int = 1) -> Any:
        return tf.nn.conv2d(x, state[name + ".weight"].transpose(2, 3, 1, 0), stride, "SAME")

    def depthwise(x: Any, name: str, kernel: int, stride: int) -> Any:
        weights = state[name + ".weight"].transpose(2, 3, 0, 1)
        assert weights.shape[0] == kernel
        return tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "SAME")

    x = (tf.cast(pictures, tf.float32) - 127) / 128
    x = tf.nn.relu6(norm(convolve(x, "_conv_stem", 2), "_bn0"))
    block = 0
    for stage, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
        fixed = stage in (0, len(_STAGES) - 1)
        for repeat in range(repeats if fixed else math.ceil(repeats * depth)):
            name, entered = f"_blocks.{block}.", x
            if expansion != 1:
                x = tf.nn.relu6(norm(convolve(x, name + "_expand_conv"), name + "_bn0"))
            x = depthwise(x, name + "_depthwise_conv", kernel, 1 if repeat else stride)
            x = norm(convolve(tf.nn.relu6(norm(x, name + "_bn1")), name + "_project_conv"), name + "_bn2")
            assert x.shape[-1] == round(channels * width / 8) * 8
            if repeat:
                x += entered
            block += 1
    features = tf.reduce_mean(tf.nn.relu6(norm(convolve(x, "_conv_head"), "_bn1")), (1, 2))
    return features, features @ state["_fc.weight"].T + state["_fc.bias"]


def log_mel(patch: npt.NDArray[np.float32], offset: float) -> Any:
    """(96, 64) by tf.signal, as YAMNet's authors compute it."""
    spectrogram = tf.abs(tf.signal.stft(patch, frame_length=400, frame_step=160, fft_length=512))
    weights = tf.signal.linear_to_mel_weight_matrix(64, 257, 16_000, 125.0, 7_500.0)
    return tf.math.log(spectrogram @ weights + offset)


def yamnet(variables: Arrays, log_mels: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Features and logits of log-mel patches (N, 96, 64) by Keras layers that take the variables as such."""
    import keras

    layer = keras.layers
    x = inputs = layer.Input((96, 64, 1))

    def block(x: Any, convolution: Callable[[Any], Any]) -> Any:
        norm = layer.BatchNormalization(center=True, scale=False, epsilon=1e-4)
        return layer.ReLU()(norm(convolution(x)))

    x = block(x, layer.Conv2D(32, 3, 2, "same", use_bias=False))
    for filters, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        x = block(x, layer.DepthwiseConv2D(3, stride, "same", use_bias=False))
        x = block(x, layer.Conv2D(filters, 1, use_bias=False))
    features = layer.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, [features, layer.Dense(521)(features)])
    assert model.count_params() == 3_751_369
    with_weights = [one for one in model.layers if one.weights]
    for number, one in enumerate(with_weights):
        names = [weight.path.split("/")[-1].replace("depthwise_kernel", "kernel") for weight in one.weights]
        stored = {key.split("/")[1].replace("depthwise_kernel", "kernel"): key for key in variables
                  if key.split("/")[0] == str(number)}  # fmt: skip
        one.set_weights([variables[stored[name]] for name in names])
    return model(log_mels[..., None])
