"""What goes wrong while a pipeline runs, as a person should read it; and what need not be read at all."""

import contextlib
import logging
import re
from collections.abc import Iterator

from vcls_model.commands import JobError, UsageError

# Errors of the file system that a person must mend, as they appear in the text of a worker's traceback.
_OS_ERRORS = {"28": "the disk is full", "122": "the disk quota is used up", "30": "the file system is read-only",
              "13": "permission denied"}


@contextlib.contextmanager
def explained_failures(output: str) -> Iterator[None]:
    """Turns a worker's error that the user can mend into a `UsageError` or `JobError`; others pass through.

    Args:
        output: the job's output directory, for the message.
    """
    try:
        yield
    except (UsageError, JobError):
        raise
    except Exception as error:
        # Runners hand on what a worker raised as the text of its traceback.
        for kind in (UsageError, JobError):
            meant = re.search(rf"\b{kind.__name__}: (.+?)(?: \[while running .*)?$", str(error), re.MULTILINE)
            if meant:
                raise kind(meant.group(1)) from None
        found = re.search(r"\[Errno (\d+)\] ([^\n]*)", str(error))
        if isinstance(error, OSError) and error.errno is not None:
            number, detail = str(error.errno), str(error)
        elif found:
            number, detail = found.group(1), found.group(0)
        else:
            raise
        if number not in _OS_ERRORS:
            raise
        raise JobError(f"{_OS_ERRORS[number]}: {detail.strip()}. What is done is kept in {output}: "
                       "the same command with --resume continues") from None


@contextlib.contextmanager
def quiet_runner() -> Iterator[None]:
    """Keeps Beam's and TensorFlow's chatter, and tracebacks of errors that are raised anyway, off the screen."""
    loggers = [logging.getLogger(name) for name in ("apache_beam", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
