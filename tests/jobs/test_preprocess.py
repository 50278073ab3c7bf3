"""The whole job: values against numpy, counts, splits, resuming, and what a person gets to read."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tensorflow_transform import impl_helper

from pipelines.preprocess import run
from pipelines.preprocessing import manifests
from pipelines.preprocessing.config import POOLS, JobConfig, Shard, TransformConfig
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.progress import PreprocessProgress
from pipelines.preprocessing.statistics import Moments, ShardMeter
from pipelines.preprocessing.transform import graph
from pipelines.preprocessing.transform.graph import BatchGraph
from pipelines.running.progress import shown_progress
from tests.conftest import ROOT
from tests.fixtures.records import (
    FRAME,
    MIXED,
    VIDEO,
    Video,
    bytes_feature,
    float_feature,
    int64_feature,
    read_payloads,
    videos,
    write_shard,
)
from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records import framing
from vcls_model.records.encoding import CodeMap, CodesColumn, encode_by_split
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, RecordSchema
from vcls_model.records.splits import SPLITS, SplitRatios


def make_input(directory: Path, schema: RecordSchema, shards: int = 3, count: int = 40) -> list[Video]:
    """Writes shards and the schema file; returns the videos."""
    made = []
    for shard in range(shards):
        some = videos(count, schema, seed=shard, prefix=f"{shard}-")
        payloads = [video.example() if not schema.has_frames else video.sequence() for video in some]
        write_shard(directory / f"in{shard}.tfrecord", payloads)
        made += some
    (directory / "schema.json").write_text(json.dumps(schema.to_dict()))
    return made


def job(directory: Path, output: str = "out", *flags: str) -> dict:
    return run(
        [f"--input={directory}/in*", f"--schema={directory}/schema.json", f"--output={directory / output}", *flags]
    )


def split_of(video: Video) -> str:
    """The documented rule, written out again."""
    value = int.from_bytes(hashlib.sha256(video.id).digest()[:8], "big") / 2**64
    return "train" if value < 0.7 else "validate" if value < 0.9 else "test"


def outputs(directory: Path) -> dict[str, list[tf.train.Example]]:
    return {
        split: [
            tf.train.Example.FromString(payload)
            for path in sorted((directory / split).glob("*.tfrecord"))
            for payload in read_payloads(path)
        ]
        for split in SPLITS
    }


def content(directory: Path) -> dict[str, bytes]:
    """All files that must not depend on how the run went."""
    paths = [path for part in (*SPLITS, "dead_letter") for path in sorted((directory / part).glob("*"))]
    return {str(path.relative_to(directory)): path.read_bytes() for path in [*paths, directory / "labels.csv"]}


def vector(example: tf.train.Example, name: str) -> np.ndarray:
    return np.array(example.features.feature[name].float_list.value)


@pytest.fixture(scope="module")
def video_job(tmp_path_factory):  # type: ignore[no-untyped-def]
    directory = tmp_path_factory.mktemp("video")
    made = make_input(directory, VIDEO)
    return directory, made, job(directory)


def test_values_are_numpys_z_scores_of_the_training_split(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, _ = video_job
    found = outputs(directory / "out")
    assert {
        example.features.feature["id"].bytes_list.value[0]: split
        for split, examples in found.items()
        for example in examples
    } == {video.id: split_of(video) for video in made}
    by_id = {video.id: video for video in made}
    for name in ("mean_rgb", "mean_audio"):
        training = np.stack([video.values[name] for video in made if split_of(video) == "train"]).astype(np.float64)
        for examples in found.values():
            for example in examples:
                video = by_id[example.features.feature["id"].bytes_list.value[0]]
                expected = (video.values[name] - training.mean(axis=0)) / training.std(axis=0)
                np.testing.assert_allclose(vector(example, name), expected, atol=1e-5)
                assert tuple(example.features.feature["labels"].int64_list.value) == video.labels


def test_info_reconciles(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, info = video_job
    assert json.loads((directory / "out" / "info.json").read_text()) == json.loads(json.dumps(info))
    assert info["records_read"] == len(made) == info["records_written"] + info["records_rejected"]
    assert info["rejected_by_reason"] == {}
    counted = {split: sum(split_of(video) == split for video in made) for split in SPLITS}
    assert {split: entry["records"] for split, entry in info["splits"].items()} == counted
    assert all(entry["shards"] == 3 for entry in info["splits"].values())
    assert info["class_count"] == 10 and info["split"] == {"method": "hash", "ratios": [0.7, 0.2, 0.1]}
    assert [(entry["name"], entry["width"], entry["level"], entry["encoding"]) for entry in info["transformed"]] == [
        ("mean_rgb", 6, "video", "float32"),
        ("mean_audio", 3, "video", "float32"),
    ]
    for split in SPLITS:
        expected = np.bincount(
            [label for video in made if split_of(video) == split for label in video.labels], minlength=10
        )
        assert info["statistics"]["class_counts"][split] == expected.tolist()


def test_a_shard_is_named_after_its_input(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, _ = video_job
    for shard in range(3):
        ids = [
            tf.train.Example.FromString(payload).features.feature["id"].bytes_list.value[0]
            for payload in read_payloads(directory / "out" / "train" / f"train-0000{shard}-of-00003.tfrecord")
        ]
        assert ids == [video.id for video in made if split_of(video) == "train" and video.id.startswith(b"%d-" % shard)]


def test_tf_transform_loads_the_output(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, _ = video_job
    output = tft.TFTransformOutput(str(directory / "out"))
    spec = output.transformed_feature_spec()
    assert spec["mean_rgb"].shape == [6] and spec["labels"].dtype == tf.int64
    raw = {
        name: tf.constant(np.stack([video.values[name] for video in made[:4]])) for name in ("mean_rgb", "mean_audio")
    }
    transformed = output.transform_raw_features(raw, drop_unused_features=True)
    by_id = {
        example.features.feature["id"].bytes_list.value[0]: example
        for examples in outputs(directory / "out").values()
        for example in examples
    }
    for index, video in enumerate(made[:4]):
        np.testing.assert_array_equal(transformed["mean_rgb"][index], vector(by_id[video.id], "mean_rgb"))


def test_labels_csv_counts_the_training_videos(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, _, info = video_job
    lines = (directory / "out" / "labels.csv").read_text().splitlines()
    column = lines[0].split(",").index("train_count")
    assert [int(line.split(",")[column]) for line in lines[1:]] == info["statistics"]["class_counts"]["train"]


def test_the_data_card_shows_the_counts(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, _, info = video_job
    page = (directory / "out" / "data_card.html").read_text()
    for words in (
        "Label frequency",
        "Labels per video",
        "mean_rgb, before",
        "mean_rgb, after",
        "Labels that occur together",
        "Nothing was rejected",
        f"{info['splits']['train']['records']:,}",
    ):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")  # opens without a network


def test_the_number_of_workers_does_not_change_a_byte(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, _, _ = video_job
    job(directory, "one", "--direct_num_workers=1")
    assert content(directory / "one") == content(directory / "out")


def test_resuming_does_only_what_is_missing(video_job, capsys) -> None:  # type: ignore[no-untyped-def]
    directory, _, info = video_job
    job(directory, "again")
    output = directory / "again"
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*.tfrecord")}
    lost = [
        output / "train" / "train-00001-of-00003.tfrecord",
        output / "manifests" / "00002-of-00003.manifest",
        output / "info.json",
    ]
    for path in lost:
        path.unlink()
    (output / "train" / "train-00000-of-00003.tfrecord.tmp-0123456789ab").write_bytes(b"left over")
    (output / "test" / "test-00000-of-00002.tfrecord").write_bytes(b"of another run")
    again = job(directory, "again", "--resume")
    assert content(output) == content(directory / "out")
    untouched = [path for path in before if "00000-of" in path.name]
    assert len(untouched) == 3 and all(path.stat().st_mtime_ns == before[path] for path in untouched)
    assert again["records_written"] == info["records_written"]


@pytest.mark.slow
def test_a_changed_input_is_done_anew(tmp_path: Path) -> None:
    made = make_input(tmp_path, VIDEO, shards=2, count=12)
    job(tmp_path)
    write_shard(tmp_path / "in1.tfrecord", [video.example() for video in made[12:20]])
    job(tmp_path, "out", "--resume")
    job(tmp_path, "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_resuming_with_other_settings_or_files_undoes_nothing(tmp_path: Path) -> None:
    make_input(tmp_path, VIDEO, shards=2, count=12)
    job(tmp_path)
    before = content(tmp_path / "out")
    with pytest.raises(UsageError, match=r"other settings: --normalise was zscore, is now minmax\. Repeat"):
        job(tmp_path, "out", "--resume", "--normalise=minmax")
    (tmp_path / "in0.tfrecord").rename(tmp_path / "elsewhere.tfrecord")
    with pytest.raises(UsageError, match="the number of input files was 2, is now 1; the list of input files changed"):
        job(tmp_path, "out", "--resume")
    assert content(tmp_path / "out") == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds no preprocess job to continue"):
        job(tmp_path, "notes", "--resume")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"


def test_a_file_that_cannot_be_read_fails_the_job_and_a_short_one_is_told(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    make_input(tmp_path, VIDEO, shards=2, count=120)
    path = tmp_path / "in1.tfrecord"
    path.write_bytes(path.read_bytes()[:-30])
    job(tmp_path)
    assert "warning: input that ends too early or cannot be decompressed to its end, 1 file:" in capsys.readouterr().err
    opened = framing.open_for_reading

    def refuse(path: str) -> Any:
        if path.endswith("in1.tfrecord"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path)

    monkeypatch.setattr(framing.read_chunks, "__defaults__", (framing.CHUNK_BYTES, refuse))
    with pytest.raises(JobError, match="in1.tfrecord cannot be read: Permission denied"):
        job(tmp_path, "denied")


def test_a_vocabulary_of_fewer_classes_is_told(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    make_input(tmp_path, VIDEO, shards=1, count=30)
    (tmp_path / "vocabulary.csv").write_text("Index,Name\n0,Speech\n1,Music\n")
    job(tmp_path, "out", f"--vocabulary={tmp_path / 'vocabulary.csv'}")
    assert "names 2 of the 10 classes of schema small-video: does it belong to this dataset?" in capsys.readouterr().err


@pytest.mark.slow
def test_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    make_input(tmp_path, VIDEO, shards=1, count=30)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file is a file, not a directory"):
        job(tmp_path, "file/out")
    done = start(tmp_path, "/proc/nowhere/out")
    _, errors = done.communicate(timeout=100)
    assert done.returncode in (1, 2) and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith(("error: /proc/nowhere", "usage error: output /proc/nowhere"))


def test_a_manifest_holds_for_one_input_configuration_and_statistics(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"records")
    shard, config = Shard(0, 1, str(source), 100, 5.0), TransformConfig(VIDEO, 10)
    output, digest = str(tmp_path), storage.content_digest(str(source))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a").write_bytes(b"12345")
    manifests.save_manifest(output, shard, config, digest, "hash", {"train/a": 5}, Summary(shards=1))
    manifests.save_statistics(output, shard, config, digest, ShardMeter(VIDEO))

    def known(shard: Shard, config: TransformConfig, statistics: str = "hash") -> bool:
        return manifests.load_manifest(output, shard, config, statistics) is not None

    assert known(shard, config)
    assert manifests.load_statistics(output, shard, config, VIDEO) is not None
    assert not known(shard, config, "other statistics")
    for other in (
        dataclasses.replace(shard, size_bytes=101),
        dataclasses.replace(shard, modified_seconds=6.0),
        dataclasses.replace(shard, path="elsewhere"),
        dataclasses.replace(shard, split=0),
    ):
        if other.name == shard.name:
            assert not known(other, config)
            assert manifests.load_statistics(output, other, config, VIDEO) is None
    for changed in (
        {"normalise": "l2"},
        {"class_count": 11},
        {"max_frames": 10},
        {"ratios": None},
        {"allow_unlabelled": True},
        {"missing_modality": "fill"},
        {"pca_dims": 2},
    ):
        assert not known(shard, dataclasses.replace(config, **changed))  # type: ignore[arg-type]
    source.write_bytes(b"RECORDS")
    assert not known(shard, config) and manifests.load_statistics(output, shard, config, VIDEO) is None
    source.write_bytes(b"records")
    (tmp_path / "train" / "a").write_bytes(b"1234")
    assert not known(shard, config)
    manifests.forget_if_changed(output, dataclasses.replace(shard, size_bytes=101), config)
    assert not list((tmp_path / "manifests").iterdir())


@pytest.fixture(scope="module")
def frame_job(tmp_path_factory):  # type: ignore[no-untyped-def]
    directory = tmp_path_factory.mktemp("frame")
    made = make_input(directory, FRAME)
    return directory, made, job(directory, "out", "--pool_frames", "--max_frames=9")


def normalised_frames(made: list[Video], name: str, limit: int = 9) -> dict[bytes, np.ndarray]:
    raw = {video.id: video.values[name][:limit] * DEQUANTISE_SCALE + DEQUANTISE_OFFSET for video in made}
    training = np.concatenate([raw[video.id] for video in made if split_of(video) == "train"])
    return {video_id: (rows - training.mean(axis=0)) / training.std(axis=0) for video_id, rows in raw.items()}


def test_frames_are_requantised_z_scores(frame_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, info = frame_job
    entry = {entry["name"]: entry for entry in info["transformed"]}
    for name, width in (("rgb", 6), ("audio", 3)):
        expected = normalised_frames(made, name)
        step, low = entry[name]["scale"], entry[name]["offset"]
        for examples in outputs(directory / "out").values():
            for example in examples:
                video_id = example.features.feature["id"].bytes_list.value[0]
                codes = np.frombuffer(example.features.feature[name].bytes_list.value[0], np.uint8).reshape(-1, width)
                values = codes * step + low
                assert len(values) == example.features.feature["num_frames"].int64_list.value[0]
                np.testing.assert_allclose(values, np.clip(expected[video_id], -4, 4), atol=step / 2 + 1e-5)
    lengths = np.array([len(video.values["rgb"]) for video in made])
    assert info["notes"] == {"frames_cut": np.maximum(lengths - 9, 0).sum(), "videos_cut": (lengths > 9).sum()}
    assert info["statistics"]["frames_per_video"] == np.bincount(np.minimum(lengths, 9), minlength=10).tolist()


def test_pooled_features_are_numpys(frame_job) -> None:  # type: ignore[no-untyped-def]
    directory, made, _ = frame_job
    for name in ("rgb", "audio"):
        expected = normalised_frames(made, name)
        for examples in outputs(directory / "out").values():
            for example in examples:
                rows = expected[example.features.feature["id"].bytes_list.value[0]]
                np.testing.assert_allclose(vector(example, f"{name}_mean"), rows.mean(axis=0), atol=1e-5)
                np.testing.assert_allclose(vector(example, f"{name}_std"), rows.std(axis=0), atol=1e-5)
                top = np.sort(rows, axis=0)[::-1][:5].mean(axis=0)
                np.testing.assert_allclose(vector(example, f"{name}_top5"), top, atol=1e-5)


@pytest.mark.slow
def test_frames_and_vectors_in_one_dataset(tmp_path: Path) -> None:
    """By the kernels and by the graph: the vector once per video, and pooled features of frames alone."""
    made = make_input(tmp_path, MIXED, shards=2)
    by_id = {video.id: video for video in made}
    job(tmp_path, "plain", "--max_frames=9")
    info = job(tmp_path, "pooled", "--max_frames=9", "--pool_frames")
    assert [(entry["name"], entry["kind"], entry["width"]) for entry in info["transformed"]] == [
        ("rgb", "frames", 6),
        ("audio", "frames", 3),
        ("title", "vector", 4),
        *((f"{name}_{pool}", "vector", width) for name, width in (("rgb", 6), ("audio", 3)) for pool in POOLS),
    ]
    titles = np.stack([video.values["title"] for video in made if split_of(video) == "train"]).astype(np.float64)
    plain, pooled = outputs(tmp_path / "plain"), outputs(tmp_path / "pooled")
    for split in SPLITS:
        for one, other in zip(plain[split], pooled[split], strict=True):
            features, more = one.features.feature, other.features.feature
            assert set(features) == {"id", "labels", "num_frames", "rgb", "audio", "title"}
            for name in ("id", "labels", "num_frames", "rgb", "audio"):
                assert features[name] == more[name]
            video = by_id[features["id"].bytes_list.value[0]]
            expected = (video.values["title"] - titles.mean(axis=0)) / titles.std(axis=0)
            for example in (one, other):
                np.testing.assert_allclose(vector(example, "title"), expected, atol=1e-5)
    rows = normalised_frames(made, "rgb")
    for example in pooled["train"]:
        mean = rows[example.features.feature["id"].bytes_list.value[0]].mean(axis=0)
        np.testing.assert_allclose(vector(example, "rgb_mean"), mean, atol=1e-5)
    graph = tft.TFTransformOutput(str(tmp_path / "plain"))
    video = made[0]
    raw = {
        name: tf.constant([values if values.ndim == 1 else values[:9].tobytes()])
        for name, values in video.values.items()
    }
    transformed = graph.transform_raw_features(raw, drop_unused_features=True)
    written = next(
        example.features.feature
        for examples in plain.values()
        for example in examples
        if example.features.feature["id"].bytes_list.value[0] == video.id
    )
    assert transformed["rgb"].numpy()[0] == written["rgb"].bytes_list.value[0]
    np.testing.assert_array_equal(transformed["title"][0], list(written["title"].float_list.value))


def test_a_job_whose_manifests_are_of_an_older_format_is_resumed(video_job) -> None:  # type: ignore[no-untyped-def]
    """Shards with stored arrays that cannot be read are done again, to the same bytes."""
    directory, _, _ = video_job
    output = directory / "older"
    job(directory, "older")
    for path in (output / "manifests").glob("0000[01]*"):
        head, _, _ = path.read_bytes().partition(b"\n")
        older = b'[["counts", "<i8", [2]], ["mean_rgb/total", "<f8", [6]]]\n' + bytes(64)
        path.write_bytes(head + b"\n" + (b"{}\n" if path.suffix == ".manifest" else b"") + older)
    (output / "info.json").unlink()
    job(directory, "older", "--resume")
    assert content(output) == content(directory / "out")


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
def test_the_kernels_do_what_the_graph_does(tmp_path: Path, normalise: str) -> None:
    """What was written without TensorFlow against running the transform graph on the same raw records, to the bit."""
    for schema in (VIDEO, FRAME):
        directory = tmp_path / schema.name
        made = make_input(directory, schema, shards=2)
        job(directory, "out", f"--normalise={normalise}", "--max_frames=9")
        by_id = {
            example.features.feature["id"].bytes_list.value[0]: example.features.feature
            for examples in outputs(directory / "out").values()
            for example in examples
        }
        graph = tft.TFTransformOutput(str(directory / "out"))
        for some in (made[:1], made[:50]):  # a batch of one, and a ragged one
            raw = {
                name: tf.constant(
                    [video.values[name] if schema is VIDEO else video.values[name][:9].tobytes() for video in some]
                )
                for name in some[0].values
            }
            transformed = graph.transform_raw_features(raw, drop_unused_features=True)
            for name in raw:
                written = [
                    list(by_id[video.id][name].float_list.value)
                    if schema is VIDEO
                    else by_id[video.id][name].bytes_list.value[0]
                    for video in some
                ]
                assert transformed[name].numpy().tolist() == written
            if schema is FRAME:
                assert transformed["num_frames"].numpy().tolist() == [
                    min(len(video.values["rgb"]), 9) for video in some
                ]


@pytest.mark.parametrize("schema", [VIDEO, FRAME], ids=["video", "frame"])
@pytest.mark.parametrize("pool_frames", [False, True])
def test_the_saved_graph_is_what_tf_transform_saves(tmp_path: Path, schema: RecordSchema, pool_frames: bool) -> None:
    """Schema and outputs against those of the library's own way from a function without analyzers to an output."""
    if pool_frames and schema is VIDEO:
        return
    config = TransformConfig(schema, 9, SplitRatios(), "zscore", 0, pool_frames, 300, "reject", False)
    random = np.random.default_rng(0)
    statistics = {
        modality.name: Moments(7, *(random.uniform(1, 2, modality.width) for _ in range(4)))
        for modality in schema.modalities
    }
    graph.write_transform(statistics, config, str(tmp_path / "ours"))
    spec = graph.raw_feature_spec(config)
    impl_helper.analyze_in_place(
        graph.make_preprocessing_fn(
            config, graph.constant_affine(config, statistics), graph.constant_weights(config, statistics)
        ),
        False,
        spec,
        impl_helper.get_type_specs_from_feature_specs(spec),
        str(tmp_path / "theirs"),
    )
    ours, theirs = (tft.TFTransformOutput(str(tmp_path / name)) for name in ("ours", "theirs"))
    assert ours.transformed_feature_spec() == theirs.transformed_feature_spec()
    made = videos(5, schema, seed=1)
    raw = {
        "id": tf.constant([video.id for video in made]),
        "labels": tf.sparse.from_dense(tf.constant([[video.labels[0]] for video in made], tf.int64)),
        **{
            name: tf.constant(
                [video.values[name] if schema is VIDEO else video.values[name].tobytes() for video in made]
            )
            for name in made[0].values
        },
    }
    expected, found = (output.transform_raw_features(dict(raw)) for output in (theirs, ours))
    assert set(found) == set(expected)
    for name, values in expected.items():
        for part in ("values", "indices") if name == "labels" else ("",):
            np.testing.assert_array_equal(getattr(found[name], part, found[name]), getattr(values, part, values))


