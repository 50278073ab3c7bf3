"""The labels of media files: of a CSV, or of the folders that the files lie in."""

import dataclasses
import sys
from collections.abc import Sequence

from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.embedding import CAPTIONS
from vcls_model.records.schema import MOST_CLASSES
from vcls_model.records.vocabulary import NUMBER, ClassInfo, load_vocabulary, shared_names, unnamed_classes
from vcls_model.tables import Column

FOLDERS = "folders"
_PATH = Column("path", ("file", "filename", "video"))
_LABELS = Column("labels", ("label",), required=False)
_CAPTIONS = Column(CAPTIONS, required=False)
_OPTIONAL = tuple(Column(name, required=False) for name in ("id", "start", "end"))
# What programs write where there is nothing.
_NOTHING = ("nan", "none", "null", "na", "n/a", "<na>")

File = tuple[str, int, float]  # path, bytes, time of the last change


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, or a segment of one, as its owner describes it.

    Attributes:
        file: path, size and time; size -1 where it does not exist.
        id: of the video.
        labels: names or indices as they were written; None: not known.
        where: what describes it, for messages.
        context, start, end: see `MediaFile`.
        captions: path of its captions; None: they lie beside it, or there are none.
    """

    file: File
    id: str
    labels: tuple[str, ...] | None
    where: str
    context: tuple[tuple[str, str], ...] = ()
    start: float = 0.0
    end: float | None = None
    captions: str | None = None


def stem(path: str) -> str:
    """A path without the suffix of its last part: `a/b.c.mp4` -> `a/b.c`."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def unlabelled(files: Sequence[File]) -> list[Entry]:
    """An entry per file, called after the file."""
    return [Entry(file, stem(file[0]).rpartition("/")[2], None, file[0]) for file in files]


def by_folder(files: Sequence[File]) -> list[Entry]:
    """An entry per file, labelled with the name of its folder and called `folder/file`."""
    entries = []
    for file in files:
        parts = stem(file[0]).split("/")
        entries.append(Entry(file, "/".join(parts[-2:]), (parts[-2],), file[0]))
    return entries


def of_table(
    path: str, files: Sequence[File] | None, reserved: Sequence[str], *, captions: bool = False
) -> list[Entry]:
    """An entry per row of a CSV; its paths count from the CSV's own folder, or else from the working directory.

    Args:
        path: of the CSV.
        files: what --input matches; None: the rows name the files.
        reserved: names that no further column may have.
        captions: a column of that name has paths of captions, which count as the others do.

    Raises:
        UsageError: the table cannot be read, or no row belongs to one of the files.
    """
    known = {storage.absolute(file[0]): file for file in files} if files is not None else None
    entries, unmatched = [], []
    try:
        further = _further_columns(path, reserved)
        captioned = [_CAPTIONS] if captions else []
        for row in tables.read_csv(path, [_PATH, _LABELS, *_OPTIONAL, *captioned, *further], others="ignore"):
            if not row["path"]:
                raise JobError(f"{row.where}: the path is empty")
            file = _file_of(path, row["path"], known)
            if file is None:
                unmatched.append(row["path"])
                continue
            start = tables.number(row.get("start"), row.where, "seconds") if row.get("start") else 0.0
            end = tables.number(row.get("end"), row.where, "seconds") if row.get("end") else None
            if start < 0 or (end is not None and end <= start):
                raise JobError(f"{row.where}: start must be 0 or more and end after it, got {start:g} and {end}")
            labels = tuple(part.strip() for part in row.get("labels").split(";") if part.strip())
            segment = f":{start:g}" if row.get("start") else ""
            entries.append(
                Entry(
                    file,
                    row.get("id") or stem(row["path"].replace("\\", "/")) + segment,
                    labels or None,
                    row.where,
                    tuple((column.name, row.get(column.name)) for column in further),
                    start,
                    end,
                    _captions_at(path, row.get(CAPTIONS)) if captions and row.get(CAPTIONS) else None,
                )
            )
    except JobError as error:
        raise tables.as_usage_error(error) from None
    _report_unmatched(path, entries, unmatched, known)
    return entries


def _further_columns(path: str, reserved: Sequence[str]) -> list[Column]:
    own = {heading for column in (_PATH, _LABELS, *_OPTIONAL) for heading in column.headings}
    names = [name for name in tables.read_header(path).names if name.lower() not in own and not tables.is_counter(name)]
    if CAPTIONS in reserved:  # a column of them is read, and not stored
        names = [name for name in names if name.lower() != CAPTIONS]
    for name in names:
        if name in reserved:
            raise JobError(f"{path}: the records have a feature {name!r} of their own: give the column another name")
    return [Column(name) for name in names]


