"""Assembles the page: computes what each section shows and renders the template."""

import base64
import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.pages import templates
from pipelines.reporting.findings.checks import check_pairing, thresholds_text
from pipelines.reporting.findings.comparison import (
    Change,
    ClassChanges,
    Estimate,
    changes,
    class_changes,
    estimates,
)
from pipelines.reporting.findings.confusion import ConfusedPair
from pipelines.reporting.findings.groups import (
    ClassGroup,
    best_and_worst,
    frequency_groups,
    segment_rows,
    vertical_groups,
)
from pipelines.reporting.findings.intervals import FEW_POSITIVES
from pipelines.reporting.findings.recommendations import Recommendation
from pipelines.reporting.findings.verdict import Requirement, Verdict, decide
from pipelines.reporting.inputs.media import Timeline
from pipelines.reporting.inputs.modalities import ModalityWorth
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.predictions import PredictionStatistics
from pipelines.reporting.inputs.scores import ClassName, Scores
from pipelines.reporting.page import figures, report_tables
from pipelines.reporting.page.approach import Manifests, data_facts, flatten, split_table, steps
from pipelines.reporting.page.explorer import explorer_data, to_json
from pipelines.reporting.page.figures import Figure
from pipelines.reporting.page.modalities import modality_section, shown
from pipelines.reporting.tables import Table, at_least, at_most, number, probability, signed

