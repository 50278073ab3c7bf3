"""A third of the records lack sound: from raw records to a model and its scores, nothing is made up for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines import preprocess, report, score
from tests.fixtures.records import FRAME, VIDEO, Video, split_index, videos, write_shard
from vcls_model import train
from vcls_model.commands import UsageError
from vcls_model.records.schema import RecordSchema
from vcls_model.serving.exported import LoadedModel

CLASSES = 10
LACKING = 3  # every third record
SMALL = ["--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--epochs=2", "--quiet"]


def made_of(schema: RecordSchema) -> tuple[list[Video], list[bytes]]:
    """Videos, and their records, of which every third lacks the second modality."""
    made = videos(240, schema, seed=3)
    name = schema.modalities[1].name
    payloads = []
    for number, video in enumerate(made):
        if number % LACKING == 0:
            del video.values[name]
        payloads.append(video.sequence() if schema.has_frames else video.example())
    return made, payloads


def schema_file(schema: RecordSchema, path: Path) -> Path:
    path.write_text(json.dumps(schema.to_dict()))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Raw records, the dataset and a dense model."""
    directory = tmp_path_factory.mktemp("senses")
    made, payloads = made_of(VIDEO)
    shard = write_shard(directory / "raw" / "a.tfrecord", payloads)
    schema = schema_file(VIDEO, directory / "schema.json")
    data, model = directory / "data", directory / "model"
    preprocess.run([f"--input={shard}", f"--schema={schema}", f"--output={data}"])
    train.run([f"--data={data}", f"--output={model}", "--model=dense", *SMALL])
    return {"made": made, "shard": shard, "schema": schema, "data": data, "model": model, "payloads": payloads}


def examples(directory: Path, split: str) -> list[Any]:
    return [
        tf.train.Example.FromString(record.numpy())
        for path in sorted((directory / split).glob("*.tfrecord"))
        for record in tf.data.TFRecordDataset(str(path))
    ]


@pytest.mark.slow
def test_the_dataset_says_what_is_missing_and_writes_nothing_for_it(work: dict[str, Any]) -> None:
    found = {
        example.features.feature["id"].bytes_list.value[0]: example.features.feature
        for split in ("train", "validate", "test")
        for example in examples(work["data"], split)
    }
    assert len(found) == len(work["made"])
    for number, video in enumerate(work["made"]):
        features = found[video.id]
        if number % LACKING == 0:
            assert "mean_audio" not in features
            assert list(features["has_mean_audio"].int64_list.value) == [0]
        else:
            assert len(features["mean_audio"].float_list.value) == 3
            assert "has_mean_audio" not in features
        assert "has_mean_rgb" not in features
    info = json.loads((work["data"] / "info.json").read_text())
    assert info["missing"] == {"mean_audio": 80}
    assert info["rejected_by_reason"] == {}
    card = (work["data"] / "data_card.html").read_text()
    assert "<td>mean_audio</td>" in card and ">80</td>" in card and ">33.3%</td>" in card


def test_statistics_are_those_of_the_records_that_have_it(work: dict[str, Any]) -> None:
    info = json.loads((work["data"] / "info.json").read_text())
    statistics = info["statistics"]["features"]["mean_audio"]
    present = np.array(
        [v.values["mean_audio"] for v in work["made"] if "mean_audio" in v.values and split_index(v.id) == 0]
    )
    assert statistics["count"] == len(present)
    np.testing.assert_allclose(statistics["mean"], present.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics["std"], present.std(axis=0), rtol=1e-6)


def test_complete_records_are_written_byte_for_byte_as_by_reject(work: dict[str, Any], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "whole.tfrecord", [video.example() for video in videos(60, VIDEO)])
    written = []
    for mode in ("mask", "reject"):
        output = tmp_path / mode
        preprocess.run(
            [f"--input={shard}", f"--schema={work['schema']}", f"--output={output}", f"--missing_modality={mode}"]
        )
        written.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.tfrecord")})
    assert written[0] == written[1]
    assert any(written[0].values())


def logits_by_hand(model: Path, data: Path, video: Video, *, present: bool) -> np.ndarray:
    """What the Keras model says of a video, from transformed features that numpy made."""
    import keras

    import vcls_model.layers  # noqa: F401  (registers them)

    statistics = json.loads((data / "info.json").read_text())["statistics"]["features"]
    inputs = {}
    for name, values in (("mean_rgb", video.values["mean_rgb"]), ("mean_audio", video.values.get("mean_audio"))):
        known = statistics[name]
        mean, std = np.array(known["mean"]), np.array(known["std"])
        values = (
            (values - mean) / std if values is not None and (present or name == "mean_rgb") else np.zeros(len(mean))
        )
        inputs[name] = values[None].astype(np.float32)
    inputs["has_mean_rgb"] = np.ones(1, np.float32)
    inputs["has_mean_audio"] = np.full(1, present, np.float32)
    network = keras.models.load_model(model / "model.keras", compile=False)
    return np.asarray(network(inputs, training=False))


