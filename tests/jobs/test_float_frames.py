"""Frames of float32, as MediaPipe writes them: one list of numbers per frame, under names with slashes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines import preprocess, score
from tests.fixtures.records import bytes_feature, float_feature, int64_feature, read_payloads, write_shard
from vcls_model import train
from vcls_model.commands import JobError, UsageError
from vcls_model.records.examples import parse_record
from vcls_model.records.schema import Modality, RecordSchema, schema_from_dict
from vcls_model.records.shards import detect_schema, read_batches

RGB, AUDIO, CLASSES = 6, 3, 4
SCHEMA: dict[str, Any] = {
    "name": "mediapipe",
    "container": "sequence_example",
    "id_feature": "clip/media_id",
    "labels_feature": "clip/label/index",
    "class_count": CLASSES,
    "modalities": [
        {"name": "rgb", "feature": "RGB/feature/floats", "width": RGB, "kind": "frames", "encoding": "float32"},
        {"name": "audio", "feature": "AUDIO/feature/floats", "width": AUDIO, "kind": "frames", "encoding": "float32"},
    ],
}


def frame_list(rows: np.ndarray) -> tf.train.FeatureList:
    return tf.train.FeatureList(feature=[float_feature(*row) for row in rows.tolist()])


def sequence(name: bytes, labels: list[int], rgb: np.ndarray, audio: np.ndarray, **lists: Any) -> bytes:
    frames = {"RGB/feature/floats": frame_list(rgb), "AUDIO/feature/floats": frame_list(audio), **lists}
    context = {"clip/media_id": bytes_feature(name), "clip/label/index": int64_feature(*labels)}
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(feature_list={k: v for k, v in frames.items() if v is not None}),
    ).SerializeToString()


Clip = tuple[bytes, list[int], np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Values far outside [-2, 2], where YouTube-8M's codes end."""
    random = np.random.default_rng(0)
    made = []
    for number in range(40):
        frames = int(random.integers(1, 6))
        rgb = random.normal(30, 10, (frames, RGB)).astype(np.float32)
        audio = random.normal(-5, 0.01, (frames, AUDIO)).astype(np.float32)
        made.append((b"clip%d" % number, [number % CLASSES], rgb, audio))
    return made


