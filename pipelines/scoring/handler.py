"""Beam's RunInference over exported models: one copy per process, fed with whole blocks of decoded records."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from pipelines.scoring.blocks import Block, ScoredBlock
from pipelines.scoring.presence import present, select, without
from vcls_model.serving.combining import mean_of_models
from vcls_model.serving.exported import LoadedModel


class LoadedModels:
    """The models of a process; a class of its own because RunInference holds it by a weak reference."""

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        self.models = tuple(models)


class ExportedModelHandler(ModelHandler[Block, ScoredBlock, LoadedModels]):
    """Loads exported models by path and scores blocks.

    Blocks are batched by the reader, by size and bytes, because a batch must depend on its shard alone for a re-run to
    give the same bits; use it `with_no_batching()`, each element a list of one block.
    """

    def __init__(
        self,
        model_paths: Sequence[str],
        class_count: int,
        *,
        subsets: Sequence[Sequence[str]] = (),
        one_thread: bool = False,
    ) -> None:
        """Args:
        model_paths: exported models, local or on an object store.
        class_count: number of classes that they all have.
        subsets: modalities to keep, for further measurements.
        one_thread: in a process that has not used TensorFlow yet, compute each matrix product with one thread: more
            gain nothing where the workers use all cores; and on some processors the last bits depend on their number,
            so that a machine with more cores would give other scores.
        """
        super().__init__()
        self._subsets = tuple(map(tuple, subsets))
        self._one_thread = one_thread
        self._model_paths = tuple(model_paths)
        self._class_count = class_count

    def load_model(self) -> LoadedModels:
        """Loads the models: RunInference calls this once per process, and all threads share the result."""
        if self._one_thread:
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
        return LoadedModels([LoadedModel(path, self._class_count) for path in self._model_paths])

    def share_model_across_processes(self) -> bool:
        """Never: a copy per process costs less than sending the records to another process."""
        return False

    def run_inference(
        self, batch: Sequence[Block], model: LoadedModels, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ScoredBlock]:
        """Scores each block with every model."""
        return [
            ScoredBlock(block, self._logits(block, model.models), *self._of_subsets(block, model.models))
            for block in batch
        ]

    def _of_subsets(
        self, block: Block, models: Sequence[LoadedModel]
    ) -> tuple[np.ndarray, list[np.ndarray]] | tuple[()]:
        """Which records have all modalities, and their logits with each subset."""
        if not self._subsets or not block.ids:
            return ()
        complete = np.all(present(block.features), axis=0)
        whole = select(block.features, complete)
        logits = []
        for kept in self._subsets if complete.any() else ():
            features = without(whole, set(whole) - set(kept))
            logits.append(mean_of_models([each.logits(features) for each in models]))
        return complete, logits

    def _logits(self, block: Block, models: Sequence[LoadedModel]) -> list[np.ndarray]:
        if not block.ids:
            return [np.zeros((0, self._class_count), np.float32) for _ in models]
        return [each.logits(block.features) for each in models]

    def get_num_bytes(self, batch: Sequence[Block]) -> int:
        """Size of the blocks in bytes, for RunInference's own metrics."""
        return sum(block.feature_bytes for block in batch)

    def override_metrics(self, metrics_namespace: str = "") -> bool:
        """RunInference's own metrics are of no use here."""
        return True
