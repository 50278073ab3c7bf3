"""Records that have a text and nothing else: kept, counted, learned from, and scored like any other."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines import preprocess as preprocess_job
from pipelines import score as score_job
from tests.fixtures import meetings, titles
from tests.fixtures.records import read_payloads, write_shard
from vcls_model import storage
from vcls_model import train as train_job
from vcls_model.records import examples
from vcls_model.records.schema import schema_from_dict
from vcls_model.records.shards import read_batches

SMALL = ["--recipe=none", "--hidden_units=8", "--epochs=2", "--batch_size=16", "--learning_rate=0.01", "--quiet"]
TITLED: dict[str, Any] = {
    "name": "titled",
    "container": "example",
    "class_count": 4,
    "id_feature": "id",
    "labels_feature": "labels",
    "modalities": [
        {"name": "picture", "width": titles.WIDTH, "kind": "vector", "encoding": "float32"},
        {"name": "title", "kind": "text"},
    ],
}
LACKING = 3  # every third record


def without(payload: bytes, schema: dict[str, Any]) -> bytes:
    """The record without anything but its texts."""
    if schema["container"] == "example":
        example = tf.train.Example.FromString(payload)
        del example.features.feature["picture"]
        return example.SerializeToString()
    example = tf.train.SequenceExample.FromString(payload)
    del example.feature_lists.feature_list["rgb"]
    return example.SerializeToString()


def payloads_of(schema: dict[str, Any]) -> list[bytes]:
    if schema is TITLED:
        payloads = [video.example() for video in titles.titled_videos(240, 4)]
    else:
        payloads = [dataclasses.replace(video, labels=(1,)).example() for video in meetings.meeting_videos(90)]
    return [without(each, schema) if number % LACKING == 0 else each for number, each in enumerate(payloads)]


def missing_name(schema: dict[str, Any]) -> str:
    return schema["modalities"][0]["name"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "model"), [(TITLED, "dense"), (meetings.SCHEMA, "dbof"), (meetings.SCHEMA, "dense")]
)
def test_from_raw_records_to_scores(schema: dict[str, Any], model: str, tmp_path: Path) -> None:
    """The batch job, the SavedModel on whole records, and on features, say the same."""
    payloads = payloads_of(schema)
    shard = write_shard(tmp_path / "raw.tfrecord", payloads)
    storage.write_json(str(tmp_path / "schema.json"), schema)
    data, exported = tmp_path / "data", tmp_path / "model"
    flags = [f"--input={shard}", f"--schema={tmp_path}/schema.json"]
    info = preprocess_job.run([*flags, f"--output={data}", "--text_buckets=512", "--text_min_count=1"])
    name, lacking = missing_name(schema), len(payloads[::LACKING])
    assert (info["records_written"], info["rejected_by_reason"]) == (len(payloads), {})
    assert info["missing"] == {name: lacking}
    written = [
        examples.parse_record(each).features for path in data.glob("*/*.tfrecord") for each in read_payloads(path)
    ]
    bare = [features for features in written if f"has_{name}" in features]
    assert len(bare) == lacking and not any(name in features for features in bare)
    if schema is meetings.SCHEMA:  # as many frames as captions have seconds
        assert {features["num_frames"].values[0] for features in written} == {meetings.SECONDS}
    clusters = ["--clusters=8", "--mixtures=1", "--fusion=early"] if model == "dbof" else []
    train_job.run([f"--data={data}", f"--output={exported}", f"--model={model}", *SMALL, *clusters])
    assert json.loads((exported / "info.json").read_text())["presence"]
    scores = score_job.run([*flags, f"--model={exported}", f"--output={tmp_path}/scores", "--top_k=6"])
    assert (scores["records_written"], scores["missing"]) == (len(payloads), {name: lacking})
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "scores" / "predictions").to_pylist()}
    saved = tf.saved_model.load(str(exported / "saved_model"))
    logits = saved.signatures["serving_default"](tf.constant(payloads))["logits"].numpy()
    (batch, _), *_ = read_batches(
        str(shard), schema_from_dict(schema, ""), class_count=schema["class_count"], missing_modality="mask"
    )
    for video_id, own in zip(batch.ids, logits, strict=True):
        row = rows[video_id.decode()]
        np.testing.assert_allclose(row["probability"], 1 / (1 + np.exp(-own[row["class_index"]])), atol=1e-5)
    # What the text says decides, also where there is nothing else.
    silent = score_job.run(
        [*flags, f"--model={exported}", f"--output={tmp_path}/silent", f"--without={schema['modalities'][1]['name']}"]
        + ["--max_rejected_fraction=0.5"]
    )
    assert silent["rejected_by_reason"] == {"missing_feature": lacking}
    apart = logits[::LACKING]
    assert np.ptp(apart, axis=0).max() > 1e-3


@pytest.mark.parametrize("schema", [TITLED, meetings.SCHEMA], ids=["vector", "frames"])
def test_reading(schema: dict[str, Any], tmp_path: Path) -> None:
    """Kept with `mask`; an empty text, or another container, is none; the other ways refuse such records."""
    payloads = payloads_of(schema)[:4]
    empty = {"id": examples.bytes_feature(b"e"), "labels": examples.int64_feature([1])}
    nothing = [examples.write_example(empty)]
    if schema is TITLED:
        nothing.append(examples.write_example({**empty, "title": examples.bytes_feature(b"")}))
        nothing.append(
            examples.write_sequence_example({**empty, "title": examples.bytes_feature(b"a")}, {"rgb": [b"a"]})
        )
    else:
        nothing.append(examples.write_sequence_example(empty, {"captions": [b"", b""]}))
        nothing.append(examples.write_example({**empty, "rgb": examples.bytes_feature(bytes(16))}))
    shard = write_shard(tmp_path / "a.tfrecord", [*payloads, *nothing])
    layout = schema_from_dict(schema, "")
    for mode in ("mask", "reject", "fill"):
        (batch, rejected), *others = read_batches(
            str(shard), layout, class_count=schema["class_count"], missing_modality=mode
        )
        assert not others
        assert len(batch) == (4 if mode == "mask" else 2)
        assert len(rejected) == (3 if mode == "mask" else 5)
        assert {each.error for each in rejected} <= {"missing_feature", "wrong_container"}
    (batch, _), *_ = read_batches(str(shard), layout, class_count=schema["class_count"], missing_modality="mask")
    assert batch.missing[missing_name(schema)].tolist() == [True, False, False, True]
    if schema is not TITLED:
        assert batch.frame_counts().tolist() == [meetings.SECONDS] * 4
        (cut, _), *_ = read_batches(str(shard), layout, class_count=6, missing_modality="mask", max_frames=7)
        assert cut.frame_counts().tolist() == [7] * 4


def test_a_title_beside_frames_is_a_video_of_no_frame(tmp_path: Path) -> None:
    layout = {**meetings.SCHEMA, "modalities": [*meetings.SCHEMA["modalities"][:1], {"name": "title", "kind": "text"}]}
    records = [
        examples.write_sequence_example(
            {"id": examples.bytes_feature(b"a"), "title": examples.bytes_feature(b"word")}, {}
        ),
        examples.write_sequence_example({"id": examples.bytes_feature(b"b")}, {"rgb": [bytes(meetings.WIDTH)] * 2}),
        # An Example, which holds its frames beside the title.
        examples.write_example(
            {
                "id": examples.bytes_feature(b"c"),
                "title": examples.bytes_feature(b"word"),
                "rgb": examples.bytes_feature(bytes(meetings.WIDTH)),
            }
        ),
    ]
    shard = write_shard(tmp_path / "a.tfrecord", records)
    (batch, rejected), *_ = read_batches(
        str(shard), schema_from_dict(layout, ""), class_count=6, missing_modality="mask", require_labels=False
    )
    assert (batch.ids, batch.frame_counts().tolist()) == ([b"a", b"b"], [0, 2])
    assert [(each.id, each.error) for each in rejected] == [("c", "wrong_container")]