@pytest.fixture(scope="module")
def place(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips as records, with their schema file, transformed."""
    place = tmp_path_factory.mktemp("floats")
    write_shard(place / "clips.tfrecord", [sequence(*clip) for clip in clips])
    (place / "own.json").write_text(json.dumps(SCHEMA))
    preprocess.run(
        [f"--train_input={place}/clips.tfrecord", f"--schema={place}/own.json", f"--output={place}/data"]
        + ["--direct_num_workers=1"]
    )
    return place


def test_frames_are_read_as_they_are(place: Path, clips: list[Clip]) -> None:
    ((batch, rejected),) = read_batches(str(place / "clips.tfrecord"), schema_from_dict(SCHEMA), class_count=CLASSES)
    assert not rejected and batch.ids == [clip[0] for clip in clips]
    for position, name in ((2, "rgb"), (3, "audio")):
        frames = batch.features[name]
        np.testing.assert_array_equal(frames.floats(), np.concatenate([clip[position] for clip in clips]))
        assert frames.strings()[7] == clips[7][position].astype("<f4").tobytes()


def test_statistics_and_codes_are_those_of_the_values(place: Path, clips: list[Clip]) -> None:
    info = json.loads((place / "data" / "info.json").read_text())
    payloads = [payload for path in (place / "data" / "train").iterdir() for payload in read_payloads(path)]
    records = {}
    for payload in payloads:
        features = parse_record(payload).features
        records[features["id"].values[0]] = features
    assert (info["records_written"], info["records_rejected"], len(records)) == (40, 0, 40)
    for position, name in ((2, "rgb"), (3, "audio")):
        rows = np.concatenate([clip[position] for clip in clips]).astype(np.float64)
        statistics = info["statistics"]["features"][name]
        assert statistics["count"] == len(rows)
        np.testing.assert_allclose(statistics["mean"], rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(statistics["std"], rows.std(axis=0), rtol=1e-6)
        for clip in clips:
            scores = (clip[position] - rows.mean(axis=0)) / rows.std(axis=0)
            codes = np.frombuffer(records[clip[0]][name].values[0], np.uint8).reshape(scores.shape)
            np.testing.assert_allclose(codes * (8 / 255) - 4, np.clip(scores, -4, 4), atol=4 / 255 + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [["--normalise=l2"], ["--normalise=minmax", "--pool_frames"], ["--pca_dims=2"]], ids=lambda flags: flags[0]
)
def test_every_transform_takes_them(flags: list[str], place: Path, tmp_path: Path) -> None:
    info = preprocess.run(
        [f"--train_input={place}/clips.tfrecord", f"--schema={place}/own.json", f"--output={tmp_path}/data"]
        + ["--direct_num_workers=1", *flags]
    )
    assert (info["records_written"], info["records_rejected"]) == (40, 0)


def test_unnormalised_codes_need_a_range(place: Path, tmp_path: Path) -> None:
    flags = [f"--train_input={place}/clips.tfrecord", f"--output={tmp_path}/data", "--normalise=none"]
    with pytest.raises(UsageError, match="--normalise=none.*needs the range of 'rgb'.*\"range\""):
        preprocess.run([*flags, f"--schema={place}/own.json"])
    ranged = [{**entry, "range": [-100, 100]} for entry in SCHEMA["modalities"]]
    (tmp_path / "ranged.json").write_text(json.dumps({**SCHEMA, "modalities": ranged}))
    preprocess.run([*flags, f"--schema={tmp_path}/ranged.json", "--direct_num_workers=1"])


@pytest.mark.slow
def test_an_exported_model_scores_them_raw(place: Path, clips: list[Clip], tmp_path: Path) -> None:
    train.run(
        [f"--data={place}/data", f"--output={tmp_path}/model", "--model=logistic", "--epochs=1", "--quiet"]
        + ["--batch_size=8"]
    )
    # --schema=auto: neither a schema file beside the records nor a built-in layout, but the model's own.
    write_shard(tmp_path / "raw" / "clips.tfrecord", [sequence(*clip) for clip in clips])
    info = score.run(
        [f"--input={tmp_path}/raw/clips.tfrecord", f"--model={tmp_path}/model", f"--output={tmp_path}/scores"]
        + ["--full_logits=float32", "--direct_num_workers=1"]
    )
    assert (info["records_written"], info["records_rejected"]) == (40, 0)
    (part,) = (tmp_path / "scores" / "logits").iterdir()
    scored = np.array(pq.read_table(part)["logits"].to_pylist(), np.float32)
    served = tf.saved_model.load(str(tmp_path / "model" / "saved_model")).signatures["serving_default"]
    logits = served(tf.constant([sequence(*clip) for clip in clips]))["logits"].numpy()
    np.testing.assert_allclose(logits, scored, atol=1e-5)
    assert np.ptp(scored) > 0


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"RGB/feature/floats": None}, "missing_feature", "no 'RGB/feature/floats'"),
        ({"RGB/feature/floats": frame_list(np.ones((1, RGB + 1)))}, "wrong_width", "must hold 6 values, got 7"),
        ({"RGB/feature/floats": frame_list(np.full((1, RGB), np.nan))}, "not_finite", "NaN or infinity"),
        ({"RGB/feature/floats": frame_list(np.ones((2, RGB)))}, "frames_differ", "rgb has 2, audio has 1"),
        ({"RGB/feature/floats": tf.train.FeatureList()}, "no_frames", "has no frames"),
        (
            {"RGB/feature/floats": tf.train.FeatureList(feature=[bytes_feature(b"123456")])},
            "wrong_type",
            "must hold float, got bytes; the schema may say the encoding 'uint8'",
        ),
    ],
)
def test_a_bad_record_costs_that_record(change: dict[str, Any], reason: str, message: str, tmp_path: Path) -> None:
    one = np.ones((1, RGB), np.float32), np.ones((1, AUDIO), np.float32)
    path = write_shard(tmp_path / "a.tfrecord", [sequence(b"a", [0], *one, **change), sequence(b"b", [1], *one)])
    ((batch, rejected),) = read_batches(str(path), schema_from_dict(SCHEMA), class_count=CLASSES)
    assert batch.ids == [b"b"] and [each.error for each in rejected] == [reason]
    assert message in rejected[0].message


def test_a_missing_modality_is_filled(tmp_path: Path) -> None:
    one = np.ones((2, RGB), np.float32), np.ones((2, AUDIO), np.float32)
    path = write_shard(tmp_path / "a.tfrecord", [sequence(b"a", [0], *one, **{"AUDIO/feature/floats": None})])
    ((batch, _),) = read_batches(str(path), schema_from_dict(SCHEMA), class_count=CLASSES, missing_modality="fill")
    assert batch.features["audio"].floats().tolist() == [[0, 0, 0]] * 2 and batch.filled["audio"].tolist() == [True]


def test_an_example_may_hold_all_frames_in_one_list(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32)
    record = {"id": bytes_feature(b"a"), "labels": int64_feature(1), "rgb": float_feature(*rows)}
    example = tf.train.Example(features=tf.train.Features(feature=record)).SerializeToString()
    short = {**record, "rgb": float_feature(*rows[:7])}
    path = write_shard(
        tmp_path / "a.tfrecord",
        [example, tf.train.Example(features=tf.train.Features(feature=short)).SerializeToString()],
    )
    schema = RecordSchema("own", "example", "id", "labels", (Modality("rgb", RGB, "frames", "float32"),), CLASSES)
    ((batch, (rejected,)),) = read_batches(str(path), schema, class_count=CLASSES)
    np.testing.assert_array_equal(batch.features["rgb"].floats(), rows.reshape(2, RGB))
    assert rejected.error == "wrong_width" and "7 values, not a multiple of 6" in rejected.message


def test_youtube_8m_s_layout_with_numbers_is_recognised(tmp_path: Path) -> None:
    lists = {"rgb": frame_list(np.ones((2, 1024))), "audio": frame_list(np.ones((2, 128)))}
    record = tf.train.SequenceExample(
        context=tf.train.Features(feature={"id": bytes_feature(b"abcd"), "labels": int64_feature(3)}),
        feature_lists=tf.train.FeatureLists(feature_list=lists),
    ).SerializeToString()
    path = write_shard(tmp_path / "a.tfrecord", [record])
    schema = detect_schema(str(path))
    assert schema.name == "yt8m-frame"
    assert [(each.name, each.encoding) for each in schema.modalities] == [("rgb", "float32"), ("audio", "float32")]
    ((batch, rejected),) = read_batches(str(path), schema, class_count=10)
    assert batch.ids == [b"abcd"] and not rejected


def test_an_unknown_layout_is_answered_with_its_schema_file(place: Path, tmp_path: Path) -> None:
    one = np.ones((1, RGB), np.float32), np.ones((1, AUDIO), np.float32)
    path = write_shard(tmp_path / "a.tfrecord", [sequence(b"a", [0], *one)])
    with pytest.raises(UsageError, match="fit no built-in schema.*for example") as raised:
        detect_schema(str(path))
    text = str(raised.value).split("for example ")[1]
    suggested = json.loads(text)
    assert suggested["modalities"] == sorted(SCHEMA["modalities"], key=lambda entry: entry["feature"])
    ((batch, rejected),) = read_batches(str(path), schema_from_dict(suggested), class_count=CLASSES)
    assert batch.ids == [b"a"] and not rejected


def test_a_name_with_a_slash_is_refused_with_the_way_on() -> None:
    with pytest.raises(UsageError, match='must not contain a slash.*"name": "rgb", "feature": "RGB/feature/floats"'):
        Modality("RGB/feature/floats", 6, "frames", "float32")


def test_a_csv_of_frames_is_refused_at_once(place: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({**SCHEMA, "container": "csv"}))
    with pytest.raises(UsageError, match="'mediapipe': a CSV holds vectors, not frames"):
        preprocess.run(
            [f"--train_input={place}/clips.tfrecord", f"--schema={tmp_path}/s.json", f"--output={tmp_path}/o"]
        )


def test_codes_where_numbers_are_expected_fail_the_job_with_the_reason(tmp_path: Path) -> None:
    lists = {"rgb": tf.train.FeatureList(feature=[bytes_feature(b"123456")])}
    record = tf.train.SequenceExample(
        context=tf.train.Features(feature={"id": bytes_feature(b"a"), "labels": int64_feature(3)}),
        feature_lists=tf.train.FeatureLists(feature_list=lists),
    ).SerializeToString()
    path = write_shard(tmp_path / "a.tfrecord", [record])
    entry = {"name": "rgb", "width": RGB, "kind": "frames", "encoding": "float32"}
    schema = {**SCHEMA, "id_feature": "id", "labels_feature": "labels", "modalities": [entry]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    with pytest.raises(JobError, match="no usable record.*wrong_type"):
        preprocess.run(
            [f"--train_input={path}", f"--schema={tmp_path}/s.json", f"--output={tmp_path}/o"]
            + ["--direct_num_workers=1"]
        )
