"""Assembles the page: every section's tables, figures and words, and the compact data that the browser explores."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from pipelines.reporting.findings import analysis
from pipelines.reporting.findings.analysis import Change, ClassChanges, Estimate, Group, Requirement, Verdict
from pipelines.reporting.findings.recommendations import Recommendation
from pipelines.reporting.inputs.predictions import PredictionStatistics
from pipelines.reporting.inputs.scores import ClassName, Example, Scores
from pipelines.reporting.page import figures
from pipelines.reporting.page.approach import Manifests, data_facts, flatten, split_table, steps
from pipelines.reporting.page.figures import Figure
from pipelines.reporting.page.tables import Table, number, probability, signed

# The score job keeps more examples than a reader wants on a page; all are in examples.csv.
_EXAMPLES_SHOWN = 12
_SEGMENT_CLASSES_SHOWN = 12
# Confused classes embedded for each class, each way.
_CONFUSED_EACH = 6


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything on the page; `figures` and `tables` are also saved as files."""

    html: str
    figures: list[Figure]
    tables: list[Table]
    verdict: Verdict | None


def to_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element: no `<`, `>`, `&`, and none of JavaScript's line separators."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
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
    low, high = analysis.class_intervals(scores)
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


def _class_rows(scores: Scores, chosen: Sequence[int]) -> list[dict[str, Any]]:
    low, high = analysis.class_intervals(scores)
    columns = scores.columns
    return [
        {
            "name": scores.name(i),
            "vertical": scores.main_vertical(i),
            "support": int(columns["support"][i]),
            "ap": float(columns["ap"][i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "f1": float(columns["f1"][i]),
            "precision": float(columns["precision"][i]),
            "recall": float(columns["recall"][i]),
        }
        for i in chosen
    ]


def _class_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("name", "vertical", "support", "ap", "low", "high", "precision", "recall", "f1")
    return Table(name, keys, [[row[key] for key in keys] for row in rows])


def _example_rows(scores: Scores, examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [
        {
            "id": example.video_id,
            "name": scores.name(example.class_index),
            "probability": example.probability,
            "labels": [scores.name(label) for label in example.labels if 0 <= label < scores.class_count],
        }
        for example in examples
    ]


def _two_by_two(scores: Scores, chosen: Sequence[int]) -> list[dict[str, Any]]:
    columns = scores.columns
    found = []
    for i in chosen:
        tp, fp, fn = (int(columns[key][i]) for key in ("tp", "fp", "fn"))
        tn = columns["tn"][i]
        found.append({"name": scores.name(i), "tp": tp, "fp": fp, "fn": fn, "tn": int(tn) if np.isfinite(tn) else None})
    return found


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that a report is made of."""

    scores: Scores
    manifests: Manifests
    baseline: Scores | None
    requirements: Sequence[Requirement]
    chosen: Sequence[int]
    recommendations: Sequence[Recommendation]
    statistics: PredictionStatistics | None
    dead_letters: Sequence[Mapping[str, Any]]
    title: str


def assemble(inputs: Inputs) -> Report:
    """Draws the figures, fills the tables and renders the page."""
    if inputs.scores.labelled:
        return _labelled(inputs)
    return _unlabelled(inputs)


def _labelled(inputs: Inputs) -> Report:
    scores, baseline = inputs.scores, inputs.baseline
    found = analysis.estimates(scores)
    against: list[Change] | None = None
    by_class: ClassChanges | None = None
    if baseline is not None:
        against, by_class = (
            analysis.changes(found, analysis.estimates(baseline)),
            analysis.class_changes(scores, baseline),
        )
    models_table = _models_table(scores)
    same_labels = baseline is None or np.array_equal(baseline.columns["support"], scores.columns["support"])
    verdict = analysis.verdict(scores, found, against, by_class, inputs.requirements, same_labels=same_labels)
    overall = float(np.nanmean(scores.columns["ap"])) if np.isfinite(scores.columns["ap"]).any() else float("nan")
    frequency_groups, vertical_groups = analysis.frequency_groups(scores), analysis.vertical_groups(scores)
    drawn: dict[str, Figure | None] = {
        "changes": figures.changes_figure(scores, baseline, by_class) if baseline and by_class else None,
        "frequency": figures.group_figure("frequency_groups", "Head, torso and tail", frequency_groups, overall),
        "verticals": figures.group_figure("verticals", "Verticals", vertical_groups, overall),
        "sizes": figures.size_figure(scores),
        "confusion": figures.confusion_figure(scores),
    }
    sets = {
        "curves": figures.curve_figures(scores, inputs.chosen),
        "thresholds": figures.threshold_figures(scores),
        "calibration": figures.calibration_figures(scores),
        "training": figures.training_figures(scores),
    }
    best, worst = analysis.best_and_worst(scores)
    best_rows, worst_rows = _class_rows(scores, best.classes), _class_rows(scores, worst.classes)
    pairs = analysis.confused_pairs(scores, 30)
    pair_table = Table(
        "confused_pairs",
        ("True class, missed", "Predicted instead", "Times", "Misses in all", "Share of them"),
        [
            [
                scores.name(pair.true_index),
                scores.name(pair.predicted_index),
                pair.count,
                pair.missed,
                pair.count / pair.missed if pair.missed else None,
            ]
            for pair in pairs
        ],
    )
    examples = {kind: _example_rows(scores, entries) for kind, entries in scores.examples.items()}
    tables = [
        _headline_table(found, against),
        _class_table("best_classes", best_rows),
        _class_table("worst_classes", worst_rows),
        _group_table("frequency_groups", frequency_groups),
        pair_table,
        _per_class_table(scores, by_class),
        _recommendation_table(inputs.recommendations),
        *(recommendation.evidence for recommendation in inputs.recommendations),
        Table(
            "examples",
            ("kind", "id", "class", "probability", "labels"),
            [
                [kind, row["id"], row["name"], row["probability"], "; ".join(row["labels"])]
                for kind, rows in examples.items()
                for row in rows
            ],
        ),
    ]
    if models_table:
        tables.append(models_table)
    slice_tables = analysis.slice_tables(scores)
    tables += slice_tables
    if vertical_groups:
        tables.append(_group_table("verticals", vertical_groups))
    segments = analysis.segment_rows(scores)
    if segments:
        tables.append(_segment_table(scores, "segments", segments))
    biggest: list[list[Any]] = []
    if by_class is not None and baseline is not None:
        changed = np.flatnonzero(by_class.exceeds)
        order = changed[np.argsort(-np.abs(by_class.delta[changed]), kind="stable")]
        biggest = [
            [
                scores.name(i),
                int(scores.columns["support"][i]),
                float(baseline.columns["ap"][i]),
                float(scores.columns["ap"][i]),
                float(by_class.delta[i]),
                float(by_class.low[i]),
                float(by_class.high[i]),
            ]
            for i in order
        ]
        tables.append(
            Table(
                "changed_classes",
                ("Class", "Positives", "AP before", "AP now", "Change", "At least", "At most"),
                biggest,
            )
        )
    context = {
        "verdict": verdict,
        "estimates": found,
        "against": against,
        "by_class": by_class,
        "baseline": baseline,
        "changed_table": Table(
            "changed", ("Class", "Positives", "AP before", "AP now", "Change", "At least", "At most"), biggest[:20]
        ),
        "changed_total": len(biggest),
        "same_labels": same_labels,
        "models_table": models_table,
        "slice_tables": slice_tables,
        "segment_best": _segment_table(scores, "segments_best", segments[:_SEGMENT_CLASSES_SHOWN]),
        "segment_worst": _segment_table(
            scores, "segments_worst", segments[_SEGMENT_CLASSES_SHOWN:][: -_SEGMENT_CLASSES_SHOWN - 1 : -1]
        ),
        "best_rows": best_rows,
        "worst_rows": worst_rows,
        "best_sure": best.sure,
        "worst_sure": worst.sure,
        "pair_table": pair_table,
        "two_by_two": _two_by_two(scores, inputs.chosen),
        "pair_fraction": (scores.summary or {}).get("confusion_video_fraction", 1),
        "examples": {kind: rows[:_EXAMPLES_SHOWN] for kind, rows in examples.items()},
        "figure": drawn,
        "sets": sets,
        "threshold_table": _threshold_table(scores),
        "data_json": to_json(explorer_data(scores, by_class, baseline)),
    }
    all_figures = [figure for figure in drawn.values() if figure] + [
        figure for group in sets.values() for figure in group
    ]
    return Report(_render(inputs, context), all_figures, tables, verdict)


def _unlabelled(inputs: Inputs) -> Report:
    statistics, scores = inputs.statistics, inputs.scores
    drawn: list[Figure] = []
    tables: list[Table] = []
    frequent = Table("predicted_classes", ("Class", "Vertical", "Best class of", "Above the threshold"), [])
    if statistics is not None and statistics.videos:
        drawn.append(figures.prediction_figure(statistics))
        order = np.lexsort((-statistics.above, -statistics.first))
        rows = [
            [scores.names[i], scores.main_vertical(i), int(statistics.first[i]), int(statistics.above[i])]
            for i in order
            if statistics.first[i] or statistics.above[i]
        ]
        frequent = Table(frequent.name, frequent.columns, rows[:30])
        tables.append(Table(frequent.name, frequent.columns, rows))
    training = figures.training_figures(scores)
    context = {
        "statistics": statistics,
        "frequent": frequent,
        "prediction_figures": drawn,
        "sets": {"training": training},
        "verdict": None,
        "data_json": "",
    }
    return Report(_render(inputs, context), drawn + training, tables, None)


def _headline_table(found: Sequence[Estimate], against: Sequence[Change] | None) -> Table:
    changed = {change.now.metric.key: change for change in against or ()}
    rows = []
    for estimate in found:
        change = changed.get(estimate.metric.key)
        rows.append(
            [
                estimate.metric.key,
                estimate.value,
                estimate.low,
                estimate.high,
                estimate.binning_low,
                estimate.binning_high,
                change.before.value if change else None,
                change.delta if change else None,
                change.low if change else None,
                change.high if change else None,
            ]
        )
    return Table(
        "headline",
        (
            "metric",
            "value",
            "low_95",
            "high_95",
            "certified_low",
            "certified_high",
            "baseline",
            "change",
            "change_low_95",
            "change_high_95",
        ),
        rows,
    )


def _models_table(scores: Scores) -> Table | None:
    """Headline metrics of each model alone and of their mean, when the run averaged several."""
    models = [entry for entry in scores.info.get("models") or [] if isinstance(entry.get("metrics"), Mapping)]
    if len(models) < 2 or scores.summary is None:
        return None
    keys = [metric for metric in analysis.METRICS if metric.key in ("gap_at_20", "map", "hit_at_1", "perr")]
    named = [(entry.get("name") or entry.get("path") or "?", entry["metrics"]) for entry in models]
    rows = [
        [name, *(float("nan") if metrics.get(metric.key) is None else metrics[metric.key] for metric in keys)]
        for name, metrics in [*named, ("their mean", scores.summary)]
    ]
    return Table("models", ("Model", *(metric.title for metric in keys)), rows)


def _segment_table(scores: Scores, name: str, chosen: Sequence[int]) -> Table:
    columns = ("Class", "Rated", "Positives", "AP@K")
    found = scores.segments
    if found is None:
        return Table(name, columns, [])
    rows = [[scores.name(i), int(found.rated[i]), int(found.positives[i]), float(found.ap[i])] for i in chosen]
    return Table(name, columns, rows)


def _group_table(name: str, groups: Sequence[Group]) -> Table:
    return Table(
        name,
        ("group", "classes", "measured", "positives", "mean_ap", "low_95", "high_95", "mean_f1"),
        [
            [
                group.name,
                group.classes,
                group.measured,
                group.positives,
                group.ap,
                group.ap_low,
                group.ap_high,
                group.f1,
            ]
            for group in groups
        ],
    )


def _per_class_table(scores: Scores, by_class: ClassChanges | None) -> Table:
    columns = [key for key in scores.columns if key != "index"]
    header = ["index", "name", "vertical", *columns]
    rows = []
    for index in range(scores.class_count):
        row: list[Any] = [index, scores.names[index], scores.main_vertical(index)]
        row += [float(scores.columns[key][index]) for key in columns]
        if by_class is not None:
            row += [float(by_class.delta[index]), int(by_class.exceeds[index])]
        rows.append(row)
    return Table("per_class", header + (["ap_change", "ap_change_exceeds"] if by_class is not None else []), rows)


def _recommendation_table(recommendations: Sequence[Recommendation]) -> Table:
    return Table(
        "recommendations",
        ("kind", "what", "why", "expected_gain", "evidence"),
        [[entry.kind, entry.title, entry.why, entry.gain, f"{entry.evidence.name}.csv"] for entry in recommendations],
    )


def _threshold_table(scores: Scores) -> Table | None:
    """Macro precision, recall and F1 at the one threshold and at the classes' own."""
    measured = scores.columns["support"] > 0
    if not np.isfinite(scores.columns["f1_best"][measured]).any():
        return None
    threshold = scores.info.get("threshold", 0.5)
    rows: list[list[Any]] = []
    for label, suffix in ((f"{threshold:g} for all classes", ""), ("each class its own", "_best")):
        rows.append(
            [
                label,
                *(
                    float(np.nan_to_num(scores.columns[f"{key}{suffix}"][measured]).mean())
                    for key in ("precision", "recall", "f1")
                ),
            ]
        )
    return Table("thresholds", ("Threshold", "Precision (macro)", "Recall (macro)", "F1 (macro)"), rows)


def _resource(name: str) -> str:
    return (resources.files("pipelines.reporting.page") / "templates" / name).read_text("utf-8")


def _render(inputs: Inputs, context: dict[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_resource),
    )
    environment.filters["number"] = number
    environment.filters["signed"] = signed
    environment.filters["probability"] = probability
    environment.tests["class_name"] = lambda value: isinstance(value, ClassName)
    # The page's policy admits this one script, by its hash, and nothing from a network.
    script = _resource("report.js") if context["data_json"] else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    manifests = {"Scores": inputs.scores.info, "Model": inputs.manifests.model, "Data": inputs.manifests.data}
    return environment.get_template("report.html").render(
        title=inputs.title,
        scores=inputs.scores,
        style=Markup(_resource("report.css")),
        script=Markup(script),
        script_hash=digest,
        recommendations=inputs.recommendations,
        approach=steps(inputs.scores, inputs.manifests),
        split_table=split_table(inputs.manifests),
        data_facts=data_facts(inputs.manifests),
        manifests={name: flatten(value) for name, value in manifests.items() if value},
        rejections=[
            (name, value["rejected_by_reason"])
            for name, value in (("scoring", inputs.scores.info), ("preprocessing", inputs.manifests.data))
            if value.get("rejected_by_reason")
        ],
        dead_letters=inputs.dead_letters,
        **{**context, "data_json": Markup(context["data_json"])},
    )
