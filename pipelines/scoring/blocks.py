"""A shard as a sequence of blocks: the records of one model call, decoded, with what was rejected on the way."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.running.inputs import check_unchanged
from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.media import MediaRecords
from pipelines.scoring.planning import Group, InputShard
from pipelines.scoring.predictions import Labels
from pipelines.scoring.presence import present, without
from vcls_model import storage
from vcls_model.metrics.slices import NO_VALUE
from vcls_model.records.decoding import FeatureValues, Ratings
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.examples import Values
from vcls_model.records.ids import printable_id
from vcls_model.records.shards import FrameBatch, RawBatch, Rejected, read_batches
from vcls_model.records.split_ids import places_of
from vcls_model.records.splits import SPLITS

# Bytes of a shard that are decoded together.
FRAME_BATCH_BYTES = 16 << 20
VIDEO_BATCH_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Block:
    """Some records of a shard, in order.

    Attributes:
        group: name of the group that the shard belongs to.
        shard: the shard that the records are from.
        ids: ids of the B records.
        offsets: int64 (B,), where each record begins in the shard, in bytes.
        features: by modality: float32 (B, D), frames, or texts.
        labels: true classes.
        ratings: ratings of the segments, for segment records, else None.
        rejected: records that could not be used.
        outside_split: number of records that belong to another split than the one asked for.
        by_split: number of the B records in each split of the model's data, in the order of `SPLITS`, and in none;
            () where that is not known.
        ends_shard: no block of this shard follows; such a block holds no records.
        ends_group: no block of this group follows.
        digest: of the last block of a shard, the `storage.content_digest` of the shard when it was read.
        unknown_labels: number of labels, in the records read, that are none of the model's classes and were left out.
        contexts: the values, one per record, of each context feature by which metrics are broken down.
        missing: how many of the records lack each modality, for those that some lack.
    """

    group: str
    shard: InputShard
    ids: Sequence[bytes]
    offsets: np.ndarray
    features: Mapping[str, FeatureValues]
    labels: Labels
    ratings: Ratings | None
    rejected: Sequence[Rejected]
    outside_split: int
    ends_shard: bool = False
    ends_group: bool = False
    digest: str = ""
    unknown_labels: int = 0
    contexts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    by_split: tuple[int, ...] = ()

    @property
    def feature_bytes(self) -> int:
        """Size of the features."""
        return sum(map(_size, self.features.values()))


@dataclasses.dataclass(frozen=True)
class ScoredBlock:
    """A block and what the models say of it.

    Attributes:
        block: the records.
        logits: float32 (B, C), one array per model.
        complete: bool (B,), the records that have all modalities, where subsets are measured.
        subsets: float32 (records that are complete, C), of the mean of the models, by subset.
    """

    block: Block
    logits: list[np.ndarray]
    complete: np.ndarray | None = None
    subsets: Sequence[np.ndarray] = ()


def read_group(group: Group, config: ScoringConfig) -> Iterator[Block]:
    """All blocks of a group, shard by shard; each shard ends with a block that holds no records."""
    with contextlib.ExitStack() as stack:
        media = stack.enter_context(contextlib.closing(MediaRecords(config))) if config.media else None
        for place, shard in enumerate(group.shards):
            digest = storage.content_digest(shard.path)
            for batch, rejected in media.read_batches(shard.path) if media else _read_records(shard, config):
                yield make_block(group, shard, batch, rejected, config)
            check_unchanged(shard.path, shard.size_bytes, shard.modified_seconds, digest)
            yield _end_of_shard(group, shard, digest, ends_group=place == len(group.shards) - 1)


def _read_records(shard: InputShard, config: ScoringConfig) -> Iterator[tuple[RawBatch, list[Rejected]]]:
    return read_batches(
        shard.path,
        config.schema,
        class_count=config.class_count,
        batch_records=config.batch_size,
        batch_bytes=FRAME_BATCH_BYTES if config.schema.has_frames else VIDEO_BATCH_BYTES,
        max_frames=config.max_frames,
        missing_modality=config.missing_modality,
        require_labels=False,
        drop_unknown_labels=True,
        context_features=config.slice_by,
        class_names=config.class_names,
    )


def _end_of_shard(group: Group, shard: InputShard, digest: str, *, ends_group: bool) -> Block:
    nothing = np.zeros(0, np.int64)
    labels = Labels(nothing, nothing, nothing.astype(bool))
    return Block(
        group.name,
        shard,
        [],
        nothing,
        {},
        labels,
        None,
        [],
        0,
        ends_shard=True,
        ends_group=ends_group,
        digest=digest,
    )


def make_block(
    group: Group,
    shard: InputShard,
    batch: RawBatch,
    rejected: Sequence[Rejected],
    config: ScoringConfig,
) -> Block:
    """The records of `batch` that belong to the split asked for, with their ratings."""
    rows = np.ones(len(batch), np.bool_)
    outside = 0
    places = places_of(batch.split_ids, config.splits) if config.splits is not None else None
    if config.split is not None:
        assert config.splits is not None and places is not None
        wanted = SPLITS.index(config.split)
        rows = places == wanted
        # A rejected record counts unless it is known to belong elsewhere.
        kept = [each for each in rejected if not each.id or places_of([each.id.encode()], config.splits)[0] == wanted]
        outside = int(np.count_nonzero(~rows)) + len(rejected) - len(kept)
        rejected = kept
    features = batch.features
    if config.without:
        features = without(features, config.without)
        left = present(features).any(axis=0)
        nothing = f"without {', '.join(config.without)} nothing is left of the record"
        rejected = [
            *rejected,
            *(
                Rejected(
                    shard.path,
                    int(batch.offsets[row]),
                    printable_id(batch.ids[row]),
                    "validate",
                    "missing_feature",
                    nothing,
                )
                for row in np.flatnonzero(rows & ~left).tolist()
            ),
        ]
        rows = rows & left
    ids = list(itertools.compress(batch.ids, rows))
    return Block(
        group.name,
        shard,
        ids,
        batch.offsets[rows],
        {name: _copied(values, rows) for name, values in features.items()},
        Labels(batch.label_values, batch.label_lengths, batch.labelled).select(rows),
        None if batch.ratings is None else batch.ratings.select(rows),
        rejected,
        outside,
        unknown_labels=batch.notes["labels_unknown"],
        contexts={
            name: [_text(own) for own in itertools.compress(values, rows)] for name, values in batch.context.items()
        },
        missing={name: int((lacking & rows).sum()) for name, lacking in batch.missing.items()},
        by_split=() if places is None else _counts(places[rows]),
    )


def _counts(places: np.ndarray) -> tuple[int, ...]:
    """How many records are in each split, and in none, place -1."""
    counts = np.bincount(np.where(places < 0, len(SPLITS), places), minlength=len(SPLITS) + 1)
    return tuple(counts.tolist())


def _size(values: FeatureValues) -> int:
    """Bytes of the values of a modality."""
    if isinstance(values, BytesColumn):
        return int(values.lengths.sum())
    return (values.buffer if isinstance(values, FrameBatch) else values).nbytes


def _copied(values: FeatureValues, rows: np.ndarray) -> FeatureValues:
    """The features of some records; frames and texts in a buffer of their own, valid as long as the block is."""
    if isinstance(values, BytesColumn):
        return BytesColumn.of(values[rows].tolist())
    if not isinstance(values, FrameBatch):
        return values if rows.all() else values[rows]
    chosen = values.select(rows)
    return FrameBatch.of(chosen.codes, chosen.lengths)


def _text(values: Values) -> str:
    """The value of a context feature as text: several joined by `|`, none as `(none)`."""
    return "|".join(map(_one_text, values)) or NO_VALUE


def _one_text(value: bytes | int | np.floating) -> str:
    if isinstance(value, bytes):
        return printable_id(value)
    return f"{value:g}" if isinstance(value, np.floating) else str(value)
