"""The jobs on a Flink cluster of real processes: the bytes of the in-process runner, also when processes are killed.

`make test-flink` installs Flink and runs these.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.flink.cluster import FlinkCluster, resident_bytes
from deploy.flink.install import is_installed, job_server_jar
from pipelines import extract, preprocess, score
from pipelines.extracting import planning as extract_planning
from pipelines.scoring import planning
from tests.conftest import ROOT
from tests.fixtures.media import colour_clip, write_encoders
from tests.fixtures.scoring import write_model
from tests.fixtures.sockets import descendants, is_loopback, listening, needs_tables
from vcls_model.commands import JobError
from vcls_model.records import examples
from vcls_model.records.framing import frame_record

pytestmark = [
    pytest.mark.flink,
    # The launcher still listens for messages of a job when the cluster that ran it is stopped.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
# Enough small shards that a process can be killed while some are done and some are not.
SHARDS = 300
RECORDS_A_SHARD = 6
COUNTS = ("records_read", "records_written", "records_rejected", "rejected_by_reason")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    if not is_installed():
        pytest.skip("Flink is not installed: make test-flink does that")
    # Being told to end is as good as Ctrl-C: the cluster is stopped.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with FlinkCluster(run_directory=tmp_path_factory.mktemp("flink")) as running:
        yield running
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def two_machines(cluster: FlinkCluster) -> FlinkCluster:
    """The cluster with both TaskManagers, whatever the test before did to them."""
    cluster.repair()
    return cluster


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real video-level records in many small shards; one of them ends in garbage."""
    directory = tmp_path_factory.mktemp("videos")
    records = [
        record for path in sorted((ROOT / "sample").glob("*.tfrecord")) for record in split_records(path.read_bytes())
    ]
    assert len(records) >= SHARDS * RECORDS_A_SHARD
    for shard in range(SHARDS):
        data = b"".join(records[shard * RECORDS_A_SHARD : (shard + 1) * RECORDS_A_SHARD])
        (directory / f"videos{shard:04d}.tfrecord").write_bytes(data + (b"garbage" if shard == 7 else b""))
    return directory


def split_records(data: bytes) -> Iterator[bytes]:
    """The framed records of a TFRecord file: length, its checksum, payload, its checksum."""
    at = 0
    while at < len(data):
        end = at + 12 + struct.unpack_from("<Q", data, at)[0] + 4
        yield data[at:end]
        at = end


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame-level records of the YouTube-8M layout in a few shards."""
    directory = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for shard in range(6):
        data = b""
        for video in range(4):
            count = int(rng.integers(2, 20))
            lists = {
                name: [rng.integers(0, 256, width, np.uint8).tobytes() for _ in range(count)]
                for name, width in (("rgb", 1024), ("audio", 128))
            }
            context = {
                "id": examples.bytes_feature(b"f%d-%d" % (shard, video)),
                "labels": examples.int64_feature([int(rng.integers(0, 3862))]),
            }
            data += frame_record(examples.write_sequence_example(context, lists))
        (directory / f"frames{shard}.tfrecord").write_bytes(data)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), classes=3862)


@pytest.fixture(scope="module")
def preprocessed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the in-process runner makes of `videos`."""
    output = tmp_path_factory.mktemp("expected") / "data"
    preprocess.run([f"--input={videos}/*.tfrecord", f"--output={output}"])
    return output


@pytest.fixture(scope="module")
def scored(videos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the in-process runner makes of `videos` with `model`."""
    output = tmp_path_factory.mktemp("expected") / "scores"
    score.run([f"--input={videos}/*.tfrecord", f"--model={model}", f"--output={output}"])
    return output


def shard_bytes(output: Path) -> dict[str, bytes]:
    """The transformed records and dead letters by path below `output`; temporary files would show here too."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for name in ("train", "validate", "test", "dead_letter")
        for path in sorted((output / name).glob("*"))
    }


def predictions(output: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Classes and probabilities by id."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(output / "predictions").to_table().to_pydict()
    found = {
        name: (classes, values)
        for name, classes, values in zip(table["id"], table["class_index"], table["probability"], strict=True)
    }
    assert len(found) == len(table["id"]), "an id was predicted twice"
    return found


def info_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "info.json").read_text())


def assert_same_data(output: Path, expected: Path) -> None:
    assert shard_bytes(output) == shard_bytes(expected)
    assert {key: info_of(output)[key] for key in COUNTS} == {key: info_of(expected)[key] for key in COUNTS}
    assert info_of(output)["records_read"] == SHARDS * RECORDS_A_SHARD + 1


