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
SAMPLE = ROOT / "sample"


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the demonstration; returns the seconds of each job.

    Raises:
        JobError: a job failed, or wrote other bytes than in process.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.flink.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--install_only", action="store_true", help="only bring Flink and Beam's job server")
    args = parse_all(parser, argv)
    install()
    if args.install_only:
        return {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that leaving the block below stops the cluster
    shutil.rmtree(OUTPUT, ignore_errors=True)
    here, there = OUTPUT / "in_process", OUTPUT / "flink"
    _preprocess(here)
    _job("vcls_model.train", f"--data={here / 'data'}", f"--output={OUTPUT / 'model'}", "--epochs=2", "--quiet")
    _score(here)
    with FlinkCluster() as cluster:
        flags = cluster.beam_flags()
        seconds = {**_preprocess(there, flags), **_score(there, flags)}
        memory = {name: size >> 20 for name, size in cluster.memory().items()}
    print("seconds on Flink:", seconds)
    print("memory at the end (MB):", memory)
    for pattern in ("data/*/*.tfrecord", "frames/*/*.tfrecord", "scores/metrics.json", "scores/per_class.csv"):
        _compare(there, here, pattern)
    report = OUTPUT / "report"
    _job(
        "pipelines.report",
        f"--scores={there / 'scores'}",
        f"--model={OUTPUT / 'model'}",
        f"--data={there / 'data'}",
        f"--output={report}",
    )
    print(f"the same bytes as in process; report: {report / 'report.html'}")
    return seconds


def _preprocess(output: Path, flags: Sequence[str] = ()) -> dict[str, float]:
    videos = [f"--input={SAMPLE}/*.tfrecord", f"--vocabulary={SAMPLE}/vocabulary.csv"]
    frames = [f"--input={SAMPLE}/audioset/*.tfrecord", f"--vocabulary={SAMPLE}/audioset/class_labels_indices.csv"]
    return {
        "preprocess": _job("pipelines.preprocess", *videos, f"--output={output / 'data'}", *flags),
        "preprocess frames": _job("pipelines.preprocess", *frames, f"--output={output / 'frames'}", *flags),
    }


def _score(output: Path, flags: Sequence[str] = ()) -> dict[str, float]:
    scores = [f"--input={SAMPLE}/*.tfrecord", f"--model={OUTPUT / 'model'}", f"--output={output / 'scores'}"]
    return {"score": _job("pipelines.score", *scores, *flags)}


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
