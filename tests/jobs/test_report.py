"""The command line of the report: what it writes, and what it says to bad input."""

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.report import run
from tests.fixtures.scores import vocabulary, write_scores, write_unlabelled
from vcls_model.commands import JobError, UsageError
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.states import REPORT, kind_of


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_every_figure_has_its_picture_and_its_numbers(report_directory: Path):
    info = json.loads((report_directory / "info.json").read_text())
    assert {
        "pr_curves",
        "roc_curves",
        "confusion",
        "calibration",
        "threshold_curves",
        "verticals",
        "changes",
        "frequency_groups",
        "ap_by_examples",
        "training_loss",
        "training_scores",
    } <= set(info["figures"])
    for name in info["figures"]:
        assert (report_directory / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (report_directory / "figures" / f"{name}.svg").read_bytes()
        assert len(_rows(report_directory / "figures" / f"{name}.csv")) >= 2
    for name in info["tables"]:
        assert (report_directory / "tables" / f"{name}.csv").is_file()
    assert info["report_bytes"] == (report_directory / "report.html").stat().st_size
    assert info["verdict"]["state"] == "good"
    assert kind_of(str(report_directory)) == REPORT


def test_tables_hold_what_the_scores_hold(report_directory: Path, scores_directory: Path, baseline_directory: Path):
    ours, theirs = _rows(report_directory / "tables" / "per_class.csv"), _rows(scores_directory / "per_class.csv")
    before = _rows(baseline_directory / "per_class.csv")
    assert [row["name"] for row in ours] == [row["name"].strip() for row in theirs]
    for mine, score, previous in zip(ours, theirs, before, strict=True):
        assert float(mine["ap"]) == float(score["ap"]) and float(mine["support"]) == float(score["support"])
        assert float(mine["ap_change"]) == pytest.approx(float(score["ap"]) - float(previous["ap"]))
    metrics = json.loads((scores_directory / "metrics.json").read_text())
    headline = {row["metric"]: row for row in _rows(report_directory / "tables" / "headline.csv")}
    assert float(headline["gap_at_20"]["value"]) == metrics["gap_at_20"]
    assert float(headline["map"]["low_95"]) == metrics["map_ci_low"]
    assert float(headline["map"]["certified_low"]) == metrics["map_lower"]
    pairs = _rows(report_directory / "tables" / "confused_pairs.csv")
    confusion = [
        row for row in _rows(scores_directory / "confusion.csv") if row["true_index"] != row["predicted_index"]
    ]
    assert len(pairs) == 30
    assert int(pairs[0]["Times"]) == max(int(row["count"]) for row in confusion)


@pytest.mark.slow
def test_the_same_scores_give_the_same_page_and_pictures(
    report_directory: Path, scores_directory: Path, baseline_directory: Path, tmp_path: Path
):
    run([f"--scores={scores_directory}", f"--baseline={baseline_directory}", f"--output={tmp_path / 'again'}"])
    for name in ("report.html", "figures/pr_curves.png", "figures/confusion.svg", "tables/per_class.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (report_directory / name).read_bytes()


def test_unlabelled_records_give_statistics_of_the_predictions(tmp_path: Path):
    scores = write_unlabelled(tmp_path / "scores", videos=50)
    info = run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    html = (tmp_path / "out" / "report.html").read_text()
    assert info["labelled"] is False and info["recommendations"] == []
    assert "no record carried labels" in html and "Recommendations" not in html
    histogram = _rows(tmp_path / "out" / "figures" / "top_probability.csv")
    assert sum(int(row["videos"]) for row in histogram) == 50
    firsts = _rows(tmp_path / "out" / "tables" / "predicted_classes.csv")
    assert sum(int(row["Best class of"]) for row in firsts) == 50


@pytest.mark.usefixtures("undrawn")
def test_unlabelled_kaggle_predictions(tmp_path: Path):
    scores = write_unlabelled(tmp_path / "scores")
    shutil.rmtree(scores / "predictions")
    (scores / "predictions").mkdir()
    (scores / "predictions" / "shard.csv").write_text("VideoId,LabelConfidencePairs\na,3 0.9 1 0.2\nb,1 0.6\nc,\n")
    run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    rows = _rows(tmp_path / "out" / "tables" / "predicted_classes.csv")
    assert {(row["Class"][:7], row["Best class of"], row["Above the threshold"]) for row in rows} == {
        ("Thing 1", "1", "1"),
        ("<script", "1", "1"),
    }


@pytest.mark.usefixtures("undrawn")
def test_a_vocabulary_without_verticals(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=80, class_count=12, verticals=False)
    info = run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    assert "verticals" not in info["figures"] and "confusion" in info["figures"]
    assert "true_class" in _rows(tmp_path / "out" / "figures" / "confusion.csv")[0]


@pytest.mark.usefixtures("undrawn")
def test_several_models_are_held_against_each_other(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=200, class_count=10, skill=1.0)
    aps = [float(row["ap"]) for row in _rows(scores / "per_class.csv")]
    weakest = int(np.argmin(aps))
    (scores / "per_model.csv").write_text(
        "index,first,second\n"
        + "".join(f"{index},{ap},{1.0 if index == weakest else 0.0}\n" for index, ap in enumerate(aps))
    )
    _edit_json(
        scores / "info.json",
        models=[
            {"name": "first", "path": "a", "info": {}, "metrics": {"gap_at_20": 0.5, "map": 0.4}},
            {"name": "second", "path": "b", "info": {}, "metrics": {"gap_at_20": 0.6, "map": None}},
        ],
    )
    info = run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    assert "rival" in info["recommendations"]
    alone = _rows(tmp_path / "out" / "tables" / "models.csv")
    assert [(row["Model"], row["GAP@20"], row["mAP"]) for row in alone[:2]] == [
        ("first", "0.5", "0.4"),
        ("second", "0.6", ""),
    ]
    assert float(alone[2]["mAP"]) == json.loads((scores / "metrics.json").read_text())["map"]
    (scores / "per_model.csv").write_text("index,first\n0,0.5\n")
    with pytest.raises(JobError, match="per_model.csv has 1 classes"):
        run([f"--scores={scores}", f"--output={tmp_path / 'other'}"])


def test_videos_that_carry_no_label_at_all(tmp_path: Path):
    """Labelled, but with an empty list: counts exist, no average precision does."""
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6, only=[])
    info = run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    assert info["labelled"] is True and info["recommendations"] == ["training", "rejected"]
    assert "no curve" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_a_class_that_every_video_carries(tmp_path: Path):
    classes = [ClassInfo(0, "_Always$"), ClassInfo(1, "Never")]
    scores = write_scores(tmp_path / "scores", videos=20, classes=classes, only=[0])
    run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    row = _rows(tmp_path / "out" / "tables" / "per_class.csv")[0]
    assert float(row["ap"]) == 1 and row["roc_auc"] == "" and row["name"] == "_Always$"
    assert b"_Always$" in (tmp_path / "out" / "figures" / "pr_curves.svg").read_bytes()


def test_one_video_and_classes_without_positives(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=1, class_count=6)
    info = run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    assert info["labelled"] is True


def _edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda path: (path / "info.json").unlink(), "no info.json.*--resume", id="half written"),
        pytest.param(lambda path: (path / "metrics.json").unlink(), "lacks metrics.json although 20", id="no metrics"),
        pytest.param(lambda path: (path / "curves.npz").unlink(), "no curves.npz", id="no curves"),
        pytest.param(lambda path: (path / "per_class.csv").unlink(), "no per_class.csv", id="no classes"),
        pytest.param(
            lambda path: _edit_json(path / "info.json", class_count=7),
            "says 7 classes, per_class.csv has 6",
            id="count",
        ),
        pytest.param(
            lambda path: (path / "labels.csv").write_text("index,name\n0,a\n"), "labels.csv has 1 classes", id="labels"
        ),
        pytest.param(lambda path: (path / "metrics.json").write_text("{"), "metrics.json is not JSON", id="not JSON"),
        pytest.param(
            lambda path: (path / "per_class.csv").write_text("index,name\n0,a\n"),
            "lacks the columns support",
            id="columns",
        ),
        pytest.param(
            lambda path: (path / "confusion.csv").write_text("true_index,predicted_index,count\n9,0,1\n"),
            "names a class outside 0 … 5",
            id="confusion",
        ),
        pytest.param(lambda path: shutil.rmtree(path), "there is no scores directory", id="absent"),
        pytest.param(
            lambda path: (path / "curves.npz").write_bytes(b"PK"), "curves.npz is not an npz.*score again", id="npz"
        ),
        pytest.param(
            lambda path: (path / "per_class.csv").write_bytes(b"index\xff"), "per_class.csv is not UTF-8", id="encoding"
        ),
        pytest.param(
            lambda path: (path / "predictions" / "shard-0.parquet").write_bytes(b"PAR"),
            "cannot be read as Parquet",
            id="parquet",
        ),
    ],
)
def test_a_scores_directory_that_cannot_be_reported(change: Callable[[Path], None], message: str, tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    change(scores)
    with pytest.raises(JobError, match=message):
        run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_baseline_of_another_vocabulary(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    renamed = [ClassInfo(2, "Other") if entry.index == 2 else entry for entry in vocabulary(6)]
    for name, classes, message in (
        ("fewer", vocabulary(5), "has 5 classes.*has 6"),
        ("renamed", renamed, "class 2 is 'Other'"),
    ):
        baseline = write_scores(tmp_path / name, videos=20, classes=classes)
        with pytest.raises(JobError, match=message):
            run([f"--scores={scores}", f"--baseline={baseline}", f"--output={tmp_path / 'out'}"])


def test_a_baseline_without_labels(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    baseline = write_unlabelled(tmp_path / "previous", class_count=6)
    with pytest.raises(JobError, match="no metrics"):
        run([f"--scores={scores}", f"--baseline={baseline}", f"--output={tmp_path / 'out'}"])


def test_a_model_that_does_not_belong_to_the_scores(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    model = tmp_path / "model"
    (model / "saved_model").mkdir(parents=True)
    with pytest.raises(UsageError, match="model directory .* has no info.json: it is missing or incomplete"):
        run([f"--scores={scores}", f"--model={model}", f"--output={tmp_path / 'out'}"])
    for name in ("labels.csv", "saved_model/saved_model.pb"):
        (model / name).write_text("")
    (model / "info.json").write_text('{"class_count": 9, "schema": {}}')
    with pytest.raises(JobError, match="has 9 classes"):
        run([f"--scores={scores}", f"--model={model}", f"--output={tmp_path / 'out'}"])


@pytest.mark.usefixtures("undrawn")
def test_output_in_use_is_refused_and_replaced_only_when_the_report_can_be_made(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    output = tmp_path / "out"
    output.mkdir()
    (output / "old.txt").write_text("old")
    with pytest.raises(UsageError, match="not empty"):
        run([f"--scores={scores}", f"--output={output}"])
    with pytest.raises(JobError):
        run([f"--scores={tmp_path / 'absent'}", f"--output={output}", "--overwrite"])
    assert (output / "old.txt").exists()
    run([f"--scores={scores}", f"--output={output}", "--overwrite"])
    assert not (output / "old.txt").exists() and (output / "report.html").exists()


def test_overwrite_never_deletes_an_input(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    for output in (scores, tmp_path):
        with pytest.raises(UsageError, match="holds the input"):
            run([f"--scores={scores}", f"--output={output}", "--overwrite"])
    assert (scores / "info.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scorse=x"], "did you mean --scores"),
        (["--require=map"], "METRIC=NUMBER"),
        (["--classes=1,2,3,4,5"], "at most four"),
        (["--classes=Nothing alike"], "unknown class"),
    ],
)
def test_wrong_usage(flags: list[str], message: str, tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=20, class_count=6)
    with pytest.raises(UsageError, match=message):
        run([f"--scores={scores}", f"--output={tmp_path / 'out'}", *flags])


def test_help_answers_at_once():
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipelines.report", "--help"], check=True, capture_output=True)
    assert time.monotonic() - started < 2


@pytest.mark.slow
def test_a_report_loads_neither_beam_nor_tensorflow(tmp_path: Path):
    scores = write_unlabelled(tmp_path / "scores")
    code = (
        "import sys; from pipelines.report import run; run(sys.argv[1:]); "
        "assert not {'apache_beam', 'tensorflow', 'keras', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, f"--scores={scores}", f"--output={tmp_path / 'out'}"], check=True)
