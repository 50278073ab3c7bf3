"""Records to arrays: what TensorFlow wrote is what comes out, and every kind of bad record costs itself alone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures import wire
from tests.fixtures.reading import SEGMENTS, assert_same, read, segment_record
from tests.fixtures.records import (
    FRAME,
    MIXED,
    VIDEO,
    Video,
    bytes_feature,
    float_feature,
    int64_feature,
    videos,
    write_shard,
)
from vcls_model.records.decoding import Decoder, RecordOptions, records_in
from vcls_model.records.schema import Modality, RecordSchema
from vcls_model.records.shards import FrameBatch, Rejected, read_batches

# The vector between the frames, and the mixture in plain examples.
INTERLEAVED = dataclasses.replace(MIXED, name="interleaved", modalities=tuple(MIXED.modalities[i] for i in (0, 2, 1)))
FLAT = dataclasses.replace(MIXED, name="flat", container="example")


@pytest.mark.parametrize("batch_bytes", [300, 1 << 20])
@pytest.mark.parametrize("schema", [VIDEO, FRAME, MIXED, INTERLEAVED, FLAT], ids=lambda schema: schema.name)
def test_reads_what_tensorflow_wrote(tmp_path: Path, schema: RecordSchema, batch_bytes: int) -> None:
    made = videos(40, schema)
    payloads = [video.example() if schema.container == "example" else video.sequence() for video in made]
    found, rejected, batches = read(
        write_shard(tmp_path / "a", payloads), schema, batch_bytes=batch_bytes, batch_records=7
    )
    assert_same(found, made)
    assert rejected == []
    framed = np.array([len(payload) + 16 for payload in payloads])  # a header of 12 bytes, a footer of 4
    np.testing.assert_array_equal(np.concatenate([batch.offsets for batch in batches]), np.cumsum(framed) - framed)
    assert max(len(batch) for batch in batches) <= 7
    assert all(batch.labelled.all() for batch in batches)


def edit_frames(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Video], bytes]:
    def make(video: Video) -> bytes:
        rows = change([row.tobytes() for row in video.values[name]])
        return video.sequence(lists={name: tf.train.FeatureList(feature=[bytes_feature(row) for row in rows])})

    return make


VIDEO_MATRIX: list[tuple[str, Callable[[Video], bytes], str]] = [
    ("no id", lambda v: v.example(id=None), "missing_id"),
    ("empty id", lambda v: v.example(id=bytes_feature(b"")), "empty_id"),
    ("two ids", lambda v: v.example(id=bytes_feature(b"a", b"b")), "wrong_width"),
    ("id of another type", lambda v: v.example(id=int64_feature(3)), "wrong_type"),
    ("no labels feature", lambda v: v.example(labels=None), "no_labels"),
    ("no labels", lambda v: v.example(labels=int64_feature()), "no_labels"),
    ("negative label", lambda v: v.example(labels=int64_feature(1, -1)), "label_out_of_range"),
    ("label too large", lambda v: v.example(labels=int64_feature(3, 10)), "label_out_of_range"),
    ("labels of another type", lambda v: v.example(labels=float_feature(1.0)), "wrong_type"),
    ("feature missing", lambda v: v.example(mean_audio=None), "missing_feature"),
    ("feature of another type", lambda v: v.example(mean_rgb=bytes_feature(bytes(24))), "wrong_type"),
    ("too few values", lambda v: v.example(mean_rgb=float_feature(*[1.0] * 5)), "wrong_width"),
    ("too many values", lambda v: v.example(mean_rgb=float_feature(*[1.0] * 7)), "wrong_width"),
    ("no values", lambda v: v.example(mean_rgb=float_feature()), "wrong_width"),
    ("NaN", lambda v: v.example(mean_rgb=float_feature(1, 2, float("nan"), 4, 5, 6)), "not_finite"),
    ("infinite", lambda v: v.example(mean_audio=float_feature(1, 2, float("-inf"))), "not_finite"),
    (
        "a SequenceExample",
        lambda v: Video(v.id, v.labels, {"rgb": np.zeros((3, 6), np.uint8)}).sequence(),
        "wrong_container",
    ),
    ("not a message", lambda v: b"\xff\xff\xff", "unparsable"),
    ("a message cut short", lambda v: v.example()[:-3], "unparsable"),
    ("an empty message", lambda v: b"", "missing_id"),
]

FRAME_MATRIX: list[tuple[str, Callable[[Video], bytes], str]] = [
    ("no id", lambda v: v.sequence({"id": None}), "missing_id"),
    ("empty id", lambda v: v.sequence({"id": bytes_feature(b"")}), "empty_id"),
    ("no labels", lambda v: v.sequence({"labels": None}), "no_labels"),
    ("label too large", lambda v: v.sequence({"labels": int64_feature(10)}), "label_out_of_range"),
    ("feature missing", lambda v: v.sequence(lists={"audio": None}), "missing_feature"),
    (
        "frame of another type",
        lambda v: v.sequence(lists={"rgb": tf.train.FeatureList(feature=[float_feature(1.0)] * len(v.values["rgb"]))}),
        "wrong_type",
    ),
    ("frames too narrow", edit_frames("rgb", lambda rows: [row[:-1] for row in rows]), "wrong_width"),
    ("last frame too wide", edit_frames("audio", lambda rows: [*rows[:-1], rows[-1] + b"x"]), "wrong_width"),
    ("one frame empty", edit_frames("rgb", lambda rows: [*rows[:-1], b""]), "wrong_width"),
    ("fewer audio frames", edit_frames("audio", lambda rows: [*rows, rows[0]]), "frames_differ"),
    ("zero frames", lambda v: v.sequence(lists={name: tf.train.FeatureList() for name in v.values}), "no_frames"),
    (
        "an Example",
        lambda v: Video(v.id, v.labels, {"rgb": np.zeros(6), "audio": np.zeros(3)}).example(),
        "wrong_container",
    ),
    ("no feature lists at all", lambda v: v.sequence(lists={name: None for name in v.values}), "wrong_container"),
    ("not a message", lambda v: b"\x0a\xff", "unparsable"),
]

MIXED_MATRIX: list[tuple[str, Callable[[Video], bytes], str]] = [
    ("no vector", lambda v: v.sequence({"title": None}), "missing_feature"),
    ("vector among the frames", lambda v: in_lists(v, "title"), "missing_feature"),
    ("vector of another type", lambda v: v.sequence({"title": bytes_feature(bytes(16))}), "wrong_type"),
    ("vector too short", lambda v: v.sequence({"title": float_feature(1, 2, 3)}), "wrong_width"),
    ("NaN in the vector", lambda v: v.sequence({"title": float_feature(1, 2, 3, float("nan"))}), "not_finite"),
    ("no frames", lambda v: v.sequence(lists={"rgb": None}), "missing_feature"),
    ("fewer audio frames", edit_frames("audio", lambda rows: rows[1:]), "frames_differ"),
    ("no feature lists at all", lambda v: v.sequence(lists={"rgb": None, "audio": None}), "wrong_container"),
]


def in_lists(video: Video, name: str) -> bytes:
    """The record with a vector in a feature list instead of the context."""
    return video.sequence({name: None}, {name: tf.train.FeatureList(feature=[float_feature(*video.values[name])])})


@pytest.mark.parametrize(
    ("schema", "name", "spoil", "reason"),
    [(VIDEO, *case) for case in VIDEO_MATRIX]
    + [(FRAME, *case) for case in FRAME_MATRIX]
    + [(MIXED, *case) for case in MIXED_MATRIX],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_record_costs_itself(tmp_path, schema, name, spoil, reason) -> None:  # type: ignore[no-untyped-def]
    made = videos(6, schema, frames=(2, 9))
    payloads = [video.example() if schema is VIDEO else video.sequence() for video in made]
    payloads[3] = spoil(made[3])
    found, rejected, _ = read(write_shard(tmp_path / "a", payloads), schema)
    assert_same(found, made[:3] + made[4:])
    assert [item.error for item in rejected] == [reason]
    assert rejected[0].offset == sum(16 + len(payload) for payload in payloads[:3])
    assert rejected[0].shard == str(tmp_path / "a")
    if (
        not reason.endswith("_id")
        and reason not in ("unparsable", "wrong_container")
        and name not in ("two ids", "id of another type")
    ):
        assert rejected[0].id == made[3].id.decode()


def unpacked(video: Video) -> bytes:
    """The record in an encoding that is allowed but not canonical: unpacked numbers, split messages, unknown fields."""
    floats = {
        name: b"".join(wire.write_varint(1 << 3 | 5) + np.float32(value).tobytes() for value in values)
        for name, values in video.values.items()
    }
    labels = b"".join(wire.write_varint(1 << 3) + wire.write_varint(label) for label in video.labels)
    features = {
        "id": wire.bytes_feature(video.id),
        "labels": wire.write_message(3, labels),
        **{name: wire.write_message(2, packed) for name, packed in floats.items()},
    }
    entries = [
        wire.write_message(1, wire.write_message(2, value) + wire.write_message(1, name.encode()))
        for name, value in features.items()
    ]
    payload = wire.write_message(1, b"".join(entries[:2])) + wire.write_message(1, b"".join(entries[2:]))
    return payload + wire.write_message(9, b"unknown") + wire.write_varint(10 << 3) + b"\x05"


def test_encodings_that_are_not_canonical_are_understood(tmp_path: Path) -> None:
    made = videos(5, VIDEO)
    payloads = [unpacked(video) if index % 2 else video.example() for index, video in enumerate(made)]
    assert tf.train.Example.FromString(payloads[1]).features.feature["id"].bytes_list.value[0] == made[1].id
    found, rejected, _ = read(write_shard(tmp_path / "a", payloads), VIDEO)
    assert rejected == []
    assert_same(found, made)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2), st.data())
def test_mutated_payloads_are_read_as_protocol_buffers_read_them(which: int, data) -> None:  # type: ignore
    """Bytes changed under a right checksum: what is accepted is what TensorFlow's parser sees in the record."""
    video = videos(3, VIDEO)[which]
    changed = bytearray(video.example())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    decoder = Decoder(VIDEO, RecordOptions(class_count=10))
    buffer, starts, lengths = records_in([bytes(changed)])
    batch, rejected = decoder.decode("s", buffer, starts, lengths, starts)
    assert len(batch) + len(rejected) == 1
    if len(batch):
        features = tf.train.Example.FromString(bytes(changed)).features.feature
        assert batch.ids == list(features["id"].bytes_list.value)
        assert batch.label_values.tolist() == sorted(set(features["labels"].int64_list.value))
        for name, rows in batch.features.items():
            assert isinstance(rows, np.ndarray)
            np.testing.assert_array_equal(rows[0], np.array(features[name].float_list.value, np.float32))


