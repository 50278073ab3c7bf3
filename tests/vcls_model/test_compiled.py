"""Compiled loops follow the sources of their whole package, and find a place to stay wherever one can be written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LOOPS = """
from vcls_model.compiled import njit_of
from package.numbers import FACTOR

njit = njit_of(__package__)


@njit
def times(value):
    return FACTOR * value
"""
# Forks a process for each line, because starting Python and importing numba take longer than all that is tested.
FORKING = """
import json, os, sys, tempfile
import numba
import vcls_model.compiled

numba.njit(lambda value: -value)(1)  # the compiler is ready
for line in sys.stdin:
    asked = json.loads(line)
    if os.fork() == 0:
        os.environ.update(asked["environment"])
        numba.config.reload_config()
        tempfile.tempdir = None
        sys.path.insert(0, asked["path"])
        sys.stderr = open(asked["stderr"], "w")
        from package.loops import times
        print(times(21), sum(times.stats.cache_misses.values()), flush=True)
        sys.exit(0)
    os.wait()
    print(flush=True)  # what the process does at its end is done
"""
Run = Callable[..., tuple[int, int, str]]


@pytest.fixture(scope="module")
def forking() -> Iterator["subprocess.Popen[str]"]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    command = [sys.executable, "-c", FORKING]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose loop uses a constant of another module."""
    directory = tmp_path / "package"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "loops.py").write_text(LOOPS)
    (directory / "numbers.py").write_text("FACTOR = 2\n")
    return directory


@pytest.fixture
def run(forking: "subprocess.Popen[str]", package: Path, tmp_path: Path) -> Run:
    """Result of the loop for 21, how many functions were compiled for it, and what was printed on stderr."""

    def call(**environment: str) -> tuple[int, int, str]:
        printed = tmp_path / "stderr"
        asked = {"path": str(package.parent), "stderr": str(printed), "environment": environment}
        assert forking.stdin is not None and forking.stdout is not None
        forking.stdin.write(json.dumps(asked) + "\n")
        forking.stdin.flush()
        value, compiled = forking.stdout.readline().split()
        forking.stdout.readline()
        return int(value), int(compiled), printed.read_text()

    return call


@pytest.mark.slow
def test_a_change_of_another_module_is_noticed(package: Path, run: Run) -> None:
    assert run() == (42, 1, "")
    assert run() == (42, 0, "")
    (package / "numbers.py").write_text("FACTOR = 3\n")
    assert run() == (63, 1, "")
    assert run() == (63, 0, "")
    assert len(list((package / "__pycache__").glob("package-*"))) == 1  # that of the earlier sources is gone


def test_the_directory_named_by_the_user_is_used(package: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert run(NUMBA_CACHE_DIR=str(place)) == (42, 1, "")
    assert run(NUMBA_CACHE_DIR=str(place)) == (42, 0, "")
    assert len(list(place.rglob("*.nbi"))) == 1
    assert not list(package.rglob("*.nbi"))


def test_without_a_writable_package_the_home_directory_is_used(package: Path, run: Run, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("not a directory")
    assert run(XDG_CACHE_HOME=str(tmp_path / "cache")) == (42, 1, "")
    assert run(XDG_CACHE_HOME=str(tmp_path / "cache")) == (42, 0, "")


def test_where_nothing_can_be_written_one_line_says_so(package: Path, run: Run, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("not a directory")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    value, compiled, printed = run(XDG_CACHE_HOME="/dev/null", TMPDIR=str(temporary))
    assert (value, compiled) == (42, 1)
    assert printed.count("\n") == 1 and "NUMBA_CACHE_DIR" in printed
    assert not list(temporary.iterdir())
