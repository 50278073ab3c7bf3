"""The files of `deploy/` name what exists: flags of the jobs, modules, paths."""

import json
import re

import pytest

from pipelines import preprocess, report, score
from tests.conftest import ROOT
from vcls_model.commands import option_names

DEPLOY = ROOT / "deploy"


def test_flex_template_parameters_are_flags_of_the_job() -> None:
    metadata = json.loads((DEPLOY / "dataflow" / "metadata.json").read_text())
    names = {f"--{parameter['name']}" for parameter in metadata["parameters"]}
    assert names <= set(option_names(preprocess.make_parser()))
    examples = {"split_ratios": "0.7,0.2,0.1", "max_rejected_fraction": "0.01", "input": "gs://bucket/*.tfrecord"}
    for parameter in metadata["parameters"]:
        for pattern in parameter.get("regexes", []):
            assert re.match(pattern, examples.get(parameter["name"], "gs://bucket/x"))


@pytest.mark.parametrize("path", ["kubernetes/scheduled-scoring.yaml", "airflow/scheduled_scoring.py"])
def test_schedules_call_the_jobs_with_flags_they_have(path: str) -> None:
    text = (DEPLOY / path).read_text()
    known = {*option_names(score.make_parser()), "--scores", "--model", "--output", "--overwrite"}
    called = re.findall(r"-m pipelines\.(\w+)", text)
    assert set(called) == {"score", "report"}
    assert report.run
    commands = [part.split("\n\n")[0] for part in re.split(r"-m pipelines\.\w+", text)[1:]]
    for command in commands:
        flags = re.findall(r"(--[a-z_]+)=", command.split("resources:")[0])
        assert flags and set(flags) <= known | {"--runner"}, flags


def test_the_cron_job_is_valid_yaml_and_never_overlaps_itself() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((DEPLOY / "kubernetes" / "scheduled-scoring.yaml").read_text())
    assert job["kind"] == "CronJob"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert [container["name"] for container in pod["initContainers"] + pod["containers"]] == ["score", "report"]


def test_the_image_copies_what_is_there() -> None:
    root = DEPLOY.parent
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (root / name).exists(), line
