"""`python -m pipelines.report`: turns a Scores directory into one self-contained page, its figures and its tables."""

import argparse
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from vcls_model import output_directories, storage
from vcls_model.commands import Parser, main, parse_all
from vcls_model.saved_models import add_trust_argument


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = Parser(
        prog="python -m pipelines.report",
        description="Writes report.html (one file, readable offline), figures/ (PNG, SVG and the numbers behind each), "
        "tables/ (CSV) and info.json.",
    )
    parser.add_argument("--scores", required=True, metavar="DIR", help="directory that pipelines.score wrote")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--model", metavar="DIR", help="exported model (default: what the scores say of it)")
    parser.add_argument("--data", metavar="DIR", help="transformed dataset, for its counts and settings")
    parser.add_argument(
        "--media",
        metavar="GLOB",
        help="video and sound files of the scored videos, to show pictures of the examples and what the model says "
        "over time (default: the files that were scored, where they were media)",
    )
    parser.add_argument(
        "--baseline", metavar="DIR", help="scores of a previous run with the same vocabulary, to compare with"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="METRIC=NUMBER",
        help="requirement that the model must meet, such as gap_at_20=0.7 (repeatable)",
    )
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAME,...",
        help="names or indices, separated by commas, of up to four classes "
        "to draw curves of (default: a frequent, a median and a weak one)",
    )
    parser.add_argument(
        "--title", default="", metavar="TEXT", help="title of the page (default: made from model and data)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output directory")
    add_trust_argument(parser)
    return parser


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Makes the report and returns the content of its `info.json`.

    Raises:
        UsageError: a flag is wrong.
        JobError: a directory is absent, half written, or does not fit the others.
    """
    started = time.monotonic()
    args = parse_all(make_parser(), argv)
    # Imported here: numpy, matplotlib and Jinja2 are not needed for --help.
    from pipelines.reporting import job
    from pipelines.reporting.config import plan
    from vcls_model.locks import locked_output

    config = plan(args)
    output_directories.forbid_inputs_inside_output(
        config.output, [config.scores, config.model, config.data, config.baseline]
    )
    with locked_output(config.output, "report", take_over=config.overwrite):
        if not config.overwrite:
            output_directories.prepare_output(config.output, resume=False, overwrite=False, resumable=False)
        report, facts = job.build(config)
        if config.overwrite:  # only now, so that a report that cannot be made leaves the old one
            output_directories.prepare_output(config.output, resume=False, overwrite=True)
        info = job.write(report, facts, config, started)
    print(f"report: {storage.join(config.output, 'report.html')}")
    return info


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
