"""Scores raw records with exported models: writes the best classes of each record, and metrics where there are labels.

python -m pipelines.score --input='sample/*.tfrecord' --model=model --output=scores
"""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.running.runners import (
    add_runner_argument,
    check_runner,
    parse_arguments,
    pipeline_options,
    worker_count,
)
from pipelines.scoring.config import FRAME_BATCH_RECORDS, FULL_LOGITS, PREDICTION_FORMATS, VIDEO_BATCH_RECORDS
from vcls_model.commands import Parser, main
from vcls_model.records.splits import SPLITS

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.scoring.config import ScoringConfig
    from pipelines.scoring.planning import Group

_DEFAULT = "(default: %(default)s)"


def make_parser() -> argparse.ArgumentParser:
    """The flags; all others go to Beam."""
    parser = Parser(prog="python -m pipelines.score", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--input",
        required=True,
        metavar="GLOB",
        help="shards of raw records, or media files where the model's data were made from such; separate several globs "
        "by commas",
    )
    add("--model", required=True, action="append", metavar="DIR", help="exported model; repeat to average several")
    add("--output", required=True, metavar="DIR", help="scores directory to write")
    add("--split", choices=SPLITS, help="score only the ids in this split of the model's dataset (default: all)")
    schema_help = f"layout of the records: auto, a built-in name or a schema file {_DEFAULT}"
    add("--schema", default="auto", metavar="NAME", help=schema_help)
    add("--top_k", type=int, default=20, metavar="N", help=f"number of top classes to keep per record {_DEFAULT}")
    add(
        "--min_probability",
        type=float,
        default=0,
        metavar="P",
        help=f"omit less probable classes from the predictions; metrics count all classes {_DEFAULT}",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help=f"minimum probability of a predicted class in precision, recall and F1 {_DEFAULT}",
    )
    add(
        "--thresholds",
        metavar="DIR",
        help="use the per-class best-F1 thresholds in this scores directory (default: the model's own; none for an "
        "average of models)",
    )
    add(
        "--slice_by",
        default="",
        metavar="NAME,...",
        help="context features, such as an upload year: metrics.json has metrics for each of their values, at most 64 "
        "per feature (default: none)",
    )
    add("--format", choices=PREDICTION_FORMATS, default="parquet", help=f"file format of the predictions {_DEFAULT}")
    add(
        "--full_logits",
        nargs="?",
        const="float32",
        default="none",
        choices=FULL_LOGITS,
        help=f"also write all logits to logits/*.parquet; without a value, as float32 {_DEFAULT}",
    )
    add("--max_frames", type=int, default=300, metavar="N", help=f"keep at most this many frames per video {_DEFAULT}")
    add(
        "--missing_modality",
        choices=("reject", "fill"),
        default="reject",
        help=f"what to do with a record that lacks a modality {_DEFAULT}",
    )
    add(
        "--batch_size",
        type=int,
        metavar="N",
        help=f"records per batch (default: {VIDEO_BATCH_RECORDS}, or {FRAME_BATCH_RECORDS} when they hold frames)",
    )
    add(
        "--run_id",
        metavar="NAME",
        help="name of a scheduled run; only shards that are not yet in --output are scored, so repeated calls are safe",
    )
    for medium in ("image", "audio"):
        encoder_help = f"path of the {medium} encoder of the model's data, where it is not known by name"
        add(f"--{medium}_encoder", metavar="PATH", help=f"{encoder_help} (media files only)")
    add(
        "--seconds_per_minute",
        type=float,
        default=60.0,
        metavar="S",
        help=f"time to wait for the decoder per minute of media (media files only) {_DEFAULT}",
    )
    add(
        "--memory_mb",
        type=int,
        default=1024,
        metavar="N",
        help=f"memory that the decoder of a file may use, in MiB (media files only) {_DEFAULT}",
    )
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--overwrite", action="store_true", help="replace what is in the output directory")
    add(
        "--max_rejected_fraction",
        type=float,
        default=0.01,
        metavar="F",
        help=f"fail if a larger fraction of the records is rejected {_DEFAULT}",
    )
    add("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    add_runner_argument(parser)
    return parser


def build_pipeline(pipeline: "beam.Pipeline", groups: "Sequence[Group]", config: "ScoringConfig") -> None:
    """Adds the job to `pipeline`: spread the groups of shards over the workers, and score each."""
    import apache_beam as beam

    from pipelines.scoring.steps import ScoreGroups

    _ = (
        pipeline
        | "ListGroups" >> beam.Create(groups, reshuffle=False)
        | "SpreadGroups" >> beam.Reshuffle()
        | "ScoreGroups" >> ScoreGroups(config)
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; returns the content of its `info.json` (of the plan, with `--dry_run`).

    Raises:
        UsageError: the command line or the input is not usable.
        JobError: too many records were rejected, or stored results are damaged.
    """
    started = time.monotonic()
    parser = make_parser()
    args, beam_argv = parse_arguments(parser, argv)
    options = pipeline_options(parser, args.runner, beam_argv)

    from pipelines.scoring.execution import running_groups
    from pipelines.scoring.outputs import finish, open_scores
    from pipelines.scoring.planning import make_plan

    plan = make_plan(args)
    if not args.dry_run:
        check_runner(options)  # before --overwrite deletes anything
    groups = plan.groups(open_scores(plan, dry_run=args.dry_run), worker_count(options))
    if args.dry_run:
        print(plan.describe(groups))
        return plan.summary(groups)
    if groups:
        with running_groups(plan.config.output, groups, options) as pipeline:
            build_pipeline(pipeline, groups, plan.config)
    return finish(plan, started)


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
