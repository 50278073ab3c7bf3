"""Layers that use the order of frames: masked convolution, position encoding, transformer block."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.masking import PACKAGE, FrameLayer


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedConvolution(FrameLayer):
    """relu(BN(convolution over time)), in which padding counts as the silence beyond the video's ends.

    Kim 2014, "Convolutional Neural Networks for Sentence Classification", with the dilations of Bai, Kolter and Koltun
    2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling". Padded
    frames are 0 before the convolution and after it, and do not enter the batch statistics.

    Args:
        filters: output width F.
        kernel_size: frames that a filter sees.
        dilation: distance between those frames.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, T, F).

    Example:
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(MaskedConvolution(filters=5, kernel_size=3)(frames, mask).shape)
        (2, 3, 5)
    """

    def __init__(self, filters: int, kernel_size: int, dilation: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.convolve = keras.layers.Conv1D(
            filters,
            kernel_size,
            dilation_rate=dilation,
            padding="same",
            use_bias=False,
            dtype=self.dtype_policy,
            name="convolve",
        )
        self.normalise = keras.layers.BatchNormalization(momentum=0.95, dtype=self.dtype_policy, name="normalise")

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        self.convolve.build(frames_shape)
        self.normalise.build((None, None, self.filters))

    def call(self, frames: Any, frame_mask: Any, training: bool | None = None) -> Any:
        mask = frame_mask[:, :, None]
        frames = self.convolve(ops.where(mask, frames, ops.zeros_like(frames)))  # (B, T, F)
        frames = ops.relu(self.normalise(frames, training=training, mask=frame_mask))
        return ops.where(mask, frames, ops.zeros_like(frames))

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (*frames_shape[:2], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class PositionEncoding(keras.layers.Layer):
    """Adds sines and cosines of the frame's number, at wavelengths from 2π to 10,000 · 2π frames.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5; the sines come first, then the cosines.

    Input shape: float (B, T, D), D even. Output shape: the same.

    Raises:
        ValueError: D is odd (when the layer is built).

    Example:
        >>> np.array(PositionEncoding()(np.zeros((1, 2, 2)))).round(2).tolist()
        [[[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]]
    """

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        if width % 2:
            raise ValueError(f"position encoding needs an even width, got {width}")
        self.frequencies = np.exp(-np.log(10_000.0) * np.arange(0, width, 2) / width).astype(np.float32)  # (D / 2,)

    def call(self, inputs: Any) -> Any:
        positions = ops.cast(ops.arange(ops.shape(inputs)[1]), "float32")[:, None]  # (T, 1)
        angles = positions * ops.convert_to_tensor(self.frequencies)[None, :]  # (T, D / 2)
        encoding = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        return inputs + ops.cast(encoding, inputs.dtype)[None]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.saving.register_keras_serializable(PACKAGE)
class TransformerBlock(FrameLayer):
    """Self-attention among the real frames, then two dense layers, each added to its input.

    Vaswani et al. 2017, "Attention Is All You Need", with the layer normalisation before each part, as Xiong et al.
    2020, "On Layer Normalization in the Transformer Architecture", advise.

    Args:
        heads: attention heads; divides the width D.
        inner_units: width of the layer between the two dense layers.
        dropout: fraction dropped after each part, in [0, 1).

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, T, D).

    Raises:
        ValueError: `heads` does not divide D (when the layer is built).

    Example:
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(TransformerBlock(heads=2, inner_units=8)(frames, mask).shape)
        (2, 3, 4)
    """

    def __init__(self, heads: int, inner_units: int, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.inner_units = inner_units
        self.dropout = dropout

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        width = frames_shape[-1]
        if width % self.heads:
            raise ValueError(f"heads must divide the width {width}, got {self.heads}")
        policy = self.dtype_policy
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="attention_norm")
        self.attention = keras.layers.MultiHeadAttention(
            self.heads, width // self.heads, dropout=self.dropout, dtype=policy, name="attention"
        )
        self.dense_norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="dense_norm")
        self.inner = keras.layers.Dense(self.inner_units, activation="gelu", dtype=policy, name="inner")
        self.outer = keras.layers.Dense(width, dtype=policy, name="outer")
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy, name="drop")
        self.attention_norm.build(frames_shape)
        self.attention.build(frames_shape, frames_shape)
        self.dense_norm.build(frames_shape)
        self.inner.build(frames_shape)
        self.outer.build((*frames_shape[:-1], self.inner_units))

    def call(self, frames: Any, frame_mask: Any, training: bool | None = None) -> Any:
        normed = self.attention_norm(frames)
        attended = self.attention(normed, normed, attention_mask=frame_mask[:, None, :], training=training)
        frames = frames + self.drop(attended, training=training)
        inner = self.drop(self.inner(self.dense_norm(frames)), training=training)
        return frames + self.drop(self.outer(inner), training=training)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return frames_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "heads": self.heads,
            "inner_units": self.inner_units,
            "dropout": self.dropout,
        }
