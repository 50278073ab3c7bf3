"""Object-store emulators and other servers that the tests of distributed runs start, on the loopback interface only."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# What the score job sets, here and on workers, where TensorFlow has not begun: scores are compared to the last bit.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(command: list[str], port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Starts a program and waits until something answers HTTP on `port`."""
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"{command[:3]} did not start: {log.read_text(errors='replace')[-2000:]}")


def stop_server(process: "subprocess.Popen[bytes]") -> None:
    """Ends it by its process id."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an S3 emulator (moto). Its first bucket is `bucket`."""
    pytest.importorskip("moto", reason="moto is a test dependency")
    port = free_port()
    log = tmp_path_factory.mktemp("s3") / "server.log"
    process = start_server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("PUT", "/bucket")
    assert connection.getresponse().status == 200
    yield port
    stop_server(process)


@pytest.fixture
def s3(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket of the S3 emulator; the environment says where it is, as it does on a worker."""
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return "s3://bucket"


def s3_environment(port: int) -> dict[str, str]:
    """What a process needs to find the emulator on `port`."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a Google Cloud Storage emulator. Its first bucket is `bucket`."""
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is a test dependency")
    port = free_port()
    log = tmp_path_factory.mktemp("gs") / "server.log"
    process = start_server(
        [
            sys.executable,
            "-m",
            "gcp_storage_emulator",
            "start",
            "--host=127.0.0.1",
            f"--port={port}",
            "--in-memory",
            "--default-bucket=bucket",
        ],
        port,
        log,
    )
    yield port
    stop_server(process)


@pytest.fixture
def gs(gs_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket of the Google Cloud Storage emulator."""
    use_gs_emulator(gs_server, monkeypatch)
    return "gs://bucket"


def use_gs_emulator(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points Google's client at `port` and spares it the search for credentials, of which there are none here."""
    auth = pytest.importorskip("apache_beam.internal.gcp.auth", reason="apache-beam[gcp] is not installed")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(auth, "get_service_credentials", lambda options: None)
