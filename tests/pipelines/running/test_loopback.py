"""While a job runs on this machine, nobody else can reach its ports."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fixtures.records import VIDEO, videos, write_shard
from tests.fixtures.scoring import make_videos, serialise
from tests.fixtures.scoring import write_shard as write_scoring_shard

_LISTENS = "0A"
_LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}

# The job as its module runs it, held at the end of a shard until this test has looked at the ports.
_HELD = """
import sys, time
from pipelines.{module} import run
{hold}
run(sys.argv[1:])
"""
_HOLD = {
    "preprocess": """
from pipelines.preprocessing import steps
inner = steps.measure_shard
def held(*arguments):
    open(sys.argv[1] + ".held", "w").close()
    time.sleep(60)
steps.measure_shard = held
sys.argv.pop(1)
""",
    "score": """
from pipelines.scoring import groups
def held(*arguments):
    open(sys.argv[1] + ".held", "w").close()
    time.sleep(60)
groups.GroupScores.add = held

""",
}


def listening(process: int) -> list[str]:
    """The local addresses, as the kernel writes them, on which a process listens."""
    sockets = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                sockets.add(match.group(1))
        except FileNotFoundError:
            continue
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and fields[9] in sockets:
                addresses.append(fields[1].split(":")[0])
    return addresses


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="the kernel's list of sockets is Linux's")
@pytest.mark.parametrize("module", ["preprocess", "score"])
def test_a_running_job_listens_on_the_loopback_interface_alone(
    module: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if module == "preprocess":
        write_shard(tmp_path / "in0.tfrecord", [video.example() for video in videos(20, VIDEO)])
        (tmp_path / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
        flags = [f"--schema={tmp_path}/schema.json"]
    else:
        write_scoring_shard(tmp_path / "in0.tfrecord", [serialise(video) for video in make_videos(20, 0)])
        flags = [f"--model={request.getfixturevalue('model')}"]
    mark = tmp_path / "mark"
    hold = _HOLD[module].replace("sys.argv[1]", repr(str(mark))).replace("sys.argv.pop(1)\n", "")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _HELD.format(module=module, hold=hold),
            f"--input={tmp_path}/in*.tfrecord",
            f"--output={tmp_path}/out",
            "--direct_num_workers=2",
            *flags,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while not Path(f"{mark}.held").exists():
            assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        addresses = listening(process.pid)
        assert len(addresses) >= 4  # control, data, state and logging
        assert set(addresses) <= _LOOPBACK
    finally:
        process.kill()
        process.wait()
