"""Flags that jobs have in common, and the checks of their values."""

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


def add_job_flags(parser: argparse.ArgumentParser, *, inputs: str, unit: str) -> None:
    """Adds when a job fails, and what it does with an output directory that is not empty.

    Args:
        parser: the job's.
        inputs: what may be rejected: `records`.
        unit: what `--resume` does not repeat: `shards`.
    """
    parser.add_argument(
        "--max_rejected_fraction",
        type=float,
        default=0.01,
        metavar="F",
        help=f"fail if a larger fraction of the {inputs} cannot be used {DEFAULT}",
    )
    parser.add_argument(
        "--resume", action="store_true", help=f"continue an interrupted run: only unfinished {unit} are processed"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output directory")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the plan, write nothing")


def check_job_flags(args: argparse.Namespace) -> None:
    """Checks what `add_job_flags` added.

    Raises:
        UsageError: a value is out of range.
    """
    if not 0 <= args.max_rejected_fraction <= 1:
        raise UsageError(f"--max_rejected_fraction must lie in [0, 1], got {args.max_rejected_fraction}")
