"""Each step of the pipeline alone, on small shards written by TensorFlow."""

import json
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from pipelines.preprocessing import manifests, steps
from pipelines.preprocessing.config import Shard, TransformConfig
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.statistics import Moments, ShardMeter, moments, statistics_hash
from pipelines.preprocessing.steps import (
    FittedStatistics,
    MeasureShard,
    MergeStatistics,
    MergeSummaries,
    TransformShard,
    finish_statistics,
)
from tests.fixtures.records import MIXED, VIDEO, Video, read_payloads, split_index, videos, write_shard
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, RecordSchema
from vcls_model.records.splits import SPLITS

RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def pipeline() -> TestPipeline:
    return TestPipeline(runner=RUNNER)


def only(check: Callable) -> Callable:
    """A matcher for `assert_that`: one element, for which `check` asserts what it should be."""

    def matcher(elements: list) -> None:
        assert len(elements) == 1, f"{len(elements)} elements"
        check(elements[0])

    return matcher


def shard_of(directory: Path, schema: RecordSchema, index: int = 0, count: int = 30) -> tuple[Shard, list[Video]]:
    made = videos(count, schema, seed=index, prefix=f"{index}-")
    payloads = [video.sequence() if schema.has_frames else video.example() for video in made]
    path = write_shard(directory / f"in{index}.tfrecord", payloads)
    return Shard(index, 2, str(path), path.stat().st_size, path.stat().st_mtime), made


def training_values(made: list[Video], name: str) -> np.ndarray:
    """All training vectors of a modality, float64 (N, D), dequantised."""
    rows = [np.atleast_2d(video.values[name]) for video in made if split_index(video.id) == 0]
    values = np.concatenate(rows)
    return values * DEQUANTISE_SCALE + DEQUANTISE_OFFSET if values.dtype == np.uint8 else values.astype(np.float64)


