"""Compiled loops follow the sources of their whole package, and find a place to stay wherever one can be written."""

import os
import subprocess
import sys
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


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose loop uses a constant of another module."""
    directory = tmp_path / "package"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "loops.py").write_text(LOOPS)
    (directory / "numbers.py").write_text("FACTOR = 2\n")
    return directory


def run(package: Path, **environment: str) -> tuple[int, int, str]:
    """Result of the loop for 21, how many functions were compiled for it, and what was printed on stderr."""
    script = "from package.loops import times; print(times(21), sum(times.stats.cache_misses.values()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{package.parent}:{os.environ.get('PYTHONPATH', '')}", **environment},
    )
    value, compiled = done.stdout.split()
    return int(value), int(compiled), done.stderr


def test_a_change_of_another_module_is_noticed(package: Path) -> None:
    assert run(package) == (42, 1, "")
    assert run(package) == (42, 0, "")
    (package / "numbers.py").write_text("FACTOR = 3\n")
    assert run(package) == (63, 1, "")
    assert run(package) == (63, 0, "")
    assert len(list((package / "__pycache__").glob("package-*"))) == 1  # that of the earlier sources is gone


def test_the_directory_named_by_the_user_is_used(package: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert run(package, NUMBA_CACHE_DIR=str(place)) == (42, 1, "")
    assert run(package, NUMBA_CACHE_DIR=str(place)) == (42, 0, "")
    assert len(list(place.rglob("*.nbi"))) == 1
    assert not list(package.rglob("*.nbi"))


def test_without_a_writable_package_the_home_directory_is_used(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("not a directory")
    assert run(package, XDG_CACHE_HOME=str(tmp_path / "cache")) == (42, 1, "")
    assert run(package, XDG_CACHE_HOME=str(tmp_path / "cache")) == (42, 0, "")


def test_where_nothing_can_be_written_one_line_says_so(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("not a directory")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    value, compiled, printed = run(package, XDG_CACHE_HOME="/dev/null", TMPDIR=str(temporary))
    assert (value, compiled) == (42, 1)
    assert printed.count("\n") == 1 and "NUMBA_CACHE_DIR" in printed
    assert not list(temporary.iterdir())
