"""The command line of training. Pure Python, so that `--help` answers at once."""

import argparse
from collections.abc import Sequence
from typing import Any

from vcls_model.commands import DEFAULT, Parser, UsageError, nearest, option_names, unknown_choice
from vcls_model.input.options import FRAME_SAMPLINGS, InputOptions
from vcls_model.models import MODELS, Hyperparameter, model_info, resolve_hyperparameters
from vcls_model.models.catalogue import COMMON
from vcls_model.records.transformed import open_transformed
from vcls_model.saved_models import add_trust_argument
from vcls_model.training.config import TrainConfig
from vcls_model.training.options import (
    CALIBRATIONS,
    DECAYS,
    DISTRIBUTIONS,
    LOSS_NAMES,
    OPTIMIZER_NAMES,
    PRECISIONS,
    LossOptions,
    ScheduleOptions,
    TrainOptions,
    default_gamma,
)
from vcls_model.training.recipes import AUTO, AUTO_RULE, choose_model, without_conflicts

DESCRIPTION = """Trains a model on a transformed dataset and exports it with the transform graph inside.

    python -m vcls_model.train --data=DIR --output=DIR --model=dense --epochs=5

The hyperparameters of the chosen model are flags, too: `--hidden_units=1024`, `--dropout=0.3`, …
"""
DEFAULT_MODEL = "dense"
# Whether the defaults are those of the model's recipe.
RECIPES = ("best", "none")
DEFAULTS = TrainOptions(InputOptions(batch_size=64))


def make_parser(model: str = DEFAULT_MODEL, recipe: str = "best") -> Parser:
    """The parser of training's flags, those of the hyperparameters of `model` included.

    Args:
        model: a name of `MODELS`.
        recipe: `best` takes the defaults from the model's recipe, `none` leaves them plain.

    Raises:
        UsageError: there is no such model; the message names the nearest.
    """
    parser = Parser(
        prog="python -m vcls_model.train",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="models (--help --model=NAME describes the hyperparameters of another one):\n"
        + "\n".join(f"  {name:18s} {info.level}-level: {info.summary}" for name, info in sorted(MODELS.items()))
        + f"\n  {AUTO:18s} one of these, by the data. {AUTO_RULE}",
    )
    _add_run_flags(parser)
    _add_loss_flags(parser.add_argument_group("loss"))
    _add_optimizer_flags(parser.add_argument_group("optimizer"))
    _add_transfer_flags(parser.add_argument_group("transfer"))
    _add_hardware_flags(parser.add_argument_group("hardware"))
    common, own = parser.add_argument_group("hyperparameters of every model"), model_info(model).own
    group = parser.add_argument_group(f"hyperparameters of {model}") if own else common
    values = model_info(model).recipe.values if recipe == "best" else {}
    for name, declared in model_info(model).hyperparameters.items():
        default = values.get(name, declared.default)
        _add_hyperparameter(common if name in COMMON else group, name, declared, default)
    parser.set_defaults(**values)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    defaults, read = DEFAULTS, DEFAULTS.read
    add = parser.add_argument
    add(
        "--data",
        required=True,
        metavar="DIR",
        help="directory of the transformed dataset that pipelines.preprocess wrote",
    )
    add("--output", required=True, metavar="DIR", help="directory for the model")
    add("--model", default=DEFAULT_MODEL, metavar="NAME", help=f"architecture, one of those listed below {DEFAULT}")
    add(
        "--recipe",
        default=RECIPES[0],
        metavar="NAME",
        help="best: the defaults shown here are those of the model's recipe, which is fitted to the size of the data "
        f"and to the hardware; none: plain defaults {DEFAULT}",
    )
    add(
        "--epochs",
        type=int,
        default=defaults.epochs,
        help=f"largest number of passes over the training split {DEFAULT}",
    )
    add("--batch_size", type=int, default=read.batch_size, help=f"videos per step, on all devices together {DEFAULT}")
    add("--seed", type=int, default=read.seed, help=f"random seed for weights, data order and sampling {DEFAULT}")
    add("--resume", action="store_true", help="continue an interrupted run, with the same data order")
    add("--overwrite", action="store_true", help="replace the contents of the output directory")
    add_trust_argument(parser)
    add(
        "--patience",
        type=int,
        default=defaults.patience,
        help=f"stop after this many epochs without a better validation mAP; 0 never stops early {DEFAULT}",
    )
    add(
        "--frames",
        default=read.frames,
        metavar="MODE",
        help=f"how frames are sampled in training: one of {', '.join(FRAME_SAMPLINGS)} {DEFAULT}",
    )
    add("--max_frames", type=int, default=read.max_frames, help=f"largest number of frames per video {DEFAULT}")
    add("--quiet", action="store_true", help="show no progress: print warnings and the result alone")


