"""What people reported of other tools, as inputs of these jobs: each is read right, or refused by name."""

import csv
import json
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import preprocess, report, score
from tests.fixtures.records import read_payloads
from tests.fixtures.scores import write_scores
from tests.fixtures.scoring import CLASSES, make_videos, serialise, write_shard
from vcls_model import train
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run as metrics
from vcls_model.records.examples import parse_record

VOCABULARY = "index,name\n0,no\n1,yes\n"


def strict(path: Path) -> Any:
    """A JSON file as a strict reader takes it."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.csv").write_text(text)
    return directory


def transform(tmp_path: Path, pattern: str, *flags: str, output: str = "data") -> dict[str, Any]:
    (tmp_path / "v.csv").write_text(VOCABULARY)
    return preprocess.run(
        [
            f"--train_input={tmp_path}/{pattern}",
            f"--vocabulary={tmp_path}/v.csv",
            f"--output={tmp_path}/{output}",
            "--normalise=none",
            "--overwrite",
            "--direct_num_workers=1",
            *flags,
        ]
    )


def vectors(data: Path, feature: str) -> dict[str, list[float]]:
    """The values of a feature by id, over the training shards."""
    found = {}
    for path in sorted((data / "train").iterdir()):
        for payload in read_payloads(path):
            record = parse_record(payload)
            found[record.features["id"].values[0].decode()] = list(record.features[feature].values)
    return found


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on the columns red, green and blue, of which red decides the class."""
    place = tmp_path_factory.mktemp("named")
    rows = np.random.default_rng(0).integers(0, 2, 90)
    write(
        place,
        v=VOCABULARY,
        a="id,labels,red,green,blue\n" + "".join(f"r{i},{1 - red},{red},{i % 7},5\n" for i, red in enumerate(rows)),
        b="blue,red,id,green,labels\n" + "".join(f"5,{red},r{i},{i % 7},{1 - red}\n" for i, red in enumerate(rows)),
        c="id,labels,red,green,colour\n" + "".join(f"r{i},{1 - red},{red},{i % 7},5\n" for i, red in enumerate(rows)),
        u="id,labels,red,green,blue\n"
        + "".join(f"r{i},{7 if i == 4 else 1 - red},{red},{i % 7},5\n" for i, red in enumerate(rows)),
    )
    preprocess.run(
        [f"--input={place}/a.csv", f"--vocabulary={place}/v.csv", f"--output={place}/data", "--direct_num_workers=1"]
    )
    train.run(
        [f"--data={place}/data", f"--output={place}/model", "--model=logistic", "--epochs=30", "--quiet"]
        + ["--batch_size=16", "--learning_rate=0.1"]
    )
    return place


def scored(place: Path, tmp_path: Path, name: str, *flags: str) -> dict[str, Any]:
    info = score.run(
        [f"--input={place}/{name}.csv", f"--model={place}/model", f"--output={tmp_path}/{name}"]
        + ["--direct_num_workers=1", *flags]
    )
    assert strict(tmp_path / name / "info.json")["records_written"] == info["records_written"]
    return info


def predictions(directory: Path) -> dict[str, Any]:
    (part,) = (directory / "predictions").glob("*.parquet")
    return pq.read_table(part).to_pydict()


def test_files_with_their_columns_in_another_order_are_read_by_name(tmp_path: Path) -> None:
    write(
        tmp_path / "x",
        a="id,labels,loud,tempo\na1,0,1,100\na2,1,2,200\n",
        b="tempo,id,labels,loud\n300,b1,0,3\n400,b2,1,4\n",
    )
    info = transform(tmp_path, "x/*.csv")
    assert vectors(tmp_path / "data", "features") == {
        "a1": [1, 100],
        "a2": [2, 200],
        "b1": [3, 300],
        "b2": [4, 400],
    }
    assert info["schema"]["modalities"][0]["columns"] == ["loud", "tempo"]


def test_numbered_columns_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(
        tmp_path / "n",
        n1="id,labels,m_0,m_1\na1,0,1,100\n",
        n2="id,labels,m_1,m_0\nb1,0,300,3\n",
        n3="labels,m_1,m_0,id\n0,500,5,c1\n",
    )
    transform(tmp_path, "n/*.csv")
    assert vectors(tmp_path / "data", "m") == {"a1": [1, 100], "b1": [3, 300], "c1": [5, 500]}


def test_files_of_other_columns_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "y", a="id,labels,loud,tempo\na1,0,1,100\n", b="id,labels,pitch,tempo\nb1,0,3,300\n")
    with pytest.raises(JobError, match="y/b.csv lacks 'loud' and has 'pitch' in addition; .* must be 'loud', 'tempo'"):
        transform(tmp_path, "y/*.csv")


