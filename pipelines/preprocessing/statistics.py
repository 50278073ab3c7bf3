"""Statistics of the training records, as sums that come out the same in whatever order shards are added.

Within a shard the sums are taken in the order of its records; over shards they are added as integers. Codes are
integers anyway; sums of float32 values are float64 numbers, each of which is an integer times 2**-298 (the square of
the smallest float32), and Python's integers have no end.
"""

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.decoding import FrameBatch, RawBatch
from vcls_model import record_kernels as kernels
from vcls_model.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, FRAME_LEVEL, Modality, RecordSchema

_FLOAT_EXPONENT = 298
_PARTS = ("total", "squares", "lowest", "highest")


@dataclasses.dataclass
class ModalitySums:
    """Count, sums and range of the values of one modality, of any number of training shards.

    Attributes:
        count: vectors added.
        total, squares: D integers: sums of values and of squared values, times 2**exponent.
        lowest, highest: float64 (D,); +-infinity when nothing was added.
        exponent: 0 for codes.
    """

    count: int
    total: list[int]
    squares: list[int]
    lowest: np.ndarray
    highest: np.ndarray
    exponent: int

    def added(self, other: "ModalitySums") -> "ModalitySums":
        """The sums of both."""
        return ModalitySums(
            self.count + other.count,
            [one + two for one, two in zip(self.total, other.total, strict=True)],
            [one + two for one, two in zip(self.squares, other.squares, strict=True)],
            np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest), self.exponent)


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
        return {"count": self.count, "mean": self.mean.tolist(), "std": self.std.tolist(),
                "lowest": self.lowest.tolist(), "highest": self.highest.tolist()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Moments":
        """Reads what `to_dict` wrote."""
        return cls(value["count"], *(np.array(value[key]) for key in ("mean", "std", "lowest", "highest")))


Statistics = dict[str, ModalitySums]


def no_statistics(schema: RecordSchema) -> Statistics:
    """The sums of nothing."""
    return {modality.name: ModalitySums(0, [0] * modality.width, [0] * modality.width,
                                        np.full(modality.width, np.inf), np.full(modality.width, -np.inf),
                                        0 if modality.level == FRAME_LEVEL else _FLOAT_EXPONENT)
            for modality in schema.modalities}


def merge_statistics(parts: Sequence[Statistics], schema: RecordSchema) -> Statistics:
    """The sums of all parts, whatever their order."""
    merged = no_statistics(schema)
    for part in parts:
        merged = {name: sums.added(part[name]) for name, sums in merged.items()}
    return merged


class ShardMeter:
    """Adds up the training records of one shard, in order."""

    def __init__(self, schema: RecordSchema) -> None:
        self._schema = schema
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._counts = dict.fromkeys((modality.name for modality in schema.modalities), 0)
        for modality in schema.modalities:
            if modality.level == FRAME_LEVEL:
                width = modality.width
                self._arrays[modality.name] = [np.zeros(width, np.int64), np.zeros(width, np.int64),
                                               np.full(width, 255, np.uint8), np.zeros(width, np.uint8)]
            else:
                self._arrays[modality.name] = [np.zeros(modality.width), np.zeros(modality.width),
                                               np.full(modality.width, np.inf), np.full(modality.width, -np.inf)]

    def add(self, batch: RawBatch, chosen: np.ndarray) -> None:
        """Adds the chosen records (bool (B,)) of a batch; what was filled up does not count."""
        for name, values in batch.features.items():
            rows = chosen & ~batch.filled[name] if name in batch.filled else chosen
            arrays = self._arrays[name]
            if isinstance(values, FrameBatch):
                for begin, end in _runs(rows, values.lengths):
                    kernels.add_code_moments(values.codes, begin, end, *arrays)
                self._counts[name] += int(values.lengths[rows].sum())
            else:
                kernels.add_float_moments(values, rows, *arrays)
                self._counts[name] += int(rows.sum())

    def to_bytes(self) -> bytes:
        """The sums as a small file that `from_bytes` reads back exactly."""
        arrays = {f"{name}/{part}": array for name, parts in self._arrays.items()
                  for part, array in zip(_PARTS, parts, strict=True)}
        stream = io.BytesIO()
        np.savez(stream, counts=np.array(list(self._counts.values()), np.int64), **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, schema: RecordSchema) -> "ShardMeter":
        """Reads what `to_bytes` wrote."""
        meter = cls(schema)
        with np.load(io.BytesIO(data)) as stored:
            for name, count in zip(meter._counts, stored["counts"].tolist(), strict=True):
                meter._counts[name] = count
                meter._arrays[name] = [stored[f"{name}/{part}"] for part in _PARTS]
        return meter

    def statistics(self) -> Statistics:
        """The sums so far, in a form that adds up exactly."""
        found: Statistics = {}
        for modality in self._schema.modalities:
            total, squares, lowest, highest = self._arrays[modality.name]
            count = self._counts[modality.name]
            frames = modality.level == FRAME_LEVEL
            found[modality.name] = ModalitySums(
                count,
                total.tolist() if frames else _scaled_integers(total),
                squares.tolist() if frames else _scaled_integers(squares),
                lowest.astype(np.float64) if count else np.full(modality.width, np.inf),
                highest.astype(np.float64) if count else np.full(modality.width, -np.inf),
                0 if frames else _FLOAT_EXPONENT)
        return found


def _runs(rows: np.ndarray, lengths: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of frames that the chosen videos occupy, neighbours joined."""
    ends = np.cumsum(lengths)
    runs: list[tuple[int, int]] = []
    for video in np.flatnonzero(rows).tolist():
        begin, end = int(ends[video] - lengths[video]), int(ends[video])
        if runs and runs[-1][1] == begin:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((begin, end))
    return runs


def _scaled_integers(values: np.ndarray) -> list[int]:
    """Each float64 as an integer number of 2**-298; exact for sums of float32 values and of their squares."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64).tolist()
    shifts = (exponents + (_FLOAT_EXPONENT - 53)).tolist()
    return [value << shift if shift >= 0 else value >> -shift for value, shift in zip(whole, shifts, strict=True)]


def moments(sums: ModalitySums, modality: Modality) -> Moments:
    """Mean, population standard deviation and range; exact until the last rounding."""
    if not sums.count:
        zero = np.zeros(modality.width)
        return Moments(0, zero, zero, zero, zero)
    count = sums.count
    mean = np.array([_ratio(total, count, sums.exponent) for total in sums.total])
    # count * squares - total**2 is count**2 times the variance: all in integers. Sums of float32 squares were rounded
    # within their shard, so it may come out just below 0.
    variance = np.array([
        max(0.0, _ratio(count * (squares << sums.exponent) - total * total, count * count, 2 * sums.exponent))
        for total, squares in zip(sums.total, sums.squares, strict=True)])
    found = Moments(count, mean, np.sqrt(variance), sums.lowest, sums.highest)
    if modality.level != FRAME_LEVEL:
        return found
    return Moments(count, found.mean * DEQUANTISE_SCALE + DEQUANTISE_OFFSET, found.std * DEQUANTISE_SCALE,
                   found.lowest * DEQUANTISE_SCALE + DEQUANTISE_OFFSET,
                   found.highest * DEQUANTISE_SCALE + DEQUANTISE_OFFSET)


def _ratio(numerator: int, denominator: int, exponent: int) -> float:
    """numerator / denominator / 2**exponent, rounded once."""
    return numerator / (denominator << exponent) if numerator else 0.0


def statistics_hash(statistics: Statistics) -> str:
    """Identifies the statistics: shards transformed with other ones are not reused."""
    text = repr([(name, sums.count, sums.exponent, sums.total, sums.squares,
                  sums.lowest.tolist(), sums.highest.tolist()) for name, sums in statistics.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