_PACKAGE = "pipelines.reporting.page"
# The score job keeps more examples than a reader wants on a page; all are in examples.csv.
EXAMPLES_SHOWN = 12
_SEGMENT_CLASSES_SHOWN = 12
_CHANGED_CLASSES_SHOWN = 20
_PAIRS_SHOWN = 30


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything on the page; `figures` and `tables` are also saved as files."""

    html: str
    figures: list[Figure]
    tables: list[Table]
    verdict: Verdict | None


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that a report is made of.

    Attributes:
        scores: the run.
        manifests: info.json of its model and its data.
        baseline: the run to compare with.
        requirements: what the metrics must reach.
        chosen: classes whose curves are drawn.
        pairs: the pairs of classes confused most often, most frequent first.
        recommendations: what to do next.
        statistics: of predictions without labels, else None.
        dead_letters: the first rejected records.
        title: of the page.
        timelines: what the model says of the moments of single videos, where their files are at hand.
        sheets: by id of a video a few of its pictures, where its file is at hand.
        worth: what each modality is worth, where the run measured it.
        pairing: what the run and its baseline have in common, if there is one.
    """

    scores: Scores
    manifests: Manifests
    baseline: Scores | None
    requirements: Sequence[Requirement]
    chosen: Sequence[int]
    pairs: Sequence[ConfusedPair]
    recommendations: Sequence[Recommendation]
    statistics: PredictionStatistics | None
    dead_letters: Sequence[Mapping[str, Any]]
    title: str
    timelines: Sequence[Timeline] = ()
    sheets: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
    worth: ModalityWorth | None = None
    pairing: Pairing | None = None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a labelled run says, computed once for figures, tables and words.

    Attributes:
        estimates: its metrics with their intervals.
        against: their changes against the baseline, if there is one.
        by_class: changes of average precision by class, if there is one.
        verdict: the answer.
        overall: mean AP of the classes with positives.
        frequency, verticals: groups of classes.
    """

    estimates: Sequence[Estimate]
    against: Sequence[Change] | None
    by_class: ClassChanges | None
    verdict: Verdict
    overall: float
    frequency: Sequence[ClassGroup]
    verticals: Sequence[ClassGroup]


def _findings(inputs: Inputs) -> Findings:
    scores, baseline = inputs.scores, inputs.baseline
    measured = estimates(scores)
    against = changes(measured, estimates(baseline), inputs.pairing) if baseline else None
    by_class = class_changes(scores, baseline, inputs.pairing) if baseline else None
    ap = scores.columns["ap"]
    return Findings(
        measured,
        against,
        by_class,
        decide(scores, measured, against, by_class, inputs.requirements, pairing=inputs.pairing),
        float(np.nanmean(ap)) if np.isfinite(ap).any() else float("nan"),
        frequency_groups(scores),
        vertical_groups(scores),
    )


def assemble(inputs: Inputs) -> Report:
    """Draws the figures, fills the tables and renders the page."""
    if inputs.scores.labelled:
        return _labelled(inputs)
    return _unlabelled(inputs)


def _labelled(inputs: Inputs) -> Report:
    scores = inputs.scores
    found = _findings(inputs)
    drawn, sets = _figures(inputs, found)
    best, worst = best_and_worst(scores)
    best_rows = report_tables.class_rows(scores, best.classes)
    worst_rows = report_tables.class_rows(scores, worst.classes)
    examples = {kind: report_tables.example_rows(scores, entries) for kind, entries in scores.examples.items()}
    pairs = report_tables.pair_table(scores, inputs.pairs[:_PAIRS_SHOWN])
    models = report_tables.models_table(scores)
    slices = report_tables.slice_tables(scores)
    changed = Table("changed_classes", (), [])
    tables = [
        report_tables.headline_table(found.estimates, found.against),
        report_tables.class_table("best_classes", best_rows),
        report_tables.class_table("worst_classes", worst_rows),
        report_tables.group_table("frequency_groups", found.frequency),
        pairs,
        report_tables.per_class_table(scores, found.by_class),
        report_tables.recommendation_table(inputs.recommendations),
        *(recommendation.evidence for recommendation in inputs.recommendations),
        report_tables.examples_table(examples),
        *([models] if models else []),
        *slices,
    ]
    if found.verticals:
        tables.append(report_tables.group_table("verticals", found.verticals))
    senses = modality_section(scores, inputs.worth) if inputs.worth else None
    if senses is not None:
        tables += senses.tables
    segments = segment_rows(scores)
    if segments:
        tables.append(report_tables.segment_table(scores, "segments", segments))
    if inputs.baseline is not None and found.by_class is not None:
        changed = report_tables.changed_table(scores, inputs.baseline, found.by_class)
        tables.append(changed)
    context = {
        "verdict": found.verdict,
        "estimates": found.estimates,
        "against": found.against,
        "by_class": found.by_class,
        "baseline": inputs.baseline,
        "changed_table": dataclasses.replace(changed, name="changed", rows=changed.rows[:_CHANGED_CLASSES_SHOWN]),
        "changed_total": len(changed.rows),
        "pairing": inputs.pairing,
        "comparison": check_pairing(inputs.pairing) if inputs.pairing else None,
        "few_positives": FEW_POSITIVES,
        "models_table": models,
        "slice_tables": slices,
        "senses": senses,
        "shown": shown,
        "segment_best": report_tables.segment_table(scores, "segments_best", segments[:_SEGMENT_CLASSES_SHOWN]),
        "segment_worst": report_tables.segment_table(
            scores, "segments_worst", segments[_SEGMENT_CLASSES_SHOWN:][: -_SEGMENT_CLASSES_SHOWN - 1 : -1]
        ),
        "best_rows": best_rows,
        "worst_rows": worst_rows,
        "best_sure": best.sure,
        "worst_sure": worst.sure,
        "pair_table": pairs,
        "two_by_two": report_tables.two_by_two(scores, inputs.chosen),
        "pair_fraction": (scores.summary or {}).get("confusion_video_fraction", 1),
        "examples": {kind: entries[:EXAMPLES_SHOWN] for kind, entries in examples.items()},
        "figure": drawn,
        "sets": sets,
        "threshold_table": report_tables.threshold_table(scores),
        "thresholds_text": thresholds_text(scores),
        "data_json": to_json(explorer_data(scores, found.by_class, inputs.baseline)),
    }
    all_figures = [figure for figure in drawn.values() if figure] + [
        figure for group in sets.values() for figure in group
    ]
    all_figures += senses.figures if senses is not None else []
    return Report(_render(inputs, context), all_figures, tables, found.verdict)


def _figures(inputs: Inputs, found: Findings) -> tuple[dict[str, Figure | None], dict[str, list[Figure]]]:
    """Single figures and sets of figures, by their place on the page."""
    scores, baseline = inputs.scores, inputs.baseline
    changed = figures.changes_figure(scores, baseline, found.by_class) if baseline and found.by_class else None
    single = {
        "changes": changed,
        "frequency": figures.group_figure("frequency_groups", "Head, torso and tail", found.frequency, found.overall),
        "verticals": figures.group_figure("verticals", "Verticals", found.verticals, found.overall),
        "sizes": figures.size_figure(scores),
        "confusion": figures.confusion_figure(scores),
    }
    sets = {
        "curves": figures.curve_figures(scores, inputs.chosen),
        "thresholds": figures.threshold_figures(scores),
        "calibration": figures.calibration_figures(scores),
        "training": figures.training_figures(scores),
        "timelines": figures.timeline_figures(scores, inputs.timelines),
    }
    return single, sets


def _unlabelled(inputs: Inputs) -> Report:
    statistics, scores = inputs.statistics, inputs.scores
    drawn: list[Figure] = []
    tables: list[Table] = []
    frequent = Table("predicted_classes", ("Class", "Vertical", "Best class of", "Above the threshold"), [])
    if statistics is not None and statistics.videos:
        drawn.append(figures.prediction_figure(statistics))
        order = np.lexsort((-statistics.above, -statistics.first))
        rows = [
            [scores.name(i), scores.main_vertical(i), int(statistics.first[i]), int(statistics.above[i])]
            for i in order
            if statistics.first[i] or statistics.above[i]
        ]
        frequent = Table(frequent.name, frequent.columns, rows[:30])
        tables.append(Table(frequent.name, frequent.columns, rows))
    training, timelines = figures.training_figures(scores), figures.timeline_figures(scores, inputs.timelines)
    context = {
        "statistics": statistics,
        "frequent": frequent,
        "prediction_figures": drawn,
        "sets": {"training": training, "timelines": timelines},
        "verdict": None,
        "data_json": "",
    }
    return Report(_render(inputs, context), drawn + training + timelines, tables, None)


def picture_strip(pictures: Sequence[np.ndarray]) -> str:
    """Square RGB pictures side by side, as the address of a JPEG for `<img src>`."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(stream, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _render(inputs: Inputs, context: dict[str, Any]) -> str:
    from markupsafe import Markup

    environment = templates.environment(_PACKAGE)
    environment.filters["number"] = number
    environment.filters["signed"] = signed
    environment.filters["probability"] = probability
    environment.filters |= {"at_least": at_least, "at_most": at_most}
    environment.tests["class_name"] = lambda value: isinstance(value, ClassName)
    # The page's policy admits this one script, by its hash, and nothing from a network.
    script = templates.resource(_PACKAGE, "report.js") if context["data_json"] else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    manifests = {"Scores": inputs.scores.info, "Model": inputs.manifests.model, "Data": inputs.manifests.data}
    return environment.get_template("report.html").render(
        title=inputs.title,
        scores=inputs.scores,
        style=Markup(templates.resource(_PACKAGE, "report.css")),
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
        sheets={video_id: picture_strip(pictures) for video_id, pictures in inputs.sheets.items() if pictures},
        **{**context, "data_json": Markup(context["data_json"])},
    )
