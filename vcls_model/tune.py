"""Searches hyperparameters with KerasTuner: each trial is a training run, and leaves an exported model.

    python -m vcls_model.tune --data=DIR --output=DIR --model=dense --trials=10 \\
        --search='learning_rate=log:1e-4:1e-2' --search='hidden_units=choice:512:1024:2048'

What is not searched is given as for `python -m vcls_model.train`. Trials are compared by validation mAP.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from vcls_model.commands import JobError, Parser, UsageError, main, unknown_choice
from vcls_model.metrics.catalogue import SELECTION_METRIC, history_column
from vcls_model.train import SWITCHES, TrainConfig, parse_config, train

KINDS = ("choice", "float", "int", "log")
STRATEGIES = ("bayesian", "grid", "random")
OBJECTIVE = history_column(SELECTION_METRIC)


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One searched flag.

    Attributes:
        flag: name without dashes: a flag of training or a hyperparameter of the model.
        kind: `choice` of values, `int` or `float` between two ends, `log` between two ends on a logarithmic scale.
        values: the choices as text, or the two ends.
        whole: `log` draws whole numbers.
    """

    flag: str
    kind: str
    values: tuple[str, ...]
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> "Dimension":
        """Reads `learning_rate=log:1e-4:1e-2`.

        Raises:
            UsageError: it is not of that form.
        """
        flag, equals, rest = text.partition("=")
        kind, *values = rest.split(":")
        form = "--search must be like learning_rate=log:1e-4:1e-2 or hidden_units=choice:512:1024"
        if not equals or not flag or not values:
            raise UsageError(f"{form}, got {text!r}")
        if kind not in KINDS:
            raise unknown_choice("kind of search", kind, KINDS)
        if kind != "choice":
            try:
                low, high = (float(value) for value in values)
            except ValueError:
                raise UsageError(f"{form}, got {text!r}") from None
            if not low < high or (kind == "log" and low <= 0):
                raise UsageError(f"--search={text}: the ends must rise{' and be positive' if kind == 'log' else ''}")
        return cls(flag.removeprefix("--"), kind, tuple(values))

    def draw(self, hyperparameters: Any) -> str:
        """Asks KerasTuner for a value, as text for a command line."""
        if self.kind == "choice":
            return str(hyperparameters.Choice(self.flag, list(self.values)))
        low, high = (float(value) for value in self.values)
        sampling = "log" if self.kind == "log" else "linear"
        if self.kind == "int" or self.whole:
            return str(hyperparameters.Int(self.flag, int(low), int(high), sampling=sampling))
        return repr(float(hyperparameters.Float(self.flag, low, high, sampling=sampling)))


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """A search.

    Attributes:
        output: directory; each trial's model goes to `trials/`.
        dimensions: what is searched.
        trials: most training runs.
        strategy: `random`, `bayesian` or `grid`.
        seed: of the search.
        fixed: the other arguments of each training run.
        resume: continue a search that was stopped.
        overwrite: replace what the output directory holds.
        training: the run that the first value of every dimension makes.
    """

    output: str
    dimensions: tuple[Dimension, ...]
    trials: int
    strategy: str
    seed: int
    fixed: tuple[str, ...]
    resume: bool
    overwrite: bool
    training: TrainConfig

    def facts(self) -> dict[str, Any]:
        """What decides the result: a search of others must not be continued."""
        return {
            "search": [
                dataclasses.asdict(dimension) | {"values": list(dimension.values)} for dimension in self.dimensions
            ],
            "strategy": self.strategy,
            "seed": self.seed,
            "fixed": list(self.fixed),
        }


def parse_tune_config(argv: Sequence[str] | None) -> TuneConfig:
    """Reads a command line.

    Raises:
        UsageError: nothing to search, or an argument that neither the search nor training knows.
    """
    parser = Parser(
        prog="python -m vcls_model.tune",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, help="directory for the search")
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="FLAG=KIND:…",
        help=f"a flag to search; kinds: {', '.join(KINDS)}; repeat for several",
    )
    parser.add_argument("--trials", type=int, default=10, help="most training runs (default 10)")
    parser.add_argument("--strategy", default="random", help=f"one of {', '.join(STRATEGIES)} (default random)")
    parser.add_argument("--seed", type=int, default=0, help="of the search and of every training run")
    parser.add_argument("--resume", action="store_true", help="continue a search that was stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace what the output directory holds")
    args, rest = parser.parse_known_args(argv)
    if not args.search:
        raise UsageError("nothing to search: give --search=FLAG=KIND:… at least once")
    if args.strategy not in STRATEGIES:
        raise unknown_choice("strategy", args.strategy, STRATEGIES)
    if args.trials < 1:
        raise UsageError(f"trials must be positive, got {args.trials}")
    dimensions = tuple(Dimension.parse(text) for text in args.search)
    flags = [dimension.flag for dimension in dimensions]
    if len(set(flags)) != len(flags):
        raise UsageError(f"--search names a flag twice: {', '.join(flags)}")
    fixed = (*rest, f"--seed={args.seed}")
    # Every value goes through training's own parser now, not when its trial starts.
    first = {dimension.flag: dimension.values[0] for dimension in dimensions}

    def configured(flag: str, value: str) -> TrainConfig:
        flags = [_flag(name, chosen) for name, chosen in (first | {flag: value}).items()]
        return parse_config([*fixed, f"--output={args.output}", *filter(None, flags)])

    for dimension in dimensions:
        for value in dimension.values:
            training = configured(dimension.flag, value)
    dimensions = tuple(_whole_where_needed(dimension, configured) for dimension in dimensions)
    if len(training.devices) > 1 or training.distribution in ("mirrored", "multi_worker"):
        raise UsageError(
            "trials run one after the other in this process, on one device: leave out --distribution and --devices"
        )
    return TuneConfig(
        args.output, dimensions, args.trials, args.strategy, args.seed, fixed, args.resume, args.overwrite, training
    )


