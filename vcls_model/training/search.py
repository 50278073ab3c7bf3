"""Hyperparameter search: what is searched, and KerasTuner's trials as training runs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vcls_model import output_directories, storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.metrics.catalogue import SELECTION_METRIC, history_column
from vcls_model.records.transformed import open_transformed
from vcls_model.training.checkpoints import check_same_data
from vcls_model.training.config import TrainConfig
from vcls_model.training.flags import SWITCHES, parse_config

if TYPE_CHECKING:
    import keras_tuner

KINDS = ("choice", "float", "int", "log")
STRATEGIES = ("bayesian", "grid", "random")
OBJECTIVE = history_column(SELECTION_METRIC)

Configured = Callable[[str, str], TrainConfig]


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
                raise UsageError(
                    f"--search={text}: the ends must increase{' and be positive' if kind == 'log' else ''}"
                )
        return cls(flag.removeprefix("--"), kind, tuple(values))

    def draw(self, hyperparameters: "keras_tuner.HyperParameters") -> str:
        """Asks KerasTuner for a value, as text for a command line."""
        if self.kind == "choice":
            return str(hyperparameters.Choice(self.flag, list(self.values)))
        low, high = (float(value) for value in self.values)
        sampling = "log" if self.kind == "log" else "linear"
        if self.kind == "int" or self.whole:
            return str(hyperparameters.Int(self.flag, int(low), int(high), sampling=sampling))
        return repr(float(hyperparameters.Float(self.flag, low, high, sampling=sampling)))

    def whole_where_needed(self, configured: Configured) -> "Dimension":
        """This dimension, drawing whole numbers if training takes nothing else: the two ends alone do not tell.

        Args:
            configured: the training run with a value of a flag.

        Raises:
            UsageError: `float` is searched where training takes whole numbers only.
        """
        if self.kind not in ("float", "log"):
            return self
        low, high = (float(value) for value in self.values)
        try:
            configured(self.flag, repr(low + (high - low) / 3 + 0.01 * min(1.0, high - low)))
        except UsageError:
            if self.kind == "log" and low.is_integer() and high.is_integer():
                return dataclasses.replace(self, whole=True)
            raise UsageError(
                f"--search={self.flag}={self.kind}:{':'.join(self.values)}: training takes whole numbers only, "
                "which int draws, or log between whole numbers"
            ) from None
        return self


def as_flags(values: Sequence[tuple[str, str]]) -> list[str]:
    """Flags of training with their values; a switch that is off is left out.

    Raises:
        UsageError: a switch has a value other than true and false.
    """
    flags = []
    for name, value in values:
        if name not in SWITCHES:
            flags.append(f"--{name}={value}")
        elif value == "true":
            flags.append(f"--{name}")
        elif value != "false":
            raise UsageError(f"--{name} takes no number: search it with choice:true:false, got {value!r}")
    return flags


def plan_dimensions(
    dimensions: Sequence[Dimension], fixed: Sequence[str], output: str
) -> tuple[tuple[Dimension, ...], TrainConfig]:
    """Puts every value of every dimension through training's own parser, now rather than when its trial starts.

    Args:
        dimensions: as they were given.
        fixed: the other flags of training.
        output: directory of the search.

    Returns:
        The dimensions, and the training run with the first value of each.

    Raises:
        UsageError: training refuses a value, or the runs cannot be made one after the other in this process.
    """
    first = {dimension.flag: dimension.values[0] for dimension in dimensions}
    if len(first) != len(dimensions):
        raise UsageError(f"--search names a flag twice: {', '.join(dimension.flag for dimension in dimensions)}")

    def configured(flag: str, value: str) -> TrainConfig:
        return parse_config([*fixed, f"--output={output}", *as_flags(list((first | {flag: value}).items()))])

    for dimension in dimensions:
        for value in dimension.values:
            training = configured(dimension.flag, value)
            if len(training.devices) > 1 or training.distribution in ("mirrored", "multi_worker"):
                raise UsageError(
                    "trials run one after the other in this process, on one device: leave out --distribution and "
                    "--devices"
                )
    head = dimensions[0]
    return tuple(one.whole_where_needed(configured) for one in dimensions), configured(head.flag, head.values[0])


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """A search.

    Attributes:
        output: directory; each trial's model goes to `trials/`.
        dimensions: what is searched.
        trials: largest number of training runs.
        strategy: `random`, `bayesian` or `grid`.
        seed: random seed of the search and of every training run.
        fixed: the other arguments of each training run.
        resume: continue an interrupted search.
        overwrite: replace what the output directory holds.
        training: the training run with the first value of every dimension.
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

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise unknown_choice("strategy", self.strategy, STRATEGIES)
        if self.trials < 1:
            raise UsageError(f"trials must be positive, got {self.trials}")

    def facts(self) -> dict[str, Any]:
        """What decides the result: a search with other facts must not be continued."""
        return {
            "search": [
                dataclasses.asdict(dimension) | {"values": list(dimension.values)} for dimension in self.dimensions
            ],
            "strategy": self.strategy,
            "seed": self.seed,
            "fixed": list(self.fixed),
        }


