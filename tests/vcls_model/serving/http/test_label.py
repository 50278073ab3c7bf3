"""Files that are labelled, and clients who do not wait for it."""

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from vcls_model.serving.http import label
from vcls_model.serving.http.bodies import RefusedError
from vcls_model.serving.http.settings import ServiceSettings
from vcls_model.serving.live.labelling import FileProgress


class Endless:
    """A labeller of a film without end."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._stop = threading.Event()

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def label(self, _: str) -> Iterator[FileProgress]:
        while not self._stop.wait(0.01):
            yield FileProgress(1.0, None)

    def interrupt(self) -> None:
        self._stop.set()


def service() -> Any:
    engine = SimpleNamespace(model=SimpleNamespace(media=object()), options=None)
    return SimpleNamespace(engine=engine, settings=ServiceSettings(), labelling=0, ready=True)


def request() -> Request:
    """A client that sends its file and leaves."""
    messages = iter([{"type": "http.request", "body": b"film", "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    return Request({"type": "http", "method": "POST", "path": "/label", "query_string": b"", "headers": []}, receive)


def test_a_client_that_leaves_ends_its_work_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "FileLabeller", Endless)
    route = label.LabelRoute(made := service())
    with pytest.raises(RefusedError, match="the client left before its file was labelled"):
        asyncio.run(asyncio.wait_for(route(request()), 60))
    assert made.labelling == 0


def test_a_full_disk_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    made = service()
    for _ in range(3):
        with pytest.raises(RefusedError, match="no room") as refused:
            asyncio.run(label.LabelRoute(made)(request()))
        assert refused.value.status == 507
    assert made.labelling == 0
