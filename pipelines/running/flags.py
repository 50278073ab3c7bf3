"""Flags that jobs have in common, and the checks of their values."""

import argparse

from vcls_model.commands import DEFAULT, UsageError


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
