"""Who may come in, and which addresses are fetched."""

import http.server
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.fixtures.live import PlainModel
from vcls_model.serve import is_loopback
from vcls_model.serving.http.app import make_app
from vcls_model.serving.http.bodies import RefusedError
from vcls_model.serving.http.fetching import fetch
from vcls_model.serving.http.logs import REQUESTS, JsonLines
from vcls_model.serving.http.metrics import Metrics
from vcls_model.serving.http.server import _listening
from vcls_model.serving.http.service import Service
from vcls_model.serving.http.settings import ServiceSettings
from vcls_model.serving.live.engine import Engine

TOKEN = "correct-horse"
SETTINGS = ServiceSettings(token=TOKEN, hosts=("localhost", "[::1]"), origins=("https://friend.example",))
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    engine = Engine(PlainModel())
    app = make_app(Service(engine, SETTINGS, Metrics()))
    with TestClient(app, "http://localhost:8501") as made:
        yield made
    engine.shut_down()


@pytest.mark.parametrize("path", ["/v1/labels", "/metrics", "/v1/models/plain", "/v2/models/plain", "/v1/streams"])
def test_a_token_is_asked_for(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get(path, headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
    assert client.get(path, headers=BEARER).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/v2/health/live", "/v2/health/ready"])
def test_the_page_and_probes_are_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "guess", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN} {TOKEN}", "*", "\x00", "é" * 99]
)
def test_a_token_is_not_guessed_in_part(client: TestClient, guess: str) -> None:
    answer = client.get("/v1/labels", headers={"Authorization": f"Bearer {guess}".encode()})
    assert answer.status_code == 401 and TOKEN not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/page/../safety.py",
        "/page/..%2f..%2f..%2fsetup.py",
        "/page/%2e%2e/exported.py",
        "/page//etc/passwd",
        "/page/vendor",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v2/models/..%2fplain/ready",
        "/v1/models/plain%00",
        "/v1/streams/..%2f..%2fetc%2fpasswd/picture",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_no_address_leads_out_of_the_page(client: TestClient, path: str) -> None:
    answer = client.get("http://localhost:8501" + path, headers=BEARER)
    assert answer.status_code == 404 and "error" in answer.json()


def test_a_token_may_hold_any_letters() -> None:
    engine = Engine(PlainModel())
    app = make_app(Service(engine, ServiceSettings(token="Schlüssel"), Metrics()))
    with TestClient(app) as client:
        for token, status in (("Schlüssel", 200), ("Schlussel", 401)):
            assert client.get("/v1/labels", headers={"Authorization": f"Bearer {token}".encode()}).status_code == status
    engine.shut_down()


def test_a_foreign_host_is_not_answered(client: TestClient) -> None:
    assert client.get("/v1/labels", headers={**BEARER, "Host": "evil.example"}).status_code == 421
    assert client.get("/v1/labels", headers={**BEARER, "Host": "[::1]:8501"}).status_code == 200


def test_pages_of_foreign_origins_may_not_use_it(client: TestClient) -> None:
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:9999", 403),
        ("http://localhost:8501.evil.example", 403),
        ("http://localhost:8501@evil.example", 403),
        ("http://evil.example#http://localhost:8501", 403),
        ("http://[", 403),
        ("", 403),
        ("http://localhost:8501", 200),
        ("https://friend.example", 200),
    ):
        answer = client.get("/v1/labels", headers={**BEARER, "Origin": origin})
        assert answer.status_code == status, origin
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == (origin if origin == "https://friend.example" else None)
    preflight = client.options("/v1/labels", headers={"Origin": "https://friend.example"})
    assert preflight.status_code == 204 and "Authorization" in preflight.headers["access-control-allow-headers"]
    assert client.options("/v1/labels", headers={"Origin": "https://evil.example"}).status_code == 403


def test_sockets_ask_for_token_and_origin(client: TestClient) -> None:
    own = "ws://localhost:8501/live"
    for url, headers, protocols in (
        (own, {}, []),
        (own, {"Authorization": "Bearer x"}, []),
        (own, {**BEARER, "Origin": "https://evil.example"}, []),
        ("ws://evil.example/live", BEARER, []),
        (own, {}, ["vcls-live", "token.wrong"]),
    ):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(url, headers=headers, subprotocols=protocols),
        ):
            pass
    for headers, protocols in ((BEARER, []), ({}, ["vcls-live", f"token.{TOKEN}"])):
        with client.websocket_connect(own, headers=headers, subprotocols=protocols) as socket:
            assert socket.receive_json()["type"] == "Ready"
            assert socket.accepted_subprotocol == ("vcls-live" if protocols else None)


def test_every_answer_has_a_number_and_says_not_to_guess_types(client: TestClient) -> None:
    first, second = client.get("/v2/health/live"), client.get("/v1/labels")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-content-type-options"] == second.headers["x-content-type-options"] == "nosniff"


def test_the_log_has_a_line_of_json_per_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, REQUESTS):
        answer = client.get("/v2/health/live?secret=1")
    (line,) = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == REQUESTS]
    assert line["request"] == answer.headers["x-request-id"]
    assert (line["level"], line["method"], line["path"], line["status"]) == ("INFO", "GET", "/v2/health/live", 200)


def test_answers_are_sent_in_parts_without_waiting_for_acknowledgements() -> None:
    """As asyncio does where a socket says that it is TCP's."""
    with (
        _listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.proto == socket.IPPROTO_TCP


def test_loopback() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost") and is_loopback("127.9.9.9")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("example.org")


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/file":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        elif self.path == "/gone":
            self.send_error(404)
        else:
            self.send_response(302)
            self.send_header("Location", "/round" if self.path == "/round" else "file:///etc/passwd")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://localhost/x",
        "http://0.0.0.0/x",
        "http://10.1.2.3/x",
        "http://192.168.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/x",
    ],
)
def test_addresses_that_are_not_public_are_not_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not public") as caught:
        fetch(url, str(tmp_path / "x"), 100, 5)
    assert caught.value.status == 400 and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://h/x", "/etc/passwd", "http://", "http://u:p@h/", "http://h/\r\nX: y", "gopher://h"],
)
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="address"):
        fetch(url, str(tmp_path / "x"), 100, 5)


def test_fetching_where_it_is_allowed(site: str, tmp_path: Path) -> None:
    target = tmp_path / "file"
    fetch(f"{site}/file", str(target), 1000, 5, True)
    assert target.read_bytes() == b"x" * 1000
    for path, most, status in (
        ("/file", 999, 413),
        ("/gone", 999, 502),
        ("/round", 999, 502),
        ("/elsewhere", 999, 400),
    ):
        with pytest.raises(RefusedError) as caught:
            fetch(site + path, str(target), most, 5, True)
        assert caught.value.status == status, path
