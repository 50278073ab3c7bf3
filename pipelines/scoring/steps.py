"""The Beam steps of batch scoring: one stage, so that features and logits never leave the worker that read them."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from pipelines.running.counters import inc_counter
from pipelines.running.runners import is_local, worker_count
from pipelines.scoring.blocks import Block, ScoredBlock, read_group
from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.groups import GroupScores
from pipelines.scoring.handler import ExportedModelHandler
from pipelines.scoring.layout import manifest_path, parts_of
from pipelines.scoring.planning import Group
from vcls_model import storage
from vcls_model.states import GroupManifest, read_state


class ScoreGroups(beam.PTransform):
    """Scores groups of shards: takes a PCollection of `Group`, returns the manifests of what was committed."""

    def __init__(self, config: ScoringConfig) -> None:
        """Args:
        config: what to score with, and how.
        """
        super().__init__()
        self.config = config

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Builds the one stage: read, score, write."""
        options = pcoll.pipeline.options
        # With a worker per core, a matrix product that is shared among threads gains nothing, and waits.
        one_thread = not is_local(options) or worker_count(options) >= (os.cpu_count() or 1)
        handler = ExportedModelHandler(
            self.config.model_paths,
            self.config.class_count,
            subsets=self.config.subsets,
            one_thread=one_thread,
        )
        return (
            pcoll
            | "ReadBlocks" >> beam.FlatMap(self.read_blocks).with_output_types(list[Block])
            | "RunInference" >> RunInference(handler.with_no_batching()).with_output_types(ScoredBlock)
            | "WriteScores" >> beam.ParDo(WriteScores(self.config)).with_output_types(dict)
        )

    def read_blocks(self, group: Group) -> Iterator[list[Block]]:
        """The blocks of a group, each as a batch of one.

        There are none of what is committed: a bundle that is retried after its worker was lost does the rest.
        """
        output = self.config.output
        if storage.exists(manifest_path(output, group.name)):
            return
        parts = [read_state(path, GroupManifest) for path in parts_of(output, group.name)]
        done = {shard["path"] for part in parts for shard in part["shards"]}
        left = tuple(shard for shard in group.shards if shard.path not in done)
        for block in read_group(dataclasses.replace(group, shards=left), self.config):
            yield [block]


class WriteScores(beam.DoFn):
    """Writes predictions, aggregates and manifests. Needs the blocks of a group in order and in one bundle.

    Runners provide that: steps without a shuffle between them run as one stage, element by element. `finish_bundle`
    checks it, so that a runner that did otherwise would fail instead of losing records.
    """

    def __init__(self, config: ScoringConfig) -> None:
        """Args:
        config: what is scored and where the results go.
        """
        self._config = config
        self._open: dict[str, GroupScores] = {}

    def start_bundle(self) -> None:
        """Forgets what a failed bundle has left behind."""
        self._open = {}

    def process(self, scored: ScoredBlock) -> Iterable[dict[str, Any]]:
        """Adds one block to its group; yields the manifest of what is committed with it."""
        name = scored.block.group
        if name not in self._open:
            self._open[name] = GroupScores(name, self._config)
        manifest = self._open[name].add(scored)
        if manifest is None:
            return
        if scored.block.ends_group:
            del self._open[name]
        for shard in manifest["shards"]:
            for count in ("records_written", "records_rejected"):
                inc_counter(self, count, shard[count])
        yield manifest

    def finish_bundle(self) -> None:
        """Raises `RuntimeError` when blocks of a group are missing."""
        if self._open:
            raise RuntimeError(
                f"the runner divided the blocks of groups {sorted(self._open)}; nothing of them was committed"
            )
