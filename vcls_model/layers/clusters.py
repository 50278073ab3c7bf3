"""Pools that assign frames to learned clusters: bag of frames, NetVLAD, NeXtVLAD."""

from typing import Any

import keras
from keras import ops

from vcls_model.layers.masking import PACKAGE, FrameLayer


def _unit_length(values: Any, axis: int) -> Any:
    """`values` divided by their Euclidean length along `axis`; zero vectors stay zero."""
    return values * ops.rsqrt(ops.maximum(ops.sum(ops.square(values), axis=axis, keepdims=True), 1e-12))


class _ClusterPool(FrameLayer):
    """What the pools share: the number of clusters and the normalisation of the assignments over real frames."""

    def __init__(self, clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if clusters < 1:
            raise ValueError(f"clusters must be positive, got {clusters}")
        self.clusters = clusters
        self.normalise = keras.layers.BatchNormalization(momentum=0.95, dtype=self.dtype_policy, name="normalise")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clusters": self.clusters}


@keras.saving.register_keras_serializable(PACKAGE)
class BagOfFrames(_ClusterPool):
    """Deep bag of frames: max over frames of relu6(BN(x W)).

    Abu-El-Haija et al. 2016, "YouTube-8M: A Large-Scale Video Classification Benchmark", section 4.1.2; clipped at 6
    as in the authors' code.

    Args:
        clusters: width K of the projection.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, K).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(BagOfFrames(clusters=16)(frames, mask).shape)
        (2, 16)
    """

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        self.kernel = self.add_weight(
            shape=(frames_shape[-1], self.clusters), initializer="glorot_uniform", name="kernel"
        )
        self.normalise.build((None, None, self.clusters))

    def call(self, frames: Any, frame_mask: Any, training: bool | None = None) -> Any:
        active = self.normalise(ops.matmul(frames, self.kernel), training=training, mask=frame_mask)  # (B, T, K)
        # Activations are never negative, so that a padded frame's 0 cannot win the maximum wrongly.
        return ops.max(ops.where(frame_mask[:, :, None], ops.relu6(active), ops.zeros_like(active)), axis=1)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], self.clusters)


@keras.saving.register_keras_serializable(PACKAGE)
class NetVLAD(_ClusterPool):
    """Sums, for each cluster, the differences of the frames from its centre.

    Arandjelović et al. 2016, "NetVLAD: CNN architecture for weakly supervised place recognition", equation 4, on
    frames as in Miech, Laptev and Sivic 2017: a = softmax(BN(x W)), V_k = sum over frames of a_k (x - c_k); each V_k
    is scaled to unit length, then the whole.

    Args:
        clusters: number of clusters K.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, K · D).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(NetVLAD(clusters=5)(frames, mask).shape)
        (2, 20)
    """

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        width = frames_shape[-1]
        spread = keras.initializers.RandomNormal(stddev=width**-0.5)
        self.kernel = self.add_weight(shape=(width, self.clusters), initializer=spread, name="kernel")
        self.centres = self.add_weight(shape=(self.clusters, width), initializer=spread, name="centres")
        self.normalise.build((None, None, self.clusters))

    def call(self, frames: Any, frame_mask: Any, training: bool | None = None) -> Any:
        mask = frame_mask[:, :, None]
        frames = ops.where(mask, frames, ops.zeros_like(frames))
        logits = self.normalise(ops.matmul(frames, self.kernel), training=training, mask=frame_mask)  # (B, T, K)
        assigned = ops.softmax(ops.cast(logits, "float32"), axis=-1) * ops.cast(mask, "float32")
        weight = ops.sum(assigned, axis=1)[:, :, None]  # (B, K, 1)
        assigned = ops.cast(ops.transpose(assigned, (0, 2, 1)), frames.dtype)  # (B, K, T)
        residual = ops.cast(ops.matmul(assigned, frames), "float32")  # (B, K, D)
        residual = _unit_length(residual - weight * ops.cast(self.centres, "float32"), axis=-1)
        flat = ops.reshape(residual, (-1, self.clusters * frames.shape[-1]))  # (B, K · D)
        return ops.cast(_unit_length(flat, axis=-1), self.compute_dtype)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], self.clusters * frames_shape[2])


