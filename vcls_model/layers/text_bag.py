"""Bags of weighted buckets, which is what texts become, as vectors."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE

# The table begins small and its output is scaled up, so that Adam's steps, which are as long as the learning rate says,
# move the vector of a rare word far enough in its few occurrences.
_TABLE_SPREAD = 0.1


@keras.saving.register_keras_serializable(PACKAGE)
class TextBag(keras.layers.Layer):
    """The weighted sum of the vectors of a bag's buckets, each with a weight of its own that is learned.

    Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", with weights. Bags of length 1 give vectors
    of a variance of 1 at first; a bag without anything in it gives zeros.

    Args:
        buckets: number of buckets.
        width: values of the vector.
        dropout: fraction of a bag's buckets that training leaves out, so that a video is not known by one rare word.

    Input shape: float (B, L, 2): bucket and weight, filled with weights of 0. Output shape: (B, `width`).

    Example:
        >>> import numpy as np
        >>> TextBag(16, 4)(np.zeros((1, 3, 2))).shape
        TensorShape([1, 4])
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        buckets = ops.cast(inputs[..., 0], "int32")
        weights = self.words(inputs[..., 1], training=training)  # (B, L)
        weights = weights * ops.take(self.importance, buckets, axis=0)
        vectors = ops.take(self.table, buckets, axis=0)  # (B, L, W)
        return ops.einsum("bl,blw->bw", weights, vectors) / _TABLE_SPREAD

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "buckets": self.buckets, "width": self.width, "dropout": self.dropout}
