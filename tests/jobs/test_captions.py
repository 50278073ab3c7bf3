"""Texts of each second from raw records to scores: what is said counts when it is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines import extract as extract_job
from pipelines import preprocess as preprocess_job
from pipelines import score as score_job
from tests.fixtures.media import colour_clip, write_encoders
from tests.fixtures.meetings import CLASSES, SCHEMA, MeetingVideo, meeting_videos
from tests.fixtures.records import read_payloads, write_shard
from vcls_model import storage
from vcls_model import train as train_job
from vcls_model.commands import UsageError
from vcls_model.encoders import load_text_encoder
from vcls_model.encoders.catalogue import weight_packages
from vcls_model.input.dataset import decode_features, make_batches
from vcls_model.input.options import InputOptions
from vcls_model.records import examples
from vcls_model.records.schema import schema_from_dict
from vcls_model.records.shards import read_batches
from vcls_model.records.transformed import open_transformed
from vcls_model.serving.export import EmbeddedTransform, parse_raw_records

BUCKETS = 4096
MODEL = ["--model=dbof", "--recipe=none", "--fusion=early", "--clusters=8", "--hidden_units=8", "--mixtures=1"]


@pytest.fixture(scope="module")
def videos() -> list[MeetingVideo]:
    return meeting_videos(60)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, videos: list[MeetingVideo]) -> Path:
    """Raw shards, a schema and a dataset."""
    work = tmp_path_factory.mktemp("captions")
    for number in range(2):
        write_shard(work / "raw" / f"{number}.tfrecord", [video.example() for video in videos[number::2]])
    storage.write_json(str(work / "schema.json"), SCHEMA)
    preprocess_job.run(
        [f"--input={work}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={work}/data"]
        + [f"--text_buckets={BUCKETS}", "--allow_unlabelled"]
    )
    return work


@pytest.fixture(scope="module")
def model(work: Path) -> Path:
    """A model that sees twenty frames of each video."""
    train_job.run(
        [f"--data={work}/data", f"--output={work}/model", *MODEL, "--epochs=1", "--batch_size=16", "--quiet"]
        + ["--frames=random", "--max_frames=20"]
    )
    return work / "model"


def tokens_in(data: Path) -> dict[bytes, list[int]]:
    """The tokens of each record of a dataset's splits."""
    tokens = {}
    for path in data.glob("*/*.tfrecord"):
        for payload in read_payloads(path):
            features = examples.parse_record(payload).features
            tokens[features["id"].values[0]] = list(features["captions"].values)
    return tokens


def lines_of(video: MeetingVideo) -> bytes:
    rows = examples.parse_record(video.example()).feature_lists["captions"]
    return b"\n".join(row.values[0] for row in rows)


def test_tokens_lie_on_their_seconds(work: Path, videos: list[MeetingVideo]) -> None:
    written = tokens_in(work / "data")
    assert len(written) == len(videos)
    for video in videos[:5]:
        spoken = {second for second, line in enumerate(lines_of(video).split(b"\n")) if line}
        assert {token >> 31 for token in written[video.id]} == spoken


def test_graph_gives_the_tokens_of_the_kernels(work: Path, videos: list[MeetingVideo]) -> None:
    written = tokens_in(work / "data")
    transform = EmbeddedTransform(str(work / "data"))
    given = transform({"captions": tf.constant([lines_of(video) for video in videos])})["captions"]
    assert tf.RaggedTensor.from_sparse(given).to_list() == [written[video.id] for video in videos]


@pytest.mark.parametrize("frames", ["all", "random", "uniform", "sequence"])
def test_texts_follow_the_frames_that_are_chosen(work: Path, frames: str) -> None:
    """The frames of a batch are recognised by their codes; the text of each is that of the same second."""
    data = open_transformed(str(work / "data"))
    whole = {}
    for path in (work / "data").glob("train/*.tfrecord"):
        for payload in read_payloads(path):
            features = examples.parse_record(payload).features
            codes = np.frombuffer(features["rgb"].values[0], np.uint8).reshape(60, -1)
            of_second: dict[int, set[int]] = {}
            for token in features["captions"].values:
                of_second.setdefault(int(token) >> 31, set()).add(int(token) & ((1 << 31) - 1))
            whole[features["id"].values[0]] = codes, of_second
    options = InputOptions(8, frames=frames, max_frames=60 if frames == "all" else 12)
    compared = 0
    batches = make_batches(data.shards("train"), data.modalities, options, epoch=0, with_ids=True)
    for batch in batches:
        features = {name: value.numpy() for name, value in batch["features"].items()}
        for row, video_id in enumerate(batch["id"].numpy()):
            codes, of_second = whole[video_id]
            for frame in range(features["num_frames"][row]):
                second = np.flatnonzero((codes == features["rgb"][row, frame]).all(axis=1))
                assert len(second) == 1
                tokens = features["captions"][row]
                own = {int(token) & ((1 << 31) - 1) for token in tokens[(tokens >> 31 == frame) & (tokens > 0)]}
                assert own == of_second.get(int(second[0]), set())
                compared += bool(own)
        decoded = decode_features(batch["features"], data.modalities)["captions"].numpy()
        assert decoded.shape[2] == 3 and (decoded[..., 2] == features["captions"] >> 31).all()
    assert compared > 50


