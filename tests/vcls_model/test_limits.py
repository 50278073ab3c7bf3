"""What becomes of a command that runs into a limit of the system."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import ROOT
from vcls_model import limits

_MAIN = """
import os, signal, sys, threading, time
from vcls_model.commands import main, JobError
def run(argv):
{body}
main(run)
"""


def start(body: str, **limit: int) -> "subprocess.Popen[str]":
    """A command that does `body`, under limits on resources of these names."""

    def set_limits() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the shell ignores for what it runs in the background
        for name, value in limit.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))

    code = _MAIN.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_limits,
    )


def outcome(body: str, **limit: int) -> tuple[int, str, str]:
    process = start(body, **limit)
    out, errors = process.communicate(timeout=30)
    return process.returncode, out, errors


def test_without_limits_there_is_no_other_process() -> None:
    code, out, _ = outcome("print(os.getpid(), os.getppid())")
    child, parent = map(int, out.split())
    assert code == 0 and parent == os.getpid() and child != parent


@pytest.mark.parametrize(
    ("body", "code"),
    [("print('done')", 0), ("raise JobError('no')", 1), ("sys.exit(7)", 7), ("os._exit(3)", 3)],
)
def test_under_a_limit_a_command_ends_as_it_does_without(body: str, code: int) -> None:
    returned, out, errors = outcome(body, nproc=4000)
    assert returned == code
    assert out == ("done\n" if code == 0 else "") and errors == ("error: no\n" if code == 1 else "")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_a_library_ends_is_explained(number: signal.Signals) -> None:
    code, _, errors = outcome(f"os.kill(os.getpid(), {int(number)})", **{"as": 1 << 32})
    assert code == 1
    assert errors.startswith(f"error: the job was ended by {number.name}, most likely because it ran into a limit")
    assert "(ulimit -v 4194304)" in errors and "--resume" in errors and errors.count("\n") == 1


def test_memory_that_is_not_there_is_one_line() -> None:
    code, _, errors = outcome("bytearray(1 << 40)", **{"as": 1 << 32})
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: there is not enough memory (MemoryError") and "ulimit -v 4194304" in errors


def test_a_thread_that_dies_for_want_of_memory_ends_the_command() -> None:
    """Whoever waits for it would wait for ever."""
    body = "threading.Thread(target=lambda: bytearray(1 << 40)).start()\ntime.sleep(25)"
    started = time.monotonic()
    code, _, errors = outcome(body, **{"as": 1 << 32})
    assert (code, errors.count("\n")) == (1, 1) and "not enough memory" in errors
    assert time.monotonic() - started < 15


def test_other_errors_keep_their_traceback() -> None:
    code, _, errors = outcome("raise ValueError('ours to fix')")
    assert code == 1 and "Traceback" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_job(number: signal.Signals) -> None:
    process = start("print('at work', flush=True)\ntime.sleep(25)", nproc=4000)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (143 if number == signal.SIGTERM else 130)
    assert "What was finished stays" in errors


def test_the_job_dies_with_the_process_that_the_user_kills() -> None:
    process = start("print(os.getpid(), flush=True)\ntime.sleep(25)", nproc=4000)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert child != process.pid
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("can't start new thread"), "no more threads"),
        (ImportError("libfoo.so: failed to map segment from shared object"), "not enough memory"),
        (OSError("[Errno 27] File too large"), "larger than the system allows"),
        (ValueError("anything else"), None),
    ],
)
def test_what_libraries_say_is_understood(error: Exception, reason: str | None) -> None:
    found = limits.explained(error)
    assert (found is None) if reason is None else reason in str(found)
    wrapped = KeyError("outer")
    wrapped.__cause__ = error
    assert limits.explained(wrapped) == found


def test_threads_of_others_keep_their_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[type] = []
    failed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: others.append(arguments.exc_type))
    limits.end_with_threads(failed.append)  # type: ignore[arg-type]
    for error in (RuntimeError("ours to fix"), MemoryError()):
        thread = threading.Thread(target=raise_it, args=(error,))
        thread.start()
        thread.join()
    assert others == [RuntimeError]
    assert len(failed) == 1 and "not enough memory" in failed[0]


def raise_it(error: Exception) -> None:
    raise error
