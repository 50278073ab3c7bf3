"""Time-stamped text (captions, recognised speech) laid on the seconds of a video.

captions, notes = read_captions(content)                  # WebVTT, SRT, or JSON [[start, end, text], …]
texts, more = lay_on_rows(captions, rows=120)             # of each second what is said in it
"""

import dataclasses
import html
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vcls_model import storage
from vcls_model.commands import JobError

# How captions beside a media file are called, in the order in which they are looked for.
SUFFIXES = (".vtt", ".srt")
# What is said in a second is shorter; endless captions over one another are not.
MOST_CHARACTERS = 1000
# A day of captions has some thousands; a file of more is something else.
MOST_CAPTIONS = 100_000
MOST_BYTES = 16 << 20
_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
# WebVTT's and SubRip's line of times; what follows the end are settings.
_TIMES = re.compile(rf"^\s*{_CLOCK}\s*-->\s*(?:{_CLOCK})?(?:\s.*)?$")
# Voices, styles and times within a caption; SubRip's {\an8}.
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclasses.dataclass(frozen=True)
class Caption:
    """What is said from `start` to before `end`, in seconds; `end` may be infinite."""

    start: float
    end: float
    text: str


def read_captions(content: bytes) -> tuple[list[Caption], Counter]:
    """The captions of a WebVTT or SRT file, or of a JSON list of (start, end, text), in order of time.

    Returns:
        The captions, and counts of what was repaired: `captions_not_utf8`, `captions_cut` (beyond 16 MiB or 100,000),
        `captions_reversed` (they end before they start, and are left out), `captions_without_time` (left out) and
        `captions_endless` (up to the next one).

    Raises:
        JobError: JSON that is not such a list.
    """
    notes: Counter = Counter()
    if len(content) > MOST_BYTES:
        content = content[:MOST_BYTES]
        notes["captions_cut"] += 1
    text = content.decode("utf-8-sig", errors="replace")
    if "\ufffd" in text:
        notes["captions_not_utf8"] += 1
    found = _of_json(text, notes) if text.lstrip().startswith("[") else _of_cues(text, notes)
    found.sort(key=lambda caption: (caption.start, caption.end))
    captions = []
    for place, caption in enumerate(found[:MOST_CAPTIONS]):
        if caption.end < caption.start:
            notes["captions_reversed"] += 1
            continue
        if math.isinf(caption.end):
            notes["captions_endless"] += 1
            later = (other.start for other in found[place + 1 :] if other.start > caption.start)
            caption = dataclasses.replace(caption, end=next(later, math.inf))
        captions.append(caption)
    notes["captions_cut"] += max(0, len(found) - MOST_CAPTIONS)
    return captions, +notes


def _of_cues(text: str, notes: Counter) -> list[Caption]:
    captions = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        place = next((number for number, line in enumerate(lines) if "-->" in line), None)
        if place is None:
            continue  # the header, a note, a style
        matched = _TIMES.match(lines[place])
        if matched is None:
            notes["captions_without_time"] += 1
            continue
        start, end = _seconds(matched.groups()[:4]), _seconds(matched.groups()[4:])
        assert start is not None
        said = html.unescape(_MARKUP.sub("", "\n".join(lines[place + 1 :])))
        captions.append(Caption(start, math.inf if end is None else end, said.strip()))
    return captions


def _seconds(parts: Sequence[str | None]) -> float | None:
    hours, minutes, seconds, fraction = parts
    if minutes is None or seconds is None:
        return None
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int((fraction or "0").ljust(3, "0")) / 1000


def _of_json(text: str, notes: Counter) -> list[Caption]:
    entries = storage.from_json(text, "captions")
    captions = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, list | tuple) or len(entry) != 3 or not isinstance(entry[2], str):
            raise JobError("captions in JSON must be a list of [start, end, text] with times in seconds")
        start, end, said = entry
        if not _is_time(start) or not (end is None or _is_time(end)):
            notes["captions_without_time"] += 1
            continue
        captions.append(Caption(float(start), math.inf if end is None else float(end), said))
    return captions


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def lay_on_rows(
    captions: Sequence[Caption], rows: int, fps: float = 1.0, start: float = 0.0
) -> tuple[list[str], Counter]:
    """The text of each row of a video.

    Row k covers the time from start + k / fps on, 1 / fps long. A caption belongs to each row that it overlaps, and one
    without length to the row it lies in; several in a row are joined in order of time.

    Returns:
        `rows` texts of one line, at most 1,000 characters each, and counts: `captions_overlapping` (they begin before
        the one before ends), `captions_past_end` (they begin after the last row, and are left out) and
        `captions_rows_cut` (rows of which more is said).
    """
    texts = [""] * rows
    notes: Counter = Counter()
    reached = -math.inf
    for caption in captions:
        notes["captions_overlapping"] += caption.start < reached
        reached = max(reached, caption.end)
        first = math.floor((caption.start - start) * fps)
        last = rows - 1 if math.isinf(caption.end) else math.ceil((caption.end - start) * fps) - 1
        if first >= rows:
            notes["captions_past_end"] += 1
            continue
        said = " ".join(caption.text.split())
        for row in range(max(first, 0), min(max(last, first), rows - 1) + 1):
            if said and len(texts[row]) <= MOST_CHARACTERS:
                texts[row] += f" {said[: MOST_CHARACTERS + 1]}" if texts[row] else said[: MOST_CHARACTERS + 1]
    notes["captions_rows_cut"] = sum(len(text) > MOST_CHARACTERS for text in texts)
    return [text[:MOST_CHARACTERS] for text in texts], +notes


def read_captions_of(path: str | None, rows: int, fps: float = 1.0, start: float = 0.0) -> tuple[list[str], Counter]:
    """The text of each row of a video from a file of captions, and counts of what was wrong with it.

    Without a file nothing is said: `captions_missing` (it is not there) and `captions_unreadable` (no such file of
    captions) cost the text and not the video.
    """
    if path is None:
        return [""] * rows, Counter()
    try:
        content = bytearray()
        with storage.open_for_reading(path) as stream:
            while len(content) <= MOST_BYTES and (part := stream.read(1 << 20)):
                content += part
        captions, notes = read_captions(bytes(content))
    except FileNotFoundError:
        return [""] * rows, Counter(captions_missing=1)
    except (OSError, JobError):
        return [""] * rows, Counter(captions_unreadable=1)
    texts, more = lay_on_rows(captions, rows, fps, start)
    return texts, notes + more


def captions_beside(path: str) -> str | None:
    """The captions that lie beside a media file: its name with `.vtt` or `.srt`; None where there are none."""
    folder, slash, name = path.rpartition("/")
    stem = folder + slash + (name.rpartition(".")[0] or name)
    return next((stem + suffix for suffix in SUFFIXES if storage.exists(stem + suffix)), None)