def test_repeated_labels_are_kept_once_and_counted(tmp_path: Path) -> None:
    video = videos(1, VIDEO)[0]
    found, rejected, batches = read(
        write_shard(tmp_path / "a", [video.example(labels=int64_feature(7, 2, 7, 7))]), VIDEO
    )
    assert rejected == []
    assert found[0].labels == (2, 7)
    assert batches[0].notes == {"labels_deduplicated": 2}


def test_repeated_and_non_utf8_ids_are_kept(tmp_path: Path) -> None:
    made = videos(3, VIDEO)
    made[1].id, made[2].id = made[0].id, b"\xff\xfe"
    found, rejected, _ = read(write_shard(tmp_path / "a", [video.example() for video in made]), VIDEO)
    assert rejected == []
    assert [video.id for video in found] == [b"v0000", b"v0000", b"\xff\xfe"]
    bad = made[2].example(labels=int64_feature(99))
    assert read(write_shard(tmp_path / "b", [bad]), VIDEO)[1][0].id == "\\xff\\xfe"


def test_unlabelled_records_are_kept_on_request(tmp_path: Path) -> None:
    made = videos(3, VIDEO)
    payloads = [made[0].example(), made[1].example(labels=None), made[2].example(labels=int64_feature())]
    found, rejected, batches = read(write_shard(tmp_path / "a", payloads), VIDEO, require_labels=False)
    assert rejected == []
    assert batches[0].labelled.tolist() == [True, False, False]
    assert [video.labels for video in found] == [made[0].labels, (), ()]


