"""A whole media file, labelled over time: what plays is what a live stream of it would show.

with FileLabeller(model, options) as labeller:
    for step in labeller.label("clip.mp4"):
        print(step.seconds)
    labels = labeller.labels
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vcls_model.commands import UsageError
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import Limits, MediaRow
from vcls_model.media.sandbox import MediaReader
from vcls_model.metrics.binning import sigmoid
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.live.engine import EngineOptions
from vcls_model.serving.live.events import END, LabelRules, LabelTracker
from vcls_model.serving.live.models import LiveModel
from vcls_model.serving.live.stream import Features, FrameRing

_ROWS_PER_CALL = 16
_TOP = 20
_THUMBNAIL = 16
_SHOT_CHANGE = 0.15  # mean difference of thumbnails, of 1


@dataclasses.dataclass(frozen=True)
class LabelSpan:
    """A label of a part of a file.

    Attributes:
        index: of the class.
        start, end: in seconds; the end is that of the last row's second.
        score: the highest probability in between.
        best_at: when that was.
    """

    index: int
    start: float
    end: float
    score: float
    best_at: float


@dataclasses.dataclass(frozen=True)
class Shot:
    """A part of the film without a cut, to the nearest row, and its labels, best first: (index, probability)."""

    start: float
    end: float
    labels: Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Moment:
    """A row's labels over the last seconds, best first: (index, probability)."""

    seconds: float
    labels: Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class MediaLabels:
    """What a file shows and when.

    Attributes:
        seconds: its length, as far as it was read.
        classes: of the model.
        whole: of the whole file, (index, probability), best first; as batch scoring gives them.
        spans: labels over time, by their start.
        shots: from cut to cut.
        moments: one per row.
        message: None, or what could not be read of the file.
    """

    seconds: float
    classes: Sequence[ClassInfo]
    whole: Sequence[tuple[int, float]]
    spans: Sequence[LabelSpan]
    shots: Sequence[Shot]
    moments: Sequence[Moment]
    message: str | None = None


@dataclasses.dataclass(frozen=True)
class FileProgress:
    """How far a file has been read: `seconds` of `of` (None where its header does not say)."""

    seconds: float
    of: float | None


Score = Callable[[Sequence[Features]], np.ndarray]


