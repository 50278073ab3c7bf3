"""Labels of a file as other programs read them: JSON in the names of Google Video Intelligence, WebVTT, CSV."""

from collections.abc import Iterable
from typing import Any

from vcls_model import tables
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.live.labelling import MediaLabels
from vcls_model.spreadsheets import harmless

FORMATS = ("json", "vtt", "csv")
MEDIA_TYPES = {"json": "application/json", "vtt": "text/vtt; charset=utf-8", "csv": "text/csv; charset=utf-8"}


def to_video_intelligence(labels: MediaLabels, name: str) -> dict[str, Any]:
    """An `AnnotateVideoResponse` with the segment, shot and frame label annotations of one video.

    Args:
        labels: of the file.
        name: of the file, for `inputUri`.
    """
    whole = _segment(0.0, labels.seconds)
    segments = {index: [{"segment": whole, "confidence": score}] for index, score in labels.whole}
    shots: dict[int, list[dict[str, Any]]] = {}
    for shot in labels.shots:
        for index, score in shot.labels:
            shots.setdefault(index, []).append({"segment": _segment(shot.start, shot.end), "confidence": score})
    shown = sorted({span.index for span in labels.spans})
    frames: dict[int, list[dict[str, Any]]] = {index: [] for index in shown}
    for moment in labels.moments:
        for index, score in moment.labels:
            if index in frames:
                frames[index].append({"timeOffset": _offset(moment.seconds), "confidence": score})
    spans: dict[int, list[dict[str, Any]]] = {}
    for span in labels.spans:
        spans.setdefault(span.index, []).append({"segment": _segment(span.start, span.end), "confidence": span.score})
    result: dict[str, Any] = {
        "inputUri": name,
        "segment": whole,
        "segmentLabelAnnotations": _annotations(segments, labels, "segments"),
        "shotLabelAnnotations": _annotations(shots, labels, "segments"),
        "frameLabelAnnotations": _annotations(frames, labels, "frames"),
        "shotAnnotations": [_segment(shot.start, shot.end) for shot in labels.shots],
        "labelTimeline": _annotations(spans, labels, "segments"),  # this project's own: where a label came and went
    }
    if labels.message:
        result["error"] = {"code": 15, "message": labels.message}  # DATA_LOSS of google.rpc.Code
    return {"annotationResults": [result]}


def to_webvtt(labels: MediaLabels) -> str:
    """A cue for each stretch of time in which the same labels hold, which players show as subtitles."""
    moments = sorted({time for span in labels.spans for time in (span.start, span.end)})
    lines = ["WEBVTT", ""]
    for start, end in zip(moments, moments[1:], strict=False):
        shown = [span for span in labels.spans if span.start <= start and span.end >= end]
        if shown:
            names = (labels.classes[each.index].name for each in sorted(shown, key=lambda span: -span.score))
            lines += [f"{_clock(start)} --> {_clock(end)}", _escaped(names), ""]
    return "\n".join(lines)


def to_csv(labels: MediaLabels) -> str:
    """One line per label and stretch of time: index, name, start, end, confidence, best_at."""
    rows = []
    for span in labels.spans:
        rows.append(
            [
                span.index,
                harmless(labels.classes[span.index].name),
                f"{span.start:.3f}",
                f"{span.end:.3f}",
                f"{span.score:.6f}",
                f"{span.best_at:.3f}",
            ]
        )
    heading = ("index", "name", "start_seconds", "end_seconds", "confidence", "best_at_seconds")
    return tables.write_csv(heading, rows)


def entity(info: ClassInfo) -> dict[str, Any]:
    """A class as Video Intelligence names entities; `entityId` is the class's index here."""
    return {"entityId": str(info.index), "description": info.name, "languageCode": "en"}


def _annotations(by_class: dict[int, list[dict[str, Any]]], labels: MediaLabels, what: str) -> list[dict[str, Any]]:
    return [
        {
            "entity": entity(labels.classes[index]),
            "categoryEntities": [{"description": name} for name in labels.classes[index].verticals],
            what: parts,
        }
        for index, parts in by_class.items()
    ]


def _segment(start: float, end: float) -> dict[str, str]:
    return {"startTimeOffset": _offset(start), "endTimeOffset": _offset(end)}


def _offset(seconds: float) -> str:
    """A protobuf Duration in JSON: seconds with up to nine decimals and an s."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(names: Iterable[str]) -> str:
    """Names as the text of a cue, which may hold neither tags nor line breaks."""
    joined = ", ".join(" ".join(name.split()) for name in names)
    return joined.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
