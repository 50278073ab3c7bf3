"""Each transform of the scoring job alone, on the in-process runner."""

import json
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from pipelines.running.runners import pipeline_options
from pipelines.score import make_parser
from pipelines.scoring.blocks import Block, ScoredBlock, read_group
from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.handler import ExportedModelHandler
from pipelines.scoring.planning import Group, InputShard
from pipelines.scoring.steps import ScoreGroups, WriteScores
from tests.fixtures.scoring import CLASSES, Video, weights
from vcls_model.records.schema import schema_by_name


@pytest.fixture
def config(model: Path, tmp_path: Path) -> ScoringConfig:
    import dataclasses

    return ScoringConfig(
        output=str(tmp_path / "scores"),
        model_paths=(str(model),),
        model_identities=("model",),
        schema=dataclasses.replace(schema_by_name("yt8m-video"), class_count=CLASSES),
        split=None,
        splits=None,
        top_k=5,
        threshold=0.5,
        class_thresholds=None,
        form="parquet",
        full_logits="none",
        batch_size=16,
    )


@pytest.fixture
def groups(shards: Path) -> list[Group]:
    """Two groups: of two shards with 40 and 25 videos, and of one with 60."""
    paths = sorted(shards.glob("*.tfrecord"))
    inputs = [InputShard(str(path), path.stat().st_size) for path in paths]
    return [Group("first", tuple(inputs[:2])), Group("second", (inputs[2],))]


def pipeline() -> TestPipeline:
    return TestPipeline(options=pipeline_options(make_parser(), "DirectRunner", ["--direct_num_workers=1"]))


def expected_logits(videos: Sequence[Video]) -> np.ndarray:
    kernel, bias = weights(0)
    return np.stack([np.concatenate([video.mean_rgb, video.mean_audio]) for video in videos]) @ kernel + bias


def counts(manifest: dict) -> tuple[str, list[tuple[str, int]]]:
    return manifest["group"], [(Path(each["path"]).name, each["records_written"]) for each in manifest["shards"]]


EXPECTED = [
    ("first", [("part00.tfrecord", 40), ("part01.tfrecord", 25)]),
    ("second", [("part02.tfrecord", 60)]),
]


def test_score_groups_gives_the_manifest_of_each_group(config: ScoringConfig, groups: list[Group]) -> None:
    with pipeline() as p:
        manifests = p | beam.Create(groups) | ScoreGroups(config) | beam.Map(counts)
        assert_that(manifests, equal_to(EXPECTED))
    names = sorted(path.name.partition("-")[0] for path in Path(config.output, "predictions").iterdir())
    assert names == ["part00", "part01", "part02"]


@pytest.mark.slow
def test_score_groups_leaves_out_what_is_committed(config: ScoringConfig, groups: list[Group]) -> None:
    with pipeline() as p:
        assert_that(p | beam.Create(groups[1:]) | ScoreGroups(config) | beam.Map(counts), equal_to(EXPECTED[1:]))
    with pipeline() as p:
        assert_that(p | beam.Create(groups) | ScoreGroups(config) | beam.Map(counts), equal_to(EXPECTED[:1]))


def test_blocks_are_read_in_order_and_end_their_shards(
    config: ScoringConfig, groups: list[Group], videos: list[list[Video]]
) -> None:
    with pipeline() as p:
        blocks = p | beam.Create(groups[:1]) | beam.FlatMap(ScoreGroups(config).read_blocks)
        summary = blocks | beam.Map(lambda batch: (len(batch[0].ids), batch[0].ends_shard, batch[0].ends_group))
        sizes = [16, 16, 8, 0, 16, 9, 0]
        ends = [False, False, False, True, False, False, True]
        assert_that(summary, equal_to(list(zip(sizes, ends, [False] * 6 + [True], strict=True))))
    ids = [video_id for block in read_group(groups[0], config) for video_id in block.ids]
    assert ids == [video.id for video in videos[0] + videos[1]]


def test_inference_scores_blocks(config: ScoringConfig, groups: list[Group], videos: list[list[Video]]) -> None:
    handler = ExportedModelHandler(config.model_paths, CLASSES).with_no_batching()

    def differences(scored: ScoredBlock) -> float:
        numbers = {video.id: row for row, video in enumerate(videos[2])}
        rows = [numbers[video_id] for video_id in scored.block.ids]
        return float(np.abs(scored.logits[0] - expected_logits(videos[2])[rows]).max(initial=0)) < 1e-4

    with pipeline() as p:
        scored = p | beam.Create([[block] for block in read_group(groups[1], config)]) | RunInference(handler)
        assert_that(scored | beam.Map(differences), equal_to([True] * 5))


def scored_blocks(group: Group, config: ScoringConfig) -> list[ScoredBlock]:
    """The blocks of a group with logits that put class 3 first."""
    logits = np.full((16, CLASSES), -4, np.float32)
    logits[:, 3] = 4
    return [ScoredBlock(block, [logits[: len(block.ids)]]) for block in read_group(group, config)]


class Scored(beam.DoFn):
    """All scored blocks of a group, in one bundle."""

    def __init__(self, config: ScoringConfig, left_out: int = 0) -> None:
        self._config = config
        self._left_out = left_out

    def process(self, group: Group) -> Sequence[ScoredBlock]:
        blocks = scored_blocks(group, self._config)
        return blocks[: len(blocks) - self._left_out]


def test_scores_are_written_and_committed(config: ScoringConfig, groups: list[Group]) -> None:
    with pipeline() as p:
        manifests = p | beam.Create(groups[1:]) | beam.ParDo(Scored(config)) | beam.ParDo(WriteScores(config))
        assert_that(manifests | beam.Map(counts), equal_to(EXPECTED[1:]))
    (path,) = Path(config.output, "predictions").iterdir()
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 60 and all(row["class_index"] == [3, 0, 1, 2, 4] for row in rows)
    stored = sorted(path.name for path in Path(config.output, "state").iterdir() if path.is_file())
    assert stored == ["second.ids", "second.manifest.json", "second.metrics"]
    manifest = json.loads(Path(config.output, "state", "second.manifest.json").read_text())
    assert counts(manifest) == EXPECTED[1]


def test_a_group_without_its_last_block_is_not_committed(config: ScoringConfig, groups: list[Group]) -> None:
    with pytest.raises(Exception, match=r"the runner divided the blocks of groups \['second'\]"), pipeline() as p:
        _ = p | beam.Create(groups[1:]) | beam.ParDo(Scored(config, left_out=1)) | beam.ParDo(WriteScores(config))
    assert not list(Path(config.output).glob("state/*.manifest.json"))


def test_blocks_are_pickled_whole(config: ScoringConfig, groups: list[Group]) -> None:
    import pickle

    block: Block = next(read_group(groups[0], config))
    again = pickle.loads(pickle.dumps(block))
    assert again.ids == block.ids and np.array_equal(again.features["mean_rgb"], block.features["mean_rgb"])
    assert again.feature_bytes == 16 * 1152 * 4
