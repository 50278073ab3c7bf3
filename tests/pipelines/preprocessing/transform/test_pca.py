"""tf.Transform's analysis alone: the transform that FitTransform gives whitens the records that it was fitted on."""

from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_transform.beam as tft_beam
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from pipelines.preprocessing.config import TransformConfig
from pipelines.preprocessing.statistics import Moments
from pipelines.preprocessing.steps import MeasureShard, MergeStatistics, finish_statistics, moments_of
from pipelines.preprocessing.transform.graph import BatchGraph
from pipelines.preprocessing.transform.pca import FitTransform, ReadTrainingBatches, SelectMean
from tests.fixtures.records import MIXED, VIDEO, split_index
from tests.pipelines.preprocessing.test_steps import RUNNER, shard_of, training_values
from vcls_model.records.schema import RecordSchema


def test_training_batches_hold_the_training_records(tmp_path: Path) -> None:
    shard, made = shard_of(tmp_path, MIXED)
    training = [video for video in made if split_index(video.id) == 0]

    def check(batches: list) -> None:
        (batch,) = batches
        assert batch.schema.names == ["audio", "id", "labels", "rgb", "title"]
        columns = batch.to_pydict()
        assert columns["id"] == [[video.id] for video in training]
        assert columns["labels"] == [list(video.labels) for video in training]
        assert columns["rgb"] == [[video.values["rgb"].tobytes()] for video in training]
        np.testing.assert_array_equal(columns["title"], [video.values["title"] for video in training])

    with TestPipeline(runner=RUNNER) as built:
        batches = built | beam.Create([shard]) | beam.ParDo(ReadTrainingBatches(TransformConfig(MIXED, 10)))
        assert_that(batches, check)


def test_select_mean_hands_on_the_mean_and_what_float32_rounds_off_it() -> None:
    mean, zero = np.array([1 / 3, -1e6 - 1 / 7, 0.0]), np.zeros(3)
    statistics = {"rgb": Moments(5, mean, zero, zero, zero), "audio": Moments(5, zero, zero, zero, zero)}

    def check(elements: list) -> None:
        [parts] = elements
        assert (parts.shape, parts.dtype) == ((2, 3), np.float32)
        np.testing.assert_array_equal(parts[0], mean.astype(np.float32))
        np.testing.assert_allclose(parts.astype(np.float64).sum(axis=0), mean, rtol=1e-14)

    with TestPipeline(runner=RUNNER) as built:
        moments = built | "Moments" >> beam.Create([statistics])
        batches = built | "Batches" >> beam.Create(["what it does not look at"] * 3)
        assert_that(batches | SelectMean(moments, "rgb"), check)


@pytest.mark.slow
@pytest.mark.parametrize("schema", [VIDEO, MIXED], ids=["video", "mixed"])
def test_fit_transform_whitens_the_training_records(tmp_path: Path, schema: RecordSchema) -> None:
    shard, made = shard_of(tmp_path, schema, count=60)
    config = TransformConfig(schema, 10, pca_dims=2)
    with TestPipeline(runner=RUNNER) as built, tft_beam.Context(temp_dir=str(tmp_path / "tmp")):
        shards = built | beam.Create([shard])
        statistics = (
            shards
            | beam.ParDo(MeasureShard(str(tmp_path / "out"), config))
            | beam.CombineGlobally(MergeStatistics(schema))
            | beam.Map(finish_statistics, schema, str(tmp_path / "moments.json"))
            | beam.Map(moments_of)
        )
        transform_fn = shards | beam.ParDo(ReadTrainingBatches(config)) | FitTransform(config, statistics)
        transform_fn | tft_beam.WriteTransformFn(str(tmp_path / "fitted"))
        assert_that(transform_fn[0], lambda elements: None if len(elements) == 1 else pytest.fail(str(elements)))
    graph = BatchGraph.saved(str(tmp_path / "fitted" / "transform_fn"), config)
    training = [video for video in made if split_index(video.id) == 0]
    outputs = graph(
        {
            modality.name: np.stack([video.values[modality.name] for video in training])
            if modality.kind == "vector"
            else [video.values[modality.name].tobytes() for video in training]
            for modality in schema.modalities
        }
    )
    for feature in config.transformed():
        if feature.kind == "vector":
            values = outputs[feature.name]
        else:
            codes = np.frombuffer(b"".join(outputs[feature.name]), np.uint8).reshape(-1, 2)
            values = codes * feature.scale + feature.offset
        assert len(values) == len(training_values(made, feature.name))
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.03)
        np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(2), atol=0.06)
