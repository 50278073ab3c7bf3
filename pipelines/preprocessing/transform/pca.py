"""tf.Transform's analysis of a job: one placeholder record, or for PCA the training records themselves."""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.preprocessing.config import Shard, TransformConfig
from pipelines.preprocessing.steps import read_shard
from pipelines.preprocessing.transform.affine import affine_of
from pipelines.preprocessing.transform.graph import graph_analyzer, make_preprocessing_fn, raw_feature_spec
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.schema import FRAMES


class SelectAffine(beam.PTransform):
    """The analyzer that hands statistics, computed shard by shard elsewhere in the pipeline, to tf.Transform.

    Input: batches of raw values, which it does not look at. Output: one float32 (2, D) array, see `affine_of`.
    """

    def __init__(self, statistics: beam.PCollection, normalise: str, modality: str) -> None:
        super().__init__()
        self._statistics = statistics
        self._normalise = normalise
        self._modality = modality

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return self._statistics | "Affine" >> beam.Map(_affine_of_one, self._normalise, self._modality)


def _affine_of_one(moments: dict[str, Any], normalise: str, modality: str) -> np.ndarray:
    return affine_of(normalise, moments[modality])


def placeholder_record(config: TransformConfig) -> dict[str, Any]:
    """One raw record, for tf.Transform to have something to trace its analysis with."""
    record: dict[str, Any] = {"id": b"placeholder", "labels": np.zeros(0, np.int64)}
    for modality in config.schema.modalities:
        record[modality.name] = (
            bytes(modality.width) if modality.kind == FRAMES else np.zeros(modality.width, np.float32)
        )
    return record


def record_batch(batch: RawBatch, chosen: np.ndarray) -> pa.RecordBatch:
    """The chosen records (bool (B,)) as tf.Transform reads them: a list column a raw feature."""
    rows = np.flatnonzero(chosen)
    columns: dict[str, pa.Array] = {"id": _lists([[batch.ids[row]] for row in rows], pa.binary())}
    ends = np.cumsum(batch.label_lengths)
    columns["labels"] = _lists(
        [batch.label_values[ends[row] - batch.label_lengths[row] : ends[row]] for row in rows], pa.int64()
    )
    for name, values in batch.features.items():
        if isinstance(values, FrameBatch):
            ends = np.cumsum(values.lengths)
            codes = values.codes
            columns[name] = _lists(
                [[codes[ends[row] - values.lengths[row] : ends[row]].tobytes()] for row in rows], pa.binary()
            )
        else:
            width = values.shape[1]
            columns[name] = pa.ListArray.from_arrays(
                pa.array(np.arange(0, (len(rows) + 1) * width, width), pa.int32()), pa.array(values[rows].reshape(-1))
            )
    return pa.RecordBatch.from_arrays([columns[name] for name in sorted(columns)], sorted(columns))


def _lists(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.list_(kind))


class ReadTrainingBatches(beam.DoFn):
    """Shard -> record batches of its training records."""

    def __init__(self, config: TransformConfig) -> None:
        self._config = config

    def process(self, shard: Shard) -> Iterable[pa.RecordBatch]:
        if 0 in shard.splits:
            for batch, _, splits in read_shard(shard, self._config):
                if (splits == 0).any():
                    yield record_batch(batch, splits == 0)


class FitTransform(beam.PTransform):
    """Analyses: from the statistics of the training records (one `Moments` by modality) to tf.Transform's transform_fn.

    Attributes:
        config: which operations.
        training: record batches for analyzers that need the values themselves (PCA), else None.
    """

    def __init__(self, config: TransformConfig, training: beam.PCollection | None = None) -> None:
        super().__init__()
        self._config = config
        self._training = training

    def expand(self, statistics: beam.PCollection) -> Any:
        import tensorflow_transform as tft
        import tensorflow_transform.beam as tft_beam
        from tensorflow_transform.tf_metadata import schema_utils
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
        from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

        spec = raw_feature_spec(self._config)
        preprocessing_fn = make_preprocessing_fn(self._config, graph_analyzer(self._config, statistics))
        dataset: tuple[beam.PCollection, Any]
        if self._training is None:
            rows = statistics.pipeline | "Placeholder" >> beam.Create([placeholder_record(self._config)])
            dataset = rows, tft.DatasetMetadata.from_feature_spec(spec)
        else:
            kinds = {name: pa.float32() for name in spec}
            kinds.update({name: pa.binary() for name, feature in spec.items() if feature.dtype == "string"})
            kinds["labels"] = pa.int64()
            dataset = (
                self._training,
                TensorAdapterConfig(
                    pa.schema([(name, pa.list_(kinds[name])) for name in sorted(kinds)]),
                    InferTensorRepresentationsFromSchema(schema_utils.schema_from_feature_spec(spec)),
                ),
            )
        return dataset | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