@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(-4, 4))
@settings(max_examples=30, deadline=None)
def test_the_kernel_maps_codes_as_numpy_does(seed: int, spread: float) -> None:
    """Every code in every dimension, to the bit, wherever the values fall: beyond the ends, on a half, all in one."""
    random = np.random.default_rng(seed)
    width = 40
    affine = random.normal(size=(2, width)).astype(np.float32) * np.float32(10) ** np.float32(spread)
    affine[:, 0] = 0, 1
    mapping = CodeMap.of(affine, (DEQUANTISE_SCALE, DEQUANTISE_OFFSET), (8 / 255, -4))
    ramp = np.repeat(np.arange(256, dtype=np.uint8), width)
    column = CodesColumn(ramp, np.zeros(1, np.int64), np.full(1, width), np.full(1, 256), mapping)
    ((_, framed),) = encode_by_split({"rgb": column}, np.zeros(1, np.int64))
    payload = framed[12:-4].tobytes()
    written = tf.train.Example.FromString(payload).features.feature["rgb"].bytes_list.value[0]
    assert written == mapping(ramp.reshape(256, width)).tobytes()


def test_a_graph_that_differs_from_the_kernels_is_not_written(video_job, tmp_path, monkeypatch) -> None:  # type: ignore
    """A transform graph that drifted from what was written is an error, not an output."""
    directory, _, _ = video_job
    monkeypatch.setattr(
        graph,
        "constant_affine",
        lambda config, statistics: (
            lambda modality, raw: (tf.zeros(modality.width), tf.fill([modality.width], np.float32(0.99999)))
        ),
    )
    with pytest.raises(RuntimeError, match="the transform graph and the kernels differ in 'mean_"):
        job(directory, "drifted")
    assert not (directory / "drifted" / "transform_fn").exists()
    assert not (directory / "drifted" / "info.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["minmax", "l2", pytest.param("none", marks=pytest.mark.long)])
def test_other_normalisations_of_frames(tmp_path: Path, normalise: str) -> None:
    made = make_input(tmp_path, FRAME, shards=1)
    info = job(tmp_path, "out", f"--normalise={normalise}")
    for entry in info["transformed"]:
        raw = {video.id: video.values[entry["name"]] * DEQUANTISE_SCALE + DEQUANTISE_OFFSET for video in made}
        training = np.concatenate([raw[video.id] for video in made if split_of(video) == "train"])
        low, high = training.min(axis=0), training.max(axis=0)
        for examples in outputs(tmp_path / "out").values():
            for example in examples:
                rows = raw[example.features.feature["id"].bytes_list.value[0]]
                expected = {
                    "minmax": np.clip((rows - low) / (high - low), 0, 1),
                    "none": rows,
                    "l2": rows / np.linalg.norm(rows, axis=1, keepdims=True),
                }[normalise]
                codes = np.frombuffer(example.features.feature[entry["name"]].bytes_list.value[0], np.uint8)
                values = codes.reshape(-1, entry["width"]) * entry["scale"] + entry["offset"]
                np.testing.assert_allclose(values, expected, atol=entry["scale"] / 2 + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("schema", [VIDEO, pytest.param(FRAME, marks=pytest.mark.long)], ids=["video", "frame"])
def test_pca_whitens_the_training_split(tmp_path: Path, schema: RecordSchema) -> None:
    made = make_input(tmp_path, schema, shards=2)
    name = schema.modalities[0].name
    info = job(tmp_path, "out", "--pca_dims=2")
    (entry, *_) = info["transformed"]
    assert entry["width"] == 2
    rows = []
    for example in outputs(tmp_path / "out")["train"]:
        if schema is VIDEO:
            rows.append(vector(example, name)[None])
        else:
            codes = np.frombuffer(example.features.feature[name].bytes_list.value[0], np.uint8).reshape(-1, 2)
            rows.append(codes * entry["scale"] + entry["offset"])
    values = np.concatenate(rows)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(2), atol=0.02)
    # The first components of numpy's eigenvectors span the same plane: distances within it agree.
    raw = np.concatenate(
        [video.values[name].reshape(-1, 6).astype(float) for video in made if split_of(video) == "train"]
    )
    if schema is FRAME:
        raw = raw * DEQUANTISE_SCALE + DEQUANTISE_OFFSET
    variances, vectors = np.linalg.eigh(np.cov(raw.T))
    expected = (raw - raw.mean(axis=0)) @ vectors[:, ::-1][:, :2] / np.sqrt(variances[::-1][:2])
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), np.linalg.norm(expected, axis=1), atol=0.06)


