"""A video stream as pictures: for each row the nearest frame, ready for an encoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vcls_model.media.choosing import Chooser
from vcls_model.media.convert import Converter
from vcls_model.media.errors import TOO_LARGE, MediaError
from vcls_model.media.exact import ExactChooser
from vcls_model.media.keyframes import KeyFrameChooser
from vcls_model.media.probe import OpenMedia
from vcls_model.media.requests import PictureFormat
from vcls_model.media.sampling import Sampling


@dataclass(frozen=True)
class Picture:
    """One row's picture.

    Attributes:
        row: its number.
        target_seconds, actual_seconds: the moment asked for and the frame's own, after the first presentation time.
        pixels: RGB, (size, size, 3), uint8.
    """

    row: int
    target_seconds: float
    actual_seconds: float
    pixels: np.ndarray


class PictureReader:
    """Iterates over the pictures of a file's video stream."""

    def __init__(self, media: OpenMedia, sampling: Sampling, picture_format: PictureFormat) -> None:
        assert media.facts.video is not None
        self._sampling = sampling
        self._max_seconds = media.limits.max_seconds
        self._converter = Converter(picture_format, media.facts.video.sample_aspect_ratio)
        self._converted: tuple[Any, np.ndarray] | None = None
        self._chooser = self._make_chooser(media)

    def _make_chooser(self, media: OpenMedia) -> Chooser:
        if self._sampling.mode == "keyframes":
            return KeyFrameChooser(media, self._sampling)
        if self._sampling.mode == "everything":
            return Chooser(media, self._sampling)
        return ExactChooser(media, self._sampling, self._converter.convert)

    @property
    def errors(self) -> int:
        """Packets and frames that could not be read or decoded."""
        return self._chooser.reader.errors + self._chooser.decoder.total_errors

    @property
    def substituted(self) -> int:
        """Rows whose own frame was missing or damaged, so that they hold another."""
        return self._chooser.substituted

    @property
    def turned(self) -> bool:
        """Whether the last picture stands upright because it was turned by a quarter."""
        return self._converter.turned

    @property
    def decoded(self) -> bool:
        """Whether any frame was there to choose from."""
        return self._chooser.picker.last_time is not None

    @property
    def packets(self) -> int:
        """Packets of the stream read so far."""
        return self._chooser.reader.count

    @property
    def origin_seconds(self) -> float:
        """The first presentation time on the container's own clock; known once a picture has come."""
        return self._chooser.clock.origin_seconds

    @property
    def seconds(self) -> float:
        """Length of the presentation as far as it was read, the last frame included; 0 before any."""
        chooser = self._chooser
        if chooser.end is None or chooser.clock.origin is None:
            return 0.0
        last_frame = (chooser.gap or chooser.decoder.step) * chooser.clock.time_base
        return chooser.clock.seconds(chooser.end) + float(last_frame)

    def __iter__(self) -> Iterator[Picture]:
        """Pictures in order of rows; raises `MediaError` (too_large) where rows go beyond the limits."""
        for chosen in self._chooser.choose():
            target = self._sampling.seconds(chosen.row)
            if target > self._max_seconds:
                message = f"the presentation is longer than {self._max_seconds:,.0f} seconds; name a segment of it"
                raise MediaError(TOO_LARGE, message)
            actual = self._chooser.clock.seconds(chosen.time)
            yield Picture(chosen.row, float(target), actual, self._pixels(chosen.picture))

    def _pixels(self, picture: Any) -> np.ndarray:
        """A frame converted, or what was converted before; rows that share a frame share the array."""
        if isinstance(picture, np.ndarray):
            return picture
        if self._converted is None or self._converted[0] is not picture:
            self._converted = picture, self._converter.convert(picture)
        return self._converted[1]
