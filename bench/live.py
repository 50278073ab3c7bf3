"""The live service beside the loop that people write first, on this machine, one line per figure.

    pip install '.[bench]'  # FastAPI, which the peer is served by; without it its rows are left out
    python bench/live.py [--seconds=N] [--only=NAME,…] [--streams=N,…]

A whole run takes an hour; with `--seconds=20` some six minutes.

The service: `python -m vcls_model.serve` with the default encoders and a frame-level model of 1,000 classes, made here
with random weights. The peer: FastAPI, a picture as base64 in JSON, `cv2` to decode it, the same picture encoder at
batch 1, and `keras.Model.predict` of a model of the same size on the mean of the last ten rows. Both get the same
pictures.

Each stream sends by a clock, whether or not the last answer has come, and latency counts from the moment at which a
picture was due, so that a service that stalls cannot hide it (no coordinated omission). A stream that has no credit
when a picture is due does not send it, and counts it as skipped.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 1000
PEER = """
import base64, os, sys
from collections import defaultdict, deque
os.environ["KERAS_BACKEND"] = "tensorflow"
import cv2, keras, numpy as np, uvicorn
from fastapi import FastAPI
from vcls_model.encoders import load_encoder
encoder = load_encoder("efficientnet-lite2", "picture")
wide = 1280
def dense(width):
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(1000, "sigmoid")]
    return keras.Sequential([keras.layers.Input((width,)), *layers])
