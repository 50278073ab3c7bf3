"""Runs the jobs on a Flink cluster of this machine and compares what they write with the in-process runner.

python -m deploy.flink.demo [--install_only]
"""

import argparse
import filecmp
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.flink.cluster import FlinkCluster
from deploy.flink.install import ROOT, install
from vcls_model.commands import JobError, main, parse_all

OUTPUT = ROOT / "demo_output" / "flink"


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the demonstration; returns the seconds of each job.

    Raises:
        JobError: a job failed, or wrote other bytes than in process.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.flink.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--install_only", action="store_true", help="only bring Flink and Beam's job server")
    parser.add_argument("--input", default=str(ROOT / "sample" / "*.tfrecord"), help="video-level records")
    parser.add_argument("--vocabulary", default=str(ROOT / "sample" / "vocabulary.csv"), help="CSV of the classes")
    parser.add_argument("--frame_input", help="frame-level records, preprocessed too where given")
    args = parse_all(parser, argv)
    install()
    if args.install_only:
        return {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that leaving the block below stops the cluster
    shutil.rmtree(OUTPUT, ignore_errors=True)
    seconds: dict[str, Any] = {}
    data = [f"--input={args.input}", f"--vocabulary={args.vocabulary}"]
    _job("pipelines.preprocess", *data, f"--output={OUTPUT / 'data_in_process'}")
    _job("vcls_model.train", f"--data={OUTPUT / 'data_in_process'}", f"--output={OUTPUT / 'model'}", "--epochs=2")
    scores = [f"--input={args.input}", f"--model={OUTPUT / 'model'}"]
    _job("pipelines.score", *scores, f"--output={OUTPUT / 'scores_in_process'}")
    with FlinkCluster() as cluster:
        flags = cluster.beam_flags()
        seconds["preprocess"] = _job("pipelines.preprocess", *data, f"--output={OUTPUT / 'data'}", *flags)
        if args.frame_input:
            seconds["preprocess_frames"] = _job(
                "pipelines.preprocess", f"--input={args.frame_input}", f"--output={OUTPUT / 'frames'}", *flags
            )
        seconds["score"] = _job("pipelines.score", *scores, f"--output={OUTPUT / 'scores'}", *flags)
        print("memory (MB):", {name: size >> 20 for name, size in cluster.memory().items()})
    _job(
        "pipelines.report",
        f"--scores={OUTPUT / 'scores'}",
        f"--model={OUTPUT / 'model'}",
        f"--data={OUTPUT / 'data'}",
        f"--output={OUTPUT / 'report'}",
    )
    for one, other, pattern in (
        ("data", "data_in_process", "*/*.tfrecord"),
        ("scores", "scores_in_process", "metrics.json"),
    ):
        _compare(OUTPUT / one, OUTPUT / other, pattern)
    print(f"the same bytes as in process; report: {OUTPUT / 'report' / 'report.html'}")
    return seconds


def _job(module: str, *arguments: str) -> float:
    command = [sys.executable, "-m", module, *arguments]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    started = time.monotonic()
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
        raise JobError(f"{module} failed; the cluster's logs are in {ROOT / '.flink' / 'run' / 'log'}")
    return round(time.monotonic() - started, 1)


def _compare(one: Path, other: Path, pattern: str) -> None:
    names = sorted(str(path.relative_to(other)) for path in other.glob(pattern))
    _, different, missing = filecmp.cmpfiles(one, other, names, shallow=False)
    if not names or different or missing:
        raise JobError(f"{one} differs from {other}: {', '.join([*different, *missing][:5]) or 'nothing was written'}")


if __name__ == "__main__":
    main(run)