def _add_loss_flags(group: argparse._ArgumentGroup) -> None:
    loss, defaults = DEFAULTS.loss, DEFAULTS
    add = group.add_argument
    add("--loss", default=loss.name, metavar="NAME", help=f"one of {', '.join(LOSS_NAMES)} {DEFAULT}")
    add(
        "--label_smoothing",
        type=float,
        default=loss.label_smoothing,
        help=f"fraction of the label mass, in [0, 1), that is spread over all classes {DEFAULT}",
    )
    add(
        "--gamma",
        type=float,
        help="focusing exponent of the focal loss (default: 2), or for positives in the asymmetric loss (default: 0)",
    )
    add(
        "--gamma_negative",
        type=float,
        default=loss.gamma_negative,
        help=f"focusing exponent for negatives (asymmetric loss only) {DEFAULT}",
    )
    add("--alpha", type=float, default=loss.alpha, help=f"weight of positives, in (0, 1) (focal loss only) {DEFAULT}")
    add(
        "--margin",
        type=float,
        default=loss.margin,
        help=f"probability below which a negative is ignored (asymmetric loss only) {DEFAULT}",
    )
    add(
        "--class_prior",
        nargs="?",
        const=True,
        default=False,
        type=_flag,
        metavar="{true,false}",
        help=f"start the classifier's biases at the classes' log-odds {DEFAULT}",
    )
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="DIR",
        help="exported model to distil (repeatable; several are averaged)",
    )
    add(
        "--teacher_weight",
        type=float,
        default=defaults.teacher_weight,
        help=f"fraction of the loss that follows the teachers {DEFAULT}",
    )
    add(
        "--mixup",
        type=float,
        default=defaults.mixup,
        help=f"both parameters of the Beta distribution that mixup draws from; 0 disables mixup {DEFAULT}",
    )
    add(
        "--modality_dropout",
        type=float,
        default=defaults.modality_dropout,
        metavar="P",
        help="fraction of the modalities of a video, in [0, 1), that a step leaves out, though never all of them: the "
        f"model learns to do without {DEFAULT}",
    )


def _add_optimizer_flags(group: argparse._ArgumentGroup) -> None:
    schedule, defaults = DEFAULTS.schedule, DEFAULTS
    add = group.add_argument
    add(
        "--optimizer", default=defaults.optimizer, metavar="NAME", help=f"one of {', '.join(OPTIMIZER_NAMES)} {DEFAULT}"
    )
    add("--learning_rate", type=float, default=schedule.learning_rate, help=f"peak learning rate {DEFAULT}")
    add(
        "--decay",
        default=schedule.decay,
        metavar="NAME",
        help=f"decay of the learning rate: one of {', '.join(DECAYS)} {DEFAULT}",
    )
    add(
        "--warmup_examples",
        type=int,
        default=schedule.warmup_examples,
        help=f"examples over which the learning rate rises linearly from 0 {DEFAULT}",
    )
    add("--decay_rate", type=float, default=schedule.decay_rate, help=f"factor of the exponential decay {DEFAULT}")
    add(
        "--decay_examples",
        type=int,
        default=schedule.decay_examples,
        help=f"examples per decay step: the rate is multiplied by --decay_rate every N examples {DEFAULT}",
    )
    add(
        "--final_rate",
        type=float,
        default=schedule.floor,
        help=f"fraction of the peak learning rate at which the cosine decay ends {DEFAULT}",
    )
    add("--weight_decay", type=float, default=defaults.weight_decay, help=f"weight decay (adamw only) {DEFAULT}")
    add(
        "--clip_norm",
        type=float,
        default=defaults.clip_norm,
        help=f"largest global norm of the gradients; 0 disables clipping {DEFAULT}",
    )
    add(
        "--ema",
        type=float,
        default=defaults.ema,
        help=f"per-step decay of the exponential moving average of the weights; 0 disables it {DEFAULT}",
    )
    add(
        "--average_checkpoints",
        type=int,
        default=defaults.average_checkpoints,
        help=f"average the weights of this many best epochs if that validates better than the best one {DEFAULT}",
    )
    add(
        "--calibration",
        default=defaults.calibration,
        metavar="NAME",
        help=f"one of {', '.join(CALIBRATIONS)}: platt puts the exported logits through a line fitted on "
        f"validation, so that probabilities are right; no ranking changes {DEFAULT}",
    )