@pytest.mark.parametrize("schema", [VIDEO, MIXED], ids=["video", "mixed"])
def test_measure_shard_sums_the_training_records(
    tmp_path: Path, schema: RecordSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, made = shard_of(tmp_path, schema)
    config = TransformConfig(schema, 10)

    def check(meter: ShardMeter) -> None:
        statistics = meter.statistics()
        for modality in schema.modalities:
            values = training_values(made, modality.name)
            measured = moments(statistics[modality.name], modality)
            assert measured.count == len(values)
            np.testing.assert_allclose(measured.mean, values.mean(axis=0), rtol=1e-6, atol=1e-6)

    for _ in range(2):  # the second time from the stored statistics: the shard is not measured again
        with pipeline() as built:
            measured = built | beam.Create([shard]) | beam.ParDo(MeasureShard(str(tmp_path / "out"), config))
            assert_that(measured, only(check))
        monkeypatch.setattr(steps, "measure_shard", None)


def test_measure_shard_leaves_held_out_shards_alone(tmp_path: Path) -> None:
    held_out = Shard(0, 1, "/nowhere", 1, 0.0, split=2)
    with pipeline() as built:
        measured = built | beam.Create([held_out]) | beam.ParDo(MeasureShard(str(tmp_path), TransformConfig(VIDEO, 10)))
        assert_that(measured, lambda elements: None if not elements else pytest.fail("measured"))


@pytest.mark.parametrize("schema", [VIDEO, MIXED], ids=["video", "mixed"])
def test_merge_statistics_is_that_of_all_records(tmp_path: Path, schema: RecordSchema) -> None:
    shards = [shard_of(tmp_path, schema, index) for index in range(3)]
    made = [video for _, some in shards for video in some]
    config = TransformConfig(schema, 10)
    path = str(tmp_path / "moments.json")

    def check(fitted: FittedStatistics) -> None:
        for modality in schema.modalities:
            values = training_values(made, modality.name)
            np.testing.assert_allclose(fitted.moments[modality.name].std, values.std(axis=0), rtol=1e-6)

    with pipeline() as built:
        fitted = (
            built
            | beam.Create([shard for shard, _ in shards])
            | beam.ParDo(MeasureShard(str(tmp_path / "out"), config))
            | beam.CombineGlobally(MergeStatistics(schema))
            | beam.Map(finish_statistics, schema, path)
        )
        assert_that(fitted, only(check))
    assert set(json.loads(Path(path).read_text())) == {modality.name for modality in schema.modalities}


def test_merge_statistics_of_nothing_is_empty() -> None:
    def check(statistics: dict) -> None:
        assert statistics["mean_rgb"].count == 0
        assert statistics_hash(statistics) == statistics_hash(MergeStatistics(VIDEO).create_accumulator())

    with pipeline() as built:
        merged = built | beam.Create([], reshuffle=False) | beam.CombineGlobally(MergeStatistics(VIDEO))
        assert_that(merged, only(check))


def fitted_of(schema: RecordSchema) -> FittedStatistics:
    statistics = {
        modality.name: Moments(
            9, *(np.full(modality.width, value) for value in (0.25, 1.5 if modality.kind == "vector" else 1.0, -2, 2))
        )
        for modality in schema.modalities
    }
    return FittedStatistics("identity", statistics)


@pytest.mark.parametrize("schema", [VIDEO, MIXED], ids=["video", "mixed"])
def test_transform_shard_writes_normalised_records_and_their_summary(tmp_path: Path, schema: RecordSchema) -> None:
    shard, made = shard_of(tmp_path, schema)
    output = str(tmp_path / "out")
    config, fitted = TransformConfig(schema, 10, max_frames=9), fitted_of(schema)

    def check(summary: Summary) -> None:
        assert summary.records_written == len(made) and summary.records_rejected == 0
        assert summary.label_counts.sum() == len(made)

    with pipeline() as built:
        side = built | "Fitted" >> beam.Create([fitted])
        done = (
            built
            | "Shards" >> beam.Create([shard])
            | beam.ParDo(TransformShard(output, config), beam.pvalue.AsSingleton(side))
        )
        assert_that(done, only(check))
    by_id = {video.id: video for video in made}
    seen = 0
    for split, name in enumerate(SPLITS):
        for payload in read_payloads(tmp_path / "out" / shard.output(split)):
            features = tf.train.Example.FromString(payload).features.feature
            video = by_id[features["id"].bytes_list.value[0]]
            assert name == SPLITS[split_index(video.id)]
            seen += 1
            for modality in config.transformed():
                raw = video.values[modality.name]
                if modality.kind == "vector":
                    values = features[modality.name].float_list.value
                    np.testing.assert_allclose(values, (raw - 0.25) / 1.5, rtol=1e-5, atol=1e-6)
                else:
                    codes = np.frombuffer(features[modality.name].bytes_list.value[0], np.uint8)
                    values = codes.reshape(-1, modality.width) * modality.scale + modality.offset
                    expected = raw[:9] * DEQUANTISE_SCALE + DEQUANTISE_OFFSET - 0.25
                    np.testing.assert_allclose(values, expected, atol=modality.scale / 2 + 1e-5)
                    assert features["num_frames"].int64_list.value[0] == len(values)
    assert seen == len(made)
    assert manifests.load_manifest(output, shard, config, "identity") is not None
    assert manifests.load_manifest(output, shard, config, "another") is None


def test_merge_summaries_adds_counts_and_rejections() -> None:
    parts = [
        Summary(shards=1, written=np.array([3, 1, 0]), class_counts=np.eye(3, 4, dtype=np.int64)),
        Summary(shards=1, written=np.array([2, 0, 5]), class_counts=np.ones((3, 4), np.int64)),
        Summary(shards=1, shards_empty=1),
    ]
    parts[1].rejected["no_labels"] = 4

    def check(summary: Summary) -> None:
        assert (summary.shards, summary.shards_empty) == (3, 1)
        assert summary.written.tolist() == [5, 1, 5] and summary.records_read == 15
        assert summary.rejected == {"no_labels": 4}
        assert summary.class_counts.tolist() == (np.eye(3, 4) + 1).tolist()

    with pipeline() as built:
        assert_that(built | beam.Create(parts) | beam.CombineGlobally(MergeSummaries()), only(check))
