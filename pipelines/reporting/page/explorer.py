"""The compact data that the browser explores: every class's scores, curves and confusions."""

import base64
from typing import Any

import numpy as np

from pipelines.reporting.findings.comparison import ClassChanges
from pipelines.reporting.findings.intervals import class_intervals
from pipelines.reporting.inputs.scores import Scores
from vcls_model import storage

# Confused classes embedded for each class, each way.
_CONFUSED_EACH = 6


def to_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element: no `<`, `>`, `&`, and none of JavaScript's line separators."""
    text = storage.to_json(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _thousandths(values: np.ndarray) -> list[int | None]:
    return [None if not np.isfinite(value) else round(1000 * float(value)) for value in values]


def _whole(values: np.ndarray) -> list[int | None]:
    return [None if not np.isfinite(value) else int(value) for value in values]


def _bytes_base64(curves: np.ndarray) -> str:
    """Curves in [0, 1] as one byte a value (steps of 1/255, finer than a pixel)."""
    return base64.b64encode(np.round(np.clip(np.nan_to_num(curves), 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def explorer_data(scores: Scores, by_class: ClassChanges | None, baseline: Scores | None) -> dict[str, Any]:
    """What the table and the drill-down need, in compact arrays by class; scores in thousandths, null when unknown."""
    columns = scores.columns
    low, high = class_intervals(scores)
    unique = sorted({scores.main_vertical(index) for index in range(scores.class_count)})
    place = {name: position for position, name in enumerate(unique)}
    assert scores.summary is not None
    data: dict[str, Any] = {
        "names": scores.names,
        "verticals": unique if scores.has_verticals else [],
        "vertical": [place[scores.main_vertical(index)] for index in range(scores.class_count)],
        "videos": int(scores.summary.get("videos", 0)),
        "threshold": scores.info.get("threshold", 0.5),
        "support": _whole(columns["support"]),
        "train": _whole(scores.train_count) if np.isfinite(scores.train_count).any() else None,
        "ap": _thousandths(columns["ap"]),
        "low": _thousandths(low),
        "high": _thousandths(high),
        "roc": _thousandths(columns["roc_auc"]),
        "precision": _thousandths(columns["precision"]),
        "recall": _thousandths(columns["recall"]),
        "f1": _thousandths(columns["f1"]),
        "tp": _whole(columns["tp"]),
        "fp": _whole(columns["fp"]),
        "fn": _whole(columns["fn"]),
        "best": _thousandths(columns["best_threshold"]),
        "precisionBest": _thousandths(columns["precision_best"]),
        "recallBest": _thousandths(columns["recall_best"]),
        "f1Best": _thousandths(columns["f1_best"]),
        "delta": None,
        "exceeds": None,
        "before": None,
    }
    if by_class is not None and baseline is not None:
        data |= {
            "delta": _thousandths(by_class.delta),
            "exceeds": by_class.exceeds.astype(int).tolist(),
            "before": _thousandths(baseline.columns["ap"]),
        }
    curves = scores.curves
    data["curveRow"], data["pr"], data["rocCurve"], data["micro"] = [], "", "", None
    if "pr_class" in curves and "roc_class" in curves:
        # A class that every video carries has a precision-recall curve but no ROC; the page knows by its ROC AUC.
        known = np.isfinite(curves["pr_class"]).all(axis=1)
        rows = np.where(known, np.cumsum(known) - 1, -1)
        data |= {
            "curveRow": rows.tolist(),
            "points": int(curves["pr_class"].shape[1]),
            "pr": _bytes_base64(curves["pr_class"][known]),
            "rocCurve": _bytes_base64(curves["roc_class"][known]),
        }
        if "pr_micro" in curves and "roc_micro" in curves:
            data["micro"] = {"pr": _thousandths(curves["pr_micro"]), "roc": _thousandths(curves["roc_micro"])}
    data["insteadOf"], data["mistakenFor"] = _confused_lists(scores)
    return data


def _confused_lists(scores: Scores) -> tuple[list[list[int]], list[list[int]]]:
    """By class, flat lists of class, count: what was predicted when it was missed; what was true when it was wrong."""
    missed: list[list[int]] = [[] for _ in range(scores.class_count)]
    wrong: list[list[int]] = [[] for _ in range(scores.class_count)]
    rows = scores.confusion[scores.confusion[:, 0] != scores.confusion[:, 1]]
    for true, predicted, count in rows[np.argsort(-rows[:, 2], kind="stable")].tolist():
        if len(missed[true]) < 2 * _CONFUSED_EACH:
            missed[true] += [predicted, count]
        if len(wrong[predicted]) < 2 * _CONFUSED_EACH:
            wrong[predicted] += [true, count]
    return missed, wrong