def test_a_csv_is_preprocessed(tmp_path: Path) -> None:
    made = videos(30, VIDEO)
    for video in made:
        video.values["mean_audio"][2] = 1234.567  # a constant feature becomes 0
    columns = [f"{modality.name}_{index}" for modality in VIDEO.modalities for index in range(modality.width)]
    lines = ["id,labels," + ",".join(columns)]
    for video in made:
        numbers = [str(value) for values in video.values.values() for value in values]
        lines.append(",".join([video.id.decode(), ";".join(map(str, video.labels)), *numbers]))
    lines.insert(7, "broken,1,2")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.csv").write_text('\ufeffIndex,Name\n9,"Zürich, by night"\n0,Game\n4,\n')
    info = run(
        [
            f"--input={tmp_path}/data.csv",
            f"--vocabulary={tmp_path}/classes.csv",
            f"--output={tmp_path}/out",
            "--max_rejected_fraction=0.05",
        ]
    )
    assert info["records_read"] == 31 and info["rejected_by_reason"] == {"wrong_width": 1}
    assert info["class_count"] == 10
    assert "Zürich, by night" in (tmp_path / "out" / "labels.csv").read_text()
    training = np.stack([video.values["mean_rgb"] for video in made if split_of(video) == "train"])
    by_id = {video.id: video for video in made}
    for examples in outputs(tmp_path / "out").values():
        for example in examples:
            video = by_id[example.features.feature["id"].bytes_list.value[0]]
            expected = (video.values["mean_rgb"] - training.mean(axis=0)) / training.std(axis=0)
            np.testing.assert_allclose(vector(example, "mean_rgb"), expected, atol=1e-4)
            assert abs(vector(example, "mean_audio")[2]) < 1e-3


