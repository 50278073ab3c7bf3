"""The one door for tables that people bring: CSV, Parquet and npz, read by column name, strictly.

What is guessed: the separator (`,` `;` tab `|`), UTF-8 with or without a byte-order mark, and UTF-16 with one. What is
not guessed is refused in one line that names the file, the line or array, and the value.
"""

import contextlib
import csv
import dataclasses
import io
import math
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError, UsageError

SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# A row of predictions may list thousands of classes in one cell.
_LONGEST_CELL = 64 << 20
_LONGEST_LINE = _LONGEST_CELL + (1 << 20)
# Files that hold so many times their size are bombs, but for what takes no time and no memory to read.
_MOST_INFLATION = 200
_INFLATED_FREELY_BYTES = 1 << 30
_VALUE_BYTES = 4
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# What pandas writes above the row numbers that it saves when nobody tells it not to.
_COUNTER = re.compile(r"unnamed: \d+(\.\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


@dataclasses.dataclass(frozen=True)
class Column:
    """One column that a table must or may have.

    Attributes:
        name: what the reader calls it; matched without regard to case and surrounding blanks.
        aliases: other headings that mean the same.
        required: a table without it is refused.
    """

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = True

    @property
    def headings(self) -> tuple[str, ...]:
        """All headings that mean this column, in lower case."""
        return tuple(heading.lower() for heading in (self.name, *self.aliases))


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a CSV.

    Attributes:
        where: file and line, for messages.
        cells: text by the name of the column; a column that the table lacks is missing.
    """

    where: str
    cells: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.cells[name]

    def get(self, name: str) -> str:
        """The cell, or empty text where the table has no such column."""
        return self.cells.get(name, "")


@dataclasses.dataclass(frozen=True)
class Header:
    """The first line of a CSV.

    Attributes:
        names: the headings, without surrounding blanks.
        separator: one of `SEPARATORS`.
        encoding: of the file, for `open`.
    """

    names: tuple[str, ...]
    separator: str
    encoding: str


def encoding_of(head: bytes, path: str) -> str:
    """The encoding of a text file, from its first bytes.

    Raises:
        JobError: it is UTF-16 or UTF-32 without a byte-order mark, or no text.
    """
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise JobError(f"{path} is encoded in UTF-32: save it as UTF-8")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        if max(head[0::2].count(0), head[1::2].count(0)) > len(head) // 4:
            raise JobError(f"{path} is encoded in UTF-16 without a byte-order mark: save it as UTF-8")
        raise JobError(f"{path} is not a text file: it holds zero bytes")
    return "utf-8"


def parse_header(line: str, path: str, encoding: str = "utf-8", *, fold_case: bool = True) -> Header:
    """Reads a CSV's first line.

    Args:
        line: its text, without byte-order mark; a quoted heading must not contain a line break.
        path: for messages.
        encoding: passed on.
        fold_case: names that differ in case alone are one name.

    Raises:
        JobError: it is empty, or names a column twice.
    """
    if not line.strip():
        raise JobError(f"{path} is empty, or its first line is: that line must name the columns")
    # The separator that makes the most columns; a comma inside quotes does not count.
    rows = {separator: _split(line, separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(rows[each]))
    if not rows[separator]:
        raise JobError(f"{path}: its first line, which must name the columns, is not one of a CSV: {line[:80]!r}")
    names = tuple(cell.strip() for cell in rows[separator])
    lowered = [name.lower() if fold_case else name for name in names if name]
    if repeated := _repeated(lowered):
        raise JobError(f"{path}: the header names {', '.join(map(repr, repeated))} more than once")
    return Header(names, separator, encoding)


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _split(line: str, separator: str) -> list[str]:
    try:
        return split_line(line, separator)
    except csv.Error:
        return []


def is_counter(name: str) -> bool:
    """Whether a heading is that of the row numbers that a data frame was saved with: nothing, or `Unnamed: 0`."""
    return not name or bool(_COUNTER.fullmatch(name.lower()))


def match_columns(header: Header, columns: Sequence[Column], path: str, *, others: str = "warn") -> dict[str, int]:
    """Finds each column's position by its heading.

    Args:
        header: of the file.
        columns: what is looked for.
        path: for messages.
        others: what to do with further columns: `"warn"` (one line on standard error) or `"ignore"`.

    Raises:
        JobError: a required column is missing, or two headings mean the same column.
    """
    lowered = [name.lower() for name in header.names]
    positions: dict[str, int] = {}
    for column in columns:
        present = [heading for heading in column.headings if heading in lowered]
        if len(present) > 1:
            raise JobError(f"{path}: the columns {' and '.join(map(repr, present))} both mean {column.name!r}")
        if present:
            positions[column.name] = lowered.index(present[0])
        elif column.required:
            raise JobError(_missing(column, header, path))
    if others == "warn":
        known = set(positions.values())
        extra = [repr(name or f"column {at + 1}") for at, name in enumerate(header.names) if at not in known]
        if extra:
            shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            print(f"warning: {path}: not used: {shown}", file=sys.stderr)
    return positions


def _missing(column: Column, header: Header, path: str) -> str:
    names = ", ".join(repr(name) for name in header.names[:12]) + (", …" if len(header.names) > 12 else "")
    alike = f" (or {', '.join(column.aliases)})" if column.aliases else ""
    separated = f", separated by {_SEPARATOR_NAMES[header.separator]}" if len(header.names) > 1 else ""
    return (
        f"{path} has no column named {column.name}{alike}; its first line, which must name the columns, has "
        f"{names}{separated}"
    )


@contextlib.contextmanager
def _text(path: str, data: bytes | None = None) -> Iterator[tuple[IO[str], str]]:
    with storage.open_for_reading(path) if data is None else io.BytesIO(data) as raw:
        buffered = io.BufferedReader(_Unseekable(raw), 1 << 20)
        encoding = encoding_of(buffered.peek(4096)[:4096], path)
        yield io.TextIOWrapper(buffered, encoding=encoding, errors="strict", newline=""), encoding


class _Unseekable(io.RawIOBase):
    """A stream that can only be read, for `BufferedReader`, whatever a file system returns."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def places_of(table: str, name: str) -> list[str]:
    """Where a file that a cell names may lie: in the folder of the table, or else in the working directory.

    After the places of the name as it is come those of the path that it would be on Windows: `clips\\a.mp4`.
    """
    if storage.is_object_store(name):
        return [name]
    folder = storage.absolute(table).rpartition("/")[0]
    names = [name, name.replace("\\", "/")] if "\\" in name else [name]
    places = [place for each in names for place in (storage.join(folder, each), storage.absolute(each))]
    return [place if storage.is_object_store(place) else storage.absolute(place) for place in places]


def read_header(path: str, *, fold_case: bool = True) -> Header:
    """The header of a CSV.

    Raises:
        JobError: the file is empty or not text.
    """
    with _text(path) as (stream, encoding):
        try:
            return parse_header(next(_lines(stream, path), "").rstrip("\r\n"), path, encoding, fold_case=fold_case)
        except UnicodeDecodeError as error:
            raise JobError(not_utf8(path, 1, error)) from None


def read_csv(
    path: str,
    columns: Sequence[Column] | None,
    *,
    others: str = "warn",
    unique: str | None = None,
    data: bytes | None = None,
) -> Iterator[Row]:
    """The rows of a CSV, cells as text without surrounding blanks, blank lines left out.

    Args:
        path: on a disk or an object store.
        columns: those to read, by name; None: all, each under its own heading, in its own case.
        others: see `match_columns`.
        unique: name of a column in which no value may come twice.
        data: the file's content, where the caller has read it; `path` then only serves messages.

    Raises:
        JobError: the file cannot be read as such a table; the message names the file, the line and the value.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with _text(path, data) as (stream, encoding):
        line = 1
        try:
            lines = _lines(stream, path)
            first_line = next(lines, "").rstrip("\r\n")
            header = parse_header(first_line, path, encoding, fold_case=columns is not None)
            if columns is None:
                positions = {name: at for at, name in enumerate(header.names)}
            else:
                positions = match_columns(header, columns, path, others=others)
            reader = csv.reader(lines, delimiter=header.separator, skipinitialspace=True, strict=True)
            first_lines: dict[str, int] = {}
            for cells in reader:
                line = reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header.names):
                    raise JobError(
                        f"{path}, line {line}: {len(cells)} cells in a table of {len(header.names)} columns "
                        f"({', '.join(header.names[:6])}{', …' if len(header.names) > 6 else ''})"
                    )
                if len(cells) > 1 and tuple(cell.strip() for cell in cells) == header.names:
                    raise JobError(f"{path}, line {line}: the heading comes again: join tables without their headings")
                row = Row(f"{path}, line {line}", {name: cells[at].strip() for name, at in positions.items()})
                if unique is not None:
                    first = first_lines.setdefault(row[unique], line)
                    if first != line:
                        raise JobError(f"{row.where}: {unique} {row[unique]!r} occurs twice, after line {first}")
                yield row
        except csv.Error as error:
            raise JobError(f"{path}, line {line + 1}: {_explained(error)}") from None
        except UnicodeDecodeError as error:
            raise JobError(not_utf8(path, line + 1, error)) from None


def _explained(error: csv.Error) -> str:
    """What is wrong with the quotes of a row, in words."""
    if "expected after" in str(error):
        return "a quoted cell goes on behind its second quote: remove what is there, or double the quote"
    if "unexpected end" in str(error):
        return "a quote is not closed"
    return str(error)


def _lines(stream: IO[str], path: str) -> Iterator[str]:
    """The lines of a text; raises `JobError` for one that is longer than any of a table."""
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise JobError(f"{path} is not a table: it has a line of more than {_LONGEST_LINE >> 20} MB")
        yield line


def split_line(line: str, separator: str) -> list[str]:
    """The cells of one line of a CSV.

    Raises:
        csv.Error: its quotes do not fit.
    """
    csv.field_size_limit(_LONGEST_CELL)
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def write_csv(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """The one way in which this project writes a CSV: RFC 4180 with commas and a heading line; lines end in LF."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def not_utf8(path: str, line: int, error: UnicodeDecodeError) -> str:
    """The message about a text file that is not in the encoding it seemed to be in."""
    byte = error.object[error.start]
    guess = "Latin-1 or Windows-1252" if byte >= 0xA0 else "Windows-1252" if byte >= 0x80 else error.encoding
    return f"{path} is not UTF-8: byte {byte:#04x} near line {line}; it looks like {guess}: save it as UTF-8"


def whole_number(text: str, where: str, what: str = "a whole number") -> int:
    """An integer, also one written as a float (`1.0`, `1e3`).

    Raises:
        JobError: the text is not one; the message has the value.
    """
    text = text.strip()
    if _WHOLE.fullmatch(text) and len(text) < 19:  # what fits into an int64
        return int(text)
    value = _float(text)
    # Above 2^53 a float no longer tells neighbouring integers apart.
    if not math.isfinite(value) or value != int(value) or abs(value) >= 2**53:
        raise JobError(f"{where}: expected {what}, got {text!r}")
    return int(value)


def _float(text: str) -> float:
    """A number as every program writes it, NaN for other text: not Python's `1_000`."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan


def whole_numbers(values: np.ndarray, where: str, what: str = "a whole number") -> np.ndarray:
    """`values` as int64; floats must be whole.

    Raises:
        JobError: a value is not; the message has the first.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind == "b":  # what is true of which class, as a column for each class would have it
        raise JobError(f"{where}: expected {what}, got true and false: list the indices of what is true")
    if values.dtype.kind != "f":
        raise JobError(f"{where}: expected {what}, got {values.dtype} values")
    wrong = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= 2**53)
    if wrong.any():
        raise JobError(f"{where}: expected {what}, got {values[wrong][0]}")
    return values.astype(np.int64)


