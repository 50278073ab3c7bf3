"""What normalising needs to know of the training values."""

import dataclasses
import json
from typing import Any

import numpy as np


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


def moments_from_json(text: bytes) -> dict[str, Moments]:
    """`Moments` by modality, as the pipeline leaves them."""
    return {name: Moments.from_dict(value) for name, value in json.loads(text).items()}
