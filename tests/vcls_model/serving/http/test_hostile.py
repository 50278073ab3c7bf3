"""Clients that mean harm, and a healthy stream beside them."""

import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.fixtures.media import COLOURS
from tests.fixtures.serving import frame_message, jpeg

SECONDS = 2.0


def raw(address: str, content: bytes, *, pause: float = 0.0, read: bool = True) -> bytes:
    """Sends bytes to the port, byte by byte with a pause between where there is one; returns the first answer."""
    parts = urlsplit(address)
    place = (parts.hostname, parts.port)
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=5) as client:
        if pause:
            for number in range(len(content)):
                client.sendall(content[number : number + 1])
                time.sleep(pause)
        else:
            client.sendall(content)
        return client.recv(4096) if read else b""
    return b""


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def live_bytes(address: str, *messages: bytes | str) -> None:
    endpoint = address.replace("http", "ws") + "/live"
    with contextlib.suppress(WebSocketException, OSError, TimeoutError), connect(endpoint, max_size=None) as client:
        for message in messages:
            client.send(message)
        for _ in messages:
            client.recv(1)


def handshake(compressed: bool = False) -> bytes:
    lines = [
        "GET /live HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    if compressed:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate")
    return "\r\n".join([*lines, "", ""]).encode()


def huge_picture() -> bytes:
    """A JPEG whose header claims 65,500 × 65,500 pixels."""
    content = bytearray(jpeg(COLOURS[0]))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(content)


PREDICT = "/v1/models/colours:predict"
CLIENTS: dict[str, Callable[[str], object]] = {
    "slow loris": lambda a: raw(a, b"GET / HTTP/1.1\r\nX: " + b"y" * 8, pause=0.2, read=False),
    "half a header": lambda a: raw(a, b"POST /label HTTP/1.1\r\nHost: loc", read=False),
    "half a body": lambda a: raw(a, post("/label", b"x" * 10)[:-5], read=False),
    "a body that is longer than announced": lambda a: raw(a, post("/label", b"x" * 10) + b"y" * 50),
    "an endless header": lambda a: raw(a, b"GET / HTTP/1.1\r\nX: " + b"y" * (1 << 20)),
    "many headers": lambda a: raw(a, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000),
    "no HTTP": lambda a: raw(a, bytes(range(256)) * 10),
    "a huge length": lambda a: raw(
        a, b"POST /label HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n"
    ),
    "two lengths": lambda a: raw(a, post("/label", b"x", "Content-Length: 7")),
    "huge JSON": lambda a: raw(a, post(PREDICT, b'{"instances": [' + b"1," * (4 << 20) + b"1]}")),
    "deep JSON": lambda a: raw(a, post(PREDICT, b"[" * (1 << 20))),
    "huge numbers": lambda a: raw(a, post(PREDICT, b'{"instances": [1' + b"0" * 100_000 + b"]}")),
    "binary for text": lambda a: live_bytes(a, *[bytes([n]) * 100 for n in range(20)]),
    "text for binary": lambda a: live_bytes(a, *["x" * 1000] * 20),
    "a message beyond the limit": lambda a: live_bytes(a, bytes(8 << 20)),
    "a picture of four thousand million pixels": lambda a: live_bytes(a, frame_message(huge_picture(), seconds=1)),
    "half pictures": lambda a: live_bytes(
        a, *[frame_message(jpeg(COLOURS[0])[:n], seconds=n) for n in range(10, 300, 15)]
    ),
    "a flood of frames": lambda a: live_bytes(a, *[frame_message(jpeg(COLOURS[1]), seconds=n) for n in range(60)]),
    "a reader that never reads": lambda a: raw(a, handshake() + b"\x82\x80\x00\x00\x00\x00" * 2000, read=False),
    "a compressed bomb": lambda a: raw(
        a,
        handshake(True)
        + b"\xc2\xff"
        + (1 << 14).to_bytes(8, "big")
        + bytes(4)
        + zlib.compress(bytes(1 << 24))[: 1 << 14],
    ),
    "a broken frame of the protocol": lambda a: raw(a, handshake() + b"\xff\xff" * 50),
    "fragments without an end": lambda a: raw(
        a, handshake() + b"\x02\xfe\x40\0" + bytes(4 + (1 << 14)) + (b"\x00\xfe\x40\0" + bytes(4 + (1 << 14))) * 400
    ),
    "text that is no text": lambda a: raw(a, handshake() + b"\x81\x84" + bytes(4) + b"\xff\xfe\xfd\xfc"),
    "a ping that is too long": lambda a: raw(a, handshake() + b"\x89\xfe\x01\0" + bytes(4 + 256)),
    "opcodes that are none": lambda a: raw(a, handshake() + b"\x83\x80" + bytes(4) + b"\x8b\x80" + bytes(4)),
    "frames without a mask": lambda a: raw(a, handshake() + b"\x82\x02{}" * 100),
    "a close code that is none": lambda a: raw(a, handshake() + b"\x88\x82" + bytes(4) + b"\0\1"),
    "frames behind a close": lambda a: raw(
        a, handshake() + b"\x88\x82" + bytes(4) + b"\x03\xe8" + (b"\x82\x80" + bytes(4)) * 100
    ),
    "a continuation of nothing": lambda a: raw(a, handshake() + b"\x80\x80" + bytes(4)),
    "commands without an end": lambda a: live_bytes(a, *['{"type": "Finalize"}'] * 50),
    "a bomb as a film": lambda a: raw(a, post("/label", zlib.compress(bytes(1 << 24)), "Content-Encoding: gzip")),
    "tensors that claim gigabytes": lambda a: raw(
        a,
        post(
            "/v2/models/colours/infer",
            json.dumps(
                {"inputs": [{"name": "rgb", "datatype": "UINT8", "shape": [1 << 20, 1 << 20, 3], "data": [1]}]}
            ).encode(),
        ),
    ),
}


