"""Predictions and labels that a user already has, from Parquet, the Kaggle CSV or npz; see `vcls_model.tables`."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.binning import logit_of
from vcls_model.metrics.catalogue import OWN_SLICES
from vcls_model.metrics.slices import NO_VALUE
from vcls_model.records.ids import printable_id
from vcls_model.records.vocabulary import ClassNames, refuse_multi_hot, refuse_multi_hot_pairs
from vcls_model.states import SCORES, kind_of
from vcls_model.tables import Column

_Value = TypeVar("_Value")
_BATCH_VIDEOS = 1024
_ID = Column("id", ("video_id", "videoid", "video"))
_LABELS = Column("labels", ("label", "classes"))
_PAIRS = Column("LabelConfidencePairs")
_SEGMENT = Column("segment", ("id", "segment_id", "segmentid", "video_id", "videoid"))
_CLASS = Column("class", ("class_index", "label"))
_RATING = Column("rating", ("score",))
_SEGMENTS = Column("segments")
_CSV = (".csv", ".tsv")
# Labels beside predictions are indices: nobody says which vocabulary else they would be of.
_INDICES = ClassNames(())


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A batch of videos: their scores by class, dense or sparse, and their labels if the file has them.

    Attributes:
        ids: B video ids.
        indices: one array of class indices per video, or None when the scores are dense.
        logits: one array per video, float32: of `indices`, or of all classes.
        labels: of each video an array of class indices, or None where they are unknown; None: the file has none.
    """

    ids: list[bytes]
    indices: list[np.ndarray] | None
    logits: list[np.ndarray]
    labels: list[np.ndarray | None] | None

    def highest_class(self) -> int:
        """The highest class index that occurs; -1 for none."""
        if self.indices is None:
            return max((row.size - 1 for row in self.logits), default=-1)
        rows = [*self.indices, *(row for row in self.labels or [] if row is not None)]
        return max((int(row.max()) for row in rows if row.size), default=-1)

    def check(self, class_count: int, path: str) -> None:
        """Raises `JobError` when a class index is not below C, or dense scores have another number of classes."""
        highest = dataclasses.replace(self, labels=None).highest_class()
        if highest >= class_count or (self.indices is None and highest + 1 != class_count):
            raise JobError(f"{path}: the predictions have {highest + 1} classes, but {class_count} are expected")

    def dense(self, class_count: int) -> np.ndarray:
        """(B, C) float32 logits; a class that the file leaves out gets -infinity, probability 0."""
        if self.indices is None:
            return np.stack(self.logits)
        result = np.full((len(self.ids), class_count), -np.inf, np.float32)
        for row, indices, logits in zip(result, self.indices, self.logits, strict=True):
            row[indices] = logits
        return result


def prediction_files(path: str) -> list[str]:
    """The files of predictions that a user names: those of a path or pattern, or all Parquet files of a directory, or
    else all CSVs of it. Says on standard error what of a directory is left out.

    Raises:
        UsageError: it is a directory that a job left, but not one of predictions.
        JobError: there are none, or one is of another kind.
    """
    if kind := kind_of(path):
        inside = storage.join(path, "predictions") if kind == SCORES else "those of a scores directory, as predictions/"
        raise UsageError(f"--predictions={path} is {kind}, not predictions: name {inside}")
    names = storage.list_names(path)
    chosen = [name for name in names if _suffix(name) == ".parquet"] or [
        name for name in names if _suffix(name) in _CSV
    ]
    others = [name for name in names if name not in chosen and _suffix(name) in _READERS]
    if chosen and others:
        print(f"warning: {path}: not read beside {chosen[0]}: {', '.join(others[:5])}", file=sys.stderr)
    try:
        files = [storage.join(path, name) for name in chosen] or [file for file, _, _ in storage.list_files(path)]
    except UsageError as error:
        raise JobError(f"--predictions: {error}") from None
    for file in files:
        if _suffix(file) not in _READERS:
            raise JobError(f"{file}: predictions must be .parquet, .csv (VideoId,LabelConfidencePairs) or .npz")
    return files


