"""What goes wrong while a pipeline runs, as a person should read it; and what need not be read at all."""

import contextlib
import importlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from vcls_model.commands import JobError, UsageError

# Errors of the file system that a person must mend, as they appear in the text of a worker's traceback.
_OS_ERRORS = {
    "28": "the disk is full",
    "122": "the disk quota is used up",
    "30": "the file system is read-only",
    "13": "permission denied",
}

# What a cluster's failures look like in what its runner raises.
_RUNNER_ERRORS = (
    (
        r"Channel closed prematurely|Worker subprocess exited",
        "a worker process died: it was killed, or the machine ran out of memory (--direct_num_workers=1 takes less)",
    ),
    (
        r"Unable to fetch remote job server jar|HTTP Error 404.*job-server",
        "Beam could not download this runner's job server: name one with --flink_job_server_jar (make flink-"
        "install builds it)",
    ),
    (
        r"java\.net\.ConnectException|StatusCode\.UNAVAILABLE|FlinkJobNotFound|FutureTimeoutError",
        "the cluster that ran the job cannot be reached any more, or has forgotten the job: its JobManager or"
        " its job server was lost",
    ),
    (
        r"NoResourceAvailableException|Could not acquire the minimum required resources",
        "the cluster has fewer free slots than --parallelism asks for: start more TaskManagers or lower it",
    ),
    (
        r"No such file or directory: 'java'",
        "the job server needs Java and there is none on the path",
    ),
    (
        r"OutOfMemoryError|MemoryError|std::bad_alloc|ResourceExhaustedError|OOM when allocating",
        "a worker ran out of memory: give each worker more, or let fewer threads share one "
        "(--number_of_worker_harness_threads)",
    ),
    # All that Flink's side sees of a Python process that the system has killed.
    (
        r"CANCELLED: client cancelled|SDK harness .* disconnected",
        "Python workers died one after the other, most often because the system killed them for their memory "
        "(dmesg or the state of their containers tells): give each worker more, or let fewer tasks share one "
        "(--sdk_worker_parallelism)",
    ),
)


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
        for pattern, reason in _RUNNER_ERRORS:
            if re.search(pattern, f"{type(error).__name__}: {error}"):
                raise JobError(
                    f"{reason}. What is done is kept in {output}: the same command with --resume continues"
                ) from error
        found = re.search(r"\[Errno (\d+)\] ([^\n]*)", str(error))
        if isinstance(error, OSError) and error.errno is not None:
            number, detail = str(error.errno), str(error)
        elif found:
            number, detail = found.group(1), found.group(0)
        else:
            raise
        if number not in _OS_ERRORS:
            raise
        raise JobError(
            f"{_OS_ERRORS[number]}: {detail.strip()}. What is done is kept in {output}: "
            "the same command with --resume continues"
        ) from None


@contextlib.contextmanager
def quick_handover() -> Iterator[None]:
    """Lets threads wait a tenth as long for Python's lock: a worker of kernels needs it often, never for long."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@contextlib.contextmanager
def quiet_runner() -> Iterator[None]:
    """Keeps Beam's and TensorFlow's chatter, and tracebacks of errors that are raised anyway, off the screen.

    Raises:
        RuntimeError: a worker process died, which Beam itself may wait for in vain.
    """
    loggers = [logging.getLogger(name) for name in ("apache_beam", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
        logger.addFilter(_is_critical)  # an import meanwhile sets absl's level anew
    # A worker in this process prints the traceback of every error, past any logger; the error itself is raised anyway.
    worker = vars(importlib.import_module("apache_beam.runners.worker.sdk_worker"))
    worker["print"] = lambda *_, **__: None
    lost: list[str] = []
    over = threading.Event()

    def interrupt() -> None:
        # More than once: the runner waits again while it cleans up.
        while not over.wait(0.5):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    def in_thread(failure: threading.ExceptHookArgs) -> None:
        if "Worker subprocess exited" in str(failure.exc_value) and not lost:
            lost.append(str(failure.exc_value))
            threading.Thread(target=interrupt, name="interrupt", daemon=True).start()

    def heard(number: int, frame: object) -> None:
        if lost:
            raise KeyboardInterrupt

    usual, threading.excepthook = threading.excepthook, in_thread
    # A script's background jobs ignore SIGINT: they stay deaf to everybody's but ours.
    deaf = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if deaf:
        signal.signal(signal.SIGINT, heard)
    try:
        yield
    except KeyboardInterrupt:
        if not lost:
            raise
        _end_worker_processes()
        raise RuntimeError(lost[0]) from None
    finally:
        over.set()
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        del worker["print"]
        if not lost:  # the others' threads have yet to notice
            threading.excepthook = usual
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeFilter(_is_critical)


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


def _end_worker_processes() -> None:
    """Kills the worker processes that a runner left behind: they would wait for it for ever."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # not a process, or one that just ended
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    ours = [os.getpid()]
    for parent in ours:
        ours += [process for process, known in parents.items() if known == parent]
    for process in ours[1:]:
        with contextlib.suppress(OSError):
            if b"sdk_worker_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)
