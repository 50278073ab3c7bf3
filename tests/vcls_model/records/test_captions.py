"""Captions on seconds: formats, times that cannot be, and rows that say what is said in them."""

import math
from pathlib import Path

import pytest

from vcls_model.commands import JobError
from vcls_model.records.captions import (
    MOST_CHARACTERS,
    Caption,
    captions_beside,
    lay_on_rows,
    read_captions,
    read_captions_of,
)

VTT = """\ufeffWEBVTT - a title

NOTE this is --  no cue

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.500 align:start position:10%
<v Roger><i>Hello</i> &amp; welcome

00:00:04.000 --> 00:00:05.000
two
lines
"""
SRT = (
    "1\r\n00:00:01,000 --> 00:00:03,500\r\n{\\an8}<i>Hello</i> & welcome\r\n\r\n"
    "2\r\n00:00:04,000 --> 00:00:05,000\r\ntwo\r\nlines\r\n"
)
SAID = [Caption(1.0, 3.5, "Hello & welcome"), Caption(4.0, 5.0, "two\nlines")]


@pytest.mark.parametrize(
    "content",
    [VTT.encode(), SRT.encode(), b'[[4, 5.0, "two\\nlines"], [1, 3.5, "Hello & welcome"]]'],
    ids=["WebVTT", "SRT", "JSON"],
)
def test_formats(content: bytes) -> None:
    assert read_captions(content) == (SAID, {})


def test_times_that_cannot_be() -> None:
    content = b"""WEBVTT

00:05.000 --> 00:02.000
backwards

00:01.000 -->
endless

00:03.000 --> 00:04.000
next \xff

soon --> later
never

00:09.000 --> 00:09.000
a moment
"""
    captions, notes = read_captions(content)
    assert captions == [Caption(1, 3, "endless"), Caption(3, 4, "next \ufffd"), Caption(9, 9, "a moment")]
    assert notes == {
        "captions_reversed": 1,
        "captions_endless": 1,
        "captions_without_time": 1,
        "captions_not_utf8": 1,
    }
    captions, notes = read_captions(b'[[2, null, "on and on"], [1e999, 3, "x"], [-1, 3, "y"]]')
    assert captions == [Caption(2, math.inf, "on and on")]
    assert notes == {"captions_endless": 1, "captions_without_time": 2}


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(JobError, match="list of"):
        read_captions(b'[{"start": 1}]')


def test_no_captions() -> None:
    assert read_captions(b"") == ([], {})
    assert read_captions(b"WEBVTT\n") == ([], {})


def test_too_many_captions_are_cut() -> None:
    captions, notes = read_captions(b"\n\n".join([b"00:01.000 --> 00:02.000\nx"] * 100_003))
    assert (len(captions), notes) == (100_000, {"captions_cut": 3})


def test_rows() -> None:
    captions = [
        Caption(0.5, 1.0, "a"),
        Caption(1.9, 3.1, "b"),
        Caption(3.0, 3.0, "moment"),
        Caption(4.0, math.inf, "end"),
        Caption(9.0, 10.0, "late"),
    ]
    texts, notes = lay_on_rows(captions, rows=6)
    assert texts == ["a", "b", "b", "b moment", "end", "end"]
    assert notes == {"captions_overlapping": 2, "captions_past_end": 1}
    assert lay_on_rows(captions[:2], rows=4, fps=2.0, start=1.0)[0] == ["", "b", "b", "b"]


def test_what_no_second_can_hold_is_cut() -> None:
    """Endless captions over one another give rows of a thousand characters."""
    captions = [Caption(float(number % 3), math.inf, f"c{number} " * 20) for number in range(9_000)]
    texts, notes = lay_on_rows(sorted(captions, key=lambda caption: caption.start), rows=5)
    assert [len(text) for text in texts] == [MOST_CHARACTERS] * 5
    assert notes == {"captions_overlapping": 8_999, "captions_rows_cut": 5}
    assert lay_on_rows([Caption(0, 2, " two\r\nlines\tand\0more ")], rows=1)[0] == ["two lines and\0more"]


def test_files_of_captions(tmp_path: Path) -> None:
    video = str(tmp_path / "a.b.mp4")
    assert captions_beside(video) is None
    (tmp_path / "a.b.srt").write_text(SRT)
    assert captions_beside(video) == str(tmp_path / "a.b.srt")
    (tmp_path / "a.b.vtt").write_text(VTT)
    assert captions_beside(video) == str(tmp_path / "a.b.vtt")
    said = ["", "Hello & welcome", "Hello & welcome", "Hello & welcome", "two lines"]
    assert read_captions_of(str(tmp_path / "a.b.srt"), 5) == (said, {})
    assert read_captions_of(str(tmp_path / "a.b.vtt"), 2, start=4.0) == (["two lines", ""], {})
    assert read_captions_of(None, 2) == (["", ""], {})
    assert read_captions_of(str(tmp_path / "none.vtt"), 1) == ([""], {"captions_missing": 1})
    (tmp_path / "list.json").write_text("[1, 2]")
    assert read_captions_of(str(tmp_path / "list.json"), 1) == ([""], {"captions_unreadable": 1})
    assert read_captions_of(str(tmp_path), 1) == ([""], {"captions_unreadable": 1})
    (tmp_path / "large.vtt").write_bytes(VTT.encode() + b"\n00:00.000 --> 00:01.000\n" + b"x" * (17 << 20))
    texts, notes = read_captions_of(str(tmp_path / "large.vtt"), 2)
    assert (len(texts[0]), notes) == (
        MOST_CHARACTERS,
        {"captions_cut": 1, "captions_past_end": 1, "captions_rows_cut": 1},
    )
