"""metrics.json of a run against an independent computation from its predictions, its logits and the records' labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from tests.fixtures.scoring import CLASSES, Video, serialise, weights, write_shard
from vcls_model.commands import JobError, UsageError


def read_rows(folder: Path) -> dict[str, dict]:
    """Rows of all Parquet files of a folder, by id."""
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def expected_logits(videos: list[Video], seed: int = 0) -> np.ndarray:
    kernel, bias = weights(seed)
    features = np.stack([np.concatenate([video.mean_rgb, video.mean_audio]) for video in videos])
    return features.astype(np.float64) @ kernel + bias


def truth_of(videos: list[Video]) -> np.ndarray:
    truth = np.zeros((len(videos), CLASSES), bool)
    for row, video in enumerate(videos):
        truth[row, video.labels] = True
    return truth


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory, shards: Path, model: Path) -> Path:
    from pipelines.score import run

    output = tmp_path_factory.mktemp("metrics") / "scores"
    run(
        [
            f"--input={shards}/*.tfrecord",
            f"--model={model}",
            f"--output={output}",
            "--top_k=20",
            "--full_logits",
            "--direct_num_workers=2",
        ]
    )
    return output


def test_predictions_are_the_models(scores: Path, videos: list[list[Video]]) -> None:
    rows = read_rows(scores / "predictions")
    everything = [video for shard in videos for video in shard]
    assert set(rows) == {video.id.decode() for video in everything}
    logits = expected_logits(everything)
    for video, row_logits in zip(everything, logits, strict=True):
        row = rows[video.id.decode()]
        assert row["class_index"] == np.argsort(-row_logits, kind="stable")[:20].tolist()
        np.testing.assert_allclose(row["probability"], 1 / (1 + np.exp(-np.sort(row_logits)[::-1][:20])), rtol=1e-4)
        assert row["labels"] == list(video.labels)


def test_full_logits_are_the_models(scores: Path, videos: list[list[Video]]) -> None:
    rows = read_rows(scores / "logits")
    everything = [video for shard in videos for video in shard]
    found = np.array([rows[video.id.decode()]["logits"] for video in everything])
    np.testing.assert_allclose(found, expected_logits(everything), atol=1e-4)


def test_top_20_metrics_follow_from_predictions(scores: Path) -> None:
    rows = list(read_rows(scores / "predictions").values())
    metrics = json.loads((scores / "metrics.json").read_text())
    pairs = [
        (probability, index in row["labels"])
        for row in rows
        for index, probability in zip(row["class_index"], row["probability"], strict=True)
    ]
    hits = np.array([hit for _, hit in sorted(pairs, key=lambda pair: -pair[0])])
    labels = sum(len(row["labels"]) for row in rows)
    gap = (hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / labels
    assert metrics["gap_at_20"] == pytest.approx(gap, abs=1e-6)
    assert metrics["hit_at_1"] == pytest.approx(np.mean([row["class_index"][0] in row["labels"] for row in rows]))
    perr = np.mean(
        [len(set(row["class_index"][: len(row["labels"])]) & set(row["labels"])) / len(row["labels"]) for row in rows]
    )
    assert metrics["perr"] == pytest.approx(perr, abs=1e-9)
    assert metrics["videos"] == len(rows)


def test_full_ranking_metrics_follow_from_logits(scores: Path, videos: list[list[Video]]) -> None:
    everything = [video for shard in videos for video in shard]
    rows = read_rows(scores / "logits")
    logits = np.array([rows[video.id.decode()]["logits"] for video in everything], np.float32)
    truth = truth_of(everything)
    metrics = json.loads((scores / "metrics.json").read_text())
    seen = truth.any(axis=0)
    ap = np.array([average_precision_score(truth[:, index], logits[:, index]) for index in np.flatnonzero(seen)])
    assert metrics["map_lower"] - 1e-9 <= ap.mean() <= metrics["map_upper"] + 1e-9
    assert metrics["classes_with_positives"] == seen.sum()
    auc = [roc_auc_score(truth[:, index], logits[:, index]) for index in np.flatnonzero(seen)]
    assert metrics["macro_roc_auc"] == pytest.approx(np.mean(auc), abs=1e-3)
    assert metrics["f1_micro"] == pytest.approx(f1_score(truth, logits >= 0, average="micro"), abs=1e-9)


def test_per_class_thresholds_are_the_models(scores: Path, videos: list[list[Video]]) -> None:
    import csv

    everything = [video for shard in videos for video in shard]
    rows = read_rows(scores / "logits")
    logits = np.array([rows[video.id.decode()]["logits"] for video in everything], np.float32)
    predicted = logits >= np.log(0.3 / 0.7)  # the model's labels.csv says 0.3 for every class
    truth = truth_of(everything)
    with open(scores / "per_class.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            index = int(row["index"])
            assert int(row["support"]) == truth[:, index].sum()
            if truth[:, index].any():
                expected = f1_score(truth[:, index], predicted[:, index])
                assert float(row["f1_best"]) == pytest.approx(expected, abs=1e-6)


def test_mean_of_two_models(
    score: Callable[..., dict], shards: Path, videos: list[list[Video]], model: Path, second_model: Path, tmp_path: Path
) -> None:
    info = score(f"{shards}/part0[01].tfrecord", models=[model, second_model])
    everything = videos[0] + videos[1]
    both = [1 / (1 + np.exp(-expected_logits(everything, seed))) for seed in (0, 1)]
    rows = read_rows(tmp_path / "scores" / "predictions")
    for place, video in enumerate(everything):
        mean = (both[0][place] + both[1][place]) / 2
        row = rows[video.id.decode()]
        np.testing.assert_allclose(row["probability"], np.sort(mean)[::-1][:20], rtol=2e-4)
    truth = truth_of(everything)
    lines = [line.split(",") for line in (tmp_path / "scores" / "per_model.csv").read_text().splitlines()]
    assert lines[0] == ["index", "first", "second"]
    for index in np.flatnonzero(truth.any(axis=0)):
        for column, probabilities in enumerate(both, start=1):
            expected = average_precision_score(truth[:, index], probabilities[:, index])
            assert float(lines[1 + index][column]) == pytest.approx(expected, abs=1e-6)
    assert [entry["name"] for entry in info["models"]] == ["first", "second"]
    assert info["models"][0]["metrics"]["map"] > info["models"][1]["metrics"]["map"]  # the labels follow the first


@pytest.mark.slow
def test_thresholds_of_an_average_are_chosen_on_validation(
    score: Callable[..., dict], shards: Path, model: Path, videos: list[list[Video]], second_model: Path, tmp_path: Path
) -> None:
    import csv

    pattern, models = f"{shards}/*.tfrecord", [model, second_model]
    score(pattern, "--split=validate", models=models, output=tmp_path / "validation")
    info = score(
        pattern, "--split=test", f"--thresholds={tmp_path / 'validation'}", models=models, output=tmp_path / "test"
    )
    everything = {video.id: video for shard in videos for video in shard}
    both = {
        split: [everything[name.encode()] for name in read_rows(tmp_path / folder / "predictions")]
        for split, folder in (("validate", "validation"), ("test", "test"))
    }
    probabilities = {
        split: sum(1 / (1 + np.exp(-expected_logits(part, seed))) for seed in (0, 1)) / 2
        for split, part in both.items()
    }
    truth = {split: truth_of(part) for split, part in both.items()}
    assert info["thresholds_from"] == str(tmp_path / "validation")
    with open(tmp_path / "test" / "per_class.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    checked = 0
    for index in np.flatnonzero(truth["validate"].any(axis=0) & truth["test"].any(axis=0)):
        threshold = float(rows[index]["best_threshold"])
        reached = f1_score(truth["validate"][:, index], probabilities["validate"][:, index] >= threshold)
        best = max(
            f1_score(truth["validate"][:, index], probabilities["validate"][:, index] >= each)
            for each in probabilities["validate"][:, index]
        )
        assert reached == pytest.approx(best, abs=1e-9) or reached > 0.8 * best  # on a bin's edge
        expected = f1_score(truth["test"][:, index], probabilities["test"][:, index] >= threshold, zero_division=0)
        assert float(rows[index]["f1_best"]) == pytest.approx(expected, abs=1e-6)
        checked += 1
    assert checked > 10
    plain = score(pattern, "--split=test", models=models, output=tmp_path / "plain")
    assert plain["thresholds_from"] is None
    with open(tmp_path / "plain" / "per_class.csv", newline="") as stream:
        assert not any(row["best_threshold"] for row in csv.DictReader(stream))


@pytest.mark.slow
def test_thresholds_of_other_models_are_refused(
    score: Callable[..., dict], shards: Path, model: Path, second_model: Path, tmp_path: Path
) -> None:
    pattern = f"{shards}/part00.tfrecord"
    score(pattern, models=[second_model], output=tmp_path / "other")
    with pytest.raises(UsageError, match="were chosen for other models"):
        score(pattern, f"--thresholds={tmp_path / 'other'}")
    with pytest.raises(UsageError, match="is not a finished scores directory"):
        score(pattern, f"--thresholds={tmp_path}")
    score(pattern, "--split=train", models=[model], output=tmp_path / "train")
    with pytest.raises(UsageError, match="of the training split"):
        score(pattern, f"--thresholds={tmp_path / 'train'}")
    score(pattern, output=tmp_path / "own")
    score(pattern, f"--thresholds={tmp_path / 'own'}", "--allow_optimistic", output=tmp_path / "again")
    with pytest.raises(UsageError, match="other settings: --thresholds changed"):
        score(pattern, "--resume", output=tmp_path / "again")


def with_feature(video: Video, values: list) -> bytes:
    """A `yt8m-video` record with a context feature `year` of its own, left out when empty."""
    import tensorflow as tf

    record = tf.train.Example.FromString(serialise(video))
    if values and isinstance(values[0], bytes):
        record.features.feature["year"].bytes_list.value.extend(values)
    elif values:
        record.features.feature["year"].int64_list.value.extend(values)
    return record.SerializeToString()


@pytest.mark.slow
def test_a_slice_that_no_record_belongs_to_is_told(
    score: Callable[..., dict], shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(shards / "part00.tfrecord", "--slice_by=nope")
    assert "warning: --slice_by=nope: no labelled record has such a feature" in capsys.readouterr().err


def test_metrics_by_a_context_feature(score: Callable[..., dict], videos: list[list[Video]], tmp_path: Path) -> None:
    years = ([2015], [2016], [], [b"a", b"b"])
    names = ("2015", "2016", "(none)", "a|b")
    for shard in (0, 2):
        write_shard(
            tmp_path / "in" / f"s{shard}.tfrecord",
            [with_feature(video, years[row % 4]) for row, video in enumerate(videos[shard])],
        )
    score(tmp_path / "in" / "*.tfrecord", "--slice_by=year")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert sorted(metrics["slices"]["year"]) == sorted(names)
    for place, name in enumerate(names):
        mine = [video for shard in (0, 2) for row, video in enumerate(videos[shard]) if row % 4 == place]
        logits, truth = expected_logits(mine), truth_of(mine)
        best = np.argsort(-logits, axis=1)[:, :20]
        scores, hits = np.take_along_axis(logits, best, 1).ravel(), np.take_along_axis(truth, best, 1).ravel()
        hits = hits[np.argsort(-scores)]
        gap = (hits * np.cumsum(hits) / np.arange(1, hits.size + 1)).sum() / truth.sum()
        found = metrics["slices"]["year"][name]
        assert (found["videos"], found["labels"]) == (len(mine), truth.sum())
        assert found["gap_at_20"] == pytest.approx(gap, abs=1e-9)
        assert found["hit_at_1"] == pytest.approx(truth[np.arange(len(mine)), best[:, 0]].mean())
    with pytest.raises(UsageError, match="other settings: --slice_by was year"):
        score(tmp_path / "in" / "*.tfrecord", "--resume")


def test_a_feature_of_too_many_values_is_no_slice(
    score: Callable[..., dict], videos: list[list[Video]], tmp_path: Path
) -> None:
    many = [with_feature(video, [row]) for row, video in enumerate(videos[2] + videos[0])]
    with pytest.raises(JobError, match="--slice_by=year: the feature 'year' has more than 64 values"):
        score(write_shard(tmp_path / "many.tfrecord", many), "--slice_by=year")
    with pytest.raises(UsageError, match="each feature once"):
        score(tmp_path / "many.tfrecord", "--slice_by=year,year", output=tmp_path / "again")
