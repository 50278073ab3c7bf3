"""The scores of one group while it is being scored, and how they are committed."""

import dataclasses
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from pipelines.running.outputs import DEAD_LETTER
from pipelines.scoring.blocks import ScoredBlock
from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.layout import ids_name, manifest_path, modalities_name, part_name, segments_name, slices_name
from pipelines.scoring.predictions import Labels, ShardPredictions
from pipelines.scoring.progress import note_shard
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.heap import return_freed_memory
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.kernels import BestRows
from vcls_model.metrics.layout import TOP
from vcls_model.metrics.ranking import NotANumberError, chosen_rows, first_k, joined, select_best
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import SliceAccumulator
from vcls_model.metrics.stored import STATE, aggregate_name
from vcls_model.records.decoding import Rejected
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.ids import printable_id
from vcls_model.records.split_ids import hashes_of
from vcls_model.records.splits import NO_SPLIT, SPLITS
from vcls_model.serving.combining import mean_of_models

NAN_LOGITS = "nan_logits"
# The table of counts is larger than the caches: adding this many rows at once takes half the time of a few hundred.
UPDATE_ROWS = 2048
# A group of many shards is committed in parts: a part lasts so many seconds, and so many times what storing one takes,
# so that a job that is killed loses little, and all commits together take less than a fiftieth of the time.
PART_SECONDS = 10.0
_PART_COSTS = 60
# Batches of logits that come and go leave holes in the heap of each thread: some 200 MB before they settle.
TRIM_SECONDS = 5.0
# Packing an aggregate takes as much memory again: one thread at a time.
_Value = TypeVar("_Value")
_PACKING = threading.Lock()


class _Aggregate:
    """A metric accumulator that takes its rows in large portions, from a buffer that is reused."""

    def __init__(self, config: ScoringConfig) -> None:
        thresholds = None if config.class_thresholds is None else np.array(config.class_thresholds)
        self._accumulator = MetricAccumulator(
            config.class_count, threshold=config.threshold, class_thresholds=thresholds
        )
        self._logits = np.empty((max(UPDATE_ROWS, config.batch_size), config.class_count), np.float32)
        self._labels: list[Labels] = []
        self._ids: list[bytes] = []
        self._best: list[BestRows] = []

    def add(self, logits: np.ndarray, labels: Labels, ids: Sequence[bytes], best: BestRows | None) -> None:
        """Adds labelled videos, with their best classes or with none in every call; `logits` (B, C) are copied."""
        if len(self._ids) + len(ids) > len(self._logits):
            self._flush()
        self._logits[len(self._ids) : len(self._ids) + len(ids)] = logits
        self._labels.append(labels)
        if best is not None:
            self._best.append(best)
        self._ids.extend(ids)

    def _flush(self) -> None:
        if self._ids:
            self._accumulator.update(
                self._logits[: len(self._ids)],
                np.concatenate([each.values for each in self._labels]),
                np.concatenate([each.lengths for each in self._labels]),
                self._ids,
                joined(self._best) if self._best else None,
            )
        self._labels, self._ids, self._best = [], [], []

    def to_bytes(self) -> bytes:
        """The stored form of everything added; nothing can be added afterwards."""
        self._flush()
        self._logits = self._logits[:0].copy()
        with _PACKING:
            return self._accumulator.to_bytes()


@dataclasses.dataclass
class _ShardCounts:
    records_read: int = 0
    records_written: int = 0
    records_rejected: int = 0
    records_labelled: int = 0
    records_outside_split: int = 0
    labels_unknown: int = 0
    missing: dict[str, int] = dataclasses.field(default_factory=dict)
    records_by_split: dict[str, int] = dataclasses.field(default_factory=dict)
    rejected_by_reason: dict[str, int] = dataclasses.field(default_factory=dict)


