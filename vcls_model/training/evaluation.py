"""Runs a model over a split and hands its logits to the metrics."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from vcls_model.commands import JobError
from vcls_model.input.dataset import make_batches, readable, refuse_not_finite
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.records.transformed import TransformedData, TransformedModality
from vcls_model.training.options import ReadOptions

EVALUATION_BATCH = 512


def evaluate(
    predict: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]],
    data: TransformedData,
    modalities: tuple[TransformedModality, ...],
    *,
    split: str = "validate",
    frames: str = "all",
    max_frames: int = 300,
    batch_size: int = EVALUATION_BATCH,
    class_thresholds: np.ndarray | None = None,
) -> tuple[MetricAccumulator, float]:
    """Metrics of the labelled videos of a split, in the order of its files.

    Args:
        predict: takes a batch of `make_batches`; returns logits (B, C) and losses (B,).
        data: the dataset.
        modalities: the features that the model takes.
        split: which split.
        frames, max_frames: which frames of a video count, see `ReadOptions`.
        batch_size: videos a batch.
        class_thresholds: probabilities (C,), see `MetricAccumulator`.

    Returns:
        The accumulator, and the mean loss.

    Raises:
        JobError: a feature, or what the model makes of it, is not finite; the message names the shard.
    """
    accumulator = MetricAccumulator(data.class_count, class_thresholds=class_thresholds)
    options = ReadOptions(batch_size, frames, max_frames)
    shards = data.shards(split)
    total, videos = 0.0, 0

    def add(logits: np.ndarray, losses: np.ndarray, labels: np.ndarray, ids: list[bytes]) -> tuple[float, int]:
        lengths = (labels >= 0).sum(axis=1)
        known = np.flatnonzero(lengths)
        if known.size:
            chosen = labels[known]
            accumulator.update(logits[known], chosen[chosen >= 0], lengths[known], [ids[row] for row in known])
        return float(losses[known].sum()), int(known.size)

    # The counting of one batch overlaps the forward pass of the next.
    with ThreadPoolExecutor(1) as pool:
        pending: Any = None
        for batch in readable(make_batches(shards, modalities, options, with_ids=True)):
            refuse_not_finite(batch, shards)
            logits, losses = predict(batch)
            bad = np.flatnonzero(~np.isfinite(logits.numpy()).all(axis=1))
            if bad.size:
                raise JobError(
                    f"the model's logits are not finite for a video of {shards[int(batch['shard'][int(bad[0])])]}"
                )
            arguments = logits.numpy(), losses.numpy(), batch["labels"].numpy(), list(batch["id"].numpy())
            if pending is not None:
                part = pending.result()
                total, videos = total + part[0], videos + part[1]
            pending = pool.submit(add, *arguments)
        if pending is not None:
            part = pending.result()
            total, videos = total + part[0], videos + part[1]
    return accumulator, total / max(videos, 1)
