"""The life of a label in a stream: it comes when it has held for a while, and goes when it has clearly ended.

Probabilities flicker around a threshold. A label begins only after `hold` seconds at or above its class's threshold,
and ends only after `hold` seconds below a lower one, so that what is shown is calm. No probability is changed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vcls_model.metrics.binning import logit_of, probability_of

NEW, UPDATE, END = "new", "update", "end"
_UPDATE_STEP = 0.05


@dataclasses.dataclass(frozen=True)
class LabelRules:
    """When labels begin and end.

    Attributes:
        thresholds: float64 (C,), the probability from which each class counts.
        hold_seconds: how long a class must stay above its threshold to begin, and below the lower one to end.
        hysteresis: how much lower that one is, in logits: 1 takes a threshold of 0.5 to 0.27.
    """

    thresholds: np.ndarray
    hold_seconds: float = 2.0
    hysteresis: float = 1.0

    @property
    def lower_thresholds(self) -> np.ndarray:
        """float64 (C,)."""
        inside = np.clip(self.thresholds, 1e-9, 1 - 1e-9)
        return np.asarray(probability_of(np.asarray(logit_of(inside)) - self.hysteresis), np.float64)


@dataclasses.dataclass(frozen=True)
class LabelEvent:
    """What happened to a label.

    Attributes:
        kind: `new`, `update` (its score moved by 0.05 or more, or is its best) or `end`.
        index: of the class.
        score: the probability now; of an `end`, the best.
        start: second from which it held.
        at: second of this event; of an `end`, the last second at which it held.
        best, best_at: its highest probability so far, and when.
    """

    kind: str
    index: int
    score: float
    start: float
    at: float
    best: float
    best_at: float


class LabelTracker:
    """Follows the labels of one stream."""

    def __init__(self, rules: LabelRules) -> None:
        count = len(rules.thresholds)
        self._hold = rules.hold_seconds
        self._upper = rules.thresholds
        self._lower = rules.lower_thresholds
        self._on = np.zeros(count, bool)
        self._since = np.full(count, np.nan)  # above the upper threshold, of a class that has not begun
        self._last = np.full(count, np.nan)  # at or above the lower one, of a class that has
        self._start = np.zeros(count)
        self._best = np.zeros(count)
        self._best_at = np.zeros(count)
        self._told = np.zeros(count)

    @property
    def active(self) -> np.ndarray:
        """Classes that have begun and not ended, int64, by index."""
        return np.flatnonzero(self._on)

    def update(self, probabilities: np.ndarray, seconds: float) -> list[LabelEvent]:
        """Takes the probabilities (C,) at a second of the stream, which must not go back; returns what happened."""
        above = probabilities >= self._upper
        starting = above & ~self._on & np.isnan(self._since)
        self._since[starting] = seconds
        self._best[starting] = -1.0
        self._since[~above & ~self._on] = np.nan
        better = (probabilities > self._best) & (self._on | ~np.isnan(self._since))
        self._best[better] = probabilities[better]
        self._best_at[better] = seconds
        begins = ~self._on & (seconds - self._since >= self._hold)  # NaN compares false
        self._on |= begins
        self._start[begins] = self._since[begins]
        self._since[begins] = np.nan
        held = self._on & (probabilities >= self._lower)
        self._last[held] = seconds
        ends = self._on & ~held & (seconds - self._last >= self._hold)
        moved = self._on & ~begins & ~ends & (better | (np.abs(probabilities - self._told) >= _UPDATE_STEP))
        events = [
            *(self._event(NEW, index, probabilities, seconds) for index in np.flatnonzero(begins).tolist()),
            *(self._event(UPDATE, index, probabilities, seconds) for index in np.flatnonzero(moved).tolist()),
            *(self._ended(index) for index in np.flatnonzero(ends).tolist()),
        ]
        self._told[begins | moved] = probabilities[begins | moved]
        self._on &= ~ends
        return events

    def finish(self) -> list[LabelEvent]:
        """Ends the labels that are still there."""
        events = [self._ended(index) for index in np.flatnonzero(self._on).tolist()]
        self._on[:] = False
        self._since[:] = np.nan
        return events

    def _event(self, kind: str, index: int, probabilities: np.ndarray, seconds: float) -> LabelEvent:
        return LabelEvent(
            kind,
            int(index),
            float(probabilities[index]),
            float(self._start[index]),
            seconds,
            float(self._best[index]),
            float(self._best_at[index]),
        )

    def _ended(self, index: int) -> LabelEvent:
        best, start = float(self._best[index]), float(self._start[index])
        return LabelEvent(END, int(index), best, start, float(self._last[index]), best, float(self._best_at[index]))


def flips(on: Sequence[np.ndarray]) -> int:
    """How often labels go on or off in a sequence of bool (C,)."""
    return int(sum(np.count_nonzero(before != after) for before, after in zip(on, on[1:], strict=False)))