def _add_transfer_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--init_from", default="", metavar="DIR", help="start from the weights of this exported model")
    add("--new_head", action="store_true", help="initialise the classifier at random; take over all other layers")
    add(
        "--allow_other_scaling",
        action="store_true",
        help="start from a model of features that were normalised with other statistics than --data, as --new_head may",
    )
    add(
        "--freeze",
        action="append",
        default=[],
        metavar="GLOB",
        help="freeze layers whose names match this glob (repeatable)",
    )
    add(
        "--unfreeze_after", type=int, default=0, help=f"unfreeze those layers after this many epochs; 0 never {DEFAULT}"
    )
    add(
        "--learning_rate_scale",
        action="append",
        default=[],
        metavar="GLOB=FACTOR",
        help="multiply the learning rate of matching variables (repeatable; the first match counts)",
    )


def _add_hardware_flags(group: argparse._ArgumentGroup) -> None:
    defaults = DEFAULTS
    add = group.add_argument
    add("--precision", default="float32", metavar="NAME", help=f"one of {', '.join(PRECISIONS)} {DEFAULT}")
    add("--jit", action="store_true", help="compile the step with XLA")
    add(
        "--distribution",
        default="auto",
        metavar="NAME",
        help=f"one of {', '.join(DISTRIBUTIONS)}; auto uses TF_CONFIG if set, else all GPUs {DEFAULT}",
    )
    add(
        "--devices",
        default="",
        metavar="NAME,...",
        help="devices to mirror over, for example GPU:0,GPU:1 (default: all)",
    )
    add(
        "--steps_per_call",
        type=int,
        default=defaults.steps_per_call,
        help=f"training steps per call into TensorFlow {DEFAULT}",
    )
    add(
        "--checkpoint_seconds",
        type=float,
        default=defaults.checkpoint_seconds,
        help=f"seconds between checkpoints inside an epoch {DEFAULT}",
    )


# What stands for the value of a hyperparameter, by the type of its default.
_METAVARS = {int: "N", float: "X", str: "NAME", tuple: "N,..."}


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text == "true"


def _add_hyperparameter(group: argparse._ArgumentGroup, name: str, declared: Hyperparameter, default: Any) -> None:
    shown = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default).lower()
    flag: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(declared.default, bool) else {}

    def parse(text: str) -> Any:
        return declared.parse(name, text)

    group.add_argument(
        f"--{name}",
        type=parse,
        default=default,
        metavar="{true,false}" if flag else _METAVARS[type(declared.default)],
        help=f"{declared.meaning} (default: {shown})".replace("%", "%%"),
        **flag,
    )