@pytest.mark.slow
def test_saved_model_alone_gives_the_scores_of_the_job(
    work: Path, model: Path, tmp_path: Path, videos: list[MeetingVideo]
) -> None:
    score_job.run([f"--input={work}/raw/*.tfrecord", f"--model={model}", f"--output={tmp_path}/a", "--top_k=6"])
    scored = rows_of(tmp_path / "a")
    saved = tf.saved_model.load(str(model / "saved_model"))
    payloads = tf.constant([video.example() for video in videos])
    of_records = saved.signatures["serving_default"](payloads)["logits"].numpy()
    of_features = saved.signatures["features"](
        rgb=tf.constant([video.codes.tobytes() for video in videos]),
        captions=tf.constant([lines_of(video) for video in videos]),
    )["logits"].numpy()
    np.testing.assert_allclose(of_features, of_records, atol=1e-5)
    expected = np.stack([scored[video.id.decode()] for video in videos])
    np.testing.assert_allclose(1 / (1 + np.exp(-of_records)), expected, atol=1e-5)
    score_job.run(
        [f"--input={work}/raw/*.tfrecord", f"--model={model}", f"--output={tmp_path}/b", "--top_k=6"]
        + ["--without=captions"]
    )
    silent = rows_of(tmp_path / "b")
    bare = saved.signatures["serving_default"](tf.constant([video.example(None) for video in videos]))["logits"].numpy()
    np.testing.assert_allclose(
        np.stack([silent[video.id.decode()] for video in videos]), 1 / (1 + np.exp(-bare)), atol=1e-5
    )
    assert np.abs(bare - of_records).max() > 1e-3
    late = saved.signatures["serving_default"](tf.constant([video.example(30) for video in videos]))["logits"].numpy()
    assert np.abs(late - of_records).max() > 1e-3


def rows_of(scores: Path) -> dict[str, np.ndarray]:
    """Probabilities of all classes by id."""
    table = pq.read_table(scores / "predictions").to_pylist()
    rows = {}
    for row in table:
        rows[row["id"]] = np.zeros(CLASSES)
        rows[row["id"]][row["class_index"]] = row["probability"]
    return rows


def read(path: Path, layout: dict[str, Any], **options: Any) -> Any:
    (batch, rejected), *others = read_batches(
        str(path), schema_from_dict(layout, ""), class_count=6, require_labels=False, **options
    )
    assert not others
    return batch, rejected


def sequence(texts: list[bytes] | None, frames: int = 4) -> bytes:
    lists = {"rgb": [bytes(16)] * frames}
    if texts is not None:
        lists["captions"] = texts
    return examples.write_sequence_example({"id": examples.bytes_feature(b"v")}, lists)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (None, b""),
        ([], b""),
        ([b"a", b"", b"b\nc"], b"a\n\nb c"),
        ([b"a", b"b", b"c", b"d", b"late"], b"a\nb\nc"),  # at most three frames are read
        ([b"\xff\xfe", b"nul\0", "\u202eשלום\u202c".encode()], b"\xff\xfe\nnul\0\n" + "\u202eשלום\u202c".encode()),
    ],
    ids=["absent", "empty list", "line end within", "more texts than frames", "nasty"],
)
def test_records(tmp_path: Path, texts: list[bytes] | None, expected: bytes) -> None:
    write_shard(tmp_path / "a.tfrecord", [sequence(texts)])
    batch, rejected = read(tmp_path / "a.tfrecord", SCHEMA, max_frames=3)
    assert (rejected, batch.features["captions"].tolist()) == ([], [expected])
    assert batch.features["rgb"].lengths.tolist() == [3]
    parsed = parse_raw_records(tf.constant([sequence(texts)]), schema_from_dict(SCHEMA, ""))["captions"].numpy()
    assert b"\n".join(parsed[0].split(b"\n")[:3]) == expected


