"""Weights that are numbers from the data: kept with the model, not trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np


def add_constants(
    layer: keras.layers.Layer, shapes: Mapping[str, tuple[int, ...]], given: Sequence[np.ndarray | None]
) -> list[Any]:
    """Adds untrained float32 weights to a layer that is being built; returns them.

    Args:
        layer: the layer.
        shapes: of the weights, by name.
        given: their values; None leaves zeros, which loading a model overwrites.

    Raises:
        ValueError: a value has another shape.
    """
    weights = []
    for (name, shape), value in zip(shapes.items(), given, strict=True):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
        weight = layer.add_weight(
            shape=shape, dtype="float32", initializer="zeros", trainable=False, autocast=False, name=name
        )
        if value is not None:
            weight.assign(value)
        weights.append(weight)
    return weights
