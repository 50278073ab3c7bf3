"""One job at a time writes to an output directory."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vcls_model import locks, output_directories, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.locks import lock_path, locked_output

_HOLD = """
import sys, time
from vcls_model.locks import locked_output
with locked_output(sys.argv[1], "train", take_over=False):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(directory: Path) -> subprocess.Popen:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(directory)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_a_second_job_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    try:
        for take_over in (False, True):
            with (
                pytest.raises(UsageError, match=rf"another job \(train, process {process.pid} on .*, since .*\)"),
                locked_output(str(tmp_path / "out"), "train", take_over=take_over),
            ):
                pass
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_job_is_removed_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(tmp_path / "out")
    process.kill()
    process.wait()
    assert os.path.exists(lock_path(str(tmp_path / "out")))
    with locked_output(str(tmp_path / "out"), "train", take_over=True):
        assert f"a job that has ended (train, process {process.pid} on" in capsys.readouterr().err
    assert not os.path.exists(lock_path(str(tmp_path / "out")))


def test_the_lock_of_the_root_is_not_in_the_working_directory() -> None:
    assert lock_path("/") == "/.vcls-lock"
    assert lock_path("s3://bucket/a/") == "s3://bucket/a.lock"


def test_a_number_that_another_process_has_now_does_not_hold_a_lock(tmp_path: Path) -> None:
    with locked_output(str(tmp_path), "score", take_over=False):
        content = storage.read_json(lock_path(str(tmp_path)))
    content["born"] -= 1  # this process's number, of an earlier process
    Path(lock_path(str(tmp_path))).write_text(storage.to_json(content))
    with locked_output(str(tmp_path), "score", take_over=False):
        pass


@pytest.mark.parametrize("works", [True, False])
def test_a_lock_of_another_machine_is_watched(works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_WATCHED_SECONDS", 0.4)
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.1)
    with locked_output(str(tmp_path), "score", take_over=False):
        content = storage.read_json(lock_path(str(tmp_path))) | {"machine": "another", "host": "node7", "token": "x"}
    Path(lock_path(str(tmp_path))).write_text(storage.to_json(content))
    with (
        pytest.raises(UsageError, match="on node7, .*if that machine is gone, --resume takes over"),
        locked_output(str(tmp_path), "score", take_over=False),
    ):
        pass
    if not works:
        with locked_output(str(tmp_path), "score", take_over=True):
            pass
        return
    read = locks._Holder.read.__func__
    renewals = iter(range(1, 1000))

    def renewed(cls: type, path: str) -> object:
        holder = read(cls, path)
        return holder if holder is None else locks.dataclasses.replace(holder, renewed=next(renewals))

    monkeypatch.setattr(locks._Holder, "read", classmethod(renewed))
    with (
        pytest.raises(UsageError, match="is being written by another job"),
        locked_output(str(tmp_path), "score", take_over=True),
    ):
        pass


def test_a_job_that_lost_its_lock_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_RENEWED_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(JobError, match="took over"), locked_output(str(tmp_path), "score", take_over=False):
        path = lock_path(str(tmp_path))
        Path(path).write_text(storage.to_json(storage.read_json(path) | {"token": "another"}))
        time.sleep(30)  # what the job would go on with, beside the other
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"pid": "../../etc"}', "a link to nothing", "a directory", "a pipe"]
)
def test_what_is_no_lock_is_named(content: bytes | str, tmp_path: Path) -> None:
    """A link to nothing neither exists nor can be made."""
    path = tmp_path / storage.LOCK_NAME
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "a directory":
        path.mkdir()
    elif content == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nothing")
    for take_over in (False, True):
        with (
            pytest.raises(UsageError, match=f"{path} is a damaged lock: delete it when no job writes there"),
            locked_output(str(tmp_path), "score", take_over=take_over),
        ):
            pass
    assert os.listdir(tmp_path) == [storage.LOCK_NAME]


def test_a_lock_with_a_number_of_no_process_is_named(tmp_path: Path) -> None:
    with locked_output(str(tmp_path), "score", take_over=False):
        content = storage.read_json(lock_path(str(tmp_path)))
    storage.write_json(lock_path(str(tmp_path)), content | {"pid": "1\0"})
    with (
        pytest.raises(UsageError, match="is a damaged lock"),
        locked_output(str(tmp_path), "score", take_over=True),
    ):
        pass


def test_a_full_disk_leaves_no_part_of_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> bytes:
        os.listdir(tmp_path)  # the file is there, and empty
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(locks._Holder, "to_json", full)
    with pytest.raises(OSError, match="No space left"), locked_output(str(tmp_path), "score", take_over=False):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_is_no_content(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with locked_output(str(output), "score", take_over=False):
        assert os.listdir(output) == [storage.LOCK_NAME]
        output_directories.check_output(str(output), resume=False, overwrite=False)
        (output / "file").write_text("content")
        storage.empty_directory(str(output))
        assert os.listdir(output) == [storage.LOCK_NAME]
    assert not output.exists()  # it was made for the lock, and nothing was put into it


def test_two_processes_that_begin_at_once_do_not_both_write(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path / "out")], cwd=ROOT, stdout=-1, stderr=-3)
        for _ in range(4)
    ]
    try:
        deadline = time.monotonic() + 45  # less than the time for which the lock is held
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sorted(process.poll() is None for process in processes) == [False, False, False, True]
    finally:
        for process in processes:
            process.kill()
            process.wait()
