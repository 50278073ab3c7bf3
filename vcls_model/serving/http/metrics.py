"""What Prometheus sees of a service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vcls_model.serving.live.engine import Engine
from vcls_model.serving.live.queues import Scored
from vcls_model.serving.live.session import Answer, FrameLabels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vcls_requests", "Requests by address and status", ["route", "status"], registry=self._registry
        )
        self._request_seconds = Histogram(
            "vcls_request_seconds", "Time of requests", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._frames = Counter(
            "vcls_frames", "Frames of live streams by what became of them", ["outcome"], registry=self._registry
        )
        self._stages = Histogram(
            "vcls_frame_seconds",
            "Time of a labelled frame by stage: wait, decode, encode, queue, model, total",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue_seconds = Histogram(
            "vcls_queue_seconds", "Time that requests to the model waited", buckets=_SECONDS, registry=self._registry
        )
        self._compute_seconds = Histogram(
            "vcls_compute_seconds",
            "Time of the model's batches, as each request saw it",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "vcls_batch_size", "Videos per batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self._registry
        )
        self._streams = Gauge("vcls_streams", "Live streams that are open", registry=self._registry)
        self._waiting = Gauge("vcls_queue_videos", "Videos that wait for the model", registry=self._registry)

    def watch(self, engine: Engine) -> None:
        """Reads the gauges from an engine."""
        self._streams.set_function(lambda: engine.streams)
        self._waiting.set_function(lambda: engine.queue.waiting)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered; `route` is one of a fixed set, never what a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_frame(self, answer: Answer) -> None:
        """A frame that was labelled, dropped or failed."""
        if isinstance(answer, FrameLabels):
            self._frames.labels("labelled").inc()
            for stage, milliseconds in answer.latency.items():
                self._stages.labels(stage).observe(milliseconds / 1000)
        else:
            self._frames.labels("dropped" if answer.reason == "dropped" else "failed").inc()

    def observe_batch(self, scored: Scored) -> None:
        """A result of the model."""
        self._queue_seconds.observe(scored.queue_seconds)
        self._compute_seconds.observe(scored.compute_seconds)
        self._batch_size.observe(scored.batch_size)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
