"""Mixture of experts: several linear classifiers per class, and a gate that weighs them."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MixtureOfExperts(keras.layers.Layer):
    """p_c = sum over m of softmax(x G_c)_m · sigmoid(x E_cm + e_cm), given as logits.

    Jordan and Jacobs 1994, "Hierarchical mixtures of experts and the EM algorithm", as Abu-El-Haija et al. 2016,
    "YouTube-8M: A Large-Scale Video Classification Benchmark" (section 4.2.2) use it: the gate also has an expert that
    always says no.

    Args:
        classes: number of classes C.
        mixtures: experts per class, M, without the one that says no.

    Input shape: float (B, D). Output shape: logits float32 (B, C).

    Example:
        >>> import numpy as np
        >>> tuple(MixtureOfExperts(classes=5, mixtures=2)(np.ones((2, 4))).shape)
        (2, 5)
    """

    def __init__(self, classes: int, mixtures: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes < 1 or mixtures < 1:
            raise ValueError(f"classes and mixtures must be positive, got {classes} and {mixtures}")
        self.classes = classes
        self.mixtures = mixtures

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        gates, experts = self.classes * (self.mixtures + 1), self.classes * self.mixtures
        self.gate_kernel = self.add_weight(shape=(width, gates), initializer="glorot_uniform", name="gate_kernel")
        self.expert_kernel = self.add_weight(shape=(width, experts), initializer="glorot_uniform", name="expert_kernel")
        self.expert_bias = self.add_weight(shape=(experts,), initializer="zeros", name="expert_bias")

    def call(self, inputs: Any) -> Any:
        gates = ops.cast(ops.matmul(inputs, self.gate_kernel), "float32")
        gates = ops.log_softmax(ops.reshape(gates, (-1, self.classes, self.mixtures + 1)), axis=-1)  # (B, C, M + 1)
        experts = ops.cast(ops.matmul(inputs, self.expert_kernel) + self.expert_bias, "float32")
        experts = ops.reshape(experts, (-1, self.classes, self.mixtures))  # (B, C, M)
        # Logs of p and of 1 - p, both as sums of positive terms: no digits are lost where p is near 0 or 1.
        yes = ops.logsumexp(gates[..., :-1] + ops.log_sigmoid(experts), axis=-1)  # (B, C)
        no = ops.logsumexp(
            ops.concatenate([gates[..., :-1] + ops.log_sigmoid(-experts), gates[..., -1:]], axis=-1), axis=-1
        )
        return yes - no

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], self.classes), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes, "mixtures": self.mixtures}
