"""A head that mixes in the labels of the most similar training videos."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.masking import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MemoryKey(keras.layers.Layer):
    """Joins the modalities' vectors into one of unit length, in which modality m decides `shares[m]` of a similarity.

    Args:
        shares: one per modality; they add to 1.

    Call arguments:
        features: list of float (B, D_m), one per modality.

    Output shape: float32 (B, sum of D_m).

    Example:
        >>> import numpy as np
        >>> key = MemoryKey([0.64, 0.36])([np.array([[2.0]]), np.array([[0.0, 5.0]])])
        >>> np.array(key).round(3).tolist()
        [[0.800000011920929, 0.0, 0.6000000238418579]]
    """

    def __init__(self, shares: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shares = tuple(shares)

    def call(self, features: Any) -> Any:
        scaled = []
        for values, share in zip(features, self.shares, strict=True):
            values = ops.cast(values, "float32")
            length = ops.sqrt(ops.sum(ops.square(values), axis=-1, keepdims=True))
            scaled.append(values / ops.maximum(length, 1e-6) * share**0.5)
        return ops.concatenate(scaled, axis=-1)

    def compute_output_spec(self, features: Any) -> Any:
        width = sum(values.shape[-1] for values in features)
        return keras.KerasTensor((features[0].shape[0], width), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shares": self.shares}


_votes_count = contextvars.ContextVar("_votes_count", default=True)


@contextlib.contextmanager
def without_votes() -> Iterator[None]:
    """Within it, a call (or its tracing) of `NeighbourVote` passes the scores unchanged."""
    token = _votes_count.set(False)
    try:
        yield
    finally:
        _votes_count.reset(token)


@keras.saving.register_keras_serializable(PACKAGE)
class NeighbourVote(keras.layers.Layer):
    """p' = (1 - λ) sigmoid(z) + λ · (share of the k nearest remembered videos that carry the class), given as logits.

    Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", equations 2 and 3:
    votes are weighted by softmax(sharpness · cosine similarity). As there, only predictions are mixed: in training the
    scores pass unchanged, so that the network learns as if it were alone (a training video would find itself). A video
    that is in the memory votes for itself in prediction too: metrics on training videos say nothing, and a teacher
    must be called `without_votes`.

    Args:
        videos: number of remembered videos N.
        labels_per_video: width L of the label table.
        neighbours: k, how many vote.
        sharpness: inverse temperature of the votes.
        weight: λ in [0, 1).
        keys: float (N, D) of unit length; stored with the weights, not in the config.
        labels: int (N, L), filled with C; stored with the weights, not in the config.

    Call arguments:
        logits: (B, C).
        query: float (B, D) of unit length.

    Output shape: logits float32 (B, C).

    Example:
        >>> import numpy as np
        >>> keys, labels = np.eye(2, dtype="float32"), np.array([[0], [1]], "int32")
        >>> vote = NeighbourVote(2, 1, neighbours=1, weight=0.5, keys=keys, labels=labels)
        >>> logits = vote(np.zeros((1, 3)), keys[:1])  # the first video's label is 0
        >>> [round(1 / (1 + float(np.exp(-value))), 2) for value in np.array(logits)[0]]
        [0.75, 0.25, 0.25]
    """

    def __init__(
        self,
        videos: int,
        labels_per_video: int,
        neighbours: int = 60,
        sharpness: float = 15.0,
        weight: float = 0.35,
        keys: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if videos < 1 or labels_per_video < 1 or neighbours < 1:
            raise ValueError(
                f"videos, labels_per_video and neighbours must be positive, got {videos}, "
                f"{labels_per_video} and {neighbours}"
            )
        if not 0 <= weight < 1:
            raise ValueError(f"weight must lie in [0, 1), got {weight}")
        self.videos = videos
        self.labels_per_video = labels_per_video
        self.neighbours = neighbours
        self.sharpness = sharpness
        self.weight = weight
        self._initial = (keys, labels)

    def build(self, logits_shape: Any, query_shape: Any) -> None:
        shapes = ((self.videos, query_shape[-1]), (self.videos, self.labels_per_video))
        for shape, given in zip(shapes, self._initial, strict=True):
            if given is not None and given.shape != shape:
                raise ValueError(f"the memory must have shape {shape}, got {given.shape}")
        self.keys = self.add_weight(
            shape=shapes[0], dtype="float16", initializer="zeros", trainable=False, autocast=False, name="keys"
        )
        self.labels = self.add_weight(
            shape=shapes[1], dtype="int32", initializer="zeros", trainable=False, name="labels"
        )
        for weight, given in zip((self.keys, self.labels), self._initial, strict=True):
            if given is not None:
                weight.assign(given)

    def call(self, logits: Any, query: Any, training: bool | None = None) -> Any:
        logits = ops.cast(logits, "float32")
        if training or not self.weight or not _votes_count.get():
            return logits
        batch, classes = ops.shape(logits)[0], logits.shape[1]
        keys = ops.cast(self.keys, "float32")
        similarity = ops.matmul(ops.cast(query, "float32"), ops.transpose(keys))  # (B, N)
        nearest, rows = ops.top_k(similarity, min(self.neighbours, self.videos))  # (B, k)
        shares = ops.softmax(self.sharpness * nearest, axis=-1)
        labels = ops.take(ops.convert_to_tensor(self.labels), rows, axis=0)  # (B, k, L)
        # One more class than there are takes the votes of the filling.
        cells = ops.arange(batch, dtype="int32")[:, None, None] * (classes + 1) + labels
        each = ops.broadcast_to(shares[:, :, None], ops.shape(labels))
        votes = ops.segment_sum(ops.reshape(each, (-1,)), ops.reshape(cells, (-1,)), batch * (classes + 1))
        votes = ops.reshape(votes, (-1, classes + 1))[:, :classes]  # (B, C), in [0, 1]
        probability = (1 - self.weight) * ops.sigmoid(logits) + self.weight * votes
        probability = ops.clip(probability, 1e-12, 1 - 1e-6)
        return ops.log(probability) - ops.log1p(-probability)

    def compute_output_spec(self, logits: Any, query: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(logits.shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "videos": self.videos,
            "labels_per_video": self.labels_per_video,
            "neighbours": self.neighbours,
            "sharpness": self.sharpness,
            "weight": self.weight,
        }