def test_given_splits(tmp_path: Path) -> None:
    make_input(tmp_path, VIDEO, shards=3, count=10)
    flags = [
        f"--train_input={tmp_path}/in0*,{tmp_path}/in1*",
        f"--test_input={tmp_path}/in2*",
        f"--schema={tmp_path}/schema.json",
        f"--output={tmp_path}/out",
    ]
    info = run(flags)
    assert {split: entry["records"] for split, entry in info["splits"].items()} == {
        "train": 20,
        "validate": 0,
        "test": 10,
    }
    assert info["split"] == {"method": "given", "ratios": None, "ids": info["split"]["ids"]}
    assert sorted(path.name for path in (tmp_path / "out").glob("t*/*.tfrecord")) == [
        "test-00000-of-00001.tfrecord",
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
    ]
    with pytest.raises(UsageError, match="a held-out split must hold other videos"):
        run([f"--train_input={tmp_path}/in*", f"--test_input={tmp_path}/in2*", f"--output={tmp_path}/x"])


def spoilt_directory(directory: Path) -> tuple[int, dict[str, int]]:
    """Shards with every kind of damage; returns the good records and the expected rejections."""
    made = make_input(directory, VIDEO, shards=1, count=30)
    good = [video.example() for video in made]
    payloads = [
        *good[:3],
        made[3].example(mean_audio=None),
        made[4].example(mean_rgb=float_feature(1.0)),
        made[5].example(mean_rgb=float_feature(*[float("nan")] * 6)),
        made[6].example(labels=int64_feature(12)),
        made[7].example(labels=None),
        made[8].example(id=bytes_feature(b"")),
        Video(b"seq", (1,), {"rgb": np.zeros((2, 6), np.uint8)}).sequence(),
        made[9].example(id=bytes_feature(b"\xfe")),
        *good[10:],
    ]
    write_shard(directory / "in0.tfrecord", payloads)
    whole = write_shard(directory / "in1.tfrecord", good[:4]).read_bytes()
    flipped = bytearray(whole)
    flipped[30] ^= 1
    (directory / "in1.tfrecord").write_bytes(flipped)
    (directory / "in2.tfrecord").write_bytes(whole[:-2])
    length = bytearray(whole)
    length[0] ^= 64
    (directory / "in3.tfrecord").write_bytes(length)
    (directory / "in4.tfrecord").write_bytes(b"")
    (directory / "in5.tfrecord").write_bytes(np.random.default_rng(0).bytes(3000))
    write_shard(directory / "in6.tfrecord", good[:5], "GZIP")
    expected = {
        "missing_feature": 1,
        "wrong_width": 1,
        "not_finite": 1,
        "label_out_of_range": 1,
        "no_labels": 1,
        "empty_id": 1,
        "wrong_container": 1,
        "corrupt_payload": 1,
        "truncated": 1,
        "corrupt_length": 1,
        "not_tfrecord": 1,
    }
    return 3 + 1 + 20 + 3 + 3 + 3 + 5, expected


