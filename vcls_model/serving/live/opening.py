"""The model that a command is asked for, with the flags that say how it labels."""

import argparse
import dataclasses
from typing import Any

from vcls_model import storage
from vcls_model.commands import DEFAULT, UsageError
from vcls_model.media.flags import add_decoder_flags, check_decoder_flags
from vcls_model.media.sandbox import MIB
from vcls_model.saved_models import add_trust_argument, refuse_encoder_programs, refuse_programs
from vcls_model.serving.exported import SAVED_MODEL
from vcls_model.serving.live.engine import EngineOptions
from vcls_model.serving.live.everyday import EverydayModel
from vcls_model.serving.live.models import LiveModel, ServedModel

MOST_FPS = 30.0  # as many as the service takes from one stream


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that labels media."""
    add = parser.add_argument
    add(
        "--model",
        metavar="DIR",
        help="exported model whose data were made from media (default: the everyday classes of ImageNet and AudioSet)",
    )
    add("--image_encoder", metavar="PATH", help="picture encoder of the model's data, where it has no known name")
    add("--audio_encoder", metavar="PATH", help="sound encoder of the model's data, where it has no known name")
    add(
        "--fps",
        type=float,
        metavar="X",
        help="pictures per second (default: as the model's records have, which alone makes live labels theirs)",
    )
    add("--window", type=float, default=10.0, metavar="S", help=f"seconds that the labels of now cover {DEFAULT}")
    add(
        "--hold",
        type=float,
        default=2.0,
        metavar="S",
        help=f"seconds that a clear label takes to come, or go {DEFAULT}",
    )
    add(
        "--hysteresis",
        type=float,
        default=2.5,
        metavar="X",
        help=f"logits below its threshold at which a label goes {DEFAULT}",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help=f"for models that chose none for their classes {DEFAULT}",
    )
    add_decoder_flags(parser)
    add_trust_argument(parser)


def engine_options(args: argparse.Namespace, **more: int) -> EngineOptions:
    """How streams are labelled, from the flags.

    Raises:
        UsageError: a number is out of range.
    """
    if not args.window > 0:
        raise UsageError(f"--window must be positive, got {args.window:g}")
    for name in ("hold", "hysteresis"):
        if not getattr(args, name) >= 0:
            raise UsageError(f"--{name} must be at least 0, got {getattr(args, name):g}")
    check_decoder_flags(args)
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold must lie between 0 and 1, got {args.threshold:g}")
    return EngineOptions(args.window, args.hold, args.hysteresis, args.threshold, **more)


def open_model(args: argparse.Namespace, name: str | None = None) -> LiveModel:
    """Loads the model of `--model`, or the everyday one.

    Raises:
        UsageError, JobError: see `ServedModel.load` and `EverydayModel.load`.
        UsageError: --fps is out of range; or a SavedModel may do more than compute, and there is no --trust_model.
    """
    options: dict[str, Any] = {
        "image_encoder": args.image_encoder,
        "audio_encoder": args.audio_encoder,
        "seconds_per_minute": args.seconds_per_minute,
        "memory_bytes": args.memory_mb * MIB,
    }
    refuse_encoder_programs(args)
    if args.fps is not None and not 0 < args.fps <= MOST_FPS:
        raise UsageError(f"--fps must lie between 0 and {MOST_FPS:g}, got {args.fps:g}")
    if args.model is None:
        return _at(EverydayModel.load(name, **options), args.fps)
    from vcls_model.quiet import start_tensorflow_without_keras

    start_tensorflow_without_keras()
    refuse_programs(storage.join(args.model, SAVED_MODEL), f"--model={args.model}", trusted=args.trust_model)
    return _at(ServedModel.load(args.model, name, **options), args.fps)


def _at(model: ServedModel | EverydayModel, fps: float | None) -> LiveModel:
    """The model with another number of rows per second."""
    if fps is None:
        return model
    if model.media is None:
        raise UsageError("--fps needs a model whose data were made from media: this one takes whole records")
    return dataclasses.replace(model, media=dataclasses.replace(model.media, fps=fps))
