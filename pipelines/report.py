"""`python -m pipelines.report`: turns a Scores directory into one self-contained page, its figures and its tables."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from vcls_model import __version__, storage
from vcls_model.commands import Parser, UsageError, main, parse_all, spare_inputs


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m pipelines.report",
        description="Writes report.html (opens from disk, needs no network), figures/ (PNG, SVG and the numbers behind "
        "each), tables/ (CSV) and info.json.",
    )
    parser.add_argument("--scores", required=True, help="directory that pipelines.score wrote")
    parser.add_argument("--output", required=True, help="directory to write; must be empty or absent")
    parser.add_argument(
        "--model", help="exported model directory; by default the manifest kept with the scores is read"
    )
    parser.add_argument("--data", help="transformed data set directory, for its counts and settings")
    parser.add_argument("--baseline", help="Scores directory of a previous run to compare with, same vocabulary")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="METRIC=NUMBER",
        help="a bar the model must reach, e.g. gap_at_20=0.7; may be repeated",
    )
    parser.add_argument(
        "--classes",
        default="",
        help="names or indices, separated by commas, of up to four classes whose "
        "curves to draw (default: a frequent, a middling and a weak one)",
    )
    parser.add_argument("--title", default="", help="title of the page")
    parser.add_argument("--overwrite", action="store_true", help="replace what the output directory holds")
    return parser


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Makes the report and returns the content of its `info.json`.

    Raises:
        UsageError: the command line asks for something that cannot be.
        JobError: a directory is absent, half written, or does not fit the others.
    """
    args = parse_all(_parser(), argv)
    started = time.monotonic()
    # Imported here: numpy, matplotlib and Jinja2 are not needed for --help.
    from pipelines.reporting import job
    from pipelines.reporting.findings.analysis import Requirement

    requirements = [Requirement.parse(text) for text in args.require]
    wanted = [name.strip() for name in args.classes.split(",") if name.strip()]
    if len(wanted) > 4:
        raise UsageError(f"--classes draws at most four classes, got {len(wanted)}")
    spare_inputs(args.output, [args.scores, args.model, args.data, args.baseline])
    if not args.overwrite:
        storage.prepare_output(args.output, resume=False, overwrite=False, resumable=False)
    report, facts = job.build(
        scores_path=args.scores,
        model_path=args.model,
        data_path=args.data,
        baseline_path=args.baseline,
        requirements=requirements,
        wanted_classes=wanted,
        title=args.title,
    )
    if args.overwrite:  # only now, so that a report that cannot be made leaves the old one
        storage.prepare_output(args.output, resume=False, overwrite=True)
    page = job.write(report, args.output)
    info = {
        "job": "report",
        "report": "report.html",
        "report_bytes": len(page),
        **facts,
        "figures": [figure.name for figure in report.figures],
        "tables": [table.name for table in report.tables],
        "config": {key: value for key, value in vars(args).items() if key != "overwrite"},
        "versions": {"project": __version__},
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    storage.write_json(storage.join(args.output, "info.json"), info)
    print(f"report: {storage.join(args.output, 'report.html')}")
    return info


if __name__ == "__main__":
    main(run)
