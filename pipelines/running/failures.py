"""Turns worker failures into errors that a person can act on."""

import contextlib
import re
from collections.abc import Iterator

from pipelines.running.runners import RUNNERS
from vcls_model.commands import JobError, UsageError

# Errors of the file system that have a plainer name, by number, as the text of a worker's traceback has them.
_OS_ERRORS = {
    "28": "the disk is full",
    "122": "the disk quota is used up",
    "30": "the file system is read-only",
    "13": "permission denied",
}

# What each runner's failures look like, then those of any worker.
_FAILURES = (
    *dict.fromkeys(failure for runner in RUNNERS for failure in runner.failures),
    (
        r"OutOfMemoryError|MemoryError|std::bad_alloc|ResourceExhaustedError|OOM when allocating",
        "a worker ran out of memory: give each worker more, or let fewer threads share one "
        "(--number_of_worker_harness_threads)",
    ),
    (
        r"can't start new thread",
        "a worker gets no more threads from the system (ulimit -u or -v, or the limit of a container)",
    ),
)


@contextlib.contextmanager
def explained_failures(output: str) -> Iterator[None]:
    """Turns a worker's error that the user can correct into a `UsageError` or `JobError`; others pass through.

    Args:
        output: the job's output directory, for the message.
    """
    resume = f"What is done is kept in {output}: the same command with --resume continues"
    try:
        yield
    except (UsageError, JobError):
        raise
    except Exception as error:
        # Runners pass on what a worker raised as the text of its traceback.
        for kind in (UsageError, JobError):
            meant = re.search(rf"\b{kind.__name__}: (.+?)(?: \[while running .*)?$", str(error), re.MULTILINE)
            if meant:
                raise kind(meant.group(1)) from None
        for pattern, reason in _FAILURES:
            if re.search(pattern, f"{type(error).__name__}: {error}"):
                raise JobError(f"{reason}. {resume}") from error
        in_text = re.search(r"\[Errno (\d+)\] ([^\n]*)", str(error))
        if isinstance(error, OSError) and error.errno is not None:
            number, detail = str(error.errno), str(error)
        elif in_text:
            number, detail = in_text.group(1), in_text.group(0)
        else:
            raise
        meaning = _OS_ERRORS.get(number, "the system refused to read or write")
        raise JobError(f"{meaning}: {detail.strip()}. {resume}") from None