def test_a_missing_modality_is_filled_on_request(tmp_path: Path) -> None:
    made = videos(3, FRAME)
    payloads = [
        made[0].sequence(),
        made[1].sequence(lists={"audio": None}),
        made[2].sequence(lists={"audio": None, "rgb": None, "other": tf.train.FeatureList()}),
    ]
    found, rejected, batches = read(write_shard(tmp_path / "a", payloads), FRAME, missing_modality="fill")
    assert [item.error for item in rejected] == ["missing_feature"]
    np.testing.assert_array_equal(found[1].values["rgb"], made[1].values["rgb"])
    np.testing.assert_array_equal(found[1].values["audio"], np.full((len(made[1].values["rgb"]), 3), 128))
    assert batches[0].filled["audio"].tolist() == [False, True]
    assert batches[0].notes["modality_filled"] == 1


def test_of_a_mixture_what_is_missing_is_filled_where_the_frames_are_known(tmp_path: Path) -> None:
    made = videos(4, MIXED)
    payloads = [
        made[0].sequence(),
        made[1].sequence({"title": None}),
        made[2].sequence(lists={"audio": None}),
        made[3].sequence(lists={"audio": None, "rgb": None, "other": tf.train.FeatureList()}),
    ]
    found, rejected, batches = read(write_shard(tmp_path / "a", payloads), MIXED, missing_modality="fill")
    assert [item.error for item in rejected] == ["missing_feature"]
    np.testing.assert_array_equal(found[1].values["title"], np.zeros(4))
    np.testing.assert_array_equal(found[1].values["rgb"], made[1].values["rgb"])
    np.testing.assert_array_equal(found[2].values["title"], made[2].values["title"])
    np.testing.assert_array_equal(found[2].values["audio"], np.full((len(made[2].values["rgb"]), 3), 128))
    assert {name: mask.tolist() for name, mask in batches[0].filled.items()} == {
        "title": [False, True, False],
        "audio": [False, False, True],
    }


