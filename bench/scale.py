"""Thousands of shards: what each costs beyond its records, the graph, the memory of the launcher; and growing data.

Prints one line a figure, for preprocess and for score. The shards are synthetic and small: what is measured is the
machinery, not the records.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score import make_model  # bench/score.py: an exported dense model with random weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parent.parent
# One job: its seconds, and core-seconds, after the imports that both sides of a comparison pay equally.
_JOB = """
import importlib, json, sys, time
import apache_beam, tensorflow
job = importlib.import_module(sys.argv[1])
started, cpu = time.monotonic(), time.process_time()
info = job.run(sys.argv[2:])
print(json.dumps({"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu,
                  "records": info["records_written"]}))
"""
MOST_OVERHEAD_MS = 20
# The growing data: eight shards of 500 records, and so many times as much.
GROWTH = (1, 2, 4, 8)


def write_shards(directory: Path, shards: int, records: int, seed: int = 0) -> str:
    """Video-level shards of `records` records each; returns their glob."""
    import numpy as np

    from vcls_model.records import examples
    from vcls_model.records.framing import frame_record

    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        data = b"".join(
            frame_record(
                examples.write_example(
                    {
                        "id": examples.bytes_feature(b"%d-%d" % (shard, record)),
                        "labels": examples.int64_feature([record % 3862]),
                        "mean_rgb": examples.float_feature(rng.normal(size=1024).astype(np.float32)),
                        "mean_audio": examples.float_feature(rng.normal(size=128).astype(np.float32)),
                    }
                )
            )
            for record in range(records)
        )
        (directory / f"shard{shard:05d}.tfrecord").write_bytes(data)
    return f"{directory}/*.tfrecord"


def run_job(job: str, *flags: str) -> dict[str, float]:
    """Seconds, core-seconds, records and peak bytes of one job, in a process of its own: launcher and workers."""
    command = [sys.executable, "-c", _JOB, f"pipelines.{job}", *flags]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[3:])} failed")
    return {**json.loads(text.splitlines()[-1]), "bytes": usage.ru_maxrss * 1024}


def graph_bytes(build: Callable[[Any], None]) -> int:
    """Size of the graph that `build` adds to a pipeline, as a runner gets it."""
    import apache_beam as beam

    pipeline = beam.Pipeline()
    build(pipeline)
    return len(pipeline.to_runner_api().SerializeToString())


def preprocess_graph(shards: int) -> int:
    """Bytes of the preprocess graph that names so many shards."""
    from pipelines.preprocess import build_pipeline
    from pipelines.preprocessing.config import JobConfig, Shard, TransformConfig
    from vcls_model.records.schema import schema_by_name

    listed = tuple(
        Shard(index, shards, f"gs://some-bucket/yt8m/v3/frame/train{index:06d}.tfrecord", 400_000_000, 1.5e9)
        for index in range(shards)
    )
    transform = TransformConfig(schema_by_name("yt8m-frame"), 3862)
    return graph_bytes(
        lambda pipeline: build_pipeline(pipeline, JobConfig("gs://b/out", listed, transform, None, 0.01, {}))
    )


def score_graph(shards: int) -> int:
    """Bytes of the score graph that names so many shards."""
    import dataclasses

    from pipelines.score import build_pipeline
    from pipelines.scoring.config import ScoringConfig
    from pipelines.scoring.planning import FRAME_GROUP_BYTES, InputShard, plan_groups
    from vcls_model.records.schema import schema_by_name

    listed = [
        InputShard(f"gs://some-bucket/yt8m/v3/frame/train{index:06d}.tfrecord", 400_000_000) for index in range(shards)
    ]
    config = ScoringConfig(
        output="gs://b/scores",
        model_paths=("gs://b/model",),
        model_identities=("0123456789abcdef",),
        schema=dataclasses.replace(schema_by_name("yt8m-frame"), class_count=3862),
        split=None,
        splits=None,
        top_k=20,
        threshold=0.5,
        class_thresholds=None,
        form="parquet",
        full_logits="none",
        batch_size=64,
    )
    groups = plan_groups(listed, workers=200, group_bytes=FRAME_GROUP_BYTES)
    return graph_bytes(lambda pipeline: build_pipeline(pipeline, groups, config))


def measure_many(job: str, shards: int, flags: list[str], work: Path) -> None:
    """`shards` shards of one record beside one shard of the same records."""
    one = run_job(job, f"--input={work}/one/*.tfrecord", f"--output={work}/{job}_one", *flags)
    many = run_job(job, f"--input={work}/many/*.tfrecord", f"--output={work}/{job}_many", *flags)
    overhead = {key: 1000 * (many[key] - one[key]) / shards for key in ("seconds", "cpu_seconds")}
    print(
        f"scale_{job}_shard_overhead  ms={overhead['seconds']:.2f}  core_ms={overhead['cpu_seconds']:.2f}  "
        f"reference={1000 * one['seconds'] / shards:.2f} (a record of one shard of {shards})  "
        f"ratio={many['seconds'] / one['seconds']:.1f}x  target<={MOST_OVERHEAD_MS}ms",
        flush=True,
    )
    print(
        f"scale_{job}_launcher_memory  MB={many['bytes'] / 1e6:.0f}  reference={one['bytes'] / 1e6:.0f} (one shard)  "
        f"ratio={many['bytes'] / one['bytes']:.2f}x  target<=1.5x",
        flush=True,
    )


def measure_growth(job: str, flags: list[str], work: Path) -> None:
    """Time and memory a record as the data grow; building the graph and starting are part of it."""
    first: dict[str, float] = {}
    for times in GROWTH:
        done = run_job(job, f"--input={work}/grow{times}/*.tfrecord", f"--output={work}/{job}_grow{times}", *flags)
        first = first or done
        print(
            f"scale_{job}_growth_{times}x  core_us_a_record={1e6 * done['cpu_seconds'] / done['records']:.0f}  "
            f"us_a_record={1e6 * done['seconds'] / done['records']:.0f}  "
            f"MB={done['bytes'] / 1e6:.0f}  reference={first['bytes'] / 1e6:.0f} (1x)  "
            f"ratio={done['bytes'] / first['bytes']:.2f}x memory  target<=1.3x memory",
            flush=True,
        )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=3844, help="small shards (default: %(default)s)")
    parser.add_argument("--jobs", default="preprocess,score", help="which jobs (default: %(default)s)")
    parser.add_argument("--parts", default="graph,many,growth", help="what to measure (default: %(default)s)")
    args = parser.parse_args()
    parts = args.parts.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if "many" in parts:
            write_shards(work / "one", 1, args.shards)
            write_shards(work / "many", args.shards, 1)
        for times in GROWTH if "growth" in parts else ():
            write_shards(work / f"grow{times}", 8 * times, 500)
        make_model(work / "model")
        for job in args.jobs.split(","):
            graph, flags = {"preprocess": (preprocess_graph, []), "score": (score_graph, [f"--model={work}/model"])}[
                job
            ]
            for shards in (args.shards, 10 * args.shards) if "graph" in parts else ():
                size = graph(shards)
                limit = 1 if shards == args.shards else 20
                print(
                    f"scale_{job}_graph  shards={shards}  bytes={size}  reference={limit}000000  "
                    f"ratio={size / limit / 1e6:.2f}x  target<=1x",
                    flush=True,
                )
            if "many" in parts:
                measure_many(job, args.shards, flags, work)
            if "growth" in parts:
                measure_growth(job, flags, work)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
