"""`POST /label`: a media file, or the address of one, to labels over time."""

import asyncio
import logging
import os
import queue
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import Limits
from vcls_model.serving.http.bodies import RefusedError, body_chunks, parse_json, read_body
from vcls_model.serving.http.fetching import fetch
from vcls_model.serving.http.service import Service
from vcls_model.serving.live.formats import FORMATS, MEDIA_TYPES, to_csv, to_video_intelligence, to_webvtt
from vcls_model.serving.live.labelling import FileLabeller, FileProgress, MediaLabels
from vcls_model.serving.live.queues import OverloadedError
from vcls_model.serving.live.stream import Features

_LOG = logging.getLogger(__name__)
_FETCH_SECONDS = 300.0
_TOO_LARGE = (errors.TOO_LARGE, errors.MEMORY, errors.DEADLINE)
_DONE = object()


class LabelRoute:
    """The address; at most so many files at once."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, request: Request) -> Response:
        """Labels the body, or the file at `{"url": …}`.

        Query: `format` (`json`, `vtt` or `csv`); `progress=1` for lines of JSON, `{"progress": …}` and at last
        `{"result": …}` or `{"error": …}`; `name`, of the file, for the answer.
        """
        service = self._service
        form = request.query_params.get("format", "json")
        if form not in FORMATS:
            raise RefusedError(400, f"format must be one of {', '.join(FORMATS)}")
        if service.engine.model.media is None:
            raise RefusedError(400, "the model takes records that were not made from media: it labels no files")
        if service.labelling >= service.settings.most_files:
            raise RefusedError(429, f"{service.labelling} files are being labelled; try again", retry_after=10)
        try:
            work = _Work(service, request.query_params.get("name", "media")[:200], form)
        except OSError as error:
            raise _no_room(error) from None
        service.labelling += 1
        try:
            await work.receive(request)
        except BaseException:
            work.discard()
            raise
        if request.query_params.get("progress") in ("1", "true"):
            return _StreamedLines(work)
        result: Any = None
        try:
            async for step in work.steps():
                if await request.is_disconnected():
                    raise RefusedError(400, "the client left before its file was labelled")
                result = step
        finally:
            await work.finish()
        if isinstance(result, RefusedError):
            raise result
        return Response(work.rendered(result), 200, media_type=MEDIA_TYPES[form])


def _no_room(error: OSError) -> RefusedError:
    _LOG.error("a file to label cannot be stored: %s", error)
    return RefusedError(507, "the service has no room for the file")


class _StreamedLines(StreamingResponse):
    """The steps of a file's work as they come, whose work ends with the answer, however that ends."""

    def __init__(self, work: "_Work") -> None:
        super().__init__(work.lines(), media_type="application/x-ndjson")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._work.finish()


class _Work:
    """One file on its way; lives until its last step was taken, or its client leaves."""

    def __init__(self, service: Service, name: str, form: str) -> None:
        self._service = service
        self._name = name
        self._form = form
        self._scratch = tempfile.TemporaryDirectory(prefix="vcls-")
        self._path = os.path.join(self._scratch.name, "media")
        self._cancelled = False
        self._labeller: FileLabeller | None = None
        self._running: asyncio.Future[None] | None = None

    async def receive(self, request: Request) -> None:
        """Brings the file here."""
        settings = self._service.settings
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            body = parse_json(await read_body(request, 1 << 16, settings.idle_seconds))
            url = body.get("url")
            if not isinstance(url, str):
                raise RefusedError(400, 'the body must be a media file, or {"url": ADDRESS}')
            most, private = settings.most_media_bytes, settings.private_addresses
            await asyncio.to_thread(fetch, url, self._path, most, _FETCH_SECONDS, private)
            return
        try:
            with storage.open_atomically(self._path) as file:
                async for chunk in body_chunks(request, settings.most_media_bytes, settings.idle_seconds):
                    await asyncio.to_thread(file.write, chunk)
        except OSError as error:
            raise _no_room(error) from None
        if not os.path.getsize(self._path):
            raise RefusedError(400, "the body is empty: send a media file")

    async def steps(self) -> AsyncIterator[FileProgress | MediaLabels | RefusedError]:
        """Progress, and at last the labels or why there are none."""
        steps: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = asyncio.get_running_loop().run_in_executor(None, self._label, steps)
        while (step := await asyncio.to_thread(steps.get)) is not _DONE:
            yield step
        await self._running

    async def finish(self) -> None:
        """Ends the work, where its client has left, and gives its place back."""
        self._cancelled = True
        if self._labeller is not None:
            self._labeller.interrupt()
        if self._running is not None:
            await asyncio.shield(asyncio.wait({self._running}))
        self.discard()

    async def lines(self) -> AsyncIterator[bytes]:
        """The steps as lines of JSON."""
        async for step in self.steps():
            if isinstance(step, FileProgress):
                yield orjson.dumps({"progress": vars(step)}) + b"\n"
            elif isinstance(step, RefusedError):
                yield orjson.dumps({"error": str(step)}) + b"\n"
            else:
                text = self.rendered(step).decode()
                yield orjson.dumps({"result": orjson.loads(text) if self._form == "json" else text}) + b"\n"

    def rendered(self, labels: MediaLabels) -> bytes:
        """The labels in the format that was asked for."""
        if self._form == "vtt":
            return to_webvtt(labels).encode()
        if self._form == "csv":
            return to_csv(labels).encode()
        return orjson.dumps(to_video_intelligence(labels, self._name))

    def discard(self) -> None:
        """Deletes the file and gives the place back, once."""
        if os.path.isdir(self._scratch.name):
            self._scratch.cleanup()
            self._service.labelling -= 1

    def _label(self, steps: "queue.SimpleQueue[Any]") -> None:
        """In a thread of its own: decodes, encodes and asks the model."""
        engine, settings = self._service.engine, self._service.settings
        limits = Limits(max_seconds=settings.most_media_seconds, protocols=("file",))
        try:
            with FileLabeller(engine.model, engine.options, score=self._score, limits=limits) as labeller:
                self._labeller = labeller
                for step in labeller.label(self._path):
                    if self._cancelled:
                        return
                    steps.put(step)
                steps.put(labeller.labels)
        except MediaError as error:
            message = error.message.replace(repr(self._path), "the file")  # no path of this machine goes out
            steps.put(RefusedError(413 if error.reason in _TOO_LARGE else 422, f"{error.reason}: {message}"))
        except JobError as error:
            _LOG.error("a file cannot be labelled: %s", error)
            steps.put(RefusedError(503, "the service cannot decode files now"))
        finally:
            steps.put(_DONE)

    def _score(self, videos: Sequence[Features]) -> np.ndarray:
        """Through the queue that live streams use; waits where it is full, since a file has time."""
        while True:
            try:
                return self._service.engine.queue.submit(videos).result().logits
            except OverloadedError:
                if not self._service.ready:
                    raise
                time.sleep(0.1)
