"""What a user can choose about reading, loss and learning rate. Pure Python, so that `--help` answers at once."""

import dataclasses
import math

from vcls_model.commands import UsageError, unknown_choice

LOSS_NAMES = ("asymmetric", "bce", "focal")
OPTIMIZER_NAMES = ("adam", "adamw")
DECAYS = ("constant", "cosine", "exponential")
FRAME_SAMPLINGS = ("all", "middle", "random", "sequence", "uniform")
# How a model that was trained on drawn frames sees a video afterwards: as many frames, without chance.
_EVALUATION_FRAMES = {"random": "uniform", "sequence": "middle"}
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DISTRIBUTIONS = ("auto", "mirrored", "multi_worker", "none")


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How batches are made.

    Attributes:
        batch_size: videos a batch, B.
        frames: which frames of a video training sees: `all` (the first `max_frames`), `random` (a random subset without
            replacement, in order), `sequence` (a random run of neighbours), `middle` (the run in the middle),
            `uniform` (evenly spaced).
        max_frames: most frames a video, T.
        seed: decides the order of the shards, the permutation of each block and the frames that are drawn.
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
        if self.frames not in FRAME_SAMPLINGS:
            raise unknown_choice("frame sampling", self.frames, FRAME_SAMPLINGS)
        if self.max_frames < 1:
            raise UsageError(f"max_frames must be positive, got {self.max_frames}")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must lie in [0, 2^31), got {self.seed}")

    def evaluation_frames(self) -> str:
        """Which frames validation and serving see: those of training, or what they are on average where it draws."""
        return _EVALUATION_FRAMES.get(self.frames, self.frames)


def default_gamma(loss: str) -> float:
    """The focusing exponent of positives: Lin et al. 2017 found 2 best, Ridnik et al. 2021 advise 0."""
    return 0.0 if loss == "asymmetric" else 2.0


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Which loss.

    Attributes:
        name: `bce` (binary cross-entropy), `focal` (Lin et al. 2017, "Focal Loss for Dense Object Detection") or
            `asymmetric` (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification").
        label_smoothing: share s in [0, 1) of a video's label mass that is spread evenly over all classes
            (Szegedy et al. 2016, with as much mass as the video has labels).
        gamma: focusing exponent of `focal`; of the positive side of `asymmetric`.
        gamma_negative: focusing exponent of the negative side of `asymmetric`.
        alpha: weight of positives in `focal`, 1 - alpha that of negatives; both times 2, so that 0.5 means unweighted.
        margin: probability below which `asymmetric` ignores a negative.
    """

    name: str = "bce"
    label_smoothing: float = 0.0
    gamma: float = 2.0
    gamma_negative: float = 4.0
    alpha: float = 0.5
    margin: float = 0.05

    def __post_init__(self) -> None:
        if self.name not in LOSS_NAMES:
            raise unknown_choice("loss", self.name, LOSS_NAMES)
        for field in ("label_smoothing", "margin"):
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field} must lie in [0, 1), got {getattr(self, field)}")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha must lie in (0, 1), got {self.alpha}")
        for field in ("gamma", "gamma_negative"):
            if getattr(self, field) < 0:
                raise UsageError(f"{field} must not be negative, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """A learning rate as a function of the examples seen.

    Attributes:
        learning_rate: its peak.
        decay: `constant`; `cosine` (down to `floor` of the peak at `total_examples`); `exponential` (times `decay_rate`
            every `decay_examples`).
        warmup_examples: over these it rises in a line from 0.
        total_examples: of the whole run.
        decay_rate: factor of `exponential`, in (0, 1].
        decay_examples: examples in which `exponential` falls by `decay_rate`.
        floor: share of the peak at which `cosine` ends.
    """

    learning_rate: float = 0.001
    decay: str = "constant"
    warmup_examples: int = 0
    total_examples: int = 1
    decay_rate: float = 0.95
    decay_examples: int = 4_000_000
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise unknown_choice("decay", self.decay, DECAYS)
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise UsageError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.warmup_examples < 0:
            raise UsageError(f"warmup_examples must not be negative, got {self.warmup_examples}")
        if not 0 < self.decay_rate <= 1 or self.decay_examples < 1 or not 0 <= self.floor <= 1:
            raise UsageError("decay_rate must lie in (0, 1], decay_examples be positive and the floor lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a model is fitted.

    Attributes:
        read: batches; `read.batch_size` counts the videos of a step over all devices.
        loss: the loss.
        schedule: the learning rate; its `total_examples` is overridden by the length of the run.
        epochs: passes over the training split, at most.
        optimizer: `adam` or `adamw`.
        weight_decay: of `adamw`.
        clip_norm: largest global norm of the gradients; 0 does not clip.
        ema: decay a step of the moving average of the weights, which is then what is validated and exported; 0 is off.
        mixup: both parameters of the Beta distribution of the shares; 0 is off.
        teacher_weight: share of the loss that follows the teachers, in [0, 1].
        patience: epochs without a better validation mAP before training stops; 0 never stops early.
        average_checkpoints: number of best epochs whose weights are averaged at the end; 0 or 1 keeps the best epoch.
        checkpoint_seconds: time between checkpoints inside an epoch; 0 writes one after every few steps.
        steps_per_call: steps that run without returning to Python.
        jit: compile the step with XLA.
    """

    read: ReadOptions
    loss: LossOptions = LossOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    epochs: int = 5
    optimizer: str = "adam"
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    teacher_weight: float = 0.5
    patience: int = 3
    average_checkpoints: int = 0
    checkpoint_seconds: float = 120.0
    steps_per_call: int = 20
    jit: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZER_NAMES:
            raise unknown_choice("optimizer", self.optimizer, OPTIMIZER_NAMES)
        for field in ("epochs", "steps_per_call"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("weight_decay", "clip_norm", "mixup", "patience", "average_checkpoints", "checkpoint_seconds"):
            if not getattr(self, field) >= 0:
                raise UsageError(f"{field} must not be negative, got {getattr(self, field)}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must lie in [0, 1), got {self.ema}")
        if not 0 <= self.teacher_weight <= 1:
            raise UsageError(f"teacher_weight must lie in [0, 1], got {self.teacher_weight}")