def assert_same_scores(output: Path, expected: Path) -> None:
    names = [path.name for path in sorted(output.glob("*/*"))]
    assert not [name for name in names if ".tmp-" in name]
    assert len([name for name in names if name.endswith(".parquet")]) == SHARDS
    assert predictions(output) == predictions(expected)
    assert (output / "metrics.json").read_bytes() == (expected / "metrics.json").read_bytes()
    assert (output / "per_class.csv").read_bytes() == (expected / "per_class.csv").read_bytes()
    assert {key: info_of(output)[key] for key in COUNTS} == {key: info_of(expected)[key] for key in COUNTS}


class Meanwhile(threading.Thread):
    """Does something once a condition holds, while the test runs a job."""

    def __init__(self, condition: Callable[[], bool], action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._condition = condition
        self._action = action
        self.done = False
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.is_set():
            if self._condition():
                self._action()
                self.done = True
                return
            time.sleep(0.02)

    def __enter__(self) -> "Meanwhile":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def files_in(directory: Path, pattern: str, count: int) -> Callable[[], bool]:
    return lambda: len(list(directory.glob(pattern))) >= count


def test_preprocess_of_videos_writes_the_same_bytes(
    two_machines: FlinkCluster, videos: Path, preprocessed: Path, tmp_path: Path
) -> None:
    preprocess.run([f"--input={videos}/*.tfrecord", f"--output={tmp_path / 'out'}", *two_machines.beam_flags()])
    assert_same_data(tmp_path / "out", preprocessed)


@needs_tables
def test_nothing_listens_to_other_machines(two_machines: FlinkCluster, videos: Path, tmp_path: Path) -> None:
    """Neither the cluster nor a job that starts a job server of its own."""
    output, addresses = tmp_path / "out", []

    def look() -> None:
        for process in {*descendants(os.getpid()), *two_machines.pids()}:
            addresses.extend(listening(process))

    flags = [flag for flag in two_machines.beam_flags() if not flag.startswith("--job_endpoint")]
    flags += [f"--flink_master=127.0.0.1:{two_machines.rest_port}", f"--flink_job_server_jar={job_server_jar()}"]
    with Meanwhile(files_in(output / "train", "*", 5), look) as looked:
        preprocess.run([f"--input={videos}/*.tfrecord", f"--output={output}", *flags])
    assert looked.done
    assert len(addresses) >= 10
    assert [address for address in addresses if not is_loopback(address)] == []


def test_preprocess_of_frames_writes_the_same_bytes(two_machines: FlinkCluster, frames: Path, tmp_path: Path) -> None:
    preprocess.run([f"--input={frames}/*.tfrecord", f"--output={tmp_path / 'expected'}"])
    preprocess.run([f"--input={frames}/*.tfrecord", f"--output={tmp_path / 'out'}", *two_machines.beam_flags()])
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "expected")
    assert info_of(tmp_path / "out")["records_written"] == 24


def test_score_gives_the_same_scores(
    two_machines: FlinkCluster, videos: Path, model: Path, scored: Path, tmp_path: Path
) -> None:
    score.run(
        [f"--input={videos}/*.tfrecord", f"--model={model}", f"--output={tmp_path / 'out'}", *two_machines.beam_flags()]
    )
    assert_same_scores(tmp_path / "out", scored)


def test_extract_writes_the_same_bytes(
    two_machines: FlinkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_planning, "_SHARD_FILES", 9)
    encoders, media = write_encoders(tmp_path), tmp_path / "media"
    media.mkdir()
    for number in range(39):
        colour_clip(media / f"clip{number:02d}.mp4", 2 + number % 3, first=number, sound=number % 5 == 0)
    (media / "broken.mp4").write_bytes(b"this is text" * 100)
    flags = [f"--input={media}/*.mp4", *encoders.flags, "--max_rejected_fraction=0.1"]
    extract.run([*flags, f"--output={tmp_path / 'expected'}"])
    info = extract.run([*flags, f"--output={tmp_path / 'out'}", *two_machines.beam_flags()])
    assert (info["records_written"], info["records_rejected"], info["shards"]) == (39, 1, 5)
    written, expected = (
        {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name not in ("info.json", "settings.json")
        }
        for root in (tmp_path / "out", tmp_path / "expected")
    )
    assert sum(name.endswith(".tfrecord") for name in expected) == 5
    assert written == expected


