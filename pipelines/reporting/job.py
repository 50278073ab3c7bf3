"""The report job: reads every directory named, computes, assembles and writes."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from pipelines.reporting.config import ReportConfig
from pipelines.reporting.findings.comparison import class_changes
from pipelines.reporting.findings.confusion import confused_pairs
from pipelines.reporting.findings.groups import choose_classes
from pipelines.reporting.findings.recommendations import Recommendation, Rival, recommend
from pipelines.reporting.inputs import predictions
from pipelines.reporting.inputs.manifests import (
    read_classes,
    read_dataset_info,
    read_dead_letters,
    read_history,
    train_counts,
)
from pipelines.reporting.inputs.media import Timeline, scored_media
from pipelines.reporting.inputs.modalities import read_worth
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import (
    Scores,
    check_same_classes,
    read_per_model,
    read_scores,
)
from pipelines.reporting.page import page
from pipelines.reporting.page.approach import Manifests
from pipelines.reporting.page.page import Inputs, Report
from pipelines.running.outputs import write_info
from vcls_model import __version__, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.identity import dataset_identity, differences, trained_on

_DEAD_LETTERS_SHOWN = 20
_TIMELINES, _TIMELINE_CLASSES, _TIMELINE_PICTURES = 4, 5, 10
_SHEET_PICTURES = 4
# The most confused pairs, of which it is counted how often their labels come together.
_PAIRS_COUNTED = 200


def build(config: ReportConfig) -> tuple[Report, dict[str, Any]]:
    """Reads and computes all; returns the report and facts for its `info.json`. Writes nothing.

    Raises:
        JobError: a directory is absent, half written, or does not fit the others.
        UsageError: a class is not in the vocabulary.
    """
    scores = read_scores(config.scores)
    manifests = _manifests(scores, config)
    scores = _complete(scores, config)
    baseline, pairing = _baseline(scores, config)
    chosen = choose_classes(scores, config.classes) if scores.labelled else []
    pairs = confused_pairs(scores, _PAIRS_COUNTED) if scores.labelled else []
    recommended: list[Recommendation] = []
    statistics = None
    if scores.labelled:
        recommended = recommend(
            scores,
            pairs=pairs,
            cooccurrence=predictions.count_cooccurrence(
                config.scores, [(pair.true_index, pair.predicted_index) for pair in pairs], scores.class_count
            ),
            against=class_changes(scores, baseline, pairing) if baseline else None,
            baseline_path=config.baseline or "",
            rivals=_rivals(scores),
        )
    else:
        statistics = predictions.prediction_statistics(
            config.scores, scores.class_count, float(scores.info.get("threshold", 0.5))
        )
    timelines, sheets = _media(scores, config)
    report = page.assemble(
        Inputs(
            scores,
            manifests,
            baseline,
            config.requirements,
            chosen,
            pairs,
            recommended,
            statistics,
            read_dead_letters(config.scores, _DEAD_LETTERS_SHOWN),
            config.title or _title(scores, manifests),
            timelines,
            sheets,
            read_worth(config.scores, scores.class_count) if scores.labelled else None,
            pairing,
        )
    )
    return report, {
        **_counts(scores),
        "labelled": scores.labelled,
        "class_count": scores.class_count,
        "verdict": {"state": report.verdict.state, "title": report.verdict.title} if report.verdict else None,
        "recommendations": [entry.kind for entry in recommended],
        "pairing": _pairing_facts(pairing),
    }


def _baseline(scores: Scores, config: ReportConfig) -> tuple[Scores, Pairing] | tuple[None, None]:
    """The run to compare with, its videos paired with those of this run."""
    if not config.baseline:
        return None, None
    baseline = read_scores(config.baseline)
    check_same_classes(scores, baseline)
    # Loads the compiled kernels of the metrics, which a report without a baseline does not need.
    from pipelines.reporting.inputs.outcomes import pair_runs

    return baseline, pair_runs(scores, baseline)


def _media(scores: Scores, config: ReportConfig) -> tuple[list[Timeline], dict[str, list[np.ndarray]]]:
    """Timelines of a few videos and pictures of all examples, as far as their files are at hand."""
    files = scored_media(config.media, dict(scores.info.get("config") or {}))
    if files is None:
        return [], {}
    # Loads decoders, encoders and compiled kernels, which no other report needs.
    from pipelines.reporting.inputs.timelines import PictureSheet, read_timelines

    shown = [entry.video_id for entries in scores.examples.values() for entry in entries[: page.EXAMPLES_SHOWN]]
    # One of each kind of example in turn: a hit, a miss, a false positive.
    turns = zip_longest(*([entry.video_id for entry in entries] for entries in scores.examples.values()))
    alternating = [video_id for turn in turns for video_id in turn if video_id is not None] or files.video_ids()
    chosen = [video_id for video_id in dict.fromkeys(alternating) if files.find(video_id)][:_TIMELINES]
    models = [str(entry.get("path") or "") for entry in _models(scores)]
    directory = config.model or (models[0] if len(models) == 1 and storage.exists(models[0]) else "")
    with PictureSheet(files) as sheet:
        sheets = {video_id: sheet.pictures(video_id, _SHEET_PICTURES) for video_id in dict.fromkeys(shown)}
        timelines = []
        if directory:
            timelines = list(
                read_timelines(
                    directory,
                    files,
                    chosen,
                    _TIMELINE_CLASSES,
                    sheet,
                    _TIMELINE_PICTURES,
                    trusted=config.trust_model,
                )
            )
    return timelines, sheets


def _pairing_facts(pairing: Pairing | None) -> dict[str, Any] | None:
    """The pairing for `info.json`."""
    if pairing is None:
        return None
    keys = ("now", "before", "shared", "relabelled", "lost", "won")
    return {**{key: getattr(pairing, key) for key in keys}, "paired": pairing.same_videos, "obstacle": pairing.obstacle}


def _counts(scores: Scores) -> dict[str, Any]:
    """The records of the scored run, all of which the report accounts for."""
    info = scores.info
    return {
        key: info[key]
        for key in ("records_read", "records_written", "records_rejected", "rejected_by_reason")
        if key in info
    }


def write(report: Report, facts: dict[str, Any], config: ReportConfig, started: float) -> dict[str, Any]:
    """Writes tables, figures, the page and, last, `info.json`, whose content it returns."""
    output = config.output
    for table in report.tables:
        storage.write_atomically(storage.join(output, "tables", f"{table.name}.csv"), table.to_csv())
    for figure in report.figures:
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.png"), figure.png)
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.svg"), figure.svg)
        storage.write_atomically(storage.join(output, "figures", f"{figure.name}.csv"), figure.numbers.to_csv())
    content = report.html.encode(errors="backslashreplace")
    storage.write_atomically(storage.join(output, "report.html"), content)
    info = {
        "job": "report",
        "report": "report.html",
        "report_bytes": len(content),
        **facts,
        "figures": [figure.name for figure in report.figures],
        "tables": [table.name for table in report.tables],
        "config": config.flags,
        "versions": {"project": __version__},
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    write_info(output, info)
    return info


def _models(scores: Scores) -> list[Mapping[str, Any]]:
    return [entry for entry in scores.info.get("models") or [] if isinstance(entry, Mapping)]


def _manifests(scores: Scores, config: ReportConfig) -> Manifests:
    models = _models(scores)
    model = dict(models[0].get("info") or {}) if models else {}
    if config.model:
        # Loads the compiled kernels of the records, which no other part of a report needs.
        from vcls_model.serving.exported import read_model_info

        model = read_model_info(config.model)
    data: dict[str, Any] = {}
    if config.data:
        data = read_dataset_info(config.data)
    elif isinstance(model.get("data"), Mapping):
        data = dict(model["data"].get("info") or model["data"])
    for what, path, manifest in (("model", config.model, model), ("dataset", config.data, data)):
        count = manifest.get("class_count")
        if path and count is not None and count != scores.class_count:
            raise JobError(
                f"the {what} {path} has {count} classes, the scores {scores.path} have {scores.class_count}: they do "
                "not belong together"
            )
    _check_belong_together(config, models, model, data)
    return Manifests(model, data)


def _check_belong_together(
    config: ReportConfig, scored: Sequence[Mapping[str, Any]], model: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Raises `UsageError` if --model did not make the scores, or --data did not make the model."""
    infos = [entry["info"] for entry in scored if entry.get("info")]
    if config.model and infos and storage.from_json(storage.to_json(model), config.model) not in infos:
        raise UsageError(
            f"--model={config.model} is not the model that made {config.scores}: leave --model out, or score again"
        )
    if config.data and (differing := differences(trained_on(model), dataset_identity(data))):
        raise UsageError(
            f"--data={config.data} is not the dataset that the model was trained on: {differing} differ; name the one "
            f"that it was ({(model.get('data') or {}).get('path')})"
        )


def _complete(scores: Scores, config: ReportConfig) -> Scores:
    """Adds what a model or data directory knows and the scores do not: training curves, training examples by class."""
    history, train_count = scores.history, scores.train_count
    if config.model and not history:
        history = read_history(config.model)
    for path in (config.model, config.data):
        if path and not np.isfinite(train_count).any():
            train_count = train_counts(read_classes(path), scores.class_count)
    return dataclasses.replace(scores, history=history, train_count=train_count)


def _rivals(scores: Scores) -> list[Rival]:
    return [Rival(name, ap) for name, ap in read_per_model(scores.path, scores.class_count).items()]


def _title(scores: Scores, manifests: Manifests) -> str:
    schema = manifests.model.get("schema") or scores.info.get("schema") or {}
    name = (manifests.model.get("model") or {}).get("name")
    parts = [
        f"Model {name}" if name else "",
        f"on {schema['name']}" if isinstance(schema, Mapping) and schema.get("name") else "",
    ]
    return " ".join(part for part in parts if part) or "Video classification"