video, model = dense(1152), dense(wide)
rows = defaultdict(lambda: deque(maxlen=10))
app = FastAPI()
@app.post("/frame")
def frame(body: dict):
    content = np.frombuffer(base64.b64decode(body["image"]), np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    features = encoder.encode(encoder.info.input.prepare(picture)[None])[0]
    last = rows[body["stream"]]
    last.append(features)
    return {"labels": model.predict(np.mean(last, axis=0)[None], verbose=0)[0].tolist()}
@app.post("/predict")
def predict(body: dict):
    return {"predictions": video.predict(np.array(body["instances"], np.float32), verbose=0).tolist()}
model.predict(np.zeros((1, wide)), verbose=0); video.predict(np.zeros((1, 1152)), verbose=0)
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def pictures(count: int = 32) -> list[bytes]:
    """JPEG files of 640 × 360, as a camera's page sends them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((640, 360), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def write_models(folder: Path) -> tuple[Path, Path]:
    """A frame-level model of the default encoders, and a video-level one of 1,152 values, with random weights."""
    import tensorflow as tf

    from vcls_model.embedding import EmbeddingConfig
    from vcls_model.records.schema import schema_by_name

    rng = np.random.default_rng(0)

    def dense(width: int, units: int) -> tf.Variable:
        return tf.Variable(rng.normal(0, width**-0.5, (width, units)).astype(np.float32))

    def write(directory: Path, schema: Any, inputs: list[tf.TensorSpec]) -> Path:
        module = tf.Module()
        width = sum(each.width for each in schema.modalities)
        module.first, module.second = dense(width, 512), dense(512, CLASSES)

        def logits(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            parts = []
            for each in schema.modalities:
                values = features[each.name]
                if each.kind == "frames":
                    counts = tf.strings.length(values) // each.width
                    codes = tf.io.decode_raw(values, tf.uint8, fixed_length=tf.reduce_max(counts) * each.width)
                    rows = tf.cast(tf.reshape(codes, [tf.shape(values)[0], -1, each.width]), tf.float32)
                    values = tf.reduce_sum(rows, 1) / tf.cast(counts, tf.float32)[:, None] / 256
                parts.append(values)
            return {"logits": tf.nn.relu(tf.concat(parts, 1) @ module.first) @ module.second}

        call = tf.function(logits).get_concrete_function(**{spec.name: spec for spec in inputs})
        tf.saved_model.save(module, str(directory / "saved_model"), signatures={"features": call})
        rows = [f"{index},class {index},0.9" for index in range(CLASSES)]
        (directory / "labels.csv").write_text("\n".join(["index,name,best_threshold", *rows]) + "\n")
        info = {"schema": schema.to_dict(), "class_count": CLASSES, "model": {"name": "bench"}, "split": {}}
        (directory / "info.json").write_text(json.dumps(info))
        return directory

    media = EmbeddingConfig.of("efficientnet-lite2", "yamnet").schema(CLASSES)
    strings = [tf.TensorSpec([None], tf.string, each.name) for each in media.modalities]
    plain = schema_by_name("yt8m-video")
    floats = [tf.TensorSpec([None, each.width], tf.float32, each.name) for each in plain.modalities]
    return write(folder / "frames", media, strings), write(folder / "video", plain, floats)


@contextlib.contextmanager
def process(command: Sequence[str], address: str | None = None) -> Iterator[tuple[str, int]]:
    """A server's address and process id; its seconds to ready are printed by the caller."""
    started = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert started.stdout is not None
        if address is None:
            printed = re.search(r"http://\S+[^/\s]", started.stdout.readline())
            if printed is None:
                raise SystemExit("the service did not start")
            address = printed[0]
        else:
            _wait_for(address)
        yield address, started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()


def _wait_for(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/docs", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the peer did not start")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Tally:
    """Latencies in milliseconds, and what became of pictures."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.due = self.sent = self.labelled = self.dropped = self.skipped = 0

    def line(self, name: str) -> str:
        """One line of figures."""
        values = self.latencies or [float("nan")]
        p50, p99 = np.percentile(values, [50, 99])
        return (
            f"{name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {max(values):.0f} ms; "
            f"{self.due} due, {self.sent} sent, {self.labelled} labelled, "
            f"{self.dropped} dropped, {self.skipped} skipped"
        )


async def live_stream(
    address: str,
    images: Sequence[bytes],
    rate: float,
    seconds: float,
    offset: float,
    tally: Tally,
    *,
    obey: bool = True,
) -> None:
    """One stream of the service: a picture every 1 / `rate` seconds; with `obey` none without a credit."""
    import websockets

    async with websockets.connect(address.replace("http", "ws") + "/live", max_size=None) as client:
        credits = json.loads(await client.recv())["credits"]
        due_times: dict[int, float] = {}
        sound = np.zeros(15_600, "<i2").tobytes()

        async def listen() -> None:
            nonlocal credits
            async for text in client:
                message = json.loads(text)
                credits += message.get("credits", 0)
                if message["type"] == "Labels":
                    tally.labelled += 1
                    tally.latencies.append(1000 * (time.monotonic() - due_times.pop(message["sequence"])))
                elif message["type"] == "Dropped":
                    tally.dropped += 1
                elif message["type"] == "Finalized":
                    return

        listening = asyncio.create_task(listen())
        start = time.monotonic() + offset
        for number in range(int(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tally.due += 1
            if obey and credits < 1:
                tally.skipped += 1
                continue
            credits -= 1
            picture = images[number % len(images)]
            header = {"sequence": number, "seconds": number / rate}
            head = json.dumps({**header, "picture_bytes": len(picture), "sound_samples": 15_600}).encode()
            due_times[number] = due
            await client.send(len(head).to_bytes(4, "little") + head + picture + sound)
            tally.sent += 1
        await client.send('{"type": "Finalize"}')
        await asyncio.wait_for(listening, 60)


async def peer_stream(
    address: str, images: Sequence[bytes], rate: float, seconds: float, offset: float, tally: Tally, name: str
) -> None:
    """One stream of the peer: a request every 1 / `rate` seconds, as many at once as it takes."""
    import httpx

    async with httpx.AsyncClient(timeout=None) as client:

        async def ask(number: int, due: float) -> None:
            body = {"stream": name, "image": base64.b64encode(images[number % len(images)]).decode()}
            (await client.post(f"{address}/frame", json=body)).raise_for_status()
            tally.labelled += 1
            tally.latencies.append(1000 * (time.monotonic() - due))

        start = time.monotonic() + offset
        tasks = []
        for number in range(int(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tally.due += 1
            tally.sent += 1
            tasks.append(asyncio.create_task(ask(number, due)))
        await asyncio.gather(*tasks)


async def run_streams(
    kind: str,
    address: str,
    images: Sequence[bytes],
    streams: int,
    seconds: float,
    rate: float = 1.0,
    *,
    obey: bool = True,
) -> Tally:
    """So many streams at once, spread over a second."""
    tally = Tally()
    work = []
    for number in range(streams):
        offset = number / streams / rate
        if kind == "service":
            work.append(live_stream(address, images, rate, seconds, offset, tally, obey=obey))
        else:
            work.append(peer_stream(address, images, rate, seconds, offset, tally, str(number)))
    await asyncio.gather(*work)
    return tally


async def capacity(kind: str, address: str, images: Sequence[bytes], seconds: float) -> str:
    """Doubles the streams until the 99th percentile is above a second, or a picture was not labelled."""
    best = "none"
    for streams in (4, 8, 16, 32, 64):
        tally = await run_streams(kind, address, images, streams, seconds)
        p99 = float(np.percentile(tally.latencies, 99))
        if p99 > 1000 or tally.labelled < tally.due:
            return f"{best}; {streams} have p99 {p99:.0f} ms, {tally.due - tally.labelled} of {tally.due} not labelled"
        best = f"{streams} (p99 {p99:.0f} ms)"
    return f"at least {best}"


async def first_and_later(address: str, picture: bytes) -> tuple[float, float]:
    """Milliseconds of the first answer of a service, and the median of the 90th to the hundredth."""
    tally = Tally()
    for _ in range(100):
        await live_stream(address, [picture], 100.0, 0.01, 0.0, tally)
    return tally.latencies[0], float(np.median(tally.latencies[90:]))


async def requests_at(url: str, body: bytes, rate: float, seconds: float) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds at a rate by the clock, and the rate that was reached."""
    import httpx

    latencies: list[float] = []
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=256)) as client:

        async def ask(due: float) -> None:
            (await client.post(url, content=body, headers={"Content-Type": "application/json"})).raise_for_status()
            latencies.append(1000 * (time.monotonic() - due))

        start = time.monotonic()
        tasks = []
        for number in range(int(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*tasks)
    p50, p99 = np.percentile(latencies, [50, 99])
    return float(p50), float(p99), len(latencies) / (time.monotonic() - start)


async def closed_loop(url: str, body: bytes, seconds: float, clients: int = 8) -> float:
    """Requests per second of some clients, each of which asks again once it is answered."""
    import httpx

    count = 0
    stop = time.monotonic() + seconds

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal count
        while time.monotonic() < stop:
            (await client.post(url, content=body, headers={"Content-Type": "application/json"})).raise_for_status()
            count += 1

    async with httpx.AsyncClient(timeout=None) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return count / seconds


async def come_and_go(address: str, picture: bytes, streams: int) -> None:
    """Streams that label one picture each and leave."""
    for _ in range(streams):
        await live_stream(address, [picture], 100.0, 0.01, 0.0, Tally())


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def measure(args: argparse.Namespace, models: tuple[Path, Path], peer: str | None) -> None:
    """All rows that were asked for."""
    images = pictures()
    wanted = set(args.only.split(","))
    frames, video = models
    began = time.monotonic()
    with process(["-m", "vcls_model.serve", f"--model={frames}", "--port=0"]) as (service, pid):
        print(f"cold start to ready: {time.monotonic() - began:.1f} s", flush=True)
        first, later = asyncio.run(first_and_later(service, images[0]))
        print(f"first answer: {first:.0f} ms, the hundredth {later:.0f} ms", flush=True)
        if "latency" in wanted:
            for streams in map(int, args.streams.split(",")):
                tally = asyncio.run(run_streams("service", service, images, streams, args.seconds))
                print(tally.line(f"service, {streams} streams"), flush=True)
                if peer:
                    tally = asyncio.run(run_streams("peer", peer, images, streams, min(args.seconds, 60)))
                    print(tally.line(f"peer, {streams} streams"), flush=True)
        if "capacity" in wanted:
            print(
                f"streams with p99 <= 1 s, service: {asyncio.run(capacity('service', service, images, args.seconds))}"
            )
            if peer:
                print(f"streams with p99 <= 1 s, peer: {asyncio.run(capacity('peer', peer, images, args.seconds))}")
        if "overload" in wanted:
            before = resident_bytes(pid)
            tally = asyncio.run(run_streams("service", service, images, 20, args.seconds, 3.0, obey=False))
            print(tally.line("overload, 20 streams of 3 pictures/s"))
            print(f"  sent = labelled + dropped: {tally.sent == tally.labelled + tally.dropped}; ", end="")
            print(f"memory {before >> 20} to {resident_bytes(pid) >> 20} MiB", flush=True)
        if "memory" in wanted:
            asyncio.run(come_and_go(service, images[0], 20))
            before = resident_bytes(pid)
            asyncio.run(come_and_go(service, images[0], 1000))
            print(
                f"memory after 1,000 streams: {resident_bytes(pid) / before - 1:+.1%} of {before >> 20} MiB", flush=True
            )
    if "predict" in wanted:
        row = np.random.default_rng(0).normal(size=1152).round(4).tolist()
        own = json.dumps({"instances": [{"mean_rgb": row[:1024], "mean_audio": row[1024:]}]}).encode()
        with process(["-m", "vcls_model.serve", f"--model={video}", "--port=0"]) as (service, _):
            url = f"{service}/v1/models/video:predict"
            p50, p99, _ = asyncio.run(requests_at(url, own, 50, args.seconds))
            rate = asyncio.run(closed_loop(url, own, 10))
            print(f"predict, service: {rate:.0f} requests/s; at 50/s p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
        if peer:
            rate = asyncio.run(closed_loop(f"{peer}/predict", json.dumps({"instances": [row]}).encode(), 10))
            print(f"predict, peer: {rate:.0f} requests/s", flush=True)


def main() -> None:
    """Prints a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="length of each run (default: %(default)s)")
    parser.add_argument("--streams", default="1,8,16", help="numbers of streams (default: %(default)s)")
    parser.add_argument(
        "--only", default="latency,capacity,overload,memory,predict", help="rows (default: %(default)s)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        models = write_models(Path(scratch))
        try:
            import fastapi  # noqa: F401
        except ImportError:
            print("the peer needs fastapi, which is not installed: its rows are left out", file=sys.stderr)
            measure(args, models, None)
            return
        program = Path(scratch) / "peer.py"
        program.write_text(PEER)
        address = f"http://127.0.0.1:{free_port()}"
        with process([str(program), address.rpartition(":")[2]], address) as (peer, _):
            measure(args, models, peer)


if __name__ == "__main__":
    main()
