"""Flags that jobs have in common, and the checks of their values."""

import argparse

from pipelines.running.runners import find_runner
from vcls_model.commands import DEFAULT, UsageError
from vcls_model.records.input_files import input_files
from vcls_model.records.schema import MOST_FRAMES


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


def check_max_frames(args: argparse.Namespace) -> None:
    """Raises `UsageError` where --max_frames is out of range."""
    if not 1 <= args.max_frames <= MOST_FRAMES:
        raise UsageError(f"--max_frames must lie between 1 and {MOST_FRAMES:,}, got {args.max_frames:,}")


def check_input_names(args: argparse.Namespace) -> None:
    """Looks for the files that a job names on this machine's disks, before Beam is imported, which takes seconds.

    Raises:
        UsageError: see `input_files`.
    """
    for name in ("input", "train_input", "validate_input", "test_input"):
        pattern = getattr(args, name, None)
        # What workers elsewhere cannot reach is refused for that, and stores are asked with Beam's options.
        if pattern and "://" not in pattern and find_runner(args.runner).is_local:
            input_files(pattern)