# Flags of training that take no value.
SWITCHES = frozenset(action.dest for action in make_parser()._actions if action.nargs == 0 and action.dest != "help")


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Parser]:
    """The flags, and the parser of the model that they name: a first pass reads the flags that choose it."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", default=DEFAULT_MODEL)
    first.add_argument("--recipe", default=RECIPES[0])
    first.add_argument("--data")
    chosen = first.parse_known_args(argv)[0]
    if chosen.recipe not in RECIPES:
        raise unknown_choice("recipe", chosen.recipe, RECIPES)
    model = chosen.model
    if model == AUTO:
        model = choose_model(open_transformed(chosen.data)) if chosen.data else DEFAULT_MODEL
    parser = make_parser(model, chosen.recipe)
    args, rest = parser.parse_known_args(argv)
    args.model = model
    if rest:
        flag = rest[0].partition("=")[0]
        name = flag.removeprefix("--")
        owners = [other for other, info in sorted(MODELS.items()) if name in info.hyperparameters]
        if flag.startswith("--") and owners:
            raise UsageError(f"model {model} has no hyperparameter {name}; these have it: {', '.join(owners)}")
        suggestion = nearest(flag, option_names(parser))
        hint = f"; did you mean {suggestion}?" if suggestion else "; see --help"
        raise UsageError(f"unrecognised argument {rest[0]!r} for model {model}{hint}")
    return args, parser


def _given(argv: Sequence[str] | None, parser: Parser) -> set[str]:
    """Names of the flags that a command line gives, to their default or to another value."""
    unset = {action.dest: None for action in parser._actions}  # argparse fills in no default where there is a value
    values = vars(parser.parse_known_args(argv, argparse.Namespace(**unset))[0])
    return {name for name, value in values.items() if value is not None}


def parse_config(argv: Sequence[str] | None) -> TrainConfig:
    """Reads a command line. What the model's recipe says is not fitted to the data yet.

    Raises:
        UsageError: an unknown flag, model or hyperparameter (names the nearest), or a value out of range.
    """
    args, parser = _parse(argv)
    recipe = model_info(args.model).recipe.values if args.recipe == "best" else {}
    given = _given(argv, parser)
    open_entries = tuple(name for name in recipe if name not in given)
    chosen = {name: getattr(args, name) for name in model_info(args.model).hyperparameters}
    options = TrainOptions(
        read=InputOptions(
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
            decay_rate=args.decay_rate,
            decay_examples=args.decay_examples,
            floor=args.final_rate,
        ),
        epochs=args.epochs,
        optimizer=args.optimizer,
        weight_decay=args.weight_decay,
        clip_norm=args.clip_norm,
        ema=args.ema,
        mixup=args.mixup,
        modality_dropout=args.modality_dropout,
        teacher_weight=args.teacher_weight if args.teacher else 0.0,
        patience=args.patience,
        average_checkpoints=args.average_checkpoints,
        calibration=args.calibration,
        checkpoint_seconds=args.checkpoint_seconds,
        steps_per_call=args.steps_per_call,
        jit=args.jit,
    )
    return TrainConfig(
        data=args.data,
        output=args.output,
        model=args.model,
        hyperparameters=resolve_hyperparameters(args.model, without_conflicts(chosen, open_entries)),
        options=options,
        resume=args.resume,
        overwrite=args.overwrite,
        trust_model=args.trust_model,
        precision=args.precision,
        distribution=args.distribution,
        devices=tuple(part for part in args.devices.split(",") if part),
        class_prior=args.class_prior,
        teachers=tuple(args.teacher),
        init_from=args.init_from,
        new_head=args.new_head,
        allow_other_scaling=args.allow_other_scaling,
        freeze=tuple(args.freeze),
        unfreeze_after=args.unfreeze_after,
        rate_scales=tuple(map(_rate_scale, args.learning_rate_scale)),
        verbose=not args.quiet,
        recipe=open_entries,
    )


def _rate_scale(text: str) -> tuple[str, float]:
    glob, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = -1.0
    if not glob or value < 0:
        raise UsageError(f"--learning_rate_scale must be like 'hidden*=0.1', got {text!r}")
    return glob, value


def ineffective_flags(
    argv: Sequence[str] | None, *, reads_frames: bool, epochs: int | None = None, modalities: int = 2
) -> list[str]:
    """A sentence for each flag of a command line that another flag, or the data, deprives of any effect.

    Args:
        reads_frames: whether the model reads a frames modality of the data.
        epochs: those of the run, where its recipe has fitted them to the data.
        modalities: how many the records of the data have.
    """
    args, parser = _parse(argv)
    epochs = args.epochs if epochs is None else epochs
    conditions: list[tuple[tuple[str, ...], bool, str]] = [
        (("gamma",), args.loss in ("focal", "asymmetric"), "without --loss=focal or --loss=asymmetric"),
        (("gamma_negative", "margin"), args.loss == "asymmetric", "without --loss=asymmetric"),
        (("alpha",), args.loss == "focal", "without --loss=focal"),
        (("teacher_weight",), bool(args.teacher), "without --teacher"),
        (("weight_decay",), args.optimizer == "adamw", "without --optimizer=adamw"),
        (("decay_rate", "decay_examples"), args.decay == "exponential", "without --decay=exponential"),
        (("class_prior",), args.new_head or not args.init_from, "with --init_from without --new_head"),
        (("final_rate",), args.decay == "cosine", "without --decay=cosine"),
        (("frames", "max_frames"), reads_frames, f"because --model={args.model} reads no frames of this data"),
        (("modality_dropout",), modalities > 1, "because the records have one modality"),
        (("unfreeze_after",), args.unfreeze_after < epochs, f"with --epochs={epochs}"),
    ]
    return [
        f"--{name} has no effect {reason}"
        for names, holds, reason in conditions
        for name in names
        if not holds and getattr(args, name) != parser.get_default(name)
    ]
