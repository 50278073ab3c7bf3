"""Predictions and labels that a user already has, from Parquet, the Kaggle CSV or npz."""

import csv
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcls_model.commands import JobError
from vcls_model.metrics.binning import logit_of

_BATCH_VIDEOS = 1024


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A batch of videos: their scores by class, dense or sparse, and their labels if the file has them.

    Attributes:
        ids: B video ids.
        indices: one array of class indices per video, or None when the scores are dense.
        logits: one array per video, float32: of `indices`, or of all classes.
        labels: one array of class indices per video, or None.
    """

    ids: list[bytes]
    indices: list[np.ndarray] | None
    logits: list[np.ndarray]
    labels: list[np.ndarray] | None

    def highest_class(self) -> int:
        """The highest class index that occurs; -1 for none."""
        if self.indices is None:
            return max((row.size - 1 for row in self.logits), default=-1)
        return max((int(row.max()) for row in [*self.indices, *(self.labels or [])] if row.size), default=-1)

    def check(self, class_count: int) -> None:
        """Raises `JobError` when a class index is not below C, or dense scores have another number of classes."""
        highest = self.highest_class()
        if highest >= class_count or (self.indices is None and highest + 1 != class_count):
            raise JobError(f"the predictions have {highest + 1} classes, but {class_count} are expected")

    def dense(self, class_count: int) -> np.ndarray:
        """(B, C) float32 logits; a class that the file leaves out gets -infinity, probability 0."""
        if self.indices is None:
            return np.stack(self.logits)
        result = np.full((len(self.ids), class_count), -np.inf, np.float32)
        for row, indices, logits in zip(result, self.indices, self.logits, strict=True):
            row[indices] = logits
        return result


def read_predictions(path: Path) -> Iterator[Predictions]:
    """Reads a file, or every Parquet file of a directory, in batches.

    Raises:
        JobError: the file is missing, of another kind, or a value in it is out of range; the message says where.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.exists() for file in files):
        raise JobError(f"no predictions at {path}")
    readers = {".parquet": _read_parquet, ".csv": _read_kaggle, ".npz": _read_npz}
    for file in files:
        if file.suffix not in readers:
            raise JobError(f"{file}: predictions must be .parquet, .csv (VideoId,LabelConfidencePairs) or .npz")
        yield from readers[file.suffix](file)


def read_labels(path: Path) -> Mapping[bytes, np.ndarray]:
    """True class indices by video id, from Parquet (id, labels), npz (ids, label_flat, label_lens) or a CSV whose
    first column is the id and whose second the class indices, separated by spaces or semicolons.

    Raises:
        JobError: as for `read_predictions`.
    """
    if not path.exists():
        raise JobError(f"no labels at {path}")
    if path.suffix == ".npz":
        return dict(zip(*_npz_labels(path), strict=True))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = _parquet(path, lambda: pq.read_table(path, columns=["id", "labels"]))
        return {
            str(video_id).encode(): np.array(labels, np.int64)
            for video_id, labels in zip(table["id"].to_pylist(), table["labels"].to_pylist(), strict=True)
        }
    if path.suffix == ".csv":
        return {
            row[0].encode(): _numbers(row[1].replace(";", " "), f"{path}, line {line}").astype(np.int64)
            for line, row in _csv_rows(path)
        }
    raise JobError(f"{path}: labels must be .parquet, .csv or .npz")


def read_slices(path: Path) -> tuple[str, dict[bytes, str]]:
    """A feature's name and its value by video id, from a CSV whose columns are the id and the feature.

    Raises:
        JobError: as for `read_predictions`.
    """
    if not path.exists():
        raise JobError(f"no feature values at {path}")
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = next(csv.reader(stream), [])
    values = {row[0].encode(): row[1] for _, row in _csv_rows(path)}
    return header[1].strip() if len(header) == 2 else "feature", values


def read_ratings(path: Path) -> dict[bytes, dict[int, int]]:
    """The ratings of each segment: class -> 1 (present) or 0 (absent); from a CSV of id, class, rating.

    Raises:
        JobError: as for `read_predictions`; or a rating is neither 0 nor 1, or given twice.
    """
    if not path.exists():
        raise JobError(f"no ratings at {path}")
    ratings: dict[bytes, dict[int, int]] = {}
    for line, row in _csv_rows(path, columns=3):
        where = f"{path}, line {line}"
        index, rating = _numbers(f"{row[1]} {row[2]}", where).tolist()
        if index < 0 or index != int(index) or rating not in (0, 1):
            raise JobError(f"{where}: expected a segment's id, a class and 0 or 1, got {','.join(row)}")
        of_segment = ratings.setdefault(row[0].encode(), {})
        if int(index) in of_segment:
            raise JobError(f"{where}: class {int(index)} of {row[0]} is rated twice")
        of_segment[int(index)] = int(rating)
    if not ratings:
        raise JobError(f"{path} holds no rating")
    return ratings


def is_segment_ranking(path: Path) -> bool:
    """Whether a file has the layout of the 2019 challenge: a CSV of Class,Segments."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline().strip().lower() == "class,segments"


def read_segment_ranking(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Classes and the ids of their segments, best first, from a CSV of Class,Segments (ids separated by spaces).

    Raises:
        JobError: a class is not a whole number or occurs twice, or a segment occurs twice in a class.
    """
    seen: set[int] = set()
    for line, row in _csv_rows(path):
        where = f"{path}, line {line}"
        (index,) = _numbers(row[0] if len(row[0].split()) == 1 else "nan", where).tolist()
        if not index >= 0 or index != int(index) or index in seen:
            raise JobError(f"{where}: expected a class that no earlier line has, got {row[0]!r}")
        seen.add(int(index))
        segments = [segment.encode() for segment in row[1].split()]
        if len(set(segments)) != len(segments):
            raise JobError(f"{where}: a segment is named twice for class {int(index)}")
        yield int(index), segments


