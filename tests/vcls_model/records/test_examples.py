"""The declared messages are TensorFlow's: each side reads what the other writes, and refuses what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.records import FRAME, VIDEO, videos
from vcls_model.records.examples import (
    ExampleError,
    bytes_feature,
    float_feature,
    int64_feature,
    parse_feature,
    parse_record,
    write_example,
    write_sequence_example,
)


def test_tensorflow_reads_an_example_written_here() -> None:
    payload = write_example(
        {
            "id": bytes_feature(b"\xff", b""),
            "labels": int64_feature([3, -1, 2**62]),
            "none": int64_feature([]),
            "mean": float_feature(np.array([1.5, np.nan, -0.0])),
        }
    )
    features = tf.train.Example.FromString(payload).features.feature
    assert list(features["id"].bytes_list.value) == [b"\xff", b""]
    assert list(features["labels"].int64_list.value) == [3, -1, 2**62]
    assert features["none"].WhichOneof("kind") == "int64_list" and not features["none"].int64_list.value
    np.testing.assert_array_equal(features["mean"].float_list.value, np.array([1.5, np.nan, -0.0]))


def test_tensorflow_reads_a_sequence_example_written_here() -> None:
    frames = [bytes([number] * 4) for number in range(3)]
    payload = write_sequence_example({"id": bytes_feature(b"v")}, {"rgb": frames, "empty": []})
    message = tf.train.SequenceExample.FromString(payload)
    assert list(message.context.feature["id"].bytes_list.value) == [b"v"]
    lists = message.feature_lists.feature_list
    assert [list(feature.bytes_list.value) for feature in lists["rgb"].feature] == [[frame] for frame in frames]
    assert set(lists) == {"rgb", "empty"} and not lists["empty"].feature


def test_what_tensorflow_writes_is_read_here() -> None:
    video = videos(1, VIDEO)[0]
    record = parse_record(video.example())
    assert record.features["id"].kind == "bytes" and record.features["id"].values == [video.id]
    assert record.features["labels"].kind == "int64" and record.features["labels"].values == list(video.labels)
    assert record.features["mean_rgb"].kind == "float" and not record.feature_lists
    np.testing.assert_array_equal(record.features["mean_rgb"].values, video.values["mean_rgb"])
    video = videos(1, FRAME)[0]
    record = parse_record(video.sequence())
    assert [b"".join(frame.values) for frame in record.feature_lists["rgb"]] == [  # type: ignore[arg-type]
        row.tobytes() for row in video.values["rgb"]
    ]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_are_taken_or_refused_as_tensorflow_does(data: st.DataObject) -> None:
    changed = bytearray(videos(1, FRAME, frames=(2, 3))[0].sequence())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = tf.train.SequenceExample.FromString(bytes(changed))
    except Exception:  # DecodeError, of whichever implementation
        with pytest.raises(ExampleError, match="not a tf.train.Example or SequenceExample"):
            parse_record(bytes(changed))
        return
    record = parse_record(bytes(changed))
    assert set(record.features) == set(message.context.feature)
    for name, feature in message.context.feature.items():
        kind = feature.WhichOneof("kind")
        assert record.features[name].kind == (kind and kind.removesuffix("_list"))
        expected = list(getattr(feature, kind).value) if kind else []
        np.testing.assert_array_equal(record.features[name].values, expected)
    lists = message.feature_lists.feature_list
    assert {name: len(frames) for name, frames in record.feature_lists.items()} == {
        name: len(part.feature) for name, part in lists.items()
    }


def test_a_feature_alone() -> None:
    assert parse_feature(tf.train.Feature(int64_list=tf.train.Int64List(value=[7])).SerializeToString()).values == [7]
    assert parse_feature(b"").kind is None and parse_feature(b"").values == []
    with pytest.raises(ExampleError, match="not a tf.train.Feature"):
        parse_feature(b"\xff")


def test_tensorflow_is_not_imported() -> None:
    script = "import sys, vcls_model.records.examples; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
