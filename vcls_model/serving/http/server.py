"""uvicorn around the application: clients that dawdle, open socket after socket or never read are bounded."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from vcls_model.serving.http.settings import ServiceSettings

_LARGEST_HEADER = 32 << 10
_DRAIN_SECONDS = 10
_BACKLOG = 2048


def bounded_protocol(settings: ServiceSettings) -> type[H11Protocol]:
    """A protocol that ends connections that send no whole request header in time, and those above the limit."""

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.most_connections:
                transport.abort()
                return
            self._expect_a_header()

        def connection_lost(self, exc: Exception | None) -> None:
            self._no_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and self._between_requests():
                self._expect_a_header()
            super().data_received(data)

        def handle_events(self) -> None:
            super().handle_events()
            if not self._between_requests():
                self._no_deadline()

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._no_deadline()
            super().handle_websocket_upgrade(event)

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _expect_a_header(self) -> None:
            self._deadline = self.loop.call_later(settings.header_seconds, self._end_if_silent)

        def _end_if_silent(self) -> None:
            self._deadline = None
            if self._between_requests() and not self.transport.is_closing():
                self.transport.abort()

        def _no_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol


class BoundedSocket(WebSocketsSansIOProtocol):
    """Takes nothing from a client that does not read: else the answers to its pings would fill the memory."""

    def pause_writing(self) -> None:
        """Called by the transport where too much is unsent."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the transport once that is sent."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()


def serve(app: Starlette, host: str, port: int, settings: ServiceSettings) -> None:
    """Serves on an address until SIGTERM or SIGINT, prints where, and lets requests under way end.

    Raises:
        OSError: the address cannot be had.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=bounded_protocol(settings),
        ws=BoundedSocket,
        ws_max_size=settings.most_message_bytes,
        ws_per_message_deflate=False,  # a compressed message may hide a thousand times its size
        ws_ping_interval=settings.idle_seconds,
        ws_ping_timeout=settings.idle_seconds,
        h11_max_incomplete_event_size=_LARGEST_HEADER,
        timeout_keep_alive=int(settings.idle_seconds),
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
    )
    server = uvicorn.Server(config)
    with _listening(host, port) as listener, _signals_end(server):
        bound, number = listener.getsockname()[:2]
        shown = f"[{bound}]" if ":" in bound else bound
        print(f"serving on http://{shown}:{number}/", flush=True)
        server.run(sockets=[listener])


@contextlib.contextmanager
def _signals_end(server: uvicorn.Server) -> Iterator[None]:
    """Ends the server at signals that come before uvicorn listens to them.

    It raises a signal again once it has shut down: here that is the end of the service, and no error.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, since asyncio sends small parts at once (TCP_NODELAY) only where it is sure of TCP: else the second part of
    # an answer waits for the client's acknowledgement of the first, which comes after 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
