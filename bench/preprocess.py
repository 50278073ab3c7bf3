"""How fast `pipelines.preprocess` is beside a stock TFX-style Transform on the same data, how much memory it takes, and
how near it is to a bare loop.

    python bench/preprocess.py                 # all figures: video-level, frame-level, memory, floor
    python bench/preprocess.py --only=frame --videos=500

The reference and the generator of frame-level data lie beside a developer's checkout (../shared); without them their
figures are left out. Each measurement is a process of its own; one after the other, in the same run.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REFERENCE = SHARED / "bench" / "tfx_style_preprocess.py"
MAKE_FRAMES = SHARED / "bench" / "make_frames.py"
# So many times the frame-level videos are measured against the bare loop.
FRAME_TIMES = 8
# So many times the frame-level job and its reference are run.
ROUNDS = 3
VIDEO_SHARDS = SHARED / "data" / "yt8m" / "video"


def tree_megabytes(root: int) -> float:
    """Resident memory of a process and its descendants."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(status[1]), []).append(int(entry))
            resident[int(entry)] = int(status[21]) * os.sysconf("SC_PAGE_SIZE")
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += resident.get(process, 0)
        waiting += children.get(process, [])
    return total / 1e6


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Runs a program: wall and CPU seconds of the whole process, peak memory (MB), and the figures it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed packages are: their bytecode is kept
    os.sync()  # not to wait for what the one before wrote
    before = os.times()
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_megabytes(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        assert process.stdout is not None
        printed = process.stdout.read()
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()[-3000:]}")
    after = os.times()
    figures = dict(part.split("=", 1) for part in printed.split() if "=" in part)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"counted_seconds": figures.pop("seconds", None), **figures, "seconds": seconds, "cpu": cpu, "peak_mb": peak}


def ours(pattern: str, output: Path, preloaded: bool = False) -> dict[str, Any]:
    """Our job; `preloaded`: timed like the reference times itself, after the imports."""
    if preloaded:
        found = measure([sys.executable, __file__, f"--child={pattern}", f"--output={output}"])
    else:
        found = measure([sys.executable, "-m", "pipelines.preprocess", f"--input={pattern}", f"--output={output}"])
    found["info"] = json.loads((output / "info.json").read_text())
    return found


def reference(kind: str, pattern: str, output: Path) -> dict[str, Any]:
    """The reference; `inner` are the seconds that it counts itself, without its imports."""
    found = measure([sys.executable, str(REFERENCE), f"--kind={kind}", f"--input={pattern}", f"--output={output}"])
    return {**found, "inner": float(found["counted_seconds"])}


def child(pattern: str, output: str) -> None:
    """Runs our job after importing what the reference imports before it starts its clock."""
    import apache_beam  # noqa: F401
    import tensorflow_transform.beam  # noqa: F401

    from pipelines.preprocess import run
    from vcls_model.records import kernels  # noqa: F401

    started, cpu = time.monotonic(), time.process_time()
    run([f"--input={pattern}", f"--output={output}"])
    print(f"inner={time.monotonic() - started:.3f} inner_cpu={time.process_time() - cpu:.3f}")


