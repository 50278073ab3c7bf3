"""Where label events go when nobody takes them."""

import errno
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from vcls_model.commands import JobError
from vcls_model.serving.live.sinks import LinesFile, Webhook


def test_a_webhook_that_nobody_answers_does_not_hold_up_the_end() -> None:
    hook = Webhook("http://127.0.0.1:1/none")
    for number in range(20):
        hook.put({"number": number})
    started = time.monotonic()
    hook.close()
    assert time.monotonic() - started < 3


def test_lines_are_appended_to_those_of_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for number in range(2):
        lines = LinesFile(str(path))
        lines.put({"number": number})
        lines.close()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_line_that_was_cut_short_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"number": 0}\n{"num')
    lines = LinesFile(str(path))
    lines.put({"number": 1})
    lines.close()
    assert path.read_bytes().splitlines()[0::2] == [b'{"number": 0}', b'{"number": 1}']


class FullDisk:
    """A file that takes some bytes, then none for a while."""

    def __init__(self, room: int) -> None:
        self.content = b""
        self.room = room

    def write(self, data: memoryview) -> int:
        taken = bytes(data[: self.room])
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.content += taken
        self.room -= len(taken)
        return len(taken)


def test_a_full_disk_costs_events_and_not_the_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = LinesFile(str(tmp_path / "events.jsonl"))
    lines._file = disk = FullDisk(20)  # type: ignore[assignment]
    for number in range(3):
        lines.put({"number": number})
    assert caplog.text.count("one was lost: [Errno 28]") == 2
    disk.room = 1000
    lines.put({"number": 3})
    lines.put({"number": 4})
    whole = [line for line in disk.content.splitlines() if line.endswith(b"}")]
    assert [json.loads(line)["number"] for line in whole] == [0, 3, 4]


def test_a_pipe_without_a_reader_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events")
    with pytest.raises(JobError, match="events is a pipe"):
        LinesFile(str(tmp_path / "events"))


def test_a_webhook_that_speaks_no_http_is_tried_again() -> None:
    """Its thread lives on."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                with server.accept()[0] as client:
                    calls.append(client.recv(4096))
                    client.sendall(b"\x00garbage\r\n\r\n")

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        hook = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", pause_seconds=0.01)
        hook.put({"number": 0})
        answering.join(10)
        assert len(calls) == 2
        hook.close()
