"""Searches hyperparameters with KerasTuner: each trial is a training run, and leaves an exported model.

    python -m vcls_model.tune --data=DIR --output=DIR --model=dense --trials=10 \\
        --search='learning_rate=log:1e-4:1e-2' --search='hidden_units=choice:512:1024:2048'

All other flags are those of `python -m vcls_model.train`. Trials are compared by validation mAP.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcls_model.commands import DEFAULT, JobError, Parser, UsageError, main
from vcls_model.train import make_plan, train
from vcls_model.training.flags import parse_config
from vcls_model.training.search import (
    KINDS,
    OBJECTIVE,
    STRATEGIES,
    Dimension,
    TuneConfig,
    open_search,
    plan_dimensions,
    search,
)

if TYPE_CHECKING:
    import keras_tuner


def make_parser() -> Parser:
    """The parser of the search's own flags."""
    parser = Parser(
        prog="python -m vcls_model.tune",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="directory for the search")
    add(
        "--search",
        action="append",
        default=[],
        metavar="FLAG=KIND:…",
        help=f"a flag to search (repeatable); kinds: {', '.join(KINDS)}",
    )
    add("--trials", type=int, default=10, help=f"largest number of training runs {DEFAULT}")
    add("--strategy", default="random", metavar="NAME", help=f"one of {', '.join(STRATEGIES)} {DEFAULT}")
    add("--seed", type=int, default=0, help=f"random seed of the search and of every training run {DEFAULT}")
    add("--resume", action="store_true", help="continue an interrupted search")
    add("--overwrite", action="store_true", help="replace the contents of the output directory")
    return parser


def parse_tune_config(argv: Sequence[str] | None) -> TuneConfig:
    """Reads a command line.

    Raises:
        UsageError: nothing to search, or an argument that neither the search nor training knows.
    """
    args, rest = make_parser().parse_known_args(argv)
    if not args.search:
        raise UsageError("nothing to search: give --search=FLAG=KIND:… at least once")
    fixed = (*rest, f"--seed={args.seed}")
    dimensions, training = plan_dimensions([Dimension.parse(text) for text in args.search], fixed, args.output)
    return TuneConfig(
        args.output, dimensions, args.trials, args.strategy, args.seed, fixed, args.resume, args.overwrite, training
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Searches; returns the content of the search's `info.json`.

    Raises:
        UsageError, JobError: the flags do not fit each other or the data; every trial failed.
    """
    config = parse_tune_config(argv)
    from vcls_model.quiet import quiet_start_up, start_tensorflow
    from vcls_model.records.transformed import open_transformed

    # What is wrong with the data is said at once: TensorFlow takes seconds to start.
    open_transformed(config.training.data).check_shards()
    start_tensorflow()
    with quiet_start_up():
        import keras_tuner

    from vcls_model import storage
    from vcls_model.locks import locked_output
    from vcls_model.training.outputs import result_text

    failures: list[str] = []

    def score(trial: str, flags: Sequence[str]) -> float:
        print(f"trial {trial}: {' '.join(flags)}", file=sys.stderr, flush=True)
        output = storage.join(config.output, "trials", trial)
        try:
            info = train(make_plan(parse_config([*config.fixed, *flags, f"--output={output}", "--resume"])))
        except (JobError, UsageError) as error:  # a learning rate at which training diverges, sizes that do not fit
            failures.append(str(error))
            print(f"trial {trial} failed: {error}", file=sys.stderr, flush=True)
            raise keras_tuner.errors.FailedTrialError(str(error)) from None
        print(f"trial {trial}: {result_text(info, output)}", file=sys.stderr, flush=True)
        if "map" not in info["training"]["validation"]:
            raise keras_tuner.errors.FatalError("no validation video has a label")
        return float(info["training"]["validation"]["map"])

    with locked_output(config.output, "tune", take_over=config.resume or config.overwrite):
        open_search(config)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the search library shows its progress
                trials = search(config, score)
        except keras_tuner.errors.FatalError as error:
            raise JobError(f"trials cannot be compared: {error}") from None
        if not trials:
            raise JobError(f"every trial failed; the last: {failures[-1] if failures else 'see search/'}")
        return finish(config, trials)


def finish(config: TuneConfig, trials: Sequence["keras_tuner.engine.trial.Trial"]) -> dict[str, Any]:
    """Writes and prints the best trial, which is the first; returns the content of the search's `info.json`."""
    from vcls_model import storage

    ranked = [
        {"trial": trial.trial_id, OBJECTIVE: trial.score, "flags": dict(trial.hyperparameters.values)}
        for trial in trials
    ]
    best = {**ranked[0], "path": storage.join(config.output, "trials", trials[0].trial_id)}
    info = {"best": best, "trials": ranked, "config": {**config.facts(), "trials": config.trials}}
    storage.write_json(storage.join(config.output, "info.json"), info)
    print(
        f"best of {len(trials)} trials: {storage.to_json(best['flags'])}, validation map {best[OBJECTIVE]:.4f}; "
        f"model in {best['path']}"
    )
    return info


if __name__ == "__main__":
    main(run)
