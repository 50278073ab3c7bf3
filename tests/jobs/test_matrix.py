"""Every command with every one of its inputs, named in every hostile way, and damaged in every common way.

A new command or flag is a row of `NAMED` or `READ`, a new kind of name or damage an entry of `NAMES` or `DAMAGES`.
Cells stop where the work would begin: at `--dry_run` or at the plan.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipelines import score as score_job
from tests.fixtures.media import write_encoders
from tests.fixtures.scores import write_scores
from tests.fixtures.scoring import make_videos, serialise, write_shard
from vcls_model import states, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.schema import schema_by_name

NAMES = {
    "brackets": "[D_DATA]",
    "star": "a*",
    "two stars": "**",
    "question mark": "w?x",
    "comma": "a,b",
    "braces": "{a,b}",
    "spaces": " s p ",
    "newline": "a\nb",
    "dash": "-x",
    "unicode": "ä出",
    "quotes": 'it\'s "so"',
    "percent": "%41#x=1&y",
    "not UTF-8": os.fsdecode(b"\xff\xfe"),
    "200 characters": "n" * 200,
    "tilde": "~",
    "dollar": "$HOME",
    "backslash": "a\\[b",
}


def make_socket(path: Path) -> None:
    # A socket's name is short: it is made in its directory. It stays when it is closed.
    before = os.open(".", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)
        os.fchdir(before)
    os.close(before)


# What takes the place of a file: nothing, bytes, or what is not a file at all.
DAMAGES: dict[str, bytes | Callable[[Path], None] | None] = {
    "absent": None,
    "empty": b"",
    "zeros": bytes(300),
    "an error page": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>\n",
    "bytes of no text": bytes(range(256)) * 4,
    "cut JSON": b'{"schema": {"name":',
    "an empty object": b"{}",
    "a list": b"[]",
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "no end": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
}

Flags = Mapping[str, str]


def preprocess(flags: Flags, text: Callable[[], str]) -> Any:
    from pipelines.preprocess import run

    run([f"--{name}={value}" for name, value in flags.items()] + ["--dry_run"])
    return text().split("output:")[0]


def score(flags: Flags, text: Callable[[], str]) -> Any:
    from pipelines.score import run

    return run([f"--{name}={value}" for name, value in flags.items()] + ["--dry_run"])


def metrics(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.metrics.__main__ import run

    return run([f"--{name}={value}" for name, value in flags.items()])


def report(flags: Flags, text: Callable[[], str]) -> Any:
    from pipelines.report import run

    return run([f"--{name}={value}" for name, value in flags.items()])["recommendations"]


def train(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.train import make_plan, parse_config

    plan = make_plan(parse_config([f"--{name}={value}" for name, value in flags.items()]))
    return plan.data.records, plan.modalities


def initialised(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.train import make_plan, make_trainer, parse_config

    make_trainer(make_plan(parse_config([f"--{name}={value}" for name, value in flags.items()])))


def tune(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.training.search import open_search
    from vcls_model.tune import parse_tune_config

    open_search(parse_tune_config([f"--{name}={value}" for name, value in flags.items()]))


def ensemble(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.ensemble import make_plan, parse_config

    plan = make_plan(
        parse_config([f"--model={OTHER['ensemble']}", *(f"--{name}={value}" for name, value in flags.items())])
    )
    return [member.info for member in plan.members]


def extract(flags: Flags, text: Callable[[], str]) -> Any:
    from pipelines.extract import run

    run([f"--{name}={value}" for name, value in flags.items()] + ["--dry_run"])
    return text().split("output:")[0]


def label(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.serving.live.files import FilesConfig

    config = FilesConfig.of([flags["files"]], flags["output"], "json", 10)
    return [os.path.basename(path) for path in config.files]


def serve(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.serve import make_parser
    from vcls_model.serving.live.opening import open_model

    return [info.name for info in open_model(make_parser().parse_args([f"--model={flags['model']}"])).classes]


def events(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.serving.live.sinks import LinesFile

    if "events" in flags:
        LinesFile(flags["events"]).close()
        return os.path.getsize(flags["events"])
    return 0


def everyday(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.everyday import run

    def names(files: Any, model: object) -> dict[str, None]:
        return {os.path.basename(path): None for path in files.files}

    with (
        mock.patch("vcls_model.serving.live.everyday.EverydayModel.of"),
        mock.patch("vcls_model.serving.live.files.label_files", names),
    ):
        return run([flags["files"], f"--output={flags['output']}"])


def everyday_model(flags: Flags, text: Callable[[], str]) -> Any:
    from vcls_model.everyday import run

    def export(everyday: object, media: object, output: str) -> None:
        storage.write_json(storage.join(output, "info.json"), {})

    with (
        mock.patch("vcls_model.serving.everyday.Everyday.load"),
        mock.patch("vcls_model.serving.everyday_export.export_everyday", export),
    ):
        run([f"--output={flags['output']}", "--overwrite"])
    return sorted(name for name in os.listdir(flags["output"]) if not name.startswith("."))


# A second model for commands that take several.
OTHER: dict[str, Path] = {}

COMMANDS = {
    "extract": extract,
    "extract of folders": extract,
    "label": label,
    "serve": serve,
    "serve with events": events,
    "everyday": everyday,
    "everyday model": everyday_model,
    "preprocess of given splits": preprocess,
    "preprocess": preprocess,
    "score": score,
    "metrics": metrics,
    "metrics of segments": metrics,
    "report": report,
    "train": train,
    "train from a model": initialised,
    "train with a teacher": initialised,
    "tune": tune,
    "ensemble": ensemble,
}

# (command, flag) whose path gets every name of NAMES.
NAMED = [
    ("extract", "labels"),
    ("extract", "vocabulary"),
    ("extract", "output"),
    ("extract of folders", "input"),
    ("label", "files"),
    ("label", "output"),
    ("everyday", "files"),
    ("everyday", "output"),
    ("everyday model", "output"),
    ("serve with events", "events"),
    ("preprocess", "input"),
    ("preprocess", "vocabulary"),
    ("preprocess", "schema"),
    ("preprocess", "output"),
    ("preprocess of given splits", "train_input"),
    ("preprocess of given splits", "validate_input"),
    ("score", "input"),
    ("score", "model"),
    ("score", "thresholds"),
    ("score", "output"),
    ("metrics", "predictions"),
    ("metrics", "labels"),
    ("metrics", "slices"),
    ("metrics", "vocabulary"),
    ("metrics", "output"),
    ("metrics", "details"),
    ("metrics of segments", "predictions"),
    ("metrics of segments", "ratings"),
    ("report", "scores"),
    ("report", "baseline"),
    ("report", "output"),
    ("train", "data"),
    ("train", "output"),
    ("tune", "data"),
    ("tune", "output"),
    ("ensemble", "model"),
    ("ensemble", "output"),
]
# (command, flag) whose file, or whose directory's info.json, gets every damage of DAMAGES. Damaged shards need a run:
# test_public_reports.py has them.
READ = [
    ("extract", "labels"),
    ("extract", "vocabulary"),
    ("serve", "model"),
    ("preprocess", "vocabulary"),
    ("preprocess", "schema"),
    ("score", "model"),
    ("score", "thresholds"),
    ("metrics", "predictions"),
    ("metrics", "labels"),
    ("metrics", "slices"),
    ("metrics", "vocabulary"),
    ("metrics of segments", "predictions"),
    ("metrics of segments", "ratings"),
    ("report", "scores"),
    ("report", "baseline"),
    ("report", "model"),
    ("report", "data"),
    ("train", "data"),
    ("train from a model", "init_from"),
    ("train with a teacher", "teacher"),
    ("tune", "data"),
    ("ensemble", "model"),
    ("ensemble", "data"),
]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, model: Path, video_data: Path, trained: Path
) -> dict[str, dict[str, Path]]:
    """Sound inputs: a file or a directory for each flag of each command, under plain names."""
    root = tmp_path_factory.mktemp("world")
    write_shard(root / "records" / "v0.tfrecord", [serialise(video) for video in make_videos(20, 0)])
    (root / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{index},c{index}\n" for index in range(30)))
    schema = {**schema_by_name("yt8m-video").to_dict(), "class_count": 30}
    (root / "schema.json").write_text(json.dumps(schema))
    (root / "predictions.csv").write_text("VideoId,LabelConfidencePairs\na,1 0.9 0 0.2\nb,0 0.8 2 0.1\n")
    (root / "labels.csv").write_text("id,labels\na,1\nb,2\n")
    (root / "slices.csv").write_text("id,year\na,2015\nb,2016\n")
    (root / "segments.csv").write_text("VideoId,LabelConfidencePairs\na:0,1 0.9 0 0.2\nb:5,0 0.8 2 0.1\n")
    (root / "ratings.csv").write_text("segment,class,rating\na:0,1,1\na:0,0,0\nb:5,2,1\n")
    write_scores(root / "scores", videos=60, class_count=12)
    write_shard(root / "others" / "v1.tfrecord", [serialise(video) for video in make_videos(20, 1)])
    score_job.run([f"--input={root}/others/*.tfrecord", f"--model={model}", f"--output={root}/thresholds"])
    for name in ("cat/a.mp4", "dog/b.mp4", "dog/c.mp4"):
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "videos" / name).write_bytes(b"not looked into")
    rows = [f"{root}/videos/cat/a.mp4,0", f"{root}/videos/dog/b.mp4,1"]
    (root / "videos.csv").write_text("\n".join(["path,labels", *rows, ""]))
    (root / "animals.csv").write_text("index,name\n0,cat\n1,dog\n")
    encoders = write_encoders(root)
    EXTRA["extract"] = {"image_encoder": str(encoders.colours), "audio_encoder": "none"}
    EXTRA["extract of folders"] = {**EXTRA["extract"], "labels": "folders"}
    # For flags that READ damages and no command needs.
    write_scores(root / "baseline", videos=60, class_count=12)
    for flag, source in (("model", trained), ("data", video_data), ("teacher", trained)):
        shutil.copytree(source, root / flag)
    OTHER["ensemble"] = Path(shutil.copytree(trained, root / "second"))
    records, vocabulary = root / "records", root / "vocabulary.csv"
    return {
        "extract": {"labels": root / "videos.csv", "vocabulary": root / "animals.csv"},
        "extract of folders": {"input": root / "videos"},
        "label": {"files": root / "videos" / "cat" / "a.mp4"},
        "serve": {"model": model},
        "serve with events": {},
        "everyday": {"files": root / "videos" / "cat" / "a.mp4"},
        "everyday model": {},
        "preprocess of given splits": {"train_input": records, "validate_input": root / "others"},
        "preprocess": {"input": records, "vocabulary": vocabulary, "schema": root / "schema.json"},
        "score": {"input": records, "model": model},
        "metrics": {
            "predictions": root / "predictions.csv",
            "labels": root / "labels.csv",
            "slices": root / "slices.csv",
            "vocabulary": vocabulary,
        },
        "metrics of segments": {"predictions": root / "segments.csv", "ratings": root / "ratings.csv"},
        "report": {"scores": root / "scores"},
        "train": {"data": video_data},
        "train from a model": {"data": video_data, "init_from": model},
        "train with a teacher": {"data": video_data, "teacher": trained},
        "tune": {"data": video_data},
        "ensemble": {"model": trained},
    }


# How the files of an input are called, where they are not shards.
FILES = {"extract of folders": "*/*.mp4"}
EXTRA = {
    "tune": {"search": "hidden_units=choice:8,16"},
    "metrics": {"class_count": "30"},
    "metrics of segments": {"class_count": "30"},
}
# What names a place to write to.
WRITTEN = ("output", "details", "events")
OUTPUT = {"metrics": "metrics.json", "metrics of segments": "metrics.json"}


def flags_of(command: str, paths: Mapping[str, Path], output: Path) -> dict[str, str]:
    files = FILES.get(command, "*.tfrecord")
    flags = {flag: f"{path}/{files}" if flag.endswith("input") else str(path) for flag, path in paths.items()}
    return {**flags, "output": str(output / OUTPUT.get(command, "out")), **EXTRA.get(command, {})}


def placed(source: Path, directory: Path, name: str) -> Path:
    """A copy of an input below `directory`, whose own name, or for a file whose directory's, is `name`."""
    target = directory / name
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    target.mkdir()
    return Path(shutil.copy(source, target / source.name))


