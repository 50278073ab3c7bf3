"""A shard as a sequence of blocks: the records of one model call, decoded, with what was rejected on the way."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.planning import Group, Shard
from pipelines.scoring.predictions import Labels, printable_id
from pipelines.scoring.segments import Ratings, ShardRatings, ratings_of, read_ratings
from vcls_model.metrics.slices import NO_VALUE
from vcls_model.records import examples
from vcls_model.records.shards import FrameBatch, RawBatch, Rejected, read_batches
from vcls_model.records.splits import SPLITS, SplitRatios, split_of
from vcls_model.serving.exported import frame_strings

# Frame-level codes of one model call: 16 MB of bytes become 64 MB of float32 in the model, and as much again inside it.
FRAME_BATCH_BYTES = 16 << 20
VIDEO_BATCH_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Block:
    """Some records of a shard, in order.

    Attributes:
        group: name of the group that the shard belongs to.
        shard: where the records are from.
        ids: of the B records.
        offsets: int64 (B,), where each record begins in the shard, in bytes.
        features: by modality, as the model takes them: float32 (B, D), or B bytes strings.
        labels: true classes.
        ratings: what raters said of the segments, for segment records, else None.
        rejected: what could not be used.
        outside_split: records that belong to another split than the one asked for.
        ends_shard: no block of this shard follows; such a block holds no records.
        ends_group: no block of this group follows.
        feature_bytes: size of the features.
        contexts: the values, one a record, of each context feature that metrics are sliced by.
    """

    group: str
    shard: Shard
    ids: Sequence[bytes]
    offsets: np.ndarray
    features: Mapping[str, Any]
    labels: Labels
    ratings: Ratings | None
    rejected: Sequence[Rejected]
    outside_split: int
    ends_shard: bool = False
    ends_group: bool = False
    feature_bytes: int = 0
    contexts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ScoredBlock:
    """A block and its logits, float32 (B, C), one array a model."""

    block: Block
    logits: list[np.ndarray]


def read_group(group: Group, config: ScoringConfig) -> Iterator[Block]:
    """All blocks of a group, shard by shard; each shard ends with a block that holds no records."""
    for place, shard in enumerate(group.shards):
        ratings = read_ratings(shard.path, config.schema) if config.schema.segments else None
        for batch, rejected in read_batches(
            shard.path,
            config.schema,
            class_count=config.class_count,
            batch_records=config.batch_size,
            batch_bytes=FRAME_BATCH_BYTES if config.schema.has_frames else VIDEO_BATCH_BYTES,
            max_frames=config.max_frames,
            missing_modality=config.missing_modality,
            require_labels=False,
            keep_payloads=bool(config.slice_by),
        ):
            yield make_block(group, shard, batch, rejected, config, ratings)
        nothing = np.zeros(0, np.int64)
        yield Block(
            group.name,
            shard,
            [],
            nothing,
            {},
            Labels(nothing, nothing, nothing.astype(bool)),
            None,
            [],
            0,
            ends_shard=True,
            ends_group=place == len(group.shards) - 1,
        )


def make_block(
    group: Group,
    shard: Shard,
    batch: RawBatch,
    rejected: Sequence[Rejected],
    config: ScoringConfig,
    ratings: ShardRatings | None = None,
) -> Block:
    """The records of `batch` that belong to the split asked for, with what raters said of them."""
    labels = Labels(batch.label_values, batch.label_lengths, batch.labelled)
    ids: Sequence[bytes] = batch.ids
    offsets = batch.offsets
    features = {
        name: frame_strings(values.codes, values.lengths) if isinstance(values, FrameBatch) else values
        for name, values in batch.features.items()
    }
    contexts = context_values(batch.payloads or [], config.slice_by)
    outside = 0
    if config.split is not None:
        assert config.ratios is not None
        rows = in_split(batch.split_ids, config.split, config.ratios)
        # A rejected record counts unless it is known to belong elsewhere.
        kept = [
            each for each in rejected if not each.id or in_split([each.id.encode()], config.split, config.ratios)[0]
        ]
        outside = int(np.count_nonzero(~rows)) + len(rejected) - len(kept)
        rejected = kept
        ids = [video_id for video_id, keep in zip(ids, rows, strict=True) if keep]
        offsets = offsets[rows]
        contexts = {
            name: [value for value, keep in zip(values, rows, strict=True) if keep] for name, values in contexts.items()
        }
        labels = labels.select(rows)
        features = {
            name: values[rows]
            if isinstance(values, np.ndarray)
            else [value for value, keep in zip(values, rows, strict=True) if keep]
            for name, values in features.items()
        }
    size = sum(
        values.nbytes if isinstance(values, np.ndarray) else sum(map(len, values)) for values in features.values()
    )
    rated = None if ratings is None else ratings_of(ids, ratings)
    return Block(
        group.name,
        shard,
        ids,
        offsets,
        features,
        labels,
        rated,
        rejected,
        outside,
        feature_bytes=size,
        contexts=contexts,
    )


def context_values(payloads: Sequence[bytes], names: Sequence[str]) -> dict[str, list[str]]:
    """The value of each named feature in each record, as text: several joined by `|`, none as `(none)`."""
    values: dict[str, list[str]] = {name: [] for name in names}
    for payload in payloads if names else ():
        features = examples.parse_record(payload).features
        for name in names:
            found = features[name].values if name in features else ()
            values[name].append("|".join(_text(value) for value in found) or NO_VALUE)
    return values


def _text(value: bytes | int | np.floating) -> str:
    if isinstance(value, bytes):
        return printable_id(value)
    return f"{value:g}" if isinstance(value, np.floating) else str(value)


def in_split(ids: Sequence[bytes], split: str, ratios: SplitRatios) -> np.ndarray:
    """Bool (B,): which ids belong to `split`."""
    wanted = SPLITS.index(split)
    return np.fromiter((split_of(video_id, ratios) == wanted for video_id in ids), np.bool_, len(ids))