def read_predictions(files: Iterable[str]) -> Iterator[Predictions]:
    """Reads `prediction_files`, in batches.

    Raises:
        JobError: one is not of its kind, or a value in it is out of range; the message says where.
    """
    for file in files:
        yield from _READERS[_suffix(file)](file)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def read_labels(path: str, names: ClassNames) -> dict[bytes, np.ndarray | None]:
    """True class indices by video id, from Parquet (id, labels), npz (ids, label_flat, label_lens) or a CSV with the
    columns id and labels: class indices separated by blanks or semicolons, or names separated by semicolons.

    Args:
        path: of the file.
        names: what text may call the classes.

    Returns:
        By id an ascending array without repetitions, int64. A null (of Parquet) is None: the labels are unknown. An
        empty cell or list says that the video has none of the classes.

    Raises:
        JobError: as for `read_predictions`; or an id comes twice.
    """
    if not storage.exists(path):
        raise JobError(f"no labels at {path}")
    suffix = _suffix(path)
    if suffix == ".npz":
        return _unique(zip(*_npz_labels(path), strict=True), path)
    if suffix == ".parquet":
        return _unique(_parquet_labels(path, names), path)
    if suffix in _CSV:
        return {
            row["id"].encode(): _named_labels(row["labels"], row.where, names)
            for row in _identified(tables.read_csv(path, (_ID, _LABELS), unique="id"), "id")
        }
    raise JobError(f"{path}: labels must be .parquet, .csv or .npz")


def read_slices(path: str) -> tuple[str, dict[bytes, str]]:
    """A feature's name and its value by video id, from a CSV with a column of ids and one of the feature.

    Raises:
        JobError: as for `read_predictions`; an id comes twice, or there is no column beside the id, or several, or one
            with the name of slices that there are anyway.
    """
    if not storage.exists(path):
        raise JobError(f"no feature values at {path}")
    header = tables.read_header(path)
    others = [name for name in header.names if name.lower() not in _ID.headings and not tables.is_counter(name)]
    if len(others) != 1:
        raise JobError(
            f"{path} must have a column id and one column of values; it has {', '.join(map(repr, header.names))}"
        )
    if others[0] in OWN_SLICES:
        raise JobError(f"{path}: the metrics have slices called {others[0]!r} of their own: name the column otherwise")
    rows = _identified(tables.read_csv(path, (_ID, Column(others[0])), unique="id"), "id")
    return others[0], {row["id"].encode(): row[others[0]] or NO_VALUE for row in rows}


def read_ratings(path: str) -> dict[bytes, dict[int, int]]:
    """The ratings of each segment: class -> 1 (present) or 0 (absent); from a CSV of segment, class, rating.

    Raises:
        JobError: as for `read_predictions`; or a rating is neither 0 nor 1, or given twice.
    """
    if not storage.exists(path):
        raise JobError(f"no ratings at {path}")
    ratings: dict[bytes, dict[int, int]] = {}
    for row in _identified(tables.read_csv(path, (_SEGMENT, _CLASS, _RATING)), "segment"):
        index = _class_index(row["class"], row.where)
        rating = tables.whole_number(row["rating"], row.where, "a rating of 0 or 1")
        if rating not in (0, 1):
            raise JobError(f"{row.where}: expected a rating of 0 or 1, got {row['rating']!r}")
        of_segment = ratings.setdefault(row["segment"].encode(), {})
        if index in of_segment:
            raise JobError(f"{row.where}: class {index} of {row['segment']} is rated twice")
        of_segment[index] = rating
    if not ratings:
        raise JobError(f"{path} holds no rating")
    return ratings


def is_segment_ranking(path: str) -> bool:
    """Whether a file has the layout of the 2019 challenge: a CSV of Class,Segments."""
    if _suffix(path) not in _CSV or not storage.exists(path):
        return False
    return {"class", "segments"} <= {name.lower() for name in tables.read_header(path).names}


def read_segment_ranking(path: str) -> Iterator[tuple[int, list[bytes]]]:
    """Classes and the ids of their segments, best first, from a CSV of Class,Segments (ids separated by spaces).

    Raises:
        JobError: a class is not a whole number or occurs twice, or a segment occurs twice in a class.
    """
    seen: set[int] = set()
    for row in tables.read_csv(path, (_CLASS, _SEGMENTS)):
        index = _class_index(row["class"], row.where)
        if index in seen:
            raise JobError(f"{row.where}: expected a class that no earlier line has, got {index}")
        seen.add(index)
        segments = [segment.encode() for segment in row["segments"].split()]
        if len(set(segments)) != len(segments):
            raise JobError(f"{row.where}: a segment is named twice for class {index}")
        yield index, segments


