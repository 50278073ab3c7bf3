"""The life of a label in a stream: it comes when it has held for a while, and goes when it has clearly ended.

Probabilities flicker around a threshold. A label begins only after `hold` seconds at or above its class's threshold,
and ends only after `hold` seconds below a lower one; and it takes the longer, the closer the probabilities are to that
threshold: the logits beyond it are added up over time, as in the cumulative sums of Page (Continuous inspection
schemes, Biometrika 41, 1954), until they suffice. So what is clear comes and goes at once, and what hovers is left as
it is. No probability is changed. `bench/hysteresis.py` measures it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vcls_model.metrics.binning import logit_of, probability_of

NEW, UPDATE, END = "new", "update", "end"
_UPDATE_STEP = 0.05
# Logits beyond a threshold, on average over `hold` seconds, that suffice; chosen with the default hysteresis on half of
# the shards of `bench/hysteresis.py`. An end wants more: a label that is told too long costs less than two flips.
_ENOUGH_TO_BEGIN = 2.25
_ENOUGH_TO_END = 10.0
_MOST_HOLDS = 10  # each second beyond a threshold counts for so much that none waits longer than so many times `hold`


@dataclasses.dataclass(frozen=True)
class LabelRules:
    """When labels begin and end.

    Attributes:
        thresholds: float64 (C,), the probability from which each class counts.
        hold_seconds: how long a class must at least stay above its threshold to begin, and below the lower one to end:
            so long where it is far beyond, up to ten times as long where it is close.
        hysteresis: how much lower that one is, in logits: 2.5 takes a threshold of 0.5 to 0.08.
    """

    thresholds: np.ndarray
    hold_seconds: float = 2.0
    hysteresis: float = 2.5

    @property
    def lower_thresholds(self) -> np.ndarray:
        """float64 (C,)."""
        return np.asarray(probability_of(_logits(self.thresholds) - self.hysteresis), np.float64)


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
        self._upper_logits = _logits(rules.thresholds)
        self._hysteresis = rules.hysteresis
        self._before = np.nan  # second of the last update
        self._on = np.zeros(count, bool)
        self._since = np.full(count, np.nan)  # above the upper threshold, of a class that has not begun
        self._last = np.full(count, np.nan)  # at or above the lower one, of a class that has
        self._evidence = np.zeros(count)  # logits beyond a threshold times seconds, since then
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
        self._gather(probabilities, above, seconds)
        starting = above & ~self._on & np.isnan(self._since)
        self._since[starting] = seconds
        self._best[starting] = -1.0
        self._since[~above & ~self._on] = np.nan
        better = (probabilities > self._best) & (self._on | ~np.isnan(self._since))
        self._best[better] = probabilities[better]
        self._best_at[better] = seconds
        enough = self._evidence >= self._hold * np.where(self._on, _ENOUGH_TO_END, _ENOUGH_TO_BEGIN)
        begins = ~self._on & enough & (seconds - self._since >= self._hold)  # NaN compares false
        self._on |= begins
        self._start[begins] = self._since[begins]
        self._since[begins] = np.nan
        held = self._on & (probabilities >= self._lower)
        self._last[held] = seconds
        ends = self._on & ~held & enough & (seconds - self._last >= self._hold)
        self._evidence[begins | ends] = 0.0
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
        self._evidence[:] = 0.0
        return events

    def _gather(self, probabilities: np.ndarray, above: np.ndarray, seconds: float) -> None:
        """Adds what speaks for a change of each class; what speaks against one ends the count."""
        logits = _logits(probabilities)
        beyond = np.where(self._on, self._upper_logits - self._hysteresis - logits, logits - self._upper_logits)
        counts = np.where(self._on, ~(probabilities >= self._lower), above)  # not a number: below
        least = np.where(self._on, _ENOUGH_TO_END, _ENOUGH_TO_BEGIN) / _MOST_HOLDS
        passed = 0.0 if np.isnan(self._before) else seconds - self._before
        self._before = seconds
        self._evidence = np.where(counts, self._evidence + passed * np.maximum(beyond, least), 0.0)

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


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """float64 (C,), finite: what is not a number counts as 0, as it does against a threshold."""
    return logit_of(np.clip(np.nan_to_num(np.asarray(probabilities, np.float64)), 1e-9, 1 - 1e-9))


def flips(on: Sequence[np.ndarray]) -> int:
    """How often labels go on or off in a sequence of bool (C,)."""
    return int(sum(np.count_nonzero(before != after) for before, after in zip(on, on[1:], strict=False)))
