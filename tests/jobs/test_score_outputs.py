"""What scoring writes: formats, splits, unlabelled and frame-level records."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.scoring import predictions, submission
from pipelines.scoring.predictions import Labels, ShardPredictions
from tests.fixtures.scoring import (
    CLASSES,
    Video,
    make_videos,
    serialise,
    write_model,
    write_shard,
)
from vcls_model.metrics.__main__ import run as measure
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, schema_by_name
from vcls_model.records.splits import SplitRatios, splits_of


def test_unlabelled_records_are_scored(
    score: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard(tmp_path / "a.tfrecord", [serialise(video) for video in make_videos(8, 70, labelled=False)])
    info = score(shard)
    assert (info["records_written"], info["records_labelled"]) == (8, 0)
    assert not (tmp_path / "scores" / "metrics.json").exists()
    assert "no record carried labels" in capsys.readouterr().err
    (path,) = (tmp_path / "scores" / "predictions").iterdir()
    assert pq.read_table(path)["labels"].to_pylist() == [None] * 8


def test_labelled_and_unlabelled_records_together(score: Callable[..., dict], tmp_path: Path) -> None:
    videos = make_videos(6, 71)
    for video in videos[::2]:
        video.labels = None
    info = score(write_shard(tmp_path / "a.tfrecord", [serialise(video) for video in videos]))
    assert (info["records_written"], info["records_labelled"]) == (6, 3)
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["videos"] == 3
    (path,) = (tmp_path / "scores" / "predictions").iterdir()
    assert pq.read_table(path)["labels"].to_pylist() == [
        None if video.labels is None else list(video.labels) for video in videos
    ]


def test_split_keeps_its_ids(
    score: Callable[..., dict], shards: Path, videos: list[list[Video]], tmp_path: Path
) -> None:
    everything = [video for shard in videos for video in shard]
    ratios = SplitRatios(0.5, 0.2, 0.3)  # as the model's info.json says
    splits = splits_of([video.id for video in everything], ratios)
    expected = {video.id.decode() for video, split in zip(everything, splits, strict=True) if split == 2}
    info = score(f"{shards}/*.tfrecord", "--split=test")
    ids = [
        row for path in (tmp_path / "scores" / "predictions").iterdir() for row in pq.read_table(path)["id"].to_pylist()
    ]
    assert len(ids) == len(expected) and set(ids) == expected
    assert info["records_read"] == info["records_written"] == len(expected)
    assert info["records_outside_split"] == len(everything) - len(expected)


@pytest.mark.parametrize("form", ["parquet", "kaggle_csv"])
def test_unlikely_classes_are_left_out(score: Callable[..., dict], shards: Path, tmp_path: Path, form: str) -> None:
    pattern = f"{shards}/part01.tfrecord"
    score(pattern, output=tmp_path / "all")
    score(pattern, "--min_probability=0.2", f"--format={form}", output=tmp_path / "likely")
    (path,), (likely,) = ((tmp_path / name / "predictions").iterdir() for name in ("all", "likely"))
    expected = {
        row["id"]: [
            (index, pytest.approx(value, abs=1e-6))
            for index, value in zip(row["class_index"], row["probability"], strict=True)
            if value >= 0.2
        ]
        for row in pq.read_table(path).to_pylist()
    }
    assert any(expected.values()) and any(len(pairs) < 20 for pairs in expected.values())
    if form == "parquet":
        found = {
            row["id"]: list(zip(row["class_index"], row["probability"], strict=True))
            for row in pq.read_table(likely).to_pylist()
        }
    else:
        found = {}
        for line in likely.read_text().splitlines()[1:]:
            name, pairs = line.split(",")
            values = pairs.split()
            found[name] = list(zip(map(int, values[::2]), map(float, values[1::2]), strict=True))
    assert found == expected
    metrics = [(tmp_path / name / "metrics.json").read_bytes() for name in ("all", "likely")]
    assert metrics[0] == metrics[1]


def test_kaggle_csv(score: Callable[..., dict], shards: Path, videos: list[list[Video]], tmp_path: Path) -> None:
    score(f"{shards}/part00.tfrecord", "--format=kaggle_csv", "--top_k=5")
    score(f"{shards}/part00.tfrecord", "--top_k=5", output=tmp_path / "parquet")
    (path,) = (tmp_path / "scores" / "predictions").iterdir()
    with open(path, newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["VideoId", "LabelConfidencePairs"]
    (other,) = (tmp_path / "parquet" / "predictions").iterdir()
    for (video_id, pairs), expected in zip(rows, pq.read_table(other).to_pylist(), strict=True):
        values = pairs.split()
        assert video_id == expected["id"]
        assert [int(value) for value in values[::2]] == expected["class_index"]
        np.testing.assert_allclose([float(value) for value in values[1::2]], expected["probability"], atol=6e-7)


def test_one_file_to_upload(score: Callable[..., dict], shards: Path, tmp_path: Path) -> None:
    score(f"{shards}/*.tfrecord", "--format=kaggle_csv", "--top_k=5")
    with open(tmp_path / "scores" / "submission.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["VideoId", "LabelConfidencePairs"]
    parts = []
    for path in sorted((tmp_path / "scores" / "predictions").iterdir()):
        with open(path, newline="") as stream:
            parts += list(csv.reader(stream))[1:]
    assert rows == parts and len(rows) == 159
    score(f"{shards}/*.tfrecord", output=tmp_path / "parquet")
    assert not (tmp_path / "parquet" / "submission.csv").exists()


def test_the_result_goes_to_standard_output(
    score: Callable[..., dict], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = score(f"{shards}/*.tfrecord", "--split=test")
    printed = capsys.readouterr()
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert printed.out.splitlines() == [
        f"scored {info['records_written']} records of 5 shards, 0 rejected, {info['records_labelled']} with labels; "
        f"scores in {tmp_path / 'scores'}",
        f"gap_at_20 {metrics['gap_at_20']:.4f}, map {metrics['map']:.4f}, hit_at_1 {metrics['hit_at_1']:.4f}, "
        f"perr {metrics['perr']:.4f}",
    ]
    assert "\x1b" not in printed.err and "gap_at_20" not in printed.err


def test_a_model_that_is_worse_than_the_frequency_of_the_classes_is_told(
    score: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = make_videos(40, 3)
    truth = np.zeros((40, CLASSES), bool)
    for row, video in enumerate(videos):
        # The most frequent class is there whatever the features are, beside another one.
        video.labels = [row % (CLASSES - 1), CLASSES - 1]
        truth[row, video.labels] = True
    score(write_shard(tmp_path / "a.tfrecord", [serialise(video) for video in videos]))
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    # The model's labels.csv counts as many training videos of a class as its index is.
    counts = truth.sum(axis=0)[::-1][:20]
    prior = (counts * np.cumsum(counts) / (40 * np.arange(1, 21))).sum() / truth.sum()
    assert metrics["gap_at_20"] < prior
    told = f"GAP@20 is {metrics['gap_at_20']:.4f}, but {prior:.4f} for predicting every video the same 20"
    assert told in capsys.readouterr().err


def frame_record(video_id: bytes, labels: list[int], rgb: np.ndarray, audio: np.ndarray) -> bytes:
    """A `yt8m-frame` record: codes uint8 (T, 1024) and (T, 128)."""
    import tensorflow as tf

    def frames(codes: np.ndarray) -> tf.train.FeatureList:
        return tf.train.FeatureList(
            feature=[tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.tobytes()])) for row in codes]
        )

    context = tf.train.Features(
        feature={
            "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[video_id])),
            "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
        }
    )
    lists = tf.train.FeatureLists(feature_list={"rgb": frames(rgb), "audio": frames(audio)})
    return tf.train.SequenceExample(context=context, feature_lists=lists).SerializeToString()


@pytest.mark.slow
def test_frame_level_records(score: Callable[..., dict], tmp_path: Path) -> None:
    """A frame-level video scores as the video-level one that holds the means of its frames."""
    rng = np.random.default_rng(5)
    frames, means = [], []
    for number, length in enumerate((3, 1, 7, 5)):
        rgb, audio = (rng.integers(0, 256, (length, width), np.uint8) for width in (1024, 128))
        frames.append(frame_record(b"f%d" % number, [number], rgb, audio))
        mean_rgb, mean_audio = (
            (codes.astype(np.float64) * DEQUANTISE_SCALE + DEQUANTISE_OFFSET).mean(axis=0).astype(np.float32)
            for codes in (rgb, audio)
        )
        means.append(serialise(Video(b"f%d" % number, [number], mean_rgb, mean_audio)))
    frame_model = write_model(tmp_path / "frames", schema=schema_by_name("yt8m-frame"))
    score(
        write_shard(tmp_path / "f.tfrecord", frames),
        "--batch_size=3",
        models=[frame_model],
        output=tmp_path / "of_frames",
    )
    score(write_shard(tmp_path / "v.tfrecord", means), output=tmp_path / "of_videos")
    tables = [pq.read_table(next((tmp_path / name / "predictions").iterdir())) for name in ("of_frames", "of_videos")]
    assert tables[0]["id"].to_pylist() == ["f0", "f1", "f2", "f3"]
    assert tables[0]["class_index"].to_pylist() == tables[1]["class_index"].to_pylist()
    for ours, expected in zip(tables[0]["probability"].to_pylist(), tables[1]["probability"].to_pylist(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)


def segment_record(video_id: bytes, frames: int, ratings: list[tuple[int, int, float]], seed: int) -> bytes:
    """A `yt8m-segment` record; ratings are (start in seconds, class, 1 found or 0 not)."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    record = tf.train.SequenceExample.FromString(
        frame_record(video_id, [], *(rng.integers(0, 256, (frames, width), np.uint8) for width in (1024, 128)))
    )
    starts, labels, scores = zip(*ratings, strict=True)
    feature = record.context.feature
    feature["segment_start_times"].int64_list.value.extend(starts)
    feature["segment_end_times"].int64_list.value.extend(start + 5 for start in starts)
    feature["segment_labels"].int64_list.value.extend(labels)
    feature["segment_scores"].float_list.value.extend(scores)
    return record.SerializeToString()