def _file_of(table: str, name: str, known: dict[str, File] | None) -> File | None:
    """The file that a row names; None where --input does not match it."""
    places = tables.places_of(table, name)
    if known is not None:
        return next((known[place] for place in places if place in known), None)
    for place in places:
        if storage.size_of(place) >= 0:
            return storage.list_files(place)[0]
    return places[0], -1, 0.0


def _captions_at(table: str, name: str) -> str:
    """The captions that a row names, there or not."""
    places = tables.places_of(table, name)
    return next((place for place in places if storage.exists(place)), places[0])


def _report_unmatched(path: str, entries: list[Entry], unmatched: list[str], known: dict[str, File] | None) -> None:
    if known is None:
        if not entries:
            raise UsageError(f"{path} has no rows: it must name a file per row")
        return
    if not entries:
        first = next(iter(known), "none")
        raise UsageError(
            f"no row of {path} names a file that --input matches ({unmatched[0] if unmatched else 'it has no rows'} "
            f"beside {first}); its paths count from its own folder"
        )
    if unmatched:
        print(
            f"warning: {len(unmatched):,} rows of {path} name files that --input does not match, {unmatched[0]} "
            "the first: left out",
            file=sys.stderr,
        )
    described = {storage.absolute(entry.file[0]) for entry in entries}
    if alone := [place for place in known if place not in described]:
        print(f"warning: {len(alone):,} files have no row in {path}, {alone[0]} the first: left out", file=sys.stderr)


def index_labels(entries: Sequence[Entry], vocabulary: str | None) -> tuple[list[ClassInfo], list[tuple[int, ...]]]:
    """The classes, and the class indices of each entry, ascending (none for an entry without labels).

    With a vocabulary a label is one of its names, or else an index. Without, numbers throughout are indices; otherwise
    labels are names, and the classes stand in alphabetical order.

    Raises:
        UsageError: a label is not in the vocabulary, names several of its classes, or is a fraction among numbers.
    """
    names = sorted({label for entry in entries for label in entry.labels or ()})
    if vocabulary is not None:
        if not storage.exists(vocabulary):
            raise UsageError(f"vocabulary {vocabulary} does not exist")
        classes = load_vocabulary(vocabulary, tell=True)
    elif names and all(NUMBER.fullmatch(name) for name in names):
        highest = max(_number(label, entry.where) for entry in entries for label in entry.labels or ())
        if highest >= MOST_CLASSES:
            raise UsageError(f"label {highest} is outside [0, {MOST_CLASSES}): list the classes with --vocabulary")
        classes = unnamed_classes(highest + 1)
    else:
        classes = [ClassInfo(index, name) for index, name in enumerate(names)]
        _warn_of_names(names)
    indices: dict[str, list[int]] = {}
    for info in classes:
        indices.setdefault(info.name, []).append(info.index)
    labels = []
    for entry in entries:
        own = {_index(label, indices, len(classes), entry.where, vocabulary) for label in entry.labels or ()}
        labels.append(tuple(sorted(own)))
    return classes, labels


def _warn_of_names(names: Sequence[str]) -> None:
    """Says which names, of which classes are made, look as if something else was meant."""
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    nothing = [name for name in names if name.casefold() in _NOTHING]
    alike = [[names[place] for place in places] for places in shared_names(names).values()]
    for found, why in (
        (numbers, "numbers are names where other labels are; with --vocabulary=CSV they are indices"),
        (nothing, "a file without a label has an empty cell"),
        (alike[0] if alike else [], "they differ in case alone"),
    ):
        if found:
            print(f"warning: labels make classes called {', '.join(map(repr, found[:5]))}: {why}", file=sys.stderr)


def _number(label: str, where: str) -> int:
    try:
        index = tables.whole_number(label, where, "the index of a class")
    except JobError as error:
        raise tables.as_usage_error(error) from None
    if index < 0:
        raise UsageError(f"{where}: the index of a class must not be negative, got {label}")
    return index


def _index(label: str, indices: dict[str, list[int]], count: int, where: str, vocabulary: str | None) -> int:
    if label in indices:
        if len(indices[label]) > 1:
            raise UsageError(
                f"{where}: {vocabulary} has several classes {label!r}: write one of the indices "
                f"{', '.join(map(str, indices[label]))} instead"
            )
        return indices[label][0]
    if NUMBER.fullmatch(label) and (index := _number(label, where)) < count:
        return index
    raise UsageError(f"{where}: {vocabulary} has no class {label!r} ({count} classes)")
