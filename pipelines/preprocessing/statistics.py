"""Statistics of the training records, as sums that come out the same in whatever order shards are added.

Within a shard the sums are taken in the order of its records; over shards they are added without rounding: sums of
codes are whole numbers, and sums of float32 values and of their squares are whole numbers of 2**-298.
"""

import dataclasses
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.preprocessing.exact_sums import ExactSums
from vcls_model import storage
from vcls_model.records import kernels
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import TEXT, Modality, RecordSchema
from vcls_model.records.text import DocumentCounts, Tokeniser
from vcls_model.records.text_options import TextOptions

# Sums of float32 values and of their squares are whole numbers of 2**-298.
_FLOAT_EXPONENT = -320
_PARTS = ("total", "squares", "lowest", "highest")
_WORD = 4


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as a checksum, the size of a JSON head (4 bytes each), the head, then the values of one after another.

    A job of many small shards notices how long that takes: reading a manifest with a `.npy` file of one structured
    value takes three times as long, and an `.npz` more than that.
    """
    head = storage.to_json([[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]).encode()
    values = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    content = b"".join([len(head).to_bytes(_WORD, "little"), head, *values])
    return zlib.crc32(content).to_bytes(_WORD, "little") + content


def arrays_from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Reads what `arrays_to_bytes` wrote.

    Raises:
        ValueError: `data` is damaged or cut short.
    """
    content = memoryview(data)[_WORD:]
    # Checked before what the head says of sizes is believed.
    if zlib.crc32(content).to_bytes(_WORD, "little") != data[:_WORD]:
        raise ValueError("damaged arrays")
    start = _WORD + int.from_bytes(content[:_WORD], "little")
    arrays = {}
    for name, kind, shape in storage.from_json(bytes(content[_WORD:start]), "the head of stored arrays"):
        values = np.frombuffer(content, kind, math.prod(shape), start)
        arrays[name] = values.reshape(shape).copy()
        start += values.nbytes
    return arrays


