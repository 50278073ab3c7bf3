"""Frames of many streams to labels: decoding and encoding on their own threads, then the model's queue.

A stream has one frame under way and one that waits. A newer frame takes the place of the one that waits, which counts
as dropped: so an overloaded service labels the latest, and its lag does not grow.
"""

import dataclasses
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from vcls_model.commands import JobError
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PATCH_SAMPLES
from vcls_model.media.stills import StillDecoder
from vcls_model.metrics.binning import sigmoid
from vcls_model.serving.live.events import LabelRules
from vcls_model.serving.live.models import LiveModel
from vcls_model.serving.live.queues import ModelQueue, OverloadedError, Scored
from vcls_model.serving.live.session import DROPPED, Answer, Frame, FrameFailure, FrameLabels, Session
from vcls_model.serving.live.stream import RING_FRAMES, FrameRing

_LOG = logging.getLogger(__name__)
REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """How streams are labelled.

    Attributes:
        window_seconds: what `now` covers.
        hold_seconds, hysteresis: see `LabelRules`.
        threshold: of classes for which the model chose none, a probability.
        encoder_threads: frames that are decoded and encoded at once; 0: one per core.
        most_streams: open at once.
        most_waiting: videos in the model's queue.
        most_pixels: width x height of a picture.
    """

    window_seconds: float = 10.0
    hold_seconds: float = 2.0
    hysteresis: float = 2.5
    threshold: float = 0.5
    encoder_threads: int = 0
    most_streams: int = 64
    most_waiting: int = 512
    most_pixels: int = 4096 * 4096


class TooManyStreamsError(Exception):
    """As many streams are open as may be."""


@dataclasses.dataclass
class _UnderWay:
    """A frame on its way: when it was taken up and what has been spent on it, in milliseconds."""

    session: Session
    frame: Frame
    spent: dict[str, float]


