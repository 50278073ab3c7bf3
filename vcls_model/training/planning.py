"""A run whose flags fit its data, and the trainer that it makes."""

import dataclasses
from typing import TYPE_CHECKING, Any

from vcls_model.training.config import TrainConfig

if TYPE_CHECKING:
    import tensorflow as tf

    from vcls_model.records.transformed import TransformedData, TransformedModality
    from vcls_model.training.loop import Trainer


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """A run whose flags fit the data.

    Attributes:
        config: the run.
        strategy: where its steps run.
        data: the dataset.
        modalities: the features that the model takes.
        done: the `info.json` of a finished run that `--resume` has nothing to add to, or None.
    """

    config: TrainConfig
    strategy: "tf.distribute.Strategy"
    data: "TransformedData"
    modalities: tuple["TransformedModality", ...]
    done: dict[str, Any] | None


def make_trainer(plan: TrainPlan) -> "Trainer":
    """The trainer of a run, whose model is built and has its initial weights."""
    from vcls_model.training.fine_tuning import FineTuning
    from vcls_model.training.loop import Trainer
    from vcls_model.training.starting_points import load_teacher, make_model

    config, data = plan.config, plan.data
    return Trainer(
        make_model(config, data, plan.modalities, plan.strategy),
        data,
        plan.modalities,
        config.options,
        config.output,
        strategy=plan.strategy,
        teachers=[load_teacher(path, plan.modalities, data) for path in config.teachers],
        fine_tuning=FineTuning(config.freeze, config.unfreeze_after, config.rate_scales, config.new_head),
        config_hash=config.fingerprint(data.info),
        settings=config.deciding(data.info),
        verbose=config.verbose,
    )
