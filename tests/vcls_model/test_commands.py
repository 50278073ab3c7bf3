"""Exit codes, one-line errors and suggestions of the command lines."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from vcls_model.commands import Parser, UsageError, nearest, parse_all, reject_unknown_flags, unknown_choice

PROGRAM = """
import sys
from vcls_model.commands import JobError, UsageError, main
def run(argv):
    {body}
main(run)
"""


def program(body: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("print('done')", 0, ""),
        ("raise UsageError('no such flag')", 2, "usage error: no such flag\n"),
        ("raise JobError('no such bucket')", 1, "error: no such bucket\n"),
        ("open('/absent/x')", 1, "error: /absent/x: No such file or directory\n"),
        (
            "raise KeyboardInterrupt",
            130,
            "interrupted. What was finished stays: the same command goes on with --resume, or begins again with "
            "--overwrite where there is no --resume\n",
        ),
    ],
)
def test_outcomes_are_exit_codes_and_one_line(body: str, status: int, message: str) -> None:
    done = program(body)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
def test_a_closed_stream_spoils_no_file(closed: str, tmp_path: Path) -> None:
    """The file that a job opens first would get the number of the stream, and what anybody prints there."""
    body = (
        f"file = open({str(tmp_path / 'shard')!r}, 'wb', 0); file.write(b'records'); print('result'); "
        "print('note', file=sys.stderr); import os; os.write(2, b'libraries'); os.write(1, b'libraries')"
    )
    code = PROGRAM.format(body=body)
    line = ["bash", "-c", f'ulimit -v 8000000; exec "$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shard").read_bytes() == b"records"
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "result\nlibraries")
    assert done.stderr == ("" if "2>&-" in closed else "note\nlibraries")


@pytest.mark.parametrize("beam", ["", "import types; sys.modules['apache_beam'] = types.ModuleType('beam'); "])
def test_a_result_that_cannot_be_written_is_one_line(beam: str) -> None:
    """As on a full disk; Beam's jobs end in a way of their own."""
    with open("/dev/full", "w") as full:
        code = PROGRAM.format(body=f"{beam}print('result')")
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device. What was finished") and done.stderr.count("\n") == 1


def test_names_do_not_control_the_terminal() -> None:
    """Neither in messages nor in what a command prints; text of any language is as it was."""
    done = program(
        r"print('\x1b[2Jä\u202e', '出'); print('a\x9b', file=sys.stderr); raise JobError('\x1b]0;x\x07\rok\nerror: y')"
    )
    assert done.stdout == "\\x1b[2Jä\\u202e 出\n"
    assert done.stderr == "a\\x9b\nerror: \\x1b]0;x\\x07\\rok\n  error: y\n"


def test_a_programming_error_keeps_its_traceback() -> None:
    done = program("[][0]")
    assert done.returncode == 1 and "Traceback" in done.stderr and "IndexError" in done.stderr


def test_a_job_with_beam_ends_although_a_thread_goes_on() -> None:
    """And what it printed, and registered for its end, is not lost."""
    body = (
        "import atexit, threading, time, types; sys.modules['apache_beam'] = types.ModuleType('apache_beam'); "
        "threading.Thread(target=time.sleep, args=(60,)).start(); atexit.register(print, 'registered'); print('done')"
    )
    done = program(body)
    assert (done.returncode, done.stdout) == (0, "done\nregistered\n")


def test_suggestions_are_close_and_never_what_was_typed() -> None:
    assert nearest("--inptu", ["--input", "--output"]) == "--input"
    assert nearest("--input", ["--input"]) is None
    assert nearest("--zzz", ["--input"]) is None
    with pytest.raises(UsageError, match=r"^unrecognised argument '--inptu=x'; did you mean --input\?$"):
        reject_unknown_flags(["--inptu=x"], ["--input"])
    with pytest.raises(UsageError, match=r"^unrecognised argument '--input'; see --help$"):
        reject_unknown_flags(["--input"], ["--input", "--inputs"])
    assert str(unknown_choice("runner", "flink", ["b", "flinks"])) == (
        "unknown runner 'flink'; did you mean 'flinks'? (known: b, flinks)"
    )


def test_a_parser_reports_errors_like_the_rest() -> None:
    parser = Parser()
    parser.add_argument("--count", type=int)
    assert parse_all(parser, ["--count=3"]) == argparse.Namespace(count=3)
    with pytest.raises(UsageError, match="invalid int value: 'x'; see --help"):
        parse_all(parser, ["--count=x"])
    with pytest.raises(UsageError, match=r"unrecognised argument '--coun=3'; did you mean --count\?"):
        parse_all(parser, ["--coun=3"])
