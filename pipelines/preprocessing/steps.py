"""The steps of the pipeline. Two touch records, measuring a shard and transforming one; both read all of the shard."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping

import apache_beam as beam
import numpy as np

from pipelines.preprocessing import manifests
from pipelines.preprocessing.config import Shard, TransformConfig
from pipelines.preprocessing.manifests import MOST_LABELS_SHOWN, Summary
from pipelines.preprocessing.reading import read_shard
from pipelines.preprocessing.statistics import (
    Fitted,
    Moments,
    ShardMeter,
    Statistics,
    TextSums,
    document_counts,
    empty_statistics,
    merge_statistics,
    moments,
    statistics_hash,
)
from pipelines.preprocessing.transform.affine import AffineTransform
from pipelines.preprocessing.transform.graph import BatchGraph
from pipelines.preprocessing.transform.tokens import tokenisers_of
from pipelines.running.counters import inc_counter
from pipelines.running.inputs import check_unchanged
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records import kernels
from vcls_model.records.decoding import FrameBatch, RawBatch, Rejected
from vcls_model.records.encoding import (
    AffineColumn,
    BytesColumn,
    CodesColumn,
    Column,
    FloatColumn,
    IntegerColumn,
    encode_by_split,
)
from vcls_model.records.identity import content_sum
from vcls_model.records.schema import FRAMES, TEXT, RecordSchema
from vcls_model.records.splits import SPLITS
from vcls_model.records.text import Tokeniser
from vcls_model.records.text_options import TextOptions
from vcls_model.records.transformed import presence_name

# The square of a value must fit float32 with room for the sum over a vector; larger ones are no features of media.
_LARGEST_VALUE = 1e17
# Most pairs of labels stored per batch: the data card shows the most frequent ones only.
_MOST_PAIRS = 4096
# The data card samples transformed values: at most this many shards, records per shard, and frames per record.
_SAMPLED_SHARDS = 32
_SAMPLED_RECORDS = 32
_SAMPLED_FRAMES = 8


def measure_shard(shard: Shard, config: TransformConfig) -> ShardMeter:
    """Sums over the training records of one shard."""
    meter = ShardMeter(config.schema, config.text)
    for batch, _, splits in read_shard(shard, config):
        meter.add(batch, splits == 0)
    return meter


class MeasureShard(beam.DoFn):
    """Shard -> its `ShardMeter`, stored or measured now. Shards without training records are not read."""

    def __init__(self, output: str, config: TransformConfig) -> None:
        self._output = output
        self._config = config

    def process(self, shard: Shard) -> Iterable[ShardMeter]:
        if 0 not in shard.splits:
            return
        meter = manifests.load_statistics(self._output, shard, self._config, self._config.schema)
        if meter is None:
            digest = storage.content_digest(shard.path)
            meter = measure_shard(shard, self._config)
            check_unchanged(shard.path, shard.size_bytes, shard.modified_seconds, digest)
            manifests.save_statistics(self._output, shard, self._config, digest, meter)
            inc_counter(self, "shards_measured")
        yield meter


class MergeStatistics(beam.CombineFn):
    """Adds what `ShardMeter`s measured to `Statistics`; exact, so the order does not matter."""

    def __init__(self, schema: RecordSchema) -> None:
        self._schema = schema

    def create_accumulator(self) -> Statistics:
        return empty_statistics(self._schema)

    def add_input(self, accumulator: Statistics, meter: ShardMeter) -> Statistics:
        meter.add_to(accumulator)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Statistics]) -> Statistics:
        return merge_statistics(list(accumulators), self._schema)

    def extract_output(self, accumulator: Statistics) -> Statistics:
        return accumulator


@dataclasses.dataclass(frozen=True)
class FittedStatistics:
    """What shards are normalised with.

    Attributes:
        identity: `statistics_hash`; shards transformed with other statistics are transformed again.
        moments: by modality; of texts, counts of documents.
    """

    identity: str
    moments: Fitted


def finish_statistics(
    statistics: Statistics, schema: RecordSchema, path: str, normalise: str = "zscore", text: TextOptions | None = None
) -> FittedStatistics:
    """`Moments` of every modality, which are also written to `path` for the launcher; see `outputs.read_moments`.

    Of texts they are counts of documents, which need `text`.

    Raises:
        JobError: values are so large that normalised ones would not be numbers.
    """
    fitted: Fitted = {}
    for modality in schema.modalities:
        sums = statistics[modality.name]
        if isinstance(sums, TextSums):
            assert text is not None
            fitted[modality.name] = document_counts(sums, text)
        else:
            fitted[modality.name] = moments(sums, modality)
    for name, value in fitted.items():
        if not isinstance(value, Moments):
            continue
        largest = max(np.abs(value.lowest).max(initial=0), np.abs(value.highest).max(initial=0))
        if normalise != "none" and largest > _LARGEST_VALUE:
            raise JobError(
                f"values of {name} reach {largest:.2g}, too large to be normalised in float32 (up to "
                f"{_LARGEST_VALUE:.0e}): scale the input down, or leave it as it is with --normalise=none"
            )
    storage.write_text(path, storage.to_json({name: value.to_dict() for name, value in fitted.items()}))
    return FittedStatistics(statistics_hash(statistics), fitted)


def moments_of(fitted: FittedStatistics) -> Fitted:
    """The moments alone."""
    return fitted.moments


class TransformShard(beam.DoFn):
    """Shard -> its `Summary`, once its transformed records, its dead letters and, last, its manifest are written.

    Skips a shard whose manifest says that it was done with the same input, configuration and statistics. Side inputs:
    the statistics to normalise with and, for configurations that are not affine, the directory of the graph.
    """

    def __init__(self, output: str, config: TransformConfig) -> None:
        self._output = output
        self._config = config
        self._ready: tuple[str, AffineTransform] | None = None
        self._texts: tuple[str, dict[str, Tokeniser]] | None = None

    def _tokenisers(self, fitted: FittedStatistics) -> dict[str, Tokeniser]:
        if self._texts is None or self._texts[0] != fitted.identity:
            self._texts = fitted.identity, tokenisers_of(self._config, fitted.moments)
        return self._texts[1]

    def _transform(self, fitted: FittedStatistics, graph_directory: str | None) -> AffineTransform | BatchGraph:
        if graph_directory is not None:
            return BatchGraph.load(graph_directory, self._config, fitted.identity)
        if self._ready is None or self._ready[0] != fitted.identity:
            self._ready = fitted.identity, AffineTransform.of(self._config, fitted.moments)
        return self._ready[1]

    def process(self, shard: Shard, fitted: FittedStatistics, graph_directory: str | None = None) -> Iterable[Summary]:
        summary = manifests.load_manifest(self._output, shard, self._config, fitted.identity)
        if summary is None:
            transform = self._transform(fitted, graph_directory)
            digest = storage.content_digest(shard.path)
            summary, sizes = transform_shard(self._output, shard, self._config, transform, self._tokenisers(fitted))
            check_unchanged(shard.path, shard.size_bytes, shard.modified_seconds, digest)
            measured = manifests.measured_records(self._output, shard)
            if measured is not None and measured != summary.written[0]:
                raise JobError(
                    f"{shard.path} had {measured:,} training records when it was measured and {summary.written[0]:,} "
                    "when it was transformed: it changed in between. Wait until it is complete, then start again with "
                    "--overwrite"
                )
            manifests.save_manifest(self._output, shard, self._config, digest, fitted.identity, sizes, summary)
            inc_counter(self, "shards_transformed")
            inc_counter(self, "records_written", summary.records_written)
            for reason, count in summary.rejected.items():
                inc_counter(self, f"rejected_{reason}", count)
        # Hashes stay where they are: in the manifest, and not in what workers send each other.
        yield dataclasses.replace(summary, ids=())


class MergeSummaries(beam.CombineFn):
    """Adds `Summary`s."""

    def create_accumulator(self) -> Summary:
        return Summary()

    def add_input(self, accumulator: Summary, summary: Summary) -> Summary:
        return accumulator.merge(summary)

    def merge_accumulators(self, accumulators: Iterable[Summary]) -> Summary:
        merged = Summary()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Summary) -> Summary:
        return accumulator


def write_summary(summary: Summary, path: str) -> None:
    """Writes the counts of the whole job to `path` for the launcher; see `outputs.finish`."""
    storage.write_atomically(path, summary.to_bytes())


def transform_shard(
    output: str,
    shard: Shard,
    config: TransformConfig,
    transform: AffineTransform | BatchGraph,
    texts: Mapping[str, Tokeniser] | None = None,
) -> tuple[Summary, dict[str, int]]:
    """Transforms one shard and writes one file per split and its dead letters.

    Returns:
        What the shard contains, and the bytes of each file by its path below `output`.
    """
    sampling = shard.index % (shard.count // _SAMPLED_SHARDS + 1) == 0
    transformer = ShardTransformer(config, transform, sampling, texts)
    outputs = {split: shard.output(split) for split in shard.splits}
    sizes = dict.fromkeys(outputs.values(), 0)
    checksums = dict.fromkeys(outputs.values(), np.uint32(0))
    dead_letters = bytearray()
    with contextlib.ExitStack() as stack:
        streams = {
            split: stack.enter_context(storage.open_atomically(storage.join(output, name)))
            for split, name in outputs.items()
        }
        for batch, rejected, splits in read_shard(shard, config):
            for record in rejected:
                dead_letters += record.to_json()
            for split, data in transformer.transform(batch, rejected, splits):
                name = outputs[split]
                streams[split].write(data.data)
                sizes[name] += data.size
                checksums[name] = kernels.crc32c(data, 0, data.size, checksums[name])
    summary = transformer.finish()
    dead_letter = manifests.dead_letter_path(output, shard)
    if dead_letters:
        with storage.open_atomically(dead_letter) as stream:
            stream.write(dead_letters)
    elif storage.exists(dead_letter):  # of an earlier run with another input or other flags
        storage.delete(dead_letter)
    summary.shards = 1
    summary.shards_empty = int(summary.records_read == 0)
    summary.bytes_read = shard.size_bytes
    summary.bytes_written = sum(sizes.values())
    summary.content = content_sum({name: (size, int(checksums[name])) for name, size in sizes.items()})
    return summary, sizes


class ShardTransformer:
    """Batches of one shard -> framed transformed records by split; counts them on the way.

    Args:
        config, transform: what to do.
        sampling: look at the values of some records, for the data card.
        texts: by name of the text modality.

    Attributes:
        summary: of what was transformed so far.
    """

    def __init__(
        self,
        config: TransformConfig,
        transform: AffineTransform | BatchGraph,
        sampling: bool = True,
        texts: Mapping[str, Tokeniser] | None = None,
    ) -> None:
        self._config = config
        self._texts = texts or {}
        self._transform = transform
        self._sampling = sampling
        self._frames = config.schema.has_frames
        modalities = config.schema.modalities
        self._float_frames = {each.name for each in modalities if each.kind == FRAMES and not each.coded}
        self._hashes: list[list[np.ndarray]] = [[] for _ in SPLITS]
        self.summary = Summary(
            class_counts=np.zeros((len(SPLITS), config.class_count), np.int64),
            frame_counts=np.zeros(config.max_frames + 1 if self._frames else 0, np.int64),
        )

    def transform(self, batch: RawBatch, rejected: list[Rejected], splits: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """(split, bytes of its records) for each split that the batch has records of, in the order of the records."""
        self.summary.rejected.update(record.error for record in rejected)
        self.summary.notes.update(batch.notes)
        if not len(batch):
            return []
        columns = self._columns(batch)
        where = self._where(batch, columns)
        self._count(batch, splits, columns, where)
        return encode_by_split(columns, splits, where)

    def finish(self) -> Summary:
        """What was transformed, with the hashes of its ids."""
        hashes = [np.concatenate([np.zeros(0, np.uint64), *parts]) for parts in self._hashes]
        # Several segments of a video are several records.
        self.summary.ids = tuple(map(np.unique, hashes) if self._config.schema.segments else hashes)
        return self.summary

    def _columns(self, batch: RawBatch) -> dict[str, Column]:
        columns: dict[str, Column] = {
            "id": batch.id_column,
            "labels": IntegerColumn.of_lengths(batch.label_values, batch.label_lengths),
        }
        if isinstance(self._transform, AffineTransform):
            for name, values in batch.features.items():
                if isinstance(values, BytesColumn):
                    columns[name] = self._tokens(name, values)
                else:
                    columns[name] = _affine_column(values, name, self._transform, name in self._float_frames)
        else:
            raw = {
                name: _graph_input(values)
                for name, values in batch.features.items()
                if not isinstance(values, BytesColumn)
            }
            transformed = self._transform(raw)
            for feature in self._config.transformed():
                if feature.kind == TEXT:
                    texts = batch.features[feature.name]
                    assert isinstance(texts, BytesColumn)
                    columns[feature.name] = self._tokens(feature.name, texts)
                    continue
                values = transformed[feature.name]
                columns[feature.name] = (
                    BytesColumn.of(values.tolist())
                    if feature.kind == FRAMES
                    else FloatColumn(np.ascontiguousarray(values))
                )
        if self._frames:
            columns["num_frames"] = IntegerColumn.of_lengths(batch.frame_counts(), np.ones(len(batch), np.int64))
        return columns

    def _tokens(self, name: str, texts: BytesColumn) -> IntegerColumn:
        tokens, notes = self._texts[name].tokens(texts)
        self.summary.notes.update(notes)
        return tokens

    def _where(self, batch: RawBatch, columns: dict[str, Column]) -> dict[str, np.ndarray]:
        """Which records get a column, for those that not all get; adds the columns that say what is missing."""
        where = {}
        for name, lacking in batch.missing.items():
            for feature in self._config.made_of(name):
                presence = presence_name(feature)
                columns[presence] = IntegerColumn.of_lengths(
                    np.zeros(len(batch), np.int64), np.ones(len(batch), np.int64)
                )
                where[feature], where[presence] = ~lacking, lacking
        return where

    def _count(
        self, batch: RawBatch, splits: np.ndarray, columns: dict[str, Column], where: dict[str, np.ndarray]
    ) -> None:
        summary = self.summary
        summary.written += np.bincount(splits, minlength=len(SPLITS))
        summary.missing.update({name: int(lacking.sum()) for name, lacking in batch.missing.items()})
        classes = summary.class_counts.shape[1]
        codes = np.repeat(splits, batch.label_lengths) * classes + batch.label_values
        summary.class_counts += np.bincount(codes, minlength=summary.class_counts.size).reshape(-1, classes)
        summary.label_counts += np.bincount(
            np.minimum(batch.label_lengths, MOST_LABELS_SHOWN), minlength=MOST_LABELS_SHOWN + 1
        )
        if self._frames:
            frames = columns["num_frames"]
            assert isinstance(frames, IntegerColumn)
            summary.frame_counts += np.bincount(frames.values, minlength=len(summary.frame_counts))
        self._count_pairs(batch)
        ids = batch.split_id_column
        hashes = np.empty(len(batch), np.uint64)
        kernels.hash_bytes(ids.data, ids.begins, ids.lengths, hashes)
        for split, parts in enumerate(self._hashes):
            parts.append(hashes[splits == split])
        if self._sampling and not summary.sampled:
            self._sample(columns, np.flatnonzero(splits == 0)[:_SAMPLED_RECORDS], where)

    def _count_pairs(self, batch: RawBatch) -> None:
        lengths = batch.label_lengths
        count = int((lengths * (lengths - 1) // 2).sum())
        if count:
            first, second = np.empty(count, np.int64), np.empty(count, np.int64)
            kernels.count_pairs(batch.label_values, lengths, first, second)
            codes, counts = np.unique(first * self._config.class_count + second, return_counts=True)
            if len(codes) > _MOST_PAIRS:
                kept = np.sort(np.argsort(-counts, kind="stable")[:_MOST_PAIRS])
                codes, counts = codes[kept], counts[kept]
            self.summary.pairs.add(codes, counts)

    def _sample(self, columns: dict[str, Column], rows_chosen: np.ndarray, where: dict[str, np.ndarray]) -> None:
        """Sums the transformed values of some training records, for the data card."""
        for feature in self._config.transformed():
            chosen = rows_chosen[where[feature.name][rows_chosen]] if feature.name in where else rows_chosen
            column = columns[feature.name]
            if feature.kind == TEXT:
                continue
            if isinstance(column, FloatColumn):
                rows = column.rows[chosen].astype(np.float64)
            elif isinstance(column, AffineColumn):
                rows = ((column.rows[chosen] - column.location) * column.factor).astype(np.float64)
            else:
                rows = _codes_of(column, chosen, feature.width) * feature.scale + feature.offset
            self.summary.sampled[feature.name] = [
                np.full(1, float(len(rows))),
                rows.sum(axis=0),
                (rows * rows).sum(axis=0),
            ]


def _codes_of(column: Column, chosen: np.ndarray, width: int) -> np.ndarray:
    """The transformed codes of the first frames of some records, uint8 (N, D)."""
    rows = []
    for record in chosen.tolist():
        if isinstance(column, CodesColumn):
            begins = (
                column.begins[record] + np.arange(min(column.frames[record], _SAMPLED_FRAMES)) * column.strides[record]
            )
            codes = column.buffer[begins[:, np.newaxis] + np.arange(width)]
            rows.append(column.mapping(codes))
        else:
            assert isinstance(column, BytesColumn)
            begin = column.begins[record]
            codes = column.data[begin : begin + column.lengths[record]].reshape(-1, width)
            rows.append(codes[:_SAMPLED_FRAMES])
    return np.concatenate(rows) if rows else np.zeros((0, width), np.uint8)


def _affine_column(
    values: np.ndarray | FrameBatch, name: str, transform: AffineTransform, float_frames: bool
) -> Column:
    if isinstance(values, FrameBatch) and float_frames:
        codes = transform.codes[name](values.floats())
        lengths = values.lengths * codes.shape[1]
        return BytesColumn(codes.reshape(-1), np.cumsum(lengths) - lengths, lengths)
    if isinstance(values, FrameBatch):
        return CodesColumn(values.buffer, values.begins, values.strides, values.lengths, transform.codes[name])
    return AffineColumn(values, *transform.affine[name])


def _graph_input(values: np.ndarray | FrameBatch) -> np.ndarray | list[bytes]:
    return values.strings() if isinstance(values, FrameBatch) else values
