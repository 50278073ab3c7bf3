"""What is known of a job within seconds, before its input is looked at."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import extract, preprocess, score
from pipelines.running import reach
from vcls_model.commands import JobError, UsageError

DATAFLOW = ["--runner=Dataflow", "--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Google's addresses lead to a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("GCE_METADATA_HOST", address.removeprefix("http://"))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
        yield


@pytest.mark.parametrize("job", [preprocess, extract, score])
def test_dataflow_needs_its_flags_in_a_dry_run_too(job: object, tmp_path: Path) -> None:
    flags = ["--input=gs://b/in*", "--output=gs://b/out", "--dry_run", *(["--model=gs://b/m"] if job is score else [])]
    with pytest.raises(UsageError, match="needs --project and --region and --temp_location"):
        job.run([*flags, "--runner=Dataflow"])  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="--temp_location=/tmp/x must be on Google Cloud Storage"):
        job.run([*flags, "--runner=Dataflow", "--project=p", "--region=r", "--temp_location=/tmp/x"])  # type: ignore


def test_dataflow_refuses_what_only_this_machine_sees(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--input={tmp_path}/in, --output=out must be on an object store"):
        preprocess.run([f"--input={tmp_path}/in", "--output=out", "--dry_run", *DATAFLOW])
    with pytest.raises(UsageError, match="--model=model must be on an object store"):
        score.run(["--input=gs://b/in", "--output=gs://b/out", "--model=model", "--dry_run", *DATAFLOW])


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_named_within_ten_seconds(
    silent: None, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("apache_beam.io.gcp.gcsio", reason="apache-beam[gcp] is not installed")
    started = time.monotonic()
    with pytest.raises(JobError, match="gs://bucket does not answer within 5 s"):
        preprocess.run(["--input=gs://bucket/in*", "--output=gs://bucket/out", "--dry_run"])
    assert time.monotonic() - started < 10
    assert "Traceback" not in capfd.readouterr().err


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    google_auth = pytest.importorskip("google.auth", reason="apache-beam[gcp] is not installed")

    def none() -> None:
        raise google_auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google_auth, "default", none)
    with pytest.raises(JobError, match="no Google credentials: run gcloud auth application-default login"):
        preprocess.run(["--input=gs://b/in", "--output=gs://b/out", "--dry_run", *DATAFLOW])


def test_flink_is_looked_for_in_a_dry_run_too(tmp_path: Path) -> None:
    flags = [f"--input={tmp_path}", "--output=out", "--dry_run", "--runner=FlinkRunner"]
    with pytest.raises(UsageError, match="absent.jar does not exist"):
        preprocess.run([*flags, "--flink_job_server_jar=absent.jar"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(JobError, match=f"no Flink JobManager answers at 127.0.0.1:{port}"):
        preprocess.run([*flags, f"--flink_master=127.0.0.1:{port}"])


def test_the_plan_names_the_runner() -> None:
    options = reach_options("DirectRunner", ["--direct_num_workers=3"])
    assert reach.runner_text(options) == "runner: DirectRunner, direct_num_workers 3"
    options = reach_options("Dataflow", DATAFLOW[1:])
    assert reach.runner_text(options) == (
        "runner: Dataflow, project p, region europe-west4, temp_location gs://bucket/tmp"
    )


def reach_options(name: str, flags: list[str]) -> object:
    from pipelines.running.runners import pipeline_options

    return pipeline_options(preprocess.make_parser(), name, flags)
