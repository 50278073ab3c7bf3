"""Runs that follow one another: workers, nightly runs, kills, resumption, output directories in use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.scoring import groups
from pipelines.scoring.blocks import ScoredBlock
from tests.conftest import ROOT
from tests.fixtures.scoring import make_videos, serialise, write_shard
from vcls_model.commands import JobError, UsageError

METRIC_FILES = ("metrics.json", "per_class.csv", "confusion.csv", "examples.json", "labels.csv", "history.csv")


def contents(scores: Path) -> dict[str, bytes]:
    """Everything that a scores directory holds for its readers, but for info.json."""
    files = [scores / name for name in METRIC_FILES] + sorted((scores / "predictions").iterdir())
    return {path.name: path.read_bytes() for path in files}


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory, shards: Path, model: Path) -> Path:
    """One run over all five shards with one worker."""
    from pipelines.score import run

    output = tmp_path_factory.mktemp("once") / "scores"
    run([f"--input={shards}/*.tfrecord", f"--model={model}", f"--output={output}", "--direct_num_workers=1"])
    return output


def test_any_number_of_workers_and_groups(
    score: Callable[..., dict], shards: Path, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.scoring import planning

    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    monkeypatch.setattr(planning, "VIDEO_GROUP_BYTES", 300_000)
    score(f"{shards}/*.tfrecord", "--direct_num_workers=3")
    assert len(list((tmp_path / "scores" / "state").glob("*.manifest.json"))) >= 3
    assert contents(tmp_path / "scores") == contents(at_once)


@pytest.mark.slow
def test_nightly_runs_equal_one_run(score: Callable[..., dict], shards: Path, at_once: Path, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    scores = tmp_path / "scores"
    landing.mkdir()
    sources = sorted(shards.glob("*.tfrecord"))
    for night, arrived in enumerate((sources[:2], sources[2:3], sources[3:])):
        for source in arrived:
            os.link(source, landing / source.name)
        before = modified(scores / "predictions") if night else {}
        info = score(f"{landing}/*.tfrecord", f"--run_id=night-{night}")
        again = score(f"{landing}/*.tfrecord", f"--run_id=night-{night}")  # the scheduler calls once more
        assert {**again, "wall_seconds": 0} == {**info, "wall_seconds": 0}
        assert info["runs"][f"night-{night}"]["shards"] == len(arrived)
        after = modified(scores / "predictions")
        assert {name: after[name] for name in before} == before  # what was scored is not scored again
    assert info["records_read"] == info["records_written"] == 159
    ours, expected = contents(scores), contents(at_once)
    assert {name: ours[name] for name in METRIC_FILES} == {name: expected[name] for name in METRIC_FILES}


def test_failure_in_between_is_made_up_for(
    score: Callable[..., dict], shards: Path, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.scoring import planning

    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    monkeypatch.setattr(planning, "VIDEO_GROUP_BYTES", 150_000)
    commit = groups.GroupScores._commit
    committed = []

    def failing(self: groups.GroupScores, name: str) -> dict:
        if len(committed) == 2:
            raise OSError("no space left on device")
        committed.append(self)
        return commit(self, name)

    monkeypatch.setattr(groups.GroupScores, "_commit", failing)
    with pytest.raises(Exception, match="no space left"):
        score(f"{shards}/*.tfrecord")
    scores = tmp_path / "scores"
    assert not (scores / "info.json").exists()
    done = [
        shard["path"]
        for path in (scores / "state").glob("*.manifest.json")
        for shard in json.loads(path.read_text())["shards"]
    ]
    assert len(done) in range(1, 5)
    before = modified(scores / "state")
    monkeypatch.setattr(groups.GroupScores, "_commit", commit)
    with pytest.raises(UsageError, match="--resume"):
        score(f"{shards}/*.tfrecord")
    score(f"{shards}/*.tfrecord", "--resume")
    after = modified(scores / "state")
    assert all(after[name] == when for name, when in before.items() if name.endswith(("manifest.json", ".metrics")))
    assert contents(scores) == contents(at_once)


def test_a_group_is_committed_in_parts(
    score: Callable[..., dict], shards: Path, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is killed in the middle of a large group repeats the shards since its last part alone."""
    monkeypatch.setattr(groups, "PART_SECONDS", 0.0)
    monkeypatch.setattr(groups, "_PART_COSTS", 0)
    add, ended = groups.GroupScores.add, []

    def dying(self: groups.GroupScores, scored: ScoredBlock) -> object:
        if len(ended) == 3:
            raise OSError(28, "No space left on device")
        if scored.block.ends_shard:
            ended.append(scored.block.shard.name)
        return add(self, scored)

    monkeypatch.setattr(groups.GroupScores, "add", dying)
    with pytest.raises(JobError, match="--resume continues"):
        score(f"{shards}/*.tfrecord")
    monkeypatch.setattr(groups.GroupScores, "add", add)
    assert len(list((tmp_path / "scores" / "state").glob("*.manifest.json"))) == 3
    plan = score(f"{shards}/*.tfrecord", "--resume", "--dry_run")
    assert plan["shards_left"] == 2
    info = score(f"{shards}/*.tfrecord", "--resume")
    assert info["shards"] == 5
    assert contents(tmp_path / "scores") == contents(at_once)


