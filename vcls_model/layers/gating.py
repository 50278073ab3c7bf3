"""Gates and scalings of a feature vector."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class L2Normalise(keras.layers.Layer):
    """Scales vectors to a length of sqrt(D), so that their values have a root mean square of 1; zero vectors stay zero.

    Input shape: float (…, D). Output shape: the same.

    Example:
        >>> import numpy as np
        >>> np.array(L2Normalise()(np.array([[3.0, 3.0], [0.0, 0.0]]))).tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """

    def call(self, inputs: Any) -> Any:
        values = ops.cast(inputs, "float32")
        mean_square = ops.mean(ops.square(values), axis=-1, keepdims=True)
        return ops.cast(values * ops.rsqrt(ops.maximum(mean_square, 1e-12)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.saving.register_keras_serializable(PACKAGE)
class ContextGating(keras.layers.Layer):
    """x · sigmoid(BN(x W)): lets every value be switched by all the others.

    Miech, Laptev and Sivic 2017, "Learnable pooling with Context Gating for video classification", equation 3; with
    batch normalisation before the sigmoid as in their code.

    Args:
        batch_norm: normalise before the sigmoid; otherwise a bias is added, as in the paper.

    Input shape: float (B, D). Output shape: the same.

    Example:
        >>> import numpy as np
        >>> tuple(ContextGating()(np.ones((2, 4))).shape)
        (2, 4)
    """

    def __init__(self, batch_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_norm = batch_norm
        self.normalise = None
        if batch_norm:
            self.normalise = keras.layers.BatchNormalization(momentum=0.95, dtype=self.dtype_policy, name="normalise")

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        self.kernel = self.add_weight(shape=(width, width), initializer="glorot_uniform", name="kernel")
        if self.normalise is not None:
            self.normalise.build((None, width))
            self.bias = None
        else:
            self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        gates = ops.matmul(inputs, self.kernel)  # (B, D)
        gates = gates + self.bias if self.normalise is None else self.normalise(gates, training=training)
        return inputs * ops.sigmoid(gates)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "batch_norm": self.batch_norm}


@keras.saving.register_keras_serializable(PACKAGE)
class SqueezeExciteGating(keras.layers.Layer):
    """x · sigmoid(relu(BN(x V)) W + b): context gating through a bottleneck.

    Lin, Xiao and Fan 2018, "NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
    Video Classification", section 3.3 (SE Context Gating).

    Args:
        reduction: the bottleneck is `reduction` times narrower than the input.

    Input shape: float (B, D). Output shape: the same.

    Example:
        >>> import numpy as np
        >>> tuple(SqueezeExciteGating(reduction=2)(np.ones((2, 4))).shape)
        (2, 4)
    """

    def __init__(self, reduction: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reduction < 1:
            raise ValueError(f"reduction must be positive, got {reduction}")
        self.reduction = reduction
        self.normalise = keras.layers.BatchNormalization(momentum=0.95, dtype=self.dtype_policy, name="normalise")

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        narrow = max(1, width // self.reduction)
        self.squeeze = self.add_weight(shape=(width, narrow), initializer="glorot_uniform", name="squeeze")
        self.normalise.build((None, narrow))
        self.excite = self.add_weight(shape=(narrow, width), initializer="glorot_uniform", name="excite")
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        narrow = ops.relu(self.normalise(ops.matmul(inputs, self.squeeze), training=training))
        return inputs * ops.sigmoid(ops.matmul(narrow, self.excite) + self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable(PACKAGE)
class ScoreGating(keras.layers.Layer):
    """Context gating of probabilities, taking and giving logits: p' = p · sigmoid(BN(p W)).

    Miech, Laptev and Sivic 2017, section 3.2: the gate after the classifier, which learns which labels exclude each
    other.

    Input shape: logits (B, C). Output shape: the same, float32.

    Example:
        >>> import numpy as np
        >>> bool(np.all(np.array(ScoreGating()(np.zeros((2, 4)))) < 0))  # a gate never raises a probability
        True
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalise = keras.layers.BatchNormalization(momentum=0.95, dtype=self.dtype_policy, name="normalise")

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        self.kernel = self.add_weight(shape=(width, width), initializer="glorot_uniform", name="kernel")
        self.normalise.build((None, width))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        gates = self.normalise(ops.matmul(ops.sigmoid(inputs), self.kernel), training=training)
        log_probability = ops.log_sigmoid(ops.cast(inputs, "float32")) + ops.log_sigmoid(ops.cast(gates, "float32"))
        # log(1 - p') by way of expm1 keeps its digits where p' is tiny, which is nearly everywhere.
        log_complement = ops.log(-ops.expm1(ops.minimum(log_probability, -1e-6)))
        return log_probability - log_complement

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, dtype="float32")