def test_preprocess_survives_a_lost_machine(
    two_machines: FlinkCluster, videos: Path, preprocessed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    before = two_machines.recoveries()
    with Meanwhile(files_in(output / "train", "*", 5), lambda: two_machines.kill_machine(1)) as loss:
        preprocess.run([f"--input={videos}/*.tfrecord", f"--output={output}", *two_machines.beam_flags(2)])
    assert loss.done
    assert two_machines.recoveries() > before
    assert_same_data(output, preprocessed)


def test_preprocess_survives_a_killed_python_worker(
    two_machines: FlinkCluster, videos: Path, preprocessed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def kill_worker() -> None:
        os.kill(two_machines.busiest_python_worker(), signal.SIGKILL)

    with Meanwhile(files_in(output / "manifests", "*.statistics", 5), kill_worker) as loss:
        preprocess.run([f"--input={videos}/*.tfrecord", f"--output={output}", *two_machines.beam_flags(2)])
    assert loss.done
    assert_same_data(output, preprocessed)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are committed every 20 shards or so, as they are every half gigabyte of real data."""
    monkeypatch.setattr(planning, "VIDEO_GROUP_BYTES", 1 << 19)


def test_score_survives_a_lost_machine(
    two_machines: FlinkCluster, small_groups: None, videos: Path, model: Path, scored: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    before = two_machines.recoveries()
    with Meanwhile(files_in(output / "state", "*.manifest.json", 2), lambda: two_machines.kill_machine(0)) as loss:
        score.run(
            [f"--input={videos}/*.tfrecord", f"--model={model}", f"--output={output}", *two_machines.beam_flags(2)]
        )
    assert loss.done
    assert two_machines.recoveries() > before
    assert_same_scores(output, scored)


def test_score_survives_a_killed_python_worker(
    two_machines: FlinkCluster, small_groups: None, videos: Path, model: Path, scored: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    before = two_machines.recoveries()

    def kill_worker() -> None:
        os.kill(two_machines.busiest_python_worker(), signal.SIGKILL)

    with Meanwhile(files_in(output / "state", "*.manifest.json", 2), kill_worker) as loss:
        score.run(
            [f"--input={videos}/*.tfrecord", f"--model={model}", f"--output={output}", *two_machines.beam_flags(2)]
        )
    assert loss.done
    assert two_machines.recoveries() > before
    assert_same_scores(output, scored)


def test_workers_without_enough_memory_end_the_job_with_advice(
    cluster: FlinkCluster, videos: Path, tmp_path: Path
) -> None:
    """The kernel kills whatever grows beyond its share, on every attempt; with more memory, --resume finishes."""
    output = tmp_path / "out"
    data = [f"--input={videos}/*.tfrecord", "--normalise=l2"]  # which workers need TensorFlow for
    flags = [*data, f"--output={output}"]
    killed: list[int] = []
    small = FlinkCluster(task_managers=1, slots=1, run_directory=tmp_path / "flink", restart_attempts=1)

    def kill_the_large() -> bool:
        for pid in small.python_workers():
            if resident_bytes(pid) > 400 << 20:  # less than TensorFlow takes
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        return False  # so that it is called again, until the job has ended

    with (
        small,
        Meanwhile(kill_the_large, lambda: None),
        pytest.raises(JobError, match="killed them for their memory.*--resume continues"),
    ):
        preprocess.run([*flags, *small.beam_flags()])
    assert len(set(killed)) == 2
    assert not (output / "info.json").exists()
    preprocess.run([*flags, "--resume"])
    preprocess.run([*data, f"--output={tmp_path / 'undisturbed'}"])
    assert_same_data(output, tmp_path / "undisturbed")


def test_resume_finishes_after_the_job_manager_was_lost(
    two_machines: FlinkCluster, videos: Path, preprocessed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    flags = [f"--input={videos}/*.tfrecord", f"--output={output}", *two_machines.beam_flags()]
    with (
        Meanwhile(files_in(output / "train", "*", 5), lambda: two_machines.kill("job-manager")) as loss,
        pytest.raises(JobError, match="--resume"),
    ):
        preprocess.run(flags)
    assert loss.done
    assert not (output / "info.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (output / "manifests").glob("*.statistics")}
    assert done
    two_machines.repair()
    preprocess.run([*flags, "--resume"])
    assert_same_data(output, preprocessed)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "measured again what was already measured"


_CLUSTER_THAT_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from deploy.flink.cluster import FlinkCluster
with FlinkCluster(task_managers=1, slots=1, run_directory=Path(sys.argv[1])) as cluster:
    print(*cluster.pids(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def living(pids: list[int]) -> list[int]:
    """Those of `pids` that are a process, and not one that has ended."""

    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    return [pid for pid in pids if lives(pid)]


def test_nothing_is_left_running(cluster: FlinkCluster, tmp_path: Path) -> None:
    """After an error the cluster is stopped; one whose program was killed, by the next start in its directory."""
    started = subprocess.run(
        [sys.executable, "-c", _CLUSTER_THAT_IS_KILLED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == -signal.SIGKILL, started.stderr
    orphans = [int(pid) for pid in started.stdout.split()]
    assert len(orphans) == 4
    assert living(orphans) == orphans
    with (
        pytest.raises(RuntimeError, match="the job failed"),
        FlinkCluster(task_managers=1, slots=1, run_directory=tmp_path) as again,
    ):
        assert living(orphans) == []
        pids = again.pids()
        assert living(pids) == pids
        raise RuntimeError("the job failed")
    assert living(pids) == []
