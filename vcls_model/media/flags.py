"""The flags of every command that decodes media, and the checks of their values."""

import argparse

from vcls_model.commands import DEFAULT, UsageError

# A decoder with less cannot open any file.
_LEAST_MEMORY_MB = 64
_MOST_MEMORY_MB = 1 << 20
# A day per minute of media.
_MOST_SECONDS = 86_400


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
    if not 0 < args.seconds_per_minute <= _MOST_SECONDS:
        raise UsageError(f"--seconds_per_minute must lie between 0 and {_MOST_SECONDS}, got {args.seconds_per_minute}")
    if not _LEAST_MEMORY_MB <= args.memory_mb <= _MOST_MEMORY_MB:
        raise UsageError(
            f"--memory_mb must lie between {_LEAST_MEMORY_MB} and {_MOST_MEMORY_MB:,}, got {args.memory_mb:,}"
        )
