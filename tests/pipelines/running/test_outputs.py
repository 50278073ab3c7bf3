"""Output directories: what may be continued, what a refusal says, and when too much was rejected."""

import json
import time
from pathlib import Path

import pytest

from pipelines.running import outputs
from vcls_model import storage
from vcls_model.commands import JobError, UsageError

SETTINGS = {"form": "parquet", "top_k": 20, "slice_by": None, "schema": {"name": "a", "modalities": [{"width": 4}]}}


def open_output(directory: Path, settings: dict, **flags: bool) -> None:
    outputs.open_output(
        str(directory),
        "state/settings.json",
        settings,
        job="score",
        options={"form": "--format"},
        **{"resume": False, "overwrite": False, **flags},
    )


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    open_output(tmp_path / "out", SETTINGS)
    return tmp_path / "out"


def test_the_settings_are_stored_and_the_same_ones_continue(begun: Path) -> None:
    assert json.loads((begun / "state" / "settings.json").read_text()) == SETTINGS
    open_output(begun, SETTINGS, resume=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"form": "kaggle_csv"}, "--format was parquet, is now kaggle_csv"),
        ({"top_k": 5, "form": "csv"}, "--format was parquet, is now csv; --top_k was 20, is now 5"),
        ({"slice_by": ["country", "year"]}, "--slice_by was not set, is now country,year"),
        ({"form": "x" * 90}, "--format changed"),
        (
            {"schema": {"name": "b", "modalities": [{"width": 5}]}},
            "modalities of --schema changed; name of --schema was a, is now b",
        ),
    ],
)
def test_a_refusal_says_which_options_differ(begun: Path, changed: dict, message: str) -> None:
    with pytest.raises(UsageError, match=f"begun with other settings: {message}\\. Repeat the earlier settings"):
        open_output(begun, {**SETTINGS, **changed}, resume=True)


def test_only_the_output_of_such_a_job_is_continued(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds no score job to continue"):
        open_output(tmp_path, SETTINGS, resume=True)
    with pytest.raises(UsageError, match="is not empty"):
        open_output(tmp_path, SETTINGS)
    open_output(tmp_path, SETTINGS, overwrite=True, dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_others_and_temporaries_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a", "b", "a.tmp-0123456789ab"):
        (tmp_path / "train" / name).write_text("x")
    outputs.clear_temporaries(str(tmp_path), ["train", "absent"])
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["a", "b"]
    outputs.delete_others(str(tmp_path), "train", {"b", "c"})
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["b"]


def test_too_many_rejected_is_an_error_with_the_way_on(capsys: pytest.CaptureFixture) -> None:
    outputs.check_rejected("out", 100, {"no_labels": 1}, 0.01, 1)
    assert capsys.readouterr().err == ""
    with pytest.raises(
        JobError,
        match=r"^3 of 1,200 records were rejected, 0\.25%, more than --max_rejected_fraction=0\.002 allows "
        r"\(truncated: 2, no_labels: 1\); see out/dead_letter\. The usable .* --resume with a higher fraction",
    ):
        outputs.check_rejected("out", 1200, {"no_labels": 1, "truncated": 2}, 0.002, 3)
    assert "2 files" in capsys.readouterr().err


def test_too_many_rejected_shows_the_first(tmp_path: Path) -> None:
    letter = {"shard": "in/x.csv", "offset": 3, "error": "wrong_type", "message": "labels: expected 1, got '.7'"}
    storage.write_text(str(tmp_path / "dead_letter" / "a.jsonl"), storage.to_json(letter) + "\n")
    with pytest.raises(JobError, match=r"\(wrong_type: 1; the first is in/x.csv, line 3: labels: .* '.7'\); see "):
        outputs.check_rejected(str(tmp_path), 20, {"wrong_type": 1}, 0.01, 8)
    letter = {**letter, "shard": "in/x.tfrecord", "offset": 800}
    storage.write_text(str(tmp_path / "dead_letter" / "a.jsonl"), storage.to_json(letter) + "\n")
    with pytest.raises(JobError, match=r"nothing left \(wrong_type: 1; the first is in/x.tfrecord, byte 800: labels"):
        outputs.check_any_written(str(tmp_path), 0, {"wrong_type": 1}, "nothing left")


def test_files_that_are_not_records_fail_the_job_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    letter = {"shard": "in/x.tfrecord", "error": "not_tfrecord", "message": "not a TFRecord file: it looks like JSON"}
    storage.write_text(str(tmp_path / "dead_letter" / "a.jsonl"), storage.to_json(letter) + "\n")
    with pytest.raises(JobError, match="1 file is not records as a whole: in/x.tfrecord is not a .* JSON.*=0.13 "):
        outputs.check_rejected(str(tmp_path), 2000, {"not_tfrecord": 1}, 0.01, 8)
    outputs.check_rejected(str(tmp_path), 2000, {"not_tfrecord": 1}, 0.13, 8)
    assert "warning: 1 file is not records as a whole: in/x.tfrecord" in capsys.readouterr().err


def test_the_head_of_info_reconciles() -> None:
    head = outputs.info_head(5, {"b": 2, "a": 1}, time.monotonic() - 2)
    assert (head["records_read"], head["records_written"], head["records_rejected"]) == (8, 5, 3)
    assert list(head["rejected_by_reason"]) == ["a", "b"] and 2 <= head["wall_seconds"] < 60
    assert {"video-classification", "python", "apache-beam"} <= set(head["versions"])