def test_the_exported_model_finds_by_itself_what_is_missing(work: dict[str, Any]) -> None:
    loaded = tf.saved_model.load(str(work["model"] / "saved_model"))
    for number in (0, 1):
        expected = logits_by_hand(work["model"], work["data"], work["made"][number], present=number % LACKING != 0)
        found = loaded.signatures["serving_default"](tf.constant([work["payloads"][number]]))["logits"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        rgb = work["made"][number].values["mean_rgb"][None]
        audio = work["made"][number].values.get("mean_audio", np.full(3, np.nan, np.float32))[None]
        found = LoadedModel(str(work["model"]), CLASSES).logits({"mean_rgb": rgb, "mean_audio": audio})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_missing_counts_for_nothing_whatever_stands_in_its_place(work: dict[str, Any]) -> None:
    import keras

    network = keras.models.load_model(work["model"] / "model.keras", compile=False)
    rgb = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    one = np.ones(2, np.float32)
    of = lambda audio: np.asarray(  # noqa: E731
        network({"mean_rgb": rgb, "mean_audio": audio, "has_mean_rgb": one, "has_mean_audio": 0 * one}, training=False)
    )
    np.testing.assert_array_equal(of(np.zeros((2, 3), np.float32)), of(np.full((2, 3), 9, np.float32)))


def predictions(scores: Path) -> dict[str, tuple[list[int], list[float]]]:
    rows = pq.read_table(scores / "predictions").to_pylist()
    return {row["id"]: (row["class_index"], row["probability"]) for row in rows}


def scored(work: dict[str, Any], output: Path, *flags: str) -> dict[str, Any]:
    return score.run(
        [f"--input={work['shard']}", f"--schema={work['schema']}", f"--model={work['model']}", f"--output={output}"]
        + list(flags)
    )


def test_scores_are_those_of_the_model_without_the_missing_sound(work: dict[str, Any], tmp_path: Path) -> None:
    info = scored(work, tmp_path / "scores")
    assert info["records_written"] == 240 and info["without"] == [] and info["missing"] == {"mean_audio": 80}
    found = predictions(tmp_path / "scores")
    for number in (0, 1, 3, 239):
        expected = logits_by_hand(work["model"], work["data"], work["made"][number], present=number % LACKING != 0)[0]
        classes, probabilities = found[work["made"][number].id.decode()]
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-expected[classes])), atol=1e-5)


def test_without_a_modality_all_records_are_scored_as_if_they_lacked_it(work: dict[str, Any], tmp_path: Path) -> None:
    info = scored(work, tmp_path / "scores", "--without=mean_audio")
    assert info["without"] == ["mean_audio"]
    found = predictions(tmp_path / "scores")
    for number in (0, 1):
        expected = logits_by_hand(work["model"], work["data"], work["made"][number], present=False)[0]
        classes, probabilities = found[work["made"][number].id.decode()]
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-expected[classes])), atol=1e-5)
    # Of a record without sound nothing is left without its pictures.
    info = scored(work, tmp_path / "sound", "--without=mean_rgb", "--max_rejected_fraction=0.5")
    assert info["rejected_by_reason"] == {"missing_feature": 80}
    assert info["records_read"] == 240 and info["records_written"] == 160


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--without=sound"], "unknown modality of --without 'sound'"),
        (["--without=mean_rgb,mean_audio"], "leaves nothing of the records"),
        (["--without=mean_audio", "--missing_modality=fill"], "needs --missing_modality=mask"),
    ],
)
def test_what_without_cannot_mean(work: dict[str, Any], flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        scored(work, tmp_path / "scores", *flags)


def test_old_choices_are_still_there(work: dict[str, Any], tmp_path: Path) -> None:
    data: Callable[[str], dict[str, Any]] = lambda mode: preprocess.run(  # noqa: E731
        [
            f"--input={work['shard']}",
            f"--schema={work['schema']}",
            f"--output={tmp_path / mode}",
            f"--missing_modality={mode}",
            "--max_rejected_fraction=0.5",
        ]
    )
    rejected, filled = data("reject"), data("fill")
    assert rejected["rejected_by_reason"] == {"missing_feature": 80} and rejected["missing"] == {}
    assert filled["notes"] == {"modality_filled": 80} and filled["missing"] == {}
    assert all("has_mean_audio" not in each.features.feature for each in examples(tmp_path / "fill", "train"))


def test_a_run_of_the_first_version_continues_as_it_began(work: dict[str, Any], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "whole.tfrecord", [video.example() for video in videos(60, VIDEO)])
    flags = [f"--input={shard}", f"--schema={work['schema']}", f"--output={tmp_path / 'data'}"]
    preprocess.run([*flags, "--missing_modality=reject"])
    preprocess.run([*flags, "--resume"])  # without the flag, as it was called then
    with pytest.raises(UsageError, match="--missing_modality was reject, is now mask"):
        preprocess.run([*flags, "--resume", "--missing_modality=mask"])


@pytest.mark.slow
def test_frames_without_sound(tmp_path: Path) -> None:
    """Also records of another length of sound than of pictures, which is padded."""
    made, payloads = made_of(FRAME)
    longer = made[1].values["audio"].shape[0] + 2
    made[1].values["rgb"] = np.resize(made[1].values["rgb"], (longer, 6))
    payloads[1] = made[1].sequence()
    shard = write_shard(tmp_path / "raw.tfrecord", payloads)
    schema = schema_file(FRAME, tmp_path / "schema.json")
    info = preprocess.run([f"--input={shard}", f"--schema={schema}", f"--output={tmp_path / 'data'}"])
    assert info["missing"] == {"audio": 80}
    assert info["notes"] == {"frames_padded": 2, "videos_padded": 1}
    for example in examples(tmp_path / "data", "train"):
        features = example.features.feature
        frames = features["num_frames"].int64_list.value[0]
        assert len(features["rgb"].bytes_list.value[0]) == 6 * frames
        assert ("audio" in features) != ("has_audio" in features)
        assert "audio" not in features or len(features["audio"].bytes_list.value[0]) == 3 * frames
    model = tmp_path / "model"
    train.run([f"--data={tmp_path / 'data'}", f"--output={model}", "--model=average", "--recipe=none", *SMALL])
    scores = score.run(
        [f"--input={shard}", f"--schema={schema}", f"--model={model}", f"--output={tmp_path / 'scores'}"]
    )
    assert scores["records_written"] == 240
    found = predictions(tmp_path / "scores")
    loaded = tf.saved_model.load(str(model / "saved_model"))
    # The SavedModel on its own, which parses, pads and masks in its graph.
    rows = [0, 1, 2, 3]
    logits = loaded.signatures["serving_default"](tf.constant([payloads[row] for row in rows]))["logits"].numpy()
    for row, own in zip(rows, logits, strict=True):
        classes, probabilities = found[made[row].id.decode()]
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-own[classes])), atol=1e-5)


