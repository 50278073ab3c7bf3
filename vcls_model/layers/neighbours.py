"""A head that mixes in the labels of the most similar training videos."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vcls_model.layers.constants import add_constants
from vcls_model.layers.masking import PACKAGE
from vcls_model.layers.presence import spread_presence


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


# A similarity so low that the softmax of votes gives it nothing.
_NOTHING_SHARED = -1e3
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
        keys = ops.cast(self.keys, "float32")
        return self._mixed(logits, ops.matmul(ops.cast(query, "float32"), ops.transpose(keys)))

    def _mixed(self, logits: Any, similarity: Any) -> Any:
        """Scores with the votes of the most similar remembered videos; `similarity` (B, N), -1 or less says no."""
        batch, classes = ops.shape(logits)[0], logits.shape[1]
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


@keras.saving.register_keras_serializable(PACKAGE)
class SharedNeighbourVote(NeighbourVote):
    """`NeighbourVote` by the modalities that both videos have.

    The similarity of x and k is the cosine of x T and k T, both without the modalities that either lacks. For every
    remembered video the products of its parts, G = (k_m T)·(k_m' T), are stored, so that its length without some
    modalities costs no more than their sum. Videos without a modality in common do not vote.

    Args:
        sizes: width of each modality in x, M of them.
        complete: every remembered video has all modalities.
        turned: width K of x T; 0: T is the unit matrix.
        grams: float (N, M · M), the products G of each remembered video.
        presence: float (N, M), which modalities it has.
        mean, turn: float (D,) and (D, K): x is what the query has above the mean, T; of K above 0.
        **kwargs: of `NeighbourVote`; its keys are the k, of length 1 as k T.

    Call arguments:
        logits: (B, C).
        query: float (B, D), 0 where a modality is missing.
        presence: float (B, M), 1 where a video has a modality.

    Output shape: logits float32 (B, C).

    Example:
        >>> keys, labels = np.eye(2, dtype="float32"), np.array([[0], [1]], "int32")
        >>> grams = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], "float32")  # the first has only the first, and so on
        >>> options = {"neighbours": 1, "weight": 0.5, "keys": keys, "labels": labels, "grams": grams}
        >>> vote = SharedNeighbourVote(2, 1, sizes=[1, 1], complete=False, presence=np.eye(2), **options)
        >>> logits = vote(np.zeros((1, 2)), np.array([[0.0, 7.0]]), np.array([[0.0, 1.0]]))  # sees the second alone
        >>> [round(1 / (1 + float(np.exp(-value))), 2) for value in np.array(logits)[0]]
        [0.25, 0.75]
    """

    def __init__(
        self,
        *args: Any,
        sizes: Sequence[int],
        complete: bool,
        turned: int = 0,
        grams: np.ndarray | None = None,
        presence: np.ndarray | None = None,
        mean: np.ndarray | None = None,
        turn: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sizes = tuple(sizes)
        self.complete = complete
        self.turned = turned
        self._constants = (grams, presence), (mean, turn)

    def build(self, logits_shape: Any, query_shape: Any, presence_shape: Any = None) -> None:
        super().build(logits_shape, query_shape)
        parts, width = len(self.sizes), query_shape[-1]
        of_videos, of_space = self._constants
        shapes = {"grams": (self.videos, parts * parts), "presence": (self.videos, parts)}
        self.grams, self.presence = add_constants(self, shapes, of_videos)
        if self.turned:
            self.mean, self.turn = add_constants(self, {"mean": (width,), "turn": (width, self.turned)}, of_space)

    def call(  # type: ignore[override]
        self, logits: Any, query: Any, presence: Any, training: bool | None = None
    ) -> Any:
        logits = ops.cast(logits, "float32")
        if training or not self.weight or not _votes_count.get():
            return logits
        return self._mixed(logits, self._similarity(ops.cast(query, "float32"), ops.cast(presence, "float32")))

    def _similarity(self, query: Any, presence: Any) -> Any:
        """(B, N): cosines; far below -1 where two videos have no modality in common."""
        mask = spread_presence(presence, self.sizes)
        values = (query - self.mean) * mask if self.turned else query * mask
        keys = ops.transpose(ops.cast(self.keys, "float32"))  # (D, N)
        if not self.complete:
            return self._of_parts(values, mask, presence, keys)
        whole = ops.all(presence > 0)
        return ops.cond(
            whole, lambda: self._of_whole(values, keys), lambda: self._of_parts(values, mask, presence, keys)
        )

    def _of_whole(self, values: Any, keys: Any) -> Any:
        """Where no video lacks anything: keys have length 1."""
        turned = ops.matmul(values, self.turn) if self.turned else values
        length = ops.rsqrt(ops.maximum(ops.sum(ops.square(turned), axis=1, keepdims=True), 1e-24))
        turned = turned * length
        return ops.matmul(ops.matmul(turned, ops.transpose(self.turn)) if self.turned else turned, keys)

    def _of_parts(self, values: Any, mask: Any, presence: Any, keys: Any) -> Any:
        remembered = ops.transpose(ops.convert_to_tensor(self.presence))  # (M, N)
        parts = self._parts(values)
        # What each part of the query gives, without what it lacks itself: (B, D).
        back = [(ops.matmul(part, ops.transpose(self.turn)) if self.turned else part) * mask for part in parts]
        if self.complete:
            product = ops.matmul(sum(back), keys)
        else:
            product = sum(ops.matmul(part, keys) * remembered[number] for number, part in enumerate(back))
        own = ops.stack([ops.sum(one * other, axis=1) for one in parts for other in parts], axis=1)  # (B, M · M)
        query_square = ops.matmul(own, _pairs(remembered, axis=0))
        key_square = ops.matmul(_pairs(presence, axis=1), ops.transpose(ops.convert_to_tensor(self.grams)))
        cosine = product * ops.rsqrt(ops.maximum(query_square * key_square, 1e-24))
        return ops.where(ops.matmul(presence, remembered) > 0, cosine, _NOTHING_SHARED)

    def _parts(self, values: Any) -> list[Any]:
        """Each modality's share in x T, float (B, K); of T = 1 its own values, the others 0."""
        ends = np.cumsum(self.sizes)
        parts = []
        for end, size in zip(ends.tolist(), self.sizes, strict=True):
            if self.turned:
                parts.append(ops.matmul(values[:, end - size : end], self.turn[end - size : end]))
            else:
                parts.append(ops.pad(values[:, end - size : end], ((0, 0), (end - size, int(ends[-1]) - end))))
        return parts

    def _mixed(self, logits: Any, similarity: Any) -> Any:
        mixed = super()._mixed(logits, similarity)
        return ops.where(ops.max(similarity, axis=1, keepdims=True) > _NOTHING_SHARED, mixed, logits)

    def compute_output_spec(  # type: ignore[override]
        self, logits: Any, query: Any, presence: Any, training: bool | None = None
    ) -> Any:
        return keras.KerasTensor(logits.shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes, "complete": self.complete, "turned": self.turned}


def _pairs(presence: Any, axis: int) -> Any:
    """Products of all pairs along an axis of length M, which becomes M · M."""
    columns = [ops.take(presence, number, axis=axis) for number in range(presence.shape[axis])]
    return ops.stack([one * other for one in columns for other in columns], axis=axis)
