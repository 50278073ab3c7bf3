"""Reads the directory that `pipelines.score` wrote, and says clearly what is wrong with one that cannot be reported."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.reporting.inputs.files import floats, read_object, read_table
from pipelines.reporting.inputs.manifests import read_classes, read_history, train_counts
from vcls_model import storage, tables
from vcls_model.commands import JobError
from vcls_model.records.vocabulary import ClassInfo, load_vocabulary, shared_names, unnamed_classes
from vcls_model.states import SCORES, ScoresInfo, StoredMetrics, read_state, refuse_other_kind

# Columns of per_class.csv that the report cannot do without.
_REQUIRED = ("index", "support", "ap", "roc_auc", "precision", "recall", "f1", "tp", "fp", "fn")
_COUNTS = ("index", "support", "tp", "fp", "fn")
# Columns that a run may lack; they read as NaN.
_OPTIONAL = (
    "ap_lower",
    "ap_upper",
    "ap_ci_low",
    "ap_ci_high",
    "tn",
    "best_threshold",
    "precision_best",
    "recall_best",
    "f1_best",
    "calibration_error",
    "mean_probability",
)
_BY_CLASS = ("pr_class", "roc_class")
UNKNOWN_VERTICAL = "(Unknown)"


class ClassName(str):
    """A class's name that remembers its index, so that the page can link it; in a CSV it is the name."""

    class_index: int

    @classmethod
    def of(cls, name: str, index: int) -> "ClassName":
        """The name of the class at `index`."""
        made = cls(name)
        made.class_index = index
        return made