@pytest.mark.slow
def test_killed_run_resumes(shards: Path, model: Path, at_once: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    slow = (
        "import time, sys; from pipelines.scoring import groups as g, planning as p\n"
        "p.SMALL_BYTES, p.VIDEO_GROUP_BYTES = 0, 150_000\n"
        "commit = g.GroupScores._commit\n"
        "g.GroupScores._commit = lambda self, name: (commit(self, name), time.sleep(60))[0]\n"
        "from pipelines.score import run; run(sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        slow,
        f"--input={shards}/*.tfrecord",
        f"--model={model}",
        f"--output={scores}",
        "--direct_num_workers=1",
        "--run_id=tonight",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while not list(scores.glob("state/*.manifest.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    from pipelines.score import run

    assert len(list(scores.glob("state/*.manifest.json"))) == 1
    first = modified(scores / "state")
    run([*command[3:]])
    after = modified(scores / "state")
    assert all(after[name] == when for name, when in first.items() if name not in ("settings.json", "progress"))
    assert contents(scores) == contents(at_once)


# A job whose machine dies as the last step of writing a file, before or after it, for the given time.
_DYING = """
import os, signal, sys
from pipelines.scoring import groups
groups.PART_SECONDS, groups._PART_COSTS = 0.0, 0
replace, named = os.replace, []
def dying(source, target):
    named.extend([target] if {part!r} in str(target) else [])
    last = {part!r} in str(target) and len(named) == {number}
    if not (last and {before}):
        replace(source, target)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
from pipelines.score import run
run(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "number", "before", "committed"),
    [
        ("/predictions/", 1, True, 0),
        ("/predictions/", 2, False, 1),
        (".manifest.json", 3, True, 2),
        (".manifest.json", 3, False, 3),
        ("/predictions/", 5, False, 4),
        ("/metrics.json", 1, True, 5),
    ],
)
def test_a_job_killed_anywhere_repeats_one_shard_at_most(
    part: str,
    number: int,
    before: bool,
    committed: int,
    score: Callable[..., dict],
    shards: Path,
    model: Path,
    at_once: Path,
    tmp_path: Path,
) -> None:
    """Where every shard ends a part; otherwise a part is what ten seconds or more took."""
    scores = tmp_path / "scores"
    flags = [f"--input={shards}/*.tfrecord", f"--model={model}", f"--output={scores}", "--direct_num_workers=1"]
    code = _DYING.format(part=part, number=number, before=before)
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    written = len(list((scores / "predictions").glob("*.parquet")))
    first = modified(scores / "state")
    finished = [name for name in first if name.endswith(".manifest.json")]
    assert len(finished) == committed and written - committed in (0, 1)
    assert score(f"{shards}/*.tfrecord", "--resume", "--dry_run")["shards_left"] == 5 - committed
    score(f"{shards}/*.tfrecord", "--resume")
    after = modified(scores / "state")
    assert all(after[name] == first[name] for name in finished)
    assert contents(scores) == contents(at_once)


def test_a_run_that_continues_is_unfinished_until_its_end(
    score: Callable[..., dict], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader never finds the old info.json beside new groups; a run that is refused leaves everything as it was."""
    info = tmp_path / "scores" / "info.json"
    landing = tmp_path / "landing"
    landing.mkdir()
    shutil.copy(shards / "part03.tfrecord", landing)
    score(f"{landing}/*.tfrecord")
    finished = info.read_bytes()
    shutil.copy(shards / "part04.tfrecord", landing)
    score(f"{landing}/*.tfrecord", "--resume", "--dry_run")
    with pytest.raises(UsageError, match="other settings"):
        score(f"{landing}/*.tfrecord", "--resume", "--top_k=3")
    (landing / "part03.tfrecord").write_bytes(b"changed")
    with pytest.raises(UsageError, match="--overwrite"):
        score(f"{landing}/*.tfrecord", "--resume")
    assert info.read_bytes() == finished
    shutil.copy(shards / "part03.tfrecord", landing)
    there = []
    commit = groups.GroupScores._commit

    def looking(self: groups.GroupScores, name: str) -> dict | None:
        there.append(info.exists())
        return commit(self, name)

    monkeypatch.setattr(groups.GroupScores, "_commit", looking)
    assert score(f"{landing}/*.tfrecord", "--resume")["shards"] == 2
    assert there == [False]
    assert info.exists()


def test_output_in_use_is_refused(score: Callable[..., dict], shards: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        score(f"{shards}/part03.tfrecord")
    with pytest.raises(UsageError, match="holds no score job"):
        score(f"{shards}/part03.tfrecord", "--run_id=night")
    assert (tmp_path / "scores" / "thesis.tex").read_text() == "years of work"


def test_overwrite_spares_the_inputs(model: Path, shards: Path, tmp_path: Path) -> None:
    from pipelines.score import run

    copied, kept = tmp_path / "records", tmp_path / "model"
    shutil.copytree(shards, copied)
    shutil.copytree(model, kept)
    for output in (copied, tmp_path, kept):
        with pytest.raises(UsageError, match="holds the input"):
            run([f"--input={copied}/part03.tfrecord", f"--model={kept}", f"--output={output}", "--overwrite"])
    assert (copied / "part03.tfrecord").exists() and (kept / "info.json").exists()


def test_other_settings_or_models_are_not_mixed(score: Callable[..., dict], shards: Path, second_model: Path) -> None:
    score(f"{shards}/part03.tfrecord", "--run_id=a")
    with pytest.raises(UsageError, match=r"--top_k was 20, is now 5"):
        score(f"{shards}/part0[34].tfrecord", "--run_id=b", "--top_k=5")
    with pytest.raises(UsageError, match="other settings: --model was"):
        score(f"{shards}/part0[34].tfrecord", "--run_id=b", models=[second_model])
    info = score(f"{shards}/part03.tfrecord", "--overwrite", models=[second_model])
    assert info["records_written"] == 1


def test_changed_shard_is_refused(score: Callable[..., dict], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "in" / "a.tfrecord", [serialise(video) for video in make_videos(3, 50)])
    score(shard, "--run_id=a")
    write_shard(shard, [serialise(video) for video in make_videos(4, 51)])
    with pytest.raises(UsageError, match="a.tfrecord has .* bytes but had"):
        score(shard, "--run_id=a")


def test_dry_run_writes_nothing(
    score: Callable[..., dict], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = score(f"{shards}/*.tfrecord", "--dry_run")
    assert plan["shards_left"] == 5
    assert "score 5 of 5 shards" in capsys.readouterr().out
    assert not (tmp_path / "scores").exists()


def test_model_is_loaded_once_a_process(
    score: Callable[..., dict], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.scoring import planning
    from vcls_model.serving import exported

    monkeypatch.setattr(planning, "SMALL_BYTES", 0)
    loads = []
    init = exported.LoadedModel.__init__

    def counting(self: exported.LoadedModel, path: str, class_count: int) -> None:
        loads.append(path)
        init(self, path, class_count)

    monkeypatch.setattr(exported.LoadedModel, "__init__", counting)
    score(f"{shards}/*.tfrecord", "--direct_num_workers=2")
    assert len(loads) == 1


def test_ids_that_come_twice_are_told_whatever_runs_scored_them(
    score: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landing, scores = tmp_path / "landing", tmp_path / "scores"
    ten, twenty = make_videos(10, 0), make_videos(20, 1)
    write_shard(landing / "a.tfrecord", [serialise(video) for video in [*ten, ten[3]]])
    first = score(f"{landing}/*.tfrecord", "--run_id=one")
    assert first["ids_repeated"] == 1
    assert "warning: 1 records have the id of another one; each was scored" in capsys.readouterr().err
    write_shard(landing / "b.tfrecord", [serialise(video) for video in [*twenty, *ten[:4]]])
    assert score(f"{landing}/*.tfrecord", "--run_id=two")["ids_repeated"] == 5
    capsys.readouterr()
    assert score(f"{landing}/*.tfrecord", "--run_id=two")["ids_repeated"] == 5
    assert "warning: 5 records have the id of another one" in capsys.readouterr().err
    one, two = sorted((scores / "state").glob("*.ids"))
    kept = one.read_bytes()
    one.write_bytes(kept[:-8])
    with pytest.raises(JobError, match=f"{one.name} is missing or damaged; score again with --overwrite"):
        score(f"{landing}/*.tfrecord", "--run_id=two")
    one.write_bytes(kept)
    # What 0.1 scored holds no hashes.
    manifest = next((scores / "state").glob(f"{two.stem}.manifest.json"))
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "ids"}))
    two.unlink()
    assert score(f"{landing}/*.tfrecord", "--run_id=two")["ids_repeated"] in (0, 1)
