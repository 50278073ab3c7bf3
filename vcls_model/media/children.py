"""Child processes in which media are decoded: how one is started and ended."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO


def start_child(module: str, *arguments: str, stderr: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Runs a module of this project with unbuffered pipes to its standard input and output, and one thread.

    Args:
        module: its dotted name.
        arguments: of its command line.
        stderr: where it complains; by default where this process does.
    """
    root = str(Path(__file__).resolve().parent.parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


def end_child(process: "subprocess.Popen[bytes]") -> None:
    """Kills a child, waits for its end and closes the pipes to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
