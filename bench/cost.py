"""Hours, workers and money for YouTube-8M's size, from measured rates: the tables of docs/SCALE.md.

    python bench/cost.py

Each rate names the script that measures it: put a new figure here, run this, and copy the tables.
"""

import dataclasses

VIDEOS = 8_000_000
VIDEO_BYTES = 4_700  # of a video-level record
FRAME_BYTES = 200_000  # of a frame-level record: 1.6 TB in all
SHARDS = 3844
WORKERS, CORES, BUSY_FRACTION = 50, 4, 0.7
START_SECONDS = 240
CORE_HOUR_DOLLARS = 0.04
# Network throughput of one worker to the object store, reading and writing together.
WORKER_BYTES_PER_SECOND = 100e6


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a job costs.

    Attributes:
        job: its name.
        core_us: core-microseconds per record.
        shard_ms: core-milliseconds per shard, beyond its records.
        bytes_moved: bytes read and written per record.
        source: the command that measures it.
    """

    job: str
    core_us: float
    shard_ms: float
    bytes_moved: float
    source: str


RATES = [
    Rate("preprocess, video-level", 25, 16, 3 * VIDEO_BYTES, "bench/preprocess.py, bench/scale.py"),
    Rate("preprocess, frame-level", 1200, 16, 3 * FRAME_BYTES, "bench/preprocess.py"),
    Rate("score, video-level, dense", 219, 6, VIDEO_BYTES, "bench/score.py, bench/scale.py"),
    # The difference of core time between 4,800 and 800 records of 250 KB, over 4,000; half of it is the system's.
    Rate("score, frame-level, average", 5600, 6, FRAME_BYTES, "time python -m pipelines.score"),
]


def hours(rate: Rate, scale: float = 1) -> tuple[float, float, float]:
    """(core-hours, hours of the whole job, dollars) at `scale` times the data and the shards, on the same workers."""
    core_seconds = scale * (VIDEOS * rate.core_us / 1e6 + SHARDS * rate.shard_ms / 1e3)
    computing = core_seconds / (WORKERS * CORES * BUSY_FRACTION)
    moving = scale * VIDEOS * rate.bytes_moved / (WORKERS * WORKER_BYTES_PER_SECOND)
    whole = (max(computing, moving) + START_SECONDS) / 3600
    return core_seconds / 3600, whole, whole * WORKERS * CORES * CORE_HOUR_DOLLARS


def main() -> None:
    """Prints both tables."""
    print("| job | core-µs per record | core-ms per shard | measured by |\n|---|---|---|---|")
    for rate in RATES:
        print(f"| {rate.job} | {rate.core_us:,.0f} | {rate.shard_ms:g} | `{rate.source}` |")
    print(f"\n| job | core-hours | minutes on {WORKERS} workers of {CORES} cores | decided by | $ |")
    print("|---|---|---|---|---|")
    for rate in RATES:
        core_hours, whole, dollars = hours(rate)
        computing = core_hours * 3600 / (WORKERS * CORES * BUSY_FRACTION)
        moving = VIDEOS * rate.bytes_moved / (WORKERS * WORKER_BYTES_PER_SECOND)
        bound = "start-up" if max(computing, moving) < START_SECONDS else "network" if moving > computing else "cores"
        print(f"| {rate.job} | {core_hours:.1f} | {60 * whole:.0f} | {bound} | {dollars:.2f} |")


if __name__ == "__main__":
    main()