def test_every_kind_of_damage_in_one_run(tmp_path: Path) -> None:
    good, expected = spoilt_directory(tmp_path)
    with pytest.raises(JobError, match="more than --max_rejected_fraction=0.01"):
        job(tmp_path, "out", "--missing_modality=reject")
    letters = [
        json.loads(line)
        for path in sorted((tmp_path / "out" / "dead_letter").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert not (tmp_path / "out" / "info.json").exists()
    info = job(tmp_path, "out", "--missing_modality=reject", "--resume", "--max_rejected_fraction=0.5")
    assert info["rejected_by_reason"] == expected
    assert info["records_written"] == good and info["records_read"] == good + len(expected)
    assert info["input"]["empty_files"] == 1
    assert sum(len(examples) for examples in outputs(tmp_path / "out").values()) == good
    counted: dict[str, int] = {}
    for letter in letters:
        assert set(letter) == {"shard", "offset", "id", "stage", "error", "message"}
        counted[letter["error"]] = counted.get(letter["error"], 0) + 1
    assert counted == expected
    page = (tmp_path / "out" / "data_card.html").read_text()
    assert all(reason in page for reason in expected)


def test_nothing_usable_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "in0").write_bytes(b"not a record" * 20)
    (tmp_path / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
    with pytest.raises(JobError, match=r"no usable record among 1 read from 1 files, .*/in0 the first \(not_tf"):
        job(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input=/nowhere/*"], "no file matches '/nowhere/\\*'"),
        (["--input=IN", "--schema=yt8m-vidoe"], "did you mean 'yt8m-video'"),
        (["--input=IN", "--schema=auto", "--normalize=zscore"], "did you mean --normalise"),
        (["--input=IN", "--normalise=zcore"], "did you mean 'zscore'"),
        (["--input=IN", "--split_ratios=0.7,0.2"], "split ratios must be three numbers"),
        (["--input=IN", "--split_ratios=0.7,0.2,0.2"], "add to 1"),
        (["--input=IN", "--split_ratios=0,0.5,0.5"], "train split is empty"),
        (["--input=IN", "--max_frames=0"], "--max_frames must lie between 1 and 1,048,576, got 0"),
        (["--input=IN", f"--max_frames={10**20}"], "--max_frames must lie between 1 and 1,048,576"),
        (["--input=IN", "--pool_frames"], "--pool_frames needs records with frames"),
        (["--input=IN", "--pca_dims=3", "--normalise=l2"], "--pca_dims whitens"),
        (["--input=IN", "--missing_modality=drop"], "unknown value of --missing_modality"),
        (["--input=IN", "--vocabulary=/nowhere.csv"], "vocabulary /nowhere.csv does not exist"),
        (["--input=IN", "--runner=Drect"], "unknown runner"),
        (["--input=IN", "--train_input=IN"], "excludes"),
        ([], "name the records with --input"),
        (["--validate_input=IN"], "name the records with"),
        (["--input=IN", "--max_rejected_fraction=2"], "must lie in"),
    ],
)
def test_wrong_usage_is_explained_before_anything_runs(tmp_path, flags, message) -> None:  # type: ignore[no-untyped-def]
    make_input(tmp_path, VIDEO, shards=1, count=3)
    flags = [flag.replace("IN", f"{tmp_path}/in*") for flag in flags]
    if not any(flag.startswith("--schema") for flag in flags):
        flags.append(f"--schema={tmp_path}/schema.json")
    with pytest.raises(UsageError, match=message):
        run([*flags, f"--output={tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_a_used_output_directory_is_refused(tmp_path: Path) -> None:
    make_input(tmp_path, VIDEO, shards=1, count=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not empty"):
        job(tmp_path)
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_overwrite_spares_the_records(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    make_input(raw, VIDEO, shards=1, count=3)
    held = sorted(path.name for path in raw.iterdir())
    for output in (".", "..", "../raw"):
        with pytest.raises(UsageError, match="holds the input"):
            job(raw, output, "--overwrite")
    assert sorted(path.name for path in raw.iterdir()) == held


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_input(tmp_path, VIDEO, shards=2, count=3)
    job(tmp_path, "out", "--dry_run")
    assert "2 shards" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_help_answers_at_once() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.preprocess", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "uses all cores" in " ".join(done.stdout.split())
    assert time.monotonic() - started < 2 or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def start(directory: Path, output: str, *flags: str) -> subprocess.Popen:
    """As a script starts a job in the background: SIGINT is ignored then."""
    command = [
        sys.executable,
        "-m",
        "pipelines.preprocess",
        f"--input={directory}/in*",
        f"--schema={directory}/schema.json",
        f"--output={directory / output}",
        *flags,
    ]
    return subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_undisturbed(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, _, _ = video_job
    process = start(directory, "killed")
    manifests = directory / "killed" / "manifests"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None and not list(manifests.glob("*.statistics")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(manifests.glob("*.statistics")) and not (directory / "killed" / "info.json").exists()
    job(directory, "killed", "--resume")
    assert content(directory / "killed") == content(directory / "out")


def test_progress_reaches_a_file(tmp_path: Path) -> None:
    shard = Shard(0, 1, "a", 100, 0.0)
    config = JobConfig(str(tmp_path), (shard,), TransformConfig(VIDEO, 10), None, 0.01, {})
    stream = io.StringIO()
    with shown_progress(PreprocessProgress(config), config.output, stream):
        (tmp_path / "manifests").mkdir()
        (tmp_path / "manifests" / "00000-of-00001.manifest").write_text(
            json.dumps({"records_written": 6, "records_rejected": 2}) + "\n{}\n"
        )
    assert re.search(r"transformed 1 of 1 shards, [\d,]+ records/s, 2 rejected, 0:0\d elapsed\n", stream.getvalue())


@pytest.mark.slow
def test_a_full_disk_ends_with_a_clear_error(video_job, monkeypatch, capfd) -> None:  # type: ignore[no-untyped-def]
    """As on a full disk: the third shard cannot be written; the job says so and resumes when there is room."""
    directory, _, _ = video_job
    real = storage.open_atomically

    @contextlib.contextmanager
    def full(path: str):  # type: ignore[no-untyped-def]
        if "validate-00002" in path:
            raise OSError(28, "No space left on device", path)
        with real(path) as stream:
            yield stream

    monkeypatch.setattr(storage, "open_atomically", full)
    with pytest.raises(JobError, match="the disk is full: .*--resume continues"):
        job(directory, "full")
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setattr(storage, "open_atomically", real)
    job(directory, "full", "--resume")
    assert content(directory / "full") == content(directory / "out")


def test_graphs_are_loaded_once(video_job) -> None:  # type: ignore[no-untyped-def]
    directory, _, _ = video_job
    path = str(directory / "out" / "transform_fn")
    config = TransformConfig(VIDEO, 10)
    first = BatchGraph.load(path, config, "statistics")
    assert BatchGraph.load(path, config, "statistics") is first
    assert BatchGraph.load(path, config, "others") is not first


def test_real_audioset(shared_data: Path, tmp_path: Path) -> None:
    info = run(
        [
            f"--input={shared_data}/audioset/train-*.tfrecord",
            f"--output={tmp_path}/out",
            f"--vocabulary={shared_data}/audioset/class_labels_indices.csv",
        ]
    )
    assert info["records_read"] == info["records_written"] == 22_160
    assert info["schema"]["name"] == "audioset" and info["class_count"] == 527


def test_the_real_frame_level_record(shared_data: Path, tmp_path: Path) -> None:
    """The one real frame-level record through the whole job: its codes normalised by its own statistics."""
    path = shared_data / "yt8m" / "frame" / "validate_SjJ3.tfrecord"
    info = run([f"--train_input={path}", f"--output={tmp_path}/out", f"--vocabulary={shared_data}/yt8m/vocabulary.csv"])
    assert info["records_read"] == info["records_written"] == 1 and info["schema"]["name"] == "yt8m-frame"
    raw = tf.train.SequenceExample.FromString(read_payloads(path)[0])
    (example,) = outputs(tmp_path / "out")["train"]
    assert example.features.feature["id"] == raw.context.feature["id"]
    assert example.features.feature["labels"] == raw.context.feature["labels"]
    assert example.features.feature["num_frames"].int64_list.value[0] == 170
    for entry in info["transformed"]:
        frames = raw.feature_lists.feature_list[entry["name"]].feature
        values = (
            np.array([np.frombuffer(frame.bytes_list.value[0], np.uint8) for frame in frames]) * DEQUANTISE_SCALE
            + DEQUANTISE_OFFSET
        )
        spread = values.std(axis=0)
        expected = (values - values.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
        codes = np.frombuffer(example.features.feature[entry["name"]].bytes_list.value[0], np.uint8)
        found = codes.reshape(170, entry["width"]) * entry["scale"] + entry["offset"]
        np.testing.assert_allclose(found, np.clip(expected, -4, 4), atol=entry["scale"] / 2 + 1e-4)


def changed(content: bytes, data) -> bytes:  # type: ignore[no-untyped-def]
    """`content` with a few bytes flipped, dropped, inserted, or cut off."""
    spoilt = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        at = data.draw(st.integers(0, max(0, len(spoilt) - 1)), "at")
        kind = data.draw(st.sampled_from(["flip", "flip", "drop", "insert", "cut"]), "kind")
        if kind == "flip" and spoilt:
            spoilt[at] ^= data.draw(st.integers(1, 255), "bits")
        elif kind == "drop":
            del spoilt[at : at + data.draw(st.integers(1, 40), "dropped")]
        elif kind == "insert":
            spoilt[at:at] = data.draw(st.binary(min_size=1, max_size=40), "inserted")
        else:
            del spoilt[at:]
    return bytes(spoilt)


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_any_change_of_bytes_never_writes_a_wrong_record(tmp_path: Path, data) -> None:  # type: ignore[no-untyped-def]
    """The whole job over shards whose bytes were changed anywhere: it ends, and what it wrote was there."""
    directory = tmp_path / uuid.uuid4().hex
    made = {video.id: video for video in make_input(directory, VIDEO, shards=9, count=12)}
    for shard in range(1, 9):
        path = directory / f"in{shard}.tfrecord"
        path.write_bytes(changed(path.read_bytes(), data))
    info = job(directory, "out", "--max_rejected_fraction=1")
    assert info["records_written"] >= 12  # those of the shard that was left alone
    seen = set()
    for split, examples in outputs(directory / "out").items():
        for example in examples:
            video = made[example.features.feature["id"].bytes_list.value[0]]
            assert video.id not in seen and split_of(video) == split
            seen.add(video.id)
            assert tuple(example.features.feature["labels"].int64_list.value) == video.labels
            for name, values in video.values.items():
                fitted = info["statistics"]["features"][name]
                np.testing.assert_allclose(
                    vector(example, name), (values - np.array(fitted["mean"])) / np.array(fitted["std"]), atol=1e-5
                )
    assert len(seen) == info["records_written"]


def test_a_real_full_disk_leaves_a_resumable_state(video_job, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A tmpfs too small for the output: a clear error; with room, --resume gives what an undisturbed run gives."""
    directory, _, _ = video_job
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        flags = [f"--input={directory}/in*", f"--schema={directory}/schema.json", f"--output={disk}/out"]
        with pytest.raises(JobError, match="the disk is full: .*--resume continues"):
            run(flags)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run([*flags, "--resume"])
        assert content(disk / "out") == content(directory / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
