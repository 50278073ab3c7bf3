"""The schedule, loaded and run by Airflow itself, in the environment that `make test-airflow` builds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's home, and in place of the project's interpreter a program that notes how it was called.

    Airflow reads its settings when it is imported, so the environment is set before that, for good.
    """
    if subprocess.run([sys.executable, "-c", "import airflow"], capture_output=True, check=False).returncode:
        pytest.skip("Airflow is not installed here: make test-airflow does that")
    home = tmp_path_factory.mktemp("airflow")
    python = home / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {home}/calls\ncase "$*" in *{_FAILING}*) exit 1;; esac\n')
    python.chmod(0o755)
    os.environ.update(
        {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "VCLS_PYTHON": str(python),
            "VCLS_HOME": str(ROOT),
            "VCLS_INCOMING": "/data/incoming",
            "VCLS_MODEL": "/data/model",
            "VCLS_SCORES": "/data/scores",
            "VCLS_REPORT": "/data/report",
            "VCLS_RUNNER_FLAGS": "--runner=DirectRunner",
        }
    )
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return home


_FAILING = "2026-03-02"


@pytest.fixture(scope="module")
def dag(home: Path) -> Any:
    from airflow.models import DagBag

    bag = DagBag(str(ROOT / "deploy" / "airflow"))
    assert bag.import_errors == {}
    return bag.dags["scheduled_scoring"]


def test_the_schedule(dag: Any) -> None:
    assert list(dag.task_ids) == ["score", "report"]
    assert dag.get_task("report").upstream_task_ids == {"score"}
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.get_task("score").retries == 3


def run_day(home: Path, day: str) -> "subprocess.CompletedProcess[str]":
    """One run of the whole schedule by Airflow's own command."""
    (home / "calls").unlink(missing_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "scheduled_scoring", day],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VCLS_RETRIES": "0"},
    )


def test_a_night_scores_its_day_then_reports(dag: Any, home: Path) -> None:
    done = run_day(home, "2026-03-01")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    score, report = (home / "calls").read_text().splitlines()
    assert score == (
        "-m pipelines.score --input=/data/incoming/2026-03-01/*.tfrecord --model=/data/model "
        "--output=/data/scores --run_id=2026-03-01 --runner=DirectRunner"
    )
    assert report == "-m pipelines.report --scores=/data/scores --model=/data/model --output=/data/report --overwrite"


def test_no_report_of_a_night_that_failed(dag: Any, home: Path) -> None:
    run_day(home, _FAILING)
    calls = (home / "calls").read_text()
    assert "pipelines.score" in calls
    assert "pipelines.report" not in calls


def test_the_flags_are_those_of_the_jobs() -> None:
    """Guards against a schedule that names a flag which a job no longer has."""
    text = (ROOT / "deploy" / "airflow" / "scheduled_scoring.py").read_text()
    for job in ("score", "report"):
        source = (ROOT / "pipelines" / f"{job}.py").read_text()
        command = text.split(f"pipelines.{job} ")[1].split('",\n')[0]
        for word in command.replace('"', " ").split():
            if word.startswith("--"):
                assert f'"{word.split("=")[0]}"' in source, word