@pytest.mark.parametrize("batch_bytes", [300, 1 << 20])
def test_what_a_record_lacks_is_said_and_not_made_up(tmp_path: Path, batch_bytes: int) -> None:
    made = videos(6, MIXED)
    payloads = [
        made[0].sequence(),
        made[1].sequence({"title": None}),
        made[2].sequence(lists={"audio": None}),
        made[3].sequence(lists={"audio": tf.train.FeatureList()}),  # an empty list says as much
        made[4].sequence({"title": None}, {"audio": None, "rgb": None, "other": tf.train.FeatureList()}),
        made[5].sequence(lists={"audio": None, "rgb": None}),
    ]
    found, rejected, batches = read(
        write_shard(tmp_path / "a", payloads), MIXED, missing_modality="mask", batch_bytes=batch_bytes
    )
    assert [item.error for item in rejected] == ["missing_feature"]
    assert [video.id for video in found] == [made[row].id for row in (0, 1, 2, 3, 5)]
    missing = {
        name: [
            bool(batch.missing.get(name, np.zeros(len(batch), bool))[row])
            for batch in batches
            for row in range(len(batch))
        ]
        for name in ("rgb", "audio", "title")
    }
    assert missing == {
        "rgb": [False, False, False, False, True],
        "audio": [False, False, True, True, True],
        "title": [False, True, False, False, False],
    }
    assert np.isnan(found[1].values["title"]).all()
    assert found[2].values["audio"].shape == (0, 3)
    np.testing.assert_array_equal(found[2].values["rgb"], made[2].values["rgb"])
    np.testing.assert_array_equal(found[4].values["title"], made[5].values["title"])
    assert [count for batch in batches for count in batch.frame_counts()] == [
        *(len(made[row].values["rgb"]) for row in range(4)),
        0,
    ]
    assert not any(batch.notes or batch.filled for batch in batches)


