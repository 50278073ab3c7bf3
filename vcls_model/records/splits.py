"""Which split a video belongs to: a hash of its id, so that the same id always lands in the same split."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vcls_model.commands import UsageError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "validate", "test")
# What counts of records by split call those whose id the dataset does not list.
NO_SPLIT = "none"


@dataclasses.dataclass(frozen=True)
class SplitRatios:
    """Fractions of the videos that go to train, validate and test; they sum to 1."""

    train: float = 0.7
    validate: float = 0.2
    test: float = 0.1

    def __post_init__(self) -> None:
        ratios = (self.train, self.validate, self.test)
        if any(not 0 <= ratio <= 1 for ratio in ratios) or abs(sum(ratios) - 1) > 1e-9:
            raise UsageError(f"split ratios must lie in [0, 1] and add to 1, got {ratios}")
        if self.train == 0:
            raise UsageError("the train split is empty: its ratio must be above 0")

    @classmethod
    def parse(cls, text: str) -> "SplitRatios":
        """Reads `0.7,0.2,0.1`."""
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            raise UsageError(f"split ratios must be three numbers like 0.7,0.2,0.1, got {text!r}") from None
        if len(values) != len(SPLITS):
            raise UsageError(f"split ratios must be three numbers like 0.7,0.2,0.1, got {text!r}")
        return cls(*values)

    @property
    def thresholds(self) -> tuple[int, int]:
        """Upper ends (exclusive) of train and validate on the scale of `hashes_of_ids`."""
        return round(self.train * 2**64), round((self.train + self.validate) * 2**64)


def hashes_of_ids(video_ids: Sequence[bytes]) -> "np.ndarray":
    """First 64 bits of the SHA-256 of each id, uint64: stable over processes, machines and versions."""
    import numpy as np

    digests = b"".join([hashlib.sha256(video_id).digest()[:8] for video_id in video_ids])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def splits_of(video_ids: Sequence[bytes], ratios: SplitRatios) -> "np.ndarray":
    """Indices into `SPLITS` of many ids at once, int64 (B,)."""
    import numpy as np

    hashes = hashes_of_ids(video_ids)
    splits = np.zeros(len(hashes), np.int64)
    for end in ratios.thresholds:
        if end < 2**64:
            splits += hashes >= np.uint64(end)
    return splits
