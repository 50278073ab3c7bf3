"""Shared by every command line of the project: errors that users can act on, flag suggestions, exit codes.

Exit 0 means done, 1 failed, 2 wrong usage. Nothing heavy is imported here: `--help` must answer at once.
"""

import argparse
import atexit
import difflib
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from vcls_model import limits

# Seconds that a job has to end by itself after SIGTERM.
_ENDING_SECONDS = 5.0
# A path on the command line that is not what it should be: nothing was begun.
_NAMING_ERRORS = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_GO_ON = (
    "What was finished stays: the same command goes on with --resume, or begins again with --overwrite where there is "
    "no --resume"
)
# Names of files, classes and videos come from anyone: what would move the cursor, change the colours or the title of a
# terminal, or the order of its letters. Ends of lines, tabs and returns are the commands' own, but for their messages.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# What stands for a number in help texts.
_METAVARS = {int: "N", float: "X"}
# Ends the help of a flag that has a default.
DEFAULT = "(default: %(default)s)"


class UsageError(Exception):
    """The command line asks for something impossible: exit 2, message only."""


class JobError(Exception):
    """The job failed for a reason that the user can act on: exit 1, message only."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError` instead of printing its usage and exiting."""

    def format_help(self) -> str:
        for action in self._actions:
            if action.metavar is None and action.type in _METAVARS:
                action.metavar = _METAVARS[action.type]
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def first_line(documentation: str | None) -> str:
    """The first line of a module's documentation, for its `--help`; empty under `python -OO`, which drops it."""
    return (documentation or "").partition("\n")[0]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` most similar to `name`, but not `name` itself; None if nothing is close."""
    matches = difflib.get_close_matches(name, [entry for entry in known if entry != name], n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_choice(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`: lists those and suggests the most similar."""
    known = sorted(known)
    suggestion = nearest(name, known)
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    return UsageError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Every long flag that `parser` accepts."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def reject_unknown_flags(rest: Sequence[str], known: Iterable[str]) -> None:
    """Raises `UsageError` for the first argument in `rest`, suggesting the most similar of the `known` flags."""
    if not rest:
        return
    flag = rest[0].split("=", 1)[0]
    known = set(known)
    suggestion = None if flag in known else nearest(flag, sorted(known))
    hint = f"; did you mean {suggestion}?" if suggestion else "; see --help"
    raise UsageError(f"unrecognised argument {rest[0]!r}{hint}")


def parse_all(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line without Beam options: anything left over is a `UsageError`."""
    parser.allow_abbrev = False
    args, rest = parser.parse_known_args(argv)
    reject_unknown_flags(rest, option_names(parser))
    return args


def main(run: Callable[[Sequence[str] | None], Any]) -> NoReturn:
    """Runs a job as a program: maps its outcome to an exit code and prints errors without a traceback.

    Programming errors keep their traceback: those are ours to fix.
    """
    _keep_docstrings()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's errors, not its notes
    os.environ["MPLBACKEND"] = "agg"  # figures go to files: no terminal or notebook's choice may stop a job
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of ASCII shows \xe4 rather than end a job
            stream.reconfigure(errors="backslashreplace")
            _write_printable(stream)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it tells where it keeps its cache, in three lines
    signal.signal(signal.SIGTERM, _terminate)
    _leave(_exit_code(run))


def _keep_docstrings() -> None:
    """Starts the program again without `-OO`: Beam, for one, reads docstrings as soon as it is imported."""
    if sys.flags.optimize < 2:
        return
    import subprocess

    os.environ.pop("PYTHONOPTIMIZE", None)
    flags = [flag for flag in subprocess._args_from_interpreter_flags() if not flag.startswith("-O")]  # type: ignore[attr-defined]
    spec = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if spec is None else ["-m", spec.name]
    os.execv(sys.executable, [sys.executable, *flags, *program, *sys.argv[1:]])


def _open_closed_streams() -> None:
    """Lets standard streams that are closed (`2>&-`) lead nowhere.

    Else a file that the job opens next would get the number of one, and what libraries print there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _write_printable(stream: io.TextIOWrapper) -> None:
    """From here on, a stream writes characters that control a terminal as `\\x1b`."""
    write = stream.write

    def write_escaped(text: str) -> int:
        write(_CONTROLS.sub(_escape, text))
        return len(text)

    stream.write = write_escaped  # type: ignore[method-assign]


def _escape(match: "re.Match[str]") -> str:
    return match.group().encode("unicode_escape").decode()


def _say(kind: str, message: str) -> None:
    """Prints the message with which a command ends; a name with an end of line in it forges no other."""
    shown = message.replace("\r", "\\r").replace("\n", "\n  ")
    print(f"{kind}: {shown}", file=sys.stderr, flush=True)


def _exit_code(run: Callable[[Sequence[str] | None], Any]) -> int:
    try:
        limits.supervise(_fail_now)
        limits.end_with_threads(_fail_now)
        run(None)
        _flush_result()
    except UsageError as error:
        _say("usage error", str(error))
        return 2
    except JobError as error:
        _say("error", str(error))
        return 1
    except OSError as error:
        reason = limits.explained(error) if error.errno in (None, errno.EAGAIN, errno.ENOMEM) else None
        if error.errno is None and reason is None:  # raised by a library for reasons of its own
            raise
        plain = error.errno in _NAMING_ERRORS
        _say("error", (reason or os_error_text(error)) + ("" if plain else f". {_GO_ON}"))
        return 1
    except _Terminated:
        print(f"terminated. {_GO_ON}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print(f"interrupted. {_GO_ON}", file=sys.stderr)
        return 130
    except Exception as error:
        reason = limits.explained(error)
        if reason is None:
            raise
        _say("error", f"{reason}. {_GO_ON}")
        return 1
    return 0


def _flush_result() -> None:
    """Raises `OSError` where standard output takes nothing more: the result is lost, and the command has failed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again, and complains
        raise


def _fail_now(reason: str) -> NoReturn:
    _say("error", f"{reason}. {_GO_ON}")
    os._exit(1)


def os_error_text(error: OSError) -> str:
    """What happened, and to which file where the system says so: `/data/a: No space left on device`."""
    reason = error.strerror or os.strerror(error.errno or 0)
    return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason


class _Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


def _terminate(number: int, frame: object) -> NoReturn:
    # Workers' threads may finish what they are at, which whoever asked will not wait for.
    late = threading.Timer(_ENDING_SECONDS, _leave_now)
    late.daemon = True
    late.start()
    raise _Terminated


def _leave_now() -> None:
    print(f"terminated. {_GO_ON}", file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGTERM)


def _leave(status: int) -> NoReturn:
    if "apache_beam" not in sys.modules:
        sys.exit(status)
    # Beam's runner may leave threads of workers behind, after an error for instance, for which Python would wait.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
