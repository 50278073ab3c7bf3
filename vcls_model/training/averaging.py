"""Means of weights: a moving average during training, and the mean of the best epochs after it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def mean_of_epochs(epochs: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The mean of each floating-point variable over several epochs; other variables as in the first.

    Args:
        epochs: for each epoch its variables, in the same order.
    """
    return [
        np.mean(values, axis=0).astype(values[0].dtype) if values[0].dtype.kind == "f" else values[0]
        for values in zip(*epochs, strict=True)
    ]


class WeightAverage:
    """Exponential moving average of variables.

    Attributes:
        decay: fraction of the old average that a step keeps, at most; see `follow`.
        averages: the averages, in the order of the variables.
    """

    def __init__(self, variables: Sequence[Any], decay: float) -> None:
        self.decay = decay
        self.variables = [variable.value for variable in variables]
        self.averages = [tf.Variable(variable, trainable=False) for variable in self.variables]
        self._exchange = tf.function(self._exchange_values)

    def follow(self, steps: tf.Tensor) -> None:
        """Moves the averages towards the variables, after `steps` steps of training; for use in a graph.

        The fraction kept is min(decay, (1 + steps) / (10 + steps)): the initial weights, which are random, fade soon.
        """
        done = tf.cast(steps, tf.float32)
        keep = tf.minimum(self.decay, (1 + done) / (10 + done))
        for average, variable in zip(self.averages, self.variables, strict=True):
            average.assign_add((1 - tf.cast(keep, average.dtype)) * (variable - average))

    def swap(self) -> None:
        """Exchanges the variables with their averages; a second call undoes it."""
        self._exchange()

    def _exchange_values(self) -> None:
        for average, variable in zip(self.averages, self.variables, strict=True):
            kept = tf.identity(variable)
            variable.assign(average)
            average.assign(kept)
