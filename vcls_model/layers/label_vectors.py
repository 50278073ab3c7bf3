"""A classifier whose weights come from vectors of the classes, such as those of their names."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.constants import add_constants
from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class LabelVectorScores(keras.layers.Layer):
    """z = strength · (x K) Vᵀ: the classifier of a class is a linear function of the class's vector.

    Akata et al. 2013, "Label-Embedding for Attribute-Based Classification", equation 2. What the frequent classes teach
    K holds for rare classes with similar vectors, too, and for those without any example. K starts at zero.

    Args:
        strength: factor on the scores, which by Adam's equal steps for every weight decides how fast they grow.
        vectors: float (C, E), one row per class; stored with the weights, not in the config. They are not trained.
        shape: (C, E), where the vectors are not given.

    Input shape: float (B, D). Output shape: logits float32 (B, C).

    Example:
        >>> layer = LabelVectorScores(vectors=np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], "float32"))
        >>> layer.build((None, 1))
        >>> _ = layer.kernel.assign([[2.0, 0.0]])  # learned from the first class: x means it
        >>> np.array(layer(np.array([[1.0]]))).round(1).tolist()
        [[2.0, 1.2000000476837158, 0.0]]
    """

    def __init__(
        self,
        strength: float = 1.0,
        vectors: np.ndarray | None = None,
        shape: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (shape is None) == (vectors is None):
            raise ValueError("give either the vectors or their shape")
        self.strength = strength
        self.table_shape: tuple[int, ...] = tuple(vectors.shape if vectors is not None else shape or ())
        self._initial = vectors

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.table_shape[1]), initializer="zeros", name="kernel")
        (self.vectors,) = add_constants(self, {"vectors": self.table_shape}, (self._initial,))

    def call(self, inputs: Any) -> Any:
        meant = ops.matmul(ops.cast(inputs, self.compute_dtype), self.kernel)  # (B, E)
        return self.strength * ops.matmul(ops.cast(meant, "float32"), ops.transpose(self.vectors))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], self.table_shape[0]), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength, "shape": self.table_shape}
