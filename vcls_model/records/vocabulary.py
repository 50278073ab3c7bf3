"""Class vocabularies: which name and verticals belong to a class index."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence

from vcls_model import storage
from vcls_model.commands import UsageError

_INDEX_COLUMNS = ("index", "label_id")
_NAME_COLUMNS = ("name", "display_name")
_MACHINE_ID_COLUMNS = ("knowledgegraphid", "mid")
_VERTICAL_COLUMNS = ("vertical1", "vertical2", "vertical3")
_MOST_CLASSES = 1_000_000


@dataclasses.dataclass(frozen=True)
class ClassInfo:
    """One class.

    Attributes:
        index: position in a model's output.
        name: display name; `class 17` where the vocabulary has none.
        verticals: up to three broad topics.
        train_count: number of training videos, if the vocabulary says so.
        best_threshold: probability with the best F1 on validation, if a model has chosen one.
    """

    index: int
    name: str
    verticals: tuple[str, ...] = ()
    train_count: int | None = None
    best_threshold: float | None = None


def unnamed_classes(class_count: int) -> list[ClassInfo]:
    """A vocabulary for data without one."""
    return [ClassInfo(index, f"class {index}") for index in range(class_count)]


def read_vocabulary(text: str, origin: str, class_count: int | None = None) -> list[ClassInfo]:
    """Parses YouTube-8M's vocabulary.csv, AudioSet's class_labels_indices.csv or our labels.csv.

    Columns are identified by name, in any order and case; only the index is required. Indices may come in any order and
    leave gaps, which become unnamed classes.

    Args:
        text: the file's content, with or without a byte order mark.
        origin: its path, for messages.
        class_count: number of classes C that the vocabulary is for; by default its highest index + 1.

    Returns:
        C classes, by index.

    Raises:
        UsageError: no header with an index column, an index that is not a number, occurs twice or lies outside
            [0, C), or no class at all.
    """
    known: dict[int, ClassInfo] = {}
    for line, row in _rows(text, origin):
        info = _class_info(row, f"vocabulary {origin}, line {line}")
        if info.index in known:
            raise UsageError(f"vocabulary {origin}, line {line}: class {info.index} is listed twice")
        known[info.index] = info
    if not known:
        raise UsageError(f"vocabulary {origin} names no class")
    highest = max(known)
    if class_count is None:
        class_count = highest + 1
    if highest >= class_count:
        raise UsageError(f"vocabulary {origin} names class {highest}, but there are {class_count} classes")
    return [known.get(index) or ClassInfo(index, f"class {index}") for index in range(class_count)]


def load_vocabulary(path: str, class_count: int | None = None) -> list[ClassInfo]:
    """Reads a vocabulary file; see `read_vocabulary`.

    Raises:
        UsageError: as there, or the file is not UTF-8.
        OSError: there is no such file.
    """
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"vocabulary {path} is not UTF-8: {error}") from None
    return read_vocabulary(text, path, class_count)


def check_same_classes(
    what: str, names: Sequence[str], other: str, other_names: Sequence[str], advice: str = ""
) -> None:
    """Checks that two things speak of the same classes in the same order.

    A class that one of them leaves without a name (`class 17`) is the same class as the other's.

    Args:
        what, other: what has the classes, for the message: `--teacher=models/big`, `the data`.
        names, other_names: names by class index.
        advice: the end of the message: what to do about it.

    Raises:
        UsageError: they have different numbers of classes, or a class has different names.
    """
    if len(names) != len(other_names):
        raise UsageError(
            f"{what} and {other} have different numbers of classes: {len(names)} and {len(other_names)}{advice}"
        )
    for index, (one, two) in enumerate(zip(names, other_names, strict=True)):
        unnamed = rf"class {index}( \(.*\))?"
        if one != two and not re.fullmatch(unnamed, one) and not re.fullmatch(unnamed, two):
            difference = f"class {index} is {one!r} in one, {two!r} in the other"
            raise UsageError(f"{what} and {other} have different classes: {difference}{advice}")


def write_labels_csv(classes: Sequence[ClassInfo], thresholds: Sequence[float] | None = None) -> str:
    """The text of labels.csv: index, name, vertical1 ... 3, best_threshold, train_count.

    Args:
        classes: C classes, by index.
        thresholds: C best thresholds, probabilities; by default those that `classes` carry.

    Raises:
        ValueError: the numbers of thresholds and classes differ.
    """
    if thresholds is None:
        chosen: Sequence[float | None] = [info.best_threshold for info in classes]
    elif len(thresholds) != len(classes):
        raise ValueError(f"{len(thresholds)} thresholds for {len(classes)} classes")
    else:
        chosen = [float(value) for value in thresholds]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["index", "name", *_VERTICAL_COLUMNS, "best_threshold", "train_count"])
    for info, threshold in zip(classes, chosen, strict=True):
        verticals = (*info.verticals, "", "", "")[:3]
        writer.writerow(
            [
                info.index,
                info.name,
                *verticals,
                "" if threshold is None else repr(threshold),
                "" if info.train_count is None else info.train_count,
            ]
        )
    return stream.getvalue()


def _rows(text: str, origin: str) -> list[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        if not any(column in _INDEX_COLUMNS for column in header):
            raise UsageError(f"vocabulary {origin} has no column named index (columns: {', '.join(header) or 'none'})")
        return [(reader.line_num, dict(zip(header, row, strict=False))) for row in reader if any(row)]
    except csv.Error as error:
        raise UsageError(f"vocabulary {origin}, line {reader.line_num}: {error}") from None


def _class_info(row: dict[str, str], where: str) -> ClassInfo:
    text = _first(row, _INDEX_COLUMNS)
    try:
        index = int(text)
    except ValueError:
        raise UsageError(f"{where}: the index {text!r} is not a number") from None
    if not 0 <= index < _MOST_CLASSES:
        raise UsageError(f"{where}: the index {index} is outside [0, {_MOST_CLASSES})")
    machine_id = _first(row, _MACHINE_ID_COLUMNS)
    name = _first(row, _NAME_COLUMNS) or (f"class {index} ({machine_id})" if machine_id else f"class {index}")
    verticals = tuple(value for value in (_first(row, (column,)) for column in _VERTICAL_COLUMNS) if value)
    train_count = _first(row, ("train_count", "trainvideocount"))
    threshold = _first(row, ("best_threshold",))
    try:
        return ClassInfo(
            index, name, verticals, int(train_count) if train_count else None, float(threshold) if threshold else None
        )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _first(row: dict[str, str], columns: Sequence[str]) -> str:
    return next((row[column].strip() for column in columns if row.get(column)), "")
