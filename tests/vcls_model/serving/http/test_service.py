"""The whole service in a process of its own: live streams, files, pulled streams, other people's clients."""

import dataclasses
import http.server
import json
import resource
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.fixtures.media import COLOURS, Encoders, tone
from tests.fixtures.serving import Address, frame_message, jpeg, served

MOST_SECONDS_TO_END = 5  # two, where nothing else keeps the machine busy


def live(address: str) -> ClientConnection:
    return connect(address.replace("http", "ws") + "/live", max_size=1 << 22)


def heard(socket: ClientConnection) -> dict[str, Any]:
    return json.loads(socket.recv(20))


def label(socket: ClientConnection, **frame: Any) -> dict[str, Any]:
    """The answer to one frame."""
    socket.send(frame_message(**frame))
    return heard(socket)


def test_a_camera_s_colours_come_and_go(address: str) -> None:
    with live(address) as socket:
        ready = heard(socket)
        assert ready["type"] == "Ready" and ready["credits"] == 2 and ready["sound"]["samples"] == 15_600
        for second in range(6):
            answer = label(socket, picture=jpeg(COLOURS[second // 3]), seconds=second, sequence=second, captured=9.5)
            assert answer["type"] == "Labels" and answer["sequence"] == second and answer["captured"] == 9.5
            assert answer["now"][0][0] == second // 3 and answer["now"][0][1] > 0.95
            kinds = [(event["kind"], event["name"]) for event in answer["events"] if event["kind"] != "update"]
            assert kinds == {0: [("new", "red")], 3: [("new", "green"), ("end", "red")]}.get(second, [])
        assert answer["counts"] == {"received": 6, "labelled": 6, "dropped": 0, "failed": 0}
        assert set(answer["latency_ms"]) == {"wait", "decode", "encode", "queue", "model", "total"}
        socket.send('{"type": "Finalize"}')
        final = heard(socket)
        assert final["type"] == "Finalized" and final["events"][0]["name"] == "green"
        socket.send('{"type": "CloseStream"}')
        with pytest.raises(ConnectionClosed) as closed:
            heard(socket)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


def test_sound_alone_is_labelled(address: str) -> None:
    with live(address) as socket:
        heard(socket)
        silent = label(socket, sound=np.zeros(15_600, np.float32), seconds=0)
        loud = label(socket, sound=tone(0.975), seconds=1)
        scores = [dict((int(index), score) for index, score in answer["now"])[4] for answer in (silent, loud)]
        assert scores[1] > 2 * scores[0]


@pytest.mark.slow
def test_a_file_for_which_there_is_no_room_is_refused(media_model: Path, small_encoders: Encoders) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    with served(media_model, *small_encoders.flags, before=small_files) as address:
        answer = httpx.post(f"{address}/label", content=bytes(1 << 20))
        assert answer.status_code == 507 and answer.json() == {"error": "the service has no room for the file"}
        assert httpx.get(f"{address}/v2/health/ready").status_code == 200


def test_bad_frames_cost_themselves_and_the_stream_goes_on(address: str) -> None:
    bad = [
        b"",
        b"\x00\x00",
        (1 << 31).to_bytes(4, "little") + b"{}",
        b"\x02\x00\x00\x00[]",
        b"\x02\x00\x00\x00{}trailing",
        frame_message(b"no picture", seconds=1),
        frame_message(jpeg(COLOURS[0])[:300], seconds=1),
        frame_message(jpeg(COLOURS[0]), seconds=-5),
        frame_message(jpeg(COLOURS[0]), sequence=1.5),
        frame_message(seconds=1),
        frame_message(sound=np.zeros(20_000, np.float32)),
    ]
    with live(address) as socket:
        heard(socket)
        for number, content in enumerate(bad):
            socket.send(content)
            answer = heard(socket)
            assert answer["type"] == "Error", (number, answer)
            assert "/" not in answer["message"].replace("picture_bytes", "")
        for text in ("", "{", "[]", '{"type": "Else"}', "x" * 5000):
            socket.send(text)
            assert heard(socket)["type"] == "Error"
        good = label(socket, picture=jpeg(COLOURS[1]), seconds=9)
        assert good["type"] == "Labels"
        assert good["counts"] == {"received": len(bad) + 1, "labelled": 1, "dropped": 0, "failed": len(bad)}


def test_what_is_sent_without_credit_is_labelled_or_dropped_and_counted(address: str) -> None:
    picture = jpeg(COLOURS[2], (1600, 1200))
    with live(address) as socket:
        heard(socket)
        for number in range(25):
            socket.send(frame_message(picture, seconds=number, sequence=number))
        answers = [heard(socket) for _ in range(25)]
        labelled = [each["sequence"] for each in answers if each["type"] == "Labels"]
        dropped = [each for each in answers if each["type"] == "Dropped"]
        assert len(labelled) + len(dropped) == 25 and labelled[-1] == 24 and labelled == sorted(labelled)
        assert answers[-1]["counts"]["received"] == 25


def test_more_streams_than_are_allowed(address: str) -> None:
    sockets = [live(address) for _ in range(3)]  # and the pulled one
    try:
        with pytest.raises(InvalidStatus) as refused:
            live(address)
        assert refused.value.response.status_code == 429
    finally:
        for socket in sockets:
            socket.close()
    deadline = time.monotonic() + 5
    while True:
        try:
            live(address).close()
            break
        except InvalidStatus:
            assert time.monotonic() < deadline


def test_a_file_is_labelled_over_time(address: str, clip: Path) -> None:
    answer = httpx.post(f"{address}/label?name=colours.mp4", content=clip.read_bytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["annotationResults"]
    assert result["inputUri"] == "colours.mp4" and "error" not in result
    shots = [(each["startTimeOffset"], each["endTimeOffset"]) for each in result["shotAnnotations"]]
    assert shots == [(f"{second}s", f"{second + 1}s") for second in range(8)]
    timeline = {
        each["entity"]["description"]: [part["segment"]["startTimeOffset"] for part in each["segments"]]
        for each in result["labelTimeline"]
    }
    colours = {"red": ["0s", "4s"], "green": ["1s", "5s"], "blue <b>": ["2s", "6s"], "yellow": ["3s", "7s"]}
    assert timeline == {**colours, "loud": ["0s"]}


def test_other_formats_and_progress(address: str, clip: Path) -> None:
    vtt = httpx.post(f"{address}/label?format=vtt", content=clip.read_bytes(), timeout=60).text
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nred, loud\n") and "blue &lt;b&gt;" in vtt
    csv = httpx.post(f"{address}/label?format=csv", content=clip.read_bytes(), timeout=60).text
    assert csv.split("\n")[1].startswith("0,red,0.000,1.000,0.9")
    lines = httpx.post(f"{address}/label?progress=1", content=clip.read_bytes(), timeout=60).text.splitlines()
    steps = [json.loads(line) for line in lines]
    assert steps[-2] == {"progress": {"seconds": 8.0, "of": 8.0}} and "annotationResults" in steps[-1]["result"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "video/mp4", 400),
        (b"not a film" * 100, "video/mp4", 422),
        (b'{"url": "file:///etc/passwd"}', "application/json", 400),
        (b'{"url": "http://127.0.0.1:1/none"}', "application/json", 502),
        (b'{"path": "/etc/passwd"}', "application/json", 400),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "application/vnd.apple.mpegurl", 422),
    ],
)
def test_what_is_no_film_is_refused_without_a_path(address: str, content: bytes, kind: str, status: int) -> None:
    answer = httpx.post(f"{address}/label", content=content, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == status, answer.text
    assert "/tmp" not in answer.text and "/etc" not in answer.text


def test_a_pulled_stream_is_watched(address: str) -> None:
    (film,) = httpx.get(f"{address}/v1/streams").json()["streams"]
    assert film["name"] == "film" and film["state"] in ("starting", "playing") and film["message"] == ""
    names = set()
    with connect(address.replace("http", "ws") + "/watch?stream=film") as socket:
        first = heard(socket)
        assert first["type"] == "Source" and first["state"] in ("starting", "playing")
        deadline = time.monotonic() + 20
        while len(names) < 2 and time.monotonic() < deadline:
            names |= {event["name"] for event in heard(socket).get("events", []) if event["kind"] == "new"}
    assert len(names) >= 2
    with pytest.raises(InvalidStatus) as refused:
        connect(address.replace("http", "ws") + "/watch?stream=none")
    assert refused.value.response.status_code == 404


def test_triton_s_client_infers(address: str) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = triton.InferenceServerClient(address.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colours")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("colours")
    assert [each["shape"] for each in metadata["inputs"]] == [[-1, -1, 3], [-1, -1, 64]]
    colours = ((np.array(COLOURS) / 255) * 256).astype(np.uint8)[:, None]  # four videos of one frame
    content = {"rgb": colours, "audio": np.zeros((4, 1, 64), np.uint8)}
    for binary in (True, False):
        inputs = []
        for name, values in content.items():
            tensor = triton.InferInput(name, values.shape, "UINT8")
            tensor.set_data_from_numpy(values, binary_data=binary)
            inputs.append(tensor)
        wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
        for outputs in (wanted, None):
            answer = client.infer("colours", inputs, outputs=outputs, request_id="7")
            assert answer.get_response()["id"] == "7"
            assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [0, 1, 2, 3]
    client.close()


def test_tensorflow_serving_s_documented_requests(address: str) -> None:
    """The row and column forms of its REST documentation, sent with nothing but the standard library."""
    colours = ((np.array(COLOURS) / 255) * 256).astype(int)
    rows = [{"rgb": [list(map(int, each))], "audio": [[0] * 64]} for each in colours]
    columns = {"rgb": [each["rgb"] for each in rows], "audio": [each["audio"] for each in rows]}
    for body, key in (({"instances": rows}, "predictions"), ({"inputs": columns}, "outputs")):
        request = urllib.request.Request(f"{address}/v1/models/colours:predict", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert np.argmax(json.load(answer)[key], axis=1).tolist() == [0, 1, 2, 3]


@dataclasses.dataclass
class Recording:
    """A service beside the first, which follows a recording and tells of its labels."""

    address: Address
    path: Path
    lines: Path
    called: list[dict]


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[dict]]]:
    """An address that takes webhooks, and fails at the first."""
    got: list[dict] = []
    calls = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            calls.append(1)
            if len(calls) > 1:
                got.append(json.loads(content))
            self.send_response(200 if len(calls) > 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def recording(
    media_model: Path,
    small_encoders: Encoders,
    tmp_path_factory: pytest.TempPathFactory,
    hook: tuple[str, list[dict]],
) -> Iterator[Recording]:
    folder = tmp_path_factory.mktemp("recording")
    path, lines = folder / "recording.ts", folder / "events.jsonl"
    flags = ["--window=1", "--hold=0", f"--source=rec=growing:{path}", f"--webhook={hook[0]}", f"--events={lines}"]
    with served(media_model, *small_encoders.flags, *flags) as address:
        yield Recording(address, path, lines, hook[1])


@pytest.mark.slow
def test_events_of_a_growing_file_reach_webhooks_and_files(recording: Recording) -> None:
    with av.open(str(recording.path), "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 5
        for number in range(25 * 6):
            pixels = np.broadcast_to(np.array(COLOURS[(number // 50) % 4], np.uint8), (48, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
            if number % 25 == 24:
                time.sleep(0.5)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and {"red", "green"} - {each["name"] for each in recording.called}:
            time.sleep(0.1)
    assert [each["name"] for each in recording.called if each["kind"] == "new"][:2] == ["red", "green"]
    written = [json.loads(line) for line in recording.lines.read_text().splitlines()]
    assert [each["name"] for each in written if each["kind"] == "new"][:2] == ["red", "green"]
    assert {each["stream"] for each in written} == {"rec"}


def test_a_term_signal_drains_and_ends_with_status_0(recording: Recording) -> None:
    """Within two seconds, though a stream is open and a file is being followed; the other service is not touched."""
    process = recording.address.process
    with live(recording.address) as socket:
        heard(socket)
        assert label(socket, picture=jpeg(COLOURS[0]), seconds=0)["type"] == "Labels"
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                heard(socket)
        assert closed.value.rcvd is not None and closed.value.rcvd.code in (1001, 1012)
    assert process.wait(20) == 0
    assert time.monotonic() - started < MOST_SECONDS_TO_END
    told = [json.loads(line) for line in recording.lines.read_text().splitlines()]
    began, ended = ([each["name"] for each in told if each["kind"] == kind] for kind in ("new", "end"))
    assert sorted(began) == sorted(ended)


@pytest.mark.slow
def test_a_kill_loses_nothing_but_what_is_under_way(
    media_model: Path, small_encoders: Encoders, clip: Path, hook: tuple[str, list[dict]], tmp_path: Path
) -> None:
    """What a watcher heard of labels is in the file, in whole lines, and what was posted, too."""
    lines, (url, called) = tmp_path / "events.jsonl", hook
    flags = ["--window=1", "--hold=0", f"--source=kill=loop:{clip}", f"--webhook={url}", f"--events={lines}"]
    told: list[dict] = []
    model = Path(shutil.copytree(media_model, tmp_path / "colours"))

    def listen(watcher: ClientConnection) -> None:
        told.extend({"stream": "kill", **event} for event in heard(watcher).get("events", []))

    with served(model, *small_encoders.flags, *flags) as address:
        shutil.rmtree(model)  # a model that is being replaced is served on
        with connect(address.replace("http", "ws") + "/watch?stream=kill") as watcher:
            while len(told) < 4 or sum(each["stream"] == "kill" for each in called) < 3:
                listen(watcher)
            address.process.kill()
            with pytest.raises(ConnectionClosed):
                while True:
                    listen(watcher)
        assert address.process.wait(20) == -signal.SIGKILL
    content = lines.read_text()
    assert content.endswith("\n")
    written = [json.loads(line) for line in content.splitlines()]
    end = written.index(told[-1]) + 1
    assert written[:end][-len(told) :] == told
    assert all(each in written for each in called if each["stream"] == "kill")