def make_terminal_lenient() -> None:
    """What `commands.main` does: a stream shows the escape of a character that it cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def plain(world: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command makes of its inputs under plain names; filled when first asked for."""
    return {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("command", "flag"), NAMED, ids=lambda value: value)
def test_a_path_is_a_path_whatever_its_name(
    command: str,
    flag: str,
    name: str,
    world: dict[str, dict[str, Path]],
    plain: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    make_terminal_lenient()
    call, paths = COMMANDS[command], dict(world[command])
    optional = flag not in paths and flag not in WRITTEN
    if optional:  # no cell but this one gives it
        paths[flag] = world["preprocess"]["vocabulary"].parent / flag

    def text() -> str:
        return capsys.readouterr().out

    key = f"{command} with {flag}" if optional else command
    if key not in plain:
        plain[key] = call(flags_of(command, paths, tmp_path / "plain"), text)
    place = tmp_path / "place"
    place.mkdir()
    if flag in paths:
        paths[flag] = placed(paths[flag], place, NAMES[name])
    flags = flags_of(command, paths, tmp_path / "made")
    if flag == "output":
        flags["output"] = str(place / NAMES[name] / OUTPUT.get(command, ""))
    elif flag in WRITTEN:
        flags[flag] = str(place / NAMES[name])
    assert call(flags, text) == plain[key]
    assert set(os.listdir(place)) <= {NAMES[name]}


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails where the block hangs."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError(f"it hangs: {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("command", "flag"), READ, ids=lambda value: value)
def test_a_damaged_input_is_one_line_that_names_it(
    command: str,
    flag: str,
    damage: str,
    world: dict[str, dict[str, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    content, paths = DAMAGES[damage], dict(world[command])
    source = paths.get(flag, world["preprocess"]["vocabulary"].parent / flag)
    paths[flag] = copy = placed(source, tmp_path, "damaged")
    if copy.is_dir():
        copy /= "thresholds.csv" if flag == "thresholds" else "info.json"
    copy.unlink()
    if isinstance(content, bytes):
        copy.write_bytes(content)
    elif content is not None:
        content(copy)
    with pytest.raises((UsageError, JobError, OSError)) as raised, within(30):
        COMMANDS[command](flags_of(command, paths, tmp_path / "made"), lambda: capsys.readouterr().out)
    message = str(raised.value)
    assert "damaged" in message and "\n" not in message, message
    if isinstance(raised.value, OSError):  # the command line prints these as one line
        assert raised.value.filename and raised.value.strerror


# (command, flag, what its directory must be).
DIRECTORIES = [
    ("extract of folders", "input", None),
    ("serve", "model", states.MODEL),
    ("preprocess", "input", states.RECORDS),
    ("score", "input", states.RECORDS),
    ("score", "model", states.MODEL),
    ("score", "thresholds", states.SCORES),
    ("metrics", "predictions", None),
    ("report", "scores", states.SCORES),
    ("report", "baseline", states.SCORES),
    ("report", "model", states.MODEL),
    ("report", "data", states.DATASET),
    ("train", "data", states.DATASET),
    ("train from a model", "init_from", states.MODEL),
    ("train with a teacher", "teacher", states.MODEL),
    ("tune", "data", states.DATASET),
    ("ensemble", "model", states.MODEL),
    ("ensemble", "data", states.DATASET),
]


@pytest.fixture(scope="module")
def directories(
    world: dict[str, dict[str, Path]], model: Path, video_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A directory of each kind; what few jobs read have their info.json alone, whose keys those jobs' tests check."""
    root = tmp_path_factory.mktemp("kinds")
    described = {
        states.RECORDS: {"rows": 1, "seconds": 1.0},
        states.SEARCH: {"best": {"path": "best/model"}, "trials": []},
        states.REPORT: {"report": "report.html", "figures": []},
    }
    for kind, info in described.items():
        (root / kind).mkdir()
        (root / kind / "info.json").write_text(json.dumps(info))
    return {
        **{kind: root / kind for kind in described},
        states.DATASET: video_data,
        states.MODEL: model,
        states.SCORES: world["preprocess"]["vocabulary"].parent / "thresholds",
        "a part of a transformed dataset": video_data / "train",
        "a part of an exported model": model / "saved_model",
        "a part of a scores directory": world["preprocess"]["vocabulary"].parent / "thresholds" / "predictions",
        "plain records": world["preprocess"]["input"],
    }


@pytest.mark.parametrize(("command", "flag", "expected"), DIRECTORIES)
def test_a_directory_of_another_kind_is_called_what_it_is(
    command: str,
    flag: str,
    expected: str | None,
    world: dict[str, dict[str, Path]],
    directories: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    for kind, directory in directories.items():
        if kind == expected or (command == "metrics" and kind == "a part of a scores directory"):
            continue
        flags = flags_of(command, world[command], tmp_path / "made") | {flag: str(directory)}
        with pytest.raises((UsageError, JobError)) as raised:
            COMMANDS[command](flags, lambda: capsys.readouterr().out)
        message = str(raised.value)
        assert str(directory) in message and "damaged" not in message and "\n" not in message, message
        if kind in (states.DATASET, states.MODEL, states.SCORES, states.SEARCH, states.REPORT):
            assert f"is {kind}, not " in message, message
        if expected is not None and kind == f"a part of {expected}":
            assert message.endswith(f"name the whole, {directory.parent}"), message
    if expected == states.MODEL:
        flags[flag] = str(directories[states.SEARCH])
        with pytest.raises(UsageError, match="its best model is best/model"):
            COMMANDS[command](flags, lambda: capsys.readouterr().out)
