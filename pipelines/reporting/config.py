"""What a report is made from."""

import argparse
import dataclasses
from typing import Any

from pipelines.reporting.findings.verdict import Requirement
from vcls_model.commands import UsageError


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The flags of `pipelines.report`, checked.

    Attributes:
        scores: directory that `pipelines.score` wrote.
        output: directory to write.
        model: exported model directory, or None for the manifest kept with the scores.
        data: transformed dataset directory, or None.
        media: pattern of the media files of the scored videos, or None.
        baseline: scores directory of a previous run, or None.
        requirements: values that metrics must reach.
        classes: names or indices of the classes whose curves are drawn; () chooses them.
        title: title of the page; "" makes one.
        overwrite: whether to replace what the output holds.
        trust_model: a SavedModel may have any operations.
        flags: as given, for info.json.
    """

    scores: str
    output: str
    model: str | None
    data: str | None
    media: str | None
    baseline: str | None
    requirements: tuple[Requirement, ...]
    classes: tuple[str, ...]
    title: str
    overwrite: bool
    trust_model: bool
    flags: dict[str, Any]


def plan(args: argparse.Namespace) -> ReportConfig:
    """Checks the flags.

    Raises:
        UsageError: a requirement cannot be read, or there are too many classes.
    """
    classes = tuple(name.strip() for name in args.classes.split(",") if name.strip())
    if len(classes) > 4:  # as many as the colours of the curves tell apart
        raise UsageError(f"--classes draws at most four classes, got {len(classes)}")
    return ReportConfig(
        args.scores,
        args.output,
        args.model,
        args.data,
        args.media,
        args.baseline,
        tuple(Requirement.parse(text) for text in args.require),
        classes,
        args.title,
        args.overwrite,
        args.trust_model,
        {key: value for key, value in vars(args).items() if key != "overwrite"},
    )
