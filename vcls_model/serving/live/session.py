"""One stream in the service: the frame that waits, its rows, its labels, and what became of every frame."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vcls_model.records.schema import Modality
from vcls_model.serving.live.events import LabelEvent, LabelRules, LabelTracker
from vcls_model.serving.live.stream import FrameRing


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a stream sends for one moment.

    Attributes:
        sequence: the sender's number of it.
        seconds: when it was, on the stream's own clock; never earlier than the frame before.
        received: `time.monotonic()` of its arrival.
        jpeg: the picture as a JPEG file; None: no picture, or `picture` holds it.
        picture: (size, size, 3) uint8, ready for the encoder.
        sound: up to 0.975 s of 16 kHz sound, float32 in [-1, 1]; None: no sound.
        row: features as records hold them, instead of media.
        captured: the sender's own stamp, which comes back in the answer.
    """

    sequence: int
    seconds: float
    received: float
    jpeg: bytes | None = None
    picture: np.ndarray | None = None
    sound: np.ndarray | None = None
    row: Mapping[str, np.ndarray] | None = None
    captured: float | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of a stream's frames: `received` = `labelled` + `dropped` + `failed` + those under way."""

    received: int = 0
    labelled: int = 0
    dropped: int = 0
    failed: int = 0

    @property
    def settled(self) -> bool:
        """Whether no frame is under way."""
        return self.received == self.labelled + self.dropped + self.failed


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """A frame's answer.

    Attributes:
        frame: its number, time and stamp; without its content.
        now: probabilities float32 (C,) over the last seconds.
        so_far: the same over the whole stream, as batch scoring gives them for a record of it.
        events: what happened to labels.
        latency: milliseconds by stage: `wait`, `decode`, `encode`, `queue`, `model`, and `total`.
        counts: of the stream, this frame included.
    """

    frame: Frame
    now: np.ndarray
    so_far: np.ndarray
    events: Sequence[LabelEvent]
    latency: Mapping[str, float]
    counts: Counts


@dataclasses.dataclass(frozen=True)
class FrameFailure:
    """A frame without an answer: its reason (of `vcls_model.media.errors`, `dropped` or `overloaded`) in words."""

    frame: Frame
    reason: str
    message: str
    counts: Counts


Answer = FrameLabels | FrameFailure
DROPPED = "dropped"


class Session:
    """The state of one stream. One thread at a time labels; any may offer frames.

    Attributes:
        name: of the stream.
        ring: its rows.
        tracker: its labels.
        lock: of the counts and of the frame that waits.
        pending: the newest frame that waits.
        busy: whether a frame is under way.
        closed: whether answers are still wanted.
    """

    def __init__(
        self,
        name: str,
        modalities: Sequence[Modality],
        rules: LabelRules,
        deliver: Callable[[Answer], None],
        *,
        masks: bool = False,
    ) -> None:
        self.name = name
        self.ring = FrameRing(modalities, masks=masks)
        self.tracker = LabelTracker(rules)
        self.lock = threading.Lock()
        self.pending: Frame | None = None
        self.busy = False
        self.closed = False
        self.last_so_far: np.ndarray | None = None
        self._deliver = deliver
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """What became of its frames."""
        return self._counts

    def count(self, **more: int) -> Counts:
        """Adds to the counts."""
        with self.lock:
            self._counts = dataclasses.replace(
                self._counts, **{name: getattr(self._counts, name) + number for name, number in more.items()}
            )
            return self._counts

    def deliver(self, answer: Answer) -> None:
        """Hands an answer over, unless nobody waits for it any more."""
        if not self.closed:
            self._deliver(answer)
