"""The live service beside the loop that people write first, on this machine, one line per figure.

    pip install '.[bench]'  # FastAPI, which the peer is served by; without it its rows are left out
    python bench/live.py [--only=ROW,…] [--seconds=N] [--streams=N,…] [--service_only]

| row | what | a run of `--seconds=20` takes |
|---|---|---|
| `cold` | seconds from the command to the address, three starts; the first answer and the hundredth | 1 minute |
| `latency` | frame to label at a picture a second, for each number of streams, and the peer's | 3 minutes |
| `capacity` | the most streams whose 99th percentile is a second | 6 minutes |
| `overload` | 120 pictures a second: lag, what was dropped, memory | 1 minute |
| `memory` | after 1,000 streams that came and went | 2 minutes |
| `stream` | what a stream holds once its ring is full | 1 minute |
| `predict` | `:predict` of one video-level record, latency at 50 requests a second, throughput | 2 minutes |

The service: `python -m vcls_model.serve` with the default encoders and a frame-level model of 1,000 classes, made here
with random weights. The peer: FastAPI, a picture as base64 in JSON, `cv2` to decode it, the same picture encoder at
batch 1, and `keras.Model.predict` of a model of the same size on the mean of the last ten rows. Both get the same
pictures. Each row starts a service of its own.

Each stream sends by a clock, whether or not the last answer has come, and latency counts from the moment at which a
picture was due, so that a service that stalls cannot hide it (no coordinated omission). A stream that has no credit
when a picture is due does not send it, and counts it as skipped. The load of the machine is printed with each row, and
the processor time of the service, which other work on the machine changes less than latencies.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from live_clients import closed_loop, come_and_go, fill_rings, first_and_later, requests_at, run_streams
from live_servers import PEER, Watched, free_port, pictures, process, processor_seconds, resident_bytes, write_models

OVERLOAD_STREAMS, OVERLOAD_RATE = 40, 3.0


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the rows share.

    Attributes:
        frames, video: directories of the two models.
        peer_program: the peer's script; None where FastAPI is not installed.
        seconds: length of each run.
        streams: numbers of streams for `latency`.
        images: pictures that are sent.
    """

    frames: Path
    video: Path
    peer_program: Path | None
    seconds: float
    streams: Sequence[int]
    images: Sequence[bytes]

    def service(self, model: Path | None = None) -> contextlib.AbstractContextManager[tuple[str, int]]:
        """A service of its own: its address and process id."""
        return process(["-m", "vcls_model.serve", f"--model={model or self.frames}", "--port=0"])

    @contextlib.contextmanager
    def peer(self) -> Iterator[tuple[str, int] | None]:
        """The peer's address and process id, or None."""
        if self.peer_program is None:
            yield None
            return
        port = free_port()
        with process([str(self.peer_program), str(port)], f"http://127.0.0.1:{port}") as started:
            yield started


def cold(bench: Bench) -> None:
    """Three starts, of which the first may have to compile loops; the first answer against the hundredth."""
    for number in (1, 2, 3):
        began = time.monotonic()
        with bench.service() as (address, pid):
            ready = time.monotonic() - began
            spent = processor_seconds(pid)
            first, later = asyncio.run(first_and_later(address, bench.images[0]))
            ending = time.monotonic()
        print(
            f"start {number}: ready after {ready:.1f} s ({spent:.1f} s of processor time); "
            f"first answer {first:.0f} ms, the 90th to the hundredth {later:.0f} ms; "
            f"ended {time.monotonic() - ending:.1f} s after SIGTERM",
            flush=True,
        )


def latency(bench: Bench) -> None:
    """A picture a second and stream."""
    with bench.service() as (address, pid):
        for streams in bench.streams:
            before = processor_seconds(pid)
            tally = asyncio.run(run_streams("service", address, bench.images, streams, bench.seconds))
            print(tally.line(f"service, {streams} streams"), end="; ")
            spent = 1000 * (processor_seconds(pid) - before) / max(1, tally.labelled)
            print(f"{spent:.0f} ms of processor time per picture", flush=True)
    with bench.peer() as peer:
        for streams in bench.streams if peer else ():
            before = processor_seconds(peer[1])
            tally = asyncio.run(run_streams("peer", peer[0], bench.images, streams, min(bench.seconds, 60)))
            print(tally.line(f"peer, {streams} streams"), end="; ")
            spent = 1000 * (processor_seconds(peer[1]) - before) / max(1, tally.labelled)
            print(f"{spent:.0f} ms of processor time per picture", flush=True)


