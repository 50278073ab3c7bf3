"""One vector per video and modality, whatever the kind of the modality. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model.records.schema import FRAMES, Modality
from vcls_model.records.transformed import presence_name


def video_vectors(inputs: Mapping[str, np.ndarray], modality: Modality) -> np.ndarray:
    """Float32 (B, D): the feature itself, or the mean of its real frames.

    Args:
        inputs: a model's input dict.
    """
    values = np.asarray(inputs[modality.name], np.float32)
    if modality.kind != FRAMES:
        return values
    counts = np.asarray(inputs["num_frames"])
    real = np.arange(values.shape[1])[None, :] < counts[:, None]
    return np.where(real[:, :, None], values, 0).sum(1) / np.maximum(counts, 1)[:, None]


def joined_vectors(vectors: Sequence[np.ndarray], modality_norm: str) -> np.ndarray:
    """Modalities (B, D_m) side by side, each scaled as a model with that `modality_norm` scales it."""
    if modality_norm == "unit":
        vectors = [values * np.sqrt(values.shape[1]) for values in vectors]
    elif modality_norm == "l2":
        vectors = [
            values / np.sqrt(np.maximum(np.mean(np.square(values), axis=1, keepdims=True), 1e-12)) for values in vectors
        ]
    return np.concatenate(vectors, axis=1)


def presence_of(inputs: Mapping[str, np.ndarray], modalities: Sequence[Modality]) -> np.ndarray:
    """Bool (B, M): which modalities each video has; all, where a model's input dict does not say."""
    videos = len(inputs[modalities[0].name])
    everywhere = np.ones(videos, np.float32)
    return np.stack([inputs.get(presence_name(each.name), everywhere) > 0 for each in modalities], axis=1)
