"""What a user sees when the runner they name is not there, or its flags are not complete."""

from pathlib import Path
from typing import Any

import pytest

from deploy.flink import cluster, install
from pipelines import preprocess
from pipelines.running.failures import explained_failures
from pipelines.running.runners import check_runner, pipeline_options, worker_count
from vcls_model.commands import JobError, UsageError


def options(runner: str, *flags: str) -> Any:
    return pipeline_options(preprocess.make_parser(), runner, flags)


def test_unknown_runner_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown runner 'FlinkRuner'; did you mean 'FlinkRunner'"):
        options("FlinkRuner")


def test_a_job_server_that_is_not_there(sample: Path, tmp_path: Path) -> None:
    """As a whole job: the message comes at once, and nothing but an empty directory is left."""
    port = cluster.free_port()
    with pytest.raises(JobError, match=rf"no job server answers at localhost:{port} \(--job_endpoint\)"):
        preprocess.run(
            [
                f"--input={sample}/*.tfrecord",
                f"--output={tmp_path / 'out'}",
                "--runner=FlinkRunner",
                f"--job_endpoint=localhost:{port}",
            ]
        )
    assert not list(tmp_path.rglob("*.tfrecord"))


def test_a_missing_job_server_jar() -> None:
    with pytest.raises(UsageError, match="flink_job_server_jar=absent.jar does not exist: make flink-install"):
        check_runner(options("FlinkRunner", "--flink_job_server_jar=absent.jar"))


def test_a_job_manager_that_is_not_there() -> None:
    port = cluster.free_port()
    with pytest.raises(JobError, match=rf"no Flink JobManager answers at localhost:{port} \(--flink_master\)"):
        check_runner(options("FlinkRunner", f"--flink_master=http://localhost:{port}"))


def test_portable_runner_without_an_endpoint() -> None:
    with pytest.raises(UsageError, match="needs --job_endpoint=HOST:PORT"):
        check_runner(options("PortableRunner"))


def test_dataflow_without_a_project() -> None:
    with pytest.raises(UsageError, match="--runner=Dataflow needs --project and --region and --temp_location"):
        check_runner(options("Dataflow"))
    check_runner(options("Dataflow", "--project=p", "--region=r", "--temp_location=gs://b/t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Pipeline X failed in state FAILED: java.net.ConnectException: Connection refused",
            "its JobManager or its job ",
        ),
        ("failed: NoResourceAvailableException: Slot request bulk is not fulfillable", "fewer free slots than"),
        ("java.lang.OutOfMemoryError: Java heap space", "ran out of memory"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9.31 TiB", "ran out of memory"),
        ("tensorflow: ResourceExhaustedError: OOM when allocating tensor with shape[9]", "ran out of memory"),
        ("io.grpc.StatusRuntimeException: CANCELLED: client cancelled", "system killed them for their memory"),
        ("Unable to fetch remote job server jar at X: HTTP Error 404: Not Found", "make flink-install builds"),
    ],
)
def test_failures_of_a_cluster_say_how_to_go_on(text: str, message: str) -> None:
    with pytest.raises(JobError, match=f"{message}.*--resume continues"), explained_failures("out"):
        raise RuntimeError(text)


def test_a_programming_error_passes_through() -> None:
    with pytest.raises(RuntimeError, match="index out of range"), explained_failures("out"):
        raise RuntimeError("worker: IndexError: index out of range")


def test_work_is_divided_by_what_the_flags_say() -> None:
    assert worker_count(options("FlinkRunner", "--parallelism=4")) == 4
    assert worker_count(options("FlinkRunner")) == 1
    assert worker_count(options("Dataflow", "--num_workers=3", "--max_num_workers=50")) == 50
    assert worker_count(options("DirectRunner", "--direct_num_workers=2")) == 2


def test_a_cluster_without_flink_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="run make flink-install first"):
        cluster.FlinkCluster(home=tmp_path).start()


def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(cluster, "is_installed", lambda home: True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=f"port {port} on 127.0.0.1 is taken"):
            cluster.FlinkCluster(run_directory=tmp_path / "run", rest_port=port).start()


def test_a_process_that_ends_at_once_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Java that cannot run: the cluster stops what it had started and quotes the log."""
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'Error: no such class' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(cluster, "is_installed", lambda home: True)
    monkeypatch.setattr(cluster, "java", lambda: str(fake))
    broken = cluster.FlinkCluster(run_directory=tmp_path / "run")
    with pytest.raises(JobError, match=r"job-manager of the Flink cluster ended with exit 3(.|\n)*no such class"):
        broken.start()
    assert broken.memory() == {}


def test_no_java_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(JobError, match="no java on the path"):
        install.java()


def test_an_old_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "java"
    fake.parent.mkdir()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    cases = {'openjdk version "1.8.0_402"': "is Java 8", "broken": "does not tell its version: broken"}
    for said, message in cases.items():
        fake.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        fake.chmod(0o755)
        with pytest.raises(JobError, match=f"Flink needs Java 11 or 17, and {fake} {message}"):
            install.java()
    fake.write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    assert install.java() == str(fake)


def test_installing_without_maven_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "java", lambda: "java")
    install.lib_directory(tmp_path).mkdir()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(JobError, match="no mvn on the path"):
        install.install(tmp_path)


def test_leftovers_are_only_ended_when_they_are_ours(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    ours = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)], start_new_session=True
    )
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        (tmp_path / "pids.json").write_text(json.dumps({"task-manager-0": ours.pid, "job-manager": other.pid}))
        cluster.stop_leftovers(tmp_path)
        assert ours.wait(timeout=10) < 0
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