@keras.saving.register_keras_serializable(PACKAGE)
class NeXtVLAD(_ClusterPool):
    """NetVLAD on groups of an expanded frame, each group with attention: the same power with far fewer weights.

    Lin, Xiao and Fan 2018, "NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
    Video Classification", equations 5 to 8. The frame is expanded to λD values and cut into G groups of λD/G; each
    group g has an attention sigmoid(x U)_g and assignments softmax(BN(x W))_gk to the K clusters. Descriptors have
    unit length per cluster.

    Args:
        clusters: number of clusters K.
        groups: number of groups G; divides `expansion` · D.
        expansion: λ, how many times wider the expanded frame is.

    Call arguments:
        frames: float (B, T, D).
        frame_mask: bool (B, T), true for real frames.

    Output shape: (B, K · λD/G).

    Raises:
        ValueError: G does not divide λD (when the layer is built).

    Example:
        >>> import numpy as np
        >>> frames, mask = np.ones((2, 3, 4)), np.array([[True] * 3, [True, False, False]])
        >>> tuple(NeXtVLAD(clusters=5, groups=2, expansion=2)(frames, mask).shape)
        (2, 20)
    """

    def __init__(self, clusters: int, groups: int = 8, expansion: int = 2, **kwargs: Any) -> None:
        super().__init__(clusters, **kwargs)
        if groups < 1 or expansion < 1:
            raise ValueError(f"groups and expansion must be positive, got {groups} and {expansion}")
        self.groups = groups
        self.expansion = expansion

    def build(self, frames_shape: Any, frame_mask_shape: Any = None) -> None:
        width = frames_shape[-1]
        wide = self.expansion * width
        if wide % self.groups:
            raise ValueError(f"groups must divide expansion x width = {wide}, got {self.groups}")
        self.group_width = wide // self.groups
        self.expand_kernel = self.add_weight(shape=(width, wide), initializer="glorot_uniform", name="expand_kernel")
        self.expand_bias = self.add_weight(shape=(wide,), initializer="zeros", name="expand_bias")
        self.attention_kernel = self.add_weight(
            shape=(wide, self.groups), initializer="glorot_uniform", name="attention_kernel"
        )
        self.attention_bias = self.add_weight(shape=(self.groups,), initializer="zeros", name="attention_bias")
        self.assign_kernel = self.add_weight(
            shape=(wide, self.groups * self.clusters), initializer="glorot_uniform", name="assign_kernel"
        )
        self.centres = self.add_weight(
            shape=(self.clusters, self.group_width), initializer="glorot_uniform", name="centres"
        )
        self.normalise.build((None, None, self.groups * self.clusters))

    def call(self, frames: Any, frame_mask: Any, training: bool | None = None) -> Any:
        mask = frame_mask[:, :, None]
        steps = ops.shape(frames)[1]
        frames = ops.where(mask, frames, ops.zeros_like(frames))
        wide = ops.matmul(frames, self.expand_kernel) + self.expand_bias  # (B, T, λD)
        attention = ops.sigmoid(ops.cast(ops.matmul(wide, self.attention_kernel) + self.attention_bias, "float32"))
        attention = attention * ops.cast(mask, "float32")  # (B, T, G)
        logits = self.normalise(ops.matmul(wide, self.assign_kernel), training=training, mask=frame_mask)
        logits = ops.reshape(ops.cast(logits, "float32"), (-1, steps * self.groups, self.clusters))  # (B, T · G, K)
        assigned = ops.softmax(logits, axis=-1) * ops.reshape(attention, (-1, steps * self.groups, 1))
        weight = ops.sum(assigned, axis=1)[:, :, None]  # (B, K, 1)
        assigned = ops.cast(ops.transpose(assigned, (0, 2, 1)), wide.dtype)  # (B, K, T · G)
        pieces = ops.reshape(wide, (-1, steps * self.groups, self.group_width))  # (B, T · G, λD/G)
        residual = ops.cast(ops.matmul(assigned, pieces), "float32")  # (B, K, λD/G)
        residual = _unit_length(residual - weight * ops.cast(self.centres, "float32"), axis=-1)
        return ops.cast(ops.reshape(residual, (-1, self.clusters * self.group_width)), self.compute_dtype)

    def compute_output_shape(self, frames_shape: Any, frame_mask_shape: Any = None) -> Any:
        return (frames_shape[0], self.clusters * self.expansion * frames_shape[2] // self.groups)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups, "expansion": self.expansion}