def floor(pattern: str, output: str) -> None:
    """The bare loop, one thread, no Beam: reads and measures; then reads, normalises, encodes and writes."""
    import numpy as np

    from pipelines.preprocessing.statistics import ShardMeter, merge_statistics, moments
    from vcls_model.records.decoding import FrameBatch
    from vcls_model.records.encoding import CodeMap, CodesColumn, Column, FloatColumn, IntegerColumn, encode_by_split
    from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE
    from vcls_model.records.shards import detect_schema, read_batches
    from vcls_model.records.splits import SPLITS, SplitRatios, splits_of

    def splits_in(batch: Any) -> np.ndarray:
        return splits_of(batch.split_ids, SplitRatios())

    paths = sorted(glob.glob(pattern))
    schema = detect_schema(paths[0])
    # One shard first, so that no compiling is timed; then all.
    for timed in (paths[:1], paths):
        for written in Path(output).iterdir():
            written.unlink()
        cpu = time.process_time()
        parts = []
        for path in timed:
            meter = ShardMeter(schema)
            for batch, _ in read_batches(path, schema, class_count=schema.class_count):
                meter.add(batch, splits_in(batch) == 0)
            parts.append(meter.statistics())
        merged = merge_statistics(parts, schema)
        fitted = {modality.name: moments(merged[modality.name], modality) for modality in schema.modalities}
        affine = {name: np.stack([found.mean, 1 / found.std]).astype(np.float32) for name, found in fitted.items()}
        codes = {
            name: CodeMap.of(fit, (DEQUANTISE_SCALE, DEQUANTISE_OFFSET), (8 / 255, -4)) for name, fit in affine.items()
        }
        for index, path in enumerate(timed):
            for batch, _ in read_batches(path, schema, class_count=schema.class_count):
                splits = splits_in(batch)
                columns: dict[str, Column] = {
                    "id": batch.id_column,
                    "labels": IntegerColumn.of_lengths(batch.label_values, batch.label_lengths),
                }
                for name, values in batch.features.items():
                    if isinstance(values, FrameBatch):
                        columns[name] = CodesColumn(
                            values.buffer, values.begins, values.strides, values.lengths, codes[name]
                        )
                    else:
                        columns[name] = FloatColumn((values - affine[name][0]) * affine[name][1])
                for split, data in encode_by_split(columns, splits):
                    with open(os.path.join(output, f"{SPLITS[split]}-{index}"), "ab") as stream:
                        stream.write(data.data)
        seconds = time.process_time() - cpu
    print(f"floor_cpu={seconds:.3f}")


def multiply(source: Path, target: Path, times: int) -> str:
    """Hard-links (or copies) the shards `times` over; returns their glob."""
    target.mkdir()
    for path in sorted(source.glob("*.tfrecord")):
        for copy in range(times):
            link = target / f"{copy:02d}-{path.name}"
            try:
                os.link(path, link)
            except OSError:  # another file system
                os.symlink(path, link)
    return f"{target}/*.tfrecord"


def line(name: str, unit: str, figure: float, against: float, ratio: float, target: str) -> None:
    print(f"{name}  {unit}={figure:,.1f}  reference={against:,.1f}  ratio={ratio:.2f}x  target{target}", flush=True)


def video_figures(scratch: Path, times: int) -> None:
    """Video-level: whole process against whole process; memory at `times` the data against one time."""
    source = VIDEO_SHARDS if VIDEO_SHARDS.is_dir() else ROOT / "sample"
    once, many = multiply(source, scratch / "once", 1), multiply(source, scratch / "many", times)
    small = ours(once, scratch / "small")
    large = ours(many, scratch / "large")
    records = large["info"]["records_read"]
    rate = records / large["seconds"]
    if REFERENCE.exists():
        stock = reference("video", many, scratch / "stock")
        line(
            "preprocess_video",
            "records/s",
            rate,
            records / stock["seconds"],
            stock["seconds"] / large["seconds"],
            ">=6x",
        )
        line(
            "preprocess_video_peak",
            "MB",
            large["peak_mb"],
            stock["peak_mb"],
            large["peak_mb"] / stock["peak_mb"],
            "<=1500MB",
        )
    else:
        print(f"preprocess_video  records/s={rate:,.1f}  reference absent  target>=6x")
    line(
        f"preprocess_video_peak_at_{times}x",
        "MB",
        large["peak_mb"],
        small["peak_mb"],
        large["peak_mb"] / small["peak_mb"],
        "<=1.1x",
    )
    floor_figure("video", many, once, scratch)


