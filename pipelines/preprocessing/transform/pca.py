"""tf.Transform's analysis over the training records themselves, which PCA alone needs."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.preprocessing.config import JobConfig, Shard, TransformConfig
from pipelines.preprocessing.outputs import TEMPORARY
from pipelines.preprocessing.reading import read_shard
from pipelines.preprocessing.statistics import Fitted, Moments
from pipelines.preprocessing.transform.graph import FitAffine, FitWeights, make_preprocessing_fn, raw_feature_spec
from vcls_model import storage
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import Modality
from vcls_model.records.text import DocumentCounts
from vcls_model.records.text_options import TextOptions

if TYPE_CHECKING:
    import tensorflow as tf


@contextlib.contextmanager
def analysis_directories(config: JobConfig) -> Iterator[None]:
    """Where tf.Transform's analyzers keep intermediate results, while a pipeline with PCA is built and runs."""
    import tensorflow_transform.beam as tft_beam

    directory = storage.join(config.output, TEMPORARY[0])
    try:
        if not storage.is_object_store(directory):
            os.makedirs(directory, exist_ok=True)
        with storage.plain_name(directory) as plain, tft_beam.Context(temp_dir=plain):
            yield
    finally:
        for name in TEMPORARY:
            storage.delete(storage.join(config.output, name))


class SelectMean(beam.PTransform):
    """The analyzer that hands statistics, computed shard by shard elsewhere in the pipeline, to tf.Transform.

    Input: batches of raw values, which it does not look at. Output: one float32 (2, D) array: the mean, and what
    float32 has rounded off it.
    """

    def __init__(self, statistics: beam.PCollection, modality: str) -> None:
        super().__init__()
        self._statistics = statistics
        self._modality = modality

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return self._statistics | "Mean" >> beam.Map(_mean_in_two_parts, self._modality)


def _mean_in_two_parts(statistics: Fitted, modality: str) -> np.ndarray:
    moments = statistics[modality]
    assert isinstance(moments, Moments)
    mean = moments.mean.astype(np.float32)
    return np.stack([mean, (moments.mean - mean).astype(np.float32)])


class SelectWeights(beam.PTransform):
    """The analyzer that hands the weights of a text's buckets to tf.Transform, as `SelectMean` does the mean.

    Output: one int64 (buckets,) array.
    """

    def __init__(self, statistics: beam.PCollection, modality: str, text: TextOptions) -> None:
        super().__init__()
        self._statistics = statistics
        self._modality = modality
        self._text = text

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return self._statistics | "Weights" >> beam.Map(_weights_of, self._modality, self._text)


def _weights_of(statistics: Fitted, modality: str, text: TextOptions) -> np.ndarray:
    counts = statistics[modality]
    assert isinstance(counts, DocumentCounts)
    return counts.weights(text)


def weights_analyzer(statistics: beam.PCollection, config: TransformConfig) -> FitWeights:
    """Feeds our own counts of documents into tf.Transform's analysis phase.

    Args:
        statistics: one element: what is known of the training records, by modality name.
        config: of the job.
    """

    def fit_weights(modality: Modality, raw: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf
        import tensorflow_transform as tft

        (weights,) = tft.experimental.ptransform_analyzer(
            [raw],
            SelectWeights(statistics, modality.name, config.text_options),
            [tf.int64],
            [[config.text_options.buckets]],
            name=f"{modality.name}_weights",
        )
        return weights

    return fit_weights


def graph_analyzer(statistics: beam.PCollection) -> FitAffine:
    """Feeds our own statistics into tf.Transform's analysis phase.

    Args:
        statistics: one element: `Moments` by modality name.
    """

    def fit(modality: Modality, raw: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        import tensorflow as tf
        import tensorflow_transform as tft

        # The raw values only tell tf.Transform what the analyzer depends on: the training shards were read before.
        (mean,) = tft.experimental.ptransform_analyzer(
            [raw],
            SelectMean(statistics, modality.name),
            [tf.float32],
            [[2, modality.width]],
            name=f"{modality.name}_mean",
        )
        return mean[0], mean[1]

    return fit


def record_batch(batch: RawBatch, chosen: np.ndarray) -> pa.RecordBatch:
    """The chosen records (bool (B,)) as tf.Transform reads them: one list column per raw feature, sorted by name."""
    rows = np.flatnonzero(chosen)
    columns: dict[str, pa.Array] = {"id": _lists([[batch.ids[row]] for row in rows], pa.binary())}
    ends = np.cumsum(batch.label_lengths)
    columns["labels"] = _lists(
        [batch.label_values[ends[row] - batch.label_lengths[row] : ends[row]] for row in rows], pa.int64()
    )
    for name, values in batch.features.items():
        if isinstance(values, BytesColumn):
            texts = values.tolist()
            columns[name] = _lists([[texts[row]] for row in rows], pa.binary())
        elif isinstance(values, FrameBatch):
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


def _lists(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
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
    """Record batches of the training records -> tf.Transform's transform_fn.

    Args:
        config: which operations.
        statistics: one element, the `Moments` of the training records by modality.
    """

    def __init__(self, config: TransformConfig, statistics: beam.PCollection) -> None:
        super().__init__()
        self._config = config
        self._statistics = statistics

    def expand(self, training: beam.PCollection) -> Any:
        import tensorflow_transform.beam as tft_beam
        from tensorflow_transform.tf_metadata import schema_utils
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
        from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

        spec = raw_feature_spec(self._config)
        kinds = {name: pa.binary() if feature.dtype == "string" else pa.float32() for name, feature in spec.items()}
        kinds["labels"] = pa.int64()
        layout = TensorAdapterConfig(
            pa.schema([(name, pa.list_(kinds[name])) for name in sorted(kinds)]),
            InferTensorRepresentationsFromSchema(schema_utils.schema_from_feature_spec(spec)),
        )
        preprocessing_fn = make_preprocessing_fn(
            self._config, graph_analyzer(self._statistics), weights_analyzer(self._statistics, self._config)
        )
        return (training, layout) | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
