"""Raw vectors of length 1, whatever normalisation the dataset has."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.masking import PACKAGE

_inputs_are_raw: contextvars.ContextVar[bool] = contextvars.ContextVar("inputs_are_raw", default=True)


@contextlib.contextmanager
def unit_inputs() -> Iterator[None]:
    """While the block runs, models take inputs that `UnitInput` has already been applied to.

    Mixtures of two videos (mixup) are made of unit vectors, and are shorter than these: scaled to length 1 again, they
    would no longer show that they are mixtures.
    """
    token = _inputs_are_raw.set(False)
    try:
        yield
    finally:
        _inputs_are_raw.reset(token)


@keras.saving.register_keras_serializable(PACKAGE)
class UnitInput(keras.layers.Layer):
    """Undoes the dataset's normalisation, then scales each vector to length 1: r / ‖r‖ with r = x · spread + location.

    What `pipelines.preprocess --normalise=l2` gives, from a dataset with another normalisation. Zero vectors r stay
    zero. Inside `unit_inputs()` the layer returns its input.

    Args:
        location, spread: float (D,), what preprocess subtracted and divided by; stored with the weights, not in the
            config. They are not trained.

    Input shape: float (…, D). Output shape: the same.

    Example:
        >>> layer = UnitInput(location=np.array([1.0, 0.0]), spread=np.array([2.0, 4.0]))
        >>> np.array(layer(np.array([[1.0, 1.0]]))).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, location: np.ndarray | None = None, spread: np.ndarray | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._initial = (location, spread)

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1],)
        weights = []
        for name, given in zip(("location", "spread"), self._initial, strict=True):
            if given is not None and given.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {given.shape}")
            weight = self.add_weight(
                shape=shape, dtype="float32", initializer="zeros", trainable=False, autocast=False, name=name
            )
            if given is not None:
                weight.assign(given)
            weights.append(weight)
        self.location, self.spread = weights

    def call(self, inputs: Any) -> Any:
        if not _inputs_are_raw.get():
            return inputs
        raw = ops.cast(inputs, "float32") * self.spread + self.location
        squares = ops.sum(ops.square(raw), axis=-1, keepdims=True)
        return ops.cast(raw * ops.rsqrt(ops.maximum(squares, 1e-12)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config())  # Keras refuses layers with arrays as arguments that do not say so
