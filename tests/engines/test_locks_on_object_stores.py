"""One job at a time writes to an output on an object store, which creates nothing atomically."""

import threading
import time
from pathlib import Path

import pytest

from vcls_model import locks, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.locks import lock_path, locked_output


@pytest.fixture(params=["gs", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An output of its own for each test, on each store; the emulators answer sooner than stores do."""
    monkeypatch.setattr(locks, "_SETTLED_SECONDS", 0.5)
    return f"{request.getfixturevalue(request.param)}/{tmp_path.name}/out"


def left_behind(output: str, **changes: object) -> str:
    """The lock of a job that did not end as it should, changed; returns its address."""
    with locked_output(output, "score", take_over=False):
        content = storage.read_json(lock_path(output))
    storage.write_json(lock_path(output), content | changes)
    return lock_path(output)


def test_a_second_job_is_refused_and_the_lock_lies_beside_the_output(output: str) -> None:
    with locked_output(output, "preprocess", take_over=False):
        assert storage.exists(f"{output}.lock") and not storage.holds_anything(output)
        storage.write_text(f"{output}/train/shard", "x")
        storage.empty_directory(output)  # --overwrite
        assert storage.exists(f"{output}.lock") and not storage.holds_anything(output)
        for take_over in (False, True):
            with (
                pytest.raises(UsageError, match=r"is being written by another job \(preprocess, process \d+ on "),
                locked_output(output, "score", take_over=take_over),
            ):
                pass
    assert not storage.exists(f"{output}.lock")


@pytest.mark.slow
def test_of_jobs_that_begin_at_once_one_writes(output: str) -> None:
    outcomes: list[str] = []
    begin = threading.Barrier(4)

    def job() -> None:
        begin.wait()
        try:
            with locked_output(output, "train", take_over=False):
                outcomes.append("writes")
                time.sleep(4)
        except UsageError:
            outcomes.append("refused")

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "refused", "refused", "writes"]
    assert not storage.exists(lock_path(output))


def test_the_lock_of_a_job_that_has_ended_is_removed_with_a_note(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(output, born=1)  # its number is another process's now
    with locked_output(output, "score", take_over=False):
        assert "note: removing the lock of a job that has ended (score, process" in capsys.readouterr().err
    assert not storage.exists(lock_path(output))


def test_the_lock_of_a_machine_that_is_gone_is_taken_over_when_asked(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_WATCHED_SECONDS", 0.5)
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.2)
    left_behind(output, machine="another", host="node7")
    with (
        pytest.raises(UsageError, match="on node7, .*if that machine is gone, --resume takes over"),
        locked_output(output, "score", take_over=False),
    ):
        pass
    with locked_output(output, "score", take_over=True):
        assert storage.read_json(lock_path(output))["host"] != "node7"


@pytest.mark.slow
def test_the_lock_of_a_machine_that_works_is_respected(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_WATCHED_SECONDS", 20.0)
    path = left_behind(output, machine="another", host="node7")

    def renew() -> None:
        storage.write_json(path, storage.read_json(path) | {"renewed": 7})

    timer = threading.Timer(1.0, renew)
    timer.start()
    with (
        pytest.raises(UsageError, match="is being written by another job .*on node7"),
        locked_output(output, "score", take_over=True),
    ):
        pass
    timer.join()


def test_a_job_whose_lock_another_took_fails_and_leaves_the_others_alone(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 1.0)
    with pytest.raises(JobError, match="another job took over"), locked_output(output, "score", take_over=False):
        path = lock_path(output)
        storage.write_json(path, storage.read_json(path) | {"token": "another"})
        time.sleep(30)  # what the job would go on with
    assert storage.read_json(lock_path(output))["token"] == "another"