@dataclasses.dataclass(frozen=True)
class ScoredExample:
    """One prediction worth looking at: a video id, the class, its probability and the video's true labels."""

    video_id: str
    class_index: int
    probability: float
    labels: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SegmentScores:
    """What a run over rated segments measured.

    Attributes:
        summary: `segments` of metrics.json: map_at_k and its certified interval, k, rated_pairs, and so on.
        rated, positives, ap: (C,) float64 by class: rated segments, those the raters found it in, and AP@K.
    """

    summary: dict[str, Any]
    rated: np.ndarray
    positives: np.ndarray
    ap: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """A scored run.

    Attributes:
        path: where it was read from.
        info: the job's `info.json`.
        summary: `metrics.json`, or None when no record carried labels.
        names: (C,) class names; an empty one reads `class 17`.
        verticals: (C,) verticals of each class, the main one first; () when the vocabulary has none.
        train_count: (C,) training examples of each class, NaN when not recorded.
        columns: numeric columns of `per_class.csv`, each (C,) float64; empty when unlabelled.
        curves: arrays of `curves.npz`; empty when unlabelled.
        confusion: (m, 3) int64 rows of true class, predicted class, count.
        examples: `hits`, `misses` and `false_alarms`, most confident first.
        history: columns of `history.csv`, each (epochs,) float64; empty when the model brought none.
        segments: of rated segments, else None.
    """

    path: str
    info: dict[str, Any]
    summary: dict[str, Any] | None
    names: list[str]
    verticals: list[tuple[str, ...]]
    train_count: np.ndarray
    columns: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    confusion: np.ndarray
    examples: dict[str, list[ScoredExample]]
    history: dict[str, np.ndarray]
    segments: SegmentScores | None = None

    @property
    def class_count(self) -> int:
        """Number of classes C."""
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether the run has metrics at all."""
        return self.summary is not None

    def name(self, index: int) -> ClassName:
        """The name of a class, for a table."""
        return ClassName.of(self.names[index], int(index))

    def distinct_name(self, index: int) -> str:
        """The name of a class, with its index where another class is called the same."""
        return f"{self.names[index]} ({index})" if index in self._namesakes else self.names[index]

    @functools.cached_property
    def _namesakes(self) -> set[int]:
        return {index for indices in shared_names(self.names).values() for index in indices}

    def main_vertical(self, index: int) -> str:
        """The first vertical of a class."""
        return self.verticals[index][0] if self.verticals[index] else UNKNOWN_VERTICAL

    @property
    def has_verticals(self) -> bool:
        """Whether the vocabulary groups its classes."""
        return any(self.verticals)


def read_scores(path: str) -> Scores:
    """Reads a Scores directory.

    Raises:
        UsageError: it is a directory of another kind.
        JobError: it is absent, half written, or its files disagree about the classes.
    """
    refuse_other_kind(path, SCORES)
    info_path = storage.join(path, "info.json")
    if not storage.exists(info_path):
        if not storage.exists(path) and not storage.is_object_store(path):
            raise JobError(f"there is no scores directory {path}")
        raise JobError(f"{path} has no info.json: the score job did not finish there; run it again with --resume")
    info: dict[str, Any] = dict(read_state(info_path, ScoresInfo))
    classes = read_classes(path)
    if not storage.exists(storage.join(path, "metrics.json")):
        if info.get("records_labelled"):
            raise JobError(
                f"{path} lacks metrics.json although {info['records_labelled']} of its records carried labels: the "
                "directory is incomplete; run the score job again with --resume"
            )
        classes = classes or unnamed_classes(_class_count(info, path))
        return Scores(
            path,
            info,
            None,
            [entry.name for entry in classes],
            [entry.verticals for entry in classes],
            train_counts(classes, len(classes)),
            {},
            {},
            np.zeros((0, 3), np.int64),
            {},
            read_history(path),
        )
    summary: dict[str, Any] = dict(read_state(storage.join(path, "metrics.json"), StoredMetrics))
    per_class = read_table(path, "per_class.csv")
    if not per_class:
        raise JobError(f"{path} has metrics.json but no per_class.csv: the directory is incomplete; score again")
    columns = _numeric_columns(per_class, path)
    class_count = len(columns["index"])
    if classes and len(classes) != class_count:
        raise JobError(f"{path}: labels.csv has {len(classes)} classes, per_class.csv has {class_count}")
    if info.get("class_count") not in (None, class_count):
        raise JobError(f"{path}: info.json says {info['class_count']} classes, per_class.csv has {class_count}")
    classes = classes or _classes_of(per_class)
    if storage.exists(thresholds := storage.join(path, "thresholds.csv")):
        load_vocabulary(
            thresholds, class_count, complete=True
        )  # nothing here needs it, but who passes it on relies on this report
    return Scores(
        path,
        info,
        summary,
        [entry.name for entry in classes],
        [entry.verticals for entry in classes],
        train_counts(classes, class_count),
        columns,
        _read_curves(path, class_count),
        _read_confusion(path, class_count),
        _read_examples(path, class_count),
        read_history(path),
        _read_segments(path, summary, class_count),
    )


def _class_count(info: Mapping[str, Any], path: str) -> int:
    if info.get("class_count") is None:
        raise JobError(f"{path} has no labels.csv and its info.json no class_count: the directory is incomplete")
    return int(info["class_count"])


def _classes_of(per_class: Mapping[str, list[str]]) -> list[ClassInfo]:
    """The classes as per_class.csv names them, for a directory without labels.csv."""
    names, joined = (per_class.get(key) or [""] * len(per_class["index"]) for key in ("name", "vertical"))
    return [
        ClassInfo(index, name.strip() or f"class {index}", tuple(part for part in verticals.split("|") if part))
        for index, (name, verticals) in enumerate(zip(names, joined, strict=True))
    ]


def _read_segments(path: str, summary: Mapping[str, Any], class_count: int) -> SegmentScores | None:
    if "segments" not in summary:
        return None
    table = read_table(path, "segment_per_class.csv")
    names = ("rated", "positives", "ap_at_k")
    if any(len(table.get(name, ())) != class_count for name in names):
        raise JobError(
            f"{path}: segment_per_class.csv must have {', '.join(names)} of {class_count} classes: the directory is "
            "incomplete or of an older version; score again"
        )
    rated, positives, ap = (floats(table[name], f"{path}: segment_per_class.csv, column {name},") for name in names)
    return SegmentScores(summary["segments"], rated, positives, ap)


def read_per_model(path: str, class_count: int) -> dict[str, np.ndarray]:
    """Average precision by class, (C,), of each model alone when a run averaged several; {} when it did not.

    Raises:
        JobError: per_model.csv speaks of another number of classes.
    """
    table = read_table(path, "per_model.csv")
    rows = len(table.get("index", ()))
    if table and rows != class_count:
        raise JobError(f"{path}: per_model.csv has {rows} classes, per_class.csv has {class_count}")
    return {
        name: floats(values, f"{path}: per_model.csv, column {name},")
        for name, values in table.items()
        if name != "index"
    }


def _numeric_columns(table: Mapping[str, list[str]], path: str) -> dict[str, np.ndarray]:
    missing = [name for name in _REQUIRED if name not in table]
    if missing:
        raise JobError(f"{path}: per_class.csv lacks the columns {', '.join(missing)}")
    texts = {"name", "vertical", "verticals", "vertical1", "vertical2", "vertical3"}
    columns = {
        name: floats(values, f"{path}: per_class.csv, column {name},")
        for name, values in table.items()
        if name not in texts
    }
    for name in _COUNTS:
        _counts(table[name], f"{path}: per_class.csv, column {name}")
    if infinite := [name for name, values in columns.items() if np.isinf(values).any()]:
        raise JobError(f"{path}: per_class.csv, column {infinite[0]} holds an infinite number")
    if not np.array_equal(columns["index"], np.arange(len(columns["index"]))):
        raise JobError(f"{path}: per_class.csv must list the classes 0, 1, 2, … in order")
    for name in _OPTIONAL:
        columns.setdefault(name, np.full(len(columns["index"]), np.nan))
    return columns


def _read_curves(path: str, class_count: int) -> dict[str, np.ndarray]:
    file = storage.join(path, "curves.npz")
    if not storage.exists(file):
        raise JobError(f"{path} has metrics.json but no curves.npz: the directory is incomplete; score again")
    try:
        arrays = tables.read_npz(file)
    except JobError as error:
        raise JobError(f"{error}: the directory is damaged; score again") from None
    if wrong := [name for name, array in arrays.items() if array.dtype.kind not in "fiu"]:
        raise JobError(f"{file}: the array {wrong[0]} must hold numbers: the directory is damaged; score again")
    curves = {key: array.astype(np.float32 if array.ndim == 2 else np.float64) for key, array in arrays.items()}
    for key, curve in curves.items():
        if curve.ndim != (2 if key in _BY_CLASS else 1):
            raise JobError(
                f"{file}: the array {key} has the shape {curve.shape}: the directory is damaged; score again"
            )
        if key in _BY_CLASS and len(curve) != class_count:
            raise JobError(f"{path}: {key} in curves.npz has {len(curve)} classes, per_class.csv has {class_count}")
    return curves


def _counts(values: list[str], origin: str) -> np.ndarray:
    """Cells as int64, none below 0."""
    counts = tables.whole_numbers(floats(values, origin), origin, "whole numbers")
    if counts.size and counts.min() < 0:
        raise JobError(f"{origin}: expected numbers of at least 0, got {counts.min()}")
    return counts


def _read_confusion(path: str, class_count: int) -> np.ndarray:
    table = read_table(path, "confusion.csv")
    keys = ("true_index", "predicted_index", "count")
    if not table:
        return np.zeros((0, 3), np.int64)
    if any(key not in table for key in keys):
        raise JobError(f"{path}: confusion.csv must have the columns {', '.join(keys)}")
    rows = np.stack([_counts(table[key], f"{path}: confusion.csv, column {key}") for key in keys], axis=1)
    if len(rows) and (rows[:, :2].min() < 0 or rows[:, :2].max() >= class_count):
        raise JobError(f"{path}: confusion.csv names a class outside 0 … {class_count - 1}")
    return rows


def _read_examples(path: str, class_count: int) -> dict[str, list[ScoredExample]]:
    file = storage.join(path, "examples.json")
    if not storage.exists(file):
        return {}
    examples: dict[str, list[ScoredExample]] = {}
    for kind, entries in read_object(file).items():
        try:
            found = [
                ScoredExample(
                    str(entry["id"]),
                    int(entry["class_index"]),
                    float(entry["probability"]),
                    tuple(int(label) for label in entry.get("labels", ())),
                )
                for entry in entries
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise JobError(f"{file}: an entry of {kind} cannot be read: {error}") from None
        if any(not 0 <= example.class_index < class_count for example in found):
            raise JobError(f"{file}: an entry of {kind} names a class outside 0 … {class_count - 1}")
        examples[kind] = found
    return examples


def check_same_classes(scores: Scores, baseline: Scores) -> None:
    """Raises `JobError` unless both runs speak of the same classes in the same order."""
    if scores.class_count != baseline.class_count:
        raise JobError(
            f"the baseline {baseline.path} has {baseline.class_count} classes, {scores.path} has {scores.class_count}: "
            "they cannot be compared"
        )
    for index, (ours, theirs) in enumerate(zip(scores.names, baseline.names, strict=True)):
        unnamed = f"class {index}"  # a vocabulary may leave a class without a name, and another name it
        if ours != theirs and not ours.startswith(unnamed) and not theirs.startswith(unnamed):
            raise JobError(
                f"the baseline {baseline.path} has another vocabulary: class {index} is {theirs!r} there and {ours!r} "
                f"in {scores.path}"
            )
    if not baseline.labelled or not scores.labelled:
        which = baseline.path if not baseline.labelled else scores.path
        raise JobError(f"{which} has no metrics (no record carried labels): there is nothing to compare")