@pytest.mark.slow
def test_what_each_modality_is_worth_is_measured_and_reported(work: dict[str, Any], tmp_path: Path) -> None:
    """The classes show in the sound alone: without it the model is lost, and the report says so."""
    rng = np.random.default_rng(0)
    made = videos(600, VIDEO, seed=8)
    for number, video in enumerate(made):
        made[number] = Video(video.id, (number % CLASSES,), video.values)
        video.values["mean_audio"] = (np.array([np.cos(number % CLASSES), np.sin(number % CLASSES), 0]) * 9).astype(
            np.float32
        )
        if number < 60:
            del video.values["mean_audio"]
    rng.shuffle(made)  # type: ignore[arg-type]
    shard = write_shard(tmp_path / "raw.tfrecord", [video.example() for video in made])
    flags = [f"--input={shard}", f"--schema={work['schema']}"]
    preprocess.run([*flags, f"--output={tmp_path / 'data'}"])
    model = tmp_path / "model"
    train.run([f"--data={tmp_path / 'data'}", f"--output={model}", "--model=dense", *SMALL, "--epochs=12"])
    scores = tmp_path / "scores"
    score.run([*flags, f"--model={model}", f"--output={scores}", "--modalities"])
    worth = json.loads((scores / "modalities.json").read_text())
    assert worth["modalities"] == ["mean_rgb", "mean_audio"] and worth["videos"] == 540
    whole, rgb, audio = worth["subsets"]
    assert [each["modalities"] for each in (whole, rgb, audio)] == [
        ["mean_rgb", "mean_audio"],
        ["mean_rgb"],
        ["mean_audio"],
    ]
    assert whole["map"] > 0.75 and rgb["map"] < 0.3
    assert whole["map_change"] == 0
    assert rgb["map_change"] == pytest.approx(rgb["map"] - whole["map"])
    assert rgb["map_change_low"] <= rgb["map_change"] <= rgb["map_change_high"] < -0.5
    # The same as scoring the complete records without their sound.
    complete = write_shard(tmp_path / "complete.tfrecord", [v.example() for v in made if "mean_audio" in v.values])
    alone = tmp_path / "alone"
    score.run([f"--input={complete}", flags[1], f"--model={model}", f"--output={alone}", "--without=mean_audio"])
    metrics = json.loads((alone / "metrics.json").read_text())
    for key in ("map", "map_ci_low", "gap_at_20", "gap_at_20_ci_high"):
        assert rgb[key] == pytest.approx(metrics[key], abs=1e-9)
    page = report.run([f"--scores={scores}", f"--output={tmp_path / 'report'}"])
    assert {"modalities", "modalities_gain_mean_audio"} <= set(page["tables"])
    assert "modalities" in page["figures"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert (
        '<section id="modalities">' in html and "on the 540 labelled videos that have all. 60 others lack one" in html
    )
    gains = (tmp_path / "report" / "tables" / "modalities_gain_mean_audio.csv").read_text().splitlines()
    assert len(gains) == 1 + CLASSES


def test_modalities_need_several_and_a_model_that_bears_it(work: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--modalities compares several of them, and there is one: mean_rgb"):
        scored(work, tmp_path / "scores", "--modalities", "--without=mean_audio")
