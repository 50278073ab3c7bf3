"""Shards: the layouts that are recognised, and real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.reading import assert_same, read, segment_record
from tests.fixtures.records import FRAME, VIDEO, Video, bytes_feature, videos, write_shard
from vcls_model.commands import UsageError
from vcls_model.records.framing import frame_record
from vcls_model.records.schema import schema_by_name
from vcls_model.records.shards import FrameBatch, detect_schema, read_batches, resolve_schema


@pytest.mark.parametrize(
    ("name", "id_feature", "rgb", "audio"),
    [
        ("yt8m-video", "id", "mean_rgb", "mean_audio"),
        ("yt8m-video-2017", "video_id", "mean_rgb", "mean_audio"),
        ("yt8m-video-2016", "video_id", "mean_inc3", None),
        ("yt8m-frame", "id", "rgb", "audio"),
        ("yt8m-frame-2017", "video_id", "rgb", "audio"),
        ("yt8m-frame-2016", "video_id", "inc3", None),
        ("audioset", "video_id", "audio_embedding", None),
    ],
)
def test_every_edition_is_recognised_and_read(tmp_path, name, id_feature, rgb, audio) -> None:  # type: ignore
    schema = schema_by_name(name)
    made = videos(3, schema)
    payloads = []
    for video in made:
        rename = {"id": None, id_feature: bytes_feature(video.id)}
        payloads.append(video.example(**rename) if not schema.has_frames else video.sequence(rename))
    path = write_shard(tmp_path / "a", payloads)
    assert [modality.name for modality in schema.modalities] == [part for part in (rgb, audio) if part]
    assert detect_schema(str(path)) == schema
    found, rejected, _ = read(path, schema)
    assert rejected == []
    assert_same(found, made)


def test_segment_records_are_recognised(tmp_path: Path) -> None:
    schema = schema_by_name("yt8m-segment")
    video = videos(1, schema, frames=(10, 11))[0]
    path = write_shard(tmp_path / "a", [segment_record(video, [0], [3], [1.0])])
    assert detect_schema(str(path)) == schema


def test_a_layout_that_fits_nothing_is_explained(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a", [video.example() for video in videos(2, VIDEO)])
    assert detect_schema(str(path)).name == "yt8m-video"  # by names; the width is each record's affair
    path = write_shard(tmp_path / "b", [Video(b"x", (1,), {"other": np.zeros(3)}).example()])
    with pytest.raises(UsageError, match="fit no built-in schema; they hold: id, labels, other"):
        detect_schema(str(path))
    (tmp_path / "c").write_bytes(b"no record" * 9)
    with pytest.raises(UsageError, match="no readable record"):
        detect_schema(str(tmp_path / "c"))


def test_real_frame_level_record(shared_data: Path) -> None:
    path = shared_data / "yt8m" / "frame" / "validate_SjJ3.tfrecord"
    ((batch, rejected),) = read_batches(str(path), detect_schema(str(path)), class_count=3862)
    assert rejected == [] and batch.ids == [b"SjJ3"] and batch.label_values.tolist() == [11]
    (record,) = [tf.train.SequenceExample.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    for name, width in (("rgb", 1024), ("audio", 128)):
        frames = record.feature_lists.feature_list[name].feature
        expected = np.stack([np.frombuffer(frame.bytes_list.value[0], np.uint8) for frame in frames])
        rows = batch.features[name]
        assert isinstance(rows, FrameBatch)
        np.testing.assert_array_equal(rows.codes, expected)
        assert rows.codes.shape == (170, width)


def test_a_record_may_be_larger_than_a_chunk(tmp_path: Path) -> None:
    video = videos(1, FRAME, frames=(200, 201))[0]
    path = tmp_path / "a"
    path.write_bytes(frame_record(video.sequence()))
    found, rejected, _ = read(path, FRAME, batch_bytes=100)
    assert rejected == []
    assert_same(found, [video])


def test_a_schema_file_is_read_and_its_absence_explained(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text("\ufeff" + json.dumps(VIDEO.to_dict()), encoding="utf-8")
    assert resolve_schema(str(path), "no shard is read") == VIDEO
    assert resolve_schema("audioset", "no shard is read").name == "audioset"
    with pytest.raises(UsageError, match="schema file .*none.json does not exist"):
        resolve_schema(str(tmp_path / "none.json"), "no shard is read")
    with pytest.raises(UsageError, match="audioset"):
        resolve_schema("audio-set", "no shard is read")
