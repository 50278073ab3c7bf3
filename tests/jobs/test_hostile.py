"""A hostile day: jobs in processes of their own, with signals, and input that is not a file at all.

Every command must end, within seconds unless the machine is busy, with one line that names what is wrong, and leave a
state to go on from.
"""

import contextlib
import errno
import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import extract, preprocess, report
from tests.conftest import ROOT
from tests.fixtures.held import JOBS, held_job, job_flags
from tests.fixtures.records import VIDEO, float_feature, videos, write_shard
from tests.fixtures.scores import write_scores
from vcls_model import everyday, label, train, tune
from vcls_model.commands import UsageError

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


KINDS = ("pipe", "socket", "device", "directory")


@contextlib.contextmanager
def no_file(kind: str, path: Path) -> Iterator[None]:
    """Something at `path` that is not a file."""
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            before = os.getcwd()
            os.chdir(path.parent)  # names of sockets are short
            server.bind(path.name)
            os.chdir(before)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["pipelines.preprocess", pytest.param("pipelines.score", marks=pytest.mark.slow)])
def test_a_shard_that_is_no_file_is_refused(
    kind: str, module: str, records: Path, request: pytest.FixtureRequest
) -> None:
    path = records / "in2.tfrecord"
    more = [f"--schema={records}/schema.json"]
    if module.endswith("score"):
        more = [f"--model={request.getfixturevalue('model')}"]
    with no_file(kind, path):
        done = command(module, f"--input={path}", f"--output={records}/out", *more)
    one_line(done, 2, "in2.tfrecord", "directory" if kind == "directory" else "not a file")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", [extract, label, everyday])
