"""What users get wrong, and what is wrong with what they get: each a clear result or a clear error."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.scoring import blocks
from pipelines.scoring.config import ScoringConfig
from pipelines.scoring.planning import InputShard
from tests.conftest import ROOT
from tests.fixtures.scoring import CLASSES, make_videos, serialise, write_model, write_shard
from vcls_model.commands import JobError, UsageError
from vcls_model.records.schema import Modality, RecordSchema, schema_by_name


def dead_letters(scores: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted((scores / "dead_letter").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def reconciles(info: dict) -> bool:
    return info["records_read"] == info["records_written"] + info["records_rejected"] and info[
        "records_rejected"
    ] == sum(info["rejected_by_reason"].values())


def test_missing_glob(score: Callable[..., dict], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file matches .*nothing"):
        score(tmp_path / "nothing*.tfrecord")


def test_empty_file(score: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    info = score(tmp_path / "empty.tfrecord")
    assert info["records_read"] == 0 and info["shards"] == 1 and reconciles(info)
    assert "no record" in capsys.readouterr().err


def test_not_a_tfrecord(score: Callable[..., dict], tmp_path: Path) -> None:
    (tmp_path / "notes.tfrecord").write_text("these are my notes, not records\n" * 50)
    with pytest.raises(JobError, match="1 of 1 records were rejected, 100.00%.*not_tfrecord"):
        score(tmp_path / "notes.tfrecord")
    assert [letter["error"] for letter in dead_letters(tmp_path / "scores")] == ["not_tfrecord"]


def test_truncated_shard(
    score: Callable[..., dict], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (shards / "part00.tfrecord").read_bytes()
    (tmp_path / "cut.tfrecord").write_bytes(data[:-100])
    info = score(tmp_path / "cut.tfrecord", "--max_rejected_fraction=0.1")
    assert (info["records_written"], info["rejected_by_reason"]) == (39, {"truncated": 1})
    assert reconciles(info)
    assert "warning: input that ends too early" in capsys.readouterr().err


def test_unusable_records(score: Callable[..., dict], tmp_path: Path) -> None:
    """A missing feature, a wrong width: each rejected; a label beyond the classes is left out; the rest is scored."""
    videos = make_videos(10, 60)
    videos[2].mean_rgb = videos[2].mean_rgb[:1000]
    videos[5].labels = [3, CLASSES]
    payloads = [serialise(video) for video in videos]
    payloads[7] = payloads[7].replace(b"mean_audio", b"mean_smell")
    shard = write_shard(tmp_path / "some.tfrecord", payloads)
    with pytest.raises(JobError, match="2 of 10 records were rejected"):
        score(shard)
    info = score(shard, "--resume", "--max_rejected_fraction=0.5")
    assert info["records_written"] == 8 and info["labels_unknown"] == 1 and reconciles(info)
    letters = {letter["id"]: letter for letter in dead_letters(tmp_path / "scores")}
    assert set(letters) == {videos[row].id.decode() for row in (2, 7)}
    assert all(letter["offset"] > 0 and letter["shard"] == str(shard) for letter in letters.values())


def test_nan_logits(score: Callable[..., dict], tmp_path: Path) -> None:
    model = write_model(tmp_path / "nan", nan_below=-1.0)
    videos = make_videos(50, 61)
    bad = {video.id.decode() for video in videos if video.mean_rgb[0] < -1}
    assert 0 < len(bad) < 25
    info = score(
        write_shard(tmp_path / "a.tfrecord", [serialise(video) for video in videos]),
        "--max_rejected_fraction=0.5",
        models=[model],
    )
    assert info["rejected_by_reason"] == {"nan_logits": len(bad)} and reconciles(info)
    assert {letter["id"] for letter in dead_letters(tmp_path / "scores")} == bad
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["videos"] == 50 - len(bad)


def test_model_that_does_not_fit(score: Callable[..., dict], shards: Path, tmp_path: Path, model: Path) -> None:
    frames = write_model(tmp_path / "frames", schema=schema_by_name("yt8m-frame"))
    with pytest.raises(UsageError, match=r"does not fit.*rgb\[1024\] \+ audio\[128\] \(frame-level\).*mean_rgb\[1024"):
        score(f"{shards}/*.tfrecord", models=[frames])
    with pytest.raises(UsageError, match="cannot be averaged"):
        score(f"{shards}/*.tfrecord", models=[model, frames])
    wide = RecordSchema("own", "example", "id", "labels", (Modality("mean_rgb", 2048, "vector", "float32"),), CLASSES)
    other = shutil.copytree(model, tmp_path / "wide")
    info = json.loads((other / "info.json").read_text())
    (other / "info.json").write_text(json.dumps({**info, "schema": wide.to_dict()}))
    with pytest.raises(UsageError, match=r"mean_rgb\[2048\]"):
        score(f"{shards}/*.tfrecord", models=[other])


def test_models_of_other_class_counts(score: Callable[..., dict], shards: Path, tmp_path: Path, model: Path) -> None:
    other = write_model(tmp_path / "other", classes=CLASSES + 1)
    with pytest.raises(UsageError, match="has 30 classes, .* has 31"):
        score(f"{shards}/*.tfrecord", models=[model, other])


@pytest.mark.parametrize("missing", ["info.json", "labels.csv", "saved_model/saved_model.pb"])
def test_half_written_model(
    score: Callable[..., dict], shards: Path, tmp_path: Path, model: Path, missing: str
) -> None:
    half = shutil.copytree(model, tmp_path / "half")
    (half / missing).unlink()
    with pytest.raises(UsageError, match=f"has no {missing}: it is missing or incomplete"):
        score(f"{shards}/*.tfrecord", models=[half])
    assert not (tmp_path / "scores").exists()


def test_vocabulary_that_does_not_match(score: Callable[..., dict], shards: Path, tmp_path: Path, model: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    lines = (other / "labels.csv").read_text().splitlines()
    (other / "labels.csv").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(UsageError, match="labels.csv has 28 classes, info.json says 30"):
        score(f"{shards}/*.tfrecord", models=[other])


def test_model_whose_graph_contradicts_its_info(
    score: Callable[..., dict], shards: Path, tmp_path: Path, model: Path
) -> None:
    other = write_model(tmp_path / "other", classes=CLASSES)
    shutil.rmtree(other / "saved_model")
    shutil.copytree(write_model(tmp_path / "more", classes=CLASSES + 2) / "saved_model", other / "saved_model")
    with pytest.raises(UsageError, match="gives 32 logits per record, its info.json says 30 classes"):
        score(f"{shards}/part03.tfrecord", models=[other])


def test_split_needs_a_hash_or_a_list(score: Callable[..., dict], shards: Path, tmp_path: Path) -> None:
    given = write_model(tmp_path / "given", split={"method": "given", "ratios": None})
    with pytest.raises(UsageError, match="does not say which ids are in which split"):
        score(f"{shards}/*.tfrecord", "--split=test", models=[given])


@pytest.mark.parametrize(
    "flag",
    [
        "--top_k=0",
        "--threshold=1.5",
        "--batch_size=0",
        f"--batch_size={10**20}",
        "--max_rejected_fraction=2",
        "--max_frames=0",
        f"--max_frames={10**20}",
        "--seconds_per_minute=inf",
        f"--memory_mb={10**20}",
        "--min_probability=1.5",
    ],
)
def test_values_out_of_range(score: Callable[..., dict], shards: Path, flag: str) -> None:
    with pytest.raises(UsageError, match=flag.split("=")[0]):
        score(f"{shards}/*.tfrecord", flag)


@pytest.mark.slow
def test_misspelt_flag_as_a_program(shards: Path, model: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipelines.score",
            f"--input={shards}/*.tfrecord",
            f"--model={model}",
            f"--output={tmp_path / 'out'}",
            "--treshold=0.4",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "did you mean --threshold?" in result.stderr and "Traceback" not in result.stderr


def test_ids_are_shown_whatever_they_hold(score: Callable[..., dict], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    videos = make_videos(3, 62)
    videos[0].id, videos[1].id, videos[2].id = b"\xff\xfe", 'ü,"x'.encode(), b"plain"
    score(write_shard(tmp_path / "a.tfrecord", [serialise(video) for video in videos]))
    (path,) = (tmp_path / "scores" / "predictions").iterdir()
    assert pq.read_table(path)["id"].to_pylist() == ["\\xff\\xfe", 'ü,"x', "plain"]


def test_one_video(score: Callable[..., dict], shards: Path, tmp_path: Path) -> None:
    info = score(f"{shards}/part03.tfrecord")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert info["records_written"] == metrics["videos"] == 1
    assert np.isfinite(metrics["gap_at_20"])


def test_a_shard_that_grows_while_it_is_read_ends_the_job(
    score: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shard(tmp_path / "in.tfrecord", [serialise(video) for video in make_videos(5, 0)])
    content, read = path.read_bytes(), blocks._read_records

    def growing(shard: InputShard, config: ScoringConfig) -> Iterator[Any]:
        yield from read(shard, config)
        with open(path, "ab") as stream:
            stream.write(content)

    monkeypatch.setattr(blocks, "_read_records", growing)
    with pytest.raises(JobError, match=f"in.tfrecord changed while it was read: it had {len(content):,} bytes when"):
        score(path)
    assert not list((tmp_path / "scores" / "state").glob("*.manifest.json"))
    monkeypatch.undo()
    assert score(path, "--resume")["records_read"] == 10
