"""Reads transformed shards into batches, in an order that the seed alone decides.

The unit of shuffling is a *block*: a thousand records drawn from many shards at once, permuted, parsed in one go
and sliced into batches. Parsing a block costs a fraction of parsing its batches one by one, and no step of the pipeline
touches single records; only records as large as long videos' frames go one by one through a shuffle buffer of the same
size in bytes. Memory holds a few blocks, whatever the size of the data.

Labels stay sparse: a batch carries class indices (B, L), padded with -1 to the longest list of its block. Frame-level
features stay codes of one byte, which `decode_features` turns into numbers on the device.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vcls_model.options import ReadOptions
from vcls_model.schema import FRAME_LEVEL, Modality
from vcls_model.transformed import TransformedModality

# A block of 1,024 video-level records is 5 MB: it stays in the cache from parsing to slicing, which halves the cost of
# blocks four times as large.
BLOCK_RECORDS = 1024
BLOCK_BYTES = 64 * 2**20
# Copying records of more than this costs more than handling them one by one: they are shuffled singly, never copied.
LARGE_RECORD_BYTES = 2**16
CYCLE_SHARDS = 16
LABEL_WIDTH_STEP = 8


def _first_record_bytes(shards: Sequence[str]) -> int:
    """Size of the first record, for how many fit a block; 1 when there is none that can be read."""
    try:
        return max(1, len(next(iter(tf.data.TFRecordDataset(list(shards)).as_numpy_iterator()), b"")))
    except tf.errors.DataLossError:
        return 1  # whoever reads the dataset meets the error where it can be told which shard it is


def _seed(seed: int, epoch: int, number: tf.Tensor) -> tf.Tensor:
    """A stateless seed for the `number`-th draw of an epoch."""
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64) + (epoch << 32)])


def _parsing_spec(modalities: Sequence[Modality], with_ids: bool) -> dict[str, Any]:
    spec: dict[str, Any] = {"labels": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int32)}
    if with_ids:
        spec["id"] = tf.io.FixedLenFeature([], tf.string)
    for modality in modalities:
        if modality.level == FRAME_LEVEL:
            spec[modality.name] = tf.io.FixedLenFeature([], tf.string)
            spec["num_frames"] = tf.io.FixedLenFeature([], tf.int64)
        else:
            spec[modality.name] = tf.io.FixedLenFeature([modality.width], tf.float32)
    return spec


def _pad_labels(labels: tf.RaggedTensor) -> tf.Tensor:
    """Class indices int32 (N, L), padded with -1; L is a multiple of 8, so that few shapes occur."""
    longest = tf.cast(tf.reduce_max(tf.concat([labels.row_lengths(), [1]], 0)), tf.int32)
    width = (longest + LABEL_WIDTH_STEP - 1) // LABEL_WIDTH_STEP * LABEL_WIDTH_STEP
    return tf.cast(labels.to_tensor(-1, shape=tf.stack([-1, width])), tf.int32)


def _parse_block(serialized: tf.Tensor, shard: tf.Tensor, spec: dict[str, Any]) -> dict[str, tf.Tensor]:
    block = tf.io.parse_example(serialized, spec)
    block["labels"] = _pad_labels(block["labels"])
    block["shard"] = shard
    if "num_frames" in block:
        block["num_frames"] = tf.cast(block["num_frames"], tf.int32)
    return block


def _chosen_frames(counts: tf.Tensor, limit: int, sampling: str, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions int32 (B, limit) of the frames to keep, ascending, and how many of them are real, int32 (B,)."""
    kept = tf.minimum(counts, limit)
    steps = tf.range(limit)[tf.newaxis, :]  # (1, K)
    size = tf.shape(counts)[0]
    if sampling == "sequence":
        spare = tf.cast(counts - kept + 1, tf.float32)
        start = tf.cast(tf.random.stateless_uniform([size], seed) * spare, tf.int32)
        positions = start[:, tf.newaxis] + steps
    elif sampling == "uniform":
        stride = tf.cast(counts, tf.float32) / tf.cast(tf.maximum(kept, 1), tf.float32)
        positions = tf.cast((tf.cast(steps, tf.float32) + 0.5) * stride[:, tf.newaxis], tf.int32)
    else:
        # One random key a frame; the frames with the smallest keys are a uniform draw without replacement.
        longest = tf.maximum(tf.reduce_max(counts), limit)
        keys = tf.random.stateless_uniform([size, longest], seed)
        keys = tf.where(tf.range(longest)[tf.newaxis, :] < counts[:, tf.newaxis], keys, 2.0)
        drawn = tf.argsort(keys, axis=1)[:, :limit]
        drawn = tf.where(steps < kept[:, tf.newaxis], drawn, longest)
        positions = tf.sort(drawn, axis=1)
    return tf.minimum(positions, tf.maximum(counts - 1, 0)[:, tf.newaxis]), kept


