"""A dataset as CSV: a header, then one row per video: id, labels separated by `;`, and one column per value.

Columns called `mean_rgb_0` … `mean_rgb_1023` make a modality `mean_rgb`; columns not numbered like that make one
modality `features`, whose schema keeps their names; columns of text are those that the schema calls so, and a file may
lack them. Columns are matched by name, never by position. Rows are parsed in blocks by pyarrow; a block with any
irregular row goes through a slow, careful reader, so that a bad row costs that row.
A quoted cell should not contain a line break: beside an irregular row, both halves of its row are rejected.
"""

import codecs
import csv
import dataclasses
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from vcls_model import tables
from vcls_model.commands import JobError, UsageError
from vcls_model.records.decoding import FeatureValues, RawBatch, RecordError, RecordOptions, Rejected, in_batches
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.framing import ByteSource
from vcls_model.records.schema import TEXT, VECTOR, Modality, RecordSchema, text_modality
from vcls_model.records.vocabulary import MultiHotLabels, UnknownLabel, class_names
from vcls_model.storage import open_for_reading

_ID = tables.Column("id", ("video_id", "videoid"))
_LABELS = tables.Column("labels")
_ALL_FEATURES = "features"
# Row numbers that a data frame was saved with, under the name that pandas gives them on `reset_index`.
_COUNTERS = ("index", "level_0")
_HEADER_BYTES = 1 << 20
_NAMES_SHOWN = 8
_CHARACTERS_SHOWN = 80
# Headings beyond this length hold no number that puts columns in order; the widest row has megabytes.
_LONGEST_NUMBERED = 200
_LONGEST_LINE_BYTES = 128 << 20
# What a cell of labels must hold, for messages.
_INDICES = "class indices separated by ';'"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which column of a file holds what: positions.

    Attributes:
        header: of the file.
        id, labels: their columns.
        modalities: columns of the values of each modality, in the order of the values.
        left_out: headings of columns that count rows.
        texts: by name of the text modality its column, None where the file has none.
    """

    header: tables.Header
    id: int
    labels: int
    modalities: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    texts: dict[str, int | None] = dataclasses.field(default_factory=dict)

    @property
    def features(self) -> list[int]:
        """Columns of all modalities, one modality after another."""
        return [column for columns in self.modalities.values() for column in columns]

    def names(self, columns: Sequence[int]) -> tuple[str, ...]:
        """The headings of some columns."""
        return tuple(self.header.names[column] for column in columns)


def csv_schema(path: str, given: RecordSchema | None = None, texts: Sequence[str] = ()) -> RecordSchema:
    """The schema that the header of a CSV describes. Says on standard error which columns it leaves out.

    Args:
        path: of the file.
        given: names the columns of ids and labels, where they are called something else, and those of texts.
        texts: names of columns of text.

    Raises:
        UsageError: it has no id, labels or feature columns, or cannot be read as text.
    """
    with open_for_reading(path) as stream:
        source = ByteSource(stream, path)
        try:
            _, block = next(_lines(source, path, _HEADER_BYTES), (1, b""))
            written = [*map(text_modality, texts), *(given.texts if given is not None else ())]
            layout = _layout(_header(block.split(b"\n", 1)[0], path), path, naming=given, texts=written)
        except JobError as error:
            raise UsageError(f"this is not a CSV of features: {error}") from None
    if layout.left_out:
        names = ", ".join(map(repr, layout.left_out))
        print(f"warning: {path}: not used, because row numbers say nothing of a video: {names}", file=sys.stderr)
    modalities = tuple(
        Modality(name, len(columns), VECTOR, "float32", columns=_kept_names(name, layout.names(columns)))
        for name, columns in layout.modalities.items()
    )
    video_id, labels = layout.names((layout.id, layout.labels))
    return RecordSchema("csv", "csv", video_id, labels, (*modalities, *written))


def _kept_names(modality: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names that a schema keeps: those that no numbers put in order."""
    return names if modality == _ALL_FEATURES else None


def _header(line: bytes, path: str) -> tables.Header:
    try:
        return tables.parse_header(line.decode().rstrip("\r"), path)
    except UnicodeDecodeError as error:
        raise JobError(tables.not_utf8(path, 1, error)) from None


