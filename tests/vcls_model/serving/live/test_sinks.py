"""Where label events go when nobody takes them."""

import json
import time
from pathlib import Path

import pytest

from vcls_model.serving.live.sinks import LinesFile, Webhook


def test_a_webhook_that_nobody_answers_does_not_hold_up_the_end() -> None:
    hook = Webhook("http://127.0.0.1:1/none")
    for number in range(20):
        hook.put({"number": number})
    started = time.monotonic()
    hook.close()
    assert time.monotonic() - started < 3


def test_a_full_disk_costs_the_event_and_not_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    lines = LinesFile("/dev/full")
    lines.put({"number": 1})
    lines.close()
    assert "an event cannot be written" in caplog.text


def test_lines_are_appended_to_those_of_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for number in range(2):
        lines = LinesFile(str(path))
        lines.put({"number": number})
        lines.close()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]
