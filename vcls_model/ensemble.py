"""Joins exported models into one that averages them, itself an exported model.

    python -m vcls_model.ensemble --model=DIR --model=DIR --output=DIR --data=DIR

Every member keeps its own transform graph, so that members may have been trained on differently transformed copies of
the same records.

    python -m vcls_model.ensemble --recipe=best --data=DIR --output=DIR

trains the members first, into `members/` of the output directory; --resume continues where it was interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vcls_model import output_directories, storage
from vcls_model.commands import DEFAULT, Parser, UsageError, main, parse_all
from vcls_model.records.transformed import open_transformed
from vcls_model.saved_models import add_trust_argument
from vcls_model.serving.combining import COMBINATIONS
from vcls_model.train import make_plan as plan_training
from vcls_model.train import train
from vcls_model.training.flags import parse_config as parse_training
from vcls_model.training.members import EnsembleConfig, EnsemblePlan, member_flags


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(
        prog="python -m vcls_model.ensemble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    combinations, add = ", ".join(COMBINATIONS), parser.add_argument
    joined = f"best: train the members on --data; none: join those of --model {DEFAULT}"
    chosen_on = "transformed dataset on whose validation split the thresholds are chosen"
    add("--model", action="append", default=[], metavar="DIR", help="exported model; give two or more")
    add("--recipe", default="none", metavar="NAME", help=joined)
    add("--resume", action="store_true", help="continue an interrupted --recipe=best")
    add("--output", required=True, metavar="DIR", help="directory for the ensemble")
    add("--data", default="", metavar="DIR", help=chosen_on)
    add("--combine", default="probability", metavar="NAME", help=f"what is averaged: one of {combinations} {DEFAULT}")
    add("--weights", default="", metavar="X,...", help="one per model, for example 2,1,1 (default: equal weights)")
    add("--overwrite", action="store_true", help="replace the contents of the output directory")
    add_trust_argument(parser)
    return parser


def parse_config(argv: Sequence[str] | None) -> EnsembleConfig:
    """Reads a command line.

    Raises:
        UsageError: fewer than two members, weights that do not fit them, or members and a recipe for them.
        JobError: the recipe's data are not a transformed dataset.
    """
    args = parse_all(make_parser(), argv)
    try:
        weights = tuple(float(part) for part in args.weights.split(",") if args.weights)
    except ValueError:
        raise UsageError(f"--weights must be numbers like 2,1,1, got {args.weights!r}") from None
    models = tuple(args.model)
    if args.recipe == "best":
        if models or not args.data:
            raise UsageError("--recipe=best trains the members: it needs --data, and no --model")
        models = tuple(flags["output"] for flags in member_flags(open_transformed(args.data), args.output).values())
    rest = (args.overwrite, args.recipe, args.resume, args.trust_model)
    return EnsembleConfig(models, args.output, args.data, args.combine, weights, *rest)


def train_members(config: EnsembleConfig) -> None:
    """Trains the members of the recipe that are not finished.

    Raises:
        UsageError, JobError: see `vcls_model.train.run`.
    """
    from vcls_model.quiet import start_tensorflow

    start_tensorflow()
    from vcls_model.training.outputs import result_text

    output_directories.check_output(
        config.output, resume=config.resume, overwrite=config.overwrite, inputs=[config.data]
    )
    if config.overwrite:
        storage.empty_directory(config.output)
    members = member_flags(open_transformed(config.data), config.output)
    trust = ["--trust_model"] if config.trust_model else []
    for number, (name, flags) in enumerate(members.items(), start=1):
        print(f"member {number} of {len(members)}: {name}", file=sys.stderr, flush=True)
        given = [f"--{key}={value}" for key, value in flags.items()]
        info = train(plan_training(parse_training([*given, *trust, "--resume"])))
        print(f"member {name}: {result_text(info, flags['output'])}", file=sys.stderr, flush=True)


def make_plan(config: EnsembleConfig) -> EnsemblePlan:
    """Looks at the members and the data, starts TensorFlow, loads the members and checks the output directory.

    Raises:
        UsageError: a member is not an exported model, their records, classes or splits differ, or `data` is not what
            they were trained on.
    """
    from vcls_model.quiet import start_tensorflow
    from vcls_model.serving.exported import read_model_info

    # What is wrong with them is said at once: TensorFlow takes seconds to start.
    for path in config.models:
        read_model_info(path)
    data = open_transformed(config.data) if config.data else None
    if data is not None:
        data.check_shards(("validate",))
    start_tensorflow()
    from vcls_model.training.joining import check_data, load_members

    if config.recipe == "none":
        inputs = [*config.models, config.data]
        output_directories.check_output(config.output, resume=False, overwrite=config.overwrite, inputs=inputs)
    members = load_members(config.models, trusted=config.trust_model)
    if data is not None:
        check_data(members, data)
    return EnsemblePlan(config, members, data)


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Writes the ensemble; returns the content of its `info.json`.

    Raises:
        UsageError: a member is not an exported model, or they do not fit each other or the data.
    """
    config = parse_config(argv)
    from vcls_model.locks import locked_output

    with locked_output(config.output, "ensemble", take_over=config.resume or config.overwrite):
        if config.recipe == "best":
            train_members(config)
        plan = make_plan(config)
        from vcls_model.training.joining import join_members

        overwrite = config.overwrite and config.recipe == "none"  # the members lie inside
        return join_members(plan.members, plan.data, config.output, config.weights, config.combine, overwrite)


if __name__ == "__main__":
    main(run)