class Engine:
    """Labels the frames of all streams with one model.

    Attributes:
        model: which.
        options: how.
        rules: when its labels begin and end.
        queue: of the model; requests may use it, too.
        totals: frames by what became of them, of all streams that ever were.
    """

    def __init__(
        self,
        model: LiveModel,
        options: EngineOptions | None = None,
        *,
        observe_frame: Callable[[Answer], None] | None = None,
        observe_batch: Callable[[Scored], None] | None = None,
    ) -> None:
        self.model = model
        self.options = options or EngineOptions()
        self.rules = LabelRules(
            model.thresholds(self.options.threshold), self.options.hold_seconds, self.options.hysteresis
        )
        self.totals: Counter[str] = Counter()
        self._observe_frame = observe_frame
        self._sessions: set[Session] = set()
        self._lock = threading.Lock()
        self.queue = ModelQueue(model.logits, most_waiting=self.options.most_waiting, observe=observe_batch)
        self._ready: queue.SimpleQueue[Session | None] = queue.SimpleQueue()
        count = self.options.encoder_threads or len(os.sched_getaffinity(0))
        self._started: list[Future[None]] = [Future() for _ in range(count)]  # the decoding process of each thread
        self._threads = [
            threading.Thread(target=self._run, args=(started,), name=f"encoder {number}", daemon=True)
            for number, started in enumerate(self._started)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return len(self._sessions)

    def warm_up(self) -> None:
        """Computes once what the first frame would have to wait for.

        Raises:
            JobError: the processes that decode pictures cannot start.
        """
        row: dict[str, np.ndarray | None] = {each.name: np.zeros(each.width, "u1") for each in self.model.modalities}
        request = self.model.media.request() if self.model.media is not None else None
        if request is not None:
            size = request.pictures.size if request.pictures is not None else 1
            row = self.model.row(
                {"picture": np.zeros((size, size, 3), np.uint8), "sound": np.zeros(PATCH_SAMPLES, "f4")}
            )
        ring = FrameRing(self.model.modalities, masks=self.model.masks)
        for second in range(RING_FRAMES):
            ring.append(row, second)
            if second in (0, 1, RING_FRAMES - 1):
                windows = [ring.now(self.options.window_seconds), ring.so_far()]
                self.queue.submit(windows).result()
        for started in self._started:
            if error := started.exception():
                raise JobError(str(error)) from error

    def open(self, name: str, deliver: Callable[[Answer], None]) -> Session:
        """A new stream.

        Args:
            name: for logs and messages.
            deliver: takes the answers, in the order of the frames; called by the engine's threads, it must not block.

        Raises:
            TooManyStreamsError: see `EngineOptions.most_streams`.
        """
        with self._lock:
            if len(self._sessions) >= self.options.most_streams:
                raise TooManyStreamsError(f"{self.options.most_streams} streams are open; close one or try again later")
            session = Session(name, self.model.modalities, self.rules, deliver, masks=self.model.masks)
            self._sessions.add(session)
            return session

    def close(self, session: Session) -> None:
        """Ends a stream; what is under way gets no answer."""
        session.closed = True
        with self._lock:
            self._sessions.discard(session)

    def offer(self, session: Session, frame: Frame) -> None:
        """Gives a stream's next frame; never blocks. Each frame gets one answer."""
        session.count(received=1)
        with session.lock:
            replaced, session.pending = session.pending, frame
            start = not session.busy
            session.busy = True
        if replaced is not None:
            self._fail(session, replaced, DROPPED, "a newer frame came before its turn")
        if start:
            self._ready.put(session)

    def refuse(self, session: Session, frame: Frame, message: str) -> None:
        """Answers a frame of a stream that cannot be taken, and counts it as failed; never blocks."""
        session.count(received=1)
        self._fail(session, frame, REFUSED, message)

    def shut_down(self) -> None:
        """Labels what is under way, then ends the threads and the decoding processes."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()
        self.queue.close()

    def _run(self, started: "Future[None]") -> None:
        decoder = None
        request = self.model.media.request() if self.model.media is not None else None
        try:
            if request is not None and request.pictures is not None:
                decoder = StillDecoder(request.pictures, max_pixels=self.options.most_pixels)
                decoder.start()
            started.set_result(None)
        except Exception as error:  # told by `warm_up`; each picture tries again, and says so if that fails
            started.set_exception(error)
        try:
            while (session := self._ready.get()) is not None:
                self._take_up(session, decoder)
        finally:
            if decoder is not None:
                decoder.close()

    def _take_up(self, session: Session, decoder: StillDecoder | None) -> None:
        with session.lock:
            frame, session.pending = session.pending, None
            if frame is None:
                session.busy = False
                return
        if session.closed:
            self._fail(session, frame, DROPPED, "the stream was closed")
            self._next(session)
            return
        started = time.monotonic()
        under_way = _UnderWay(session, frame, {"wait": 1000 * (started - frame.received)})
        try:
            self._encode(under_way, decoder)
            future = self.queue.submit([session.ring.now(self.options.window_seconds), session.ring.so_far()])
        except MediaError as error:
            self._fail(session, frame, error.reason, error.message)
        except ValueError as error:
            self._fail(session, frame, REFUSED, str(error))
        except OverloadedError as error:
            self._fail(session, frame, DROPPED, str(error))
        except Exception:  # whatever an encoder raises costs that frame; the thread serves the other streams
            _LOG.exception("a frame could not be encoded")
            self._fail(session, frame, "encoder", "the encoders failed; the service's log says how")
        else:
            future.add_done_callback(lambda done: self._labelled(under_way, done))
            return
        self._next(session)

    def _encode(self, under_way: _UnderWay, decoder: StillDecoder | None) -> None:
        frame, started = under_way.frame, time.monotonic()
        row: dict[str, np.ndarray | None] = dict(frame.row or {})

        def hear() -> None:
            if frame.sound is not None:
                row.update(self.model.row({"sound": sound_patch(frame.sound)}))

        if frame.row is None and self.model.media is None:
            raise ValueError("the model takes no pictures and no sound: its records were not made from media")
        picture = frame.picture
        if frame.jpeg is None:
            hear()
        elif decoder is None:
            raise ValueError("the model takes no pictures")
        else:
            picture = decoder.decode(frame.jpeg, meanwhile=hear)  # in another process: a core of its own
        decoded = time.monotonic()
        if picture is not None:
            row.update(self.model.row({"picture": picture}))
        if all(values is None for values in row.values()):
            raise ValueError("the frame has nothing that the model takes")
        under_way.session.ring.append(row, frame.seconds)
        under_way.spent["decode"] = 1000 * (decoded - started)
        under_way.spent["encode"] = 1000 * (time.monotonic() - decoded)

    def _labelled(self, under_way: _UnderWay, done: "Future[Scored]") -> None:
        session, frame = under_way.session, under_way.frame
        if done.exception() is not None:
            self._fail(session, frame, "model", "the model failed; the service's log says how")
        else:
            scored = done.result()
            now, so_far = sigmoid(scored.logits)
            session.last_so_far = so_far
            events = session.tracker.update(now, frame.seconds)
            spent = under_way.spent
            spent["queue"], spent["model"] = 1000 * scored.queue_seconds, 1000 * scored.compute_seconds
            spent["total"] = 1000 * (time.monotonic() - frame.received)
            light = dataclasses.replace(frame, jpeg=None, picture=None, sound=None, row=None)
            counts = session.count(labelled=1)
            self._settle(session, "labelled", FrameLabels(light, now, so_far, events, spent, counts))
        self._next(session)

    def _fail(self, session: Session, frame: Frame, reason: str, message: str) -> None:
        outcome = "dropped" if reason == DROPPED else "failed"
        counts = session.count(**{outcome: 1})
        light = dataclasses.replace(frame, jpeg=None, picture=None, sound=None, row=None)
        self._settle(session, outcome, FrameFailure(light, reason, message, counts))

    def _settle(self, session: Session, outcome: str, answer: Answer) -> None:
        with self._lock:
            self.totals[outcome] += 1
        if self._observe_frame is not None:
            self._observe_frame(answer)
        session.deliver(answer)

    def _next(self, session: Session) -> None:
        """Goes on with the stream's frame that waits, behind those of other streams."""
        with session.lock:
            if session.pending is None:
                session.busy = False
                return
        self._ready.put(session)


def sound_patch(sound: np.ndarray | None) -> np.ndarray | None:
    """Sound as a patch of 0.975 s: silence follows where it is shorter."""
    if sound is None:
        return None
    patch = np.zeros(PATCH_SAMPLES, np.float32)
    patch[: len(sound)] = sound[:PATCH_SAMPLES]
    return patch
