"""Trains a model on a transformed dataset and exports it with the transform graph inside.

    python -m vcls_model.train --data=DIR --output=DIR --model=dense --epochs=5

Hyperparameters of the chosen model are flags too: `--hidden_units=1024`, `--dropout=0.3`, …
"""

import argparse
import dataclasses
import hashlib
import json
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from vcls_model.commands import JobError, Parser, UsageError, main, nearest, option_names
from vcls_model.metrics.catalogue import describe
from vcls_model.models import MEANINGS, MODELS, default_hyperparameters, resolve_hyperparameters, select_modalities
from vcls_model.training.options import (
    DECAYS,
    DISTRIBUTIONS,
    FRAME_SAMPLINGS,
    LOSS_NAMES,
    OPTIMIZER_NAMES,
    PRECISIONS,
    LossOptions,
    ReadOptions,
    ScheduleOptions,
    TrainOptions,
    default_gamma,
)

# What a finished run is continued for, when it has changed.
LENGTH_OPTIONS = ("epochs", "patience", "average_checkpoints")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: directory of the transformed dataset.
        output: directory of the model.
        model: name of the architecture.
        hyperparameters: of the architecture, all of them.
        options: how to fit.
        resume: continue what is in `output`.
        overwrite: replace what is in `output`.
        precision: dtype policy of the layers.
        distribution: `auto`, `none`, `mirrored` or `multi_worker`.
        devices: devices of `mirrored`.
        class_prior: start the classifier's biases at the classes' log-odds.
        teachers: directories of exported models to distil.
        init_from: directory of an exported model whose weights are taken over; empty starts afresh.
        new_head: do not take over the layers that depend on the classes.
        freeze: globs of layers that do not learn.
        unfreeze_after: epochs after which they do; 0 never.
        rate_scales: (glob over variables, factor on the learning rate).
        verbose: print progress bars.
    """

    data: str
    output: str
    model: str
    hyperparameters: dict[str, Any]
    options: TrainOptions
    resume: bool = False
    overwrite: bool = False
    precision: str = "float32"
    distribution: str = "auto"
    devices: tuple[str, ...] = ()
    class_prior: bool = False
    teachers: tuple[str, ...] = ()
    init_from: str = ""
    new_head: bool = False
    freeze: tuple[str, ...] = ()
    unfreeze_after: int = 0
    rate_scales: tuple[tuple[str, float], ...] = ()
    verbose: bool = True

    def fingerprint(self, data_info: Any) -> str:
        """A hash of what decides the result: a checkpoint of another one must not be continued."""
        value = dataclasses.asdict(self)
        for name in ("data", "output", "resume", "overwrite", "verbose", "distribution", "devices"):
            del value[name]
        for name in ("patience", "checkpoint_seconds", "average_checkpoints"):
            del value["options"][name]  # a run that continues may change them
        if self.options.schedule.decay != "cosine":
            del value["options"]["epochs"]  # only a cosine depends on where the run ends
        value["data_hash"] = data_info.get("config_hash")
        value["records"] = data_info.get("splits")
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _parser() -> argparse.ArgumentParser:
    defaults = TrainOptions(ReadOptions(64))
    parser = Parser(
        prog="python -m vcls_model.train",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="hyperparameters:\n"
        + "\n".join(f"  {name:18s} {text}" for name, text in MEANINGS.items())
        + "\n\nmodels and their hyperparameters:\n"
        + "\n".join(
            f"  {name:18s} {info.level}-level: {info.summary}\n"
            + " " * 21
            + " ".join(f"--{key}={_shown(value)}" for key, value in info.defaults.items())
            for name, info in sorted(MODELS.items())
        ),
    )
    add = parser.add_argument
    add("--data", required=True, help="directory that pipelines.preprocess wrote")
    add("--output", required=True, help="directory for the model")
    add("--model", default="dense", help="architecture, one of those below (default dense)")
    add("--epochs", type=int, default=defaults.epochs, help="passes over the training split, at most (default 5)")
    add("--batch_size", type=int, default=64, help="videos a step, over all devices (default 64)")
    add("--seed", type=int, default=0, help="decides initial weights, order of the data and all draws")
    add("--resume", action="store_true", help="continue a run that was stopped, with the same data order")
    add("--overwrite", action="store_true", help="replace what the output directory holds")
    add(
        "--patience",
        type=int,
        default=defaults.patience,
        help="epochs without a better validation mAP before training stops; 0 never (default 3)",
    )
    add("--quiet", action="store_true", help="no progress bars")

    group = parser.add_argument_group("loss")
    loss = defaults.loss
    group.add_argument("--loss", default=loss.name, help=f"one of {', '.join(LOSS_NAMES)} (default bce)")
    group.add_argument("--label_smoothing", type=float, default=loss.label_smoothing, help="share in [0, 1)")
    group.add_argument(
        "--gamma", type=float, help="focusing exponent of focal (default 2) and of asymmetric's positives (default 0)"
    )
    group.add_argument(
        "--gamma_negative",
        type=float,
        default=loss.gamma_negative,
        help="the same of asymmetric's negatives (default 4)",
    )
    group.add_argument("--alpha", type=float, default=loss.alpha, help="weight of positives in focal, in (0, 1)")
    group.add_argument("--margin", type=float, default=loss.margin, help="probability that asymmetric ignores")
    group.add_argument("--class_prior", action="store_true", help="start the biases at the classes' log-odds")
    group.add_argument(
        "--teacher", action="append", default=[], metavar="MODEL", help="distil an exported model; several are averaged"
    )
    group.add_argument(
        "--teacher_weight",
        type=float,
        default=defaults.teacher_weight,
        help="share of the loss that follows the teachers (default 0.5)",
    )
    group.add_argument("--mixup", type=float, default=0.0, help="parameter of the shares' Beta distribution; 0 is off")

    group = parser.add_argument_group("optimizer")
    schedule = defaults.schedule
    group.add_argument("--optimizer", default=defaults.optimizer, help=f"one of {', '.join(OPTIMIZER_NAMES)}")
    group.add_argument("--learning_rate", type=float, default=schedule.learning_rate, help="its peak (default 0.001)")
    group.add_argument("--decay", default=schedule.decay, help=f"one of {', '.join(DECAYS)} (default constant)")
    group.add_argument("--warmup_examples", type=int, default=0, help="examples of linear warm-up")
    group.add_argument("--decay_rate", type=float, default=schedule.decay_rate, help="factor of exponential decay")
    group.add_argument("--decay_examples", type=int, default=schedule.decay_examples, help="examples a factor")
    group.add_argument("--final_rate", type=float, default=0.0, help="share of the peak at which cosine ends")
    group.add_argument("--weight_decay", type=float, default=defaults.weight_decay, help="of adamw (default 0.01)")
    group.add_argument("--clip_norm", type=float, default=0.0, help="largest global norm of the gradients; 0 is off")
    group.add_argument("--ema", type=float, default=0.0, help="decay a step of the weights' moving average; 0 is off")
    group.add_argument("--average_checkpoints", type=int, default=0, help="best epochs whose weights are averaged")

    group = parser.add_argument_group("frames")
    group.add_argument("--frames", default="all", help=f"which a model sees: one of {', '.join(FRAME_SAMPLINGS)}")
    group.add_argument("--max_frames", type=int, default=300, help="most frames a video (default 300)")

    group = parser.add_argument_group("transfer")
    group.add_argument("--init_from", default="", metavar="MODEL", help="take over the weights of an exported model")
    group.add_argument("--new_head", action="store_true", help="but not those of the layers that depend on the classes")
    group.add_argument("--freeze", action="append", default=[], metavar="GLOB", help="layers that do not learn")
    group.add_argument("--unfreeze_after", type=int, default=0, help="epochs after which they do; 0 never")
    group.add_argument(
        "--learning_rate_scale",
        action="append",
        default=[],
        metavar="GLOB=FACTOR",
        help="factor on the learning rate of matching variables",
    )

    group = parser.add_argument_group("hardware")
    group.add_argument("--precision", default="float32", help=f"one of {', '.join(PRECISIONS)}")
    group.add_argument("--jit", action="store_true", help="compile the step with XLA")
    group.add_argument(
        "--distribution", default="auto", help=f"one of {', '.join(DISTRIBUTIONS)}: auto uses TF_CONFIG, else all GPUs"
    )
    group.add_argument("--devices", default="", help="devices to mirror over, e.g. GPU:0,GPU:1")
    group.add_argument(
        "--steps_per_call",
        type=int,
        default=defaults.steps_per_call,
        help="steps between returns to Python (default 20)",
    )
    group.add_argument(
        "--checkpoint_seconds",
        type=float,
        default=defaults.checkpoint_seconds,
        help="time between checkpoints inside an epoch (default 120)",
    )
    return parser


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Flags without a value.
SWITCHES = frozenset(action.dest for action in _parser()._actions if action.nargs == 0 and action.dest != "help")


def _hyperparameters(model: str, rest: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
    """Reads `--name=value` arguments that are hyperparameters of the model."""
    known = default_hyperparameters(model)
    given: dict[str, Any] = {}
    position = 0
    while position < len(rest):
        flag, has_value, value = rest[position].partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in known:
            owners = [other for other, info in sorted(MODELS.items()) if name in info.defaults]
            if flag.startswith("--") and owners:
                raise UsageError(f"model {model} has no hyperparameter {name}; these have: {', '.join(owners)}")
            suggestion = nearest(flag, [*flags, *(f"--{key}" for key in known)])
            hint = f"; did you mean {suggestion}?" if suggestion else "; see --help"
            raise UsageError(f"unrecognised argument {rest[position]!r} for model {model}{hint}")
        if not has_value:
            position += 1
            if position < len(rest) and not rest[position].startswith("--"):
                value = rest[position]
            elif isinstance(known[name], bool):
                position, value = position - 1, "true"
            else:
                raise UsageError(f"{flag} needs a value")
        given[name] = value
        position += 1
    return resolve_hyperparameters(model, given)


def _rate_scale(text: str) -> tuple[str, float]:
    glob, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = -1.0
    if not glob or value < 0:
        raise UsageError(f"--learning_rate_scale must be like 'hidden*=0.1', got {text!r}")
    return glob, value


def parse_config(argv: Sequence[str] | None) -> TrainConfig:
    """Reads a command line.

    Raises:
        UsageError: an unknown flag, model or hyperparameter (names the nearest), or a value out of range.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    hyperparameters = _hyperparameters(args.model, rest, option_names(parser))
    for name, value, known in (
        ("precision", args.precision, PRECISIONS),
        ("distribution", args.distribution, DISTRIBUTIONS),
    ):
        if value not in known:
            from vcls_model.commands import unknown_choice

            raise unknown_choice(name, value, known)
    if args.new_head and not args.init_from:
        raise UsageError("--new_head says which weights of --init_from to leave, and needs it")
    if args.unfreeze_after < 0 or (args.unfreeze_after and not args.freeze):
        raise UsageError("--unfreeze_after counts epochs from which the layers of --freeze learn, and needs it")
    options = TrainOptions(
        read=ReadOptions(
            args.batch_size, args.frames, args.max_frames, args.seed, fixed_frames=args.jit and args.frames == "all"
        ),
        loss=LossOptions(
            args.loss,
            args.label_smoothing,
            default_gamma(args.loss) if args.gamma is None else args.gamma,
            args.gamma_negative,
            args.alpha,
            args.margin,
        ),
        schedule=ScheduleOptions(
            args.learning_rate,
            args.decay,
            args.warmup_examples,
            1,
            args.decay_rate,
            args.decay_examples,
            args.final_rate,
        ),
        epochs=args.epochs,
        optimizer=args.optimizer,
        weight_decay=args.weight_decay,
        clip_norm=args.clip_norm,
        ema=args.ema,
        mixup=args.mixup,
        teacher_weight=args.teacher_weight if args.teacher else 0.0,
        patience=args.patience,
        average_checkpoints=args.average_checkpoints,
        checkpoint_seconds=args.checkpoint_seconds,
        steps_per_call=args.steps_per_call,
        jit=args.jit,
    )
    return TrainConfig(
        data=args.data,
        output=args.output,
        model=args.model,
        hyperparameters=hyperparameters,
        options=options,
        resume=args.resume,
        overwrite=args.overwrite,
        precision=args.precision,
        distribution=args.distribution,
        devices=tuple(part for part in args.devices.split(",") if part),
        class_prior=args.class_prior,
        teachers=tuple(args.teacher),
        init_from=args.init_from,
        new_head=args.new_head,
        freeze=tuple(args.freeze),
        unfreeze_after=args.unfreeze_after,
        rate_scales=tuple(map(_rate_scale, args.learning_rate_scale)),
        verbose=not args.quiet,
    )


