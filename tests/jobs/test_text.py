"""Texts from raw records to scores: the title decides, and the SavedModel alone says what the batch job says."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from starlette.testclient import TestClient

from pipelines import preprocess as preprocess_job
from pipelines import score as score_job
from tests.fixtures.records import write_shard
from tests.fixtures.titles import WIDTH, TitledVideo, titled_videos
from vcls_model import storage
from vcls_model import train as train_job
from vcls_model.commands import UsageError
from vcls_model.records.text import weight_steps
from vcls_model.serving.export import EmbeddedTransform
from vcls_model.serving.http.app import make_app
from vcls_model.serving.http.metrics import Metrics
from vcls_model.serving.http.service import Service
from vcls_model.serving.http.settings import ServiceSettings
from vcls_model.serving.live.engine import Engine
from vcls_model.serving.live.models import ServedModel

CLASSES, BUCKETS = 10, 8192
SCHEMA = {
    "name": "titled",
    "container": "example",
    "class_count": CLASSES,
    "id_feature": "id",
    "labels_feature": "labels",
    "modalities": [
        {"name": "picture", "width": WIDTH, "kind": "vector", "encoding": "float32"},
        {"name": "title", "kind": "text"},
    ],
}
# What an editor, a scraper and a cut connection leave in titles.
NASTY = [
    b"",
    b"\xff\xfe\xe2\x82",
    b"nul\0nul",
    "\u202eright to left\u202c \u05d0\u05d1".encode(),
    b"a" * 100_000,
    "e\u0301\u0323 ﬁ Ǆ \ud7a3 \u1112\u1175\u11c2".encode(),
    "👩\u200d👩\u200d👧 ❤\ufe0f ".encode() * 50,
    bytes(range(256)),
]
PREPROCESS = [f"--text_buckets={BUCKETS}", "--max_rejected_fraction=1"]


@pytest.fixture(scope="module")
def videos() -> list[TitledVideo]:
    return titled_videos(3000, CLASSES)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, videos: list[TitledVideo]) -> Path:
    """Raw shards, a schema, a dataset and a model of them, and scores."""
    work = tmp_path_factory.mktemp("text")
    for number in range(3):
        write_shard(work / "raw" / f"{number}.tfrecord", [video.example() for video in videos[number::3]])
    storage.write_json(str(work / "schema.json"), SCHEMA)
    preprocess_job.run(
        [f"--input={work}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={work}/data", *PREPROCESS]
    )
    train_job.run(
        [f"--data={work}/data", f"--output={work}/model", "--model=dense", "--hidden_units=64", "--epochs=12"]
        + ["--batch_size=64", "--learning_rate=0.003", "--quiet"]
    )
    score_job.run(
        [f"--input={work}/raw/*.tfrecord", f"--model={work}/model", f"--output={work}/scores", "--split=test"]
        + [f"--top_k={CLASSES}"]
    )
    return work


def average_precisions(scores: Path) -> list[float]:
    with open(scores / "per_class.csv", newline="") as stream:
        return [float(row["ap"]) for row in csv.DictReader(stream)]


def test_title_decides(work: Path) -> None:
    precisions = average_precisions(work / "scores")
    assert np.mean(precisions[: CLASSES // 2]) > 0.94
    assert np.mean(precisions[CLASSES // 2 :]) > 0.94


def test_saved_model_alone_gives_the_scores_of_the_job(work: Path, videos: list[TitledVideo]) -> None:
    table = pq.read_table(work / "scores" / "predictions").to_pydict()
    expected = {}
    for video_id, classes, probabilities in zip(*list(table.values())[:3], strict=True):
        row = np.zeros(CLASSES)
        row[classes] = probabilities
        expected[video_id if isinstance(video_id, bytes) else video_id.encode()] = row
    scored = [video for video in videos if video.id in expected]
    assert len(scored) > 200
    model = tf.saved_model.load(str(work / "model" / "saved_model"))
    of_records = model.signatures["serving_default"](tf.constant([video.example() for video in scored]))["logits"]
    of_features = model.signatures["features"](
        picture=tf.constant(np.stack([video.picture for video in scored])),
        title=tf.constant([video.title.encode() for video in scored]),
    )["logits"]
    rows = np.stack([expected[video.id] for video in scored])
    np.testing.assert_allclose(tf.sigmoid(of_records), rows, atol=1e-5)
    np.testing.assert_allclose(of_features, of_records, atol=1e-5)


@pytest.mark.slow
def test_service_takes_raw_strings(work: Path, videos: list[TitledVideo]) -> None:
    """TensorFlow Serving's and KServe's requests, with and without a title, and whole records."""
    metrics = Metrics()
    served = ServedModel.load(str(work / "model"), "titled")
    engine = Engine(served, observe_frame=metrics.observe_frame, observe_batch=metrics.observe_batch)
    metrics.watch(engine)
    service = Service(engine, ServiceSettings(), metrics)
    service.warm_up()
    some = videos[:4]
    model = tf.saved_model.load(str(work / "model" / "saved_model"))
    expected = model.signatures["serving_default"](tf.constant([video.example() for video in some]))["logits"].numpy()
    pictures = [video.picture.tolist() for video in some]
    titles = [video.title for video in some]
    encoded = [{"b64": base64.b64encode(video.example()).decode()} for video in some]
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        try:
            for body in (
                {"instances": [{"picture": one, "title": other} for one, other in zip(pictures, titles, strict=True)]},
                {"inputs": {"picture": pictures, "title": titles}},
                {"instances": encoded},
            ):
                answer = client.post("/v1/models/titled:predict", json=body).json()
                np.testing.assert_allclose(next(iter(answer.values())), expected, atol=1e-4)
            inputs = [
                {"name": "picture", "datatype": "FP32", "shape": [4, WIDTH], "data": sum(pictures, [])},
                {"name": "title", "datatype": "BYTES", "shape": [4], "data": titles},
            ]
            answer = client.post("/v2/models/titled/infer", json={"inputs": inputs}).json()
            np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (4, -1)), expected, atol=1e-4)
            untitled = client.post("/v1/models/titled:predict", json={"inputs": {"picture": pictures}}).json()[
                "outputs"
            ]
            assert np.abs(np.array(untitled) - expected).max() > 0.1
            # A title is enough, as for the SavedModel, to which NaN says that there is no picture.
            nothing = tf.fill([len(some), WIDTH], float("nan"))
            alone = model.signatures["features"](picture=nothing, title=tf.constant([each.encode() for each in titles]))
            given = client.post("/v1/models/titled:predict", json={"inputs": {"title": titles}}).json()["outputs"]
            np.testing.assert_allclose(given, alone["logits"], atol=1e-4)
            wrong = client.post("/v1/models/titled:predict", json={"inputs": {"picture": pictures, "title": [1] * 4}})
            assert (wrong.status_code, "title must be strings" in wrong.text) == (400, True)
            metadata = client.get("/v1/models/titled/metadata").json()["metadata"]["signature_def"]["signature_def"]
            assert metadata["features"]["inputs"]["title"]["dtype"] == "DT_STRING"
        finally:
            engine.shut_down()


def tokens_in(shards: Path) -> dict[bytes, list[int]]:
    """The tokens of each record of a dataset's splits."""
    tokens = {}
    for path in shards.glob("*/*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            tokens[features["id"].bytes_list.value[0]] = list(features["title"].int64_list.value)
    return tokens


@pytest.mark.slow
def test_graph_gives_the_tokens_of_the_kernels(work: Path, videos: list[TitledVideo]) -> None:
    written = tokens_in(work / "data")
    assert len(written) == len(videos)
    transform = EmbeddedTransform(str(work / "data"))
    titles = tf.constant([video.title.encode() for video in videos])
    given = tf.RaggedTensor.from_sparse(transform({"title": titles})["title"]).to_list()
    assert given == [written[video.id] for video in videos]
    assert max(map(len, given)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["--normalise=l2", "--pca_dims=4"])
def test_texts_do_not_depend_on_how_others_are_normalised(work: Path, tmp_path: Path, normalise: str) -> None:
    preprocess_job.run(
        [f"--input={work}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={tmp_path}/data", *PREPROCESS]
        + [normalise]
    )
    assert tokens_in(tmp_path / "data") == tokens_in(work / "data")
    transform = EmbeddedTransform(str(tmp_path / "data"))
    graph = tf.sparse.to_dense(transform({"title": tf.constant(["a ба 한국"])})["title"])
    other = tf.sparse.to_dense(EmbeddedTransform(str(work / "data"))({"title": tf.constant(["a ба 한국"])})["title"])
    assert graph.numpy().tolist() == other.numpy().tolist()


@pytest.mark.slow
def test_shards_in_another_order_give_the_same_weights(work: Path, tmp_path: Path, videos: list[TitledVideo]) -> None:
    for number, part in enumerate([videos[2000:], videos[:500], videos[500:2000]]):
        write_shard(tmp_path / "raw" / f"{number}.tfrecord", [video.example() for video in part])
    preprocess_job.run(
        [f"--input={tmp_path}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={tmp_path}/data", *PREPROCESS]
    )
    assert tokens_in(tmp_path / "data") == tokens_in(work / "data")


@pytest.mark.slow
def test_bad_texts_are_counted_and_cost_no_record(work: Path, tmp_path: Path, videos: list[TitledVideo]) -> None:
    records = [video.example() for video in videos[:200]]
    for number, text in enumerate(NASTY):
        example = tf.train.Example.FromString(videos[number].example())
        example.features.feature["title"].bytes_list.value[:] = [text]
        records[number] = example.SerializeToString()
    write_shard(tmp_path / "raw" / "0.tfrecord", records)
    # In every record of the second shard the title is absent.
    without = [TitledVideo(video.id, video.labels, video.picture, "").example() for video in videos[200:300]]
    write_shard(tmp_path / "raw" / "1.tfrecord", without)
    info = preprocess_job.run(
        [f"--input={tmp_path}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={tmp_path}/data", *PREPROCESS]
    )
    assert info["records_written"] == 300
    assert info["notes"] == {
        "texts_cut": 1,
        "texts_empty": 102,  # one is of broken bytes alone
        "texts_not_utf8": 2,
        "texts_with_control_characters": 3,
    }
    score_job.run([f"--input={tmp_path}/raw/*.tfrecord", f"--model={work}/model", f"--output={tmp_path}/scores"])
    scored = json.loads((tmp_path / "scores" / "info.json").read_text())
    assert (scored["records_written"], scored["records_rejected"]) == (300, 0)


def test_without_titles_all_are_scored_as_if_they_had_none(
    work: Path, tmp_path: Path, videos: list[TitledVideo]
) -> None:
    untitled = [TitledVideo(video.id, video.labels, video.picture, "").example() for video in videos[:100]]
    write_shard(tmp_path / "untitled.tfrecord", untitled)
    write_shard(tmp_path / "titled.tfrecord", [video.example() for video in videos[:100]])
    rows = []
    for name, flags in (("untitled", []), ("titled", ["--without=title"]), ("titled", [])):
        output = tmp_path / f"scores{len(rows)}"
        score_job.run([f"--input={tmp_path}/{name}.tfrecord", f"--model={work}/model", f"--output={output}", *flags])
        rows.append(pq.read_table(output / "predictions").to_pylist())
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_unused_texts_are_named_once(
    work: Path, tmp_path: Path, videos: list[TitledVideo], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"picture": "mean_rgb"}
    records = []
    for video in videos[:20]:
        example = tf.train.Example.FromString(video.example())
        feature = example.features.feature
        for old, new in names.items():
            feature[new].CopyFrom(feature[old])
            del feature[old]
        feature["mean_rgb"].float_list.value[:] = [0.5] * 1024
        feature["mean_audio"].float_list.value[:] = [0.5] * 128
        feature["thumbnail"].bytes_list.value[:] = [b"\xff\xd8\xff\xe0"]
        records.append(example.SerializeToString())
    write_shard(tmp_path / "0.tfrecord", records)
    flags = [f"--input={tmp_path}/0.tfrecord", f"--output={tmp_path}/data", "--dry_run"]
    preprocess_job.run(flags)
    note = "note: the records also hold text that is not used: title; --text=title learns from it"
    assert capsys.readouterr().err.count(note) == 1
    preprocess_job.run([*flags, "--text=title"])
    shown = capsys.readouterr()
    assert "title (text)" in shown.out
    assert note not in shown.err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--text_buckets=1", "--text_buckets must lie in"),
        ("--text_ngrams=4-2", "--text_ngrams must be two lengths"),
        ("--text_ngrams=two", "--text_ngrams must be like 2-4"),
        ("--text_tokens=0", "--text_tokens must lie in"),
        ("--text_min_count=0", "--text_min_count must be at least 1"),
        ("--text=picture", "names a modality twice"),
    ],
)
def test_wrong_flags(work: Path, tmp_path: Path, flag: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preprocess_job.run(
            [f"--input={work}/raw/*.tfrecord", f"--schema={work}/schema.json", f"--output={tmp_path}/x", flag]
        )


def test_tokens_are_buckets_and_weights_of_length_1(work: Path) -> None:
    steps = weight_steps(BUCKETS)
    for tokens in list(tokens_in(work / "data").values())[:50]:
        values = np.array(tokens)
        assert (np.diff(values // steps) > 0).all()
        assert (values // steps < BUCKETS).all()
        assert np.sum((values % steps / (steps - 1)) ** 2) == pytest.approx(1, abs=1e-3)


def test_csv_with_a_column_of_text(tmp_path: Path, videos: list[TitledVideo]) -> None:
    """One of the two files has no titles; in the other is a row that only the careful reader takes."""
    for name, part in (("a", videos[:300]), ("b", videos[300:400])):
        (tmp_path / "raw").mkdir(exist_ok=True)
        with open(tmp_path / "raw" / f"{name}.csv", "w", newline="") as stream:
            rows = csv.writer(stream, lineterminator="\n")
            titled = ["title"] if name == "a" else []
            rows.writerow(["id", "labels", *titled, *(f"picture_{number}" for number in range(WIDTH))])
            for number, video in enumerate(part):
                labels = ";".join(map(str, video.labels)) if number else f"{video.labels[1]};{video.labels[0]}"
                rows.writerow([video.id.decode(), labels, *([video.title] if titled else []), *video.picture])
    labels = tmp_path / "vocabulary.csv"
    labels.write_text("Index,Name\n" + "".join(f"{number},class {number}\n" for number in range(CLASSES)))
    info = preprocess_job.run(
        [
            f"--input={tmp_path}/raw/*.csv",
            f"--vocabulary={labels}",
            f"--output={tmp_path}/data",
            "--text=title",
            *PREPROCESS,
        ]
    )
    assert info["records_written"] == 400
    assert info["notes"]["texts_empty"] == 100
    tokens = tokens_in(tmp_path / "data")
    assert all(tokens[video.id] for video in videos[:300])
    assert not any(tokens[video.id] for video in videos[300:400])
