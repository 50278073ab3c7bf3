"""Tables and JSON with mutated bytes: every reader of every command takes them or says in one line which file is wrong.

The short variant runs with the other tests; the long one gives each input a minute of processor time.
"""

import dataclasses
import io
import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pipelines.extracting.labels import index_labels, of_table
from pipelines.scoring.thresholds import choose_thresholds
from tests.fixtures.records import FRAME
from tests.fixtures.scores import add_segments, write_scores, write_unlabelled
from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run as metrics
from vcls_model.records.schema import Modality, RecordSchema
from vcls_model.records.shards import read_batches, resolve_schema
from vcls_model.records.transformed import open_transformed
from vcls_model.records.vocabulary import load_vocabulary
from vcls_model.serving.exported import read_exported_model

QUICK_SECONDS = 1.0
SLOW_SECONDS = 60.0

# What people and programs put into cells.
CELLS = (
    b"", b" ", b"nan", b"NaN", b"inf", b"-inf", b"1e400", b"-1", b"0.5", b"1.0", b"1e0", b"+1", b"99999999999999999999",
    b"9223372036854775807", b"1_000", "\u0661".encode(), b"0x1", b"None", b"null", b"true", b'"', b'""', b"''", b"\0",
    "\u00e9".encode("latin-1"), "\u97f3\U0001f3b5".encode(), b";", b",", b"|", b"\t", b"\r", b"\n", b"\r\n", b"1;1",
    b"1 0.5 1", b"=1+1", b"#", b"id", b"labels", b"index", b"{}", b"[]", b"[[", b"1e5", b"00123", b"-0", b"1,5",
)  # fmt: skip
SEPARATORS = (b",", b";", b"\t", b"|", b" ", b":")
ENCODINGS = ("utf-16", "utf-8-sig", "utf-16-le", "utf-32", "cp1252")


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Up to four changes: what is done, and two numbers that say where and how."""
    kinds = ("flip", "cut", "insert", "cell", "line", "drop", "separator", "encoding", "swap", "splice")
    number = st.integers(0, 1 << 20)
    return draw(st.lists(st.tuples(st.sampled_from(kinds), number, number), min_size=1, max_size=4))


def mutated(data: bytes, changes: Sequence[tuple[str, int, int]]) -> bytes:
    """`data` after the changes."""
    for kind, where, how in changes:
        at = where % (len(data) + 1)
        lines = data.split(b"\n")
        line = where % len(lines)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << how % 8)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] if how % 2 else data[:at] + data[at + how % 64 :]
        elif kind == "insert":
            data = data[:at] + bytes([how % 256]) * (1 + how % 3) + data[at:]
        elif kind == "cell":
            # Between two separators, so that the table stays one.
            parts = [place for place, byte in enumerate(data) if byte in b',;:|\t\n {}[]"']
            begin = parts[where % len(parts)] + 1 if parts else 0
            end = next((place for place in parts if place >= begin), len(data))
            data = data[:begin] + CELLS[how % len(CELLS)] + data[end:]
        elif kind == "line":
            data = b"\n".join([*lines[: line + 1], lines[how % len(lines)], *lines[line + 1 :]])
        elif kind == "drop":
            data = b"\n".join(lines[:line] + lines[line + 1 :])
        elif kind == "separator":
            data = data.replace(SEPARATORS[where % len(SEPARATORS)], SEPARATORS[how % len(SEPARATORS)])
        elif kind == "encoding":
            text = data.decode("utf-8", "replace")
            data = text.encode(ENCODINGS[how % len(ENCODINGS)], "replace")
        elif kind == "swap" and len(lines) > 1:
            lines[line], lines[how % len(lines)] = lines[how % len(lines)], lines[line]
            data = b"\n".join(lines)
        elif kind == "splice" and data:
            other = how % len(data)
            data = data[:at] + data[other : other + 1 + where % 40] + data[at:]
    return data


@dataclasses.dataclass(frozen=True)
class Input:
    """A file that a command reads: valid contents by suffix, and how it is read."""

    contents: Sequence[tuple[str, bytes]]
    read: Callable[[Path], Any]


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def parquet(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def npz_variants() -> list[bytes]:
    """Predictions and labels as arrays of other types and shapes, which no flipped byte would give."""
    good = {
        "logits": np.eye(3, dtype=np.float32),
        "ids": np.array(["a", "b", "c"]),
        "label_flat": np.array([0, 1, 2]),
        "label_lens": np.array([1, 1, 1]),
    }
    changes: list[dict[str, Any]] = [
        {},
        {"logits": np.full((3, 3), np.nan, np.float32)},
        {"logits": np.full((3, 3), np.inf)},
        {"logits": np.zeros((3, 0), np.float32)},
        {"logits": np.zeros((0, 3), np.float32), "ids": np.zeros(0, "U1"), "label_lens": np.zeros(0, int)},
        {"logits": np.ones((3, 3), bool)},
        {"logits": np.ones((3, 3), np.complex64)},
        {"logits": np.ones((3, 3), "S1")},
        {"logits": np.ones((3, 3), "M8[s]")},
        {"logits": np.ones((3, 3, 1))},
        {"ids": np.array([1.5, 2, 3])},
        {"ids": np.array([1, 2, 3])},
        {"ids": np.array(["a", "a", "b"])},
        {"ids": np.array([b"a", b"\xff", b"c"])},
        {"ids": np.array([True, False, True])},
        {"ids": np.array(["a", "", "c"])},
        {"ids": np.array("a")},
        {"ids": np.array([1, 2, 3], "M8[D]")},
        {"ids": np.array([(1, "x"), (2, "y"), (3, "z")], [("a", int), ("b", "U1")])},
        {"label_flat": np.array([0, 1, 1 << 62])},
        {"label_flat": np.array([0, 1, -1])},
        {"label_flat": np.array([0, 1, 7])},
        {"label_flat": np.array([0.0, np.nan, 1])},
        {"label_flat": np.array([0, 1, 2], np.uint64) + np.uint64(1 << 63)},
        {"label_flat": np.zeros((3, 1), int)},
        {"label_lens": np.array([0, 0, 3])},
        {"label_lens": np.array([3, -1, 1])},
        {"label_lens": np.array([1 << 62, 1 << 62, 3])},
        {"label_lens": np.array([1.0, 1.0, 1.0])},
        {"label_lens": np.array([[1, 1, 1]])},
    ]  # fmt: skip
    return [npz(**{**good, **change}) for change in changes]


def parquet_variants() -> list[bytes]:
    """The same as tables."""
    good: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "class_index": [[0, 1], [1, 2], [2]],
        "probability": [[0.9, 0.1], [0.8, 0.2], [0.7]],
        "labels": [[0], [1], None],
    }
    lists = pa.list_(pa.int64())
    changes: list[dict[str, Any]] = [
        {},
        {"id": [1, 2, 3]},
        {"id": [1.5, 2.0, 3.0]},
        {"id": [None, "b", "c"]},
        {"id": [b"a", b"\xff", b""]},
        {"id": [["a"], ["b"], ["c"]]},
        {"id": pa.array(["a", "a", "b"]).dictionary_encode()},
        {"id": pa.array([1, 2, 3], pa.timestamp("s"))},
        {"class_index": [0, 1, 2]},
        {"class_index": [None, None, None]},
        {"class_index": [[0, None], [1, 2], [2]]},
        {"class_index": [[0.5, 1.0], [1, 2], [2]]},
        {"class_index": [["0", "1"], ["1", "2"], ["2"]]},
        {"class_index": [[[0, 1]], [[1, 2]], [[2]]]},
        {"class_index": [[0, 0], [1, 2], [2]]},
        {"class_index": [[0, -1], [1, 2], [2]]},
        {"class_index": [[0, 1 << 62], [1, 2], [2]]},
        {"class_index": [{"a": 1}, {"a": 2}, {"a": 3}]},
        {"class_index": pa.array([[0, 1], [1, 2], [2]], pa.large_list(pa.int8()))},
        {"class_index": pa.array([[0, 1], [1, 2], [2, 3]], pa.list_(pa.int32(), 2))},
        {"probability": [[0.9, 1.1], [0.8, 0.2], [0.7]]},
        {"probability": [[0.9, float("nan")], [0.8, 0.2], [0.7]]},
        {"probability": [[0.9, None], [0.8, 0.2], [0.7]]},
        {"probability": [["0.9", "x"], ["0.8", "0.2"], ["0.7"]]},
        {"probability": [[True, False], [True, False], [True]]},
        {"probability": [None, [0.8, 0.2], [0.7]]},
        {"labels": ["0", "1;2", ""]},
        {"labels": ["0", "x", None]},
        {"labels": [0, 1, None]},
        {"labels": [0.0, 1.0, None]},
        {"labels": [0.5, 1.0, None]},
        {"labels": [[0.0], [float("nan")], [1.0]]},
        {"labels": [[None], [1], None]},
        {"labels": [[], [], []]},
        {"labels": [[[0]], [[1]], None]},
        {"labels": [[0], [-1], None]},
        {"labels": pa.array([[0], [1 << 62], None], lists)},
        {"labels": [True, False, None]},
        {"labels": [None, None, None]},
        {"labels": [{"a": 0}, {"a": 1}, None]},
        {"labels": pa.array([b"0", b"\xff", None])},
    ]  # fmt: skip
    return [parquet(**{**good, **change}) for change in changes]


def features(path: Path) -> None:
    """What preprocess and score read of a CSV: the schema its header gives, or one from before; then its rows."""
    given = RecordSchema(
        "csv", "csv", "id", "labels", (Modality("features", 2, "vector", "float32", columns=("red", "green")),)
    )
    schemas = [given]
    try:
        schemas.append(resolve_schema("auto", str(path)))
    except UsageError as error:
        one_line(error, path)
    for schema in schemas:
        for scoring in (False, True):
            try:
                list(
                    read_batches(
                        str(path), schema, class_count=3, require_labels=not scoring, drop_unknown_labels=scoring,
                        batch_bytes=256,
                    )
                )  # fmt: skip
            except JobError as error:
                one_line(error, path)


def one_line(error: BaseException, path: Path) -> None:
    """Fails unless the message is one line that names the file, or the directory that holds it."""
    message = str(error)
    if isinstance(error, OSError):
        assert error.filename and error.strerror
        return
    assert "\n" not in message and "\r" not in message, repr(message)
    assert path.name in message or path.parent.name in message, message


PAIRS = b"VideoId,LabelConfidencePairs\na,0 0.9 1 0.1\nb,1 0.8 2 0.2\nc,2 0.7\n"
LABELS = b"id,labels\na,0\nb,1;2\nc,\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, model: Path, video_data: Path) -> dict[str, Input]:
    """Every input by command and flag."""
    place = tmp_path_factory.mktemp("sound")
    (place / "p.csv").write_bytes(PAIRS)
    (place / "l.csv").write_bytes(LABELS)
    for name in ("a.mp4", "b.mp4"):
        (place / name).write_bytes(b"x")
    (place / "s.csv").write_bytes(b"VideoId,LabelConfidencePairs\nx:0,0 0.9 1 0.2\nx:5,1 0.7\n")
    (place / "r.csv").write_bytes(b"segment,class,rating\nx:0,0,1\nx:0,1,0\nx:5,1,1\n")
    (place / "records.tfrecord").write_bytes(b"")
    media = storage.list_files(f"{place}/*.mp4")

    def measure(flag: str, **others: str) -> Callable[[Path], Any]:
        return lambda path: metrics(
            [f"--{flag}={path}", *(f"--{name}={place}/{file}" for name, file in others.items())]
            + [f"--output={place}/m.json"]
        )

    def extract(path: Path) -> None:
        copy = place / path.name
        shutil.copyfile(path, copy)
        try:
            index_labels(of_table(str(copy), media, ("rgb", "audio")), None)
        finally:
            copy.unlink()

    def schema(path: Path) -> None:
        resolve_schema(str(path), str(place / "records.tfrecord")).to_dict()

    def in_copy(directory: Path, name: str, read: Callable[[str], Any]) -> Input:
        """A file of a directory that a command reads: the others stay as they are."""

        def call(path: Path) -> None:
            copy = path.parent / "copied"
            if not copy.exists():
                copy.mkdir()
                for entry in directory.iterdir():
                    if entry.name != name:
                        (copy / entry.name).symlink_to(entry)
            target = copy / name
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
            read(str(copy))

        return Input([(Path(name).suffix, (directory / name).read_bytes())], call)

    def report(directory: str) -> None:
        from pipelines.report import run

        run([f"--scores={directory}", f"--output={place}/report", "--overwrite"])

    def thresholds(directory: str) -> None:
        choose_thresholds(directory, [read_exported_model(str(model))], [], "test", optimistic=False)

    def data(directory: str) -> None:
        opened = open_transformed(directory)
        opened.training_shards()
        opened.all_labelled()

    def exported(directory: str) -> None:
        opened = read_exported_model(directory)
        opened.class_thresholds()
        opened.splits()

    scores = write_scores(place / "scores", videos=30, class_count=6)
    add_segments(scores, 6, [0, 1, 1], [1.0, 0.5, -1.0], [1, 0, 1])
    unlabelled = write_unlabelled(place / "unlabelled", videos=20, class_count=6)
    chosen = place / "thresholds"
    (chosen / "state").mkdir(parents=True)
    (chosen / "info.json").write_text("{}")
    shutil.copyfile(model / "labels.csv", chosen / "thresholds.csv")
    (chosen / "state" / "settings.json").write_text(
        json.dumps({"models": [read_exported_model(str(model)).identity], "split": None})
    )
    vocabulary = b"Index,Name,Vertical1,TrainVideoCount\n0,Flash,A,10\n1,Flash,,2\n2,\xe9\x9f\xb3,B,1\n"
    audioset = b'index,mid,display_name\n0,/m/09x0r,"Speech, male"\n1,/m/0ytgt,Child\n'
    wanted = {
        "preprocess and score: features": Input(
            [
                (".csv", b"id,labels,red,green\na,0,1,0.5\nb,1;2,0,2\nc,,3,4\n"),
                (".csv", b"id;labels;red;green\na;0;1;0.5\nb;1 2;0;2\n"),
                (".csv", b'"id","labels","rgb_0","rgb_1","audio_0"\n"a, b","0","1","2","3"\n'),
                (".csv", b",id,labels,red,green\n0,a,0,1,0.5\n1,b,1,0,2\n"),
            ],
            features,
        ),
        "preprocess: schema": Input([(".json", json.dumps(FRAME.to_dict()).encode())], schema),
        "preprocess, score, metrics, extract: vocabulary": Input(
            [(".csv", vocabulary), (".csv", audioset)], lambda path: load_vocabulary(str(path))
        ),
        "metrics: predictions": Input(
            [
                (".csv", PAIRS),
                *[(".npz", data) for data in npz_variants()],
                *[(".parquet", data) for data in parquet_variants()],
            ],
            measure("predictions", labels="l.csv"),
        ),
        "metrics: predictions with their labels": Input(
            [
                *[(".npz", data) for data in npz_variants()],
                *[(".parquet", data) for data in parquet_variants()],
            ],
            measure("predictions"),
        ),
        "metrics: labels": Input(
            [
                (".csv", LABELS),
                *[(".npz", data) for data in npz_variants()],
                *[(".parquet", data) for data in parquet_variants()],
            ],
            measure("labels", predictions="p.csv"),
        ),
        "metrics: slices": Input(
            [(".csv", b"id,year\na,2015\nb,2016\nc,2016\n")], measure("slices", predictions="p.csv", labels="l.csv")
        ),
        "metrics: ratings": Input(
            [(".csv", (place / "r.csv").read_bytes())], measure("ratings", predictions="s.csv")
        ),
        "metrics: submission": Input(
            [(".csv", b"Class,Segments\n0,x:0 x:5\n1,x:5 x:0\n")], measure("predictions", ratings="r.csv")
        ),
        "extract: labels": Input(
            [
                (".csv", b"path,labels,id,start,end,year\na.mp4,cat;dog,v1,0,2,2015\nb.mp4,dog,v2,,,2016\n"),
                (".csv", b"file;label\na.mp4;0\nb.mp4;1 2\n"),
            ],
            extract,
        ),
        "train: data": in_copy(video_data, "info.json", data),
        "score: model": in_copy(model, "info.json", exported),
        "score: classes of the model": in_copy(model, "labels.csv", read_exported_model),
        "score: thresholds": in_copy(chosen, "thresholds.csv", thresholds),
        "report: manifest of unlabelled scores": in_copy(unlabelled, "info.json", report),
    }  # fmt: skip
    for name in (
        "info.json",
        "metrics.json",
        "labels.csv",
        "per_class.csv",
        "confusion.csv",
        "examples.json",
        "history.csv",
        "curves.npz",
        "segment_per_class.csv",
    ):
        wanted[f"report: {name}"] = in_copy(scores, name, report)
    return wanted


NAMES = (
    "preprocess and score: features",
    "preprocess: schema",
    "preprocess, score, metrics, extract: vocabulary",
    "metrics: predictions",
    "metrics: predictions with their labels",
    "metrics: labels",
    "metrics: slices",
    "metrics: ratings",
    "metrics: submission",
    "extract: labels",
    "train: data",
    "score: model",
    "score: classes of the model",
    "score: thresholds",
    "report: manifest of unlabelled scores",
    "report: info.json",
    "report: metrics.json",
    "report: labels.csv",
    "report: per_class.csv",
    "report: confusion.csv",
    "report: examples.json",
    "report: history.csv",
    "report: curves.npz",
    "report: segment_per_class.csv",
)


def fuzz(case: Input, place: Path, seconds: float) -> None:
    """Reads mutated contents for so long, of processor time; stops at the first neither taken nor refused by name."""
    end = time.process_time() + seconds
    rounds = 0

    def attempt(suffix: str, data: bytes) -> None:
        path = place / f"mutated{suffix}"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                case.read(path)
            except (UsageError, JobError, OSError) as error:
                one_line(error, path)

    for suffix, data in case.contents:
        attempt(suffix, data)
    while time.process_time() < end:
        rounds += 1

        @seed(rounds)
        @settings(
            max_examples=20,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(range(len(case.contents))), mutations())
        def one(which: int, changes: list[tuple[str, int, int]]) -> None:
            if time.process_time() < end:
                suffix, data = case.contents[which]
                attempt(suffix, mutated(data, changes))

        one()  # fmt: skip


@pytest.fixture
def quiet(capsys: pytest.CaptureFixture[str], undrawn: None) -> None:
    """What the readers print would fill the memory."""


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_table_is_taken_or_refused_by_name(
    name: str, inputs: dict[str, Input], tmp_path: Path, quiet: None
) -> None:
    assert set(inputs) == set(NAMES)
    fuzz(inputs[name], tmp_path, QUICK_SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_minute_of_mutated_tables(name: str, inputs: dict[str, Input], tmp_path: Path, quiet: None) -> None:
    fuzz(inputs[name], tmp_path, SLOW_SECONDS)