def _read_parquet(path: Path) -> Iterator[Predictions]:
    import pyarrow.parquet as pq

    file = _parquet(path, lambda: pq.ParquetFile(path))
    names = file.schema_arrow.names
    if missing := [name for name in ("id", "class_index", "probability") if name not in names]:
        raise JobError(f"{path} has no column {missing[0]} (columns: {', '.join(names)})")
    for batch in file.iter_batches(_BATCH_VIDEOS):
        columns = {name: batch.column(name) for name in names}
        labels = columns["labels"].to_pylist() if "labels" in columns else None
        pairs = [
            _scored(np.array(indices or [], np.int64), np.array(probabilities or [], np.float64), path)
            for indices, probabilities in zip(
                columns["class_index"].to_pylist(), columns["probability"].to_pylist(), strict=True
            )
        ]
        yield Predictions(
            [str(video_id).encode() for video_id in columns["id"].to_pylist()],
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            None if labels is None else [np.array(row or [], np.int64) for row in labels],
        )


def _read_kaggle(path: Path) -> Iterator[Predictions]:
    ids: list[bytes] = []
    indices: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    for line, row in _csv_rows(path):
        where = f"{path}, line {line}"
        pairs = _numbers(row[1], where)
        if pairs.size % 2:
            raise JobError(f"{where}: an odd number of values; expected pairs of class and confidence")
        chosen, scored = _scored(pairs[::2].astype(np.int64), pairs[1::2], where)
        ids.append(row[0].encode())
        indices.append(chosen)
        logits.append(scored)
        if len(ids) == _BATCH_VIDEOS:
            yield Predictions(ids, indices, logits, None)
            ids, indices, logits = [], [], []
    if ids:
        yield Predictions(ids, indices, logits, None)


def _read_npz(path: Path) -> Iterator[Predictions]:
    with _npz(path) as data:
        if "logits" not in data or "ids" not in data:
            raise JobError(
                f"{path} must hold logits (B, C) and ids (B,); it holds {', '.join(data.files) or 'nothing'}"
            )
        logits = data["logits"]
        ids = _id_bytes(data["ids"])
        labelled = "label_flat" in data
    if logits.ndim != 2 or len(ids) != len(logits):
        raise JobError(f"{path}: logits must be (B, C) with B ids, got {logits.shape} and {len(ids)} ids")
    labels = _npz_labels(path)[1] if labelled else None
    for first in range(0, len(ids), _BATCH_VIDEOS):
        part = slice(first, first + _BATCH_VIDEOS)
        yield Predictions(
            ids[part], None, list(logits[part].astype(np.float32)), None if labels is None else labels[part]
        )


def _npz_labels(path: Path) -> tuple[list[bytes], list[np.ndarray]]:
    with _npz(path) as data:
        if missing := [name for name in ("ids", "label_flat", "label_lens") if name not in data]:
            raise JobError(f"{path} has no {missing[0]}; it holds {', '.join(data.files) or 'nothing'}")
        ids, values, lengths = _id_bytes(data["ids"]), data["label_flat"].astype(np.int64), data["label_lens"]
    if len(lengths) != len(ids) or (lengths < 0).any() or lengths.sum() != values.size:
        raise JobError(f"{path}: label_lens must have one entry per id and add up to the {values.size} labels")
    return ids, np.split(values, np.cumsum(lengths)[:-1]) if ids else []


def _npz(path: Path) -> np.lib.npyio.NpzFile:
    try:
        data = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise JobError(f"{path} is not an npz file: {error}") from None
    if not isinstance(data, np.lib.npyio.NpzFile):
        raise JobError(f"{path} holds one array; expected an npz with logits, ids, label_flat and label_lens")
    return data


def _parquet(path: Path, read: Callable[[], Any]) -> Any:
    import pyarrow

    try:
        return read()
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise JobError(f"{path} cannot be read as Parquet: {error}") from None


def _id_bytes(ids: np.ndarray) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in ids.tolist()]


def _csv_rows(path: Path, columns: int = 2) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            next(reader, None)
            for row in reader:
                if not row:
                    continue
                if len(row) != columns:
                    raise JobError(f"{path}, line {reader.line_num}: expected {columns} columns, got {len(row)}")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise JobError(f"{path}, line {reader.line_num}: {error}") from None


def _numbers(text: str, where: str) -> np.ndarray:
    try:
        return np.array([float(part) for part in text.split()])
    except ValueError as error:
        raise JobError(f"{where}: {error}") from None


def _scored(indices: np.ndarray, probabilities: np.ndarray, where: object) -> tuple[np.ndarray, np.ndarray]:
    if indices.size != probabilities.size:
        raise JobError(f"{where}: {indices.size} classes, but {probabilities.size} probabilities")
    if (indices < 0).any() or np.unique(indices).size != indices.size:
        raise JobError(f"{where}: class indices must not be negative or occur twice in a video")
    try:
        return indices, logit_of(probabilities).astype(np.float32)
    except ValueError as error:
        raise JobError(f"{where}: {error}") from None
