"""One thread that runs a model, behind a bounded queue: what waits is computed together in one batch."""

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from vcls_model.serving.live.stream import Features

_LOG = logging.getLogger(__name__)


class OverloadedError(Exception):
    """The queue is full: try again later."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model says of the videos of one request.

    Attributes:
        logits: float32 (N, C).
        queue_seconds: from the request to the batch that took it up.
        compute_seconds: of that batch.
        batch_size: videos of that batch, those of other requests included.
    """

    logits: np.ndarray
    queue_seconds: float
    compute_seconds: float
    batch_size: int


@dataclasses.dataclass
class _Job:
    videos: Sequence[Features]
    future: "Future[Scored]"
    submitted: float


class ModelQueue:
    """Batches the requests of all streams and clients; the thread never waits for a batch to fill."""

    def __init__(
        self,
        logits: Callable[[Sequence[Features]], np.ndarray],
        *,
        most_waiting: int = 512,
        most_per_batch: int = 32,
        observe: Callable[[Scored], None] | None = None,
    ) -> None:
        """
        Args:
            logits: float32 (N, C) of N videos.
            most_waiting: videos in the queue beyond which requests are refused.
            most_per_batch: videos per call, unless one request has more.
            observe: is told of each result, in the model's thread.
        """
        self._logits = logits
        self._most_waiting = most_waiting
        self._most_per_batch = most_per_batch
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Videos in the queue."""
        return self._waiting

    def submit(self, videos: Sequence[Features]) -> "Future[Scored]":
        """Asks for the logits of at least one video; the future's callbacks run in the model's thread.

        Raises:
            OverloadedError: too many wait, or the queue is closed.
        """
        job = _Job(videos, Future(), time.monotonic())
        with self._changed:
            if self._closed or (self._waiting and self._waiting + len(videos) > self._most_waiting):
                raise OverloadedError("the service is shutting down" if self._closed else "too many requests wait")
            self._jobs.append(job)
            self._waiting += len(videos)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Computes what waits, then ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[_Job]:
        """The jobs of the next batch; none once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            taken: list[_Job] = []
            count = 0
            while self._jobs and (not taken or count + len(self._jobs[0].videos) <= self._most_per_batch):
                job = self._jobs.popleft()
                count += len(job.videos)
                taken.append(job)
            self._waiting -= count
            return taken

    def _run(self) -> None:
        while jobs := self._take():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._compute(running)

    def _compute(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        videos = [video for job in jobs for video in job.videos]
        try:
            logits = self._logits(videos)
        except Exception as error:  # whatever a model raises is its request's answer; the thread serves the others
            if len(jobs) == 1:
                _LOG.exception("the model failed")
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # by themselves, so that one client's input costs that client alone
                self._compute([job])
            return
        seconds = time.monotonic() - started
        first = 0
        for job in jobs:
            rows = logits[first : first + len(job.videos)]
            first += len(job.videos)
            scored = Scored(rows, started - job.submitted, seconds, len(videos))
            if self._observe is not None:
                self._observe(scored)
            job.future.set_result(scored)