def _layout(
    header: tables.Header,
    path: str,
    schema: RecordSchema | None = None,
    naming: RecordSchema | None = None,
    texts: Sequence[Modality] = (),
) -> _Layout:
    """Finds the columns of a file: those of `schema`, or those that its names suggest, and `texts`.

    `naming` says what the columns of ids and labels may be called, by default `schema`.

    Raises:
        JobError: it lacks a column, or has others than the schema.
    """
    named = [_ID, _LABELS]
    naming = naming or schema
    if naming is not None:
        lowered = {name.lower() for name in header.names}
        for place, own in enumerate((naming.id_feature, naming.labels_feature)):
            if own.lower() in lowered:
                named[place] = tables.Column(own)
    video_id, labels = tables.match_columns(header, named, path, others="ignore").values()
    places = {name.lower(): column for column, name in enumerate(header.names)}
    written = {each.name: places.get(each.source.lower()) for each in (schema.texts if schema is not None else texts)}
    rest = [column for column in range(len(header.names)) if column not in (video_id, labels, *written.values())]
    counters = [column for column in rest if _is_counter(header.names[column])]
    values = [column for column in rest if column not in counters]
    left_out = tuple(header.names[column] or f"column {column + 1}, which has no name" for column in counters)
    if not values and not written:
        raise JobError(f"{path}: the header names no feature column")
    numbers = [modality for modality in schema.modalities if modality.kind != TEXT] if schema is not None else []
    expected = numbers[0].columns if numbers else None
    if expected is None:
        modalities = _modalities(header.names, values) if values else {}
    else:
        modalities = {numbers[0].name: _by_name(header, values, expected, path)}
    layout = _Layout(header, video_id, labels, modalities, left_out, written)
    if schema is not None:
        _check_widths(layout, numbers, path)
        order = {modality.name: modalities[modality.name] for modality in numbers}
        layout = dataclasses.replace(layout, modalities=order)
    return layout


def _is_counter(name: str) -> bool:
    return tables.is_counter(name) or name.lower() in _COUNTERS


def _by_name(header: tables.Header, values: Sequence[int], expected: Sequence[str], path: str) -> tuple[int, ...]:
    """The columns that are called `expected`, in that order.

    Raises:
        JobError: one is missing, or there are others.
    """
    places = {header.names[column].lower(): column for column in values}
    wanted = {name.lower() for name in expected}
    missing = [name for name in expected if name.lower() not in places]
    others = [name for name in places if name not in wanted]
    if missing or others:
        parts = [f"lacks {_shown(missing)}"] if missing else []
        parts += [f"has {_shown([header.names[places[name]] for name in others])} in addition"] if others else []
        raise JobError(f"{path} {' and '.join(parts)}; the feature columns must be {_shown(expected)}")
    return tuple(places[name.lower()] for name in expected)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + more


def _check_widths(layout: _Layout, modalities: Sequence[Modality], path: str) -> None:
    widths = {name: len(columns) for name, columns in layout.modalities.items()}
    expected = {modality.name: modality.width for modality in modalities}
    if widths != expected:
        held, wanted = (", ".join(f"{name}[{width}]" for name, width in each.items()) for each in (widths, expected))
        raise JobError(f"{path}: its columns {_shown(layout.names(layout.features))} make {held}, expected {wanted}")


def _modalities(names: Sequence[str], columns: Sequence[int]) -> dict[str, tuple[int, ...]]:
    numbered_columns: dict[str, dict[int, int]] = {}
    for column in columns:
        short = len(names[column]) <= _LONGEST_NUMBERED
        numbered = re.fullmatch(r"(.*?)[_\[. ]?(\d+)\]?", names[column]) if short else None
        if not numbered or not numbered.group(1):
            return {_ALL_FEATURES: tuple(columns)}
        name = numbered.group(1).replace("/", "_")  # a modality's name holds no slash
        numbered_columns.setdefault(name, {})[int(numbered.group(2))] = column
    counts = Counter({name: len(numbers) for name, numbers in numbered_columns.items()})
    for name, numbers in numbered_columns.items():
        if sorted(numbers) not in (list(range(counts[name])), list(range(1, counts[name] + 1))):
            return {_ALL_FEATURES: tuple(columns)}
    if sum(counts.values()) < len(columns):  # a_1 and a.1: no order that the numbers give
        return {_ALL_FEATURES: tuple(columns)}
    return {name: tuple(numbers[number] for number in sorted(numbers)) for name, numbers in numbered_columns.items()}


