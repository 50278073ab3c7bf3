"""A job that runs into a limit of the system ends with one line, and does not hang.

Libraries that get no memory or no thread abort their process, or wait for the thread for ever. Where such a limit is
set, a job runs in a child process, and the process that the user started says how that ended.
"""

import ctypes
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

# As many processes and threads as a job never has; most systems allow every user more.
_MANY_PROCESSES = 4096
_PROCESSES_OF_CONTAINER = Path("/sys/fs/cgroup/pids.max")
# (option of ulimit, what it limits, unit in which ulimit counts)
_LIMITS = (
    ("v", resource.RLIMIT_AS, 1024),
    ("d", resource.RLIMIT_DATA, 1024),
    ("u", resource.RLIMIT_NPROC, 1),
    ("t", resource.RLIMIT_CPU, 1),
)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
# What Python and the libraries say where the system gives them nothing.
_REASONS = (
    (r"can't start new thread|pthread_create|Resource temporarily unavailable", "the system allows no more threads"),
    (
        r"MemoryError|bad_alloc|[Cc]annot allocate memory|failed to map segment|OOM when allocating|ResourceExhausted"
        r"|Unable to allocate|malloc of size",
        "there is not enough memory",
    ),
    (r"Too many open files", "the system allows no more open files"),
    (r"File too large", "a file would become larger than the system allows"),
    (r"No space left on device", "the disk is full"),
    (r"Disk quota exceeded", "the disk quota is used up"),
    (r"Read-only file system", "the file system is read-only"),
    (r"Input/output error", "the disk gives an error"),
    (r"Stale file handle", "the file server has forgotten a file"),
)


def in_force() -> list[str]:
    """The limits that a job may run into, as the user sets them: `ulimit -v 4000000`."""
    found = []
    for option, kind, unit in _LIMITS:
        allowed, _ = resource.getrlimit(kind)
        if allowed != resource.RLIM_INFINITY and not (option == "u" and allowed >= _MANY_PROCESSES):
            found.append(f"ulimit -{option} {allowed // unit}")
    try:
        processes = _PROCESSES_OF_CONTAINER.read_text().strip()
    except OSError:  # no cgroups, or those of version 1
        return found
    if processes.isdigit() and int(processes) < _MANY_PROCESSES:
        found.append(f"pids.max {processes}")
    return found


def explained(error: BaseException) -> str | None:
    """What an error, or what led to it, says about the system; None where it is about something else."""
    each: BaseException | None = error
    while each is not None:
        text = f"{type(each).__name__}: {each}" if str(each) else type(each).__name__
        for pattern, reason in _REASONS:
            if re.search(pattern, text):
                limits = ", ".join(in_force())
                detail = " ".join(text.partition("Traceback")[0].split())[:300]
                return f"{reason} ({detail})" + (f"; limits: {limits}" if limits else "")
        each = each.__cause__ or each.__context__
    return None


def end_with_threads(fail: Callable[[str], NoReturn]) -> None:
    """From here on, a thread that ends for want of memory or threads ends the process: others would wait for it.

    Args:
        fail: prints the message that it is given, and ends the process.
    """
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        reason = explained(arguments.exc_value) if arguments.exc_value is not None else None
        if reason is None:
            before(arguments)
        else:
            fail(reason)

    threading.excepthook = hook


def supervise(fail: Callable[[str], NoReturn]) -> None:
    """Returns in a child process where limits are set, in this one where none are.

    The parent passes signals on, ends as the child ends, and explains where a signal ended it.

    Args:
        fail: prints the message that it is given, and ends the process.

    Raises:
        OSError: there can be no child process.
    """
    limits = in_force()
    if not limits:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child:
        _wait(child, limits, fail)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait(child: int, limits: list[str], fail: Callable[[str], NoReturn]) -> NoReturn:
    def pass_on(number: int, frame: object) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    # A terminal interrupts both processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN if os.isatty(0) else pass_on)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    name = signal.Signals(os.WTERMSIG(status)).name
    fail(f"the job was ended by {name}, most likely because it ran into a limit ({', '.join(limits)})")
