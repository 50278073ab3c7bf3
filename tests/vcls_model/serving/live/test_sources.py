"""Streams that are pulled: HLS and RTSP from servers of this test, lost and come back to."""

import base64
import http.server
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.fixtures.live import ColourModel
from tests.fixtures.media import COLOURS, Encoders, colour_clip
from vcls_model.commands import UsageError
from vcls_model.serving.live.engine import Engine, EngineOptions
from vcls_model.serving.live.events import LabelEvent
from vcls_model.serving.live.session import Answer, FrameLabels, Session
from vcls_model.serving.live.sources import Source, SourcePlayer

TS_PACKET, PACKETS_PER_RTP = 188, 7


@pytest.fixture(scope="module")
def engine(small_encoders: Encoders) -> Iterator[Engine]:
    made = Engine(ColourModel(small_encoders), EngineOptions(window_seconds=1, hold_seconds=0, encoder_threads=1))
    yield made
    made.shut_down()


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four seconds of MPEG-TS: red, green, blue, yellow."""
    return colour_clip(tmp_path_factory.mktemp("segment") / "colours.ts", 4).read_bytes()


class Pulled:
    """A source that is being pulled, and its answers."""

    def __init__(self, engine: Engine, address: str) -> None:
        self.labelled: list[FrameLabels] = []
        self.ended: list[LabelEvent] = []
        source = Source.parse(f"camera={address}")
        self.player = SourcePlayer(source, engine, self._hear, lambda _, events: self.ended.extend(events))

    def _hear(self, session: Session, answer: Answer) -> None:
        if isinstance(answer, FrameLabels):
            self.labelled.append(answer)

    def __enter__(self) -> "Pulled":
        self.player.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.player.stop()

    def wait(self, what: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (self.player.state, self.player.message, len(self.labelled))
            time.sleep(0.02)

    def best(self) -> set[int]:
        return {int(each.now.argmax()) for each in self.labelled}


@pytest.fixture
def broadcast(segment: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server of HLS: its playlist is absent at the first request; what was asked for."""
    asked: list[str] = []
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\ncolours.ts\n#EXT-X-ENDLIST\n"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = playlist.encode() if self.path.endswith("m3u8") else segment
            self.send_response(404 if len(asked) == 1 else 200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/live.m3u8", asked


class serving:  # noqa: N801  # a context manager that reads as a word
    """Runs a server on a thread; gives its port."""

    def __init__(self, server: socketserver.BaseServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_broadcast_is_waited_for_and_come_back_to(engine: Engine, broadcast: tuple[str, list[str]]) -> None:
    address, asked = broadcast
    with Pulled(engine, address) as pulled:
        pulled.wait(lambda: pulled.player.state == "waiting" and not pulled.labelled)
        assert address not in pulled.player.message and "cannot be opened" in pulled.player.message
        pulled.wait(lambda: sum(path.endswith("m3u8") for path in asked) >= 3)  # once more after its end
        pulled.wait(lambda: len(pulled.best()) >= 2 and pulled.labelled[-1].frame.seconds >= 4)
    seconds = [each.frame.seconds for each in pulled.labelled]
    assert seconds == sorted(set(seconds))  # its clock goes on
    assert pulled.player.session is not None
    assert pulled.player.state == "ended" and pulled.player.session.closed


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """A channel by HLS whose playlist names the last three of its segments, of a second each, as they come; and what
    takes it off the air."""
    with av.open(
        str(tmp_path / "x.m3u8"), "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}
    ) as container:
        stream = container.add_stream("mpeg2video", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 10
        for number in range(3000):
            pixels = np.broadcast_to(np.array(COLOURS[(number // 10) % 4], np.uint8), (48, 64, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode(None))
    began, off = time.monotonic(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first = int(time.monotonic() - began)
            head = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
            playlist = head + "".join(f"#EXTINF:1.0,\nx{number}.ts\n" for number in range(first, first + 3))
            content = (tmp_path / self.path[1:]).read_bytes() if self.path.endswith("ts") else playlist.encode()
            self.send_response(503 if off.is_set() else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/live.m3u8", off


@pytest.mark.slow
def test_a_channel_is_followed_as_it_goes_on_and_after_it_was_off_the_air(
    engine: Engine, channel: tuple[str, threading.Event]
) -> None:
    address, off = channel
    with Pulled(engine, address) as pulled:
        pulled.wait(lambda: len(pulled.labelled) >= 5)
        off.set()
        pulled.wait(lambda: pulled.player.state == "waiting")
        assert pulled.player.message
        before = len(pulled.labelled)
        off.clear()
        pulled.wait(lambda: len(pulled.labelled) >= before + 3)
        assert pulled.player.state == "playing" and pulled.player.message == ""
    seconds = [each.frame.seconds for each in pulled.labelled]
    assert seconds == sorted(set(seconds))
    assert len(pulled.best()) >= 2


class Camera(socketserver.StreamRequestHandler):
    """A camera by RTSP over TCP, whose stream is MPEG-TS in RTP (RFC 2326, RFC 2250); it hangs up at its end."""

    content = b""
    calls: list[str] = []
    authorised = "Basic " + base64.b64encode(b"me:secret").decode()

    def handle(self) -> None:
        while line := self.rfile.readline().decode():
            method = line.split(" ")[0]
            headers = {}
            while (header := self.rfile.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            type(self).calls.append(method)
            if not self._answer(method, headers):
                return

    def _answer(self, method: str, headers: dict[str, str]) -> bool:
        more, body, status = [], "", "200 OK"
        if method == "DESCRIBE" and headers.get("authorization") != self.authorised:
            status, more = "401 Unauthorized", ['WWW-Authenticate: Basic realm="camera"']
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            more = ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP" and "TCP" not in headers["transport"]:
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            more = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        elif method == "PLAY":
            more = ["Session: 1"]
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers['cseq']}", *more, "", body]
        self.wfile.write("\r\n".join(lines).encode())
        if method == "PLAY":
            self._play()
            return False
        return True

    def _play(self) -> None:
        step = TS_PACKET * PACKETS_PER_RTP
        for number, start in enumerate(range(0, len(self.content), step)):
            part = self.content[start : start + step]
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, 900 * number, 1) + part
            self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
        time.sleep(0.2)


class CameraServer(socketserver.ThreadingTCPServer):
    """Takes several connections at once: pictures and sound are read by one each."""

    allow_reuse_address = daemon_threads = True


def test_a_camera_is_pulled_by_rtsp_and_dialled_again(
    engine: Engine, segment: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    Camera.content, Camera.calls = segment, []
    with (
        serving(CameraServer(("127.0.0.1", 0), Camera)) as port,
        Pulled(engine, f"rtsp://me:secret@127.0.0.1:{port}/stream") as pulled,
    ):
        pulled.wait(lambda: bool(pulled.labelled))
        pulled.wait(lambda: Camera.calls.count("PLAY") >= 2)
    assert pulled.best() <= {0, 1, 2, 3}
    assert "secret" not in caplog.text and "secret" not in pulled.player.message


def test_a_silent_camera_does_not_hold_up_the_end(engine: Engine) -> None:
    """It accepts, and says nothing: stopping takes less than the time for which it would be waited for."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with Pulled(engine, f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x") as pulled:
            silent.settimeout(20)
            silent.accept()
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert pulled.player.state == "ended"


@pytest.mark.slow
def test_a_loop_begins_again_and_a_file_ends(engine: Engine, segment: bytes, tmp_path: Path) -> None:
    path = tmp_path / "colours.ts"
    path.write_bytes(segment)
    with Pulled(engine, f"loop:{path}") as pulled:
        pulled.wait(lambda: len(pulled.labelled) >= 5)
    assert [int(each.now.argmax()) for each in pulled.labelled][:5] == [0, 1, 2, 3, 0]
    colour_clip(path, 2)
    with Pulled(engine, str(path)) as pulled:
        pulled.wait(lambda: pulled.player.state == "ended")
    assert [each.frame.seconds for each in pulled.labelled] == [0, 1]
    assert [(event.kind, event.index, event.start, event.at) for event in pulled.ended] == [("end", 1, 1, 1)]


@pytest.mark.parametrize("flag", ["camera", "=rtsp://h/x", "a b=rtsp://h/x", "camera=", "camera=/no/such/file"])
def test_sources_that_are_none(flag: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--source={flag}")):
        Source.parse(flag)
