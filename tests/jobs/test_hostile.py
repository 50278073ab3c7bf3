"""A hostile day: jobs in processes of their own, with signals, and input that is not a file at all.

Every command must end, within seconds unless the machine is busy, with one line that names what is wrong, and leave a
state to go on from.
"""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fixtures.records import VIDEO, float_feature, videos, write_shard

_SECONDS = 120


def command(module: str, *flags: str) -> subprocess.CompletedProcess:
    """Runs a command; one that does not end in time fails the test."""
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )


def one_line(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """Whether a command failed with one message, which holds `words`."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith(("error:", "usage error:"))]
    assert len(messages) == 1, done.stderr
    for word in words:
        assert word in messages[0]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A directory with two shards and their schema."""
    for number in range(2):
        some = videos(40, VIDEO, seed=number, prefix=f"{number}-")
        write_shard(tmp_path / f"in{number}.tfrecord", [video.example() for video in some])
    (tmp_path / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
    return tmp_path


def flags(records: Path, *more: str) -> list[str]:
    return [f"--input={records}/in*.tfrecord", f"--schema={records}/schema.json", f"--output={records}/out", *more]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory"])
@pytest.mark.parametrize("module", ["pipelines.preprocess", "pipelines.score"])
def test_a_shard_that_is_no_file_is_refused(
    kind: str, module: str, records: Path, request: pytest.FixtureRequest
) -> None:
    path = records / "in2.tfrecord"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            os.chdir(records)  # names of sockets are short
            server.bind("in2.tfrecord")
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        more = [f"--schema={records}/schema.json"]
        if module.endswith("score"):
            more = [f"--model={request.getfixturevalue('model')}"]
        done = command(module, f"--input={path}", f"--output={records}/out", *more)
    one_line(done, 2, "in2.tfrecord", "directory" if kind == "directory" else "not a file")


def test_a_terminated_job_says_how_to_go_on_and_leaves_no_lock(records: Path) -> None:
    held = (
        "import sys, time\n"
        "from pipelines.preprocessing import steps\n"
        "measure = steps.measure_shard\n"
        "steps.measure_shard = lambda *a: (measure(*a), print('measuring', flush=True), time.sleep(1))[0]\n"
        "from pipelines.preprocess import run\n"
        "from vcls_model.commands import main\n"
        "main(run)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", held, *flags(records, "--direct_num_workers=1")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "measuring\n"
    process.terminate()
    _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert "of 2" in errors  # what is done, and of how much
    assert "terminated. What was finished stays: the same command goes on with --resume" in errors
    done = command("pipelines.preprocess", *flags(records, "--resume"))
    assert done.returncode == 0, done.stderr


def test_a_killed_job_is_continued_with_a_note_about_its_lock(records: Path) -> None:
    held = (
        "import sys, time\n"
        "from pipelines.preprocessing import steps\n"
        "steps.measure_shard = lambda *a: (print('measuring', flush=True), time.sleep(60))\n"
        "from pipelines.preprocess import run\n"
        "run(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", held, *flags(records)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdout.readline() == b"measuring\n"
    # A second job is refused while the first works, whatever its flags are.
    for more in ("--overwrite", "--resume"):
        one_line(command("pipelines.preprocess", *flags(records, more)), 2, "is being written by another job")
    process.kill()
    process.wait()
    done = command("pipelines.preprocess", *flags(records, "--resume"))
    assert done.returncode == 0, done.stderr
    assert f"removing the lock of a job that has ended (preprocess, process {process.pid} on" in done.stderr


def test_features_too_large_for_float32_are_named(records: Path) -> None:
    name = VIDEO.modalities[0].name
    rows = [
        video.example(**{name: float_feature(*[(-1) ** number * 3e38] * VIDEO.modalities[0].width)})
        for number, video in enumerate(videos(20, VIDEO, prefix="large"))
    ]
    write_shard(records / "in2.tfrecord", rows)
    one_line(command("pipelines.preprocess", *flags(records)), 1, name, "3e+38", "--normalise=none")


def test_a_gzip_bomb_is_cut_off_and_counted(records: Path) -> None:
    with gzip.open(records / "in2.tfrecord.gz", "wb") as stream:
        for _ in range(1024):
            stream.write(bytes(1 << 20))
    done = command(
        "pipelines.preprocess",
        f"--input={records}/in*",
        f"--schema={records}/schema.json",
        f"--output={records}/out",
        "--max_rejected_fraction=0.5",
    )
    assert done.returncode == 0, done.stderr
    info = json.loads((records / "out" / "info.json").read_text())
    assert info["records_read"] == info["records_written"] + info["records_rejected"]
    assert sum(info["rejected_by_reason"].values()) == 1


def test_overwrite_of_a_link_to_a_directory_replaces_what_is_in_the_directory(records: Path) -> None:
    (records / "real").mkdir()
    (records / "real" / "old").write_text("old")
    (records / "out").symlink_to(records / "real")
    done = command("pipelines.preprocess", *flags(records, "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert (records / "out").is_symlink() and (records / "real" / "info.json").exists()
    assert not (records / "real" / "old").exists()


def test_a_shard_that_grows_between_the_passes_is_named(records: Path) -> None:
    """The statistics would be of other records than those that are written."""
    grown = (
        "import sys\n"
        "from pipelines.preprocessing import steps\n"
        "transform = steps.transform_shard\n"
        "def grow(output, shard, *rest):\n"
        "    with open(shard.path, 'rb') as stream:\n"
        "        data = stream.read()\n"
        "    with open(shard.path, 'ab') as stream:\n"
        "        stream.write(data)\n"
        "    return transform(output, shard, *rest)\n"
        "steps.transform_shard = grow\n"
        "from pipelines.preprocess import run\n"
        "from vcls_model.commands import main\n"
        "main(run)"
    )
    done = subprocess.run(
        [sys.executable, "-c", grown, *flags(records)], cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
    )
    one_line(done, 1, "changed while it was read: it had", "bytes when the job began", "--resume")
    assert not (records / "out" / "info.json").exists()


def test_a_layer_that_no_memory_holds_is_refused_before_it_is_made(video_data: Path, tmp_path: Path) -> None:
    done = command("vcls_model.train", f"--data={video_data}", f"--output={tmp_path}/m", "--hidden_units=1000000000")
    one_line(done, 2, "--hidden_units=1000000000", "GB")


@pytest.mark.parametrize("number", ["EIO", "ESTALE", "ENOSPC", "EFBIG", "EDQUOT", "EROFS"])
def test_errors_of_the_system_are_one_line(number: str, tmp_path: Path) -> None:
    """With the name of a file, as the system reports most, and without one, as a failing close does."""
    for name in ("None", "'/data/scores/info.json'"):
        text = (
            "import errno, os\n"
            "from vcls_model.commands import main\n"
            "def run(argv):\n"
            f"    error = OSError(errno.{number}, os.strerror(errno.{number}))\n"
            f"    error.filename = {name}\n"
            "    raise error\n"
            "main(run)"
        )
        done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS)
        one_line(done, 1, "--resume", *([] if name == "None" else ["/data/scores/info.json"]))
