"""What is written in the pictures of a file, row by row: read in the decoding process, within its limits."""

from vcls_model.encoders.screen_texts import PICTURE_SIDE, ScreenReader
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PictureFormat, Request
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MIB
from vcls_model.media.split import open_reader

# What the networks take in the decoding process, beyond what decoding takes.
_NETWORK_BYTES = 1024 * MIB


class ScreenTexts:
    """Reads one file after the other; owns decoding processes of its own, which hold the networks.

    Args:
        reader: reads a picture.
        processes: of a long file.
        seconds_per_minute, memory_bytes: what a file may cost, see `MediaReader`; reading a text counts.
    """

    def __init__(self, reader: ScreenReader, processes: int, seconds_per_minute: float, memory_bytes: int) -> None:
        self._reader = reader
        self._media = open_reader(processes, seconds_per_minute, memory_bytes + _NETWORK_BYTES)

    def read(self, path: str, sampling: Sampling) -> list[str]:
        """The text of each row, on one line; none at all where a file has no pictures.

        Raises:
            MediaError: it could not be read to its end within its limits.
        """
        whole = PictureFormat(PICTURE_SIDE, None, "area")
        request = Request(whole, sound=False, sampling=sampling, describe=self._reader)
        try:
            with self._media.read(path, request) as rows:
                return [row.text or "" for row in rows]
        except MediaError as error:
            if error.reason == errors.NO_VIDEO_STREAM:
                return []
            raise

    def close(self) -> None:
        """Ends the decoding processes."""
        self._media.close()
