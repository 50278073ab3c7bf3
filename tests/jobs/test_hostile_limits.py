"""Every command under limits on memory, threads and the size of files: an error in one line, in time, and a way on."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fixtures.every_command import NAMES, Command

_GB = 1 << 30
# What the system allows, by the names of `resource`.
LIMITS: dict[str, dict[str, int]] = {
    "half a GB of addresses": {"AS": _GB // 2},
    "two GB of addresses": {"AS": 2 * _GB},
    "four GB of addresses": {"AS": 4 * _GB},
    "a few threads": {"NPROC": 6},
    "some threads": {"NPROC": 25},
    "files of 1 KB": {"FSIZE": 1 << 10},
    "files of 64 KB": {"FSIZE": 64 << 10},
    "few open files": {"NOFILE": 24},
}
# Those that every run of the tests looks at.
OFTEN = {
    ("preprocess", "two GB of addresses"),
    ("preprocess", "files of 1 KB"),
    ("score", "a few threads"),
    ("report", "files of 64 KB"),
}
# A user of whom there are no other processes: the limit on threads counts all of a user, and none of root's.
_NOBODY = 60_123
_SECONDS = 30


@pytest.fixture
def out() -> Iterator[Path]:
    """A directory for outputs that every user can write to."""
    directory = Path(tempfile.mkdtemp(prefix="vcls-out-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def threads_of_this_user() -> int:
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if f"Uid:\t{os.getuid()}\t" in text:
            count += int(text.split("Threads:")[1].split()[0])
    return count


def run(line: list[str], limits: dict[str, int], scratch: Path) -> tuple[subprocess.CompletedProcess, float]:
    """A command under limits; the seconds that it took."""
    as_nobody = "NPROC" in limits and os.getuid() == 0
    others = 0 if as_nobody else threads_of_this_user()

    def set_limits() -> None:
        if as_nobody:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        for name, value in limits.items():
            value += others if name == "NPROC" else 0
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *line],
        cwd=ROOT,
        env={**os.environ, "HOME": str(scratch)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=set_limits,
    )
    return done, time.monotonic() - started


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        pytest.param(name, limit, marks=() if (name, limit) in OFTEN else pytest.mark.slow)
        for name in NAMES
        for limit in LIMITS
    ],
)
def test_a_command_under_a_limit_ends_with_one_line_and_goes_on_without_it(
    name: str, limit: str, every_command: dict[str, Command], out: Path
) -> None:
    command = every_command[name]
    done, seconds = run(command.line(out / "out"), LIMITS[limit], out)
    assert seconds < _SECONDS, done.stderr
    if done.returncode == 0:  # the limit was none for this command
        return
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith(("error:", "usage error:"))]
    assert len(messages) == 1, done.stderr
    assert not (out / "out" / "info.json").exists()
    again, _ = run(command.line(out / "out", command.again), {}, out)
    assert again.returncode == 0, again.stderr