def frame_figures(scratch: Path, videos: int) -> None:
    """Frame-level: both timed after their imports, as the reference times itself."""
    if not MAKE_FRAMES.exists():
        print(f"preprocess_frame  skipped: {MAKE_FRAMES.name} is not beside this checkout")
        return
    measure([sys.executable, str(MAKE_FRAMES), f"--output={scratch / 'frames'}", f"--videos={videos}", "--shards=16"])
    pattern = f"{scratch / 'frames'}/*.tfrecord"
    # Seconds each, so that what else the machine does shows: taken by turns, the middle one counts.
    rounds = []
    for number in range(ROUNDS):
        found = ours(pattern, scratch / f"ours_frame_{number}", preloaded=True)
        stock = reference("frame", pattern, scratch / f"stock_frame_{number}")
        rounds.append((float(found["inner"]), stock["inner"], float(found["inner_cpu"])))
        print(
            f"preprocess_frame round {number + 1} of {ROUNDS}: {rounds[-1][0]:.2f} s against {rounds[-1][1]:.2f} s",
            flush=True,
        )
    seconds, against, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    info = found["info"]
    line("preprocess_frame", "videos/s", videos / seconds, videos / against, against / seconds, ">=10x")
    megabytes = info["input"]["bytes"] / 1e6 / cpu
    line("preprocess_frame_input", "MB/s/core", megabytes, 80, megabytes / 80, ">=1x")
    line(
        "preprocess_frame_output",
        "MB",
        info["output_bytes"] / 1e6,
        info["input"]["bytes"] / 1e6,
        info["output_bytes"] / info["input"]["bytes"],
        "<=1.05x",
    )
    line(
        "preprocess_frame_peak",
        "MB",
        found["peak_mb"],
        stock["peak_mb"],
        found["peak_mb"] / stock["peak_mb"],
        "<=2000MB",
    )
    many = multiply(scratch / "frames", scratch / "many_frames", FRAME_TIMES)
    floor_figure("frame", many, pattern, scratch)


def floor_figure(kind: str, pattern: str, part: str, scratch: Path) -> None:
    """Core-seconds of our job, imports left out, against those of the bare loop: in all, and for what is not `part`.

    The difference between all of the data and a part of it is what the records cost; the start of the job drops out.
    Taken by turns, the middle one of each counts.
    """
    seconds = {}
    for files in (part, pattern):
        rounds = []
        for _ in range(ROUNDS):
            job = ours(files, scratch / "floor_job", preloaded=True)
            shutil.rmtree(scratch / "floor_job")
            written = scratch / "floor_bare"
            written.mkdir()
            bare = measure([sys.executable, __file__, f"--floor={files}", f"--output={written}"])
            shutil.rmtree(written)
            rounds.append((float(job["inner_cpu"]), float(bare["floor_cpu"])))
        seconds[files] = tuple(statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"preprocess_{kind} core-seconds of the job and the bare loop: {rounds}", flush=True)
    (job_all, bare_all), (job_part, bare_part) = seconds[pattern], seconds[part]
    line(f"preprocess_{kind}_over_floor", "core_seconds", job_all, bare_all, job_all / bare_all, "<=1.5x")
    line(
        f"preprocess_{kind}_part_over_floor",
        "core_seconds",
        job_part,
        bare_part,
        job_part / bare_part,
        "<=1.5x where the records, not the start of the job, take the time",
    )
    line(
        f"preprocess_{kind}_records_over_floor",
        "core_seconds",
        job_all - job_part,
        bare_all - bare_part,
        (job_all - job_part) / (bare_all - bare_part),
        "<=1.5x",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("video", "frame"), help="measure only this level")
    parser.add_argument("--times", type=int, default=10, help="copies of the video-level shards (default: %(default)s)")
    parser.add_argument("--videos", type=int, default=2000, help="frame-level videos (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--floor", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.output)
    elif args.floor:
        floor(args.floor, args.output)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            if args.only != "frame":
                video_figures(Path(scratch), args.times)
            if args.only != "video":
                frame_figures(Path(scratch), args.videos)


if __name__ == "__main__":
    main()