def test_media_that_are_no_file_are_refused(kind: str, job: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    flags = [f"--input={path}", f"--output={tmp_path}/out"] if job is extract else [str(path)]
    with (
        no_file(kind, path),
        pytest.raises(UsageError, match="clip.mp4.*" + ("directory" if kind == "directory" else "not a file")),
    ):
        job.run(flags)


def test_inputs_are_looked_at_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    """Under a limit, or on a busy machine, loading Beam and TensorFlow takes a minute."""
    os.mkfifo(tmp_path / "in.tfrecord")
    flags = [f"--input={tmp_path}/in.tfrecord", f"--output={tmp_path}/out"]
    data = [f"--data={tmp_path}/none", f"--output={tmp_path}/out"]
    lines = {
        "pipelines.preprocess": flags,
        "pipelines.extract": flags,
        "pipelines.score": [*flags, "--model=m"],
        "vcls_model.train": [*data, "--model=dense"],
        "vcls_model.tune": [*data, "--model=dense", "--search=hidden_units=choice:8:16"],
        "vcls_model.ensemble": [*data, f"--model={tmp_path}/a", f"--model={tmp_path}/b"],
    }
    code = (
        "import importlib, sys\n"
        "from vcls_model.commands import JobError, UsageError\n"
        f"for module, flags in {lines!r}.items():\n"
        "    try:\n"
        "        importlib.import_module(module).run(flags)\n"
        "    except (JobError, UsageError) as error:\n"
        "        print(error, file=sys.stderr)\n"
        "print([name for name in ('apache_beam', 'tensorflow', 'keras') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS)
    assert done.stdout == "[]\n", done.stderr
    assert done.stderr.count("in.tfrecord' is a pipe, a socket or a device") == 3
    assert done.stderr.count("it is not there") == 2 and f"model directory {tmp_path}/a has no info.json" in done.stderr


# Of each job that --resume continues; the others in the long run of the tests.
OF_EVERY_JOB = pytest.mark.parametrize(
    "job", [job if job == "preprocess" else pytest.param(job, marks=pytest.mark.long) for job in JOBS]
)


@pytest.mark.slow
@OF_EVERY_JOB
def test_a_terminated_job_says_how_to_go_on_and_leaves_no_lock(
    job: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = [*job_flags(job, tmp_path, request), f"--output={tmp_path}/out"]
    with held_job(job, flags, tmp_path / "mark", seconds=2) as process:
        process.terminate()
        _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    if job != "train":
        assert re.search(r"\d of \d|measured all 2 shards", errors)  # what is done, and of how much
    assert "terminated. What was finished stays: the same command goes on with --resume" in errors
    assert not (tmp_path / "out" / ".vcls-lock").exists()
    done = command(JOBS[job][0], *flags, "--resume")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@OF_EVERY_JOB
def test_a_killed_job_is_continued_with_a_note_about_its_lock(
    job: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = [*job_flags(job, tmp_path, request), f"--output={tmp_path}/out"]
    with held_job(job, flags, tmp_path / "mark") as process:
        # A second job is refused while the first works, whatever its flags are.
        for more in ("--overwrite", "--resume"):
            one_line(command(JOBS[job][0], *flags, more), 2, "is being written by another job")
    done = command(JOBS[job][0], *flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"removing the lock of a job that has ended ({job}, process {process.pid} on" in done.stderr


@pytest.mark.slow
def test_features_too_large_for_float32_are_named(records: Path) -> None:
    name = VIDEO.modalities[0].name
    rows = [
        video.example(**{name: float_feature(*[(-1) ** number * 3e38] * VIDEO.modalities[0].width)})
        for number, video in enumerate(videos(20, VIDEO, prefix="large"))
    ]
    write_shard(records / "in2.tfrecord", rows)
    one_line(command("pipelines.preprocess", *flags(records)), 1, name, "3e+38", "--normalise=none")


@pytest.mark.slow
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


@pytest.mark.slow
def test_overwrite_of_a_link_to_a_directory_replaces_what_is_in_the_directory(records: Path) -> None:
    (records / "real").mkdir()
    (records / "real" / "old").write_text("old")
    (records / "out").symlink_to(records / "real")
    done = command("pipelines.preprocess", *flags(records, "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert (records / "out").is_symlink() and (records / "real" / "info.json").exists()
    assert not (records / "real" / "old").exists()


@pytest.mark.slow
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


@pytest.mark.parametrize("output", ["", " "])
def test_no_job_takes_an_output_without_a_name_for_the_working_directory(
    output: str, video_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--output=$OUT --overwrite` where OUT is not set would empty it."""
    write_shard(tmp_path / "in.tfrecord", [video.example() for video in videos(5, VIDEO)])
    (tmp_path / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "precious").write_text("precious")
    monkeypatch.chdir(tmp_path / "here")
    records, data = [f"--input={tmp_path}/in.tfrecord"], [f"--data={video_data}"]
    for job, given in (
        (preprocess, [*records, f"--schema={tmp_path}/schema.json"]),
        (report, [f"--scores={tmp_path}"]),
        (train, data),
        (tune, [*data, "--model=dense", "--search=hidden_units=choice:8:16"]),
    ):
        with pytest.raises(UsageError, match="the output has no name"):
            job.run([*given, f"--output={output}", "--overwrite"])
        assert os.listdir() == ["precious"]


@pytest.mark.slow
def test_a_layer_that_no_memory_holds_is_refused_before_it_is_made(video_data: Path, tmp_path: Path) -> None:
    done = command("vcls_model.train", f"--data={video_data}", f"--output={tmp_path}/m", "--hidden_units=1000000000")
    one_line(done, 2, "--hidden_units=1000000000", "GB")


# What fails where the last files of a job get their names.
_FAILING = """
import errno, os, sys
from {module} import run
from vcls_model.commands import main
replace = os.replace
def failing(source, target):
    if target.endswith({last!r}):
        raise OSError(errno.{number}, os.strerror(errno.{number}))  # without the name of a file
    replace(source, target)
os.replace = failing
main(run)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "number"), [("score", "EIO"), pytest.param("score", "ENOSPC", marks=pytest.mark.long), ("report", "ESTALE")]
)
def test_an_error_at_the_end_is_one_line_and_the_job_goes_on(
    job: str, number: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if job == "score":
        flags, more, last = job_flags(job, tmp_path, request), "--resume", "metrics.json"
    else:
        flags, more, last = [f"--scores={write_scores(tmp_path / 'in', videos=20)}"], "--overwrite", "report.html"
    flags = [*flags, f"--output={tmp_path}/out"]
    code = _FAILING.format(module=f"pipelines.{job}", last=last, number=number)
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
    )
    one_line(done, 1, os.strerror(getattr(errno, number)), more)
    assert not (tmp_path / "out" / "info.json").exists() and not (tmp_path / "out" / ".vcls-lock").exists()
    again = command(f"pipelines.{job}", *flags, more)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / last).exists()


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


def test_a_bucket_that_does_not_answer_is_one_line_within_seconds(tmp_path: Path) -> None:
    """As users run it: whatever Google's clients still try in the background ends with the command."""
    pytest.importorskip("apache_beam.io.gcp.gcsio", reason="apache-beam[gcp] is not installed")
    flags = ["--input=gs://bucket/in*", "--output=gs://bucket/out", "--runner=Dataflow", "--project=p", "--region=r"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        silent = {"STORAGE_EMULATOR_HOST": f"http://{address}", "GCE_METADATA_HOST": address}
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.preprocess", *flags, "--temp_location=gs://bucket/tmp", "--dry_run"],
            cwd=ROOT,
            env={**os.environ, **silent, "GOOGLE_APPLICATION_CREDENTIALS": "", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    one_line(done, 1)
    assert re.search("does not answer within 5 s|no Google credentials", done.stderr)
    assert time.monotonic() - started < 30  # 15 when the machine is free


def test_a_device_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    """/dev/null as an output: whoever runs as root would put a file in its place."""
    device = tmp_path / "device.json"
    os.mkfifo(device)
    (tmp_path / "predictions.csv").write_text("VideoId,LabelConfidencePairs\na,1 0.9\n")
    (tmp_path / "labels.csv").write_text("id,labels\na,1\n")
    flags = [f"--predictions={tmp_path}/predictions.csv", f"--labels={tmp_path}/labels.csv"]
    one_line(command("vcls_model.metrics", *flags, f"--output={device}"), 1, "device.json is a pipe, a socket or a")
    assert stat.S_ISFIFO(device.stat().st_mode)
    assert len(os.listdir(tmp_path)) == 3  # nothing half-written beside it
    device = device.rename(tmp_path / "device.csv")
    flags = [f"--predictions={device}", f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/metrics.json"]
    one_line(command("vcls_model.metrics", *flags), 1, "device.csv' is a pipe, a socket or a device, not a file")


@pytest.mark.parametrize(("job", "name"), [(everyday, "labels.csv"), (label, "labels")])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(job: Any, name: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"never read")
    with pytest.raises(UsageError, match="clip.mp4 is a file, not a directory"):
        job.run([str(clip), f"--output={clip}/{name}"])
