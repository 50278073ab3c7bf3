"""A dataset as CSV: a header, then one row per video: id, labels separated by `;`, then one column per value.

Columns called `mean_rgb_0` … `mean_rgb_1023` make a modality `mean_rgb`; columns not numbered like that make one
modality `features`. Rows are parsed in blocks by pyarrow; a block with any irregular row goes through a slow,
careful reader, so that a bad row costs that row. A quoted cell must not contain a line break.
"""

import csv
import dataclasses
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from vcls_model.commands import UsageError
from vcls_model.records.decoding import FrameBatch, RawBatch, RecordError, RecordOptions, Rejected, in_batches
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.framing import ByteSource
from vcls_model.records.schema import VECTOR, Modality, RecordSchema
from vcls_model.storage import open_for_reading

_ID_COLUMNS = ("id", "video_id")
_LABELS_COLUMN = "labels"
_ALL_FEATURES = "features"
_HEADER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which column of the file holds what: positions."""

    names: tuple[str, ...]
    id: int
    labels: int
    modalities: dict[str, tuple[int, ...]]

    @property
    def features(self) -> list[int]:
        """Columns of all modalities, one modality after another."""
        return [column for columns in self.modalities.values() for column in columns]


def csv_schema(path: str) -> RecordSchema:
    """The schema that the header of a CSV describes.

    Raises:
        UsageError: it has no id, labels or feature columns.
    """
    with open_for_reading(path) as stream:
        lines = _lines(ByteSource(stream, path), _HEADER_BYTES)
        header = next(lines, (1, b""))[1].split(b"\n", 1)[0]
    try:
        layout = _layout(header)
    except RecordError as error:
        raise UsageError(f"{path} is not a CSV of features: {error}") from None
    modalities = tuple(Modality(name, len(columns), VECTOR, "float32") for name, columns in layout.modalities.items())
    return RecordSchema("csv", "csv", layout.names[layout.id], layout.names[layout.labels], modalities)


def _layout(header: bytes) -> _Layout:
    names = next(csv.reader([header.decode("utf-8-sig", "replace")]), [])
    plain = [name.strip().lower() for name in names]
    if twice := sorted(name for name, count in Counter(plain).items() if count > 1):
        raise RecordError("wrong_columns", f"the header names {', '.join(map(repr, twice))} twice", stage="parse")
    ids = [plain.index(name) for name in _ID_COLUMNS if name in plain]
    if not ids or _LABELS_COLUMN not in plain:
        raise RecordError("wrong_columns", "the header must name the columns 'id' and 'labels'", stage="parse")
    labels = plain.index(_LABELS_COLUMN)
    rest = [column for column in range(len(names)) if column not in (ids[0], labels)]
    if not rest:
        raise RecordError("wrong_columns", "the header names no feature column", stage="parse")
    return _Layout(tuple(name.strip() for name in names), ids[0], labels, _modalities(names, rest))


def _modalities(names: Sequence[str], columns: Sequence[int]) -> dict[str, tuple[int, ...]]:
    numbered_columns: dict[str, dict[int, int]] = {}
    for column in columns:
        numbered = re.fullmatch(r"(.*?)[_\[. ]?(\d+)\]?", names[column].strip())
        if not numbered or not numbered.group(1):
            return {_ALL_FEATURES: tuple(columns)}
        numbered_columns.setdefault(numbered.group(1), {})[int(numbered.group(2))] = column
    for numbers in numbered_columns.values():
        if sorted(numbers) not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
            return {_ALL_FEATURES: tuple(columns)}
    return {name: tuple(numbers[number] for number in sorted(numbers)) for name, numbers in numbered_columns.items()}


def _lines(source: ByteSource, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line."""
    rest, line = b"", 1
    while True:
        buffer = np.empty(block_bytes, np.uint8)
        count = source.readinto(buffer)
        block = rest + buffer[:count].tobytes()
        if count < block_bytes:
            if block:
                yield line, block
            return
        end = block.rfind(b"\n") + 1
        if end:
            yield line, block[:end]
            line += block.count(b"\n", 0, end)
        rest = block[end:]


def read_csv_batches(
    path: str, schema: RecordSchema, options: RecordOptions, *, batch_records: int, batch_bytes: int
) -> Iterator[tuple[RawBatch, list[Rejected]]]:
    """Reads a CSV in blocks of about `batch_bytes`; see `vcls_model.records.shards.read_batches`."""
    layout: _Layout | None = None
    with open_for_reading(path) as stream:
        source = ByteSource(stream, path)
        for line, block in _lines(source, batch_bytes):
            if layout is None:
                header, _, block = block.partition(b"\n")
                line += 1
                try:
                    layout = _layout(header)
                    _check_layout(layout, schema)
                except RecordError as error:
                    yield _rows_to_batch([], schema), [error.rejected(path, 1)]
                    return
            batch, rejected = _read_block(path, block, line, layout, schema, options)
            for part in in_batches(batch.offsets, batch_records) or [slice(0, 0)]:
                yield _slice(batch, part), rejected
                rejected = []
        if source.damage:
            yield _rows_to_batch([], schema), [Rejected(path, 0, "", "framing", *source.damage)]


def _check_layout(layout: _Layout, schema: RecordSchema) -> None:
    widths = {name: len(columns) for name, columns in layout.modalities.items()}
    expected = {modality.name: modality.width for modality in schema.modalities}
    if widths != expected:
        raise RecordError("wrong_columns", f"the columns make {widths}, expected {expected}", stage="parse")


