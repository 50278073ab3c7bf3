"""The training videos that a model remembers, so that new videos can be compared with them. numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vcls_model.models.label_directions import LabelDirections
from vcls_model.models.video_vectors import joined_vectors, presence_of, video_vectors
from vcls_model.records.schema import Modality

# A prediction compares with every remembered video: 50,000 keys of 1,152 values take 115 MB and some milliseconds per
# batch.
MEMORY_LIMIT = 50_000


@dataclasses.dataclass(frozen=True)
class Memory:
    """Features and labels of remembered videos.

    Attributes:
        keys: float16 (N, D), of unit length; see `shares_of`.
        labels: int32 (N, L), each video's class indices; a row with fewer than L is filled with the number of classes.
        presence: bool (N, M), which modalities each has; None where models take all for granted.
        grams: float32 (N, M · M), see `layers.SharedNeighbourVote`; with `presence`.
    """

    keys: np.ndarray
    labels: np.ndarray
    presence: np.ndarray | None = None
    grams: np.ndarray | None = None


def shares_of(modalities: Sequence[Modality]) -> tuple[float, ...]:
    """How much of a similarity each modality decides; they add to 1.

    Shares grow with the width to the power 2/3: 0.8 for YouTube-8M's 1,024 visual values and 0.2 for its 128 audio
    values, which was the best of the splits tried on shards reserved for tuning.
    """
    sizes = [modality.width ** (2 / 3) for modality in modalities]
    return tuple(size / sum(sizes) for size in sizes)


def join_keys(features: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Unit vectors (N, D): each modality's (N, D_m) scaled to the square root of its share, side by side."""
    scaled = []
    for values, share in zip(features, shares, strict=True):
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        scaled.append(values / np.maximum(lengths, 1e-6) * np.sqrt(share))
    return np.concatenate(scaled, axis=1)


def remember(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]],
    modalities: Sequence[Modality],
    class_count: int,
    *,
    directions: LabelDirections | None = None,
    modality_norm: str = "none",
    limit: int = MEMORY_LIMIT,
    presence: bool = False,
) -> Memory:
    """Reads the first `limit` videos into a memory.

    Args:
        batches: for each a model's input dict, the labels of its videos one after the other, int (n,), and the number
            of labels of each video, int (B,).
        modalities: those of the input dict. Frame-level ones are remembered by the mean of their frames.
        class_count: number of classes C.
        directions: compare by these rather than by the modalities' vectors.
        modality_norm: the model's hyperparameter, with which `directions` were computed.
        limit: largest number of videos to remember.
        presence: for a model that compares by the modalities that both videos have.

    Raises:
        ValueError: there is no video.
    """
    shares = shares_of(modalities)
    keys: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    present: list[np.ndarray] = []
    grams: list[np.ndarray] = []
    for inputs, label_values, label_lengths in batches:
        room = limit - sum(map(len, keys))
        if room <= 0:
            break
        vectors = [video_vectors(inputs, modality)[:room] for modality in modalities]
        if presence:
            present.append(presence_of(inputs, modalities)[:room])
            joined = join_keys(vectors, shares) if directions is None else joined_vectors(vectors, modality_norm)
            joined, products = shared_keys(joined, present[-1], [each.width for each in modalities], directions)
            grams.append(products)
        elif directions is None:
            joined = join_keys(vectors, shares)
        else:
            joined = directions.keys(joined_vectors(vectors, modality_norm))
        keys.append(joined.astype(np.float16))
        ends = np.cumsum(label_lengths)
        labels += np.split(np.asarray(label_values), ends[:-1])[:room]
    if not keys:
        raise ValueError("there is no video to remember")
    table = np.full((len(labels), max(1, *map(len, labels), 1)), class_count, np.int32)
    for row, values in zip(table, labels, strict=True):
        row[: len(values)] = values
    if not presence:
        return Memory(np.concatenate(keys), table)
    return Memory(np.concatenate(keys), table, np.concatenate(present), np.concatenate(grams))


def shared_keys(
    joined: np.ndarray, presence: np.ndarray, sizes: Sequence[int], directions: LabelDirections | None
) -> tuple[np.ndarray, np.ndarray]:
    """Keys (N, D) and grams (N, M · M) of `layers.SharedNeighbourVote`.

    Args:
        joined: (N, D), the modalities' vectors side by side.
        presence: bool (N, M).
        sizes: width of each modality.
        directions: compare by these; None: by the vectors as they are.
    """
    mask = np.repeat(presence, sizes, axis=1)
    centred = np.where(mask, joined if directions is None else joined - directions.mean, 0)
    ends = np.cumsum(sizes)
    parts = [centred[:, end - size : end] for end, size in zip(ends, sizes, strict=True)]
    products = np.zeros((len(joined), len(sizes), len(sizes)), np.float32)
    if directions is not None:
        turn = directions.key_turn
        parts = [part @ turn[end - size : end] for part, end, size in zip(parts, ends, sizes, strict=True)]
    for one in range(len(sizes)):
        for other in range(len(sizes)) if directions is not None else (one,):
            products[:, one, other] = np.einsum("nk,nk->n", parts[one], parts[other])
    square = np.maximum(products.sum(axis=(1, 2)), 1e-24)
    return centred / np.sqrt(square)[:, None], products.reshape(len(joined), -1) / square[:, None]
