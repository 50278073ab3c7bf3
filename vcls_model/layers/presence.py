"""Layers for modalities that a video may lack: what is missing contributes nothing.

Presence is a table float (B, M), 1 where a video has a modality, else 0; a video has at least one of them, or a text.
With all modalities present every layer here passes its input on unchanged, to the bit.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.masking import PACKAGE, FrameLayer


def spread_presence(presence: Any, sizes: Sequence[int]) -> Any:
    """Presence (B, M) of modalities of M widths as a mask (B, sum of widths) of their joined values."""
    owners = np.repeat(np.eye(len(sizes), dtype=np.float32), sizes, axis=1)  # (M, sum of widths)
    return ops.matmul(ops.cast(presence, "float32"), ops.convert_to_tensor(owners))


def present_fraction(presence: Any, sizes: Sequence[int]) -> Any:
    """The part of all joined values that a video has, float32 (B, 1), in (0, 1]; exactly 1 where nothing is missing.

    Of a video that has none it is that of one value.
    """
    # Whole numbers, which float32 adds exactly.
    widths = ops.convert_to_tensor(np.array(sizes, np.float32))
    present = ops.sum(ops.cast(presence, "float32") * widths, axis=1, keepdims=True)
    return ops.maximum(present, 1.0) / float(sum(sizes))


@keras.saving.register_keras_serializable(PACKAGE)
class PresenceTable(keras.layers.Layer):
    """The presence of each modality, float (B,) each, side by side.

    Output shape: float32 (B, M).

    Example:
        >>> np.array(PresenceTable()([np.array([1.0, 1.0]), np.array([0.0, 1.0])])).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """

    def call(self, presences: Any) -> Any:
        return ops.stack([ops.cast(each, "float32") for each in presences], axis=1)

    def compute_output_spec(self, presences: Any) -> Any:
        return keras.KerasTensor((presences[0].shape[0], len(presences)), dtype="float32")


class _PresenceLayer(FrameLayer):
    """A layer that looks at some columns of a presence table.

    Args:
        columns: numbers of modalities; one of them must be present.
    """

    def __init__(self, columns: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = tuple(columns)

    def _any(self, presence: Any) -> Any:
        """Bool (B,): whether a video has one of the modalities."""
        return ops.any(ops.take(presence, np.array(self.columns, np.int32), axis=1) > 0, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "columns": self.columns}


@keras.saving.register_keras_serializable(PACKAGE)
class KeepPresent(_PresenceLayer):
    """The values where a video has one of the modalities, else 0.

    Call arguments:
        values: float (B, …).
        presence: float (B, M).

    Output shape: that of `values`.

    Example:
        >>> values, presence = np.full((2, 1), np.nan), np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> np.array(KeepPresent([1])(np.array([[5.0], [7.0]]), presence)).tolist()
        [[0.0], [7.0]]
    """

    def call(self, values: Any, presence: Any) -> Any:
        kept = ops.reshape(self._any(presence), (-1,) + (1,) * (len(values.shape) - 1))
        return ops.where(kept, values, ops.zeros_like(values))

    def compute_output_shape(self, values_shape: Any, presence_shape: Any = None) -> Any:
        return values_shape


@keras.saving.register_keras_serializable(PACKAGE)
class PresentFrames(_PresenceLayer):
    """A frame mask that is false throughout for a video that lacks the modality.

    Call arguments:
        frame_mask: bool (B, T).
        presence: float (B, M).

    Output shape: bool (B, T).

    Example:
        >>> mask, presence = np.array([[True, False], [True, True]]), np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> np.array(PresentFrames([0])(mask, presence)).tolist()
        [[True, False], [False, False]]
    """

    def call(self, frame_mask: Any, presence: Any) -> Any:
        return ops.logical_and(frame_mask, self._any(presence)[:, None])

    def compute_output_spec(self, frame_mask: Any, presence: Any) -> Any:
        return keras.KerasTensor(frame_mask.shape, dtype="bool")


@keras.saving.register_keras_serializable(PACKAGE)
class AnyPresent(keras.layers.Layer):
    """Whether a video has any modality of each of several groups.

    Args:
        groups: columns of the presence table, per group; a group without any is always present.

    Input shape: float (B, M). Output shape: float (B, G), 0 or 1.

    Example:
        >>> np.array(AnyPresent([[0, 2], [1]])(np.array([[0.0, 1.0, 0.0]]))).tolist()
        [[0.0, 1.0]]
    """

    def __init__(self, groups: Sequence[Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = tuple(tuple(group) for group in groups)

    def call(self, presence: Any) -> Any:
        columns = [
            ops.max(ops.take(presence, np.array(group, np.int32), axis=1), axis=1)
            if group
            else ops.ones_like(presence[:, 0])
            for group in self.groups
        ]
        return ops.stack(columns, axis=1)

    def compute_output_shape(self, presence_shape: Any) -> Any:
        return (presence_shape[0], len(self.groups))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable(PACKAGE)
class RescalePresent(FrameLayer):
    """Joined values, as long as if nothing were missing: times the root of all widths over those present.

    What reads them was trained on vectors of one length, as with dropout (Srivastava et al. 2014, "Dropout: A Simple
    Way to Prevent Neural Networks from Overfitting").

    Args:
        sizes: width of each modality among the joined values.

    Call arguments:
        values: float (B, …, D), 0 where a modality is missing.
        presence: float (B, M).

    Output shape: that of `values`.

    Example:
        >>> values, presence = np.array([[3.0, 0.0, 0.0, 0.0]]), np.array([[1.0, 0.0]])
        >>> np.array(RescalePresent([1, 3])(values, presence)).tolist()
        [[6.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = tuple(sizes)

    def call(self, values: Any, presence: Any) -> Any:
        factor = ops.sqrt(1.0 / present_fraction(presence, self.sizes))
        return values * ops.cast(ops.reshape(factor, (-1,) + (1,) * (len(values.shape) - 1)), values.dtype)

    def compute_output_shape(self, values_shape: Any, presence_shape: Any = None) -> Any:
        return values_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes}


@keras.saving.register_keras_serializable(PACKAGE)
class MeanOfPresent(keras.layers.Layer):
    """The mean of the scores of those modalities that a video has.

    Call arguments:
        scores: list of float (B, C), one per column of `presence`.
        presence: float (B, M).

    Output shape: float32 (B, C).

    Example:
        >>> scores, presence = [np.array([[2.0]]), np.array([[6.0]])], np.array([[0.0, 1.0]])
        >>> np.array(MeanOfPresent()(scores, presence)).tolist()
        [[6.0]]
    """

    def call(self, scores: Any, presence: Any) -> Any:
        total = sum(ops.cast(each, "float32") * presence[:, number, None] for number, each in enumerate(scores))
        return total / ops.maximum(ops.sum(presence, axis=1, keepdims=True), 1.0)

    def compute_output_spec(self, scores: Any, presence: Any) -> Any:
        return keras.KerasTensor(scores[0].shape, dtype="float32")