class Healthy:
    """A stream that is labelled all the while, ten pictures a second."""

    def __init__(self, address: str) -> None:
        self.milliseconds: list[float] = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Healthy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        picture = jpeg(COLOURS[3])
        with connect(self._address.replace("http", "ws") + "/live") as client:
            client.recv(10)
            for number in range(100_000):
                if self._stop.wait(0.1):
                    return
                started = time.monotonic()
                client.send(frame_message(picture, seconds=number))
                assert json.loads(client.recv(20))["type"] == "Labels"
                self.milliseconds.append(1000 * (time.monotonic() - started))

    def check(self) -> None:
        assert len(self.milliseconds) >= 5
        assert np.percentile(self.milliseconds, 99) <= 1000


@pytest.fixture(scope="module")
def healthy(address: str) -> Iterator[Healthy]:
    with Healthy(address) as stream:
        yield stream
    stream.check()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_hostile_client_harms_itself_alone(name: str, address: str, healthy: Healthy) -> None:
    before = len(healthy.milliseconds)
    thread = threading.Thread(target=CLIENTS[name], args=(address,), daemon=True)
    thread.start()
    thread.join(6)
    answer = raw(address, b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 5
    while len(healthy.milliseconds) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(healthy.milliseconds) > before


@pytest.mark.slow
def test_a_client_that_pings_and_does_not_read_is_not_read(address: str, healthy: Healthy) -> None:
    """Else what the service has to answer would pile up in its memory."""
    parts = urlsplit(address)
    pings = (b"\x89\xfd" + bytes(4 + 125)) * 8192  # a megabyte
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
        client.sendall(handshake())
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        with pytest.raises(TimeoutError):
            for _ in range(256):
                client.sendall(pings)


def test_refusals_name_no_path_and_no_trace(address: str) -> None:
    for content in (post(PREDICT, b"["), post("/label", b"x" * 10), post("/v2/models/colours/infer", b"{}")):
        answer = raw(address, content)
        assert b"HTTP/1.1 4" in answer and b"Traceback" not in answer and b"/tmp" not in answer


@pytest.mark.long
def test_ten_thousand_idle_sockets(address: str, healthy: Healthy) -> None:
    """As many as the system lets this process open; those above the service's limit are closed at once."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parts = urlsplit(address)
    before = len(healthy.milliseconds)
    sockets = []
    try:
        for _ in range(min(10_000, hard - 200)):
            with contextlib.suppress(OSError):
                sockets.append(socket.create_connection((parts.hostname, parts.port), timeout=2))
        time.sleep(SECONDS)
        assert len(healthy.milliseconds) > before + 5
    finally:
        for each in sockets:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    healthy.check()
