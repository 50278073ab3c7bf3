"""What is asked of a media file and what comes back, as plain values: to ask, nobody need load FFmpeg."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vcls_model.media.containers import CONTAINERS
from vcls_model.media.sampling import Sampling

SAMPLE_RATE = 16_000
PATCH_SECONDS = 0.975
PATCH_SAMPLES = 15_600  # the 96 windows of 25 ms, one every 10 ms, that YAMNet and VGGish hear at a time
INTERPOLATIONS = ("area", "bicubic", "bilinear")


@dataclass(frozen=True)
class PictureFormat:
    """The picture that an encoder takes.

    Attributes:
        size: height and width in pixels of the RGB picture.
        crop_fraction: side of the centre square over the frame's shorter side. EfficientNet-Lite's published evaluation
            keeps size / (size + 32). None squeezes the whole frame into the square.
        interpolation: bicubic (a kernel over 4 x 4 pixels, without antialiasing, as TensorFlow's), bilinear or area.
            From a reduction by four on, bicubic averages whole blocks of pixels first.
    """

    size: int = 224
    crop_fraction: float | None = 224 / 256
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1], got {self.crop_fraction}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation must be one of {known}, got {self.interpolation!r}")


@dataclass(frozen=True)
class Limits:
    """What a file may ask for.

    Attributes:
        max_pixels: width x height of a coded frame (default: 8K, 7,680 x 4,320).
        max_streams: streams in the container.
        max_frames: frames that the header may promise.
        max_seconds: length of the presentation; a longer one is refused where it is reached, whatever its header says.
        protocols: FFmpeg protocols that may be used. A local file needs `file`; `http` would let a path be an address.
        containers: FFmpeg demuxers that may be used, see `CONTAINERS`.
    """

    max_pixels: int = 7680 * 4320
    max_streams: int = 64
    max_frames: int = 24 * 3600 * 240
    max_seconds: float = 24 * 3600.0
    protocols: tuple[str, ...] = ("file", "pipe")
    containers: str = CONTAINERS


@dataclass(frozen=True)
class VideoFacts:
    """The video stream that a player shows.

    Attributes:
        codec: FFmpeg's name of the codec, such as h264.
        width, height: coded size in pixels, before rotation.
        sample_aspect_ratio: width of a pixel over its height.
        frame_rate: average frames per second, None where the header has none.
        frames_promised: frames in the header, 0 where it has none. Never a basis for the number of rows.
        seconds_promised: duration in the header, None where it has none.
    """

    index: int
    codec: str
    pixel_format: str | None
    width: int
    height: int
    sample_aspect_ratio: Fraction
    frame_rate: Fraction | None
    frames_promised: int
    seconds_promised: float | None


@dataclass(frozen=True)
class AudioFacts:
    """The audio stream that a player plays with the video; `sample_rate` in Hz.

    `seconds_promised` is None where FFmpeg has but guessed it from the file's size.
    """

    index: int
    codec: str
    sample_rate: int
    channels: int
    seconds_promised: float | None


@dataclass(frozen=True)
class MediaFacts:
    """A file's container and the streams that count; None where it has none of that kind."""

    container: str
    seconds_promised: float | None
    video: VideoFacts | None
    audio: AudioFacts | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; fractions as text."""
        facts = asdict(self)
        if facts["video"]:
            for name in ("sample_aspect_ratio", "frame_rate"):
                value = facts["video"][name]
                facts["video"][name] = None if value is None else str(value)
        return facts

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "MediaFacts":
        """The facts that `to_dict` wrote; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        video = dict(facts["video"]) if facts["video"] else None
        if video:
            video["sample_aspect_ratio"] = Fraction(video["sample_aspect_ratio"])
            video["frame_rate"] = Fraction(video["frame_rate"]) if video["frame_rate"] else None
        return cls(
            container=facts["container"],
            seconds_promised=facts["seconds_promised"],
            video=VideoFacts(**video) if video else None,
            audio=AudioFacts(**facts["audio"]) if facts["audio"] else None,
        )


@dataclass(frozen=True)
class Request:
    """What to read of a file.

    Attributes:
        pictures: the encoder's picture format, or None for sound alone.
        sound: whether to read sound, too.
        sampling: the moments.
        limits: what the file may ask for.
    """

    pictures: PictureFormat | None = PictureFormat()
    sound: bool = True
    sampling: Sampling = Sampling()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.pictures is None and not self.sound:
            raise ValueError("a request must ask for pictures or sound")


@dataclass(frozen=True)
class MediaRow:
    """One moment of a file.

    Attributes:
        index: number of the row, from 0; `target_seconds` = start + index / fps.
        target_seconds: the moment asked for, in seconds after the first presentation time.
        actual_seconds: the picture's own moment; None without pictures.
        picture: RGB, (size, size, 3), uint8; None where the file has no video (cover art is none).
        sound: 0.975 s from `target_seconds` on, float32, (15600,), in [-1, 1]; None where the file has no sound.
    """

    index: int
    target_seconds: float
    actual_seconds: float | None
    picture: np.ndarray | None
    sound: np.ndarray | None


@dataclass(frozen=True)
class Outcome:
    """How reading ended.

    Attributes:
        rows: rows that were read.
        seconds: length of the presentation as far as it was read.
        errors: packets and frames that could not be read or decoded.
        substituted: rows whose own frame was among them, so that they hold the nearest good one (by `actual_seconds`).
        max_error_seconds: greatest distance of a row's picture from the moment asked for.
        reason, message: None, or a reason of `vcls_model.media.errors` and a sentence on what was lost.
    """

    rows: int
    seconds: float
    errors: int
    substituted: int
    max_error_seconds: float
    reason: str | None = None
    message: str | None = None
