"""Metrics of multi-label classification from mergeable counts. Names are imported on first use, so that a command
line that only prints its help does not wait for the compiler."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcls_model.metrics.accumulator import MetricAccumulator
    from vcls_model.metrics.result import MetricResult, best_thresholds
    from vcls_model.metrics.segments import SegmentAccumulator
    from vcls_model.metrics.slices import SliceAccumulator

_HOMES = {
    "MetricAccumulator": "accumulator",
    "MetricResult": "result",
    "best_thresholds": "result",
    "SegmentAccumulator": "segments",
    "SliceAccumulator": "slices",
}

__all__ = ["MetricAccumulator", "MetricResult", "SegmentAccumulator", "SliceAccumulator", "best_thresholds"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
