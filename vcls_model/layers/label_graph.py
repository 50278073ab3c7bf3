"""A head that lets the classes' scores inform each other."""

from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class LabelGraphHead(keras.layers.Layer):
    """Passes scores along the edges of the graph of label co-occurrence.

    A step is z_c ← z₀_c + sum over k of w_ck · sigmoid(z_n(c, k)), where n(c, k) is the class's k-th neighbour. The
    graph is that of Chen et al. 2019, "Multi-Label Image Recognition with Graph Convolutional Networks" (section 3.3:
    edges are conditional probabilities counted on the training labels); here scores travel on it rather than
    classifiers, and the strength of every edge is learned from there.

    Args:
        degree: incoming edges per class, K.
        steps: number of times that scores are passed.
        neighbours: int (C, K), the classes that each class receives scores from; stored with the weights, not in the
            config.
        strength: float (C, K), initial weights of those edges; stored with the weights, not in the config.

    Input shape: logits (B, C). Output shape: the same, float32.

    Raises:
        ValueError: the graph's shape is not (C, K) (when the layer is built).

    Example:
        >>> import numpy as np
        >>> graph = {"neighbours": np.array([[1], [0]], "int32"), "strength": np.array([[2.0], [0.0]], "float32")}
        >>> np.array(LabelGraphHead(degree=1, steps=1, **graph)(np.zeros((1, 2)))).tolist()  # 0 + 2 · sigmoid(0)
        [[1.0, 0.0]]
    """

    def __init__(
        self,
        degree: int,
        steps: int = 2,
        neighbours: np.ndarray | None = None,
        strength: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if degree < 1 or steps < 1:
            raise ValueError(f"degree and steps must be positive, got {degree} and {steps}")
        self.degree = degree
        self.steps = steps
        self._initial = (neighbours, strength)

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1], self.degree)
        for given in self._initial:
            if given is not None and given.shape != shape:
                raise ValueError(f"the label graph must have shape {shape}, got {given.shape}")
        self.neighbours = self.add_weight(
            shape=shape, dtype="int32", initializer="zeros", trainable=False, name="neighbours"
        )
        self.strength = self.add_weight(shape=shape, initializer="zeros", name="strength")
        for weight, given in zip((self.neighbours, self.strength), self._initial, strict=True):
            if given is not None:
                weight.assign(given)

    def call(self, inputs: Any) -> Any:
        base = ops.transpose(ops.cast(inputs, "float32"))  # (C, B): a class's scores lie side by side
        strength = ops.cast(self.strength, "float32")  # (C, K)
        scores = base
        for _ in range(self.steps):
            probabilities = ops.sigmoid(scores)
            scores = base
            for edge in range(self.degree):
                received = ops.take(probabilities, self.neighbours[:, edge], axis=0)  # (C, B)
                scores = scores + strength[:, edge : edge + 1] * received
        return ops.transpose(scores)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "degree": self.degree, "steps": self.steps}