def test_a_vector_of_codes_that_is_missing_is_not_a_number(tmp_path: Path) -> None:
    schema = RecordSchema(
        "codes",
        "example",
        "id",
        "labels",
        (Modality("embedding", 600, "vector", "uint8"), Modality("title", 2, "vector", "float32")),
        10,
    )
    title = float_feature(1.0, 2.0)
    payloads = [
        Video(b"x", (1,), {}).example(title=title),
        Video(b"y", (1,), {}).example(title=title, embedding=bytes_feature(bytes(600))),
    ]
    found, rejected, batches = read(write_shard(tmp_path / "a", payloads), schema, missing_modality="mask")
    assert rejected == []
    assert np.isnan(found[0].values["embedding"]).all()
    np.testing.assert_allclose(found[1].values["embedding"], 4 / 512 - 2)
    assert batches[0].missing["embedding"].tolist() == [True, False]


def test_modalities_of_unequal_length_are_aligned_by_time(tmp_path: Path) -> None:
    (video,) = videos(1, FRAME, frames=(8, 9))
    payloads = [
        edit_frames("audio", lambda rows: rows[:5])(video),
        edit_frames("rgb", lambda rows: rows[:7])(video),
        video.sequence(),
    ]
    shard = write_shard(tmp_path / "a", payloads)
    assert [item.error for item in read(shard, FRAME)[1]] == ["frames_differ"] * 2
    found, rejected, (batch,) = read(shard, FRAME, missing_modality="mask")
    assert rejected == []
    assert batch.notes == {"videos_padded": 2, "frames_padded": 4}
    assert batch.held["audio"][0] == 5 and batch.held["rgb"][1] == 7
    np.testing.assert_array_equal(found[0].values["audio"][:5], video.values["audio"][:5])
    np.testing.assert_array_equal(found[0].values["audio"][5:], np.full((3, 3), 128))
    np.testing.assert_array_equal(found[0].values["rgb"], video.values["rgb"])
    np.testing.assert_array_equal(found[1].values["rgb"][7:], np.full((1, 6), 128))
    assert batch.frame_counts().tolist() == [8, 8, 8]


def test_a_segment_after_the_end_of_the_sound_lacks_it(tmp_path: Path) -> None:
    (video,) = videos(1, FRAME, frames=(15, 16))
    video.values["audio"] = video.values["audio"][:7]
    shard = write_shard(tmp_path / "a", [segment_record(video, [0, 5, 10], [1, 1, 1])])
    found, rejected, (batch,) = read(shard, SEGMENTS, missing_modality="mask")
    assert rejected == []
    assert batch.missing["audio"].tolist() == [False, False, True] and "rgb" not in batch.missing
    np.testing.assert_array_equal(found[1].values["audio"][:2], video.values["audio"][5:7])
    assert found[1].values["audio"].shape == (5, 3) and found[2].values["audio"].shape == (0, 3)
    assert batch.notes == {"videos_padded": 1, "frames_padded": 3}


def test_frames_beyond_the_limit_are_cut_and_counted(tmp_path: Path) -> None:
    made = videos(10, FRAME, frames=(3, 12))
    found, _, batches = read(write_shard(tmp_path / "a", [video.sequence() for video in made]), FRAME, max_frames=5)
    for one, other in zip(found, made, strict=True):
        np.testing.assert_array_equal(one.values["rgb"], other.values["rgb"][:5])
        np.testing.assert_array_equal(one.values["audio"], other.values["audio"][:5])
    lengths = np.array([len(video.values["rgb"]) for video in made])
    assert batches[0].notes == {"videos_cut": (lengths > 5).sum(), "frames_cut": np.maximum(lengths - 5, 0).sum()}


