"""Statistics of the training records, as sums that come out the same in whatever order shards are added.

Within a shard the sums are taken in the order of its records; over shards they are added without rounding: as whole
numbers of 2**-320, which the sums of float32 values and of their squares all are (the smallest is 2**-298). Sums of
codes are whole numbers anyway.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from pipelines.preprocessing.moments import Moments
from pipelines.preprocessing.packed_arrays import pack_arrays, unpack_arrays
from vcls_model.records import kernels
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, FRAMES, Modality, RecordSchema

# Digits of 32 bits: squares of float32 reach 2**256, and 2**50 of them still fit.
_FLOAT_DIGITS, _FLOAT_EXPONENT = 20, -320
_CODE_DIGITS = 2
_PARTS = ("total", "squares", "lowest", "highest")


@dataclasses.dataclass
class ModalitySums:
    """Count, sums and range of the values of one modality, of any number of training shards.

    Attributes:
        count: vectors added.
        total, squares: sums of values and of squared values: int64 (D, L), digits of whole numbers of 2**exponent, see
            `kernels.add_floats_exactly`.
        lowest, highest: float64 (D,); +-infinity when nothing was added.
        exponent: 0 for codes.
    """

    count: int
    total: np.ndarray
    squares: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    exponent: int

    @classmethod
    def of_nothing(cls, modality: Modality) -> "ModalitySums":
        """The sums of no values."""
        frames = modality.kind == FRAMES
        shape = modality.width, _CODE_DIGITS if frames else _FLOAT_DIGITS
        return cls(
            0,
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
            np.full(modality.width, np.inf),
            np.full(modality.width, -np.inf),
            0 if frames else _FLOAT_EXPONENT,
        )

    def add(self, other: "ModalitySums") -> None:
        """Adds the sums of other shards to these."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        np.minimum(self.lowest, other.lowest, out=self.lowest)
        np.maximum(self.highest, other.highest, out=self.highest)

    def add_shard(
        self, count: int, total: np.ndarray, squares: np.ndarray, lowest: np.ndarray, highest: np.ndarray
    ) -> None:
        """Adds the sums (D,) of one shard: float64, or int64 of codes."""
        if not count:
            return
        self.count += count
        for values, digits in ((total, self.total), (squares, self.squares)):
            if self.exponent:
                kernels.add_floats_exactly(values, digits, self.exponent)
            else:
                kernels.add_integers_exactly(values, digits)
        np.minimum(self.lowest, lowest, out=self.lowest)
        np.maximum(self.highest, highest, out=self.highest)

    def whole_numbers(self) -> tuple[list[int], list[int]]:
        """`total` and `squares` as integers, in units of 2**exponent."""
        return _whole(self.total), _whole(self.squares)


def _whole(digits: np.ndarray) -> list[int]:
    return [sum(digit << (32 * place) for place, digit in enumerate(row) if digit) for row in digits.tolist()]


Statistics = dict[str, ModalitySums]


def no_statistics(schema: RecordSchema) -> Statistics:
    """The sums of nothing."""
    return {modality.name: ModalitySums.of_nothing(modality) for modality in schema.modalities}


def merge_statistics(parts: Sequence[Statistics], schema: RecordSchema) -> Statistics:
    """The sums of all parts, whatever their order."""
    merged = no_statistics(schema)
    for part in parts:
        for name, sums in merged.items():
            sums.add(part[name])
    return merged


class ShardMeter:
    """Adds up the training records of one shard, in order."""

    def __init__(self, schema: RecordSchema) -> None:
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
        """Adds the chosen records (bool (B,)) of a batch; what was filled up does not count."""
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
        return pack_arrays(
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
        stored = unpack_arrays(data)
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
        found = no_statistics(self._schema)
        self.add_to(found)
        return found


def moments(sums: ModalitySums, modality: Modality) -> Moments:
    """Mean, population standard deviation and range; exact until the last rounding."""
    if not sums.count:
        zero = np.zeros(modality.width)
        return Moments(0, zero, zero, zero, zero)
    count, unit = sums.count, -sums.exponent
    totals, all_squares = sums.whole_numbers()
    mean = np.array([_ratio(total, count, unit) for total in totals])
    # count * squares - total**2 is count**2 times the variance: all in integers. Sums of float32 squares were rounded
    # within their shard, so it may come out just below 0.
    variance = np.array(
        [
            max(0.0, _ratio(count * (squares << unit) - total * total, count * count, 2 * unit))
            for total, squares in zip(totals, all_squares, strict=True)
        ]
    )
    found = Moments(count, mean, np.sqrt(variance), sums.lowest, sums.highest)
    if modality.kind != FRAMES:
        return found
    return Moments(
        count,
        found.mean * DEQUANTISE_SCALE + DEQUANTISE_OFFSET,
        found.std * DEQUANTISE_SCALE,
        found.lowest * DEQUANTISE_SCALE + DEQUANTISE_OFFSET,
        found.highest * DEQUANTISE_SCALE + DEQUANTISE_OFFSET,
    )


def _ratio(numerator: int, denominator: int, shift: int) -> float:
    """numerator / denominator / 2**shift, rounded once."""
    return numerator / (denominator << shift) if numerator else 0.0


def statistics_hash(statistics: Statistics) -> str:
    """Identifies the statistics: shards transformed with other ones are not reused."""
    text = repr(
        [
            (name, sums.count, sums.exponent, *sums.whole_numbers(), sums.lowest.tolist(), sums.highest.tolist())
            for name, sums in statistics.items()
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