def _decode_frames(batch: dict[str, tf.Tensor], modalities: Sequence[Modality], options: ReadOptions,
                   batch_number: tf.Tensor, epoch: int) -> dict[str, tf.Tensor]:
    """Turns each modality's bytes into codes uint8 (B, T, D), T at most `max_frames`."""
    counts = batch["num_frames"]
    frames = [modality for modality in modalities if modality.level == FRAME_LEVEL]
    if options.frames == "all":
        kept = tf.minimum(counts, options.max_frames)
        longest = tf.constant(options.max_frames) if options.fixed_frames else tf.maximum(tf.reduce_max(kept), 1)
        for modality in frames:
            codes = tf.io.decode_raw(batch[modality.name], tf.uint8, fixed_length=longest * modality.width)
            batch[modality.name] = tf.reshape(codes, tf.stack([tf.shape(codes)[0], longest, modality.width]))
    else:
        positions, kept = _chosen_frames(counts, options.max_frames, options.frames,
                                         _seed(options.seed, epoch, batch_number))
        longest = tf.maximum(tf.reduce_max(counts), 1)
        for modality in frames:
            codes = tf.io.decode_raw(batch[modality.name], tf.uint8, fixed_length=longest * modality.width)
            codes = tf.reshape(codes, tf.stack([tf.shape(codes)[0], longest, modality.width]))
            batch[modality.name] = tf.gather(codes, positions, batch_dims=1)
    for modality in frames:
        steps = options.max_frames if options.fixed_frames or options.frames != "all" else None
        batch[modality.name] = tf.ensure_shape(batch[modality.name], [None, steps, modality.width])
    batch["num_frames"] = kept
    return batch


def _as_element(batch: dict[str, tf.Tensor], modalities: Sequence[Modality]) -> dict[str, Any]:
    names = [modality.name for modality in modalities] + [name for name in ("num_frames",) if name in batch]
    element: dict[str, Any] = {name: batch[name] for name in ("labels", "shard", "id") if name in batch}
    element["features"] = {name: batch[name] for name in names}
    return element


