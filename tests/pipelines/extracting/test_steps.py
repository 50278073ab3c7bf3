"""Each step of the pipeline alone, on files made here."""

import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from pipelines.extracting import manifests
from pipelines.extracting.config import ExtractConfig, MediaFile, MediaShard
from pipelines.extracting.manifests import Part, load_part, load_summary, save_part
from pipelines.extracting.steps import AssembleShard, ExtractFile
from tests.fixtures.media import colour_clip, colour_codes, write_encoders
from tests.fixtures.records import read_payloads
from vcls_model.commands import JobError
from vcls_model.embedding import EmbeddingConfig
from vcls_model.media import errors

RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def media_file(path: Path, **fields: object) -> MediaFile:
    status = path.stat() if path.exists() else None
    size, modified = (status.st_size, status.st_mtime) if status else (-1, 0.0)
    return MediaFile(str(path), size, modified, **{"id": path.stem, **fields})  # type: ignore[arg-type]


@pytest.fixture
def config(tmp_path: Path) -> ExtractConfig:
    """Two shards: a clip, a file that is none, a file that is not there; and a segment of the clip."""
    clip = colour_clip(tmp_path / "clip.mp4", 4)
    (tmp_path / "noise.mp4").write_bytes(b"no video at all" * 50)
    files = (
        media_file(clip, labels=(2, 5), context=(("title", "naïve"), ("empty", ""))),
        media_file(tmp_path / "noise.mp4"),
        media_file(tmp_path / "absent.mp4"),
    )
    segment = (media_file(clip, id="clip:1", start=1.0, end=3.0),)
    shards = (MediaShard(0, 2, files), MediaShard(1, 2, segment))
    encoders = write_encoders(tmp_path)
    embedding = EmbeddingConfig.of(str(encoders.colours), str(encoders.loudness))
    return ExtractConfig(str(tmp_path / "out"), shards, embedding, (), None, None, 1.0, {})


def test_a_file_becomes_a_part(config: ExtractConfig) -> None:
    places = [(0, 0), (0, 1), (0, 2), (1, 0)]
    with TestPipeline(runner=RUNNER) as pipeline:
        assert_that(pipeline | beam.Create(places) | beam.ParDo(ExtractFile(config)), equal_to(places))
    clip, noise, absent = (load_part(config, config.shards[0], place) for place in range(3))
    segment = load_part(config, config.shards[1], 0)
    assert clip and noise and absent and segment
    assert (clip.rows, clip.reason) == (4, None) and clip.seconds == pytest.approx(4, abs=0.11)
    assert (noise.record, noise.reason) == (b"", errors.UNKNOWN_FORMAT)
    assert (absent.record, absent.reason) == (b"", errors.NOT_FOUND)
    assert segment.rows == 2


def test_a_bundle_ends_with_the_files_that_no_other_has_begun(config: ExtractConfig) -> None:
    places = [(0, 0), (0, 2), (1, 0)]
    with TestPipeline(runner=RUNNER) as pipeline:
        step = ExtractFile(config, places)
        assert_that(pipeline | beam.Create([(0, 2)]) | beam.ParDo(step), equal_to([(0, 2)]))
    made = [load_part(config, config.shards[shard], place) for shard, place in places]
    assert [part and part.rows for part in made] == [4, 0, 2]
    assert load_part(config, config.shards[0], 1) is None  # not among the files of the job


def test_a_file_that_grows_while_it_is_read_ends_the_job(config: ExtractConfig) -> None:
    """What was read of it is of neither state; the next run reads it as it is then."""
    step = ExtractFile(config)
    clip = config.shards[0].files[0]
    with open(clip.path, "ab") as stream:
        stream.write(b"more")
    with pytest.raises(JobError, match=f"clip.mp4 changed while it was read: it had {clip.size_bytes:,} bytes when"):
        list(step.process((0, 0)))
    step.teardown()
    assert load_part(config, config.shards[0], 0) is None


def test_a_part_that_is_there_is_not_made_again(config: ExtractConfig) -> None:
    stored = Part(b"record", 7, 7.0)
    save_part(config, config.shards[0], 0, stored)
    with TestPipeline(runner=RUNNER) as pipeline:
        assert_that(pipeline | beam.Create([(0, 0)]) | beam.ParDo(ExtractFile(config)), equal_to([(0, 0)]))
    assert load_part(config, config.shards[0], 0) == stored


def test_a_part_of_another_file_or_configuration_does_not_count(config: ExtractConfig, tmp_path: Path) -> None:
    save_part(config, config.shards[0], 0, Part(b"record", 7, 7.0))
    changed = MediaShard(0, 2, (media_file(tmp_path / "clip.mp4", labels=(2,)), *config.shards[0].files[1:]))
    assert load_part(config, changed, 0) is None
    path = Path(manifests.part_path(config, config.shards[0], 0))
    path.write_bytes(path.read_bytes()[:-1])  # cut short
    assert load_part(config, config.shards[0], 0) is None


def test_a_shard_is_joined_of_its_files_in_their_order(config: ExtractConfig) -> None:
    places = [(0, 2), (1, 0), (0, 1), (0, 0)]
    with TestPipeline(runner=RUNNER) as pipeline:
        summaries = (
            pipeline
            | beam.Create(places)
            | beam.ParDo(ExtractFile(config)).with_output_types(tuple[int, int])
            | beam.GroupByKey()
            | beam.ParDo(AssembleShard(config))
            | beam.Map(lambda summary: (summary.records_written, summary.rows, sorted(summary.rejected)))
        )
        assert_that(summaries, equal_to([(1, 4, ["not_found", "unknown_format"]), (1, 2, [])]))
    output = Path(config.output)
    assert not list((output / "state" / "parts").iterdir())
    [payload] = read_payloads(output / "records-00000-of-00002.tfrecord")
    record = tf.train.SequenceExample.FromString(payload)
    context = record.context.feature
    assert context["id"].bytes_list.value[0] == b"clip" and list(context["labels"].int64_list.value) == [2, 5]
    assert context["title"].bytes_list.value[0] == "naïve".encode() and "empty" not in context
    assert list(record.feature_lists.feature_list) == ["rgb"]  # no sound is absent
    rows = [feature.bytes_list.value[0] for feature in record.feature_lists.feature_list["rgb"].feature]
    np.testing.assert_allclose(np.array([list(row) for row in rows]), colour_codes(4), atol=3)
    [payload] = read_payloads(output / "records-00001-of-00002.tfrecord")
    segment = tf.train.SequenceExample.FromString(payload)
    assert "labels" not in segment.context.feature  # not known is not the same as none
    rows = [feature.bytes_list.value[0] for feature in segment.feature_lists.feature_list["rgb"].feature]
    np.testing.assert_allclose(np.array([list(row) for row in rows]), colour_codes(2, first=1), atol=3)
    letters = [json.loads(line) for line in (output / "dead_letter" / "records-00000-of-00002.jsonl").open()]
    assert [letter["error"] for letter in letters] == ["unknown_format", "not_found"]
    assert load_summary(config, config.shards[0]) is not None


def test_a_shard_that_is_there_is_not_joined_again(config: ExtractConfig) -> None:
    save_part(config, config.shards[1], 0, Part(b"record", 7, 7.0))
    first = manifests.assemble(config, config.shards[1])
    with TestPipeline(runner=RUNNER) as pipeline:  # its parts are gone
        assert_that(pipeline | beam.Create([(1, [0])]) | beam.ParDo(AssembleShard(config)), equal_to([first]))
