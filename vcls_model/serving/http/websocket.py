"""`WS /live`: frames in, labels out, with credits that keep the lag at the source."""

import asyncio
import contextlib
import itertools
import time
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from vcls_model.serving.http.bodies import RefusedError, refusal
from vcls_model.serving.http.messages import answer_message, final_message, parse_frame, ready_message
from vcls_model.serving.http.safety import LIVE_PROTOCOL
from vcls_model.serving.http.service import Service
from vcls_model.serving.live.engine import TooManyStreamsError
from vcls_model.serving.live.session import Answer, Frame, Session

_MOST_UNSENT = 256
_TRY_AGAIN, _POLICY, _GOING_AWAY = 1013, 1008, 1001
_NUMBERS = itertools.count(1)


class LiveRoute:
    """The socket's endpoint, and the sockets that are open."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sockets: set[_LiveSocket] = set()

    async def endpoint(self, socket: WebSocket) -> None:
        """Serves one stream from its first to its last message."""
        if not self._service.ready:
            await socket.send_denial_response(refusal(RefusedError(503, "the service is not ready", retry_after=1)))
            return
        live = _LiveSocket(self._service, socket)
        try:
            live.open(f"stream-{next(_NUMBERS)}")
        except TooManyStreamsError as error:
            await socket.send_denial_response(refusal(RefusedError(429, str(error), retry_after=5)))
            return
        self._sockets.add(live)
        try:
            await live.serve()
        finally:
            self._sockets.discard(live)
            live.close()

    async def shut_down(self) -> None:
        """Tells all clients that the service goes away."""
        for live in list(self._sockets):
            await live.go_away()


class _LiveSocket:
    """One stream's socket."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._engine = service.engine
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._session: Session | None = None
        self._started = time.monotonic()
        self._last_seconds = 0.0
        self._allowance = service.settings.most_frames_per_second
        self._refilled = self._started
        self._messages = 0
        self._finalizing = False

    @property
    def session(self) -> Session:
        """Of the engine, once opened."""
        assert self._session is not None
        return self._session

    def open(self, name: str) -> None:
        """Takes a place among the streams; raises `TooManyStreamsError`."""
        self._session = self._engine.open(name, self._deliver)

    def close(self) -> None:
        """Gives the place back."""
        self._engine.close(self.session)

    async def go_away(self) -> None:
        """Closes the socket from this side."""
        if self._socket.application_state == WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was faster
                await self._socket.close(_GOING_AWAY, "the service shuts down")

    async def serve(self) -> None:
        """Reads until the client, or a rule, ends the stream."""
        offered = self._socket.scope.get("subprotocols", [])
        await self._socket.accept(LIVE_PROTOCOL if LIVE_PROTOCOL in offered else None)
        self._outgoing.put_nowait(ready_message(self._engine, self.session))
        sending = asyncio.create_task(self._send_all())
        reading = asyncio.create_task(self._read_all())
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not sending.done():
                self._outgoing.put_nowait(None)
                await asyncio.wait({sending}, timeout=self._service.settings.idle_seconds)
        finally:
            for task in (sending, reading):
                task.cancel()
            done = await asyncio.gather(sending, reading, return_exceptions=True)
            if self._socket.application_state == WebSocketState.CONNECTED:
                code, words = next((each for each in done if isinstance(each, tuple)), (1000, ""))
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await self._socket.close(code, words)

    async def _send_all(self) -> None:
        while (message := await self._outgoing.get()) is not None:
            try:
                await self._socket.send_text(orjson.dumps(message).decode())
            except (WebSocketDisconnect, RuntimeError):
                return

    async def _read_all(self) -> tuple[int, str]:
        """Takes messages; returns the code and the words to close with."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), self._service.settings.idle_seconds)
            except asyncio.TimeoutError:
                return _POLICY, "nothing came for too long: send KeepAlive"
            if message["type"] == "websocket.disconnect":
                return 1000, ""
            if self._outgoing.qsize() > _MOST_UNSENT:
                return _TRY_AGAIN, "the answers are not read"
            if message.get("bytes") is not None:
                self._take_frame(message["bytes"])
            elif not self._take_text(message.get("text") or ""):
                return 1000, "closed by the client"

    def _take_frame(self, content: bytes) -> None:
        received = time.monotonic()
        self._messages += 1
        try:
            frame = parse_frame(content, received, self._messages)
            self._spend(received)
        except RefusedError as error:
            frame = Frame(self._messages, self._last_seconds, received)
            self._engine.refuse(self.session, frame, str(error))
            return
        self._engine.offer(self.session, self._timed(frame, received))

    def _timed(self, frame: Frame, received: float) -> Frame:
        """A frame with a time: its own, or that of its arrival. Clocks that go back stand still."""
        seconds = frame.seconds if frame.seconds >= 0 else received - self._started
        self._last_seconds = max(self._last_seconds, seconds)
        return Frame(**{**vars(frame), "seconds": self._last_seconds})

    def _spend(self, now: float) -> None:
        """Counts a frame against the stream's rate; raises `RefusedError` beyond it."""
        rate = self._service.settings.most_frames_per_second
        self._allowance = min(rate, self._allowance + rate * (now - self._refilled))
        self._refilled = now
        if self._allowance < 1:
            raise RefusedError(429, f"at most {rate:g} frames per second are taken from one stream")
        self._allowance -= 1

    def _take_text(self, text: str) -> bool:
        """A command; returns whether the stream goes on."""
        try:
            command = orjson.loads(text) if len(text) <= 1024 else None
        except orjson.JSONDecodeError:
            command = None
        kind = command.get("type") if isinstance(command, dict) else None
        if kind == "CloseStream":
            return False
        if kind == "Finalize":
            self._finalizing = True
            self._finalize()
        elif kind != "KeepAlive":
            words = 'a text message is {"type": "KeepAlive"}, "Finalize" or "CloseStream"'
            self._outgoing.put_nowait({"type": "Error", "reason": "refused", "message": words})
        return True

    def _deliver(self, answer: Answer) -> None:
        """Called by the engine's threads."""
        message = answer_message(self._engine, self.session, answer)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the client with it
            self._loop.call_soon_threadsafe(self._delivered, message)

    def _delivered(self, message: dict[str, Any]) -> None:
        self._outgoing.put_nowait(message)
        self._finalize()

    def _finalize(self) -> None:
        if self._finalizing and self.session.counts.settled:
            self._finalizing = False
            self._outgoing.put_nowait(final_message(self._engine, self.session, self.session.tracker.finish()))
