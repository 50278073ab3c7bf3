"""Pools over the frames of a video: mean, maximum, attention."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import MASKED_LOGIT, PACKAGE, FrameLayer, masked_softmax


@keras.saving.register_keras_serializable(PACKAGE)
class MeanPool(FrameLayer):
    """Mean over the real frames; 0 for a video without frames.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.array([[[1.0], [3.0], [9.0]]]), np.array([[True, True, False]])
        >>> np.array(MeanPool()(frames, mask)).tolist()
        [[2.0]]
    """

    def call(self, frames: Any, frame_mask: Any) -> Any:
        kept = ops.where(frame_mask[:, :, None], ops.cast(frames, "float32"), 0.0)
        count = ops.maximum(ops.sum(ops.cast(frame_mask, "float32"), axis=1, keepdims=True), 1.0)  # (B, 1)
        return ops.cast(ops.sum(kept, axis=1) / count, self.compute_dtype)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], frames_shape[2])


@keras.saving.register_keras_serializable(PACKAGE)
class MaxPool(FrameLayer):
    """Elementwise maximum over the real frames; 0 for a video without frames.

    Call arguments:
        frames: float (B, T, D), values above -30,000.
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.array([[[1.0], [3.0], [9.0]]]), np.array([[True, True, False]])
        >>> np.array(MaxPool()(frames, mask)).tolist()
        [[3.0]]
    """

    def call(self, frames: Any, frame_mask: Any) -> Any:
        lowest = ops.cast(MASKED_LOGIT, frames.dtype)
        highest = ops.max(ops.where(frame_mask[:, :, None], frames, lowest), axis=1)  # (B, D)
        return ops.where(ops.any(frame_mask, axis=1, keepdims=True), highest, ops.zeros_like(highest))

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], frames_shape[2])


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionPool(FrameLayer):
    """Weighted means over the real frames, the weights learned from the frames themselves.

    Attention of Yang et al. 2016, "Hierarchical Attention Networks for Document Classification" (equations 5 to 7),
    with several context vectors: u = tanh(x W + b), a_h = softmax over frames of u · c_h, output_h = sum over frames
    of a_h x.

    Args:
        units: width U of the hidden projection.
        heads: number H of context vectors, each with its own weights over the frames.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, H · D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(AttentionPool(units=5, heads=2)(frames, mask).shape)
        (2, 8)
    """

    def __init__(self, units: int, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if units < 1 or heads < 1:
            raise ValueError(f"units and heads must be positive, got {units} and {heads}")
        self.units = units
        self.heads = heads

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        self.kernel = self.add_weight(shape=(frames_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.context = self.add_weight(shape=(self.units, self.heads), initializer="glorot_uniform", name="context")

    def call(self, frames: Any, frame_mask: Any) -> Any:
        hidden = ops.tanh(ops.matmul(frames, self.kernel) + self.bias)  # (B, T, U)
        weights = masked_softmax(ops.matmul(hidden, self.context), frame_mask[:, :, None], axis=1)  # (B, T, H)
        weights = ops.cast(ops.transpose(weights, (0, 2, 1)), frames.dtype)  # (B, H, T)
        pooled = ops.matmul(weights, ops.where(frame_mask[:, :, None], frames, ops.zeros_like(frames)))  # (B, H, D)
        return ops.reshape(pooled, (-1, self.heads * frames.shape[-1]))

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], self.heads * frames_shape[2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "heads": self.heads}


@keras.saving.register_keras_serializable(PACKAGE)
class FeatureAttentionPool(FrameLayer):
    """A weighted mean over the real frames in which every feature has weights of its own.

    Feature-level attention of Kong et al. 2019, "Weakly Labelled AudioSet Tagging with Attention Neural Networks"
    (section 4.3): q = sigmoid(x W + b); output_d = sum over frames of (q_d / sum over frames of q_d) · x_d.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(FeatureAttentionPool()(frames, mask).shape)
        (2, 4)
    """

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        width = frames_shape[-1]
        self.kernel = self.add_weight(shape=(width, width), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, frames: Any, frame_mask: Any) -> Any:
        mask = frame_mask[:, :, None]
        scores = ops.cast(ops.matmul(frames, self.kernel) + self.bias, "float32")  # (B, T, D)
        scores = ops.where(mask, ops.sigmoid(scores), 0.0)
        weights = scores / ops.maximum(ops.sum(scores, axis=1, keepdims=True), 1e-7)
        kept = ops.where(mask, ops.cast(frames, "float32"), 0.0)
        return ops.cast(ops.sum(weights * kept, axis=1), self.compute_dtype)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], frames_shape[2])