class FileLabeller:
    """Labels one file after the other; owns a decoding process."""

    def __init__(
        self,
        model: LiveModel,
        options: EngineOptions | None = None,
        *,
        score: Score | None = None,
        limits: Limits | None = None,
    ) -> None:
        """
        Args:
            model: whose records are made from media.
            options: as a stream's.
            score: logits (N, C) of N videos; by default the model's own, for a service the queue's.
            limits: what a file may ask for.

        Raises:
            UsageError: the model does not take media.
        """
        if model.media is None:
            raise UsageError(f"the model {model.name} takes records that were not made from media: it labels no files")
        self._model = model
        self._options = options or EngineOptions()
        self._score = score or model.logits
        self._request = dataclasses.replace(model.media.request(), limits=limits or Limits())
        self._reader = MediaReader(model.media.seconds_per_minute, model.media.memory_bytes)
        self.labels: MediaLabels | None = None

    def label(self, path: str) -> Iterator[FileProgress]:
        """Reads a file, telling how far it is; `labels` holds the result once it ends.

        Raises:
            MediaError: the file has no rows, or could not be decoded to its end within its limits.
        """
        self.labels = None
        film = _Film(self._model, self._options)
        with self._reader.read(path, self._request) as rows:
            for row in rows:
                film.add(row)
                if film.waiting == _ROWS_PER_CALL:
                    film.score(self._score)
                    promised = rows.facts.seconds_promised if rows.facts is not None else None
                    yield FileProgress(row.target_seconds, promised)
        outcome = rows.outcome
        assert outcome is not None
        if not outcome.rows:
            raise MediaError(errors.EMPTY, f"{path!r} has no moment to label")
        film.score(self._score)
        self.labels = film.finish(outcome.seconds, outcome.message, self._score)
        yield FileProgress(outcome.seconds, outcome.seconds)

    def interrupt(self) -> None:
        """Ends the file that another thread labels, with an error there."""
        self._reader.interrupt()

    def close(self) -> None:
        """Ends the decoding process."""
        self._reader.close()

    def __enter__(self) -> "FileLabeller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Film:
    """The rows of one file, and what the model has said of them."""

    def __init__(self, model: LiveModel, options: EngineOptions) -> None:
        self._model = model
        self._window = options.window_seconds
        self._step = 1 / model.media.fps if model.media is not None else 1.0
        rules = LabelRules(model.thresholds(options.threshold), options.hold_seconds, options.hysteresis)
        self._rules = rules
        self._tracker = LabelTracker(rules)
        self._ring = FrameRing(model.modalities, masks=model.masks)
        self._shot = FrameRing(model.modalities, masks=model.masks)
        self._shot_start = 0.0
        self._thumbnail: np.ndarray | None = None
        self._waiting: list[tuple[float, Features]] = []
        self._spans: list[LabelSpan] = []
        self._moments: list[Moment] = []
        self._cuts: list[tuple[float, float, Features]] = []
        self._shots: list[Shot] = []

    @property
    def waiting(self) -> int:
        """Rows that have not been scored."""
        return len(self._waiting)

    def add(self, row: MediaRow) -> None:
        """Encodes a row."""
        values = self._model.row({"picture": row.picture, "sound": row.sound})
        if row.picture is not None and self._is_cut(row.picture):
            self._end_shot(row.target_seconds)
        self._ring.append(values, row.target_seconds)
        self._shot.append(values, row.target_seconds)
        self._waiting.append((row.target_seconds, self._ring.now(self._window)))

    def score(self, score: Score) -> None:
        """Asks the model about the rows that wait."""
        if self._waiting:
            for (seconds, _), now in zip(
                self._waiting, sigmoid(score([each for _, each in self._waiting])), strict=True
            ):
                for event in self._tracker.update(now, seconds):
                    if event.kind == END:
                        self._spans.append(self._span(event.index, event.start, event.at, event.best, event.best_at))
                self._moments.append(Moment(seconds, self._best(now)))
            self._waiting = []
        while self._cuts:
            part, self._cuts = self._cuts[:_ROWS_PER_CALL], self._cuts[_ROWS_PER_CALL:]
            for (start, end, _), of_shot in zip(part, sigmoid(score([each for *_, each in part])), strict=True):
                self._shots.append(Shot(start, end, self._above(of_shot)))

    def finish(self, seconds: float, message: str | None, score: Score) -> MediaLabels:
        """The result, once all rows have been scored."""
        for event in self._tracker.finish():
            self._spans.append(self._span(event.index, event.start, event.at, event.best, event.best_at))
        self._end_shot(seconds)
        self.score(score)
        whole = sigmoid(score([self._ring.so_far()]))[0]
        spans = [dataclasses.replace(span, end=min(span.end, seconds)) for span in self._spans]
        return MediaLabels(
            seconds,
            self._model.classes,
            self._best(whole),
            sorted(spans, key=lambda span: (span.start, -span.score)),
            self._shots,
            self._moments,
            message,
        )

    def _span(self, index: int, start: float, last: float, score: float, best_at: float) -> LabelSpan:
        return LabelSpan(index, start, last + self._step, score, best_at)

    def _is_cut(self, picture: np.ndarray) -> bool:
        """Whether a picture begins another shot than the one before it, by the colours of its places."""
        places = np.linspace(0, len(picture) - 1, _THUMBNAIL).round().astype(int)
        thumbnail = picture[np.ix_(places, places)] / 255
        before, self._thumbnail = self._thumbnail, thumbnail
        return before is not None and float(np.abs(thumbnail - before).mean()) > _SHOT_CHANGE

    def _end_shot(self, seconds: float) -> None:
        if self._shot.rows:
            self._cuts.append((self._shot_start, seconds, self._shot.so_far()))
            self._shot = FrameRing(self._model.modalities, masks=self._model.masks)
            self._shot_start = seconds

    def _best(self, probabilities: np.ndarray) -> list[tuple[int, float]]:
        first = np.argsort(-probabilities, kind="stable")[:_TOP]
        return [(int(index), float(probabilities[index])) for index in first]

    def _above(self, probabilities: np.ndarray) -> list[tuple[int, float]]:
        return [(index, value) for index, value in self._best(probabilities) if value >= self._rules.thresholds[index]]
