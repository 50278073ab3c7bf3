"""Clients of the live service and of its peer, for `bench/live.py`."""

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Tally:
    """Latencies in milliseconds, and what became of pictures."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.due = self.sent = self.labelled = self.dropped = self.skipped = 0

    def values(self) -> dict[str, Any]:
        """Percentiles in milliseconds, and the counts."""
        latencies = self.latencies or [float("inf")]
        p50, p99 = np.percentile(latencies, [50, 99])
        counts = {name: getattr(self, name) for name in ("due", "sent", "labelled", "dropped", "skipped")}
        figures = {"p50": p50, "p99": p99, "longest": max(latencies)}
        lost = self.sent - self.labelled - self.dropped
        return {**{name: round(float(value), 2) for name, value in figures.items()}, **counts, "lost": lost}

    def line(self, name: str) -> str:
        """One line of figures."""
        return f"{name}: " + ", ".join(f"{key} {value}" for key, value in self.values().items())


class Connections:
    """Connections to a server that are used again and again, of HTTP/1.1.

    Clients share the cores with what they measure: this one takes a fraction of a general client's time per request,
    and imports nothing when the first is sent.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self._place = host, int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer, whose status must be 200."""
        reader, writer = await self._connection()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._place[0]}:{self._place[1]}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer)
        if not answer.startswith(b"HTTP/1.1 200") or length is None:
            raise SystemExit(f"{path} was answered with {answer.splitlines()[0].decode()}")
        content = await reader.readexactly(int(length[1]))
        self._idle.append((reader, writer))
        return content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._place)

    def close(self) -> None:
        """Closes those that are idle."""
        for _, writer in self._idle:
            writer.close()


@contextlib.contextmanager
def connections(address: str) -> Iterator[Connections]:
    """Connections to a server, closed in the end."""
    made = Connections(address)
    try:
        yield made
    finally:
        made.close()


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
                    del due_times[message["sequence"]]
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
    with connections(address) as client:

        async def ask(number: int, due: float) -> None:
            body = {"stream": name, "image": base64.b64encode(images[number % len(images)]).decode()}
            await client.post("/frame", json.dumps(body).encode())
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


async def first_and_later(address: str, picture: bytes) -> tuple[float, float]:
    """Milliseconds of the first answer of a service, and the median of the 90th to the hundredth."""
    tally = Tally()
    for _ in range(100):
        await live_stream(address, [picture], 100.0, 0.01, 0.0, tally)
    return tally.latencies[0], float(np.median(tally.latencies[90:]))


async def requests_at(address: str, path: str, body: bytes, rate: float, seconds: float) -> Tally:
    """Requests by the clock, whether or not those before are answered."""
    tally = Tally()
    with connections(address) as client:

        async def ask(due: float) -> None:
            await client.post(path, body)
            tally.labelled += 1
            tally.latencies.append(1000 * (time.monotonic() - due))

        start = time.monotonic()
        tasks = []
        for number in range(int(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tally.due += 1
            tally.sent += 1
            tasks.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*tasks)
    return tally


async def closed_loop(address: str, path: str, body: bytes, seconds: float, clients: int = 8) -> float:
    """Requests per second of some clients, each of which asks again once it is answered."""
    count = 0
    began = time.monotonic()

    async def ask(client: Connections) -> None:
        nonlocal count
        while time.monotonic() < began + seconds:
            await client.post(path, body)
            count += 1

    with connections(address) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return count / (time.monotonic() - began)


async def come_and_go(address: str, picture: bytes, streams: int) -> None:
    """Streams that label one picture each and leave."""
    for _ in range(streams):
        await live_stream(address, [picture], 100.0, 0.01, 0.0, Tally())


async def fill_rings(address: str, streams: int, rows: int) -> None:
    """Opens streams, sends each so many rows of sound alone, and leaves them open until the caller is done."""
    import websockets

    async def fill() -> None:
        async with websockets.connect(address.replace("http", "ws") + "/live") as client:
            await client.recv()
            head = b'{"sound_samples": 15600}'
            content = len(head).to_bytes(4, "little") + head + bytes(2 * 15_600)
            for _ in range(rows):
                sent = time.monotonic()
                await client.send(content)
                await client.recv()
                await asyncio.sleep(max(0.0, sent + 0.04 - time.monotonic()))  # a stream may send 30 a second

    await asyncio.gather(*(fill() for _ in range(streams)))
