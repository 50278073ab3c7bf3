"""The live service beside the loop that people write first, on this machine.

    pip install '.[bench]'  # FastAPI, which the peer is served by; without it its rows are left out
    python bench/live.py [--only=ROW,…] [--seconds=N] [--streams=N,…] [--service_only] [--runs=FILE]

| row | what | takes, at the default of 300 seconds per run |
|---|---|---|
| `latency` | frame to label at a picture a second, for each number of streams, and the peer's | 22 minutes |
| `overload` | 120 pictures a second: lag, what was dropped, memory | 6 minutes |
| `capacity` | the most streams whose 99th percentile is a second | 20 minutes |
| `predict` | `:predict` of one video-level record, latency at 50 requests a second, throughput | 9 minutes |
| `cold` | seconds from the command to the address, three starts; the first answer and the hundredth | 1 minute |
| `memory` | after 1,000 streams that came and went | 2 minutes |
| `stream` | memory of 8 streams whose rings are full | 1 minute |

Each run is a line of JSON, printed and appended to `--runs`; a run that is there with the same length is not measured
again, so that a bench that was cut short goes on where it was. At the end the table of docs/BENCHMARKS.md is printed.

The service: `python -m vcls_model.serve` with the default encoders and a frame-level model of 1,000 classes, made here
with random weights. The peer: FastAPI, a picture as base64 in JSON, `cv2` to decode it, the same picture encoder at
batch 1, and `keras.Model.predict` of a model of the same size on the mean of the last ten rows. Both get the same
pictures. Each row starts a service of its own. The peer's runs take a minute at most: what it is late by grows without
end.

Each stream sends by a clock, whether or not the last answer has come, and latency counts from the moment at which a
picture was due, so that a service that stalls cannot hide it (no coordinated omission). A stream that has no credit
when a picture is due does not send it, and counts it as skipped. The load of the machine is kept with each run, and
the processor time of the service, which other work on the machine changes less than latencies.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from live_clients import Tally, closed_loop, come_and_go, fill_rings, first_and_later, requests_at, run_streams
from live_report import Runs, Values, table
from live_servers import PEER, Watched, free_port, pictures, process, processor_seconds, resident_bytes

OVERLOAD_STREAMS, OVERLOAD_RATE = 40, 3.0
PEER_SECONDS, SEARCH_SECONDS = 60.0, 30.0
MOST_STREAMS = 64  # that the service takes unless told otherwise


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the rows share.

    Attributes:
        frames, video: directories of the two models.
        peer_program: the peer's script; None where FastAPI is not installed.
        seconds: length of each run.
        streams: numbers of streams for `latency`.
        images: pictures that are sent.
        runs: what was measured.
    """

    frames: Path
    video: Path
    peer_program: Path | None
    seconds: float
    streams: Sequence[int]
    images: Sequence[bytes]
    runs: Runs

    def service(self, model: Path | None = None) -> contextlib.AbstractContextManager[tuple[str, int]]:
        """A service of its own: its address and process id."""
        return process(["-m", "vcls_model.serve", f"--model={model or self.frames}", "--port=0"])

    @contextlib.contextmanager
    def peer(self) -> Iterator[tuple[str, int]]:
        """The peer's address and process id."""
        port = free_port()
        with process([str(self.peer_program), str(port)], f"http://127.0.0.1:{port}") as started:
            yield started

    def kinds(self) -> Sequence[str]:
        """Which servers are measured."""
        return ("service", "peer") if self.peer_program is not None else ("service",)

    def started(self, kind: str, model: Path | None = None) -> contextlib.AbstractContextManager[tuple[str, int]]:
        """A server of a kind."""
        return self.service(model) if kind == "service" else self.peer()


def latency(bench: Bench) -> None:
    """A picture a second and stream."""
    for kind in bench.kinds():
        seconds = bench.seconds if kind == "service" else min(bench.seconds, PEER_SECONDS)
        for streams in bench.streams:
            bench.runs.measure(f"{kind} {streams}", seconds, functools.partial(_streams, bench, kind, streams, seconds))


def _streams(bench: Bench, kind: str, streams: int, seconds: float) -> Values:
    """So many streams of a server of their own."""
    with bench.started(kind) as (address, pid):
        before = processor_seconds(pid)
        tally = asyncio.run(run_streams(kind, address, bench.images, streams, seconds))
        spent = 1000 * (processor_seconds(pid) - before) / max(1, tally.labelled)
    return {**tally.values(), "processor_ms": round(spent, 1)}


def overload(bench: Bench) -> None:
    """Streams that send without credits, three times what two cores label."""

    def run() -> Values:
        with bench.service() as (address, pid), Watched(pid) as memory:
            send = functools.partial(run_streams, "service", address, bench.images, OVERLOAD_STREAMS, bench.seconds)
            tally = asyncio.run(send(OVERLOAD_RATE, obey=False))
        return {**tally.values(), **memory.values()}

    bench.runs.measure("overload", bench.seconds, run)


def capacity(bench: Bench) -> None:
    """The most streams whose 99th percentile is a second and whose pictures are all labelled.

    Looked for by halves in short runs; what they find is then run for the whole time, and fewer where that fails.
    """
    for kind in bench.kinds():
        bench.runs.measure(f"{kind} most", bench.seconds, functools.partial(_most, bench, kind))


