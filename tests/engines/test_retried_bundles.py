"""A bundle that a runner tries again: no record twice, no half file, nothing done that was committed."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import preprocess, score
from pipelines.preprocessing import manifests
from pipelines.scoring import groups
from tests.fixtures.scoring import make_videos, serialise, write_model, write_shard
from vcls_model import storage
from vcls_model.records.listed_shards import MANIFESTS

SHARDS = 3
VIDEOS = 12


@pytest.fixture
def records(tmp_path: Path) -> Path:
    directory = tmp_path / "records"
    for shard in range(SHARDS):
        write_shard(directory / f"{shard}.tfrecord", [serialise(video) for video in make_videos(VIDEOS, shard)])
    (directory / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{index},{index}\n" for index in range(30)))
    return directory


def contents(output: Path, *folders: str) -> dict[str, bytes]:
    """Every file of these folders, temporary ones too."""
    return {
        str(path.relative_to(output)): path.read_bytes() for folder in folders for path in (output / folder).glob("*")
    }


def failing_once(function: Any, calls: list[Any]) -> Any:
    """`function`, but its second call fails as when the worker that makes it dies."""

    def wrapper(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("the worker died here")
        return function(*arguments, **named)

    return wrapper


@pytest.mark.slow
def test_preprocess_again_after_a_worker_died_before_its_manifest(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs of the shard are there, its manifest is not: it is done again, to the same bytes."""
    flags = [f"--input={records}/*.tfrecord", f"--vocabulary={records}/vocabulary.csv", "--direct_num_workers=1"]
    preprocess.run([*flags, f"--output={tmp_path / 'expected'}"])
    calls: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "save_manifest", failing_once(manifests.save_manifest, calls))
        with pytest.raises(RuntimeError, match="the worker died here"):
            preprocess.run([*flags, f"--output={tmp_path / 'out'}"])
    assert len(calls) == 2
    assert not (tmp_path / "out" / "info.json").exists()
    half = tmp_path / "out" / "train" / "train-00002-of-00003.tfrecord.tmp-0123456789ab"
    half.write_bytes(b"half a file of a worker that was killed")
    info = preprocess.run([*flags, f"--output={tmp_path / 'out'}", "--resume"])
    folders = ("train", "validate", "test", "dead_letter")
    assert contents(tmp_path / "out", *folders) == contents(tmp_path / "expected", *folders)
    assert info["records_read"] == info["records_written"] == SHARDS * VIDEOS


@pytest.mark.slow
def test_half_files_are_removed_at_the_end_of_the_same_run(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed worker leaves while another does its work, without any --resume."""
    output = tmp_path / "out"
    save = manifests.save_manifest

    def save_and_litter(*arguments: Any) -> None:
        save(*arguments)
        for folder in ("train", MANIFESTS):
            (output / folder / "00000.tmp-0123456789ab").write_bytes(b"half")

    monkeypatch.setattr(manifests, "save_manifest", save_and_litter)
    preprocess.run([f"--input={records}/*.tfrecord", f"--vocabulary={records}/vocabulary.csv", f"--output={output}"])
    assert not list(output.rglob("*.tmp-*"))


@pytest.mark.slow
def test_score_leaves_out_a_committed_group(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies after the group was committed and before the runner hears of it: the retry reads nothing."""
    from pipelines.scoring import layout, planning
    from pipelines.scoring.steps import ScoreGroups

    model = write_model(tmp_path / "model")
    output = tmp_path / "out"
    flags = [f"--input={records}/*.tfrecord", f"--model={model}", f"--output={output}"]
    seen: list[Any] = []
    commit = groups.GroupScores._commit

    def noting(self: Any, name: str) -> Any:
        seen.append((name, self._config))
        return commit(self, name)

    monkeypatch.setattr(groups.GroupScores, "_commit", noting)
    info = score.run(flags)
    assert info["records_written"] == SHARDS * VIDEOS
    ((name, config),) = seen
    manifest = json.loads(storage.read_bytes(layout.manifest_path(str(output), name)))
    group = planning.Group(
        name, tuple(planning.InputShard(entry["path"], entry["size_bytes"]) for entry in manifest["shards"])
    )
    assert len(group.shards) == SHARDS
    assert list(ScoreGroups(config).read_blocks(group)) == []
    Path(layout.manifest_path(str(output), name)).unlink()
    assert sum(len(block.ids) for (block,) in ScoreGroups(config).read_blocks(group)) == SHARDS * VIDEOS
