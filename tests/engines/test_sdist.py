"""The package as a remote worker gets it (`--setup_file`): built, installed with its runtime dependencies only, run."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.long
JOBS = ("pipelines.preprocess", "pipelines.score", "pipelines.report", "vcls_model.train")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment that holds the package and nothing that it does not ask for."""
    work = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(work), "sdist", "--dist-dir", str(work)],
        cwd=ROOT,
        check=True,
    )
    (archive,) = work.glob("*.tar.gz")
    venv.create(work / "venv", with_pip=True)
    interpreter = work / "venv" / "bin" / "python"
    subprocess.run(
        [interpreter, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.txt", archive],
        cwd=work,
        check=True,
    )
    yield interpreter


def run(python: Path, directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, *arguments], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_development_packages_are_not_needed(python: Path, tmp_path: Path) -> None:
    assert run(python, tmp_path, "-c", "import pytest").returncode == 1


@pytest.mark.parametrize("module", JOBS)
def test_each_job_answers(python: Path, tmp_path: Path, module: str) -> None:
    done = run(python, tmp_path, "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout


def test_preprocess_from_the_installed_package(python: Path, tmp_path: Path) -> None:
    done = run(
        python,
        tmp_path,
        "-m",
        "pipelines.preprocess",
        f"--input={ROOT}/sample/validate0000.tfrecord",
        f"--output={tmp_path}/out",
    )
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["records_read"] == info["records_written"] > 200
