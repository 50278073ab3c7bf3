"""The process in which single JPEG pictures are decoded: pictures on standard input, pixels on standard output.

Run by `vcls_model.media.stills` as `python -m vcls_model.media.still_child MEMORY_BYTES MAX_PIXELS FORMAT`, FORMAT
being the JSON of a `PictureFormat`. A request is a length (4 bytes) and a JPEG file. An answer is one byte: 0 and the
pixels, or 1, a length and a sentence on what is wrong.
"""

import os
import struct
import sys
import threading
from typing import Any

import av
import cv2

from vcls_model.media.child import MemoryLimit, leave_with_parent
from vcls_model.media.convert import Converter
from vcls_model.media.requests import PictureFormat
from vcls_model.storage import from_json

_LENGTH = struct.Struct("<I")


class _Decoder:
    """Decodes pictures one after the other; a new codec for each, so that none sees what another left behind."""

    def __init__(self, picture_format: PictureFormat, max_pixels: int) -> None:
        self._converter = Converter(picture_format)
        self._max_pixels = max_pixels

    def decode(self, jpeg: bytes) -> bytes:
        """The pixels (size, size, 3) of a picture; raises `ValueError` with a sentence for its sender."""
        if not jpeg.startswith(b"\xff\xd8"):
            raise ValueError("the picture is not a JPEG")
        codec: Any = av.CodecContext.create("mjpeg", "r")
        codec.thread_count = 1
        codec.options = {"max_pixels": str(self._max_pixels)}
        try:
            frames = [*codec.decode(av.Packet(jpeg)), *codec.decode(None)]
        except (av.error.FFmpegError, EOFError) as error:
            raise ValueError("the picture cannot be decoded") from error
        if not frames:
            raise ValueError("the picture cannot be decoded")
        if frames[0].is_corrupt:
            raise ValueError("the picture is damaged")
        return self._converter.convert(frames[0]).tobytes()


def main() -> None:
    """Answers requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write among the answers
    av.logging.set_level(None)
    cv2.setNumThreads(1)
    threading.Thread(target=leave_with_parent, args=(os.getppid(),), daemon=True).start()
    MemoryLimit(int(sys.argv[1]))
    decoder = _Decoder(PictureFormat(**from_json(sys.argv[3], "the picture format")), int(sys.argv[2]))
    answers.write(b"\x00")
    answers.flush()
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        jpeg = requests.read(_LENGTH.unpack(head)[0])
        try:
            answers.write(b"\x00" + decoder.decode(jpeg))
        except (ValueError, MemoryError, cv2.error) as error:
            message = (str(error) if type(error) is ValueError else "the picture needs too much memory").encode()
            answers.write(b"\x01" + _LENGTH.pack(len(message)) + message)
        answers.flush()


if __name__ == "__main__":
    main()