def test_codes_in_one_byte_string_are_frames_too(tmp_path: Path) -> None:
    schema = RecordSchema("flat", "example", "id", "labels", (Modality("rgb", 6, "frames", "uint8"),), 10)
    made = videos(4, schema)
    payloads = [
        Video(video.id, video.labels, {}).example(rgb=bytes_feature(video.values["rgb"].tobytes())) for video in made
    ]
    payloads.append(Video(b"x", (1,), {}).example(rgb=bytes_feature(b"12345")))
    found, rejected, _ = read(write_shard(tmp_path / "a", payloads), schema)
    assert_same(found, made)
    assert [item.error for item in rejected] == ["wrong_width"]


def test_a_video_level_modality_of_codes_is_dequantised(tmp_path: Path) -> None:
    schema = RecordSchema("codes", "example", "id", "labels", (Modality("embedding", 4, "vector", "uint8"),), 10)
    video = Video(b"x", (1,), {})
    found, rejected, _ = read(
        write_shard(tmp_path / "a", [video.example(embedding=bytes_feature(bytes([0, 1, 128, 255])))]), schema
    )
    assert rejected == []
    np.testing.assert_allclose(
        found[0].values["embedding"], np.array([0, 1, 128, 255]) * 4 / 255 + 4 / 512 - 2, atol=1e-6
    )


def test_the_codes_of_a_video_as_one_string(tmp_path: Path) -> None:
    made = videos(5, FRAME)
    ((batch, _),) = read_batches(
        str(write_shard(tmp_path / "a", [video.sequence() for video in made])), FRAME, class_count=10, max_frames=4
    )
    for name, rows in batch.features.items():
        assert isinstance(rows, FrameBatch)
        assert rows.strings() == [video.values[name][:4].tobytes() for video in made]


def test_a_rejected_record_is_a_line_of_json() -> None:
    rejected = Rejected("shard", 7, "名\udcff", "parse", "unparsable", 'not a "record"')
    line = rejected.to_json()
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert Rejected(**json.loads(line)) == rejected


def test_segments_become_records_of_five_seconds(tmp_path: Path) -> None:
    made = videos(2, FRAME, frames=(20, 21))
    payloads = [
        segment_record(made[0], [5, 0, 5, 40], [3, 4, 6, 1], [1.0, 0.0, 1.0, 1.0]),
        segment_record(made[1], [2], [7], ends=[5]),
    ]
    found, rejected, batches = read(write_shard(tmp_path / "a", payloads), SEGMENTS)
    assert [(video.id, video.labels) for video in found] == [(b"v0000:0", ()), (b"v0000:5", (3, 6)), (b"v0001:2", (7,))]
    np.testing.assert_array_equal(found[0].values["rgb"], made[0].values["rgb"][0:5])
    np.testing.assert_array_equal(found[1].values["audio"], made[0].values["audio"][5:10])
    np.testing.assert_array_equal(found[2].values["rgb"], made[1].values["rgb"][2:5])
    assert [item.error for item in rejected] == ["segment_out_of_range"]
    assert batches[0].split_ids == [b"v0000", b"v0000", b"v0001"]
    assert batches[0].labelled.all()
    ratings = batches[0].ratings
    assert ratings is not None
    pairs = zip(ratings.rows.tolist(), ratings.classes.tolist(), ratings.present.tolist(), strict=True)
    assert list(pairs) == [(0, 4, 0), (1, 3, 1), (1, 6, 1), (2, 7, 1)]
    chosen = ratings.select(np.array([False, True, True]))
    assert (chosen.rows.tolist(), chosen.classes.tolist(), chosen.present.tolist()) == ([0, 0, 1], [3, 6, 7], [1, 1, 1])


def test_a_class_rated_twice_is_present_if_it_was_seen_once(tmp_path: Path) -> None:
    video = videos(1, FRAME, frames=(20, 21))[0]
    path = write_shard(tmp_path / "a", [segment_record(video, [5, 5, 5], [3, 3, 4], [1.0, 0.0, 0.25])])
    _, _, (batch,) = read(path, SEGMENTS)
    assert batch.ratings is not None and batch.label_values.tolist() == [3]
    assert (batch.ratings.classes.tolist(), batch.ratings.present.tolist()) == ([3, 4], [1, 0])