def _whole_where_needed(dimension: Dimension, configured: Callable[[str, str], TrainConfig]) -> Dimension:
    """The dimension, of whole numbers where training takes no others: the ends alone do not tell.

    Raises:
        UsageError: `float` is searched where only whole numbers will do.
    """
    if dimension.kind not in ("float", "log"):
        return dimension
    low, high = (float(value) for value in dimension.values)
    try:
        configured(dimension.flag, repr(low + (high - low) / 3 + 0.01 * min(1.0, high - low)))
    except UsageError:
        if dimension.kind == "log" and low.is_integer() and high.is_integer():
            return dataclasses.replace(dimension, whole=True)
        raise UsageError(
            f"--search={dimension.flag}={dimension.kind}:{':'.join(dimension.values)}: training takes "
            "whole numbers only, which int draws, or log between whole numbers"
        ) from None
    return dimension


def _flag(name: str, value: str) -> str:
    """A flag of training with its value; "" for a switch that is off."""
    if name not in SWITCHES:
        return f"--{name}={value}"
    if value not in ("true", "false"):
        raise UsageError(f"--{name} is a switch: search it by choice:true:false, got {value!r}")
    return f"--{name}" if value == "true" else ""


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Searches; returns the content of the search's `info.json`.

    Raises:
        UsageError: the flags do not fit each other or the data.
        JobError: every trial failed.
    """
    config = parse_tune_config(argv)
    from vcls_model.quiet import quiet_start_up, start_tensorflow

    start_tensorflow()
    with quiet_start_up():
        import keras_tuner

    from vcls_model import storage
    from vcls_model.records.transformed import open_transformed

    training = config.training
    if not open_transformed(training.data).records.get("validate", 0):
        raise UsageError(f"trials are compared by validation mAP, but {training.data} has no validation split")
    storage.check_output(
        config.output,
        resume=config.resume,
        overwrite=config.overwrite,
        inputs=[training.data, training.init_from, *training.teachers],
    )
    if config.overwrite:
        storage.empty_directory(config.output)
    begun = storage.join(config.output, "search.json")
    if storage.exists(begun) and storage.read_json(begun) != config.facts():
        raise UsageError(
            f"--resume: {config.output} holds a search with other flags; repeat them, or start again with --overwrite"
        )
    storage.write_json(begun, config.facts())
    oracles = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "grid": keras_tuner.oracles.GridSearchOracle,
    }
    objective = keras_tuner.Objective(OBJECTIVE, "max")
    space = keras_tuner.HyperParameters()
    for dimension in config.dimensions:
        dimension.draw(space)
    oracle = oracles[config.strategy](
        objective=objective,
        max_trials=config.trials,
        seed=config.seed,
        hyperparameters=space,
        tune_new_entries=False,
        max_consecutive_failed_trials=config.trials + 1,
    )
    failures: list[str] = []

    class TrainingTuner(keras_tuner.engine.base_tuner.BaseTuner):
        """Runs `vcls_model.train` for each trial."""

        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            drawn = [_flag(dimension.flag, dimension.draw(trial.hyperparameters)) for dimension in config.dimensions]
            chosen = [flag for flag in drawn if flag]
            directory = storage.join(config.output, "trials", trial.trial_id)
            print(f"trial {trial.trial_id}: {' '.join(chosen)}", flush=True)
            try:
                info = train(parse_config([*config.fixed, *chosen, f"--output={directory}", "--resume"]))
            except (JobError, UsageError) as error:  # a rate at which training diverges, sizes that do not fit
                failures.append(str(error))
                print(f"trial {trial.trial_id} failed: {error}", flush=True)
                raise keras_tuner.errors.FailedTrialError(str(error)) from None
            validation = info["training"]["validation"]
            if "map" not in validation:
                raise keras_tuner.errors.FatalError("no validation video has a label")
            return {OBJECTIVE: float(validation["map"])}

        def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
            """A trial's model is on disk already."""

        def load_model(self, trial: Any) -> Any:
            """The path of a trial's exported model."""
            return storage.join(config.output, "trials", trial.trial_id)

    tuner = TrainingTuner(oracle=oracle, directory=config.output, project_name="search", overwrite=False)
    try:
        tuner.search()
    except keras_tuner.errors.FatalError as error:
        raise JobError(f"trials cannot be compared: {error}") from None
    trials = [trial for trial in oracle.get_best_trials(config.trials) if trial.score is not None]
    if not trials:
        raise JobError(f"every trial failed; the last: {failures[-1] if failures else 'see search/'}")
    best = trials[0]
    source = storage.join(config.output, "trials", best.trial_id)
    info: dict[str, Any] = {
        "best": {
            "trial": best.trial_id,
            "path": source,
            OBJECTIVE: best.score,
            "flags": dict(best.hyperparameters.values),
        },
        "trials": [
            {"trial": trial.trial_id, OBJECTIVE: trial.score, "flags": dict(trial.hyperparameters.values)}
            for trial in trials
        ],
        "config": {**config.facts(), "trials": config.trials},
    }
    storage.write_json(storage.join(config.output, "info.json"), info)
    print(
        f"best of {len(trials)} trials: {json.dumps(info['best']['flags'])}, validation map {best.score:.4f}; "
        f"model in {source}"
    )
    return info


if __name__ == "__main__":
    main(run)
