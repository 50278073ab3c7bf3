"""Loss, learning rate and length of a run. Pure Python, so that `--help` answers at once."""

import dataclasses
import math

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.input.options import InputOptions

LOSS_NAMES = ("asymmetric", "bce", "focal")
OPTIMIZER_NAMES = ("adam", "adamw")
DECAYS = ("constant", "cosine", "exponential")
CALIBRATIONS = ("none", "platt")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DISTRIBUTIONS = ("auto", "mirrored", "multi_worker", "none")


def default_gamma(loss: str) -> float:
    """The focusing exponent for positives: Lin et al. 2017 report 2 as the best, Ridnik et al. 2021 advise 0."""
    return 0.0 if loss == "asymmetric" else 2.0


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Which loss.

    Attributes:
        name: `bce` (binary cross-entropy), `focal` (Lin et al. 2017, "Focal Loss for Dense Object Detection") or
            `asymmetric` (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification").
        label_smoothing: share s in [0, 1) of a video's label mass that is spread evenly over all classes
            (Szegedy et al. 2016, with as much mass as the video has labels).
        gamma: focusing exponent of `focal`; for positives in `asymmetric`.
        gamma_negative: focusing exponent for negatives in `asymmetric`.
        alpha: weight of positives in `focal`, where negatives weigh 1 - alpha; both are doubled, so that 0.5 means
            unweighted.
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
            if not 0 <= getattr(self, field) < math.inf:
                raise UsageError(f"{field} must be finite and not negative, got {getattr(self, field)}")


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """A learning rate as a function of the examples seen.

    Attributes:
        learning_rate: the peak learning rate.
        decay: `constant`; `cosine` (down to `floor` of the peak at `total_examples`); `exponential` (times `decay_rate`
            every `decay_examples`).
        warmup_examples: examples over which the rate rises linearly from 0.
        total_examples: examples of the whole run.
        decay_rate: factor of the `exponential` decay, in (0, 1].
        decay_examples: examples per factor of `decay_rate`.
        floor: fraction of the peak at which `cosine` ends.
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
        if not 0 < self.decay_rate <= 1:
            raise UsageError(f"decay_rate must lie in (0, 1], got {self.decay_rate}")
        if self.decay_examples < 1:
            raise UsageError(f"decay_examples must be positive, got {self.decay_examples}")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"final_rate must lie in [0, 1], got {self.floor}")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a model is fitted.

    Attributes:
        read: batches; `read.batch_size` counts the videos per step over all devices.
        loss: the loss.
        schedule: the learning rate; its `total_examples` is overridden by the length of the run.
        epochs: passes over the training split, at most.
        optimizer: `adam` or `adamw`.
        weight_decay: weight decay of `adamw`.
        clip_norm: largest global norm of the gradients; 0 does not clip.
        ema: per-step decay of the moving average of the weights, which is then validated and exported; 0 disables it.
        mixup: both parameters of the Beta distribution of the shares; 0 disables it.
        modality_dropout: fraction of a video's modalities, in [0, 1), that training leaves out, though never all; 0
            leaves none out.
        teacher_weight: fraction of the loss that follows the teachers, in [0, 1].
        patience: epochs without a better validation mAP before training stops; 0 never stops early.
        average_checkpoints: number of best epochs whose weights are averaged at the end; 0 or 1 keeps the best epoch.
        checkpoint_seconds: time between checkpoints inside an epoch; 0 writes one after every call.
        steps_per_call: steps per call, which run without returning to Python.
        jit: compile the step with XLA.
        calibration: `platt` puts the exported logits through a line fitted on validation; `none` leaves them.
    """

    read: InputOptions
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
    modality_dropout: float = 0.0
    calibration: str = "none"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZER_NAMES:
            raise unknown_choice("optimizer", self.optimizer, OPTIMIZER_NAMES)
        for field in ("epochs", "steps_per_call"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("weight_decay", "clip_norm", "mixup"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UsageError(f"{field} must be finite and not negative, got {getattr(self, field)}")
        for field in ("patience", "average_checkpoints", "checkpoint_seconds"):
            if not getattr(self, field) >= 0:
                raise UsageError(f"{field} must not be negative, got {getattr(self, field)}")
        for field in ("ema", "modality_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field} must lie in [0, 1), got {getattr(self, field)}")
        if self.calibration not in CALIBRATIONS:
            raise unknown_choice("calibration", self.calibration, CALIBRATIONS)
        if not 0 <= self.teacher_weight <= 1:
            raise UsageError(f"teacher_weight must lie in [0, 1], got {self.teacher_weight}")