def make_batches(
    shards: Sequence[str],
    modalities: Sequence[Modality],
    options: ReadOptions,
    *,
    epoch: int | None = None,
    skip_batches: int = 0,
    drop_remainder: bool = False,
    with_ids: bool = False,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches of a split.

    Args:
        shards: paths of TFRecord files of transformed records.
        modalities: the features to read.
        options: how to batch, sample and shuffle.
        epoch: number of the epoch, from 0: shuffles by `options.seed` and `epoch`. None keeps the order of the files.
        skip_batches: batches of the epoch to pass over, for a run that continues.
        drop_remainder: leave out the last batch when it is not full.
        with_ids: also deliver `id` bytes (B,).
        repeat: start again at the end of the data (for workers whose share is smaller than another's).

    Returns:
        A dataset of dicts: `features` (a dict of `<name>` float32 (B, D), or uint8 codes (B, T, D) with `num_frames`
        int32 (B,)), `labels` int32 (B, L) padded with -1, `shard` int32 (B,), an index into `shards`, and `id`.
    """
    has_frames = any(modality.level == FRAME_LEVEL for modality in modalities)
    size = options.batch_size
    record_bytes = _first_record_bytes(shards)
    block_size = max(1, min(BLOCK_RECORDS, BLOCK_BYTES // record_bytes) // size) * size
    chunk = max(1, min(256, block_size // CYCLE_SHARDS))
    spec = _parsing_spec(modalities, with_ids)

    def read_shard(path: tf.Tensor, index: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(path, buffer_size=2**20).batch(chunk)
        return records.map(lambda rows: (rows, tf.fill([tf.shape(rows)[0]], index)))

    def read_records(path: tf.Tensor, index: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path, buffer_size=2**20).map(lambda record: (record, index))

    def parse(number: tf.Tensor, rows: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        block = _parse_block(*rows, spec)
        if epoch is None:
            return block
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(block["shard"])[0]),
                                                         _seed(options.seed, epoch, number))
        return {name: tf.gather(value, order) for name, value in block.items()}

    def slices(block: dict[str, tf.Tensor]) -> tf.data.Dataset:
        rows = tf.shape(block["shard"])[0]
        return tf.data.Dataset.range(tf.cast((rows + size - 1) // size, tf.int64)).map(
            lambda i: {name: value[tf.cast(i, tf.int32) * size:(tf.cast(i, tf.int32) + 1) * size]
                       for name, value in block.items()})

    index = list(range(len(shards)))
    if epoch is not None:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(shards)), [options.seed, epoch]).numpy()
        index = [int(i) for i in order]
    dataset = tf.data.Dataset.from_tensor_slices(([shards[i] for i in index], tf.constant(index, tf.int32)))
    if repeat:
        dataset = dataset.repeat()
    large = record_bytes > LARGE_RECORD_BYTES
    reader = read_records if large else read_shard
    if epoch is None:
        dataset = dataset.flat_map(reader)
    else:
        dataset = dataset.interleave(reader, cycle_length=CYCLE_SHARDS, num_parallel_calls=2, deterministic=True)
    if large:
        if epoch is not None:
            dataset = dataset.shuffle(block_size, seed=options.seed + (epoch << 32), reshuffle_each_iteration=False)
        dataset = dataset.batch(size, drop_remainder=drop_remainder).skip(skip_batches)
        dataset = dataset.map(lambda rows, shard: _parse_block(rows, shard, spec), num_parallel_calls=2,
                              deterministic=True)
    else:
        dataset = dataset.rebatch(block_size)
        dataset = dataset.enumerate().map(parse, num_parallel_calls=2, deterministic=True).flat_map(slices)
        if drop_remainder:
            dataset = dataset.filter(lambda batch: tf.shape(batch["shard"])[0] == size)
        dataset = dataset.skip(skip_batches)
    if has_frames:
        dataset = dataset.enumerate(skip_batches).map(
            lambda number, batch: _decode_frames(batch, modalities, options, number, epoch or 0),
            num_parallel_calls=2, deterministic=True)
    dataset = dataset.map(lambda batch: _as_element(batch, modalities))
    settings = tf.data.Options()
    settings.autotune.enabled = False
    settings.threading.max_intra_op_parallelism = 1
    return dataset.prefetch(2).with_options(settings)


def decode_features(features: dict[str, tf.Tensor], modalities: Sequence[TransformedModality]) -> dict[str, tf.Tensor]:
    """What a model takes: codes uint8 (B, T, D) become float32 (z-scores in [-4, 4]), zero where there is no frame."""
    decoded = dict(features)
    for modality in modalities:
        if modality.level == FRAME_LEVEL:
            codes = features[modality.name]
            values = tf.cast(codes, tf.float32) * modality.scale + modality.offset
            mask = tf.sequence_mask(features["num_frames"], tf.shape(codes)[1])
            decoded[modality.name] = tf.where(mask[:, :, tf.newaxis], values, 0.0)  # (B, T, D)
    return decoded
