"""From arrays to framed, serialized tf.train.Example records, in batches."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vcls_model.records import kernels
from vcls_model.records.kernels import FOOTER_BYTES, HEADER_BYTES


@dataclasses.dataclass(frozen=True)
class BytesColumn:
    """One byte string per record: data[begins[r]:begins[r] + lengths[r]]; uint8, int64, int64."""

    data: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "BytesColumn":
        """From a list of byte strings."""
        lengths = np.array([len(value) for value in values], np.int64)
        # A writable array, as others are: numba compiles a kernel a second time for one that is not.
        return cls(np.frombuffer(bytearray(b"".join(values) or b"\0"), np.uint8), np.cumsum(lengths) - lengths, lengths)

    def __getitem__(self, part: slice | np.ndarray) -> "BytesColumn":
        """The strings of a slice, or those that a bool mask (B,) keeps; the data are shared."""
        return BytesColumn(self.data, self.begins[part], self.lengths[part])

    def __len__(self) -> int:
        return len(self.lengths)

    def tolist(self) -> list[bytes]:
        """The byte strings."""
        data = self.data.tobytes()
        return [
            data[begin : begin + length]
            for begin, length in zip(self.begins.tolist(), self.lengths.tolist(), strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class IntegerColumn:
    """A list of non-negative integers per record: values[begins[r]:begins[r] + counts[r]]; int64."""

    values: np.ndarray
    begins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of_lengths(cls, values: np.ndarray, counts: np.ndarray) -> "IntegerColumn":
        """From lists one after another and their lengths."""
        return cls(values, np.cumsum(counts) - counts, counts)


@dataclasses.dataclass(frozen=True)
class FloatColumn:
    """One vector per record: row r of float32 (B, D)."""

    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class AffineColumn:
    """One vector per record: (rows[r] - location) * factor; float32 (B, D), (D,), (D,)."""

    rows: np.ndarray
    location: np.ndarray
    factor: np.ndarray


@dataclasses.dataclass(frozen=True)
class CodeMap:
    """Codes to the codes of normalised values: dequantised, (value - location) * factor, clipped, rounded half to even.

    Attributes:
        affine: float32 (2, D), location and factor.
        levels: float32 (5,): scale and offset of the codes read, lowest and highest value written, codes per unit.
    """

    affine: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, affine: np.ndarray, read: Iterable[float], written: Iterable[float]) -> "CodeMap":
        """From the quantisation of the codes read and of those written, each a `Quantisation` or (scale, offset)."""
        scale, offset = written
        return cls(affine, np.array([*read, offset, offset + 255 * scale, 1 / scale], np.float32))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Maps uint8 or float32 (..., D) to uint8 of the same shape, with the kernel's arithmetic, step by step."""
        scale, offset, low, high, density = self.levels
        values = (codes.astype(np.float32) * scale + offset - self.affine[0]) * self.affine[1]
        return np.rint((np.clip(values, low, high) - low) * density).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class CodesColumn:
    """The frames of a record as one byte string, its codes through `mapping`.

    Frame f of record r is buffer[begins[r] + f * strides[r]:][:D], for f below frames[r]; uint8, and three int64 (B,).
    """

    buffer: np.ndarray
    begins: np.ndarray
    strides: np.ndarray
    frames: np.ndarray
    mapping: CodeMap


Column = BytesColumn | IntegerColumn | FloatColumn | AffineColumn | CodesColumn


def encode_by_split(
    columns: dict[str, Column], splits: np.ndarray, where: Mapping[str, np.ndarray] | None = None
) -> list[tuple[int, np.ndarray]]:
    """Serializes and frames all records: (split, bytes of its records in their order) for each split that has any.

    Args:
        columns: features by name, in the order in which they are written.
        splits: int64 (B,), the split of each record.
        where: by name of a column that not every record gets: bool (B,), whether it does.
    """
    order = np.argsort(splits, kind="stable")
    data, starts = _encode(columns, order, where or {})
    encoded = []
    begin = 0
    for split, count in enumerate(np.bincount(splits).tolist()):
        if count:
            encoded.append((split, data[starts[begin] - HEADER_BYTES : starts[begin + count] - HEADER_BYTES]))
            begin += count
    return encoded


def _encode(
    columns: dict[str, Column], chosen: np.ndarray, where: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the records; and where each payload lies in them, int64 (R + 1,), and where one more would begin."""
    count = len(chosen)
    pieces = {name: _Piece.of(name, column, chosen, where.get(name)) for name, column in columns.items()}
    features = np.zeros(count, np.int64)
    for piece in pieces.values():
        totals = features[piece.places]
        kernels.add_feature_bytes(len(piece.name), piece.content, totals)
        features[piece.places] = totals
    starts = np.empty(count + 1, np.int64)
    kernels.place_records(features, starts)
    target = np.empty(int(starts[count]) - HEADER_BYTES, np.uint8)
    at = starts[:count].copy()
    kernels.put_example_heads(target, at, features)
    for name, column in columns.items():
        piece = pieces[name]
        own = at[piece.places]
        _put(target, own, column, piece)
        at[piece.places] = own
    kernels.frame_payloads(target, starts[:count], np.diff(starts) - (HEADER_BYTES + FOOTER_BYTES))
    return target, starts


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What of a column goes into a run of records.

    Attributes:
        name: of the feature, uint8.
        places: which of the records get it: all, or their places in the run.
        chosen: int64 (R,), the rows of the column.
        content: int64 (R,), bytes of the values of each.
    """

    name: np.ndarray
    places: slice | np.ndarray
    chosen: np.ndarray
    content: np.ndarray

    @classmethod
    def of(cls, name: str, column: Column, chosen: np.ndarray, where: np.ndarray | None) -> "_Piece":
        """Of the rows `chosen` those that `where`, if it is given, keeps."""
        places = slice(None) if where is None else np.flatnonzero(where[chosen])
        rows = chosen[places]
        if isinstance(column, IntegerColumn):
            content = np.empty(len(rows), np.int64)
            kernels.packed_bytes(column.values, column.begins[rows], column.counts[rows], content)
        elif isinstance(column, FloatColumn | AffineColumn):
            content = np.full(len(rows), 4 * column.rows.shape[1], np.int64)
        elif isinstance(column, CodesColumn):
            content = column.frames[rows] * column.mapping.affine.shape[1]
        else:
            content = column.lengths[rows]
        return cls(np.frombuffer(bytearray(name.encode()), np.uint8), places, rows, content)


def _put(target: np.ndarray, at: np.ndarray, column: Column, piece: _Piece) -> None:
    """Appends a feature to the records whose next bytes go to `at`."""
    name, rows = piece.name, piece.chosen
    if isinstance(column, IntegerColumn):
        kernels.put_integers(target, at, name, column.values, column.begins[rows], column.counts[rows], piece.content)
    elif isinstance(column, FloatColumn):
        kernels.put_floats(target, at, name, column.rows.view(np.uint8), rows)
    elif isinstance(column, AffineColumn):
        kernels.put_affine_floats(target, at, name, column.rows, rows, column.location, column.factor)
    elif isinstance(column, CodesColumn):
        kernels.put_mapped_codes(
            target,
            at,
            name,
            column.buffer,
            column.begins[rows],
            column.strides[rows],
            column.frames[rows],
            column.mapping.affine,
            column.mapping.levels,
        )
    else:
        kernels.put_bytes(target, at, name, column.data, column.begins[rows], column.lengths[rows])
