"""Thousands of shards: what each costs beyond its records, the graph, the memory of the launcher; and growth.

Prints one line a figure. The shards are synthetic and small: what is measured is the machinery, not the records.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parent.parent
# One job in a process of its own: its seconds and the most memory it held.
_JOB = """
import json, resource, sys, time
from pipelines import preprocess
started = time.monotonic()
info = preprocess.run(sys.argv[1:])
print(json.dumps({"seconds": time.monotonic() - started, "records": info["records_written"],
                  "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def write_shards(directory: Path, shards: int, records: int, seed: int = 0) -> None:
    """Video-level shards of `records` records each."""
    import numpy as np

    from pipelines import wire
    from pipelines.framing import frame_record

    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        data = b"".join(
            frame_record(
                wire.write_example(
                    {
                        "id": wire.bytes_feature(b"%d-%d" % (shard, record)),
                        "labels": wire.int64_feature([record % 3862]),
                        "mean_rgb": wire.float_feature(rng.normal(size=1024).astype(np.float32)),
                        "mean_audio": wire.float_feature(rng.normal(size=128).astype(np.float32)),
                    }
                )
            )
            for record in range(records)
        )
        (directory / f"shard{shard:05d}.tfrecord").write_bytes(data)


def preprocess(directory: Path, output: Path) -> dict[str, float]:
    """Seconds, records and peak bytes of one job."""
    done = subprocess.run(
        [sys.executable, "-c", _JOB, f"--input={directory}/*.tfrecord", f"--output={output}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def graph_bytes(shards: int) -> int:
    """Size of the preprocess graph that names so many shards."""
    import apache_beam as beam

    from pipelines.preprocess import build_pipeline
    from pipelines.preprocessing.config import JobConfig, Shard, TransformConfig
    from vcls_model.schema import schema_by_name

    listed = tuple(
        Shard(index, shards, f"gs://some-bucket/yt8m/v3/frame/train{index:06d}.tfrecord", 400_000_000, 1.5e9)
        for index in range(shards)
    )
    pipeline = beam.Pipeline()
    build_pipeline(
        pipeline,
        JobConfig("gs://some-bucket/out", listed, TransformConfig(schema_by_name("yt8m-frame"), 3862), None, 0.01, {}),
    )
    return len(pipeline.to_runner_api().SerializeToString())


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=3844, help="small shards (default: %(default)s)")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for shards in (args.shards, 10 * args.shards):
        size = graph_bytes(shards)
        print(
            f"scale_graph_{shards}_shards  bytes={size}  reference=1000000  ratio={size / 1e6:.2f}  "
            f"target<{'=1' if shards == args.shards else '=20 (what Dataflow takes)'}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_shards(work / "one", 1, args.shards)
        write_shards(work / "many", args.shards, 1)
        one = preprocess(work / "one", work / "out_one")
        many = preprocess(work / "many", work / "out_many")
        overhead = (many["seconds"] - one["seconds"]) / args.shards
        print(
            f"scale_shard_overhead  ms={1000 * overhead:.2f}  reference={1000 * one['seconds'] / args.shards:.2f} "
            f"(the same records in one shard)  ratio={many['seconds'] / one['seconds']:.1f}x  target<=20ms",
            flush=True,
        )
        print(
            f"scale_launcher_memory  MB={many['bytes'] / 1e6:.0f}  reference={one['bytes'] / 1e6:.0f}  "
            f"ratio={many['bytes'] / one['bytes']:.2f}x  target<=1.5x",
            flush=True,
        )
        first: dict[str, float] = {}
        for times in (1, 2, 4, 8):
            write_shards(work / f"grow{times}", 8 * times, 500)
            done = preprocess(work / f"grow{times}", work / f"out_grow{times}")
            first = first or done
            print(
                f"scale_growth_{times}x  us_a_record={1e6 * done['seconds'] / done['records']:.0f}  "
                f"reference={1e6 * first['seconds'] / first['records']:.0f}  "
                f"ratio={done['bytes'] / first['bytes']:.2f}x memory  target<=1.3x memory",
                flush=True,
            )


if __name__ == "__main__":
    main()