def open_search(config: TuneConfig) -> None:
    """Checks that the data has a validation split and that the output directory is free; writes what the search is.

    Raises:
        UsageError: there is no validation split, the directory is in use, or its search is another one.
    """
    training = config.training
    data = open_transformed(training.data)
    if not data.records.get("validate", 0):
        raise UsageError(f"trials are compared by validation mAP, but {training.data} has no validation split")
    inputs = [training.data, training.init_from, *training.teachers]
    output_directories.check_output(config.output, resume=config.resume, overwrite=config.overwrite, inputs=inputs)
    if config.overwrite:
        storage.empty_directory(config.output)
    begun = storage.join(config.output, "search.json")
    if storage.exists(begun):
        facts = storage.read_json(begun)
        identity = facts.pop("data", {}) if isinstance(facts, dict) else {}
        if facts != config.facts():
            raise UsageError(
                f"--resume: {config.output} holds a search with other flags; repeat them, or start again with "
                "--overwrite"
            )
        check_same_data(f"the search in {config.output}", identity, data)
    storage.write_json(begun, {**config.facts(), "data": data.identity})


def search(config: TuneConfig, score: Callable[[str, Sequence[str]], float]) -> list["keras_tuner.engine.trial.Trial"]:
    """Runs KerasTuner's trials; returns those that have a score, the best first.

    Its state lies in `search/` of the output directory; it goes on where that ended.

    Args:
        config: the search.
        score: trains with the flags drawn for a trial's id, and returns its validation mAP; a `FailedTrialError` ends
            the trial, a `FatalError` the search.
    """
    import keras_tuner

    oracles = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "grid": keras_tuner.oracles.GridSearchOracle,
    }
    space = keras_tuner.HyperParameters()
    for dimension in config.dimensions:
        dimension.draw(space)
    oracle = oracles[config.strategy](
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        max_trials=config.trials,
        seed=config.seed,
        hyperparameters=space,
        tune_new_entries=False,
        max_consecutive_failed_trials=config.trials + 1,
    )

    class TrainingTuner(keras_tuner.engine.base_tuner.BaseTuner):
        """A tuner whose trials train and export by themselves."""

        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            """The score of a trial."""
            drawn = [(dimension.flag, dimension.draw(trial.hyperparameters)) for dimension in config.dimensions]
            return {OBJECTIVE: score(trial.trial_id, as_flags(drawn))}

        def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
            """A trial's model is on disk already."""

        def load_model(self, trial: Any) -> None:
            """Nobody asks the tuner for a model."""

    TrainingTuner(oracle=oracle, directory=config.output, project_name="search", overwrite=False).search()
    return [trial for trial in oracle.get_best_trials(config.trials) if trial.score is not None]
