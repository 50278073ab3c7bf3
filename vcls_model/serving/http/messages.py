"""Messages of a live stream: frames in, labels out."""

import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from vcls_model.media.requests import PATCH_SAMPLES
from vcls_model.serving.http.bodies import RefusedError
from vcls_model.serving.live.engine import Engine
from vcls_model.serving.live.events import LabelEvent
from vcls_model.serving.live.session import Answer, Counts, Frame, FrameLabels, Session

CREDITS = 2
SAMPLE_RATE = 16_000
_LENGTH = struct.Struct("<I")
_MOST_HEADER_BYTES = 4096
_TOP = 20


def parse_frame(content: bytes, received: float, number: int) -> Frame:
    """A binary message: the length of a JSON header (4 bytes, little endian), the header, a JPEG, 16-bit sound.

    The header holds `picture_bytes`, `sound_samples` (16 kHz, mono, little endian), and, as far as the client wants,
    `sequence`, `seconds` (of the stream; by default the seconds since its start) and `captured` (any number, which
    comes back).

    Args:
        content: of the message.
        received: `time.monotonic()` of its arrival.
        number: of the message in the stream, for frames without a `sequence`.

    Raises:
        RefusedError: it is not laid out like that.
    """
    if len(content) < _LENGTH.size:
        raise RefusedError(400, "a frame begins with the length of its header")
    length = _LENGTH.unpack_from(content)[0]
    if length > min(_MOST_HEADER_BYTES, len(content) - _LENGTH.size):
        raise RefusedError(
            400, f"the header of a frame has at most {_MOST_HEADER_BYTES} bytes and fits into its message"
        )
    try:
        header = orjson.loads(content[_LENGTH.size : _LENGTH.size + length])
    except orjson.JSONDecodeError:
        raise RefusedError(400, "the header of a frame is JSON") from None
    if not isinstance(header, dict):
        raise RefusedError(400, "the header of a frame is one JSON object")
    picture, samples = _whole(header, "picture_bytes"), _whole(header, "sound_samples")
    rest = memoryview(content)[_LENGTH.size + length :]
    if picture + 2 * samples != len(rest):
        raise RefusedError(400, "picture_bytes and sound_samples do not add up to what follows the header")
    if samples > PATCH_SAMPLES:
        raise RefusedError(400, f"a frame holds at most {PATCH_SAMPLES:,} samples of sound")
    sound = np.frombuffer(rest[picture:], "<i2").astype(np.float32) / 32768 if samples else None
    return Frame(
        sequence=_whole(header, "sequence", number),
        seconds=_number(header, "seconds", -1.0),
        received=received,
        jpeg=bytes(rest[:picture]) if picture else None,
        sound=sound,
        captured=_number(header, "captured", 0.0) if "captured" in header else None,
    )


def _whole(header: dict[str, Any], name: str, default: int = 0) -> int:
    value = header.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise RefusedError(400, f"{name} must be a whole number of at least 0")
    return value


def _number(header: dict[str, Any], name: str, default: float) -> float:
    value = header.get(name, default)
    if type(value) not in (int, float) or (value < 0 and value != default):
        raise RefusedError(400, f"{name} must be a number of at least 0")
    return float(value)


def ready_message(engine: Engine, session: Session) -> dict[str, Any]:
    """The first message to a client: what the model takes, and how many frames may be under way."""
    model = engine.model
    media = model.media
    mediums = {medium for medium, _, _ in media.encoders} if media is not None else set()
    return {
        "type": "Ready",
        "stream": session.name,
        "model": model.name,
        "fps": media.fps if media is not None else 1.0,
        "credits": CREDITS,
        "window_seconds": engine.options.window_seconds,
        "hold_seconds": engine.options.hold_seconds,
        "picture": "picture" in mediums,
        "sound": {"sample_rate": SAMPLE_RATE, "samples": PATCH_SAMPLES} if "sound" in mediums else None,
    }


def answer_message(engine: Engine, session: Session, answer: Answer) -> dict[str, Any]:
    """What a client hears of a frame; each such message gives a credit back."""
    frame = answer.frame
    message: dict[str, Any] = {
        "type": "Labels",
        "stream": session.name,
        "sequence": frame.sequence,
        "seconds": frame.seconds,
        "captured": frame.captured,
        "counts": counts_json(answer.counts),
        "credits": 1,
    }
    if not isinstance(answer, FrameLabels):
        kind = "Dropped" if answer.reason == "dropped" else "Error"
        return {**message, "type": kind, "reason": answer.reason, "message": answer.message}
    latency = {stage: round(milliseconds, 2) for stage, milliseconds in answer.latency.items()}
    return {
        **message,
        "now": best_classes(answer.now, session.tracker.active),
        "so_far": best_classes(answer.so_far),
        "active": session.tracker.active.tolist(),
        "events": [event_json(engine, event) for event in answer.events],
        "latency_ms": latency,
        "sent": time.time(),
    }


def final_message(engine: Engine, session: Session, events: Sequence[LabelEvent]) -> dict[str, Any]:
    """The answer to `Finalize`: the labels of the whole stream, once all its frames are settled."""
    so_far = session.last_so_far
    return {
        "type": "Finalized",
        "stream": session.name,
        "so_far": [] if so_far is None else best_classes(so_far),
        "events": [event_json(engine, event) for event in events],
        "counts": counts_json(session.counts),
    }


def event_json(engine: Engine, event: LabelEvent) -> dict[str, Any]:
    """A label's event with its class's name."""
    return {
        "kind": event.kind,
        "index": event.index,
        "name": engine.model.classes[event.index].name,
        "score": round(event.score, 6),
        "start": event.start,
        "at": event.at,
        "best": round(event.best, 6),
        "best_at": event.best_at,
    }


def counts_json(counts: Counts) -> dict[str, int]:
    """What became of a stream's frames."""
    return dict(vars(counts))


def best_classes(probabilities: np.ndarray, also: Sequence[int] | np.ndarray = ()) -> list[list[float]]:
    """[index, probability] of the 20 best classes, best first, and of those that must not be missing."""
    count = min(_TOP, len(probabilities))
    first = np.argpartition(-probabilities, count - 1)[:count]
    chosen = np.union1d(first, np.asarray(also, np.int64))
    chosen = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    return [[int(index), round(float(probabilities[index]), 6)] for index in chosen]
