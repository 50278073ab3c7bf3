"""Pulled streams over HTTP: their list, and `WS /watch?stream=NAME` for what a live client of them would hear."""

import asyncio
import contextlib
import io
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from vcls_model.serving.http.bodies import RefusedError, json_response, refusal
from vcls_model.serving.http.messages import answer_message, counts_json, final_message
from vcls_model.serving.http.safety import LIVE_PROTOCOL
from vcls_model.serving.http.service import Service
from vcls_model.serving.live.events import LabelEvent
from vcls_model.serving.live.session import Answer, FrameLabels, Session
from vcls_model.serving.live.sinks import EventSink
from vcls_model.serving.live.sources import Source, SourcePlayer

_MOST_UNSENT = 64
_MOST_WATCHERS = 64
_FRESH = {"Cache-Control": "no-store"}


class SourceRoutes:
    """The pulled streams of a service, who watches them, and where their events go."""

    def __init__(self, service: Service, sources: Sequence[Source], sinks: Sequence[EventSink] = ()) -> None:
        self._service = service
        self._sinks = tuple(sinks)
        self._players = {
            each.name: SourcePlayer(each, service.engine, self._deliver, self._finished, self._changed)
            for each in sources
        }
        self._watchers: defaultdict[str, set[asyncio.Queue[dict[str, Any]]]] = defaultdict(set)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begins to pull; within the event loop."""
        self._loop = asyncio.get_running_loop()
        for player in self._players.values():
            player.start()

    def stop(self) -> None:
        """Ends all pulling, and delivers the events that wait."""
        for player in self._players.values():
            player.ask_to_stop()
        for player in self._players.values():
            player.stop()
        for sink in self._sinks:
            sink.close()

    async def listed(self, _: Request) -> Response:
        """`GET /v1/streams`: name, state (and why) and counts of each, never its address: it may hold a password."""
        streams = []
        for name, player in self._players.items():
            counts = counts_json(player.session.counts) if player.session is not None else {}
            streams.append({"name": name, "state": player.state, "message": player.message, "counts": counts})
        return json_response({"streams": streams})

    async def picture(self, request: Request) -> Response:
        """`GET /v1/streams/NAME/picture`: the last one, as its encoder saw it, a JPEG."""
        player = self._players.get(request.path_params["name"])
        if player is None or player.picture is None:
            raise RefusedError(404, "there is no such stream, or it has no picture yet")
        return Response(await asyncio.to_thread(_jpeg, player.picture), media_type="image/jpeg", headers=_FRESH)

    async def watch(self, socket: WebSocket) -> None:
        """`WS /watch?stream=NAME`: the messages of one stream from here on; a watcher who is too slow misses some."""
        name = socket.query_params.get("stream", "")
        if name not in self._players:
            await socket.send_denial_response(refusal(RefusedError(404, "there is no such stream; see /v1/streams")))
            return
        if sum(map(len, self._watchers.values())) >= _MOST_WATCHERS:
            await socket.send_denial_response(refusal(RefusedError(429, "too many watch already", retry_after=5)))
            return
        await socket.accept(LIVE_PROTOCOL if LIVE_PROTOCOL in socket.scope.get("subprotocols", []) else None)
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_UNSENT)
        messages.put_nowait(_source_message(self._players[name]))
        with self._lock:
            self._watchers[name].add(messages)
        leaving = asyncio.create_task(_left(socket))
        try:
            while True:
                taking = asyncio.create_task(messages.get())
                await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    taking.cancel()
                    return
                await socket.send_text(orjson.dumps(taking.result()).decode())
        except (WebSocketDisconnect, RuntimeError):
            return  # the watcher is gone
        finally:
            leaving.cancel()
            with self._lock:
                self._watchers[name].discard(messages)

    def _deliver(self, session: Session, answer: Answer) -> None:
        """Called by the engine's threads."""
        message = answer_message(self._service.engine, session, answer)
        if isinstance(answer, FrameLabels):
            self._tell(session, message["events"])
        self._send(session.name, message)

    def _finished(self, session: Session, events: Sequence[LabelEvent]) -> None:
        """Called by a player's thread once its stream has ended."""
        message = final_message(self._service.engine, session, events)
        self._tell(session, message["events"])
        self._send(session.name, message)

    def _changed(self, player: SourcePlayer) -> None:
        """Called by a player's thread."""
        self._send(player.source.name, _source_message(player))

    def _tell(self, session: Session, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            for sink in self._sinks:
                sink.put({"stream": session.name, **event})

    def _send(self, name: str, message: dict[str, Any]) -> None:
        with self._lock:
            watching = list(self._watchers[name])
        if watching and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_spread, watching, message)


def _source_message(player: SourcePlayer) -> dict[str, Any]:
    """How a source is, and why."""
    return {"type": "Source", "stream": player.source.name, "state": player.state, "message": player.message}


def _jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _spread(watching: Sequence["asyncio.Queue[dict[str, Any]]"], message: dict[str, Any]) -> None:
    for messages in watching:
        if messages.full():
            messages.get_nowait()
        messages.put_nowait(message)


async def _left(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
