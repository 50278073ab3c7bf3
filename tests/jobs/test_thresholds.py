"""Where per-class thresholds come from: refused where the same videos chose them, and what the report says of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.report import run as report
from tests.fixtures.scoring import Video, serialise, write_shard
from vcls_model.commands import UsageError


@pytest.fixture(scope="module")
def by_split(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Scores of the validation and of the test split of all shards, and of all videos of the first."""
    from pipelines.score import run

    place = tmp_path_factory.mktemp("by_split")
    flags = [f"--model={model}", "--direct_num_workers=1"]
    for split in ("validate", "test"):
        run([f"--input={shards}/*.tfrecord", f"--output={place / split}", f"--split={split}", *flags])
    run([f"--input={shards}/part00.tfrecord", f"--output={place / 'first'}", *flags])
    return {name: place / name for name in ("validate", "test", "first")}


def _thresholds_in_words(scores: Path, output: Path) -> tuple[str, str]:
    """The sentence of the report's section, and the state of the verdict's line, "" without one."""
    report([f"--scores={scores}", f"--output={output}"])
    page = (output / "report.html").read_text()
    start = page.index("a class that predicts nothing counts 0.")
    at = page.find("<strong>Thresholds.</strong>")
    line = page[page.rindex("<li", 0, at) : at] if at >= 0 else ""
    return page[start : page.index("</p>", start)], line


@pytest.mark.parametrize(
    ("chosen_on", "pattern", "flags"),
    [
        ("test", "*.tfrecord", ["--split=test"]),
        ("test", "part02.tfrecord", ["--split=test"]),
        ("test", "*.tfrecord", []),
        ("first", "part00.tfrecord", ["--split=test"]),
    ],
)
def test_thresholds_of_the_same_videos_are_refused(
    chosen_on: str,
    pattern: str,
    flags: list[str],
    score: Callable[..., dict],
    shards: Path,
    by_split: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="chosen on the videos that they are to judge.*--allow_optimistic"):
        score(f"{shards}/{pattern}", f"--thresholds={by_split[chosen_on]}", *flags)
    assert not (tmp_path / "scores").exists()


def test_a_copy_of_a_shard_is_the_same_videos(
    score: Callable[..., dict], shards: Path, by_split: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copyfile(shards / "part02.tfrecord", tmp_path / "renamed.tfrecord")
    with pytest.raises(UsageError, match="renamed.tfrecord is scored in both"):
        score(tmp_path / "renamed.tfrecord", f"--thresholds={by_split['test']}", "--split=test")


@pytest.mark.parametrize("form", ["parquet", "kaggle_csv"])
def test_the_same_videos_in_other_files_are_noticed_by_their_ids(
    form: str,
    score: Callable[..., dict],
    videos: list[list[Video]],
    by_split: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    payloads = [serialise(video) for video in [*videos[1], *videos[0][:7]]]  # 7 of them chose the thresholds
    shard = write_shard(tmp_path / "mixed.tfrecord", payloads)
    info = score(shard, f"--thresholds={by_split['first']}", f"--format={form}")
    assert "warning: 7 of the videos that were scored also chose the thresholds" in capsys.readouterr().err
    assert info["thresholds"]["optimistic"]
    sentence, line = _thresholds_in_words(tmp_path / "scores", tmp_path / "report")
    assert "were chosen on videos that are scored here" in sentence and 'class="attention"' in line


def test_other_videos_are_accepted_and_named(
    score: Callable[..., dict], shards: Path, by_split: dict[str, Path], tmp_path: Path, undrawn: None
) -> None:
    info = score(f"{shards}/*.tfrecord", f"--thresholds={by_split['validate']}", "--split=test")
    labelled = json.loads((by_split["validate"] / "info.json").read_text())["records_labelled"]
    assert info["thresholds"] == {
        "path": str(by_split["validate"]),
        "split": "validate",
        "videos": labelled,
        "optimistic": False,
    }
    sentence, line = _thresholds_in_words(tmp_path / "scores", tmp_path / "report")
    assert f"chosen on the validation split of another run ({by_split['validate']}, {labelled} labelled" in sentence
    assert line == ""
    # Other shards, whatever their split.
    score(f"{shards}/part02.tfrecord", f"--thresholds={by_split['first']}", output=tmp_path / "second")
    sentence, _ = _thresholds_in_words(tmp_path / "second", tmp_path / "report2")
    assert f"chosen on all videos of another run ({by_split['first']}, 40 labelled videos)" in sentence
    assert "validation" not in sentence


def test_the_report_says_when_the_same_videos_were_accepted(
    score: Callable[..., dict], shards: Path, by_split: dict[str, Path], tmp_path: Path, undrawn: None
) -> None:
    info = score(f"{shards}/*.tfrecord", f"--thresholds={by_split['test']}", "--split=test", "--allow_optimistic")
    assert info["thresholds"]["optimistic"]
    sentence, line = _thresholds_in_words(tmp_path / "scores", tmp_path / "report")
    assert "were chosen on videos that are scored here" in sentence and "too good" in sentence
    assert 'class="attention"' in line and "validation split" not in sentence
    kinds = json.loads((tmp_path / "report" / "info.json").read_text())["recommendations"]
    assert "thresholds" not in kinds


def test_a_models_own_thresholds_are_called_so(by_split: dict[str, Path], tmp_path: Path, undrawn: None) -> None:
    sentence, line = _thresholds_in_words(by_split["test"], tmp_path / "report")
    assert "are the model's own, which give the best F1 on the validation split" in sentence.replace("&#39;", "'")
    assert line == ""


def test_scores_of_an_earlier_version_vouch_for_nothing(
    by_split: dict[str, Path], tmp_path: Path, undrawn: None
) -> None:
    scores = shutil.copytree(by_split["test"], tmp_path / "scores")
    info = json.loads((scores / "info.json").read_text())
    del info["thresholds"], info["records_by_split"]
    (scores / "info.json").write_text(json.dumps({**info, "thresholds_from": "/elsewhere"}))
    sentence, _ = _thresholds_in_words(scores, tmp_path / "report")
    assert "those of /elsewhere; on which videos they were chosen is not recorded" in sentence
    assert "validation" not in sentence
