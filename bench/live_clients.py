"""Clients of the live service and of its peer, for `bench/live.py`."""

import asyncio
import base64
import json
import time
from collections.abc import Sequence

import numpy as np


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
    began = time.monotonic()

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal count
        while time.monotonic() < began + seconds:
            (await client.post(url, content=body, headers={"Content-Type": "application/json"})).raise_for_status()
            count += 1

    async with httpx.AsyncClient(timeout=None) as client:
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
