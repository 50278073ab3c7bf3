"""How transformed records become batches. Pure Python, so that `--help` answers at once."""

import dataclasses

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.records.schema import MOST_FRAMES

LARGEST_BATCH = 1 << 20  # videos; no device holds more
FRAME_SAMPLINGS = ("all", "middle", "random", "sequence", "uniform")
# How a model that was trained on random frames sees a video afterwards: as many frames, without chance.
_EVALUATION_FRAMES = {"random": "uniform", "sequence": "middle"}


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How batches are made.

    Attributes:
        batch_size: videos per batch, B.
        frames: which frames of a video training sees: `all` (the first `max_frames`), `random` (a random subset without
            replacement, in order), `sequence` (a random run of consecutive frames), `middle` (the run in the middle),
            `uniform` (evenly spaced).
        max_frames: most frames per video, T.
        seed: decides the order of the shards, the permutation of each block and which frames are sampled.
        fixed_frames: always pad to `max_frames`, so that shapes never change (XLA compiles once).
    """

    batch_size: int
    frames: str = "all"
    max_frames: int = 300
    seed: int = 0
    fixed_frames: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be positive, got {self.batch_size}")
        if self.batch_size > LARGEST_BATCH:
            raise UsageError(f"batch_size must be at most {LARGEST_BATCH:,}, got {self.batch_size:,}")
        if self.frames not in FRAME_SAMPLINGS:
            raise unknown_choice("frame sampling", self.frames, FRAME_SAMPLINGS)
        if not 1 <= self.max_frames <= MOST_FRAMES:
            raise UsageError(f"max_frames must lie between 1 and {MOST_FRAMES:,}, got {self.max_frames:,}")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must lie in [0, 2^31), got {self.seed}")

    def evaluation_frames(self) -> str:
        """Which frames validation and serving see: those of training, or where they lie on average if it samples."""
        return _EVALUATION_FRAMES.get(self.frames, self.frames)