@pytest.mark.parametrize("segments", [False, True])
def test_features_of_the_context_are_handed_over_as_they_are(tmp_path: Path, segments: bool) -> None:
    made = videos(3, FRAME, frames=(10, 11))
    context = {
        "year": int64_feature(2017),
        "score": float_feature(0.5, 0.25),
        "segment_start_times": int64_feature(0),
        "segment_labels": int64_feature(3),
    }
    payloads = [
        made[0].sequence({**context, "language": bytes_feature(b"de", b"\xff")}),
        made[1].sequence({**context, "labels": int64_feature(3, 3, 1)}),  # rewritten by the careful reader
        made[2].sequence({"segment_start_times": int64_feature(0), "segment_labels": int64_feature(3)}),
    ]
    schema = SEGMENTS if segments else FRAME
    names = ("year", "language", "score", "labels")
    _, rejected, (batch,) = read(write_shard(tmp_path / "a", payloads), schema, context_features=names)
    assert rejected == []
    assert batch.context["year"] == [[2017], [2017], []]
    assert batch.context["language"] == [[b"de", b"\xff"], [], []]
    assert [list(values) for values in batch.context["score"]] == [[0.5, 0.25], [0.5, 0.25], []]
    assert batch.context["labels"] == [list(made[0].labels), [3, 3, 1], list(made[2].labels)]


def test_a_damaged_feature_of_the_context_costs_its_record(tmp_path: Path) -> None:
    made = videos(3, FRAME)
    payloads = [video.sequence({"year": bytes_feature(b"\x01\x02\x03")}) for video in made]
    # The length of the byte string becomes wrong: the record is still a map of features to the kernels.
    payloads[1] = payloads[1].replace(b"\x0a\x03\x01\x02\x03", b"\x0a\x09\x01\x02\x03")
    path = write_shard(tmp_path / "a", payloads)
    assert len(read(path, FRAME)[0]) == 3
    found, rejected, (batch,) = read(path, FRAME, context_features=("year",))
    assert [item.error for item in rejected] == ["unparsable"]
    assert [video.id for video in found] == [made[0].id, made[2].id]
    assert batch.context["year"] == [[b"\x01\x02\x03"]] * 2


def test_every_segment_of_a_mixture_has_the_vector_of_its_video(tmp_path: Path) -> None:
    schema = dataclasses.replace(MIXED, segments=True)
    video = videos(1, MIXED, frames=(20, 21))[0]
    found, rejected, _ = read(write_shard(tmp_path / "a", [segment_record(video, [0, 10], [3, 4])]), schema)
    assert rejected == []
    assert [item.id for item in found] == [b"v0000:0", b"v0000:10"]
    for item, start in zip(found, (0, 10), strict=True):
        np.testing.assert_array_equal(item.values["title"], video.values["title"])
        np.testing.assert_array_equal(item.values["audio"], video.values["audio"][start : start + 5])


def test_a_context_of_codes_is_dequantised_beside_frames(tmp_path: Path) -> None:
    title = Modality("title", 2, "vector", "uint8")
    schema = dataclasses.replace(MIXED, modalities=(title, MIXED.modalities[0]))
    video = Video(b"x", (1,), {"rgb": np.ones((3, 6), np.uint8), "title": np.array([0, 255], np.uint8)})
    found, rejected, _ = read(write_shard(tmp_path / "a", [video.sequence()]), schema)
    assert rejected == []
    np.testing.assert_allclose(found[0].values["title"], [4 / 512 - 2, 4 / 512 + 2], atol=1e-6)
    np.testing.assert_array_equal(found[0].values["rgb"], video.values["rgb"])


def test_bad_segments_are_rejected(tmp_path: Path) -> None:
    video = videos(1, FRAME, frames=(20, 21))[0]
    payloads = [segment_record(video, [1, 2], [3]), video.sequence(), segment_record(video, [1], [10])]
    found, rejected, _ = read(write_shard(tmp_path / "a", payloads), SEGMENTS)
    assert found == []
    assert [item.error for item in rejected] == ["segments_differ", "no_segments", "label_out_of_range"]
