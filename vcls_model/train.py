"""Trains a model on a transformed dataset and exports it with the transform graph inside; see `--help`."""

import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from vcls_model.commands import JobError, main
from vcls_model.models import select_modalities
from vcls_model.records.schema import FRAMES
from vcls_model.training.config import TrainConfig
from vcls_model.training.flags import ineffective_flags, parse_config
from vcls_model.training.planning import TrainPlan, make_trainer
from vcls_model.training.recipes import fit_config, keep_pretrained, misfits, recipe_text


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains and exports; returns the content of the model's `info.json`.

    Raises:
        UsageError: the flags do not fit the data or each other.
        JobError: the data, a checkpoint or another model cannot be used, or the loss stops being finite.
    """
    plan = make_plan(parse_config(argv))
    config = plan.config
    reads_frames = any(modality.kind == FRAMES for modality in plan.modalities)
    sentences = ineffective_flags(
        argv,
        reads_frames=reads_frames,
        epochs=config.options.epochs,
        modalities=len(plan.data.schema.modalities),
    )
    for sentence in [*sentences, *misfits(config, plan.data)]:
        print(f"warning: {sentence}", file=sys.stderr)
    if config.recipe and config.verbose:
        print(f"recipe of {config.model} for {plan.data.records.get('train', 0):,} training videos:", file=sys.stderr)
        print(recipe_text(config), file=sys.stderr, flush=True)
    info = train(plan)
    if info:  # of several workers, the first has it
        from vcls_model.training.outputs import result_text

        print(result_text(info, config.output), flush=True)
    return info


def make_plan(config: TrainConfig) -> TrainPlan:
    """Opens the data, starts TensorFlow and checks that the model fits it and that the output directory is free."""
    from vcls_model.quiet import quiet_start_up, start_tensorflow
    from vcls_model.records.transformed import open_transformed

    # What is wrong with the data is said at once: TensorFlow takes seconds to start.
    data = open_transformed(config.data)
    data.check_shards()
    start_tensorflow()
    with quiet_start_up():
        import tensorflow_transform  # noqa: F401  (the export needs it, and it prints start-up lines of its own)

    from vcls_model import output_directories
    from vcls_model.serving.exported import read_model_info
    from vcls_model.training.devices import computes_in_bfloat16, make_strategy, worker_number
    from vcls_model.training.starting_points import refuse_training_programs

    # A multi-worker strategy must come before anything else that TensorFlow does.
    strategy = make_strategy(config.distribution, config.devices)
    refuse_training_programs(config)
    names = {modality.name for modality in select_modalities(config.model, data.modalities)}
    modalities = tuple(modality for modality in data.modalities if modality.name in names)
    if config.init_from:
        config = keep_pretrained(config, read_model_info(config.init_from, ("model",)))
    config = fit_config(config, data, names, bfloat16=computes_in_bfloat16())
    if worker_number(strategy) == 0:
        inputs = [config.data, config.init_from, *config.teachers]
        output_directories.check_output(config.output, resume=config.resume, overwrite=config.overwrite, inputs=inputs)
    from vcls_model.training.outputs import finished_run

    return TrainPlan(config, strategy, data, modalities, finished_run(config, data))


def train(plan: TrainPlan) -> dict[str, Any]:
    """Trains and exports; returns the content of the model's `info.json` ({} in all workers but the first)."""
    import keras
    import tensorflow as tf

    from vcls_model import storage
    from vcls_model.training.devices import worker_count
    from vcls_model.training.outputs import chief_lock, export

    config = plan.config
    if plan.done is not None:
        return plan.done
    started = time.monotonic()
    keras.utils.set_random_seed(config.options.read.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(config.precision)
    try:
        with chief_lock(config, plan.strategy):
            trainer = make_trainer(plan)
            if trainer.is_chief and config.overwrite:  # only now: flags that do not fit leave what is there
                storage.empty_directory(config.output)
            if config.resume and not trainer.restore_last() and config.verbose:
                print("no checkpoint to continue from: starting at the beginning", file=sys.stderr)
            history = trainer.fit()
            return export(config, trainer, history, time.monotonic() - started) if trainer.is_chief else {}
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if worker_count(plan.strategy) == 1:
            raise
        raise JobError("another worker of TF_CONFIG has ended or cannot be reached: see its output") from error
    finally:
        keras.config.set_dtype_policy("float32")


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
