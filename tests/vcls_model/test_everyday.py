"""Labels without training: what real clips are called, and the exported model."""

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
from vcls_model.serving.live.labelling import MediaLabels

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


def named(labels: MediaLabels, medium: str, top: int = 5) -> set[str]:
    """The best classes of what is `seen` or `heard` in a file."""
    chosen = [labels.classes[index] for index, _ in labels.whole if labels.classes[index].verticals == (medium,)]
    return {info.name for info in chosen[:top]}


def test_what_flies_and_a_chord_are_called_that(
    clip: Path, song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = run([str(clip), str(song), "--image_encoder=efficientnet-lite0", f"--output={tmp_path}"])
    assert named(labelled[str(clip)], "seen") & {"warplane", "airship", "parachute"}
    chord = {"Music", "Sine wave", "Dial tone", "Tuning fork", "Musical instrument"}
    assert named(labelled[str(song)], "heard") & chord
    best, score = labelled[str(clip)].whole[0]
    assert labelled[str(clip)].classes[best].verticals == ("seen",) and score > 0.1  # it has no sound
    assert len(labelled[str(clip)].moments) == pytest.approx(labelled[str(clip)].seconds, abs=1)
    printed = capsys.readouterr().out
    assert f"{clip}: " in printed and f"{song}: 3.0 s" in printed
    (result,) = json.loads((tmp_path / f"{HELICOPTER}.json").read_text())["annotationResults"]
    assert result["segmentLabelAnnotations"][0]["entity"]["entityId"] == str(best)
    assert (tmp_path / "song.wav.json").exists()


def test_a_file_that_is_none_fails_alone(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is text")
    flags = ["--image_encoder=efficientnet-lite0", "--max_seconds=2", "--fps=2"]
    with pytest.raises(JobError, match="1 of 2 files could not be labelled"):
        run([str(text), str(clip), *flags])
    said = capsys.readouterr()
    assert str(text) in said.err and str(clip) in said.out
    moments = run([str(clip), *flags])[str(clip)].moments
    assert [each.seconds for each in moments] == [0, 0.5, 1, 1.5]


@pytest.mark.slow
def test_the_exported_model_scores_files_as_the_command_does(
    clip: Path, song: Path, tmp_path: Path, everyday: Everyday
) -> None:
    model, scores = tmp_path / "model", tmp_path / "scores"
    assert run(["--image_encoder=efficientnet-lite0", f"--output={model}"]) == {}
    exported = read_exported_model(str(model))
    assert [info.name for info in exported.classes] == [info.name for info in everyday.classes]
    score.run([f"--input={clip},{song}", f"--model={model}", f"--output={scores}", "--missing_modality=fill"])
    labelled = run([str(clip), str(song), "--image_encoder=efficientnet-lite0"])
    predicted = {}
    for path in (scores / "predictions").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            predicted[row["id"]] = dict(zip(row["class_index"], row["probability"], strict=True))
    assert len(predicted) == 2
    for path, labels in labelled.items():
        scored = next(values for name, values in predicted.items() if Path(path).stem in str(name))
        for index, probability in labels.whole[:3]:
            assert scored[index] == pytest.approx(probability, abs=2e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name media files to label"),
        (["a.mp4", "--top=0"], "--top must be at least 1"),
        (["a.mp4", "--fps=0"], "--fps"),
        (["a.mp4", "--image_encoder=clip"], "unknown picture encoder 'clip'"),
        (["no_such_file.mp4"], "no_such_file.mp4"),
    ],
)
def test_wrong_usage(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(flags)