def test_examples_hold_texts_as_values_or_lines(tmp_path: Path) -> None:
    layout = {**SCHEMA, "container": "example"}
    records = [
        examples.write_example(
            {"id": examples.bytes_feature(b"v"), "rgb": examples.bytes_feature(bytes(32)), "captions": captions}
        )
        for captions in (examples.bytes_feature(b"a", b"b"), examples.bytes_feature(b"a\nb"))
    ]
    write_shard(tmp_path / "a.tfrecord", records)
    batch, _ = read(tmp_path / "a.tfrecord", layout)
    assert batch.features["captions"].tolist() == [b"a\nb"] * 2
    parsed = parse_raw_records(tf.constant(records), schema_from_dict(layout, ""))["captions"].numpy()
    assert parsed.tolist() == [b"a\nb"] * 2


def test_texts_of_seconds_need_frames() -> None:
    with pytest.raises(UsageError, match="'captions' is a text of each second, but there are no frames"):
        schema_from_dict({**SCHEMA, "modalities": SCHEMA["modalities"][1:]}, "")


@pytest.mark.slow
def test_from_files_to_scores_of_files(tmp_path: Path) -> None:
    """Captions beside the files, and those that a column names; broken ones cost no video."""
    encoders = write_encoders(tmp_path)
    lines = ["path,labels,captions"]
    for number in range(8):
        colour_clip(tmp_path / f"clip{number}.mp4", 3, first=number % 2 * 2)
        lines.append(f"clip{number}.mp4,{('red', 'blue')[number % 2]},{'other.json' if number == 1 else ''}")
    (tmp_path / "clip0.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nhello\nthere\n")
    (tmp_path / "clip1.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:03.000\nnot this\n")
    (tmp_path / "other.json").write_text('[[0, 1, "this"], [9, 10, "past the end"]]')
    (tmp_path / "clip2.srt").write_bytes(b"1\n00:00:02,000 --> 00:00:01,000\nback\n\n2\n00:00:02,000 -->\n\xff on\n")
    (tmp_path / "clip3.srt").write_text("[1]")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    records = tmp_path / "records"
    flags = [f"--labels={tmp_path}/videos.csv", "--captions", *encoders.flags]
    info = extract_job.run([*flags, f"--output={records}"])
    assert info["notes"] == {
        "captions_endless": 1,
        "captions_not_utf8": 1,
        "captions_past_end": 1,
        "captions_reversed": 1,
        "captions_unreadable": 1,
    }
    assert info["schema"]["modalities"][-1] == {"name": "captions", "width": 1, "kind": "text", "encoding": "lines"}
    said = {}
    for payload in read_payloads(next(records.glob("*.tfrecord"))):
        record = examples.parse_record(payload)
        assert "captions" not in record.features
        said[record.features["id"].values[0]] = [row.values[0] for row in record.feature_lists.get("captions", ())]
    assert said[b"clip0"] == [b"", b"hello there", b""]
    assert said[b"clip1"] == [b"this", b"", b""]
    assert said[b"clip2"] == [b"", b"", "\ufffd on".encode()]
    assert said[b"clip3"] == said[b"clip4"] == []
    preprocess_job.run(
        [f"--input={records}", f"--output={tmp_path}/data", "--split_ratios=0.6,0.2,0.2", "--text_min_count=1"]
    )
    train_job.run([f"--data={tmp_path}/data", f"--output={tmp_path}/model", *MODEL, "--epochs=1", "--quiet"])
    score_job.run([f"--input={records}", f"--model={tmp_path}/model", f"--output={tmp_path}/a"])
    score_job.run(
        [f"--input={tmp_path}/clip[02-7].mp4", f"--model={tmp_path}/model", f"--output={tmp_path}/b", *encoders.flags]
    )
    of_records, of_files = rows_of_any(tmp_path / "a"), rows_of_any(tmp_path / "b")
    assert len(of_files) == 7
    for video, row in of_files.items():
        np.testing.assert_allclose(row, of_records[video], rtol=1e-5)
    # Captions that have changed are read again, and the others' files are not.
    (tmp_path / "clip0.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:03.000\nall the time\n")
    extract_job.run([*flags, f"--output={records}", "--resume"])
    first = examples.parse_record(read_payloads(next(records.glob("*.tfrecord")))[0])
    assert [row.values[0] for row in first.feature_lists["captions"]] == [b"all the time"] * 3
    # Of whole videos it is one text.
    extract_job.run([*flags, f"--output={tmp_path}/whole", "--level=video"])
    whole = json.loads((tmp_path / "whole" / "schema.json").read_text())
    assert whole["modalities"][-1] == {"name": "captions", "width": 1, "kind": "text", "encoding": "utf-8"}
    first = examples.parse_record(read_payloads(next((tmp_path / "whole").glob("*.tfrecord")))[0])
    assert first.features["captions"].values == [b"all the time"]


