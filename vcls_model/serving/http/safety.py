"""Who may come in: the token, the Host and Origin headers; and what every answer carries."""

import hmac
import logging
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vcls_model.serving.http.bodies import RefusedError, refusal
from vcls_model.serving.http.logs import REQUESTS, log_fields
from vcls_model.serving.http.settings import ServiceSettings

_LOG = logging.getLogger(REQUESTS)
_TOKEN_PROTOCOL = "token."
LIVE_PROTOCOL = "vcls-live"
# Probes hold no token; the page and its files hold nothing that is not in the package.
_OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
_OPEN_FOLDER = "/page/"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: http: https:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
}


class Guard:
    """ASGI middleware: refuses who may not come in, numbers requests, logs them as lines of JSON."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        number = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = number
        started = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                answer = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in (*_HEADERS.items(), ("X-Request-Id", number)):
                    answer[name] = value
                origin = headers.get("origin")
                if origin in self._settings.origins:
                    answer["Access-Control-Allow-Origin"] = origin
                    answer["Vary"] = "Origin"
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            refused = self._refused(scope, headers)
            if refused is not None:
                await refusal(refused)(scope, receive, sending)
            elif scope["type"] == "http" and scope["method"] == "OPTIONS":
                await _preflight(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            _log(scope, number, status, 1000 * (time.monotonic() - started))

    def _refused(self, scope: Scope, headers: Headers) -> RefusedError | None:
        """Why a request is refused, or None."""
        settings = self._settings
        if settings.hosts and host_name(headers.get("host", "")) not in settings.hosts:
            return RefusedError(421, "this service does not answer to that Host; start it with --allow_host=NAME")
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, headers) and origin not in settings.origins:
            return RefusedError(403, "pages of that origin may not use this service; start it with --allow_origin=URL")
        preflight = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if settings.token is None or preflight or _is_open(scope["path"]):
            return None
        if not any(hmac.compare_digest(shown, settings.token.encode()) for shown in _tokens(headers)):
            return RefusedError(401, "a token is needed: send it as Authorization: Bearer TOKEN")
        return None

    @staticmethod
    def _is_own(origin: str, headers: Headers) -> bool:
        try:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:  # no address
            return False


def host_name(host: str) -> str:
    """A Host header's name without its port, in lower case."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _tokens(headers: Headers) -> Iterable[bytes]:
    """What a client shows: a bearer token, or (as browsers cannot set headers of sockets) a subprotocol `token.…`."""
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield shown.strip().encode("latin-1")  # as the headers were read, so that these are the client's bytes
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(_TOKEN_PROTOCOL):
            yield protocol.strip()[len(_TOKEN_PROTOCOL) :].encode("latin-1")


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """A browser's question whether a page of an allowed origin may send a request."""
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": "600",
    }
    await Response(status_code=204, headers=headers)(scope, receive, send)


def _log(scope: Scope, number: str, status: int, milliseconds: float) -> None:
    line = {
        "request": number,
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"][:200],  # without the query, which may hold what is private
        "status": status,
        "milliseconds": round(milliseconds, 1),
        "client": (scope.get("client") or [None])[0],
    }
    _LOG.info("request", extra=log_fields(line))
