"""Statistics of the training records, as sums that come out the same in whatever order shards are added.

Within a shard the sums are taken in the order of its records; over shards they are added without rounding, as Python's
integers: sums of codes are whole numbers, and sums of float32 values and of their squares are whole numbers of 2**-298.
"""

import dataclasses
import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model.records import kernels
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.schema import FRAMES, Modality, RecordSchema

# Sums of float32 values and of their squares are whole numbers of 2**-298.
_FLOAT_EXPONENT = -320
_PARTS = ("total", "squares", "lowest", "highest")


def arrays_to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as the content of an `.npz` file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # one could be called allow_pickle
    return stream.getvalue()


def arrays_from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Reads what `arrays_to_bytes` wrote.

    Raises:
        ValueError: `data` is damaged or cut short.
    """
    stream = io.BytesIO(data)
    try:
        with zipfile.ZipFile(stream) as archive:
            if damaged := archive.testzip():  # before numpy believes what a header says of the size
                raise ValueError(f"damaged array {damaged}")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as stored:
            return dict(stored)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged arrays: {error}") from None


@dataclasses.dataclass
class ModalitySums:
    """Count, sums and range of the values of one modality, of any number of training shards.

    Attributes:
        count: vectors added.
        total: D integers, the sums of values in units of 2**exponent.
        squares: D integers, the sums of squared values in the same units.
        lowest, highest: float64 (D,); +-infinity when nothing was added.
        exponent: 0 for codes.
    """

    count: int
    total: list[int]
    squares: list[int]
    lowest: np.ndarray
    highest: np.ndarray
    exponent: int

    @classmethod
    def empty(cls, modality: Modality) -> "ModalitySums":
        """The sums of no values."""
        width = modality.width
        exponent = 0 if modality.kind == FRAMES else _FLOAT_EXPONENT
        return cls(0, [0] * width, [0] * width, np.full(width, np.inf), np.full(width, -np.inf), exponent)

    def add(self, other: "ModalitySums") -> None:
        """Adds the sums of other shards to these."""
        self._add(other.count, other.total, other.squares, other.lowest, other.highest)

    def add_shard(
        self, count: int, total: np.ndarray, squares: np.ndarray, lowest: np.ndarray, highest: np.ndarray
    ) -> None:
        """Adds the sums (D,) of one shard: float64, or int64 of codes."""
        if count:
            self._add(count, self._integers(total), self._integers(squares), lowest, highest)

    def _integers(self, sums: np.ndarray) -> list[int]:
        # Python's integers hold any float64 in units of 2**-320 exactly, so the order of additions does not matter.
        return [int(math.ldexp(value, -self.exponent)) for value in sums.tolist()] if self.exponent else sums.tolist()

    def _add(self, count: int, total: list[int], squares: list[int], lowest: np.ndarray, highest: np.ndarray) -> None:
        self.count += count
        self.total = [one + two for one, two in zip(self.total, total, strict=True)]
        self.squares = [one + two for one, two in zip(self.squares, squares, strict=True)]
        self.lowest = np.minimum(self.lowest, lowest)
        self.highest = np.maximum(self.highest, highest)


Statistics = dict[str, ModalitySums]


def empty_statistics(schema: RecordSchema) -> Statistics:
    """Empty sums for every modality."""
    return {modality.name: ModalitySums.empty(modality) for modality in schema.modalities}


def merge_statistics(parts: Sequence[Statistics], schema: RecordSchema) -> Statistics:
    """The sums of all parts, whatever their order."""
    merged = empty_statistics(schema)
    for part in parts:
        for name, sums in merged.items():
            sums.add(part[name])
    return merged


class ShardMeter:
    """Adds up the training records of one shard, in order.

    Attributes:
        records: number of records added, whatever they lack.
    """

    def __init__(self, schema: RecordSchema) -> None:
        self.records = 0
        self._schema = schema
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._counts = dict.fromkeys((modality.name for modality in schema.modalities), 0)
        for modality in schema.modalities:
            if modality.kind == FRAMES:
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
        """Adds the chosen records (bool (B,)) of a batch; modalities that were filled in do not count."""
        self.records += int(np.count_nonzero(chosen))
        for name, values in batch.features.items():
            rows = chosen & ~batch.filled[name] if name in batch.filled else chosen
            arrays = self._arrays[name]
            if isinstance(values, FrameBatch):
                kernels.add_code_moments(values.buffer, values.begins, values.strides, values.lengths, rows, *arrays)
                self._counts[name] += int(values.lengths[rows].sum())
            else:
                kernels.add_float_moments(values, rows, *arrays)
                self._counts[name] += int(rows.sum())

    def to_bytes(self) -> bytes:
        """The sums as a small file that `from_bytes` reads back exactly."""
        return arrays_to_bytes(
            {
                "counts": np.array(list(self._counts.values()), np.int64),
                **{
                    f"{name}/{part}": array
                    for name, parts in self._arrays.items()
                    for part, array in zip(_PARTS, parts, strict=True)
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, schema: RecordSchema) -> "ShardMeter":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is damaged.
        """
        meter = cls(schema)
        stored = arrays_from_bytes(data)
        try:
            for name, count in zip(meter._counts, stored["counts"].tolist(), strict=True):
                meter._counts[name] = count
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
    if modality.kind != FRAMES:
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
    text = repr(
        [
            (name, sums.count, sums.exponent, sums.total, sums.squares, sums.lowest.tolist(), sums.highest.tolist())
            for name, sums in statistics.items()
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
