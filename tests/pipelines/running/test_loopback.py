"""While a job runs on this machine, nobody else can reach its ports."""

import os
import socket
from pathlib import Path

import pytest

from tests.fixtures.held import JOBS, held_job, job_flags
from tests.fixtures.sockets import descendants, is_loopback, listening, needs_tables


@pytest.mark.slow
@needs_tables
@pytest.mark.parametrize("job", JOBS)
def test_a_running_job_listens_on_the_loopback_interface_alone(
    job: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = [*job_flags(job, tmp_path, request), f"--output={tmp_path}/out"]
    with held_job(job, flags, tmp_path / "mark") as process:
        addresses = [address for each in descendants(process.pid) for address in listening(each)]
    assert len(addresses) >= (0 if job == "train" else 4)  # control, data, state and logging of Beam's runner
    assert [address for address in addresses if not is_loopback(address)] == []


@needs_tables
@pytest.mark.parametrize(("host", "open_to_all"), [("127.0.0.1", False), ("0.0.0.0", True), ("::1", False)])
def test_the_tables_are_read_as_the_kernel_writes_them(host: str, open_to_all: bool) -> None:
    before = listening(os.getpid())
    try:
        server = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip(f"there is no {host} here")
    with server:
        after = listening(os.getpid())
    for address in before:
        after.remove(address)
    assert after == [host]
    assert is_loopback(host) is not open_to_all
