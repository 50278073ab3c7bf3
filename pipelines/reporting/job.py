"""The report job: reads every directory named, computes, assembles and writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.reporting.findings import analysis, recommendations
from pipelines.reporting.findings.analysis import Requirement
from pipelines.reporting.inputs import predictions
from pipelines.reporting.inputs.scores import (
    Scores,
    check_same_classes,
    read_dead_letters,
    read_history,
    read_manifest,
    read_per_model,
    read_scores,
    read_train_count,
)
from pipelines.reporting.page import page
from pipelines.reporting.page.approach import Manifests
from pipelines.reporting.page.page import Inputs, Report
from vcls_model import storage
from vcls_model.commands import JobError

_DEAD_LETTERS_SHOWN = 20
# Pairs of classes whose labels are counted together.
_PAIRS_COUNTED = 200


def build(
    *,
    scores_path: str,
    model_path: str | None,
    data_path: str | None,
    baseline_path: str | None,
    requirements: Sequence[Requirement],
    wanted_classes: Sequence[str],
    title: str,
) -> tuple[Report, dict[str, Any]]:
    """Reads and computes all; returns the report and facts for its `info.json`. Writes nothing.

    Raises:
        JobError: a directory is absent, half written, or does not fit the others.
        UsageError: a class is not in the vocabulary.
    """
    scores = read_scores(scores_path)
    manifests = _manifests(scores, model_path, data_path)
    scores = _complete(scores, model_path, data_path)
    baseline = read_scores(baseline_path) if baseline_path else None
    if baseline is not None:
        check_same_classes(scores, baseline)
    chosen = analysis.choose_classes(scores, wanted_classes) if scores.labelled else []
    found: list[recommendations.Recommendation] = []
    statistics = None
    if scores.labelled:
        pairs = [(pair.true_index, pair.predicted_index) for pair in analysis.confused_pairs(scores, _PAIRS_COUNTED)]
        found = recommendations.recommend(
            scores,
            cooccurrence=predictions.count_cooccurrence(scores_path, pairs, scores.class_count),
            against=analysis.class_changes(scores, baseline) if baseline else None,
            baseline_path=baseline_path or "",
            rivals=_rivals(scores),
        )
    else:
        statistics = predictions.prediction_statistics(
            scores_path, scores.class_count, float(scores.info.get("threshold", 0.5))
        )
    report = page.assemble(
        Inputs(
            scores,
            manifests,
            baseline,
            requirements,
            chosen,
            found,
            statistics,
            read_dead_letters(scores_path, _DEAD_LETTERS_SHOWN),
            title or _title(scores, manifests),
        )
    )
    return report, {
        **_counts(scores),
        "labelled": scores.labelled,
        "class_count": scores.class_count,
        "verdict": {"state": report.verdict.state, "title": report.verdict.title} if report.verdict else None,
        "recommendations": [entry.kind for entry in found],
    }


def _counts(scores: Scores) -> dict[str, Any]:
    """The records of the scored run, all of which the report accounts for."""
    info = scores.info
    return {
        key: info[key]
        for key in ("records_read", "records_written", "records_rejected", "rejected_by_reason")
        if key in info
    }


def write(report: Report, output: str) -> bytes:
    """Writes tables, figures and, last, the page; returns the page's bytes."""
    for table in report.tables:
        storage.write_atomically(storage.join(output, "tables", f"{table.name}.csv"), table.to_csv())
    for figure in report.figures:
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.png"), figure.png)
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.svg"), figure.svg)
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.csv"), figure.numbers.to_csv())
    content = report.html.encode()
    storage.write_atomically(storage.join(output, "report.html"), content)
    return content


def _models(scores: Scores) -> list[Mapping[str, Any]]:
    return [entry for entry in scores.info.get("models") or [] if isinstance(entry, Mapping)]


def _manifests(scores: Scores, model_path: str | None, data_path: str | None) -> Manifests:
    models = _models(scores)
    model = (
        read_manifest(model_path, "the model directory")
        if model_path
        else dict(models[0].get("info") or {})
        if models
        else {}
    )
    data: dict[str, Any] = {}
    if data_path:
        data = read_manifest(data_path, "the data directory")
    elif isinstance(model.get("data"), Mapping):
        data = dict(model["data"].get("info") or model["data"])
    for what, path, manifest in (("model", model_path, model), ("data set", data_path, data)):
        count = manifest.get("class_count")
        if path and count is not None and count != scores.class_count:
            raise JobError(
                f"the {what} {path} has {count} classes, the scores {scores.path} have {scores.class_count}: they do "
                "not belong together"
            )
    return Manifests(model, data)


def _complete(scores: Scores, model_path: str | None, data_path: str | None) -> Scores:
    """Adds what a model or data directory knows and the scores do not: training curves, training examples by class."""
    history, train_count = scores.history, scores.train_count
    if model_path and not history:
        history = read_history(model_path)
    for path in (model_path, data_path):
        if path and not np.isfinite(train_count).any():
            train_count = read_train_count(path, scores.class_count)
    return dataclasses.replace(scores, history=history, train_count=train_count)


def _rivals(scores: Scores) -> list[recommendations.Rival]:
    return [recommendations.Rival(name, ap) for name, ap in read_per_model(scores.path, scores.class_count).items()]


def _title(scores: Scores, manifests: Manifests) -> str:
    schema = manifests.model.get("schema") or scores.info.get("schema") or {}
    name = (manifests.model.get("model") or {}).get("name")
    parts = [
        f"Model {name}" if name else "",
        f"on {schema['name']}" if isinstance(schema, Mapping) and schema.get("name") else "",
    ]
    return " ".join(part for part in parts if part) or "Video classification"
