"""The packets of one stream, read past what is damaged."""

from collections.abc import Callable, Iterator
from typing import Any

import av

from vcls_model.media.errors import ENCRYPTED, MediaError

_MAX_ERRORS = 64  # consecutive failures to read after which a file is taken to have ended


def packets_with_content(container: Any, stream: Any, medium: str, note_error: Callable[[], None]) -> Iterator[Any]:
    """The packets of a stream that are not empty; after a failure reading goes on behind it, as long as anything comes.

    Args:
        container, stream: of PyAV.
        medium: `video` or `sound`, for the message.
        note_error: called for each failure to read.

    Raises:
        MediaError: a packet is encrypted.
    """
    failures = 0
    while failures < _MAX_ERRORS:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    failures = 0
                    if packet.has_sidedata("encryption_info"):
                        raise MediaError(ENCRYPTED, f"its {medium} is encrypted; decrypt it first")
                    yield packet
            return
        except MemoryError:
            raise
        except (av.error.EOFError, IndexError):  # PyAV's flush at the end trips over streams that appeared on the way
            return
        except av.error.FFmpegError:
            failures += 1
            note_error()