class GroupScores:
    """Takes a group's scored blocks in order; writes predictions as shards end.

    Commits as the group ends, and before that whenever a shard ends some time after the last commit: the shards since
    then are a part of the group, with a manifest of its own.
    """

    def __init__(self, group: str, config: ScoringConfig) -> None:
        self._group = group
        self._config = config
        self._counts = _ShardCounts()
        self._predictions: ShardPredictions | None = None
        self._commit_seconds = 0.0
        self._trimmed = time.monotonic()
        self._begin_part()

    def _begin_part(self) -> None:
        config = self._config
        self._aggregates: list[_Aggregate] = []  # made when the first labelled record comes
        self._by_subset: list[_Aggregate] = []  # the first has all modalities
        self._segments = SegmentAccumulator(config.class_count) if config.schema.segments else None
        self._slices = [SliceAccumulator(config.class_count, feature) for feature in config.slice_by]
        self._rejected: list[Rejected] = []
        # Of every record that is scored: 8 bytes by which the end of the job finds ids that come more than once.
        self._hashes = [np.zeros(0, np.uint64)]
        self._shards: list[dict[str, Any]] = []
        self._begun = time.monotonic()

    def add(self, scored: ScoredBlock) -> dict[str, Any] | None:
        """Adds a block.

        Returns:
            The manifest of what is committed now, else None.
        """
        block = scored.block
        if self._predictions is None:
            self._predictions = ShardPredictions(
                self._config.output,
                block.shard.name,
                form=self._config.form,
                full_logits=self._config.full_logits,
                min_probability=self._config.min_probability,
                exact=self._config.schema.segments,
            )
        for rejected in block.rejected:
            self._reject(rejected)
        self._counts.records_outside_split += block.outside_split
        self._counts.labels_unknown += block.unknown_labels
        for name, count in block.missing.items():
            self._counts.missing[name] = self._counts.missing.get(name, 0) + count
        by_split = self._counts.records_by_split
        for name, count in zip((*SPLITS, NO_SPLIT), block.by_split, strict=False):
            by_split[name] = by_split.get(name, 0) + count
        self._counts.records_read += len(block.ids) + len(block.rejected)
        if block.ids:
            self._add_records(scored, self._predictions)
            self._add_subsets(scored)
        if block.ends_shard:
            self._predictions.finish()
            self._predictions = None
            counts = dataclasses.asdict(self._counts)
            self._shards.append({**dataclasses.asdict(block.shard), "digest": block.digest, **counts})
            note_shard(self._config.output, block.shard.name, counts)
            self._counts = _ShardCounts()
            self._trim()
        if block.ends_group:
            return self._commit(self._group)
        waited = time.monotonic() - self._begun
        if block.ends_shard and waited >= max(PART_SECONDS, _PART_COSTS * self._commit_seconds):
            return self._commit(part_name(self._group, block.shard.name))
        return None

    def _trim(self) -> None:
        if time.monotonic() - self._trimmed >= TRIM_SECONDS:
            return_freed_memory()
            self._trimmed = time.monotonic()

    def _add_records(self, scored: ScoredBlock, predictions: ShardPredictions) -> None:
        block = scored.block
        ids, labels, ratings, models = block.ids, block.labels, block.ratings, scored.logits
        contexts = block.contexts
        combined = mean_of_models(models)
        try:
            best = self._select_best(combined, labels)
        except NotANumberError:
            good = ~np.isnan(combined).any(axis=1)
            for row in np.flatnonzero(~good).tolist():
                self._reject(
                    Rejected(
                        block.shard.path,
                        int(block.offsets[row]),
                        printable_id(ids[row]),
                        "score",
                        NAN_LOGITS,
                        "the model gives NaN for this record",
                    )
                )
            ids, labels = _select(ids, good), labels.select(good)
            ratings = ratings.select(good) if ratings else None
            contexts = {name: _select(values, good) for name, values in contexts.items()}
            combined, models = combined[good], [logits[good] for logits in models]
            best = self._select_best(combined, labels)
        predictions.add(ids, *first_k(best, min(self._config.top_k, self._config.class_count)), labels, combined)
        self._counts.records_written += len(ids)
        self._hashes.append(hashes_of(BytesColumn.of(ids)))
        if self._segments is not None and ratings is not None:
            self._segments.update(ratings.classes, combined[ratings.rows, ratings.classes], ratings.present)
        labelled = labels.labelled
        if not labelled.any():
            return
        self._counts.records_labelled += int(np.count_nonzero(labelled))
        if not self._aggregates:
            self._aggregates = [_Aggregate(self._config) for _ in range(1 if len(models) == 1 else 1 + len(models))]
        measured = [combined] if len(models) == 1 else [combined, *models]
        if not labelled.all():
            measured, best = [logits[labelled] for logits in measured], chosen_rows(best, labelled)
            ids, labels = _select(ids, labelled), labels.select(labelled)
            contexts = {name: _select(values, labelled) for name, values in contexts.items()}
        for slices in self._slices:
            try:
                slices.update(measured[0], labels.values, labels.lengths, contexts[slices.feature], best)
            except ValueError as error:
                raise JobError(f"--slice_by={slices.feature}: {error}") from None
        # The first is what predictions are made of; the models of an average have best classes of their own.
        for number, (aggregate, logits) in enumerate(zip(self._aggregates, measured, strict=True)):
            aggregate.add(logits, labels, ids, best if number == 0 else None)

    def _add_subsets(self, scored: ScoredBlock) -> None:
        """Counts the labelled records that have all modalities, with all and with some of them."""
        block, complete = scored.block, scored.complete
        if complete is None or not (complete & block.labels.labelled).any():
            return
        every = [mean_of_models(scored.logits)[complete], *scored.subsets]
        labels = block.labels.select(complete)
        good = labels.labelled & ~np.any([np.isnan(logits).any(axis=1) for logits in every], axis=0)
        ids, labels = _select(_select(block.ids, complete), good), labels.select(good)
        if not self._by_subset:
            self._by_subset = [_Aggregate(self._config) for _ in every]
        for aggregate, logits in zip(self._by_subset, every, strict=True):
            aggregate.add(logits[good], labels, ids, None)

    def _select_best(self, logits: np.ndarray, labels: Labels) -> BestRows:
        """Enough of the best classes for the predictions and every metric."""
        sizes = np.maximum(labels.lengths, max(self._config.top_k, TOP))
        return select_best(np.ascontiguousarray(logits), np.minimum(sizes, self._config.class_count))

    def _reject(self, rejected: Rejected) -> None:
        self._rejected.append(rejected)
        self._counts.records_rejected += 1
        reasons = self._counts.rejected_by_reason
        reasons[rejected.error] = reasons.get(rejected.error, 0) + 1

    def _commit(self, name: str) -> dict[str, Any]:
        started = time.monotonic()
        output = self._config.output
        for number, aggregate in enumerate(self._aggregates):
            storage.write_atomically(storage.join(output, STATE, aggregate_name(name, number)), aggregate.to_bytes())
        for number, aggregate in enumerate(self._by_subset):
            storage.write_atomically(storage.join(output, STATE, modalities_name(name, number)), aggregate.to_bytes())
        for number, slices in enumerate(self._slices):
            storage.write_atomically(storage.join(output, STATE, slices_name(name, number)), slices.to_bytes())
        if self._segments is not None:
            storage.write_atomically(storage.join(output, STATE, segments_name(name)), self._segments.to_bytes())
        if self._rejected:
            storage.write_atomically(
                storage.join(output, DEAD_LETTER, f"{name}.jsonl"),
                b"".join(rejected.to_json() for rejected in self._rejected),
            )
        hashes = np.concatenate(self._hashes)
        storage.write_atomically(storage.join(output, STATE, ids_name(name)), hashes.astype("<u8").tobytes())
        manifest = {
            "group": name,
            "run_id": self._config.run_id,
            "aggregates": len(self._aggregates),
            "modalities": len(self._by_subset),
            "ids": len(hashes),
            "shards": self._shards,
        }
        storage.write_json(manifest_path(output, name), manifest)
        self._commit_seconds = time.monotonic() - started
        self._begin_part()
        return manifest


def _select(values: Sequence[_Value], rows: np.ndarray) -> list[_Value]:
    return [values[row] for row in np.flatnonzero(rows).tolist()]
