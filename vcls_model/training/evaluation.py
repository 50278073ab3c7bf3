"""Runs a model over a split, hands its logits to the metrics, and chooses the classes' thresholds."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from vcls_model.commands import JobError
from vcls_model.input.dataset import make_batches, readable, refuse_not_finite
from vcls_model.input.options import InputOptions
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.catalogue import describe
from vcls_model.metrics.prior import learned_nothing
from vcls_model.metrics.result import best_thresholds, compute_result
from vcls_model.records.schema import FRAMES, Modality
from vcls_model.records.transformed import TransformedData, TransformedModality

_VIDEO_BATCH = 512
# Frames take some hundred times the memory of a vector.
_SMALLEST_FRAME_BATCH, _LARGEST_FRAME_BATCH = 16, 128

Predict = Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


def evaluation_batch(modalities: Sequence[Modality], training_batch: int = 64) -> int:
    """Videos per batch where nothing is trained, for a model that takes these modalities."""
    if any(modality.kind == FRAMES for modality in modalities):
        return max(_SMALLEST_FRAME_BATCH, min(_LARGEST_FRAME_BATCH, training_batch))
    return _VIDEO_BATCH


def evaluate(
    predict: Predict,
    data: TransformedData,
    modalities: tuple[TransformedModality, ...],
    read: InputOptions,
    *,
    split: str = "validate",
    class_thresholds: np.ndarray | None = None,
    presence: bool = False,
) -> tuple[MetricAccumulator, float]:
    """Metrics of the labelled videos of a split, in the order of its files.

    Args:
        predict: takes a batch of `make_batches`; returns logits (B, C) and losses (B,).
        data: the dataset.
        modalities: the features that the model takes.
        read: those of training: a video is seen by its `evaluation_frames`.
        split: which split.
        class_thresholds: probabilities (C,), see `MetricAccumulator`.
        presence: `predict` takes the presence of the modalities, too.

    Returns:
        The accumulator, and the mean loss.

    Raises:
        JobError: the split holds another number of videos than its `info.json` counts; or a feature, or what the model
            makes of it, is not finite: the message names the shard.
    """
    accumulator = MetricAccumulator(data.class_count, class_thresholds=class_thresholds)
    options = InputOptions(evaluation_batch(modalities, read.batch_size), read.evaluation_frames(), read.max_frames)
    shards = data.shards(split)
    total, videos, read_videos = 0.0, 0, 0

    def add(logits: np.ndarray, losses: np.ndarray, labels: np.ndarray, ids: list[bytes]) -> tuple[float, int]:
        lengths = (labels >= 0).sum(axis=1)
        known = np.flatnonzero(lengths)
        if known.size:
            chosen = labels[known]
            accumulator.update(logits[known], chosen[chosen >= 0], lengths[known], [ids[row] for row in known])
        return float(losses[known].sum()), int(known.size)

    # The counting of one batch overlaps the forward pass of the next.
    with ThreadPoolExecutor(1) as pool:
        pending: Future[tuple[float, int]] | None = None
        for batch in readable(make_batches(shards, modalities, options, with_ids=True, presence=presence)):
            refuse_not_finite(batch, shards)
            read_videos += int(batch["labels"].shape[0])
            logits, losses = predict(batch)
            bad = np.flatnonzero(~np.isfinite(logits.numpy()).all(axis=1))
            if bad.size:
                raise JobError(
                    f"the model's logits are not finite for a video of {shards[int(batch['shard'][int(bad[0])])].path}"
                )
            arguments = logits.numpy(), losses.numpy(), batch["labels"].numpy(), list(batch["id"].numpy())
            if pending is not None:
                part = pending.result()
                total, videos = total + part[0], videos + part[1]
            pending = pool.submit(add, *arguments)
        if pending is not None:
            part = pending.result()
            total, videos = total + part[0], videos + part[1]
    if read_videos != data.records.get(split, read_videos):
        raise JobError(
            f"the {split} shards of {data.directory} hold {read_videos:,} videos, its info.json counts "
            f"{data.records[split]:,}: preprocess again with --overwrite"
        )
    return accumulator, total / max(videos, 1)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What the validation split says of a model.

    Attributes:
        metrics: the loss and every metric that is a single number, for `info.json`; empty when no video has a label.
        thresholds: each class's threshold with the best F1, a probability; None when no video has a label.
        hint: what is plainly wrong with the model, "" where nothing is.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    thresholds: list[float] | None = None
    hint: str = ""

    def headline(self) -> str:
        """The headline metrics for a person, or `none`."""
        return describe(self.metrics) or "none"


def summarise(accumulator: MetricAccumulator, loss: float, frequency: Sequence[int] | None = None) -> Validation:
    """Metrics and thresholds of what `evaluate` returned; `frequency` counts the training videos of each class."""
    if not accumulator.videos:
        return Validation()
    result = compute_result(accumulator)
    summary = result.summary
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    return Validation(
        {"loss": loss, **numbers},
        np.asarray(best_thresholds(accumulator), float).tolist(),
        learned_nothing(summary, result.per_class["support"], frequency),
    )