@pytest.mark.slow
def test_segment_records(score: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rated segment is an example; MAP@K ranks rated pairs only, checked pair by pair."""
    rng = np.random.default_rng(8)
    ratings = {
        b"g%d" % number: [
            (int(start), int(label), float(rng.integers(2)))
            for start in (0, 5, 15)
            for label in rng.choice(6, 2, replace=False)
        ]
        for number in range(12)
    }
    records = [segment_record(name, 20, rated, seed) for seed, (name, rated) in enumerate(ratings.items())]
    model = write_model(tmp_path / "frames", schema=schema_by_name("yt8m-frame"))
    info = score(write_shard(tmp_path / "s.tfrecord", records), "--top_k=30", models=[model])
    assert info["schema"]["name"] == "yt8m-segment" and info["records_written"] == 36
    (path,) = (tmp_path / "scores" / "predictions").iterdir()
    rows = {
        row["id"]: dict(zip(row["class_index"], row["probability"], strict=True))
        for row in pq.read_table(path).to_pylist()
    }
    assert set(rows) == {f"{name.decode()}:{start}" for name in ratings for start in (0, 5, 15)}
    precisions = []
    for index in range(6):
        pairs = sorted(
            (
                (rows[f"{name.decode()}:{start}"][index], found)
                for name, rated in ratings.items()
                for start, label, found in rated
                if label == index
            ),
            reverse=True,
        )
        found = np.array([hit for _, hit in pairs])
        if found.sum():
            precisions.append((found * np.cumsum(found) / np.arange(1, len(found) + 1)).sum() / found.sum())
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["segments"]["rated_pairs"] == 72
    assert metrics["segments"]["map_at_k"] == pytest.approx(np.mean(precisions), abs=1e-6)

    # One file to upload to the challenge, which ranks the same segments.
    monkeypatch.setattr(submission, "_PAIRS_AT_ONCE", 100)  # several passes over the predictions
    score(tmp_path / "s.tfrecord", "--top_k=30", "--format=kaggle_csv", models=[model], output=tmp_path / "kaggle")
    with open(tmp_path / "kaggle" / "submission.csv", newline="") as stream:
        header, *ranked = csv.reader(stream)
    assert header == ["Class", "Segments"] and [int(index) for index, _ in ranked] == list(range(30))
    for index, segments in ranked:
        expected = sorted(rows, key=lambda name: -rows[name][int(index)])
        assert segments.split() == expected
    lines = [
        f"{name.decode()}:{start},{label},{int(found)}"
        for name, rated in ratings.items()
        for start, label, found in rated
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(["segment,class,rating", *lines]) + "\n")
    measured = measure(
        [
            f"--predictions={tmp_path}/kaggle/submission.csv",
            f"--ratings={tmp_path}/ratings.csv",
            "--class_count=30",
            f"--output={tmp_path}/m.json",
        ]
    )
    assert measured["segments"]["map_at_k"] == pytest.approx(np.mean(precisions), abs=1e-6)


@pytest.mark.slow
def test_audioset_records(score: Callable[..., dict], shared_data: Path, tmp_path: Path) -> None:
    """Real AudioSet records, as a model of 527 classes takes them."""
    model = write_model(tmp_path / "audio", classes=527, schema=schema_by_name("audioset"))
    source = shared_data / "audioset" / "eval-00000-of-00004.tfrecord"
    info = score(source, "--batch_size=512", models=[model])
    assert info["schema"]["name"] == "audioset"
    assert info["records_written"] == info["records_labelled"] > 1000
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["videos"] == info["records_written"]


def test_long_shards_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PART_RECORDS", 10)
    monkeypatch.setattr(predictions, "PART_LOGIT_BYTES", 4 * CLASSES * 8)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(24, CLASSES)).astype(np.float32)
    writer = ShardPredictions(str(tmp_path), "shard", form="parquet", full_logits="float16")
    for start in range(0, 24, 6):
        labels = Labels(np.arange(6), np.ones(6, np.int64), np.ones(6, bool))
        part = logits[start : start + 6]
        best = np.argsort(-part, axis=1)[:, :4].astype(np.int32)
        ids = [b"%d" % row for row in range(start, start + 6)]
        writer.add(ids, best, np.take_along_axis(part, best, axis=1), labels, part)
    writer.finish()
    names = ["shard.parquet", "shard.part1.parquet"]
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == names
    ids = [value for name in names for value in pq.read_table(tmp_path / "predictions" / name)["id"].to_pylist()]
    assert ids == [str(row) for row in range(24)]
    stored = [
        row for path in sorted((tmp_path / "logits").iterdir()) for row in pq.read_table(path)["logits"].to_pylist()
    ]
    np.testing.assert_array_equal(np.array(stored, np.float16), logits.astype(np.float16))


def test_labels_select() -> None:
    labels = Labels(np.array([4, 5, 6, 7]), np.array([1, 0, 3]), np.array([True, False, True]))
    kept = labels.select(np.array([True, True, False]))
    assert (kept.values.tolist(), kept.lengths.tolist(), kept.labelled.tolist()) == ([4], [1, 0], [True, False])
    assert dataclasses.astuple(labels)[0].tolist() == [4, 5, 6, 7]
