"""Labels without training: what real clips are called, the command's outputs, and the exported model."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import score
from tests.fixtures.media import write_sound
from vcls_model.commands import JobError, UsageError
from vcls_model.everyday import run
from vcls_model.serving.everyday import Everyday
from vcls_model.serving.exported import read_exported_model

HELICOPTER = "V_HELICOPTER_012.mp4"


@pytest.fixture(scope="module")
def everyday() -> Everyday:
    return Everyday.load("efficientnet-lite0")


@pytest.fixture(scope="module")
def clip(sample: Path) -> Path:
    return sample / "video" / HELICOPTER


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    write_sound(path, 3)
    return path


def test_classes_are_both_lists_and_no_name_comes_twice(everyday: Everyday) -> None:
    names = [info.name for info in everyday.classes]
    assert len(set(names)) == len(names) == 1521
    assert (names[404], names[1000], names[1132]) == ("airliner", "Speech", "Music")
    assert [info.index for info in everyday.classes] == list(range(1521))
    assert {info.verticals for info in everyday.classes[:1000]} == {("seen",)}
    assert {info.verticals for info in everyday.classes[1000:]} == {("heard",)}


def test_probabilities_are_those_of_the_formulas(everyday: Everyday) -> None:
    rows = np.random.default_rng(0).uniform(0, 0.3, (3, 1280)).astype(np.float32)
    head = everyday.heads["picture"]
    powers = np.exp(rows.astype(float) @ head.weights.astype(float) + head.bias)
    np.testing.assert_allclose(
        everyday.probabilities("picture", rows), powers / powers.sum(axis=1, keepdims=True), rtol=1e-3
    )
    rows = rows[:, :1024]
    head = everyday.heads["sound"]
    logits = rows.astype(float) @ head.weights.astype(float) + head.bias
    np.testing.assert_allclose(everyday.probabilities("sound", rows), 1 / (1 + np.exp(-logits)), rtol=1e-3)


def test_a_video_has_the_mean_of_its_seconds_and_no_labels_of_what_it_lacks(everyday: Everyday) -> None:
    by_second = np.zeros((2, 1000), np.float32)
    by_second[0, 7], by_second[1, 7], by_second[1, 9] = 0.5, 0.25, 0.75
    labels = everyday.labels(everyday.over_time({"picture": by_second, "sound": np.zeros((0, 521), np.float32)}), 2)
    assert [(label.index, label.probability, label.medium) for label in labels] == [
        (7, 0.375, "picture"),
        (9, 0.375, "picture"),
    ]
    heard = np.zeros(521, np.float32)
    heard[132] = 0.9
    (label,) = everyday.labels({"sound": heard}, 1)
    assert (label.index, label.name, label.medium) == (1132, "Music", "sound")


def test_what_flies_and_a_chord_are_called_that(
    clip: Path, song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.csv"
    labelled = run([str(clip), str(song), "--image_encoder=efficientnet-lite0", f"--output={output}"])
    seen, heard = (
        {label.name for label in each.labels if label.medium == medium}
        for each, medium in zip(labelled, ("picture", "sound"), strict=True)
    )
    assert seen & {"warplane", "airship", "parachute"}
    assert heard & {"Music", "Sine wave", "Dial tone", "Tuning fork", "Musical instrument"}
    assert {label.medium for label in labelled[0].labels} == {"picture"}  # it has no sound
    assert len(labelled[0].moments) == pytest.approx(labelled[0].seconds, abs=1)
    printed = capsys.readouterr().out
    assert f"{clip} (" in printed and "  seen  " in printed and "  heard " in printed
    with open(output, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["path"], row["label"], float(row["probability"])) for row in rows] == [
        (each.path, label.name, pytest.approx(label.probability, abs=1e-6))
        for each in labelled
        for label in each.labels
    ]


def test_json_has_the_moments_and_a_file_that_is_none_fails_alone(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, text = tmp_path / "labels.json", tmp_path / "text.mp4"
    text.write_text("this is text")
    flags = ["--image_encoder=efficientnet-lite0", "--max_seconds=2", "--top=3", f"--output={output}"]
    with pytest.raises(JobError, match="1 of 2 files could not be labelled"):
        run([str(text), str(clip), *flags])
    assert str(text) in capsys.readouterr().err
    (file,) = json.loads(output.read_text())["files"]
    assert (file["path"], len(file["labels"]), len(file["moments"])) == (str(clip), 3, 2)
    assert file["moments"][0][0].keys() == {"index", "name", "medium", "probability"}


def test_the_exported_model_scores_files_as_the_command_does(
    clip: Path, song: Path, tmp_path: Path, everyday: Everyday
) -> None:
    model, scores = tmp_path / "model", tmp_path / "scores"
    assert run(["--image_encoder=efficientnet-lite0", f"--output={model}"]) == []
    exported = read_exported_model(str(model))
    assert [info.name for info in exported.classes] == [info.name for info in everyday.classes]
    score.run([f"--input={clip},{song}", f"--model={model}", f"--output={scores}", "--missing_modality=fill"])
    labelled = run([str(clip), str(song), "--image_encoder=efficientnet-lite0"])
    predicted = {}
    for path in (scores / "predictions").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            predicted[row["id"]] = dict(zip(row["class_index"], row["probability"], strict=True))
    assert len(predicted) == 2
    for each in labelled:
        scored = next(values for name, values in predicted.items() if Path(each.path).stem in str(name))
        for label in each.labels[:3]:
            assert scored[label.index] == pytest.approx(label.probability, abs=2e-3)
        assert {index < 1000 for index in scored} == {label.medium == "picture" for label in each.labels}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name media files to label"),
        (["a.mp4", "--output=labels"], "go to a .csv or .json file"),
        (["a.mp4", "--top=0"], "--top must be at least 1"),
        (["a.mp4", "--image_encoder=clip"], "unknown picture encoder with a classifier 'clip'"),
        (["no_such_file.mp4"], "no_such_file.mp4"),
    ],
)
def test_wrong_usage(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(flags)
