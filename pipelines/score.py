"""Scores raw records with exported models: writes the best classes of each record, and metrics where there are labels.

python -m pipelines.score --input='sample/*.tfrecord' --model=model --output=scores
"""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.running.flags import check_input_names
from pipelines.running.runners import add_runner_argument, parse_arguments, pipeline_options, worker_count
from pipelines.scoring.flags import add_flags
from vcls_model.commands import Parser, first_line, main

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.scoring.config import ScoringConfig
    from pipelines.scoring.planning import Group


def make_parser() -> argparse.ArgumentParser:
    """The flags; all others go to Beam."""
    parser = Parser(
        prog="python -m pipelines.score",
        description=first_line(__doc__),
        epilog="Other flags are Beam's. On this machine, one thread per core takes a group of shards at a time; "
        "--direct_num_workers=N changes the number of threads.",
    )
    add_flags(parser)
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
    check_input_names(args)
    options = pipeline_options(parser, args.runner, beam_argv)

    from pipelines.running.reach import check_job, runner_text
    from pipelines.scoring.execution import running_groups
    from pipelines.scoring.outputs import finish, open_scores
    from pipelines.scoring.planning import make_plan
    from vcls_model.locks import locked_output

    check_job(options, args)
    plan = make_plan(args)
    if args.dry_run:
        groups = plan.groups(open_scores(plan, dry_run=True), worker_count(options))
        print(plan.describe(groups), runner_text(options), sep="\n")
        return plan.summary(groups)
    with locked_output(plan.config.output, "score", take_over=plan.resume or plan.overwrite):
        groups = plan.groups(open_scores(plan, dry_run=False), worker_count(options))
        if groups:
            with running_groups(plan.config.output, groups, options) as pipeline:
                build_pipeline(pipeline, groups, plan.config)
        return finish(plan, started)


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