def _slice(batch: RawBatch, part: slice) -> RawBatch:
    ends = np.cumsum(batch.label_lengths)
    begin = int(ends[part.start - 1]) if part.start else 0
    end = int(ends[min(part.stop, len(ends)) - 1]) if len(ends[part]) else begin
    features: dict[str, np.ndarray | FrameBatch] = {}
    for name, values in batch.features.items():
        assert isinstance(values, np.ndarray)
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
    )


@dataclasses.dataclass
class _Row:
    """One checked row."""

    line: int
    id: bytes
    labels: list[int]
    values: np.ndarray  # float32, all modalities
    repeated: int = 0


def _read_block(
    path: str, block: bytes, line: int, layout: _Layout, schema: RecordSchema, options: RecordOptions
) -> tuple[RawBatch, list[Rejected]]:
    batch = _read_clean(block, line, layout, schema, options)
    if batch is not None:
        return batch, []
    rows: list[_Row] = []
    rejected: list[Rejected] = []
    for number, text in enumerate(block.split(b"\n"), line):
        if not text.strip():
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
    types = {str(column): pa.float32() for column in layout.features}
    types[str(layout.id)] = pa.binary()
    types[str(layout.labels)] = pa.string()
    names = [str(column) for column in range(len(layout.names))]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(block),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(ignore_empty_lines=False),
            arrow_csv.ConvertOptions(column_types=types, null_values=[""], include_columns=list(types)),
        )
        labels = pc.split_pattern(table[str(layout.labels)].combine_chunks(), ";")
        label_values = labels.flatten().cast(pa.int64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    values = [table[str(column)] for column in layout.features]
    if labels.null_count or any(column.null_count for column in values):
        return None
    ids = table[str(layout.id)].to_pylist()
    label_lengths = pc.list_value_length(labels).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.stack([column.to_numpy() for column in values], axis=1) if len(ids) else np.zeros((0, len(values)), "f4")
    ascending = np.diff(label_values) > 0
    ends = np.cumsum(label_lengths)
    ascending[ends[:-1][ends[:-1] < len(label_values)] - 1] = True
    highest = np.inf if options.class_count is None else options.class_count
    good = (
        all(ids)
        and np.isfinite(rows).all()
        and (label_lengths > 0).all()
        and ascending.all()
        and (label_values >= 0).all()
        and (label_values < highest).all()
    )
    if not good:
        return None
    return _batch(
        ids, label_values.astype(np.int64), label_lengths, np.arange(line, line + len(ids)), rows, schema, Counter()
    )


def _careful(text: bytes, number: int, layout: _Layout, options: RecordOptions) -> _Row:
    """Checks one row.

    Raises:
        RecordError: it cannot be used.
    """
    cells = next(csv.reader([text.decode("utf-8", "surrogateescape").rstrip("\r")]))
    if len(cells) != len(layout.names):
        raise RecordError("wrong_width", f"{len(cells)} cells in a table of {len(layout.names)} columns", stage="parse")
    video_id = cells[layout.id].encode("utf-8", "surrogateescape")
    if not video_id:
        raise RecordError("empty_id", "the id is empty")
    try:
        labels = [int(part) for part in cells[layout.labels].split(";") if part.strip()]
    except ValueError:
        raise RecordError("wrong_type", "labels must be whole numbers separated by ';'", video_id) from None
    if any(label < 0 or (options.class_count is not None and label >= options.class_count) for label in labels):
        raise RecordError("label_out_of_range", f"a label lies outside [0, {options.class_count})", video_id)
    if not labels and options.require_labels:
        raise RecordError("no_labels", "the labels are empty", video_id)
    if any(not cells[column].strip() for column in layout.features):
        raise RecordError("missing_feature", "a feature is empty", video_id)
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is rejected below
            values = np.array([float(cells[column]) for column in layout.features]).astype(np.float32)
    except ValueError as error:
        raise RecordError("wrong_type", f"a feature is not a number: {error}", video_id) from None
    if not np.isfinite(values).all():
        raise RecordError("not_finite", "a feature is NaN, infinite, or beyond float32", video_id)
    return _Row(number, video_id, sorted(set(labels)), values, len(labels) - len(set(labels)))


def _rows_to_batch(rows: Sequence[_Row], schema: RecordSchema) -> RawBatch:
    width = sum(modality.width for modality in schema.modalities)
    notes: Counter = Counter()
    if any(row.repeated for row in rows):
        notes["labels_deduplicated"] = sum(row.repeated for row in rows)
    return _batch(
        [row.id for row in rows],
        np.array([label for row in rows for label in row.labels], np.int64),
        np.array([len(row.labels) for row in rows], np.int64),
        np.array([row.line for row in rows], np.int64),
        np.stack([row.values for row in rows]) if rows else np.zeros((0, width), np.float32),
        schema,
        notes,
    )


def _batch(
    ids: list[bytes],
    label_values: np.ndarray,
    label_lengths: np.ndarray,
    lines: np.ndarray,
    rows: np.ndarray,
    schema: RecordSchema,
    notes: Counter,
) -> RawBatch:
    features: dict[str, np.ndarray | FrameBatch] = {}
    at = 0
    for modality in schema.modalities:
        features[modality.name] = np.ascontiguousarray(rows[:, at : at + modality.width])
        at += modality.width
    id_column = BytesColumn.of(ids)
    return RawBatch(id_column, id_column, lines, label_values, label_lengths, label_lengths > 0, features, notes=notes)
