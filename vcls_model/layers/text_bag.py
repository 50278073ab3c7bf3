"""Bags of weighted buckets, which is what texts become, as vectors: one per video, or one per frame."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE, FrameLayer

# The table begins small and its output is scaled up, so that Adam's steps, which are as long as the learning rate says,
# move the vector of a rare word far enough in its few occurrences.
_TABLE_SPREAD = 0.1


class _Buckets(keras.layers.Layer):
    """What layers on bags share: a vector and a weight for each bucket, which are learned.

    Args:
        buckets: number of buckets.
        width: values of the vector.
        dropout: fraction of a bag's buckets that training leaves out, so that a video is not known by one rare word.
    """

    def __init__(self, buckets: int, width: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.buckets = buckets
        self.width = width
        self.dropout = dropout
        self.words = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        spread = keras.initializers.RandomNormal(stddev=_TABLE_SPREAD)
        self.table = self.add_weight(shape=(self.buckets, self.width), initializer=spread, name="table")
        self.importance = self.add_weight(shape=(self.buckets,), initializer="ones", name="importance")

    def _weighted(self, inputs: Any, training: bool | None) -> tuple[Any, Any]:
        """Weights (B, L) and vectors (B, L, W) of the buckets."""
        buckets = ops.cast(inputs[..., 0], "int32")
        weights = self.words(inputs[..., 1], training=training)  # (B, L)
        weights = weights * ops.take(self.importance, buckets, axis=0)
        return weights, ops.take(self.table, buckets, axis=0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "buckets": self.buckets, "width": self.width, "dropout": self.dropout}


@keras.saving.register_keras_serializable(PACKAGE)
class TextBag(_Buckets):
    """The weighted sum of the vectors of a bag's buckets, each with a weight of its own that is learned.

    Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", with weights. Bags of length 1 give vectors
    of a variance of 1 at first; a bag without anything in it gives zeros.

    Args:
        buckets: number of buckets.
        width: values of the vector.
        dropout: fraction of a bag's buckets that training leaves out, so that a video is not known by one rare word.

    Input shape: float (B, L, 2): bucket and weight, filled with weights of 0; of lines (B, L, 3) as for `LineBags`,
    whose frames say nothing here. Output shape: (B, `width`).

    Example:
        >>> import numpy as np
        >>> TextBag(16, 4)(np.zeros((1, 3, 2))).shape
        TensorShape([1, 4])
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        weights, vectors = self._weighted(inputs, training)
        return ops.einsum("bl,blw->bw", weights, vectors) / _TABLE_SPREAD

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.width)


@keras.saving.register_keras_serializable(PACKAGE)
class LineBags(_Buckets, FrameLayer):
    """A `TextBag` for each frame, of buckets that say which frame is theirs.

    Args:
        buckets, width, dropout: see `TextBag`.

    Call arguments:
        bags: float (B, L, 3): bucket, weight and frame, filled with weights of 0.
        frame_mask: bool (B, T), true for real frames; what belongs to others is left out.

    Output shape: (B, T, `width`); a frame without a text has zeros.

    Example:
        >>> import numpy as np
        >>> LineBags(16, 4)(np.zeros((1, 3, 3)), np.ones((1, 5), bool)).shape
        TensorShape([1, 5, 4])
    """

    def build(self, bags_shape: Any, frame_mask_shape: Any = None) -> None:
        super().build(bags_shape)

    def call(self, bags: Any, frame_mask: Any, training: bool | None = None) -> Any:
        weights, vectors = self._weighted(bags, training)
        steps = ops.shape(frame_mask)[1]
        videos = ops.shape(frame_mask)[0]
        frames = ops.cast(bags[..., 2], "int32")  # (B, L)
        weights = ops.where(frames < steps, weights, ops.zeros_like(weights))
        places = ops.arange(videos, dtype="int32")[:, None] * steps + ops.minimum(frames, steps - 1)
        values = ops.reshape(weights[..., None] * vectors, (-1, self.width))
        summed = ops.segment_sum(values, ops.reshape(places, (-1,)), num_segments=videos * steps)
        rows = ops.reshape(summed, (videos, steps, self.width)) / _TABLE_SPREAD
        return ops.where(frame_mask[..., None], rows, ops.zeros_like(rows))

    def compute_output_spec(self, bags: Any, frame_mask: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor((*frame_mask.shape, self.width), dtype=self.compute_dtype)
