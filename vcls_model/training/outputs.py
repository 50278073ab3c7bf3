"""The model directory that a run leaves: vocabulary with thresholds, weights, SavedModel and, last, `info.json`."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.locks import locked_output
from vcls_model.metrics.catalogue import describe
from vcls_model.records.identity import trained_on
from vcls_model.records.split_ids import copy_split_ids
from vcls_model.records.transformed import TransformedData
from vcls_model.records.vocabulary import write_labels_csv
from vcls_model.serving.export import EmbeddedTransform, ServingModule, save_module, teaching_logits
from vcls_model.states import ExportedInfo, read_state
from vcls_model.training.calibration import UNCALIBRATED, Calibration, fit_platt
from vcls_model.training.checkpoints import check_same_data, last_checkpoint, load, what_differs
from vcls_model.training.config import LENGTH_OPTIONS, TrainConfig
from vcls_model.training.devices import worker_number
from vcls_model.training.evaluation import Validation, summarise
from vcls_model.training.history import EpochRow
from vcls_model.training.loop import Trainer
from vcls_model.training.recipes import recipe_values
from vcls_model.versions import versions_of

# Whose versions the info.json of a model holds.
PACKAGES = ("tensorflow", "keras", "numpy")
_CALIBRATION_METRIC = "expected_calibration_error_at_20"


def export(config: TrainConfig, trainer: Trainer, history: Sequence[EpochRow], wall_seconds: float) -> dict[str, Any]:
    """Chooses thresholds on validation and writes the model directory.

    Args:
        config: the run.
        trainer: its model has the weights to export.
        history: one row per epoch.
        wall_seconds: how long the run took.

    Returns:
        The content of `info.json`, which is written last.
    """
    validation, calibration = Validation(), UNCALIBRATED
    if trainer.has_validation:
        validation, calibration = _calibrated(config, trainer)
        if validation.hint:
            print(f"warning: on the validation split {validation.hint}", file=sys.stderr)
    _write_labels(config.output, trainer.data, validation.thresholds)
    copy_split_ids(trainer.data.directory, config.output)
    _write_keras_model(config.output, trainer.model)
    _write_saved_model(config, trainer, calibration)
    info = _describe(config, trainer, history, validation, calibration, wall_seconds)
    storage.write_json(storage.join(config.output, "info.json"), info)
    return info


def result_text(info: Mapping[str, Any], output: str) -> str:
    """The result of a run in one line, from the model's `info.json`."""
    training = info["training"]
    averaged = ", ".join(map(str, training["averaged_epochs"]))
    chosen = f"mean of epochs {averaged}" if averaged else f"best epoch {training['best_epoch']}"
    validation = describe(training["validation"]) or "none"
    return f"{chosen}: validation {validation}; model in {output}"


def chief_lock(config: TrainConfig, strategy: tf.distribute.Strategy) -> AbstractContextManager[None]:
    """The lock of the output directory, which the first of several workers holds for all."""
    if worker_number(strategy) > 0:
        return nullcontext()
    return locked_output(config.output, "train", take_over=config.resume or config.overwrite)


def finished_run(config: TrainConfig, data: TransformedData) -> dict[str, Any] | None:
    """The `info.json` of a finished run that `--resume` has nothing to add to; None where there is something to do.

    Raises:
        UsageError: the run had other options, or was on other data.
    """
    path = storage.join(config.output, "info.json")
    if not config.resume or not storage.exists(path):
        return None
    info: dict[str, Any] = dict(read_state(path, ExportedInfo))
    if "options" not in info.get("training", {}):
        raise UsageError(f"--resume: {path} does not say how the model was trained; start again with --overwrite")
    if info.get("config_hash") != config.fingerprint(data.info):
        last = last_checkpoint(config.output)
        differing = what_differs(load(last)[1], config.deciding(data.info)) if storage.exists(last) else ""
        raise UsageError(
            f"--resume: {config.output} holds a model trained with other options or other data{differing}; repeat its "
            "flags (with --recipe=none if version 0.1.0 began it), or start again with --overwrite"
        )
    check_same_data(f"the model in {config.output}", trained_on(info), data)
    same = all(info["training"]["options"][name] == getattr(config.options, name) for name in LENGTH_OPTIONS)
    return info if same else None


