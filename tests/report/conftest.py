"""One synthetic run, its baseline and their report, made once for all tests of the report."""

from pathlib import Path

import pytest

from pipelines.report import run
from pipelines.reporting import figures
from tests.report.synthetic import write_scores


@pytest.fixture(scope="session")
def scores_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(tmp_path_factory.mktemp("run") / "scores")


@pytest.fixture(scope="session")
def baseline_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos, scored by a worse model."""
    return write_scores(tmp_path_factory.mktemp("previous") / "scores", skill=1.0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures empty, for tests that look at something else: drawing is what a report takes longest for."""
    monkeypatch.setattr(figures, "draw", lambda plot, data, size: (b"<svg/>", b"\x89PNG"))


@pytest.fixture(scope="session")
def report_directory(
    scores_directory: Path, baseline_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("report") / "out"
    run([f"--scores={scores_directory}", f"--baseline={baseline_directory}", f"--output={output}"])
    return output