def _class_index(text: str, where: str) -> int:
    index = tables.whole_number(text, where, "a class index")
    if index < 0:
        raise JobError(f"{where}: expected a class index, got {index}")
    return index


def _identified(rows: Iterable[tables.Row], column: str) -> Iterator[tables.Row]:
    for row in rows:
        if not row[column]:
            raise JobError(f"{row.where}: the {column} is empty")
        yield row


def _unique(pairs: Iterable[tuple[bytes, _Value]], path: str) -> dict[bytes, _Value]:
    values: dict[bytes, _Value] = {}
    for identity, value in pairs:
        if identity in values:
            raise JobError(f"{path}: the id {printable_id(identity)} occurs twice")
        values[identity] = value
    return values


def _read_parquet(path: str) -> Iterator[Predictions]:
    columns = (_ID, Column("class_index"), Column("probability"), Column("labels", required=False))
    file = tables.open_parquet(path)
    names = tables.parquet_columns(file, columns, path)
    row = 0
    for batch in tables.parquet_batches(file, path, _BATCH_VIDEOS, list(names.values())):
        cells = {name: batch.column(own).to_pylist() for name, own in names.items()}
        rows = [f"{path}, row {row + place}" for place in range(batch.num_rows)]
        row += batch.num_rows
        refuse_multi_hot_pairs(cells.get("labels", ()), path)
        pairs = [
            _scored(indices, probabilities, where)
            for indices, probabilities, where in zip(cells["class_index"], cells["probability"], rows, strict=True)
        ]
        yield Predictions(
            [tables.id_bytes(value, where) for value, where in zip(cells["id"], rows, strict=True)],
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            [_label_cell(value, where, _INDICES) for value, where in zip(cells["labels"], rows, strict=True)]
            if "labels" in cells
            else None,
        )


def _named_labels(text: str, where: str, names: ClassNames) -> np.ndarray:
    labels = np.unique(np.array(names.labels_of(text, where), np.int64))
    if labels.size and labels[0] < 0:
        raise JobError(f"{where}: expected class indices, got {labels[0]}")
    return labels


def _parquet_labels(path: str, class_names: ClassNames) -> Iterator[tuple[bytes, np.ndarray | None]]:
    file = tables.open_parquet(path)
    names = tables.parquet_columns(file, (_ID, _LABELS), path)
    row = 0
    for batch in tables.parquet_batches(file, path, _BATCH_VIDEOS, list(names.values())):
        identities, values = (batch.column(name).to_pylist() for name in names.values())
        refuse_multi_hot_pairs(values, path)
        for identity, value in zip(identities, values, strict=True):
            where = f"{path}, row {row}"
            row += 1
            yield tables.id_bytes(identity, where), _label_cell(value, where, class_names)


