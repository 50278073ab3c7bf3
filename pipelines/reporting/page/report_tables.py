"""The tables of the report, each shown on the page or saved as CSV, most of them both."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.reporting.findings.comparison import Change, ClassChanges, Estimate
from pipelines.reporting.findings.confusion import ConfusedPair
from pipelines.reporting.findings.groups import ClassGroup
from pipelines.reporting.findings.intervals import class_intervals
from pipelines.reporting.findings.recommendations import Recommendation
from pipelines.reporting.inputs.scores import ScoredExample, Scores
from pipelines.reporting.tables import Table
from vcls_model.metrics.catalogue import HEADLINE, METRICS


def class_rows(scores: Scores, chosen: Sequence[int]) -> list[dict[str, Any]]:
    low, high = class_intervals(scores)
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


def class_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("name", "vertical", "support", "ap", "low", "high", "precision", "recall", "f1")
    return Table(name, keys, [[row[key] for key in keys] for row in rows])


def example_rows(scores: Scores, examples: Sequence[ScoredExample]) -> list[dict[str, Any]]:
    return [
        {
            "id": example.video_id,
            "name": scores.name(example.class_index),
            "probability": example.probability,
            "labels": [scores.name(label) for label in example.labels if 0 <= label < scores.class_count],
        }
        for example in examples
    ]


def two_by_two(scores: Scores, chosen: Sequence[int]) -> list[dict[str, Any]]:
    columns = scores.columns
    found = []
    for i in chosen:
        tp, fp, fn = (int(columns[key][i]) for key in ("tp", "fp", "fn"))
        tn = columns["tn"][i]
        found.append({"name": scores.name(i), "tp": tp, "fp": fp, "fn": fn, "tn": int(tn) if np.isfinite(tn) else None})
    return found


def headline_table(found: Sequence[Estimate], against: Sequence[Change] | None) -> Table:
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
                change.p if change else None,
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
            "change_p",
        ),
        rows,
    )


def models_table(scores: Scores) -> Table | None:
    """Headline metrics of each model alone and of their mean, when the run averaged several."""
    models = [entry for entry in scores.info.get("models") or [] if isinstance(entry.get("metrics"), Mapping)]
    if len(models) < 2 or scores.summary is None:
        return None
    named = [(entry.get("name") or entry.get("path") or "?", entry["metrics"]) for entry in models]
    rows = [
        [name, *(float("nan") if metrics.get(metric.key) is None else metrics[metric.key] for metric in HEADLINE)]
        for name, metrics in [*named, ("their mean", scores.summary)]
    ]
    return Table("models", ("Model", *(metric.title for metric in HEADLINE)), rows)


def segment_table(scores: Scores, name: str, chosen: Sequence[int]) -> Table:
    columns = ("Class", "Rated", "Positives", "AP@K")
    found = scores.segments
    if found is None:
        return Table(name, columns, [])
    rows = [[scores.name(i), int(found.rated[i]), int(found.positives[i]), float(found.ap[i])] for i in chosen]
    return Table(name, columns, rows)


def group_table(name: str, groups: Sequence[ClassGroup]) -> Table:
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


def per_class_table(scores: Scores, by_class: ClassChanges | None) -> Table:
    columns = [key for key in scores.columns if key != "index"]
    header = ["index", "name", "vertical", *columns]
    rows = []
    for index in range(scores.class_count):
        row: list[Any] = [index, scores.names[index], scores.main_vertical(index)]
        row += [float(scores.columns[key][index]) for key in columns]
        if by_class is not None:
            row += [float(by_class.delta[index]), float(by_class.p[index]), int(by_class.exceeds[index])]
        rows.append(row)
    return Table(
        "per_class", header + (["ap_change", "ap_change_p", "ap_change_exceeds"] if by_class is not None else []), rows
    )


def recommendation_table(recommendations: Sequence[Recommendation]) -> Table:
    return Table(
        "recommendations",
        ("kind", "what", "why", "expected_gain", "evidence"),
        [[entry.kind, entry.title, entry.why, entry.gain, f"{entry.evidence.name}.csv"] for entry in recommendations],
    )


def threshold_table(scores: Scores) -> Table | None:
    """Macro precision, recall and F1 at one threshold for all classes and at one per class."""
    measured = scores.columns["support"] > 0
    if not np.isfinite(scores.columns["f1_best"][measured]).any():
        return None
    threshold = scores.info.get("threshold", 0.5)
    rows: list[list[Any]] = []
    for label, suffix in ((f"{threshold:g} for all classes", ""), ("one per class", "_best")):
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


def slice_tables(scores: Scores) -> list[Table]:
    """One table per context feature that the score job sliced its metrics by (verticals have their own)."""
    slices = (scores.summary or {}).get("slices")
    tables = []
    for feature, values in (slices or {}).items():
        if feature in ("frequency", "vertical") or not isinstance(values, dict):
            continue
        known = {metric.key: metric.title for metric in METRICS} | {"videos": "Videos", "labels": "Labels"}
        keys = [key for key in known if any(key in figures for figures in values.values())]
        keys.sort(key=lambda key: key not in ("videos", "labels"))
        tables.append(
            Table(
                "slice_" + "".join(character if character.isalnum() else "_" for character in feature),
                (feature, *(known[key] for key in keys)),
                [[value, *(figures.get(key) for key in keys)] for value, figures in values.items()],
            )
        )
    return tables


def pair_table(scores: Scores, pairs: Sequence[ConfusedPair]) -> Table:
    """Pairs of classes that were confused, with the share of the true class's false negatives that each explains."""
    rows = [
        [
            scores.name(pair.true_index),
            scores.name(pair.predicted_index),
            pair.count,
            pair.missed,
            pair.count / pair.missed if pair.missed else None,
        ]
        for pair in pairs
    ]
    return Table(
        "confused_pairs",
        ("True class, missed", "Predicted instead", "Times", "False negatives", "Fraction of them"),
        rows,
    )


def examples_table(examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """The examples of every kind, as `example_rows` gives them."""
    rows = [
        [
            kind,
            row["id"],
            row["name"],
            row["probability"],
            "; ".join(str(name.class_index) for name in row["labels"]),
            "; ".join(row["labels"]),
        ]
        for kind, entries in examples.items()
        for row in entries
    ]
    return Table("examples", ("kind", "id", "class", "probability", "label_indices", "labels"), rows)


def changed_table(scores: Scores, baseline: Scores, by_class: ClassChanges) -> Table:
    """Classes whose AP changed beyond chance, the greatest change first."""
    changed = np.flatnonzero(by_class.exceeds)
    rows = [
        [
            scores.name(i),
            int(scores.columns["support"][i]),
            float(baseline.columns["ap"][i]),
            float(scores.columns["ap"][i]),
            float(by_class.delta[i]),
            float(by_class.low[i]),
            float(by_class.high[i]),
            float(by_class.p[i]),
        ]
        for i in changed[np.argsort(-np.abs(by_class.delta[changed]), kind="stable")]
    ]
    return Table(
        "changed_classes", ("Class", "Positives", "AP before", "AP now", "Change", "At least", "At most", "p"), rows
    )