class CodeSums:
    """D sums of whole numbers, int64."""

    def __init__(self, width: int) -> None:
        self._sums = np.zeros(width, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Adds one number, int64 (D,), to each sum."""
        self._sums += values

    def merge(self, other: "CodeSums") -> None:
        """Adds other sums to these."""
        self._sums += other._sums

    def integers(self, exponent: int) -> list[int]:
        """The sums; their unit is 2**0."""
        assert exponent == 0
        return self._sums.tolist()


@dataclasses.dataclass
class ModalitySums:
    """Count, sums and range of the values of one modality, of any number of training shards.

    Attributes:
        count: vectors added.
        totals, squared: the D sums of the values and of their squares.
        lowest, highest: float64 (D,); +-infinity when nothing was added.
        exponent: `total` and `squares` count in units of 2**exponent; 0 for codes.
    """

    count: int
    totals: ExactSums | CodeSums
    squared: ExactSums | CodeSums
    lowest: np.ndarray
    highest: np.ndarray
    exponent: int

    @classmethod
    def empty(cls, modality: Modality) -> "ModalitySums":
        """The sums of no values."""
        width = modality.width
        kind, exponent = (CodeSums, 0) if modality.coded else (ExactSums, _FLOAT_EXPONENT)
        return cls(0, kind(width), kind(width), np.full(width, np.inf), np.full(width, -np.inf), exponent)

    @property
    def total(self) -> list[int]:
        """D integers, the sums of values in units of 2**exponent."""
        return self.totals.integers(self.exponent)

    @property
    def squares(self) -> list[int]:
        """D integers, the sums of squared values in units of 2**exponent."""
        return self.squared.integers(self.exponent)

    def add(self, other: "ModalitySums") -> None:
        """Adds the sums of other shards to these."""
        self.totals.merge(other.totals)  # type: ignore[arg-type]  # of one modality, so of one kind
        self.squared.merge(other.squared)  # type: ignore[arg-type]
        self._add_range(other.count, other.lowest, other.highest)

    def add_shard(
        self, count: int, total: np.ndarray, squares: np.ndarray, lowest: np.ndarray, highest: np.ndarray
    ) -> None:
        """Adds the sums (D,) of one shard: float64, or int64 of codes."""
        if count:
            self.totals.add(total)
            self.squared.add(squares)
            self._add_range(count, lowest, highest)

    def _add_range(self, count: int, lowest: np.ndarray, highest: np.ndarray) -> None:
        self.count += count
        self.lowest = np.minimum(self.lowest, lowest)
        self.highest = np.maximum(self.highest, highest)


class TextSums:
    """Training records, and in how many of their texts each bucket occurs; of any number of shards.

    Attributes:
        count: records added.
        documents: int64 (buckets,); empty as long as nothing was added.
    """

    def __init__(self) -> None:
        self.count = 0
        self.documents: np.ndarray = np.zeros(0, np.int64)

    def add(self, other: "TextSums") -> None:
        """Adds those of other shards."""
        self.add_shard(other.count, other.documents)

    def add_shard(self, count: int, documents: np.ndarray) -> None:
        """Adds those of one shard."""
        self.count += count
        if len(documents):
            self.documents = documents + (self.documents if len(self.documents) else 0)


Statistics = dict[str, ModalitySums | TextSums]


def empty_statistics(schema: RecordSchema) -> Statistics:
    """Empty sums for every modality."""
    return {
        modality.name: TextSums() if modality.kind == TEXT else ModalitySums.empty(modality)
        for modality in schema.modalities
    }


def merge_statistics(parts: Sequence[Statistics], schema: RecordSchema) -> Statistics:
    """The sums of all parts, whatever their order."""
    merged = empty_statistics(schema)
    for part in parts:
        for name, sums in merged.items():
            sums.add(part[name])  # type: ignore[arg-type]  # of one modality, so of one kind
    return merged


class ShardMeter:
    """Adds up the training records of one shard, in order.

    Attributes:
        records: number of records added, whatever they lack.
    """

    def __init__(self, schema: RecordSchema, text: TextOptions | None = None) -> None:
        self.records = 0
        self._schema = schema
        self._text = text
        self._texts = {modality.name for modality in schema.texts}
        self._tokeniser: Tokeniser | None = None
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._counts = dict.fromkeys((modality.name for modality in schema.modalities), 0)
        self._of_floats = {modality.name for modality in schema.modalities if not modality.coded}
        for modality in schema.modalities:
            if modality.kind == TEXT:
                assert text is not None
                self._arrays[modality.name] = [np.zeros(text.buckets, np.int64)]
            elif modality.coded:
                width = modality.width
                self._arrays[modality.name] = [
                    np.zeros(width, np.int64),
                    np.zeros(width, np.int64),
                    np.full(width, 255, np.uint8),
                    np.zeros(width, np.uint8),
                ]
            else:
                self._arrays[modality.name] = [
                    np.zeros(modality.width),
                    np.zeros(modality.width),
                    np.full(modality.width, np.inf),
                    np.full(modality.width, -np.inf),
                ]

    def add(self, batch: RawBatch, chosen: np.ndarray) -> None:
        """Adds the chosen records (bool (B,)) of a batch; what they lack and what was filled in does not count."""
        self.records += int(np.count_nonzero(chosen))
        for name, values in batch.features.items():
            rows = chosen
            for lacking in (batch.filled.get(name), batch.missing.get(name)):
                rows = rows if lacking is None else rows & ~lacking
            if isinstance(values, FrameBatch) and name in batch.held:
                values = dataclasses.replace(values, lengths=np.minimum(values.lengths, batch.held[name]))
            arrays = self._arrays[name]
            if isinstance(values, BytesColumn):
                self._count_text(values[chosen], arrays[0])
                self._counts[name] += int(np.count_nonzero(chosen))
            elif isinstance(values, FrameBatch) and name in self._of_floats:
                frames = values.select(rows).floats()
                kernels.add_float_moments(frames, np.ones(len(frames), np.bool_), *arrays)
                self._counts[name] += len(frames)
            elif isinstance(values, FrameBatch):
                kernels.add_code_moments(values.buffer, values.begins, values.strides, values.lengths, rows, *arrays)
                self._counts[name] += int(values.lengths[rows].sum())
            else:
                kernels.add_float_moments(values, rows, *arrays)
                self._counts[name] += int(rows.sum())

    def _count_text(self, texts: BytesColumn, documents: np.ndarray) -> None:
        assert self._text is not None
        self._tokeniser = self._tokeniser or Tokeniser(self._text)
        self._tokeniser.count_documents(texts, documents)

    def to_bytes(self) -> bytes:
        """The sums as a small file that `from_bytes` reads back exactly."""
        arrays = {"counts": np.array(list(self._counts.values()), np.int64)}
        for name, parts in self._arrays.items():
            if name in self._texts:
                # A shard has fewer different words than there are buckets.
                arrays[f"{name}/buckets"] = np.flatnonzero(parts[0]).astype(np.int32)
                arrays[f"{name}/documents"] = parts[0][parts[0] > 0]
            else:
                arrays |= {f"{name}/{part}": array for part, array in zip(_PARTS, parts, strict=True)}
        return arrays_to_bytes(arrays)

    @classmethod
    def from_bytes(cls, data: bytes, schema: RecordSchema, text: TextOptions | None = None) -> "ShardMeter":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is damaged.
        """
        meter = cls(schema, text)
        stored = arrays_from_bytes(data)
        try:
            for name, count in zip(meter._counts, stored["counts"].tolist(), strict=True):
                meter._counts[name] = count
                if name in meter._texts:
                    meter._arrays[name][0][stored[f"{name}/buckets"]] = stored[f"{name}/documents"]
                else:
                    meter._arrays[name] = [stored[f"{name}/{part}"] for part in _PARTS]
        except KeyError as error:
            raise ValueError(f"no array {error}") from None
        return meter

    def add_to(self, statistics: Statistics) -> None:
        """Adds the sums so far to those of other shards."""
        for name, sums in statistics.items():
            sums.add_shard(self._counts[name], *self._arrays[name])

    def statistics(self) -> Statistics:
        """The sums so far."""
        statistics = empty_statistics(self._schema)
        self.add_to(statistics)
        return statistics


@dataclasses.dataclass(frozen=True)
class Moments:
    """Statistics of the values of one modality over the training records, each float64 (D,); codes are dequantised.

    `std` is that of the population, as `tft.scale_to_z_score` has it. All are 0 when there was no value.
    """

    count: int
    mean: np.ndarray
    std: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description that `from_dict` reads back exactly."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "lowest": self.lowest.tolist(),
            "highest": self.highest.tolist(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Moments":
        """Reads what `to_dict` wrote."""
        return cls(value["count"], *(np.array(value[key]) for key in ("mean", "std", "lowest", "highest")))


# What is known of the training records, by modality.
Fitted = dict[str, Moments | DocumentCounts]


def fitted_from_dict(value: dict[str, Any]) -> Moments | DocumentCounts:
    """Reads what the `to_dict` of either wrote."""
    return DocumentCounts.from_dict(value) if "documents" in value else Moments.from_dict(value)


def document_counts(sums: TextSums, text: TextOptions) -> DocumentCounts:
    """The counts over all training records."""
    documents = sums.documents if len(sums.documents) else np.zeros(text.buckets, np.int64)
    return DocumentCounts(sums.count, documents)


def moments(sums: ModalitySums, modality: Modality) -> Moments:
    """Mean, population standard deviation and range; exact until the last rounding."""
    if not sums.count:
        zero = np.zeros(modality.width)
        return Moments(0, zero, zero, zero, zero)
    count, unit = sums.count, -sums.exponent
    mean = np.array([_ratio(total, count, unit) for total in sums.total])
    # count * squares - total**2 is count**2 times the variance: all in integers. Sums of float32 squares were rounded
    # within their shard, so it may come out just below 0.
    variance = np.array(
        [
            max(0.0, _ratio(count * (squares << unit) - total * total, count * count, 2 * unit))
            for total, squares in zip(sums.total, sums.squares, strict=True)
        ]
    )
    raw = Moments(count, mean, np.sqrt(variance), sums.lowest, sums.highest)
    if not modality.coded:
        return raw
    codes = modality.quantisation
    return Moments(
        count,
        codes.values(raw.mean),
        raw.std * codes.scale,
        codes.values(raw.lowest),
        codes.values(raw.highest),
    )


def _ratio(numerator: int, denominator: int, shift: int) -> float:
    """numerator / denominator / 2**shift, rounded once."""
    return numerator / (denominator << shift) if numerator else 0.0


def statistics_hash(statistics: Statistics) -> str:
    """Identifies the statistics: shards transformed with others are not reused."""
    parts: list[tuple[Any, ...]] = []
    for name, sums in statistics.items():
        if isinstance(sums, TextSums):
            parts.append((name, sums.count, sums.documents.tolist()))
            continue
        lowest, highest = sums.lowest.tolist(), sums.highest.tolist()
        parts.append((name, sums.count, sums.exponent, sums.total, sums.squares, lowest, highest))
    text = repr(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
