"""Joins exported models into one that averages them, itself an exported model.

    python -m vcls_model.ensemble --model=DIR --model=DIR --output=DIR --data=DIR

Every member keeps its own transform graph, so that members may have been trained on differently transformed copies of
the same records.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcls_model.commands import DEFAULT, Parser, UsageError, main, parse_all, unknown_choice
from vcls_model.records.transformed import TransformedData, open_transformed
from vcls_model.saved_models import add_trust_argument
from vcls_model.serving.combining import COMBINATIONS

if TYPE_CHECKING:
    from vcls_model.training.joining import Member


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble.

    Attributes:
        models: directories of exported models.
        output: directory of the ensemble.
        data: transformed dataset on whose validation split the thresholds are chosen; empty leaves them out.
        combine: what is averaged: `probability` or `logit`.
        weights: one positive number per member; they are scaled to add to 1. Empty gives all the same weight.
        overwrite: replace what the output directory holds.
        trust_model: members may have any operations.
    """

    models: tuple[str, ...]
    output: str
    data: str = ""
    combine: str = "probability"
    weights: tuple[float, ...] = ()
    overwrite: bool = False
    trust_model: bool = False

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise UsageError("an ensemble joins two models or more: repeat --model")
        if self.combine not in COMBINATIONS:
            raise unknown_choice("combination", self.combine, COMBINATIONS)
        weights = self.weights or (1.0,) * len(self.models)
        if len(weights) != len(self.models) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise UsageError(f"--weights must be {len(self.models)} positive numbers, got {list(weights)}")
        object.__setattr__(self, "weights", tuple(weight / sum(weights) for weight in weights))


@dataclasses.dataclass(frozen=True)
class EnsemblePlan:
    """An ensemble whose members fit each other.

    Attributes:
        config: the ensemble.
        members: the models that it joins.
        data: the dataset to choose thresholds on, or None.
    """

    config: EnsembleConfig
    members: tuple["Member", ...]
    data: TransformedData | None


def make_parser() -> Parser:
    """The parser of the command's flags."""
    parser = Parser(
        prog="python -m vcls_model.ensemble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", action="append", default=[], metavar="DIR", help="exported model; give two or more")
    add("--output", required=True, metavar="DIR", help="directory for the ensemble")
    add(
        "--data",
        default="",
        metavar="DIR",
        help="transformed dataset on whose validation split the thresholds are chosen",
    )
    add(
        "--combine",
        default="probability",
        metavar="NAME",
        help=f"what is averaged: one of {', '.join(COMBINATIONS)} {DEFAULT}",
    )
    add(
        "--weights",
        default="",
        metavar="X,...",
        help="one weight per model, for example 2,1,1 (default: equal weights)",
    )
    add("--overwrite", action="store_true", help="replace the contents of the output directory")
    add_trust_argument(parser)
    return parser


def parse_config(argv: Sequence[str] | None) -> EnsembleConfig:
    """Reads a command line.

    Raises:
        UsageError: fewer than two members, or weights that do not fit them.
    """
    args = parse_all(make_parser(), argv)
    try:
        weights = tuple(float(part) for part in args.weights.split(",") if args.weights)
    except ValueError:
        raise UsageError(f"--weights must be numbers like 2,1,1, got {args.weights!r}") from None
    return EnsembleConfig(
        tuple(args.model), args.output, args.data, args.combine, weights, args.overwrite, args.trust_model
    )


def make_plan(config: EnsembleConfig) -> EnsemblePlan:
    """Starts TensorFlow, loads the members and checks the output directory.

    Raises:
        UsageError: a member is not an exported model, their records, classes or splits differ, or `data` is not what
            they were trained on.
    """
    from vcls_model.quiet import start_tensorflow

    start_tensorflow()
    from vcls_model import storage
    from vcls_model.training.joining import check_data, load_members

    inputs = [*config.models, config.data]
    storage.check_output(config.output, resume=False, overwrite=config.overwrite, inputs=inputs)
    members = load_members(config.models, trusted=config.trust_model)
    data = open_transformed(config.data) if config.data else None
    if data is not None:
        check_data(members, data)
    return EnsemblePlan(config, members, data)


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Writes the ensemble; returns the content of its `info.json`.

    Raises:
        UsageError: a member is not an exported model, or they do not fit each other or the data.
    """
    plan = make_plan(parse_config(argv))
    from vcls_model.locks import locked_output
    from vcls_model.training.joining import join_members

    config = plan.config
    with locked_output(config.output, "ensemble", take_over=config.overwrite):
        return join_members(plan.members, plan.data, config.output, config.weights, config.combine, config.overwrite)


if __name__ == "__main__":
    main(run)