def rows_of_any(scores: Path) -> dict[str, list[float]]:
    """Probabilities by id, in the order of the classes."""
    table = pq.read_table(scores / "predictions").to_pylist()
    return {
        row["id"]: [value for _, value in sorted(zip(row["class_index"], row["probability"], strict=True))]
        for row in table
    }


@pytest.mark.slow
def test_titles_are_embedded_at_extraction_and_at_scoring(tmp_path: Path) -> None:
    """A vector per column, absent where the text is; of media files --texts says what is written about them."""
    pytest.importorskip("tokenizers", reason="text encoders need it")
    if not all(package.installed() for package in weight_packages("minilm")):
        pytest.skip("the weights of minilm are not installed")
    encoders = write_encoders(tmp_path)
    lines = ["path,labels,title,description"]
    for number in range(8):
        colour_clip(tmp_path / f"clip{number}.mp4", 3, first=number % 2 * 2)
        title = "" if number == 2 else ("a red thing", "a blue thing")[number % 2]
        lines.append(f"clip{number}.mp4,{('red', 'blue')[number % 2]},{title},said of {number}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    flags = [f"--labels={tmp_path}/videos.csv", *encoders.flags, f"--output={tmp_path}/records"]
    info = extract_job.run([*flags, "--text_encoder=minilm"])
    names = [modality["name"] for modality in info["schema"]["modalities"]]
    assert names == ["rgb", "audio", "title_vector", "description_vector"]
    assert info["schema"]["encoders"]["title_vector"]["name"] == "minilm"
    records = [examples.parse_record(each) for each in read_payloads(next((tmp_path / "records").glob("*.tfrecord")))]
    expected = load_text_encoder("minilm").encode(np.array(["a red thing"], object))[0]
    np.testing.assert_array_equal(records[0].features["title_vector"].values, expected)
    assert "title_vector" not in records[2].features and "title" not in records[2].features
    preprocess_job.run(
        [f"--input={tmp_path}/records", f"--output={tmp_path}/data", "--split_ratios=0.6,0.2,0.2", "--text=title"]
    )
    train_job.run([f"--data={tmp_path}/data", f"--output={tmp_path}/model", *MODEL, "--epochs=1", "--quiet"])
    score_job.run([f"--input={tmp_path}/records", f"--model={tmp_path}/model", f"--output={tmp_path}/a"])
    files = [f"--input={tmp_path}/*.mp4", f"--model={tmp_path}/model", *encoders.flags]
    score_job.run([*files, f"--output={tmp_path}/b", f"--texts={tmp_path}/videos.csv"])
    score_job.run([*files, f"--output={tmp_path}/c"])
    score_job.run(
        [f"--input={tmp_path}/records", f"--model={tmp_path}/model", f"--output={tmp_path}/d"]
        + ["--without=title,title_vector,description_vector"]
    )
    given = {name: rows_of_any(tmp_path / name) for name in "abcd"}
    for video, row in given["a"].items():
        np.testing.assert_allclose(given["b"][video], row, rtol=1e-5)
        np.testing.assert_allclose(given["c"][video], given["d"][video], rtol=1e-5)
    assert max(np.abs(np.subtract(given["a"][video], given["c"][video])).max() for video in given["a"]) > 1e-4
    with pytest.raises(UsageError, match="embeds the columns title and description"):
        extract_job.run(
            [f"--input={tmp_path}/clip0.mp4", f"--output={tmp_path}/e", *encoders.flags, "--text_encoder=minilm"]
        )
    (tmp_path / "other.csv").write_text("path,genre\nclip0.mp4,red\n")
    with pytest.raises(UsageError, match="has no column of text that the model knows; it knows description, title"):
        score_job.run([*files, f"--output={tmp_path}/f", f"--texts={tmp_path}/other.csv"])
    with pytest.raises(UsageError, match="--texts is for media files"):
        score_job.run(
            [f"--input={tmp_path}/records", f"--model={tmp_path}/model", f"--output={tmp_path}/g"]
            + [f"--texts={tmp_path}/videos.csv"]
        )
