"""What every command line of the project shares: errors a person can act on, flag suggestions, exit codes.

Exit 0 means done, 1 failed, 2 wrong usage. Nothing heavy is imported here: `--help` must answer at once.
"""

import argparse
import atexit
import difflib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn


class UsageError(Exception):
    """The command line asks for something that cannot be: exit 2, message only."""


class JobError(Exception):
    """The job could not be done for a reason the user can act on: exit 1, message only."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others: `UsageError` instead of the usage and an exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` most like `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_choice(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`: lists them and names the nearest."""
    known = sorted(known)
    suggestion = nearest(name, known)
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    return UsageError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Every long flag that `parser` knows."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def reject_unknown_flags(rest: Sequence[str], known: Iterable[str]) -> None:
    """Raises `UsageError` for the first argument in `rest`, naming the flag it is nearest to."""
    if not rest:
        return
    flag = rest[0].split("=", 1)[0]
    suggestion = nearest(flag, known)
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

    Programming errors keep their traceback: those are ours to mend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's errors, not its notes
    gc.set_threshold(100_000, 50, 50)  # imports make millions of objects that stay: a fifth of their time is spared
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        run(None)
    except UsageError as error:
        print(f"usage error: {error}", file=sys.stderr)
        _leave(2)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(1)
    except OSError as error:
        if not error.filename or not error.strerror:
            raise
        print(f"error: {os.fsdecode(error.filename)}: {error.strerror}", file=sys.stderr)
        _leave(1)
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues", file=sys.stderr)
        _leave(130)
    _leave(0)


def _leave(status: int) -> NoReturn:
    """Ends the process without waiting for Beam's threads, or for its and TensorFlow's libraries to unload."""
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
