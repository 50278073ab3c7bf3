"""Class vocabularies: which name and verticals belong to a class index."""

import dataclasses
import functools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from vcls_model import spreadsheets, storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.records.schema import MOST_CLASSES

_VERTICAL_COLUMNS = ("vertical1", "vertical2", "vertical3")
_COLUMNS = (
    tables.Column("index", ("label_id",)),
    tables.Column("name", ("display_name",), required=False),
    tables.Column("mid", ("knowledgegraphid",), required=False),
    *(tables.Column(name, required=False) for name in _VERTICAL_COLUMNS),
    tables.Column("train_count", ("trainvideocount",), required=False),
    tables.Column("best_threshold", required=False),
    tables.Column("description", ("wikidescription",), required=False),
)
# Fewer classes with names have nothing in common that a model could learn from them.
FEWEST_NAMED = 3
# Names that several classes have are told so often; the report tells them all.
_SHARED_SHOWN = 5
# A label that looks so is a mistaken index rather than a name that is not known.
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ClassInfo:
    """One class.

    Attributes:
        index: position in a model's output.
        name: display name; `class 17` where the vocabulary has none.
        verticals: up to three broad topics.
        train_count: number of training videos, if the vocabulary says so.
        best_threshold: probability with the best F1 on validation, if a model has chosen one.
        description: a text about the class, if the vocabulary has one.
    """

    index: int
    name: str
    verticals: tuple[str, ...] = ()
    train_count: int | None = None
    best_threshold: float | None = None
    description: str = ""

    @property
    def unnamed(self) -> bool:
        """Whether the name says no more than the index."""
        return self.name.startswith(f"class {self.index}")


def unnamed_classes(class_count: int) -> list[ClassInfo]:
    """A vocabulary for data without one."""
    return [ClassInfo(index, f"class {index}") for index in range(class_count)]


def read_vocabulary(
    content: str | bytes, origin: str, class_count: int | None = None, *, tell: bool = False, complete: bool = False
) -> list[ClassInfo]:
    """Parses YouTube-8M's vocabulary.csv, AudioSet's class_labels_indices.csv or our labels.csv.

    Columns are identified by name, in any order and case; only the index is required. Indices may come in any order and
    leave gaps, which become unnamed classes.

    Args:
        content: of the file; for its encoding and separator see `vcls_model.tables`.
        origin: its path, for messages.
        class_count: number of classes C that the vocabulary is for; by default its highest index + 1.
        tell: say on standard error which classes it leaves out, and which have a name in common.
        complete: a job of this project wrote it, with a row for each class: one that lacks some was cut.

    Returns:
        C classes, by index.

    Raises:
        UsageError: it is not such a table, it has no column of indices, an index is not a whole number, occurs twice or
            lies outside [0, C), or there is no class at all, or, where all must be there, one is not.
    """
    data = content.encode() if isinstance(content, str) else content
    known: dict[int, ClassInfo] = {}
    try:
        for row in tables.read_csv(origin, _COLUMNS, others="ignore", data=data):
            info = _class_info(row)
            if info.index in known:
                raise JobError(f"{row.where}: class {info.index} is listed twice")
            known[info.index] = info
    except JobError as error:
        raise UsageError(f"vocabulary {error}") from None
    if not known:
        raise UsageError(f"vocabulary {origin} names no class")
    highest = max(known)
    if class_count is None:
        class_count = highest + 1
    if highest >= class_count:
        raise UsageError(f"vocabulary {origin} names class {highest}, but there are {class_count} classes")
    if complete and len(known) < class_count:
        raise UsageError(f"{origin} is damaged: it has {len(known):,} of {class_count:,} classes")
    if tell:
        _tell(known, class_count, origin)
    return [known.get(index) or ClassInfo(index, f"class {index}") for index in range(class_count)]


def _tell(known: Mapping[int, ClassInfo], class_count: int, origin: str) -> None:
    if absent := [index for index in range(class_count) if index not in known]:
        advice = "; indices begin with 0" if absent == [0] else ""
        print(
            f"warning: vocabulary {origin} leaves out {len(absent):,} of {class_count:,} classes: {_some(absent)}, "
            f"which are called 'class {absent[0]}' and so on{advice}",
            file=sys.stderr,
        )
    indices = sorted(known)
    for places in list(shared_names([known[index].name for index in indices]).values())[:_SHARED_SHOWN]:
        own = [indices[place] for place in places]
        print(
            f"warning: vocabulary {origin}: the classes {_some(own)} are all called {known[own[0]].name!r}; tables and "
            "figures add the index",
            file=sys.stderr,
        )


