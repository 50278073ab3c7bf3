"""Every command under limits on memory, threads and the size of files: an error in one line, in time, and a way on."""

import os
import resource
import shutil
import subprocess
import sys
import time
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
    "a few threads": {"THREADS": 3},
    "some threads": {"THREADS": 25},
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
_SECONDS = 30  # on a machine of its own
# The system counts all threads of a user, and none of root's: a library that stands before the system's counts those
# of a process.
_FEW_THREADS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
static int started;
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    if (__sync_add_and_fetch(&started, 1) > atoi(getenv("MOST_THREADS"))) return EAGAIN;
    return create(thread, attributes, routine, argument);
}
"""


@pytest.fixture(scope="session")
def few_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the library that refuses threads")
    directory = tmp_path_factory.mktemp("threads")
    (directory / "few.c").write_text(_FEW_THREADS)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", directory / "few.so", directory / "few.c", "-ldl"],
        check=True,
        timeout=60,
    )
    return directory / "few.so"


def run(line: list[str], limits: dict[str, int], library: Path | None) -> tuple[subprocess.CompletedProcess, float]:
    """A command under limits; the seconds that it took."""
    environment = dict(os.environ)
    if library is not None:
        environment |= {"LD_PRELOAD": str(library), "MOST_THREADS": str(limits["THREADS"])}

    def set_limits() -> None:
        for name, value in limits.items():
            if name == "THREADS":  # what makes a command expect trouble
                name, value = "NPROC", 4000
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *line],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        preexec_fn=set_limits,
    )
    return done, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        pytest.param(name, limit, marks=() if (name, limit) in OFTEN else pytest.mark.long)
        for name in NAMES
        for limit in LIMITS
    ],
)
def test_a_command_under_a_limit_ends_with_one_line_and_goes_on_without_it(
    name: str, limit: str, every_command: dict[str, Command], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = every_command[name]
    library = request.getfixturevalue("few_threads") if "THREADS" in LIMITS[limit] else None
    done, seconds = run(command.line(tmp_path / "out"), LIMITS[limit], library)
    if done.returncode == 0:  # the limit was none for this command
        return
    assert seconds < _SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), done.stderr
    assert done.returncode in (1, 2, 130), done.stderr  # OpenBLAS interrupts its process
    assert "Traceback" not in done.stderr
    starts = ("error:", "usage error:", "interrupted.")
    messages = [line for line in done.stderr.splitlines() if line.startswith(starts)]
    assert len(messages) == 1, done.stderr
    assert not (tmp_path / "out" / "info.json").exists()
    again, _ = run(command.line(tmp_path / "out", command.again), {}, None)
    assert again.returncode == 0, again.stderr