def _lines(source: ByteSource, path: str, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines in UTF-8, without byte-order mark, each with the number of its first line.

    Raises:
        JobError: the file is not text, or in an encoding that cannot be recognised.
    """
    decoder: codecs.IncrementalDecoder | None = None
    rest, line, first, last, carriage_returns = b"", 1, True, False, False
    while not last:
        buffer = np.empty(block_bytes, np.uint8)
        count = source.readinto(buffer)
        piece, last = buffer[:count].tobytes(), count < block_bytes
        if first:
            encoding, first = tables.encoding_of(piece[:_HEADER_BYTES], path), False
            piece = piece.removeprefix(codecs.BOM_UTF8)
            decoder = codecs.getincrementaldecoder("utf-16")() if encoding == "utf-16" else None
            carriage_returns = b"\r" in piece and b"\n" not in piece  # lines as old spreadsheets end them
        if decoder is not None:
            try:
                piece = decoder.decode(piece, last).encode()
            except UnicodeError as error:
                raise JobError(f"{path}, near line {line}: not UTF-16, as it begins: {error}") from None
        if carriage_returns:
            piece = piece.replace(b"\r", b"\n")
        block = rest + piece
        end = len(block) if last else block.rfind(b"\n") + 1
        if end:
            yield line, block[:end]
            line += block.count(b"\n", 0, end)
        rest = block[end:]
        if len(rest) > _LONGEST_LINE_BYTES:
            raise JobError(f"{path}, line {line}: it has more than {_LONGEST_LINE_BYTES >> 20} MB, as no row has")


def read_csv_batches(
    path: str, schema: RecordSchema, options: RecordOptions, *, batch_records: int, batch_bytes: int
) -> Iterator[tuple[RawBatch, list[Rejected]]]:
    """Reads a CSV in blocks of about `batch_bytes`; see `vcls_model.records.shards.read_batches`.

    Raises:
        JobError: the file is not a CSV of the schema's columns: that is not a bad record, but another file.
    """
    layout: _Layout | None = None
    with open_for_reading(path) as stream:
        source = ByteSource(stream, path)
        for line, block in _lines(source, path, batch_bytes):
            if layout is None:
                header, _, block = block.partition(b"\n")
                line += 1
                layout = _layout(_header(header, path), path, schema)
            batch, rejected = _read_block(path, block, line, layout, schema, options)
            for part in in_batches(batch.offsets, batch_records) or [slice(0, 0)]:
                yield _slice(batch, part), rejected
                rejected = []
        if source.damage:
            yield _rows_to_batch([], schema), [Rejected(path, 0, "", "framing", *source.damage)]


def _slice(batch: RawBatch, part: slice) -> RawBatch:
    ends = np.cumsum(batch.label_lengths)
    begin = int(ends[part.start - 1]) if part.start else 0
    end = int(ends[min(part.stop, len(ends)) - 1]) if len(ends[part]) else begin
    features: dict[str, FeatureValues] = {}
    for name, values in batch.features.items():
        assert isinstance(values, np.ndarray | BytesColumn)
        features[name] = values[part]
    return RawBatch(
        batch.id_column[part],
        batch.split_id_column[part],
        batch.offsets[part],
        batch.label_values[begin:end],
        batch.label_lengths[part],
        batch.labelled[part],
        features,
        notes=batch.notes if part.start == 0 else Counter(),
        missing={name: lacking[part] for name, lacking in batch.missing.items()},
    )


@dataclasses.dataclass
class _Row:
    """One checked row."""

    line: int
    id: bytes
    labels: list[int]
    values: np.ndarray  # float32, all modalities
    repeated: int = 0
    unknown: int = 0
    texts: dict[str, bytes] = dataclasses.field(default_factory=dict)


def _read_block(
    path: str, block: bytes, line: int, layout: _Layout, schema: RecordSchema, options: RecordOptions
) -> tuple[RawBatch, list[Rejected]]:
    batch = _read_clean(block, line, layout, schema, options)
    if batch is not None:
        return batch, []
    rows: list[_Row] = []
    rejected: list[Rejected] = []
    for number, text in enumerate(block.split(b"\n"), line):
        if not text.translate(None, layout.header.separator.encode() + b'"').strip():  # blank, or of empty cells
            continue
        try:
            rows.append(_careful(text, number, layout, options))
        except RecordError as error:
            rejected.append(error.rejected(path, number))
    return _rows_to_batch(rows, schema), rejected


def _read_clean(
    block: bytes, line: int, layout: _Layout, schema: RecordSchema, options: RecordOptions
) -> RawBatch | None:
    """The whole block through pyarrow, or None if any row is irregular."""
    if re.search(re.escape(layout.header.separator.encode()) + b' +"', block):  # to pyarrow no quoted cell
        return None
    types = {str(column): pa.float32() for column in layout.features}
    types[str(layout.id)] = pa.string()
    types[str(layout.labels)] = pa.string()
    types |= {str(column): pa.binary() for column in layout.texts.values() if column is not None}
    names = [str(column) for column in range(len(layout.header.names))]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(block),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(delimiter=layout.header.separator, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(column_types=types, null_values=[""], include_columns=list(types)),
        )
        labels = pc.split_pattern(table[str(layout.labels)].combine_chunks(), ";")
        label_values = _whole(labels.flatten())
        ids = [each.encode() for each in pc.utf8_trim_whitespace(table[str(layout.id)]).to_pylist() if each]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    values = [table[str(column)] for column in layout.features]
    if label_values is None or labels.null_count or any(column.null_count for column in values):
        return None
    label_lengths = pc.list_value_length(labels).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.zeros((len(ids), len(values)), np.float32)
    if len(ids) and values:
        rows = np.stack([column.to_numpy() for column in values], axis=1)
    ascending = np.diff(label_values) > 0
    ends = np.cumsum(label_lengths)
    ascending[ends[:-1][ends[:-1] < len(label_values)] - 1] = True
    highest = np.inf if options.class_count is None else options.class_count
    good = (
        len(ids) == table.num_rows
        and np.isfinite(rows).all()
        and (label_lengths > 0).all()
        and ascending.all()
        and (label_values >= 0).all()
        and (label_values < highest).all()
    )
    if not good:
        return None
    texts = {
        name: [b""] * len(ids) if column is None else table[str(column)].to_pylist()
        for name, column in layout.texts.items()
    }
    lines = np.arange(line, line + len(ids))
    return _batch(ids, label_values.astype(np.int64), label_lengths, lines, rows, schema, Counter(), texts)


def _whole(texts: pa.Array) -> np.ndarray | None:
    """Label texts as int64, also those written as floats; None where one is not whole.

    Raises:
        ArrowInvalid: one is not a number.
    """
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():  # 0x1F is a number to pyarrow alone
        return None
    try:
        return texts.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        values = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
        whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)
        return values.astype(np.int64) if whole.all() else None


def _careful(text: bytes, number: int, layout: _Layout, options: RecordOptions) -> _Row:
    """Checks one row.

    Raises:
        RecordError: it cannot be used.
    """
    columns = layout.header.names
    if text.count(b'"') % 2:
        message = "a quote that is not closed: beside an irregular row, a cell must not hold a line break"
        raise RecordError("unparsable", message, stage="parse")
    try:
        # Bytes of a text that are not UTF-8 cost the word that they are in.
        line = text.decode(errors="surrogateescape" if layout.texts else "strict").rstrip("\r")
        cells = tables.split_line(line, layout.header.separator)
    except UnicodeDecodeError as error:
        raise RecordError("not_utf8", tables.not_utf8("the row", number, error), stage="parse") from None
    except csv.Error as error:
        raise RecordError("unparsable", str(error), stage="parse") from None
    if len(cells) != len(columns):
        raise RecordError("wrong_width", f"{len(cells)} cells in a table of {len(columns)} columns", stage="parse")
    try:
        video_id = cells[layout.id].strip().encode()
    except UnicodeEncodeError:
        raise RecordError("not_utf8", "the id is not UTF-8", stage="parse") from None
    if not video_id:
        raise RecordError("empty_id", "the id is empty")
    unknown = 0
    try:
        labels = class_names(options.class_names).labels_of(cells[layout.labels], columns[layout.labels], _INDICES)
    except UnknownLabel as error:
        if not options.drop_unknown_labels:
            raise RecordError("unknown_label", str(error), video_id) from None
        labels, unknown = _known_labels(cells[layout.labels], columns[layout.labels], options)
    except MultiHotLabels as error:
        raise RecordError("labels_multi_hot", str(error), video_id) from None
    except JobError as error:
        raise RecordError("wrong_type", str(error), video_id) from None
    known = [label for label in labels if label >= 0 and (options.class_count is None or label < options.class_count)]
    distinct = set(known)
    for label in labels:
        if label not in distinct and not options.drop_unknown_labels:
            raise RecordError(
                "label_out_of_range", f"the label {label} lies outside [0, {options.class_count})", video_id
            )
    if not known and options.require_labels:
        raise RecordError("no_labels", "the labels are empty", video_id)
    lacking = _lacking(cells, layout) if options.mask_missing else set()
    with np.errstate(over="ignore"):  # becomes infinite, which is rejected
        values = np.array(
            [
                math.nan if column in lacking else _value(cells[column], columns[column], video_id)
                for column in layout.features
            ],
            np.float32,
        )
    good = np.isfinite(values) | [column in lacking for column in layout.features]
    if not good.all():
        wrong = layout.features[int(np.argmin(good))]
        message = f"{columns[wrong]} is {cells[wrong].strip()[:_CHARACTERS_SHOWN]}: NaN, infinite, or beyond float32"
        raise RecordError("not_finite", message, video_id)
    unknown += len(labels) - len(known)
    texts = {
        name: b"" if column is None else cells[column].encode(errors="surrogateescape")
        for name, column in layout.texts.items()
    }
    return _Row(number, video_id, sorted(distinct), values, len(known) - len(distinct), unknown, texts)


def _lacking(cells: Sequence[str], layout: _Layout) -> set[int]:
    """Columns of the modalities that a row lacks, as all their cells are empty; none where nothing would be left."""
    empty = [columns for columns in layout.modalities.values() if not any(cells[each].strip() for each in columns)]
    said = any(column is not None and cells[column].strip() for column in layout.texts.values())
    if len(empty) == len(layout.modalities) and not said:
        return set()
    return {column for columns in empty for column in columns}


def _known_labels(cell: str, where: str, options: RecordOptions) -> tuple[list[int], int]:
    """The labels of a cell that the vocabulary has, and how many others there are."""
    labels: list[int] = []
    unknown = 0
    for part in cell.split(";"):
        try:
            labels += class_names(options.class_names).labels_of(part, where, _INDICES)
        except UnknownLabel:
            unknown += 1
    return labels, unknown


def _value(text: str, column: str, video_id: bytes) -> float:
    if not text.strip():
        raise RecordError("missing_feature", f"{column} is empty", video_id)
    try:
        if "_" in text:  # of Python's numbers alone
            raise ValueError
        return float(text)
    except ValueError:
        shown = text.strip()[:_CHARACTERS_SHOWN]
        advice = " (preprocess learns from a column of text with --text=NAME)" if len(shown.split()) > 1 else ""
        if re.fullmatch(r"[-+]?\d*,\d+", shown):
            advice = " (numbers have a decimal point)"
        raise RecordError("wrong_type", f"{column} must be a number, got {shown!r}{advice}", video_id) from None


def _rows_to_batch(rows: Sequence[_Row], schema: RecordSchema) -> RawBatch:
    width = sum(modality.width for modality in schema.modalities if modality.kind != TEXT)
    notes: Counter = Counter()
    for note, count in (
        ("labels_deduplicated", sum(row.repeated for row in rows)),
        ("labels_unknown", sum(row.unknown for row in rows)),
    ):
        if count:
            notes[note] = count
    return _batch(
        [row.id for row in rows],
        np.array([label for row in rows for label in row.labels], np.int64),
        np.array([len(row.labels) for row in rows], np.int64),
        np.array([row.line for row in rows], np.int64),
        np.stack([row.values for row in rows]) if rows else np.zeros((0, width), np.float32),
        schema,
        notes,
        {modality.name: [row.texts[modality.name] for row in rows] for modality in schema.texts},
    )


def _batch(
    ids: list[bytes],
    label_values: np.ndarray,
    label_lengths: np.ndarray,
    lines: np.ndarray,
    rows: np.ndarray,
    schema: RecordSchema,
    notes: Counter,
    texts: dict[str, list[bytes]],
) -> RawBatch:
    features: dict[str, FeatureValues] = {}
    missing: dict[str, np.ndarray] = {}
    at = 0
    for modality in schema.modalities:
        if modality.kind == TEXT:
            features[modality.name] = BytesColumn.of(texts[modality.name])
            continue
        features[modality.name] = np.ascontiguousarray(rows[:, at : at + modality.width])
        lacking = np.isnan(rows[:, at])
        if lacking.any():
            missing[modality.name] = lacking
        at += modality.width
    id_column = BytesColumn.of(ids)
    return RawBatch(
        id_column,
        id_column,
        lines,
        label_values,
        label_lengths,
        label_lengths > 0,
        features,
        notes=notes,
        missing=missing,
    )