def _some(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")


def load_vocabulary(
    path: str, class_count: int | None = None, *, tell: bool = False, complete: bool = False
) -> list[ClassInfo]:
    """Reads a vocabulary file; see `read_vocabulary`. `tell` is for files that a user names.

    Raises:
        UsageError: as there.
        JobError: it is too large for one, or no file.
        OSError: there is no such file.
    """
    return read_vocabulary(storage.read_small(path), path, class_count, tell=tell, complete=complete)


def refuse_multi_hot(labels: Sequence[int], where: str) -> None:
    """Raises `MultiHotLabels` where what should be class indices is a 0 or 1 per class: more than two, no others."""
    if len(labels) > 2 and all(label in (0, 1) for label in labels):
        raise MultiHotLabels(where, labels)


def refuse_multi_hot_pairs(cells: Iterable[object], where: str) -> None:
    """Raises `MultiHotLabels` where the lists among some videos' labels are a 0 or 1 for each of two classes.

    A single such pair may be indices: what tells is that there are no other lists, and that they are not all alike.
    """
    lists = [tuple(cell) for cell in cells if isinstance(cell, list)]
    pairs = all(
        len(each) == 2 and all(type(value) in (int, float) and value in (0, 1) for value in each) for each in lists
    )
    if pairs and len(set(lists)) > 1:
        raise MultiHotLabels(where, lists[0])


def shared_names(names: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the classes that have their name, without regard to case, in common with another."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(name.casefold(), []).append(index)
    return {name: places for name, places in indices.items() if len(places) > 1}


class ClassNames:
    """Finds classes by what a table calls them: their index, or else their name."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args:
        names: by class index; without any, only indices are understood.
        """
        self._exact: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            self._exact.setdefault(name, []).append(index)
        self._folded: dict[str, list[int]] = {}
        for name, indices in self._exact.items():
            self._folded.setdefault(name.casefold(), []).extend(indices)

    def labels_of(self, cell: str, where: str, what: str = "class indices") -> list[int]:
        """The class indices in a cell: separated by `;`, indices by blanks as well. A number is an index.

        Args:
            cell: text; empty text gives none.
            where: what the message begins with.
            what: what it says that was expected.

        Raises:
            JobError: a label is neither a whole number nor the name of one class; or they are a 0 or 1 per class.
        """
        labels = [index for part in cell.split(";") for index in self._part(part.strip(), where, what)]
        refuse_multi_hot(labels, where)
        return labels

    def _part(self, part: str, where: str, what: str) -> list[int]:
        try:
            return [tables.whole_number(number, where, what) for number in part.split()]
        except JobError:
            if part not in self._exact and (not self._exact or NUMBER.fullmatch(part)):
                raise
        found = self._exact.get(part) or self._folded.get(part.casefold(), [])
        if len(found) > 1:
            raise JobError(f"{where}: the classes {', '.join(map(str, found))} are called {part!r}: write an index")
        if not found:
            raise UnknownLabel(f"{where}: no class of the vocabulary is called {part!r}")
        return found


class UnknownLabel(JobError):
    """A label is neither an index nor a name of the vocabulary."""


class MultiHotLabels(JobError):
    """What should be class indices is a 0 or 1 per class."""

    def __init__(self, where: str, labels: Sequence[int]) -> None:
        shown = " ".join(map(str, labels[:8])) + (" …" if len(labels) > 8 else "")
        super().__init__(
            f"{where}: {len(labels)} labels of only 0 and 1 ({shown}) look like one per class: list the indices of the "
            "classes"
        )


@functools.lru_cache(maxsize=4)
def class_names(names: tuple[str, ...]) -> ClassNames:
    """`ClassNames` of these names, made once per process."""
    return ClassNames(names)


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


def write_vocabulary_csv(classes: Sequence[ClassInfo]) -> str:
    """The text of vocabulary.csv: index, name, vertical1 ... 3."""
    rows = ([info.index, info.name, *_three_verticals(info)] for info in classes)
    return tables.write_csv(["index", "name", *_VERTICAL_COLUMNS], rows)


def write_labels_csv(classes: Sequence[ClassInfo], thresholds: Sequence[float] | None = None) -> str:
    """The text of labels.csv: index, name, vertical1 ... 3, best_threshold, train_count, description (if there is any).

    People open it in spreadsheets: see `spreadsheets.harmless`, which `read_vocabulary` undoes.

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
    described = any(info.description for info in classes)
    rows = [
        (
            info.index,
            spreadsheets.harmless(info.name),
            *map(spreadsheets.harmless, _three_verticals(info)),
            "" if threshold is None else repr(threshold),
            "" if info.train_count is None else info.train_count,
            *([spreadsheets.harmless(info.description)] if described else []),
        )
        for info, threshold in zip(classes, chosen, strict=True)
    ]
    header = ["index", "name", *_VERTICAL_COLUMNS, "best_threshold", "train_count"]
    return tables.write_csv([*header, "description"] if described else header, rows)


def _three_verticals(info: ClassInfo) -> tuple[str, ...]:
    return (*info.verticals, "", "", "")[:3]


def _class_info(row: tables.Row) -> ClassInfo:
    index = tables.whole_number(row["index"], row.where, "the index of a class")
    if not 0 <= index < MOST_CLASSES:
        raise JobError(f"{row.where}: the index {index} is outside [0, {MOST_CLASSES})")
    machine_id = row.get("mid")
    name = spreadsheets.original(row.get("name") or "") or (
        f"class {index} ({machine_id})" if machine_id else f"class {index}"
    )
    named = (row.get(column) for column in _VERTICAL_COLUMNS)
    verticals = tuple(spreadsheets.original(value) for value in named if value)
    train_count = threshold = None
    if row.get("train_count"):
        train_count = tables.whole_number(row["train_count"], row.where, "a number of training videos")
    if row.get("best_threshold"):
        threshold = tables.number(row["best_threshold"], row.where, "a threshold")
        if not 0 <= threshold <= 1:
            raise JobError(f"{row.where}: the threshold {threshold:g} is not a probability, in [0, 1]")
    description = spreadsheets.original(row.get("description") or "")
    return ClassInfo(index, name, verticals, train_count, threshold, description)