def capacity(bench: Bench) -> None:
    """More and more streams until the 99th percentile is above a second, or a picture was not labelled."""

    def most(kind: str, address: str) -> str:
        best = "none"
        for streams in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
            tally = asyncio.run(run_streams(kind, address, bench.images, streams, bench.seconds))
            p99 = float(np.percentile(tally.latencies, 99))
            if p99 > 1000 or tally.labelled < tally.due:
                return (
                    f"{best}; {streams} have p99 {p99:.0f} ms, {tally.due - tally.labelled} of {tally.due} not labelled"
                )
            best = f"{streams} (p99 {p99:.0f} ms)"
        return f"at least {best}"

    with bench.service() as (address, _):
        print(f"streams with p99 <= 1 s, service: {most('service', address)}", flush=True)
    with bench.peer() as peer:
        if peer:
            print(f"streams with p99 <= 1 s, peer: {most('peer', peer[0])}", flush=True)


def overload(bench: Bench) -> None:
    """Streams that send without credits, three times what two cores label."""
    with bench.service() as (address, pid), Watched(pid) as memory:
        run = functools.partial(run_streams, "service", address, bench.images, OVERLOAD_STREAMS, bench.seconds)
        tally = asyncio.run(run(OVERLOAD_RATE, obey=False))
        print(tally.line(f"overload, {OVERLOAD_STREAMS} streams of {OVERLOAD_RATE:g} pictures/s"))
    lost = tally.sent - tally.labelled - tally.dropped
    print(f"  sent - labelled - dropped = {lost}; {memory.line()}", flush=True)


def memory(bench: Bench) -> None:
    """Streams that come and go."""
    with bench.service() as (address, pid):
        asyncio.run(come_and_go(address, bench.images[0], 20))
        before = resident_bytes(pid)
        asyncio.run(come_and_go(address, bench.images[0], 1000))
        after = resident_bytes(pid) / before - 1
        print(f"memory after 1,000 streams: {after:+.1%} of {before >> 20} MiB after the first 20", flush=True)


def stream(bench: Bench) -> None:
    """Six hundred rows each, from which on a ring grows no more."""
    with bench.service() as (address, pid):
        asyncio.run(fill_rings(address, 1, 20))
        before = resident_bytes(pid)
        with Watched(pid) as watched:
            asyncio.run(fill_rings(address, 8, 610))
        grown = (max(watched.bytes) - before) / 8 / 2**20
        print(f"memory of a stream whose ring is full: {grown:.1f} MiB, as the growth by 8 of them", flush=True)


def predict(bench: Bench) -> None:
    """One video-level record of 1,152 values per request."""
    row = np.random.default_rng(0).normal(size=1152).round(4).tolist()
    own = json.dumps({"instances": [{"mean_rgb": row[:1024], "mean_audio": row[1024:]}]}).encode()
    with bench.service(bench.video) as (address, pid):
        url = f"{address}/v1/models/video:predict"
        p50, p99, reached = asyncio.run(requests_at(url, own, 50, bench.seconds))
        before = processor_seconds(pid)
        rate = asyncio.run(closed_loop(url, own, bench.seconds))
        spent = 1000 * (processor_seconds(pid) - before) / (rate * bench.seconds)
        print(f"predict, service: {rate:.0f} requests/s of 8 clients, {spent:.1f} ms of processor time each; ", end="")
        print(f"at {reached:.0f}/s p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
    with bench.peer() as peer:
        if peer:
            plain = json.dumps({"instances": [row]}).encode()
            rate = asyncio.run(closed_loop(f"{peer[0]}/predict", plain, bench.seconds))
            print(f"predict, peer: {rate:.0f} requests/s of 8 clients", flush=True)


ROWS: dict[str, Callable[[Bench], None]] = {
    row.__name__: row for row in (cold, latency, capacity, overload, memory, stream, predict)
}


def main() -> None:
    """Prints a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,…", help="rows (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N", help="of each run (default: %(default)s)")
    parser.add_argument("--streams", default="1,8,16", metavar="N,…", help="of latency (default: %(default)s)")
    parser.add_argument("--service_only", action="store_true", help="leave the peer out")
    args = parser.parse_args()
    rows = args.only.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))} (known: {', '.join(ROWS)})")
    with tempfile.TemporaryDirectory() as scratch:
        program: Path | None = None
        if not args.service_only and importlib.util.find_spec("fastapi") is None:
            print("the peer needs fastapi, which is not installed: its rows are left out", file=sys.stderr)
        elif not args.service_only:
            program = Path(scratch) / "peer.py"
            program.write_text(PEER)
        streams = [int(number) for number in args.streams.split(",")]
        bench = Bench(*write_models(Path(scratch)), program, args.seconds, streams, pictures())
        for row in rows:
            print(f"# {row}, {args.seconds:g} s per run, load average {os.getloadavg()[0]:.1f} before it", flush=True)
            ROWS[row](bench)


if __name__ == "__main__":
    main()