@pytest.mark.slow
def test_scoring_matches_columns_by_name(by_name: Path, tmp_path: Path) -> None:
    scored(by_name, tmp_path, "a")
    info = scored(by_name, tmp_path, "b")
    assert predictions(tmp_path / "a") == predictions(tmp_path / "b")
    assert strict(tmp_path / "b" / "metrics.json")["hit_at_1"] > 0.95 and info["records_read"] == 90
    with pytest.raises(UsageError, match="does not fit the records.*columns red, green, blue; .* green, colour"):
        scored(by_name, tmp_path, "c")


def test_a_label_that_the_model_does_not_know_does_not_cost_the_record(
    by_name: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(by_name, tmp_path, "a")
    info = scored(by_name, tmp_path, "u")
    assert (info["records_written"], info["records_rejected"], info["labels_unknown"]) == (90, 0, 1)
    assert info["records_labelled"] == 89
    assert "warning: 1 labels are none of the 2 classes" in capsys.readouterr().err
    plain, other = predictions(tmp_path / "a"), predictions(tmp_path / "u")
    assert plain["probability"] == other["probability"] and other["labels"][4] is None


@pytest.mark.parametrize(
    "text",
    [
        ",id,labels,mean_rgb_0,mean_rgb_1\n0,a,0,1,2\n1,b,1,3,4\n",
        "Unnamed: 0,id,labels,mean_rgb_0,mean_rgb_1\n0,a,0,1,2\n1,b,1,3,4\n",
        "Unnamed: 0.1,Unnamed: 0,id,labels,mean_rgb_0,mean_rgb_1\n7,0,a,0,1,2\n7,1,b,1,3,4\n",
        "index,id,labels,mean_rgb_0,mean_rgb_1\n0,a,0,1,2\n1,b,1,3,4\n",
    ],
)
def test_row_numbers_are_not_a_feature(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, idx=text)
    info = transform(tmp_path, "idx.csv")
    assert [(each["name"], each["width"]) for each in info["schema"]["modalities"]] == [("mean_rgb", 2)]
    assert vectors(tmp_path / "data", "mean_rgb") == {"a": [1, 2], "b": [3, 4]}
    assert "idx.csv: not used, because row numbers say nothing of a video" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards, the last zlib-compressed."""
    place = tmp_path_factory.mktemp("shards")
    for number in range(4):
        path = write_shard(place / f"s{number}.tfrecord", [serialise(video) for video in make_videos(30, number)])
    path.write_bytes(zlib.compress(path.read_bytes()))
    (place / "v.csv").write_text("index,name\n" + "".join(f"{index},c{index}\n" for index in range(CLASSES)))
    return place


def test_a_zlib_shard_is_read(shards: Path, tmp_path: Path) -> None:
    flags = [f"--input={shards}/*.tfrecord", f"--vocabulary={shards}/v.csv", "--direct_num_workers=1"]
    info = preprocess.run([*flags, f"--output={tmp_path}/data"])
    assert (info["records_written"], info["records_rejected"]) == (120, 0)


@pytest.mark.parametrize(
    ("content", "looks"),
    [(b'<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>' + b" " * 240, "XML"), (None, "Parquet")],
)
def test_a_file_that_is_not_records_fails_the_job_by_name(
    content: bytes | None, looks: str, shards: Path, model: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.tfrecord"
    if content is None:
        pq.write_table(pa.table({"id": ["a"] * 100}), bad)
    else:
        bad.write_bytes(content)
    flags = [f"--input={shards}/*.tfrecord,{bad}", "--direct_num_workers=1"]
    with pytest.raises(JobError, match=f"1 file is not records as a whole: {bad} is not a TFRecord.*{looks}"):
        preprocess.run([*flags, f"--vocabulary={shards}/v.csv", f"--output={tmp_path}/data"])
    with pytest.raises(JobError, match=f"1 file is not records as a whole: {bad} is not a TFRecord.*{looks}"):
        score.run([*flags, f"--model={model}", f"--output={tmp_path}/scores"])
    accepted = [*flags, f"--model={model}", f"--output={tmp_path}/scores", "--resume", "--max_rejected_fraction=0.2"]
    assert score.run(accepted)["rejected_by_reason"] == {"not_tfrecord": 1}


PAIRS = "VideoId,LabelConfidencePairs\n"


def measured(tmp_path: Path, *flags: str, **files: str) -> dict[str, Any]:
    write(tmp_path, **files)
    named = [f"--{name}={tmp_path}/{name}.csv" for name in files]
    metrics([*named, f"--output={tmp_path}/m.json", *flags])
    return strict(tmp_path / "m.json")


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    write(tmp_path, fl="id,labels,a,b\np,1.0,1,2\nq,,3,4\n")
    info = transform(tmp_path, "fl.csv", "--allow_unlabelled")
    assert (info["records_written"], info["records_rejected"]) == (2, 0)
    assert info["statistics"]["class_counts"]["train"] == [0, 1]
    found = measured(
        tmp_path,
        predictions=PAIRS + "p,0.0 0.2 1.0 0.9\nq,0 0.8 1 0.1\n",
        labels="id,labels\np,1.0\nq,0.0\n",
        vocabulary="index,name\n0.0,no\n1.0,yes\n",
    )
    assert (found["videos"], found["map"], found["hit_at_1"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ("p,0 0.2 1 0.9\n", "p,0.7\n", r"labels.csv, line 2: expected class indices, got '0.7'"),
        ("p,0.0 0.2 1.9 0.9\n", "p,1\n", r"predictions.csv, line 2: expected class indices, got 1.9"),
        ("p,0 0.2 1 nan\n", "p,1\n", r"predictions.csv, line 2: probabilities must lie in \[0, 1\], got nan"),
        ("p,0 0.2 1 0.9\n", "p,inf\n", r"labels.csv, line 2: expected class indices, got 'inf'"),
        ("p,0 0.2 1 0.9\n", "p,-1\n", r"labels.csv, line 2: expected class indices, got -1"),
        ("p,0 0.2 1 0.9\n", "p,1\nq,0\np,0\n", r"labels.csv, line 4: id 'p' occurs twice, after line 2"),
        ("p,0 0.2 1 0.9\n", ",1\n", r"labels.csv, line 2: the id is empty"),
    ],
)
def test_what_is_not_whole_is_refused_with_its_place(
    predictions: str, labels: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=message):
        measured(tmp_path, predictions=PAIRS + predictions, labels="id,labels\n" + labels)


def test_fractions_as_labels_are_rejected_with_their_value(tmp_path: Path) -> None:
    write(tmp_path, f="id,labels,a,b\np,1,1,2\nq,.7,3,4\n")
    info = transform(tmp_path, "f.csv", "--max_rejected_fraction=0.5")
    assert info["rejected_by_reason"] == {"wrong_type": 1}
    (letter,) = [json.loads(line) for path in (tmp_path / "data" / "dead_letter").iterdir() for line in path.open()]
    assert letter["offset"] == 3 and "got '.7'" in letter["message"]


def null_labels(path: Path, labels: bool = True) -> None:
    columns = {
        "id": list("abcd"),
        "class_index": [[0, 1]] * 4,
        "probability": [[0.9, 0.2], [0.3, 0.8], [0.95, 0.1], [0.1, 0.85]],
    }
    if labels:
        columns["labels"] = pa.array([[0], [1], None, None], pa.list_(pa.int32()))
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("beside", [False, True])
def test_null_labels_are_unknown(beside: bool, tmp_path: Path) -> None:
    null_labels(tmp_path / "n.parquet")
    null_labels(tmp_path / "nolabels.parquet", labels=False)
    flags = [f"--predictions={tmp_path}/nolabels.parquet", f"--labels={tmp_path}/n.parquet"]
    metrics([*(flags if beside else [f"--predictions={tmp_path}/n.parquet"]), f"--output={tmp_path}/m.json"])
    found = strict(tmp_path / "m.json")
    assert (found["videos"], found["videos_without_labels"], found["map"], found["hit_at_1"]) == (2, 2, 1, 1)


def test_a_half_labelled_file_measures_as_its_job_did(model: Path, tmp_path: Path) -> None:
    videos = [*make_videos(40, 1), *make_videos(40, 2, labelled=False)]
    shard = write_shard(tmp_path / "half.tfrecord", [serialise(video) for video in videos])
    flags = [f"--model={model}", f"--output={tmp_path}/scores", f"--top_k={CLASSES}", "--direct_num_workers=1"]
    score.run([f"--input={shard}", *flags])
    metrics([f"--predictions={tmp_path}/scores/predictions", f"--output={tmp_path}/m.json", f"--class_count={CLASSES}"])
    job, again = (strict(path) for path in (tmp_path / "scores" / "metrics.json", tmp_path / "m.json"))
    assert (again["videos"], again["videos_without_labels"]) == (job["videos"], 40) == (40, 40)
    for name in ("map", "gap_at_20", "hit_at_1", "perr"):
        assert again[name] == pytest.approx(job[name], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array(["a", "b"], object)}, "the array ids holds Python objects.*np.asarray"),
        ({"label_lens": np.array([1, 1], object)}, "the array label_lens holds Python objects"),
        ({"logits": np.array([["x", "y"], ["x", "y"]])}, "the array logits must hold numbers"),
        ({"label_flat": np.array(["x", "y"])}, "the array label_flat: expected class indices"),
        ({"label_lens": np.array([1, 5])}, "label_lens must have one entry per id and add up to the 2 labels"),
        ({"label_flat": np.array([0.7, 1.0])}, "the array label_flat: expected class indices, got 0.7"),
        ({"ids": np.array([["a"], ["b"]])}, "the array ids must have one dimension"),
    ],
)
def test_npz_of_other_kinds_is_refused_by_the_name_of_the_array(
    change: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    good = {
        "logits": np.eye(2, dtype=np.float32),
        "ids": np.array(["a", "b"]),
        "label_flat": np.array([0.0, 1.0]),
        "label_lens": np.array([1, 1]),
    }
    np.savez(tmp_path / "good.npz", **good)
    metrics([f"--predictions={tmp_path}/good.npz", f"--output={tmp_path}/m.json"])
    assert strict(tmp_path / "m.json")["hit_at_1"] == 1
    np.savez(tmp_path / "p.npz", **{**good, **change})
    with pytest.raises(JobError, match=f"p.npz.*{message}"):
        metrics([f"--predictions={tmp_path}/p.npz", f"--output={tmp_path}/m.json"])


def test_a_damaged_or_cut_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=np.ones((50, 3), np.float32), ids=np.arange(50))
    data = bytearray((tmp_path / "p.npz").read_bytes())
    data[300] ^= 1
    (tmp_path / "damaged.npz").write_bytes(data)
    (tmp_path / "cut.npz").write_bytes(data[:400])
    for name, message in (("damaged", "damaged.npz: the array logits is damaged"), ("cut", "cut.npz is not an npz")):
        with pytest.raises(JobError, match=message):
            metrics([f"--predictions={tmp_path}/{name}.npz", f"--output={tmp_path}/m.json"])


def test_undefined_figures_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(
        tmp_path,
        "--class_count=2",
        predictions=PAIRS + "a,0 0.9 1 0.1\nb,0 0.2 1 0.8\n",
        labels="id,labels\na,0\nb,\nz,1\n",
        slices="id,year\na,2015\nb,2016\n",
    )
    assert found["slices"]["year"]["2016"]["gap_at_20"] is None
    told = capsys.readouterr().err
    assert "labels.csv: labels of 3 videos; 2 of them are among the 2 predictions, 1 are not" in told
    assert "slices.csv: values of 2 videos; 2 of them are among the 2 predictions, 0 are not" in told


def test_labels_outside_the_vocabulary_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(
        tmp_path,
        predictions=PAIRS + "a,0 0.9 1 0.1\nb,0 0.2 1 0.8\n",
        labels="id,labels\na,0;17\nb,1\n",
        vocabulary=VOCABULARY,
    )
    assert (found["videos"], found["labels_unknown"], found["map"]) == (2, 1, 1)
    assert "1 labels are none of the 2 classes" in capsys.readouterr().err


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of classes of which two share a name and others are called like columns."""
    place = tmp_path_factory.mktemp("namesakes") / "scores"
    write_scores(place)
    with open(place / "labels.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, name in zip(rows, ["Flash", "Flash", "micro", "recall", "index"], strict=False):
        row["name"] = name
    with open(place / "labels.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place


def test_a_name_of_two_classes_is_refused_with_their_indices(namesakes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--classes=Flash: 2 classes have that name.*0 \(Flash\), 1 \(Flash\)"):
        report.run([f"--scores={namesakes}", f"--output={tmp_path}/r", "--classes=Flash"])


@pytest.mark.slow
def test_tables_and_figures_tell_namesakes_apart(namesakes: Path, tmp_path: Path) -> None:
    report.run([f"--scores={namesakes}", f"--output={tmp_path}/r", "--classes=0,1,2,3"])
    strict(tmp_path / "r" / "info.json")
    with open(tmp_path / "r" / "figures" / "pr_curves.csv", newline="") as stream:
        header, first, *_ = csv.reader(stream)
    assert header == ["recall", "micro", "macro", "band_low", "band_high", "0 Flash", "1 Flash", "2 micro", "3 recall"]
    assert first[0] == "0.0" and len(first) == 9
    for path in sorted((tmp_path / "r").glob("*/*.csv")):
        with open(path, newline="") as stream:
            header = next(csv.reader(stream))
        assert len(set(header)) == len(header), path
        if {"name", "class", "Class"} & set(header):
            assert "index" in header, path