def _label_cell(value: object, where: str, names: ClassNames) -> np.ndarray | None:
    """The labels in a cell of Parquet: one or a list of indices or texts, or null: unknown."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        return _named_labels(_text(value, where), where, names)
    if isinstance(value, list) and value and all(isinstance(each, str | bytes) for each in value):
        return _named_labels(";".join(_text(each, where) for each in value), where, names)
    indices = tables.whole_numbers(_array(value, where), f"{where}, labels", "class indices")
    if (indices < 0).any():
        raise JobError(f"{where}, labels: expected class indices, got {indices.min()}")
    refuse_multi_hot(indices.tolist(), f"{where}, labels")
    return np.unique(indices)


def _text(value: str | bytes, where: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise JobError(f"{where}: the label {value!r} is not UTF-8") from None


def _array(value: object, where: str) -> np.ndarray:
    """A cell as a one-dimensional array."""
    if isinstance(value, np.ndarray):
        return value
    cells = value if isinstance(value, list) else [value]
    if any(cell is None for cell in cells):
        raise JobError(f"{where}: a null inside a list")
    try:
        array = np.array(cells if cells else np.zeros(0, np.int64))
    except ValueError:
        array = np.zeros((1, 1))
    if array.ndim != 1:
        raise JobError(f"{where}: expected a list of numbers, got lists inside a list")
    return array


def _read_kaggle(path: str) -> Iterator[Predictions]:
    ids: list[bytes] = []
    indices: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    for row in _identified(tables.read_csv(path, (_ID, _PAIRS)), "id"):
        parts = row["LabelConfidencePairs"].split()
        if len(parts) % 2:
            raise JobError(f"{row.where}: an odd number of values; expected pairs of class and confidence")
        try:
            values = np.array(parts, np.float64)
        except ValueError:
            values = np.array([tables.number(part, row.where, "pairs of class and confidence") for part in parts])
        chosen, scored = _scored(values[::2], values[1::2], row.where)
        ids.append(row["id"].encode())
        indices.append(chosen)
        logits.append(scored)
        if len(ids) == _BATCH_VIDEOS:
            yield Predictions(ids, indices, logits, None)
            ids, indices, logits = [], [], []
    if ids:
        yield Predictions(ids, indices, logits, None)


def _read_npz(path: str) -> Iterator[Predictions]:
    arrays = tables.read_npz(path, ("logits", "ids"), ("label_flat", "label_lens"))
    logits, ids = arrays["logits"], _npz_ids(arrays["ids"], path)
    if logits.dtype.kind not in "fiu":
        raise JobError(f"{path}: the array logits must hold numbers, got {logits.dtype} values")
    if logits.ndim != 2 or len(ids) != len(logits):
        raise JobError(f"{path}: logits must be (B, C) with B ids, got {logits.shape} and {len(ids)} ids")
    labels = _lists_of(arrays, len(ids), path) if "label_flat" in arrays else None
    for first in range(0, len(ids), _BATCH_VIDEOS):
        part = slice(first, first + _BATCH_VIDEOS)
        with np.errstate(over="ignore"):  # a logit beyond float32 becomes infinite, which ranks as it should
            rows = list(logits[part].astype(np.float32))
        yield Predictions(ids[part], None, rows, None if labels is None else list(labels[part]))


def _npz_labels(path: str) -> tuple[list[bytes], list[np.ndarray]]:
    arrays = tables.read_npz(path, ("ids", "label_flat", "label_lens"))
    ids = _npz_ids(arrays["ids"], path)
    return ids, _lists_of(arrays, len(ids), path)


def _npz_ids(ids: np.ndarray, path: str) -> list[bytes]:
    if ids.ndim != 1:
        raise JobError(f"{path}: the array ids must have one dimension, got {ids.shape}")
    return [tables.id_bytes(value, f"{path}: ids[{place}]") for place, value in enumerate(ids.tolist())]


def _lists_of(arrays: Mapping[str, np.ndarray], count: int, path: str) -> list[np.ndarray]:
    """The labels of each of `count` videos."""
    if "label_lens" not in arrays:
        raise JobError(f"{path} has an array label_flat but no label_lens, the number of labels of each video")
    values, lengths = (
        tables.whole_numbers(arrays[name], f"{path}: the array {name}", what)
        for name, what in (("label_flat", "class indices"), ("label_lens", "numbers of labels"))
    )
    if values.ndim != 1 or lengths.shape != (count,) or (lengths < 0).any() or int(lengths.sum()) != values.size:
        raise JobError(f"{path}: label_lens must have one entry per id and add up to the {values.size} labels")
    if (values < 0).any():
        raise JobError(f"{path}: the array label_flat: expected class indices, got {values.min()}")
    rows = np.split(values, np.cumsum(lengths)[:-1]) if count else []
    lists = [row.tolist() for row in rows]
    refuse_multi_hot_pairs(lists, f"{path}: the array label_flat")
    for each in lists:
        refuse_multi_hot(each, f"{path}: the array label_flat")
    return [np.unique(row) for row in rows]


def _scored(
    indices: npt.ArrayLike | None, probabilities: npt.ArrayLike | None, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Class indices, int64, and logits, float32, of one video."""
    if indices is None or probabilities is None:
        raise JobError(f"{where}: the prediction is null; leave out a video that has none")
    chosen = tables.whole_numbers(_array(indices, where), where, "class indices")
    values = _array(probabilities, where)
    if values.dtype.kind not in "fiu":
        raise JobError(f"{where}: expected probabilities, got {values.dtype} values")
    if chosen.size != values.size:
        raise JobError(f"{where}: {chosen.size} classes, but {values.size} probabilities")
    if (chosen < 0).any() or np.unique(chosen).size != chosen.size:
        raise JobError(f"{where}: class indices must not be negative or occur twice in a video")
    try:
        return chosen, logit_of(values.astype(np.float64)).astype(np.float32)
    except ValueError as error:
        raise JobError(f"{where}: {error}") from None


_READERS = {".parquet": _read_parquet, ".npz": _read_npz, **dict.fromkeys(_CSV, _read_kaggle)}
