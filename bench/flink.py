"""Preprocess and score on 1, 2 and 4 slots of a Flink cluster beside the in-process runner; memory of each process.

    python bench/flink.py [--input=GLOB] [--copies=N]

All processes of the cluster share this machine's cores with each other, so more slots than cores gain nothing here.
Needs what `make flink-install` brings. Prints one line a figure.
"""

import argparse
import glob
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from score import link_copies, make_model  # bench/score.py

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploy.flink.cluster import FlinkCluster  # noqa: E402
from deploy.flink.install import is_installed  # noqa: E402

# Task slots -> TaskManagers and slots of each.
LAYOUTS = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


class PeakMemory(threading.Thread):
    """Notes the most memory that each process of a cluster holds while the block runs."""

    def __init__(self, cluster: FlinkCluster) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._end = threading.Event()
        self.peak_bytes: dict[str, int] = {}

    def run(self) -> None:
        while not self._end.wait(0.5):
            for name, size in self._cluster.memory().items():
                self.peak_bytes[name] = max(size, self.peak_bytes.get(name, 0))

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def seconds_of(job: str, *flags: str) -> float:
    """The whole command, from its start to its end."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"pipelines.{job}", *flags],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job} {' '.join(flags)} failed:\n{done.stderr[-2000:]}")
    return time.monotonic() - started


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", default=str(ROOT / "sample" / "*.tfrecord"), help="video-level shards")
    parser.add_argument("--copies", type=int, default=40, help="of each shard (default: %(default)s)")
    args = parser.parse_args()
    if not is_installed():
        print("flink  skipped: Flink is not installed, run make flink-install")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sources = sorted(glob.glob(args.input))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        inputs = {
            "few": link_copies(sources[:2], 1, work / "few"),
            "many": link_copies(sources, args.copies, work / "many"),
        }
        make_model(work / "model")
        model = {"preprocess": [], "score": [f"--model={work}/model"]}
        records = {name: count_records(pattern) for name, pattern in inputs.items()}

        def rate(job: str, place: str, flags: list[str]) -> tuple[float, float]:
            """(records/s of the whole large job, seconds of the small one: what a job costs before it computes)"""
            seconds = {}
            for name in ("few", "many"):
                output = work / f"{job}_{place}_{name}"
                seconds[name] = seconds_of(job, f"--input={inputs[name]}", f"--output={output}", *model[job], *flags)
            return records["many"] / seconds["many"], seconds["few"]

        alone = {job: rate(job, "in_process", []) for job in model}
        for job, (speed, start) in alone.items():
            print(
                f"flink_{job}_in_process  records/s={speed:.0f} ({records['many']} records)  "
                f"seconds_before={start:.1f} ({records['few']} records)  threads={os.cpu_count()}",
                flush=True,
            )
        for slots, (task_managers, each) in LAYOUTS.items():
            run_directory = work / f"cluster{slots}"
            with (
                FlinkCluster(task_managers, each, run_directory=run_directory) as cluster,
                PeakMemory(cluster) as memory,
            ):
                for job, (base, base_start) in alone.items():
                    speed, start = rate(job, f"{slots}_slots", cluster.beam_flags())
                    print(
                        f"flink_{job}_{slots}_slots  records/s={speed:.0f}  reference={base:.0f} (in process)  "
                        f"ratio={speed / base:.2f}x  seconds_before={start:.1f} (in process {base_start:.1f})",
                        flush=True,
                    )
            sizes = "  ".join(f"{name}={size / 1e6:.0f}" for name, size in sorted(memory.peak_bytes.items()))
            print(f"flink_memory_{slots}_slots  MB: {sizes}", flush=True)


def count_records(pattern: str) -> int:
    """Records in all shards of a glob."""
    from vcls_model.records.framing import read_chunks

    return sum(chunk.starts.size for path in glob.glob(pattern) for chunk in read_chunks(path))


if __name__ == "__main__":
    main()
