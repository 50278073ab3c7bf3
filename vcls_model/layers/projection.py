"""Supervised projection of the features."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.constants import add_constants
from vcls_model.layers.masking import PACKAGE
from vcls_model.layers.presence import present_fraction, spread_presence


@keras.saving.register_keras_serializable(PACKAGE)
class LabelProjection(keras.layers.Layer):
    """h = ((x - mean) directions) · strengths^power, scaled to a root mean square of mean(x²).

    Directions that discriminate between labels become large and the others small, as in a linear discriminant analysis
    for many labels at once. Video vectors of root mean square 1 keep it; a mixture of two (mixup) is shorter in x and,
    as the square of the length decides, about as much shorter in h as a mixture of their h would be. A zero vector
    stays zero.

    Args:
        power: how far strong directions stand out; 0 only rotates the features.
        unit: scale to a length of 1 instead.
        mean, directions, strengths: float (D,), (D, K) and (K,), see `LabelDirections`; stored with the weights, not in
            the config. They are not trained.
        width: K, where they are not given.

    Input shape: float (…, D). Output shape: (…, K).

    Example:
        >>> mean, directions = np.zeros(2, "float32"), np.eye(2, dtype="float32")
        >>> strengths = np.array([1.0, 0.25], "float32")
        >>> layer = LabelProjection(power=1.0, unit=True, mean=mean, directions=directions, strengths=strengths)
        >>> np.array(layer(np.array([[3.0, 16.0]]))).round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(
        self,
        power: float = 0.75,
        unit: bool = False,
        width: int | None = None,
        mean: np.ndarray | None = None,
        directions: np.ndarray | None = None,
        strengths: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (width is None) == (directions is None):
            raise ValueError("give either the directions or their number, width")
        self.power = power
        self.unit = unit
        self.width = int(directions.shape[1]) if directions is not None else width
        self._initial = (mean, directions, strengths)

    def build(self, input_shape: Any) -> None:
        size = input_shape[-1]
        shapes = {"mean": (size,), "directions": (size, self.width), "strengths": (self.width,)}
        self.mean, self.directions, self.strengths = add_constants(self, shapes, self._initial)

    def call(self, inputs: Any) -> Any:
        values = ops.cast(inputs, "float32")
        return self._scaled(values, values - self.mean)

    def _scaled(self, values: Any, centred: Any, fraction: Any = None) -> Any:
        """h of centred values; `fraction` (B, …, 1) is the part of the values that is present, None: all."""
        turned = ops.matmul(centred, self.directions) * self.strengths**self.power
        mean_square = ops.mean(ops.square(turned), axis=-1, keepdims=True)
        if self.unit:
            scale = ops.rsqrt(ops.maximum(mean_square * self.width, 1e-24))
        else:
            length = ops.mean(ops.square(values), axis=-1, keepdims=True)
            length = length if fraction is None else length / fraction
            scale = length * ops.rsqrt(ops.maximum(mean_square, 1e-24))
        return ops.cast(turned * scale, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power": self.power, "unit": self.unit, "width": self.width}


@keras.saving.register_keras_serializable(PACKAGE)
class PresentProjection(LabelProjection):
    """`LabelProjection` of joined modalities of which a video may lack some: these have no part in h, which is as long
    as if they were there.

    Args:
        sizes: width of each modality in x.
        **kwargs: of `LabelProjection`.

    Call arguments:
        inputs: float (B, …, D), 0 where a modality is missing.
        presence: float (B, M), 1 where a video has a modality.

    Output shape: (B, …, K).

    Example:
        >>> mean, directions, strengths = np.ones(2, "float32"), np.eye(2, dtype="float32"), np.ones(2, "float32")
        >>> layer = PresentProjection([1, 1], power=1.0, mean=mean, directions=directions, strengths=strengths)
        >>> np.array(layer(np.array([[3.0, 0.0]]), np.array([[1.0, 0.0]]))).round(2).tolist()  # of length 9 · √2
        [[12.729999542236328, 0.0]]
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = tuple(sizes)

    def build(self, inputs_shape: Any, presence_shape: Any = None) -> None:
        super().build(inputs_shape)

    def call(self, inputs: Any, presence: Any) -> Any:  # type: ignore[override]
        values = ops.cast(inputs, "float32")
        between = (1,) * (len(values.shape) - 2)
        mask = ops.reshape(spread_presence(presence, self.sizes), (-1, *between, values.shape[-1]))
        fraction = ops.reshape(present_fraction(presence, self.sizes), (-1, *between, 1))
        return self._scaled(values, (values - self.mean) * mask, fraction)

    def compute_output_shape(self, inputs_shape: Any, presence_shape: Any = None) -> Any:
        return (*inputs_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes}
