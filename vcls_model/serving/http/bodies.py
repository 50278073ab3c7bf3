"""Request bodies within bounds, and answers that say what is wrong in words."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

_MOST_VALUES = 1 << 22  # of a JSON body: to read more takes the interpreter so long that live streams would feel it
_LEAST_BYTES_PER_SECOND = 16 << 10


class RefusedError(Exception):
    """A request cannot be answered: an HTTP status and a sentence for its sender."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Compact JSON; numpy arrays may be among the values."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, "application/json")


def refusal(error: RefusedError) -> Response:
    """The answer for a refused request, as TensorFlow Serving and KServe lay it out."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return json_response({"error": str(error)}, error.status, headers)


async def body_chunks(request: Request, most_bytes: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """The parts of a body as they come.

    Raises:
        RefusedError: 413 beyond `most_bytes`; 408 where nothing comes for `idle_seconds`, or, after these, less than
            16 KiB per second; 400 where the client leaves.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most_bytes:
        raise RefusedError(413, f"the body has {int(announced):,} bytes; at most {most_bytes:,} are taken")
    size, began = 0, time.monotonic()
    stream = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(stream.__anext__(), idle_seconds)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise RefusedError(408, f"nothing of the body came for {idle_seconds:g} seconds") from None
        except ClientDisconnect:
            raise RefusedError(400, "the client left before its request was complete") from None
        size += len(chunk)
        if size > most_bytes:
            raise RefusedError(413, f"the body is longer than the {most_bytes:,} bytes that are taken")
        if size < _LEAST_BYTES_PER_SECOND * (time.monotonic() - began - idle_seconds):
            raise RefusedError(408, "the body comes too slowly")
        yield chunk


async def read_body(request: Request, most_bytes: int, idle_seconds: float) -> bytes:
    """A whole body; raises as `body_chunks`."""
    return b"".join([chunk async for chunk in body_chunks(request, most_bytes, idle_seconds)])


def number_array(values: Any) -> np.ndarray | None:
    """Nested lists of JSON numbers as an array of whole or floating-point numbers.

    None where they are not all of one length, or hold what is not a number: numpy alone would read "1" and true as 1.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    return array if array.dtype.kind in "iuf" else None


def parse_json(content: bytes) -> dict[str, Any]:
    """One JSON object.

    Raises:
        RefusedError: 400 where it is not, 413 where it holds too many values.
    """
    if content.count(b",") >= _MOST_VALUES:
        raise RefusedError(
            413, f"the body holds more than {_MOST_VALUES:,} values: send records or codes as base64, or binary tensors"
        )
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:  # also where it is nested too deep
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RefusedError(400, "the body must be one JSON object")
    return value
