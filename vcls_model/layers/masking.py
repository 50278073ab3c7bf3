"""Frames beyond a video's last one are padding: these layers mark them and keep them out of every pool."""

from typing import Any

import keras
from keras import ops

PACKAGE = "vcls_model"

# Stands for minus infinity in a softmax; finite in float16, and exp of it is 0 in every precision.
MASKED_LOGIT = -3e4


def masked_softmax(logits: Any, mask: Any, axis: int) -> Any:
    """Softmax over `axis` of the entries where `mask` is true, in float32; the others get weight 0.

    Where no entry is valid every weight is 0.
    """
    logits = ops.where(mask, ops.cast(logits, "float32"), MASKED_LOGIT)
    return ops.softmax(logits, axis=axis) * ops.cast(mask, "float32")


class FrameLayer(keras.layers.Layer):
    """A layer on frames that gets their mask as an argument; a mask that Keras attached to its input ends here."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None


@keras.saving.register_keras_serializable(PACKAGE)
class FrameMask(FrameLayer):
    """Which frames of a padded batch are real.

    Call arguments:
        frames: float (B, T, D).
        num_frames: int (B,), in [0, T].

    Output shape: bool (B, T), true for a video's first `num_frames` frames.

    Example:
        >>> import numpy as np
        >>> np.array(FrameMask()(np.zeros((2, 3, 4)), np.array([3, 1]))).tolist()
        [[True, True, True], [True, False, False]]
    """

    def call(self, frames: Any, num_frames: Any) -> Any:
        return ops.arange(ops.shape(frames)[1])[None, :] < ops.cast(num_frames, "int32")[:, None]  # (B, T)

    def compute_output_spec(self, frames: Any, num_frames: Any) -> Any:
        return keras.KerasTensor(tuple(frames.shape[:2]), dtype="bool")


@keras.saving.register_keras_serializable(PACKAGE)
class ClearPadding(FrameLayer):
    """Sets padded frames to 0, whatever they held.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, T, D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((1, 3, 2)), np.array([[True, True, False]])
        >>> np.array(ClearPadding()(frames, mask)).tolist()
        [[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]]
    """

    def call(self, frames: Any, frame_mask: Any) -> Any:
        return ops.where(frame_mask[:, :, None], frames, ops.zeros_like(frames))

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return frames_shape


@keras.saving.register_keras_serializable(PACKAGE)
class RepeatOverFrames(FrameLayer):
    """A video's vector at each of its frames, so that it can be joined with them.

    Call arguments:
        vector: float (B, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, T, D), 0 where the mask is false.

    Example:
        >>> import numpy as np
        >>> np.array(RepeatOverFrames()(np.array([[5.0]]), np.array([[True, True, False]]))).tolist()
        [[[5.0], [5.0], [0.0]]]
    """

    def call(self, vector: Any, frame_mask: Any) -> Any:
        return vector[:, None, :] * ops.cast(frame_mask, vector.dtype)[:, :, None]

    def compute_output_spec(self, vector: Any, frame_mask: Any) -> Any:
        return keras.KerasTensor((*frame_mask.shape, vector.shape[-1]), dtype=self.compute_dtype)