def _calibrated(config: TrainConfig, trainer: Trainer) -> tuple[Validation, Calibration]:
    """What validation says of the model, and the line for its logits that makes it more honest, if there is one."""
    counts = trainer.data.class_counts()
    accumulator, loss = trainer.evaluate()
    validation = summarise(accumulator, loss, counts)
    if config.options.calibration == "none" or not accumulator.videos:
        return validation, UNCALIBRATED
    calibration = fit_platt(accumulator)
    if calibration == UNCALIBRATED:
        return validation, UNCALIBRATED
    calibrated = summarise(*trainer.evaluate(calibration=calibration), counts)
    before, after = (each.metrics[_CALIBRATION_METRIC] for each in (validation, calibrated))
    if after >= before:
        return validation, UNCALIBRATED
    if config.verbose:
        print(
            f"calibration: error at 20 {after:.4f} rather than {before:.4f}, with logits times {calibration.scale:.3f} "
            f"{calibration.shift:+.3f}",
            file=sys.stderr,
        )
    return calibrated, calibration


def _write_labels(output: str, data: TransformedData, thresholds: Sequence[float] | None) -> None:
    # What a class is called is for people; the descriptions have done their part in training.
    classes = [dataclasses.replace(info, description="") for info in data.classes()]
    storage.write_text(storage.join(output, "labels.csv"), write_labels_csv(classes, thresholds))


def _write_keras_model(output: str, model: keras.Model) -> None:
    # Keras writes to local paths only.
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "model.keras")
        model.save(local)
        storage.write_atomically(storage.join(output, "model.keras"), storage.read_bytes(local))


def _write_saved_model(config: TrainConfig, trainer: Trainer, calibration: Calibration) -> None:
    data, model, read = trainer.data, trainer.model, config.options.read

    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return calibration.applied_to(tf.cast(model(features, training=False), tf.float32))

    module = ServingModule(
        logits,
        data.schema,
        trainer.modalities,
        EmbeddedTransform(data.directory),
        [model],
        max_frames=read.max_frames,
        frames=read.evaluation_frames(),
        teaching=teaching_logits(model),
        presence=trainer.presence,
    )
    save_module(module, module.signatures(), config.output)


def _describe(
    config: TrainConfig,
    trainer: Trainer,
    history: Sequence[EpochRow],
    validation: Validation,
    calibration: Calibration,
    wall_seconds: float,
) -> dict[str, Any]:
    """The content of `info.json`."""
    data = trainer.data
    # A record that cannot be read ends the run: none is ever left out.
    records = sum(data.records.get(split, 0) for split in ("train", "validate"))
    return {
        "records_read": records,
        "records_written": records,
        "records_rejected": 0,
        "rejected_by_reason": {},
        "schema": data.schema.to_dict(),
        "split": data.info.get("split"),
        "class_count": data.class_count,
        "transformed": [modality.to_dict() for modality in trainer.modalities],
        "presence": trainer.presence,
        "model": {
            "name": config.model,
            "hyperparameters": config.hyperparameters,
            "parameter_count": int(trainer.model.count_params()),
        },
        "training": {
            "examples": int(history[-1]["examples"]) if history else 0,
            "epochs": len(history),
            "best_epoch": trainer.progress.best_epoch,
            "averaged_epochs": trainer.averaged_epochs,
            "validation": validation.metrics,
            "calibration": dataclasses.asdict(calibration),
            "train_seconds": sum(row["train_seconds"] for row in history),
            "wall_seconds": round(wall_seconds, 3),
            "seed": config.options.read.seed,
            "options": dataclasses.asdict(config.options),
            "precision": config.precision,
            "init_from": config.init_from,
            "new_head": config.new_head,
            "freeze": list(config.freeze),
            "unfreeze_after": config.unfreeze_after,
            "rate_scales": [list(scale) for scale in config.rate_scales],
            "teachers": list(config.teachers),
            "class_prior": config.class_prior,
            "recipe": {"values": recipe_values(config), "notes": list(config.recipe_notes)},
            "devices": trainer.replicas,
        },
        "data": {
            "path": config.data,
            **{
                key: data.info.get(key)
                for key in ("splits", "records_read", "records_written", "records_rejected", "config_hash", "versions")
            },
            "identity": data.identity,
        },
        "config_hash": config.fingerprint(data.info),
        "versions": versions_of(*PACKAGES),
    }
