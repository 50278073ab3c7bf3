"""Reads the predictions of a Scores directory as far as the report needs them, a batch at a time."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.reporting.inputs.files import floats
from vcls_model import storage, tables
from vcls_model.commands import JobError

_BATCH_ROWS = 8192
_PAIRS = "LabelConfidencePairs"
_ID = "id"


@dataclasses.dataclass(frozen=True)
class Cooccurrence:
    """In how many scored videos the labels hold both classes of a pair, and either: {(a, b): (both, either)}."""

    pairs: dict[tuple[int, int], tuple[int, int]]


def _parts(path: str, suffix: str) -> list[str]:
    directory = storage.join(path, "predictions")
    return [storage.join(directory, name) for name in storage.list_names(directory, suffix)]


def _batches(path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Record batches of all Parquet parts that have these columns; all but the ids are lists of numbers."""
    for part in _parts(path, ".parquet"):
        with tables.open_parquet(part) as file:
            names = tables.parquet_columns(file, [tables.Column(name, required=False) for name in columns], part)
            if len(names) < len(columns):
                continue
            for batch in tables.parquet_batches(file, part, _BATCH_ROWS, list(names.values())):
                yield {
                    name: batch.column(own) if name == _ID else _checked(batch.column(own), f"{part}, column {own}")
                    for name, own in names.items()
                }


def _checked(column: Any, where: str) -> Any:
    """A column that is a list of numbers.

    Raises:
        JobError: it is not.
    """
    import pyarrow.types as types

    if not types.is_list(column.type) or not (
        types.is_integer(column.type.value_type) or types.is_floating(column.type.value_type)
    ):
        raise JobError(f"{where}: expected lists of numbers, got {column.type}: score again")
    return column


def _list_column(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (row of each value, value), without its nulls."""
    offsets = column.offsets.to_numpy()
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    # `flatten` leaves out null lists, whose offsets do not move; `offsets` of a slice start above 0.
    return rows, column.flatten().to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """Some videos with known labels and what was predicted of them.

    Attributes:
        ids: of the B videos.
        rows, classes, probabilities: (n,) one entry per prediction, the best of each video first.
        label_rows, labels: (m,) one entry per label that is a class of the run, each once.
    """

    ids: list[bytes]
    rows: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    label_rows: np.ndarray
    labels: np.ndarray


def labelled_rows(path: str, class_count: int) -> Iterator[LabelledRows]:
    """The predictions of all videos whose labels are known, in the order of the files; none of a Kaggle CSV."""
    import pyarrow.compute

    for batch in _batches(path, (_ID, "class_index", "probability", "labels")):
        known = pyarrow.compute.is_valid(batch["labels"])
        columns = {name: column.filter(known) for name, column in batch.items()}
        rows, classes = _list_column(columns["class_index"])
        _, probabilities = _list_column(columns["probability"])
        label_rows, labels = _list_column(columns["labels"])
        if len(classes) != len(probabilities) or ((classes < 0) | (classes >= class_count)).any():
            raise JobError(f"{path}: a prediction names no class of 0 … {class_count - 1}: score again")
        counted = (labels >= 0) & (labels < class_count)
        # A class that a record names twice counts once.
        label_rows, labels = np.divmod(np.unique(label_rows[counted] * class_count + labels[counted]), class_count)
        ids = [tables.id_bytes(value, f"{path}, predictions") for value in columns[_ID].to_pylist()]
        yield LabelledRows(ids, rows, classes, probabilities, label_rows, labels)


def count_cooccurrence(path: str, pairs: Sequence[tuple[int, int]], class_count: int) -> Cooccurrence | None:
    """How many scored videos carry both labels of each pair, and either; None when the predictions hold no labels."""
    if not pairs:
        return None
    chosen = sorted({index for pair in pairs for index in pair})
    place = np.full(class_count, -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    both = np.zeros((len(chosen), len(chosen)), np.float64)
    seen = False
    for batch in _batches(path, ("labels",)):
        rows, labels = _list_column(batch["labels"])
        seen = True
        known = (labels >= 0) & (labels < class_count)
        columns = place[np.where(known, labels, 0)]
        keep = known & (columns >= 0)
        present = np.zeros((len(batch["labels"]), len(chosen)), np.float32)
        present[rows[keep], columns[keep]] = 1
        both += present.T @ present
    if not seen:
        return None
    found = {}
    for first, second in pairs:
        a, b = place[first], place[second]
        together = int(both[a, b])
        found[first, second] = (together, int(both[a, a] + both[b, b]) - together)
    return Cooccurrence(found)


@dataclasses.dataclass(frozen=True)
class PredictionStatistics:
    """What can be said of predictions without labels.

    Attributes:
        videos: rows read.
        top_edges, top_count: histogram of each video's highest probability: (N + 1,), (N,).
        first: (C,) how often each class is a video's best.
        above: (C,) how often each class reaches the threshold.
        threshold: a probability.
    """

    videos: int
    top_edges: np.ndarray
    top_count: np.ndarray
    first: np.ndarray
    above: np.ndarray
    threshold: float


def prediction_statistics(path: str, class_count: int, threshold: float) -> PredictionStatistics:
    """Counts over all predictions, Parquet or Kaggle CSV."""
    edges = np.linspace(0, 1, 21)
    top_count = np.zeros(20, np.int64)
    first, above = np.zeros(class_count, np.int64), np.zeros(class_count, np.int64)
    videos = 0
    for rows, classes, probabilities, size in _predictions(path):
        videos += size
        valid = (classes >= 0) & (classes < class_count)
        rows, classes, probabilities = rows[valid], classes[valid], probabilities[valid]
        # The best of each row: sort by row, then by falling probability, and take each row's first.
        order = np.lexsort((-probabilities, rows))
        _, starts = np.unique(rows[order], return_index=True)
        best = order[starts]
        first += np.bincount(classes[best], minlength=class_count)
        above += np.bincount(classes[probabilities >= threshold], minlength=class_count)
        top_count += np.histogram(np.clip(probabilities[best], 0, 1), edges)[0]
    return PredictionStatistics(videos, edges, top_count, first, above, threshold)


def _predictions(path: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """(row, class, probability) of every prediction in a batch, and the rows of the batch."""
    for batch in _batches(path, ("class_index", "probability")):
        rows, classes = _list_column(batch["class_index"])
        _, probabilities = _list_column(batch["probability"])
        yield rows, classes, probabilities, len(batch["class_index"])
    parts = [*_parts(path, ".csv"), *(storage.join(path, name) for name in storage.list_names(path, "predictions.csv"))]
    for part in parts:
        # Pairs such as "3 0.9 17 0.2".
        rows_read = list(tables.read_csv(part, (tables.Column("VideoId", ("id",)), tables.Column(_PAIRS))))
        pairs = [row[_PAIRS].split() for row in rows_read]
        if odd := [row.where for row, fields in zip(rows_read, pairs, strict=True) if len(fields) % 2]:
            raise JobError(f"{odd[0]}: an odd number of values; expected pairs of class and confidence")
        places = np.repeat(np.arange(len(pairs)), [len(fields) // 2 for fields in pairs])
        values = floats([value for fields in pairs for value in fields], part)
        yield places, tables.whole_numbers(values[::2], part, "class indices"), values[1::2], len(pairs)
