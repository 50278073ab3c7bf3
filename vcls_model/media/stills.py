"""Single JPEG pictures as an encoder takes them, decoded in a child process with a deadline and a memory limit.

They go through the same conversion as the frames of a file, so that a camera's picture and the same picture in a video
become the same pixels.
"""

import dataclasses
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable

import numpy as np

from vcls_model.commands import JobError
from vcls_model.media.children import end_child, start_child
from vcls_model.media.errors import CRASHED, DAMAGED, DEADLINE, MediaError
from vcls_model.media.requests import PictureFormat
from vcls_model.storage import to_json

_LENGTH = struct.Struct("<I")
_START_SECONDS = 60.0
_MAX_MESSAGE_BYTES = 4096


@dataclasses.dataclass
class StillDecoder:
    """Owns the child; one picture at a time, in one thread at a time.

    Attributes:
        picture_format: of the pixels.
        seconds: how long a picture may take.
        memory_bytes: what the child may allocate beyond its libraries.
        max_pixels: width x height of a picture.
    """

    picture_format: PictureFormat
    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    max_pixels: int = 4096 * 4096
    _process: "subprocess.Popen[bytes] | None" = dataclasses.field(init=False, default=None)

    def start(self) -> None:
        """Starts the child, where there is none; else the first picture does, and waits for it.

        Raises:
            JobError: it cannot start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        picture_format = to_json(dataclasses.asdict(self.picture_format))
        self._process = start_child(
            "vcls_model.media.still_child", str(self.memory_bytes), str(self.max_pixels), picture_format
        )
        try:
            self._read(1, time.monotonic() + _START_SECONDS)
        except MediaError as error:
            self.close()
            raise JobError(
                "the process that decodes pictures cannot start: is there a limit on its memory or on the number of "
                "processes (ulimit -a)?"
            ) from error

    def decode(self, jpeg: bytes, meanwhile: Callable[[], None] | None = None) -> np.ndarray:
        """The pixels of a JPEG file: RGB, (size, size, 3), uint8.

        Args:
            jpeg: the file.
            meanwhile: done while the child decodes; counts for the deadline. What it raises ends the child.

        Raises:
            MediaError: damaged, deadline or crashed.
        """
        self.start()
        assert self._process is not None and self._process.stdin is not None
        deadline = time.monotonic() + self.seconds
        try:
            self._write(_LENGTH.pack(len(jpeg)) + jpeg, deadline)
            if meanwhile is not None:
                meanwhile()
            failed = self._read(1, deadline) != b"\x00"
            if failed:
                length = _LENGTH.unpack(self._read(_LENGTH.size, deadline))[0]
                message = bytes(self._read(min(length, _MAX_MESSAGE_BYTES), deadline)).decode(errors="replace")
            else:
                size = self.picture_format.size
                pixels = self._read(size * size * 3, deadline)
        except BaseException:  # an answer that nobody has read would be taken for the next picture's
            self.close()
            raise
        if failed:
            raise MediaError(DAMAGED, message)
        return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)

    def close(self) -> None:
        """Ends the child."""
        process, self._process = self._process, None
        if process is not None:
            end_child(process)

    def _write(self, content: bytes, deadline: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        file = self._process.stdin.fileno()
        os.set_blocking(file, False)
        view = memoryview(content)
        while view:
            self._wait(file, select.POLLOUT, deadline)
            try:
                view = view[os.write(file, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise MediaError(CRASHED, "the picture made its decoder crash") from error

    def _read(self, length: int, deadline: float) -> bytearray:
        assert self._process is not None and self._process.stdout is not None
        file = self._process.stdout.fileno()
        content = bytearray(length)
        view = memoryview(content)
        while view:
            self._wait(file, select.POLLIN, deadline)
            count = os.readv(file, [view])
            if not count:
                raise MediaError(CRASHED, "the picture made its decoder crash")
            view = view[count:]
        return content

    def _wait(self, file: int, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(file, events)
        if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise MediaError(DEADLINE, f"the picture took longer than {self.seconds:g} s to decode")
