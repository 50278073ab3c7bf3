"""Transformed shards as a `tf.data` dataset of batches, in an order that the seed alone decides.

Shuffling is by blocks: pieces of up to 16 shards at once, in a new random order each epoch, are read together and
permuted (`blocks`, `batches`). Memory holds two blocks and a few batches, whatever the size of the data. The kernels
and threads below this are many times faster than training on a processor needs; what they are kept for is the exact
order, which lets an interrupted run continue from any batch to the same weights.

Labels stay sparse: a batch carries class indices (B, L), padded with -1. Frame-level features stay codes of one byte,
which `decode_features` turns into numbers on the device.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vcls_model.commands import JobError
from vcls_model.input.batches import BatchPlan, array_batches
from vcls_model.input.blocks import ShardError
from vcls_model.input.options import InputOptions
from vcls_model.records.listed_shards import ListedShard
from vcls_model.records.schema import FRAMES, TEXT, Modality
from vcls_model.records.text import LINE_SHIFT, weight_steps
from vcls_model.records.transformed import TransformedModality, presence_name


def _signature(plan: BatchPlan) -> dict[str, Any]:
    rows = plan.options.batch_size if plan.drop_remainder else None
    steps = plan.options.max_frames if plan.options.fixed_frames or plan.options.frames != "all" else None
    features = {}
    for modality in plan.modalities:
        if modality.kind == FRAMES:
            features[modality.name] = tf.TensorSpec([rows, steps, modality.width], tf.uint8)
            features["num_frames"] = tf.TensorSpec([rows], tf.int32)
        elif modality.kind == TEXT:
            features[modality.name] = tf.TensorSpec([rows, None], tf.int64 if modality.timed else tf.int32)
        else:
            features[modality.name] = tf.TensorSpec([rows, modality.width], tf.float32)
        if plan.presence and modality.kind != TEXT:
            features[presence_name(modality.name)] = tf.TensorSpec([rows], tf.float32)
    signature: dict[str, Any] = {
        "labels": tf.TensorSpec([rows, None], tf.int32),
        "shard": tf.TensorSpec([rows], tf.int32),
        "features": features,
    }
    if plan.with_ids:
        signature["id"] = tf.TensorSpec([rows], tf.string)
    return signature


def make_batches(
    shards: Sequence[ListedShard],
    modalities: Sequence[Modality],
    options: InputOptions,
    *,
    epoch: int | None = None,
    skip_batches: int = 0,
    drop_remainder: bool = False,
    with_ids: bool = False,
    repeat: bool = False,
    presence: bool = False,
) -> tf.data.Dataset:
    """Batches of a split.

    Args:
        shards: TFRecord files of transformed records.
        modalities: the features to read.
        options: how to batch, sample and shuffle.
        epoch: number of the epoch, from 0, by which with `options.seed` the order is shuffled; None reads the files in
            order.
        skip_batches: batches of the epoch to skip, for a run that continues.
        drop_remainder: leave out the last batch when it is not full.
        with_ids: include `id` bytes (B,).
        repeat: start again at the end of the data (for workers whose shards hold fewer videos than those of others).
        presence: include `has_<name>` of each modality, 1 where a video has it, else 0 (and its values 0).

    Returns:
        A dataset of dicts: `features` (a dict of `<name>` float32 (B, D), or uint8 codes (B, T, D) with `num_frames`
        int32 (B,), or the tokens of a text int32 (B, L) filled with 0, int64 where they also say which of the chosen
        frames is theirs, and of `has_<name>` float32 (B,)), `labels`
        int32 (B, L) padded with -1 (L is a multiple of 8, so that few shapes occur), `shard` int32 (B,), an index into
        `shards`, and `id`. A shard that cannot be read ends it with a `tf.errors.OpError`, which `shard_error`
        translates.
    """
    plan = BatchPlan(
        tuple(shards), tuple(modalities), options, epoch, skip_batches, drop_remainder, with_ids, repeat, presence
    )
    dataset = tf.data.Dataset.from_generator(lambda: array_batches(plan), output_signature=_signature(plan))
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.max_intra_op_parallelism = 1
    return dataset.prefetch(2).with_options(settings)


def shard_error(error: tf.errors.OpError) -> ShardError | None:
    """The `ShardError` that ended a dataset of `make_batches`, or None when the error is another one."""
    marker = f"{ShardError.__name__}: "
    for line in str(error.message).splitlines():
        if marker in line:
            return ShardError(line.split(marker, 1)[1])
    return None


def readable(batches: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """The batches, one by one.

    Raises:
        ShardError: a shard cannot be read.
    """
    try:
        yield from batches
    except tf.errors.OpError as error:
        named = shard_error(error)
        if named is None:
            raise
        raise named from None


def refuse_not_finite(batch: dict[str, Any], shards: Sequence[ListedShard]) -> None:
    """Raises `JobError`, naming the shard, when a feature of a batch of `make_batches(shards, …)` is not finite."""
    for name, value in batch["features"].items():
        if value.dtype.is_floating:
            bad = np.flatnonzero(~np.isfinite(value.numpy()).all(axis=-1))
            if bad.size:
                raise JobError(
                    f"{shards[int(batch['shard'][int(bad[0])])].path}: {name} of a video holds values that are "
                    "not finite; preprocess its records again, which rejects such videos"
                )


def decode_features(features: dict[str, tf.Tensor], modalities: Sequence[TransformedModality]) -> dict[str, tf.Tensor]:
    """What a model takes: codes uint8 (B, T, D) become float32 (z-scores in [-4, 4]); padded frames and those of a
    missing modality zero. Tokens (B, L) become pairs of bucket and weight, float32 (B, L, 2), which holds every bucket
    exactly; those of lines bucket, weight and frame, float32 (B, L, 3)."""
    decoded = dict(features)
    for modality in modalities:
        if modality.kind == TEXT:
            steps = weight_steps(modality.width)
            tokens = features[modality.name]
            parts = []
            if modality.timed:
                parts.append(tokens // (1 << LINE_SHIFT))
                tokens = tokens % (1 << LINE_SHIFT)
            weights = tf.cast(tokens % steps, tf.float32) / (steps - 1)
            parts = [tf.cast(part, tf.float32) for part in parts]
            decoded[modality.name] = tf.stack([tf.cast(tokens // steps, tf.float32), weights, *parts], axis=-1)
        if modality.kind == FRAMES:
            codes = features[modality.name]
            values = modality.quantisation.values(tf.cast(codes, tf.float32))
            mask = tf.sequence_mask(features["num_frames"], tf.shape(codes)[1])
            presence = presence_name(modality.name)
            if presence in features:
                mask &= features[presence][:, tf.newaxis] > 0
            decoded[modality.name] = tf.where(mask[:, :, tf.newaxis], values, 0.0)  # (B, T, D)
    return decoded
