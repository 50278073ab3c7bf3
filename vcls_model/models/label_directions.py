"""Directions of the features that discriminate between labels, computed once from the training videos. numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vcls_model.models.video_vectors import joined_vectors, presence_of, video_vectors
from vcls_model.records.schema import Modality

# Penalties to try, as multiples of the features' mean variance. The least of them keeps directions that hardly vary
# from looking strong.
RIDGES = np.geomspace(0.005, 10.0, 34)
# The least penalty whose error is at most this times the least error: a larger one dims directions that few classes
# need. With the error's minimum itself, models of 23,000 videos had 0.003 to 0.004 mAP less.
TOLERATED = 1.03
# A class's column is divided by its number of videos to this power, so that frequent classes do not decide alone.
_RARITY = 0.25
_FEWEST_VIDEOS = 5
# No direction is weaker than this relative to the strongest one: what few classes need is dimmed, not lost.
_WEAKEST = 0.01
# `LabelProjection.power` for comparing videos: the best of 0.25, 0.5 and 1 on shards reserved for tuning.
KEY_POWER = 0.5


@dataclasses.dataclass(frozen=True)
class LabelDirections:
    """Orthogonal directions of the joined features, by how much they help to predict labels.

    Attributes:
        mean: float32 (D,), of the joined features.
        directions: float32 (D, D), unit vectors in columns, the strongest first.
        strengths: float32 (D,), in (0, 1], descending.
    """

    mean: np.ndarray
    directions: np.ndarray
    strengths: np.ndarray

    @property
    def key_turn(self) -> np.ndarray:
        """float32 (D, D): what centred features are multiplied by before they are compared."""
        return np.asarray(self.directions * self.strengths**KEY_POWER, np.float32)

    def keys(self, joined: np.ndarray) -> np.ndarray:
        """What videos (B, D) are compared by: (B, D) of unit length, as `LabelProjection` gives them."""
        turned = (joined - self.mean) @ self.directions * self.strengths**KEY_POWER
        return turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)


def find_label_directions(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]],
    modalities: Sequence[Modality],
    class_count: int,
    modality_norm: str,
    *,
    limit: int = 500_000,
) -> LabelDirections:
    """Left singular vectors and values of the ridge regression from features to labels.

    W = (XᵀX + λ I)⁻¹ Xᵀ Y of centred features X (Hoerl and Kennard 1970, "Ridge Regression"), with each class's column
    divided by (its videos)^0.25. λ is the least of `RIDGES` times the mean variance whose error by generalised
    cross-validation is at most `TOLERATED` times the least error of all: some 1,000 videos need a λ a hundred times as
    large as 20,000 do.

    Args:
        batches: for each a model's input dict, the labels of its videos one after the other, int (n,), and the number
            of labels of each video, int (B,). A modality that a video lacks counts as its mean.
        modalities: those of the input dict. Of frame-level ones the mean of the frames counts.
        class_count: number of classes C.
        modality_norm: the model's hyperparameter.
        limit: largest number of videos to read.

    Raises:
        ValueError: there is no video.
    """
    width = sum(modality.width for modality in modalities)
    sums = _Sums(width, len(modalities), class_count)
    for inputs, label_values, label_lengths in batches:
        if sums.videos >= limit:
            break
        rows = joined_vectors([video_vectors(inputs, modality) for modality in modalities], modality_norm)
        sums.add(rows, presence_of(inputs, modalities), np.asarray(label_values), label_lengths)
    if not sums.videos:
        raise ValueError("there is no video to find directions in")
    videos, counts = sums.videos, sums.counts
    mean, covariance, by_class = sums.centred([modality.width for modality in modalities])
    rarity = 1 / np.maximum(counts, _FEWEST_VIDEOS) ** _RARITY
    shared = by_class * rarity[:, np.newaxis]  # (C, D)
    spreads, axes = np.linalg.eigh(covariance)
    spreads = np.maximum(spreads, 0.0)
    along_axes = axes.T @ shared.T  # (D, C)
    label_variation = float(np.sum((counts - counts**2 / videos) * rarity**2))
    ridges = np.maximum(RIDGES * spreads.mean(), 1e-6)
    errors = cross_validation_errors(ridges, spreads, np.sum(along_axes**2, axis=1), label_variation, videos)
    ridge = ridges[np.argmax(errors <= TOLERATED * errors.min())]
    shrunk = along_axes / (spreads + ridge)[:, np.newaxis]
    squared, turned = np.linalg.eigh(shrunk @ shrunk.T)
    directions = axes @ turned
    strengths = np.sqrt(np.maximum(squared[::-1], 0.0))
    relative = np.maximum(strengths / max(float(strengths[0]), 1e-30), _WEAKEST)
    return LabelDirections(
        mean.astype(np.float32), np.ascontiguousarray(directions[:, ::-1], np.float32), relative.astype(np.float32)
    )


class _Sums:
    """What is added up of joined vectors (B, D) of M modalities and their labels; absent values are 0.

    Attributes:
        videos: number of videos.
        counts: int (C,), videos per class.
    """

    def __init__(self, width: int, modalities: int, class_count: int) -> None:
        self.videos = 0
        self.counts = np.zeros(class_count)
        self._total, self._squares = np.zeros(width), np.zeros((width, width))
        self._by_class = np.zeros((class_count, width))
        # By modality: the sum of the vectors of videos that have it, the videos that have it and another, and by class.
        self._total_with = np.zeros((modalities, width))
        self._both = np.zeros((modalities, modalities))
        self._by_class_with = np.zeros((class_count, modalities))

    def add(self, rows: np.ndarray, presence: np.ndarray, label_values: np.ndarray, label_lengths: np.ndarray) -> None:
        """Adds B videos: rows (B, D), presence bool (B, M), labels one after the other (n,), labels per video (B,)."""
        self.videos += len(rows)
        total = rows.sum(axis=0, dtype=np.float64)
        self._total += total
        self._squares += rows.T @ rows
        whole = bool(presence.all())
        weights = presence.astype(np.float64)
        self._total_with += total if whole else weights.T @ rows
        self._both += weights.T @ weights
        # Sorted by class: one sum per class instead of one addition per label.
        order = np.argsort(label_values, kind="stable")
        owners = np.repeat(np.arange(len(rows)), label_lengths)[order]
        present, begins = np.unique(label_values[order], return_index=True)
        if len(present):
            self._by_class[present] += np.add.reduceat(rows[owners], begins, axis=0)
            self._by_class_with[present] += np.add.reduceat(weights[owners], begins, axis=0)
            self.counts += np.bincount(label_values, minlength=len(self.counts))

    def centred(self, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean (D,) of the present values; products (D, D) of the centred features with each other, and (C, D) with the
        classes, where a modality that a video lacks has its mean.

        Args:
            sizes: width of each modality.
        """
        if (self._both == self.videos).all():
            mean = self._total / self.videos
            products = self._squares - self.videos * np.outer(mean, mean)
            return mean, products, self._by_class - self.counts[:, np.newaxis] * mean
        owners = np.repeat(np.arange(len(sizes)), sizes)
        mean = self._total / np.maximum(np.diag(self._both)[owners], 1)
        # Sum over videos with both of (x - mean)(y - mean)^T.
        crossed = mean[:, np.newaxis] * self._total_with[owners]
        products = self._squares - crossed - crossed.T + np.outer(mean, mean) * self._both[owners][:, owners]
        return mean, products, self._by_class - self._by_class_with[:, owners] * mean


def cross_validation_errors(
    ridges: np.ndarray, spreads: np.ndarray, explained: np.ndarray, label_variation: float, videos: int
) -> np.ndarray:
    """Generalised cross-validation of ridge regressions with an intercept, one value per penalty.

    n · (squared error on the n training videos) / (n − degrees of freedom)² (Golub, Heath and Wahba 1979, "Generalized
    Cross-Validation as a Method for Choosing a Good Ridge Parameter", equation 1.4, summed over the classes).

    Args:
        ridges: penalties λ > 0, (R,).
        spreads: eigenvalues of XᵀX, centred, (D,).
        explained: squared length of each row of (eigenvectors)ᵀ Xᵀ Y, (D,).
        label_variation: squared length of the centred Y.
        videos: n.
    """
    shrunk = spreads + ridges[:, np.newaxis]  # (R, D)
    unexplained = label_variation - np.sum(explained / shrunk * (2 - spreads / shrunk), axis=1)
    # A fit through every video leaves no degree of freedom, so that its error cannot be estimated.
    left = np.maximum(videos - 1 - np.sum(spreads / shrunk, axis=1), 1e-3)
    return videos * np.maximum(unexplained, 1e-6 * label_variation) / left**2
