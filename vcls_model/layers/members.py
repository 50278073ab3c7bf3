"""Joins the scores of independent members of one model."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MeanOfMembers(keras.layers.Layer):
    """The logit of the members' mean probability; in training, all members' logits one below the other.

    Members that are trained as one (by a loss of their mean) come to rely on each other and end up as one large model.
    Each by a loss of its own stays a model of its own, whose errors differ from the others'
    (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles").

    Call arguments:
        logits: list of M arrays (B, C).

    Output shape: logits float32 (B, C); in training (M · B, C), the first member's videos first.

    Example:
        >>> import numpy as np
        >>> mean = MeanOfMembers()([np.log([[0.2 / 0.8]]), np.log([[0.6 / 0.4]])])
        >>> round(1 / (1 + float(np.exp(-np.array(mean)[0, 0]))), 3)
        0.4
        >>> tuple(MeanOfMembers()([np.zeros((2, 3)), np.zeros((2, 3))], training=True).shape)
        (4, 3)
    """

    def call(self, logits: Any, training: bool | None = None) -> Any:
        members = [ops.cast(each, "float32") for each in logits]
        if training:
            return ops.concatenate(members, axis=0)
        stacked = ops.stack(members)  # (M, B, C)
        # Sums of p and of 1 - p by their logarithms: no digits are lost where p is near 0 or 1.
        return ops.logsumexp(ops.log_sigmoid(stacked), axis=0) - ops.logsumexp(ops.log_sigmoid(-stacked), axis=0)

    def compute_output_spec(self, logits: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(logits[0].shape, dtype="float32")