def _most(bench: Bench, kind: str) -> Values:
    def holds(streams: int, seconds: float) -> Tally | None:
        with bench.started(kind) as (address, _):  # each run its own, since a server that is late stays late
            tally = asyncio.run(run_streams(kind, address, bench.images, streams, seconds))
        print(f"  {kind}, {seconds:g} s: {tally.line(f'{streams} streams')}", flush=True)
        held = tally.values()["p99"] <= 1000 and tally.labelled == tally.due
        return tally if held else None

    good, bad = 0, 1
    while bad <= MOST_STREAMS and holds(bad, SEARCH_SECONDS):
        good, bad = bad, 2 * bad
    bad = min(bad, MOST_STREAMS + 1)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        if holds(middle, SEARCH_SECONDS):
            good = middle
        else:
            bad = middle
    while good:
        if tally := holds(good, bench.seconds):
            return {"streams": good, **tally.values()}
        good -= max(1, good // 10)
    return {"streams": 0, **Tally().values()}


def predict(bench: Bench) -> None:
    """One video-level record of 1,152 values per request."""
    row = np.random.default_rng(0).normal(size=1152).round(4).tolist()
    bodies = {
        "service": json.dumps({"instances": [{"mean_rgb": row[:1024], "mean_audio": row[1024:]}]}).encode(),
        "peer": json.dumps({"instances": [row]}).encode(),
    }
    paths = {"service": "/v1/models/video:predict", "peer": "/predict"}

    def at_50() -> Values:
        with bench.service(bench.video) as (address, _):
            return asyncio.run(requests_at(address, paths["service"], bodies["service"], 50, bench.seconds)).values()

    def loop(kind: str, seconds: float) -> Values:
        with bench.started(kind, bench.video) as (address, pid):
            asyncio.run(closed_loop(address, paths[kind], bodies[kind], 1))
            before = processor_seconds(pid)
            rate = asyncio.run(closed_loop(address, paths[kind], bodies[kind], seconds))
            spent = 1000 * (processor_seconds(pid) - before) / (rate * seconds)
        return {"rate": round(rate, 1), "processor_ms": round(spent, 2)}

    bench.runs.measure("service predict at 50/s", bench.seconds, at_50)
    seconds = min(bench.seconds, PEER_SECONDS)
    for kind in bench.kinds():
        bench.runs.measure(f"{kind} predict", seconds, functools.partial(loop, kind, seconds))


def cold(bench: Bench) -> None:
    """Three starts, of which the first may have to compile loops; the first answer against the hundredth."""

    def start() -> Values:
        began = time.monotonic()
        with bench.service() as (address, pid):
            ready = time.monotonic() - began
            spent = processor_seconds(pid)
            first, later = asyncio.run(first_and_later(address, bench.images[0]))
            ending = time.monotonic()
        end = time.monotonic() - ending
        figures = {"ready": ready, "processor": spent, "first": first, "later": later, "end": end}
        return {name: round(value, 2) for name, value in figures.items()}

    bench.runs.measure("cold", 0, lambda: {"starts": [start() for _ in range(3)]})


def memory(bench: Bench) -> None:
    """Streams that come and go."""

    def run() -> Values:
        with bench.service() as (address, pid):
            asyncio.run(come_and_go(address, bench.images[0], 20))
            before = resident_bytes(pid)
            asyncio.run(come_and_go(address, bench.images[0], 1000))
            return {"first_mib": before >> 20, "growth": round(resident_bytes(pid) / before - 1, 4)}

    bench.runs.measure("memory", 0, run)


def stream(bench: Bench) -> None:
    """Six hundred rows each, from which on a ring grows no more."""

    def run() -> Values:
        with bench.service() as (address, pid):
            asyncio.run(fill_rings(address, 1, 20))
            before = resident_bytes(pid)
            with Watched(pid) as watched:
                asyncio.run(fill_rings(address, 8, 610))
            return {"grown_mib": round((max(watched.bytes) - before) / 2**20)}

    bench.runs.measure("stream", 0, run)


ROWS: dict[str, Callable[[Bench], None]] = {
    row.__name__: row for row in (latency, overload, capacity, predict, cold, memory, stream)
}


def main() -> None:
    """Measures what is not measured yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,…", help="rows (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N", help="of each run (default: %(default)s)")
    parser.add_argument("--streams", default="1,8,16", metavar="N,…", help="of latency (default: %(default)s)")
    parser.add_argument("--service_only", action="store_true", help="leave the peer out")
    parser.add_argument(
        "--runs", default="bench_output/live.jsonl", metavar="FILE", help="what is measured (default: %(default)s)"
    )
    args = parser.parse_args()
    rows = args.only.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))} (known: {', '.join(ROWS)})")
    Path(args.runs).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        program: Path | None = None
        if not args.service_only and importlib.util.find_spec("fastapi") is None:
            print("the peer needs fastapi, which is not installed: its rows are left out", file=sys.stderr)
        elif not args.service_only:
            program = Path(scratch) / "peer.py"
            program.write_text(PEER)
        # In a process of its own: what TensorFlow leaves in this one would be looked through by the collector while
        # the clients run, which takes it some tenths of a second.
        subprocess.run([sys.executable, str(Path(__file__).with_name("live_servers.py")), scratch], check=True)
        models = Path(scratch) / "frames", Path(scratch) / "video"
        streams = [int(number) for number in args.streams.split(",")]
        bench = Bench(*models, program, args.seconds, streams, pictures(), Runs(Path(args.runs)))
        gc.collect()
        gc.freeze()
        for row in rows:
            ROWS[row](bench)
        print(table(bench.runs))


if __name__ == "__main__":
    main()