def idle_flags(argv: Sequence[str] | None) -> list[str]:
    """A sentence for each flag of a command line that another one keeps from having an effect."""
    parser = _parser()
    args, _ = parser.parse_known_args(argv)
    framed = MODELS[args.model].level == "frame"
    conditions = [
        (("gamma",), args.loss in ("focal", "asymmetric"), "without --loss=focal or --loss=asymmetric"),
        (("gamma_negative", "margin"), args.loss == "asymmetric", "without --loss=asymmetric"),
        (("alpha",), args.loss == "focal", "without --loss=focal"),
        (("teacher_weight",), bool(args.teacher), "without --teacher"),
        (("weight_decay",), args.optimizer == "adamw", "without --optimizer=adamw"),
        (("decay_rate", "decay_examples"), args.decay == "exponential", "without --decay=exponential"),
        (("class_prior",), args.new_head or not args.init_from, "with --init_from without --new_head"),
        (("final_rate",), args.decay == "cosine", "without --decay=cosine"),
        (("frames", "max_frames"), framed, f"with --model={args.model}, a video-level model"),
        (("unfreeze_after",), args.unfreeze_after < args.epochs, f"with --epochs={args.epochs}"),
    ]
    return [
        f"--{name} has no effect {reason}"
        for names, holds, reason in conditions
        for name in names
        if not holds and getattr(args, name) != parser.get_default(name)
    ]


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains and exports; returns the content of the model's `info.json`."""
    config = parse_config(argv)
    for sentence in idle_flags(argv):
        print(f"warning: {sentence}", file=sys.stderr)
    return train(config)


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains and exports as `config` says; returns the content of the model's `info.json`.

    Raises:
        UsageError: the flags do not fit the data or each other.
        JobError: the data, a checkpoint or another model cannot be used, or the loss stops being a number.
    """
    from vcls_model.quiet import quiet_start_up, start_tensorflow

    start_tensorflow()
    with quiet_start_up():
        import keras
        import tensorflow as tf
        import tensorflow_transform  # noqa: F401  (the export needs it, and it has start-up lines of its own)

    from vcls_model import storage
    from vcls_model.models import build_model
    from vcls_model.records.transformed import open_transformed
    from vcls_model.training.loop import FineTuning, Trainer, make_strategy, worker_count, worker_number
    from vcls_model.training.starting_points import Pretrained, class_prior, load_teacher, take_over, training_knowledge

    started = time.monotonic()
    # A multi-worker strategy must come before anything else that TensorFlow does.
    strategy = make_strategy(config.distribution, config.devices)
    data = open_transformed(config.data)
    names = {modality.name for modality in select_modalities(config.model, data.modalities)}
    modalities = tuple(modality for modality in data.modalities if modality.name in names)
    chief = worker_number(strategy) == 0
    if chief:
        storage.check_output(
            config.output,
            resume=config.resume,
            overwrite=config.overwrite,
            inputs=[config.data, config.init_from, *config.teachers],
        )
    done = storage.join(config.output, "info.json")
    if config.resume and storage.exists(done):
        info = storage.read_json(done)
        if info.get("config_hash") != config.fingerprint(data.info):
            raise UsageError(
                f"--resume: {config.output} holds a model trained with other options or other data; "
                "repeat its flags, or start again with --overwrite"
            )
        if all(info["training"]["options"][name] == getattr(config.options, name) for name in LENGTH_OPTIONS):
            return info
    keras.utils.set_random_seed(config.options.read.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(config.precision)
    try:
        pretrained = Pretrained(config.init_from) if config.init_from else None
        if pretrained:
            pretrained.check(config.model, config.hyperparameters, modalities, data, new_head=config.new_head)
        projects = bool(config.hyperparameters["label_projection"])
        directions = pretrained.label_directions() if pretrained and projects else None
        knowledge = training_knowledge(data, modalities, config.hyperparameters, config.options.read, directions)
        with strategy.scope():
            try:
                model = build_model(
                    config.model,
                    modalities,
                    data.class_count,
                    class_prior=class_prior(data) if config.class_prior else None,
                    **knowledge,
                    **config.hyperparameters,
                )
            except (TypeError, ValueError) as error:
                raise UsageError(f"model {config.model} cannot be built with these hyperparameters: {error}") from error
            if pretrained:
                take_over(model, pretrained, new_head=config.new_head)
        trainer = Trainer(
            model,
            data,
            modalities,
            config.options,
            config.output,
            strategy=strategy,
            teachers=[load_teacher(path, modalities, data) for path in config.teachers],
            fine_tuning=FineTuning(config.freeze, config.unfreeze_after, config.rate_scales, config.new_head),
            config_hash=config.fingerprint(data.info),
            verbose=config.verbose,
        )
        if chief and config.overwrite:  # only now: flags that do not fit leave what is there
            storage.empty_directory(config.output)
        if config.resume and not trainer.restore_last() and config.verbose:
            print("no checkpoint to continue from: starting at the beginning")
        history = trainer.fit()
        if not trainer.is_chief:
            return {}
        return _export(config, trainer, history, time.monotonic() - started)
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if worker_count(strategy) == 1:
            raise
        raise JobError("another worker of TF_CONFIG has ended, or cannot be reached: see what it printed") from error
    finally:
        keras.config.set_dtype_policy("float32")


def _export(config: TrainConfig, trainer: Any, history: list[dict[str, Any]], wall_seconds: float) -> dict[str, Any]:
    """Chooses thresholds on validation and writes the model directory; `info.json` last."""
    import os
    import tempfile

    import keras
    import numpy as np
    import tensorflow as tf

    from vcls_model import storage
    from vcls_model.metrics.result import best_thresholds, compute_result
    from vcls_model.records.vocabulary import read_vocabulary, unnamed_classes, write_labels_csv
    from vcls_model.serving.export import ServingModule, TransformGraph, save_module, teaching_logits

    data, model = trainer.data, trainer.model
    thresholds, validation = None, {}
    if trainer.has_validation:
        accumulator, loss = trainer.evaluate()
        if accumulator.videos:
            thresholds = np.asarray(best_thresholds(accumulator), float)
            summary = compute_result(accumulator).summary
            numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
            validation = {"loss": loss, **numbers}
    vocabulary = storage.join(data.directory, "labels.csv")
    classes = (
        read_vocabulary(storage.read_text(vocabulary), vocabulary, data.class_count)
        if storage.exists(vocabulary)
        else unnamed_classes(data.class_count)
    )
    storage.write_text(
        storage.join(config.output, "labels.csv"),
        write_labels_csv(classes, None if thresholds is None else thresholds.tolist()),
    )
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "model.keras")
        model.save(local)
        with open(local, "rb") as stream:
            storage.write_atomically(storage.join(config.output, "model.keras"), stream.read())
    # Reloaded outside of the strategy and of mixed precision's variables: the export holds plain ones.
    module = ServingModule(
        lambda features: model(features, training=False),
        data.schema,
        trainer.modalities,
        TransformGraph(data.directory),
        [model],
        max_frames=config.options.read.max_frames,
        frames=config.options.read.evaluation_frames(),
        teaching=teaching_logits(model),
    )
    save_module(module, module.signatures(), config.output)
    options = dataclasses.asdict(config.options)
    # A record that cannot be read ends the run, so that none is ever left out.
    records = sum(data.records.get(split, 0) for split in ("train", "validate"))
    info: dict[str, Any] = {
        "records_read": records,
        "records_written": records,
        "records_rejected": 0,
        "rejected_by_reason": {},
        "schema": data.schema.to_dict(),
        "split": data.info.get("split"),
        "class_count": data.class_count,
        "transformed": [modality.to_dict() for modality in trainer.modalities],
        "model": {
            "name": config.model,
            "hyperparameters": config.hyperparameters,
            "parameter_count": int(model.count_params()),
        },
        "training": {
            "examples": int(history[-1]["examples"]) if history else 0,
            "epochs": len(history),
            "best_epoch": trainer.progress.best_epoch,
            "averaged_epochs": trainer.averaged_epochs,
            "validation": validation,
            "train_seconds": sum(row["train_seconds"] for row in history),
            "wall_seconds": round(wall_seconds, 3),
            "seed": config.options.read.seed,
            "options": options,
            "precision": config.precision,
            "init_from": config.init_from,
            "new_head": config.new_head,
            "freeze": list(config.freeze),
            "unfreeze_after": config.unfreeze_after,
            "rate_scales": [list(scale) for scale in config.rate_scales],
            "teachers": list(config.teachers),
            "class_prior": config.class_prior,
            "devices": trainer.replicas,
        },
        "data": {
            "path": config.data,
            **{
                key: data.info.get(key)
                for key in ("splits", "records_read", "records_written", "records_rejected", "config_hash", "versions")
            },
        },
        "config_hash": config.fingerprint(data.info),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
    storage.write_json(storage.join(config.output, "info.json"), info)
    if config.verbose:
        chosen = (
            f"mean of epochs {', '.join(map(str, trainer.averaged_epochs))}"
            if trainer.averaged_epochs
            else f"best epoch {trainer.progress.best_epoch}"
        )
        print(f"{chosen}: validation {describe(validation) or 'none'}; model in {config.output}", flush=True)
    return info


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