def number(text: str, where: str, what: str = "a number") -> float:
    """A finite number.

    Raises:
        JobError: the text is empty, not a number, NaN or infinite.
    """
    value = _float(text)
    if not math.isfinite(value):
        raise JobError(f"{where}: expected {what}, got {text.strip()!r}")
    return value


def id_bytes(value: object, where: str) -> bytes:
    """A video's id as bytes, whatever its type: text, bytes or a whole number.

    Raises:
        JobError: it is missing, empty, or a fraction.
    """
    if isinstance(value, bytes):
        identity = value.strip()
    elif isinstance(value, str):
        try:
            identity = value.strip().encode()
        except UnicodeEncodeError:
            raise JobError(f"{where}: the id {value!r} is not text that UTF-8 can hold") from None
    elif _is_whole(value):
        identity = str(int(value)).encode()  # type: ignore[call-overload]
    else:
        raise JobError(f"{where}: expected an id, got {value!r}")
    if not identity:
        raise JobError(f"{where}: the id is empty")
    return identity


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, float | np.floating):
        return math.isfinite(value) and float(value).is_integer()
    return isinstance(value, int | np.integer)


def open_parquet(path: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        JobError: the file is not Parquet, or cut off.
    """
    import pyarrow
    import pyarrow.parquet as pq

    try:
        # A stream, not the path: Arrow takes no path that is not UTF-8.
        file = pq.ParquetFile(
            io.BytesIO(storage.read_bytes(path)) if storage.is_object_store(path) else storage.open_for_reading(path)
        )
        columns = range(file.metadata.num_columns)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        values = sum(group.column(column).num_values for group in groups for column in columns)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise JobError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:300]}") from None
    if values * _VALUE_BYTES > _INFLATED_FREELY_BYTES + _MOST_INFLATION * storage.size_of(path):
        raise JobError(f"{path} claims to hold {values:,} values, many times its size: it is damaged, or a trap")
    return file


def parquet_columns(file: Any, columns: Sequence[Column], path: str) -> dict[str, str]:
    """The name that each of `columns` has in a Parquet file; those it lacks are missing.

    Raises:
        JobError: a required one is missing, or a name comes twice.
    """
    header = Header(tuple(file.schema_arrow.names), ",", "utf-8")
    lowered = [name.lower() for name in header.names]
    if repeated := _repeated(lowered):
        raise JobError(f"{path} has the column {repeated[0]!r} more than once")
    return {name: header.names[at] for name, at in match_columns(header, columns, path, others="ignore").items()}


def parquet_batches(file: Any, path: str, rows: int, names: Sequence[str]) -> Iterator[Any]:
    """Record batches of some columns.

    Raises:
        JobError: a page of the file is damaged.
    """
    import pyarrow

    try:
        yield from file.iter_batches(rows, columns=list(names))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise JobError(f"{path} is damaged: {' '.join(str(error).split())[:300]}") from None


def read_npz(path: str, required: Sequence[str] | None = None, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name, never unpickled.

    Args:
        path: of the file.
        required: names of arrays that it must hold; None: all that it holds are read.
        optional: names of arrays that are read where they are there.

    Raises:
        JobError: the file or one of its arrays is damaged, missing, or of Python objects; the message names it.
    """
    archive = _numpy_file(path, "npz")
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise JobError(f"{path} holds one array; expected an npz with {', '.join(required or ('several',))}")
    with archive:
        arrays = {}
        required = archive.files if required is None else required
        for name in (*required, *optional):
            if name not in archive:
                if name in required:
                    raise JobError(f"{path} has no array {name}; it holds {', '.join(archive.files) or 'nothing'}")
                continue
            try:
                _refuse_bomb(archive, name, path)
                arrays[name] = archive[name]
            except MemoryError:
                raise JobError(f"{path}: the array {name} is larger than the memory of this machine") from None
            except ValueError as error:
                if "allow_pickle" in str(error):
                    raise JobError(
                        f"{path}: the array {name} holds Python objects, which are not loaded from files that may come "
                        f"from anywhere; save it with a type of its own, for text np.asarray({name}, dtype=str)"
                    ) from None
                raise JobError(f"{path}: the array {name} is damaged: {' '.join(str(error).split())[:200]}") from None
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
                raise JobError(f"{path}: the array {name} is damaged: {' '.join(str(error).split())[:200]}") from None
        return arrays


def read_npy(path: str) -> np.ndarray:
    """The array of an npy file, never unpickled.

    Raises:
        JobError: the file is damaged, of Python objects, or holds several arrays; the message names it.
    """
    array = _numpy_file(path, "npy")
    if not isinstance(array, np.ndarray):
        raise JobError(f"{path} holds several arrays; expected an npy file, of one")
    return array


def _numpy_file(path: str, kind: str) -> Any:
    try:
        return np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False)
    except MemoryError:
        raise JobError(f"{path} is larger than the memory of this machine, or damaged") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise JobError(f"{path} is not an {kind} file: {' '.join(str(error).split())[:200]}") from None


def _refuse_bomb(archive: "np.lib.npyio.NpzFile", name: str, path: str) -> None:
    entries = {entry.filename: entry for entry in archive.zip.infolist()} if archive.zip else {}
    entry = entries.get(f"{name}.npy") or entries.get(name)
    if entry and entry.file_size > _INFLATED_FREELY_BYTES + _MOST_INFLATION * entry.compress_size:
        raise JobError(
            f"{path}: the array {name} inflates to {entry.file_size:,} bytes, many times its size: it is damaged, or a "
            "trap"
        )


def as_usage_error(error: JobError) -> UsageError:
    """The same message for a file that is checked before any work begins."""
    return UsageError(str(error))
