"""The flags of every command that decodes media, and the checks of their values."""

import argparse

from vcls_model.commands import DEFAULT, UsageError

# A decoder with less cannot open any file.
_LEAST_MEMORY_MB = 64


def add_decoder_flags(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Adds what decoding a media file may cost; `note` ends the help of each flag."""
    parser.add_argument(
        "--seconds_per_minute",
        type=float,
        default=60.0,
        metavar="S",
        help=f"time to wait for the decoder per minute of media before the file is given up{note} {DEFAULT}",
    )
    parser.add_argument(
        "--memory_mb", type=int, default=1024, help=f"memory that the decoder of a file may use, in MiB{note} {DEFAULT}"
    )


def check_decoder_flags(args: argparse.Namespace) -> None:
    """Checks what `add_decoder_flags` added.

    Raises:
        UsageError: a value is out of range.
    """
    if not args.seconds_per_minute > 0:
        raise UsageError(f"--seconds_per_minute must be positive, got {args.seconds_per_minute}")
    if args.memory_mb < _LEAST_MEMORY_MB:
        raise UsageError(f"--memory_mb must be at least {_LEAST_MEMORY_MB}, got {args.memory_mb}")
