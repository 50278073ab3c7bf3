"""Runs networks with Keras, compiled by XLA, in batches of one size: for GPUs, where one input at a time is slow."""

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError
from vcls_model.encoders.network import GPU_BATCH, Network

if TYPE_CHECKING:
    import keras


def keras_model(network: Network) -> "keras.Model":
    """The network as a Keras model: (N, H, W, C) float32 to (N, width) float32."""
    import keras

    layers = keras.layers
    inputs = layers.Input((network.height, network.width, network.channels))
    x = layers.Rescaling(1 / network.scale, -network.mean / network.scale)(inputs)
    outputs: list[Any] = []
    for step in network.steps:
        activation = None if step.activation == "none" else step.activation
        size = step.kernel.shape[2:]
        layer: keras.Layer
        if step.groups == 1:
            layer = layers.Conv2D(len(step.bias), size, step.stride, "same", activation=activation)
            kernel = step.kernel.transpose(2, 3, 1, 0)
        else:
            layer = layers.DepthwiseConv2D(size, step.stride, "same", activation=activation)
            kernel = step.kernel.transpose(2, 3, 0, 1)
        x = layer(x)
        layer.set_weights([kernel, step.bias])
        if step.added_step is not None:
            x = layers.Add()([x, outputs[step.added_step]])
        outputs.append(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


class KerasNetwork:
    """A network compiled for batches of one size; what is short of a batch is filled up with zeros.

    Args:
        network: what to run.
        batch_size: inputs per call. The size is fixed because another size may mean another order of summing.
    """

    def __init__(self, network: Network, batch_size: int = GPU_BATCH) -> None:
        import tensorflow as tf

        model = keras_model(network)
        shape = (batch_size, network.height, network.width, network.channels)
        self._batch = np.zeros(shape, np.float32)
        self._width = len(network.steps[-1].bias)
        self._call = tf.function(
            lambda batch: model(batch, training=False),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
            jit_compile=True,
            autograph=False,
        )

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features (N, width) of inputs (N, C, H, W)."""
        features = np.empty((len(batch), self._width), np.float32)
        size = len(self._batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size].transpose(0, 2, 3, 1)
            self._batch[: len(part)] = part
            self._batch[len(part) :] = 0
            features[start : start + size] = self._call(self._batch).numpy()[: len(part)]
        return features


def require_gpu() -> None:
    """Prepares TensorFlow's GPUs for features like the CPU's (full float32, not TF32) and for several workers.

    Raises:
        JobError: TensorFlow sees no GPU.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise JobError("TensorFlow sees no GPU here: encode on the CPU, or install tensorflow[and-cuda] and its driver")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # it is in use already, with its memory as it is
            tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)
