"""Time-stamped text (captions, recognised speech) laid on the rows of a video, as a frames modality like others.

    captions, notes = read_captions(content)                  # WebVTT, SRT, or JSON [[start, end, text], …]
    texts, more = lay_on_rows(captions, rows=120)             # of each second what is said in it
    codes = caption_codes(texts)                              # uint8 (120, 512), a row of codes per second

A row holds the words and n-grams of its text (see `records.text`), each added with a sign of its own to one of 512
values (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"), scaled to length 1.
"""

import dataclasses
import html
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import FRAMES, Modality
from vcls_model.records.text import Tokeniser, weight_steps
from vcls_model.records.text_options import TextOptions

WIDTH = 512
# What a row's codes stand for.
RANGE = (-1.0, 1.0)
# A day of captions has some thousands; a file of more is something else.
MOST_CAPTIONS = 100_000
MOST_BYTES = 16 << 20
_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
# WebVTT's and SubRip's line of times; what follows the end are settings.
_TIMES = re.compile(rf"^\s*{_CLOCK}\s*-->\s*(?:{_CLOCK})?(?:\s.*)?$")
# Voices, styles and times within a caption; SubRip's {\an8}.
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_OPTIONS = TextOptions(buckets=1 << 20, tokens=1024, min_count=1)


@dataclasses.dataclass(frozen=True)
class Caption:
    """What is said from `start` to before `end`, in seconds; `end` may be infinite."""

    start: float
    end: float
    text: str


def captions_modality(name: str = "captions") -> Modality:
    """The modality that `caption_codes` makes."""
    return Modality(name, WIDTH, FRAMES, "uint8", range=RANGE)


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
        `rows` texts, and counts: `captions_overlapping` (they begin before the one before ends) and
        `captions_past_end` (they begin after the last row, and are left out).
    """
    texts: list[list[str]] = [[] for _ in range(rows)]
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
        for row in range(max(first, 0), min(max(last, first), rows - 1) + 1):
            texts[row].append(caption.text)
    return [" ".join(said) for said in texts], +notes


def caption_codes(texts: Sequence[str]) -> np.ndarray:
    """Codes uint8 (T, 512) of the texts of T rows; a row without text has the codes of 0."""
    column = BytesColumn.of([text.encode(errors="replace") for text in texts])
    tokens, _ = Tokeniser(_OPTIONS, np.full(_OPTIONS.buckets, 256, np.int64)).tokens(column)
    steps = weight_steps(_OPTIONS.buckets)
    values = np.zeros((len(texts), WIDTH), np.float64)
    for row, (begin, count) in enumerate(zip(tokens.begins.tolist(), tokens.counts.tolist(), strict=True)):
        own = tokens.values[begin : begin + count]
        buckets, weights = own // steps, own % steps / (steps - 1)
        np.add.at(values[row], buckets % WIDTH, np.where(buckets // WIDTH % 2, weights, -weights))
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    values /= np.where(lengths > 0, lengths, 1.0)
    codes = np.floor((values - RANGE[0]) / (RANGE[1] - RANGE[0]) * 256)
    return np.clip(codes, 0, 255).astype(np.uint8)
