"""Searches hyperparameters with KerasTuner: each trial is a training run, and leaves an exported model.

    python -m vcls_model.tune --data=DIR --output=DIR --model=dense --trials=10 \\
        --search='learning_rate=log:1e-4:1e-2' --search='hidden_units=choice:512:1024:2048'

What is not searched is given as for `python -m vcls_model.train`. Trials are compared by validation mAP.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from vcls_model.commands import UsageError, main, unknown_choice
from vcls_model.train import parse_config, train

KINDS = ("choice", "float", "int", "log")
STRATEGIES = ("bayesian", "grid", "random")
OBJECTIVE = "val_map"


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One searched flag.

    Attributes:
        flag: name without dashes: a flag of training or a hyperparameter of the model.
        kind: `choice` of values, `int` or `float` between two ends, `log` between two ends on a logarithmic scale.
        values: the choices as text, or the two ends.
    """

    flag: str
    kind: str
    values: tuple[str, ...]

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
        if self.kind == "int":
            return str(hyperparameters.Int(self.flag, int(low), int(high)))
        sampling = "log" if self.kind == "log" else "linear"
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
    """

    output: str
    dimensions: tuple[Dimension, ...]
    trials: int
    strategy: str
    seed: int
    fixed: tuple[str, ...]
    resume: bool
    overwrite: bool


def parse_tune_config(argv: Sequence[str] | None) -> TuneConfig:
    """Reads a command line.

    Raises:
        UsageError: nothing to search, or an argument that neither the search nor training knows.
    """
    parser = argparse.ArgumentParser(prog="python -m vcls_model.tune", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="directory for the search")
    parser.add_argument("--search", action="append", default=[], metavar="FLAG=KIND:…",
                        help=f"a flag to search; kinds: {', '.join(KINDS)}; repeat for several")
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
    # A value of each dimension goes through training's own parser now, not when the first trial starts.
    config = TuneConfig(args.output, dimensions, args.trials, args.strategy, args.seed, fixed, args.resume,
                        args.overwrite)
    parse_config([*fixed, f"--output={args.output}", *(f"--{d.flag}={d.values[0]}" for d in dimensions)])
    return config


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Searches; returns the content of the search's `info.json`.

    Raises:
        UsageError: the flags do not fit each other or the data.
        JobError: every trial failed.
    """
    config = parse_tune_config(argv)
    import keras_tuner

    from vcls_model import storage

    storage.prepare_output(config.output, resume=config.resume, overwrite=config.overwrite)
    oracles = {"random": keras_tuner.oracles.RandomSearchOracle,
               "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
               "grid": keras_tuner.oracles.GridSearchOracle}
    objective = keras_tuner.Objective(OBJECTIVE, "max")
    space = keras_tuner.HyperParameters()
    for dimension in config.dimensions:
        dimension.draw(space)
    oracle = oracles[config.strategy](objective=objective, max_trials=config.trials, seed=config.seed,
                                      hyperparameters=space, tune_new_entries=False)

    class TrainingTuner(keras_tuner.engine.base_tuner.BaseTuner):
        """Runs `vcls_model.train` for each trial."""

        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            chosen = [f"--{dimension.flag}={dimension.draw(trial.hyperparameters)}" for dimension in config.dimensions]
            directory = storage.join(config.output, "trials", trial.trial_id)
            print(f"trial {trial.trial_id}: {' '.join(chosen)}", flush=True)
            info = train(parse_config([*config.fixed, *chosen, f"--output={directory}", "--resume"]))
            validation = info["training"]["validation"]
            if "map" not in validation:
                raise UsageError("trials are compared by validation mAP, but the dataset has no validation split")
            return {OBJECTIVE: float(validation["map"])}

        def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
            """A trial's model is on disk already."""

        def load_model(self, trial: Any) -> Any:
            """The path of a trial's exported model."""
            return storage.join(config.output, "trials", trial.trial_id)

    tuner = TrainingTuner(oracle=oracle, directory=config.output, project_name="search", overwrite=False)
    tuner.search()
    trials = oracle.get_best_trials(config.trials)
    best = trials[0]
    source = storage.join(config.output, "trials", best.trial_id)
    info: dict[str, Any] = {
        "best": {"trial": best.trial_id, "path": source, OBJECTIVE: best.score,
                 "flags": dict(best.hyperparameters.values)},
        "trials": [{"trial": trial.trial_id, OBJECTIVE: trial.score, "flags": dict(trial.hyperparameters.values)}
                   for trial in trials],
        "config": {"search": [dataclasses.asdict(dimension) for dimension in config.dimensions],
                   "strategy": config.strategy, "trials": config.trials, "seed": config.seed,
                   "fixed": list(config.fixed)},
    }
    storage.write_json(storage.join(config.output, "info.json"), info)
    print(f"best of {len(trials)} trials: {json.dumps(info['best']['flags'])}, validation map {best.score:.4f}; "
          f"model in {source}")
    return info


if __name__ == "__main__":
    main(run)
