"""A media file as rows: every 1 / fps seconds a picture and the sound from there on, in the calling process.

FFmpeg may crash or hang on a damaged file: jobs read through `vcls_model.media.sandbox`, which runs this in a child
process.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.pictures import PictureReader
from vcls_model.media.probe import OpenMedia, is_encrypted, open_media
from vcls_model.media.requests import (
    PATCH_SECONDS,
    AudioFacts,
    MediaFacts,
    MediaRow,
    Outcome,
    PictureFormat,
    Request,
    VideoFacts,
)
from vcls_model.media.sound import SoundReader


@dataclass
class RowReader:
    """Iterates over the rows of an open file; use as a context manager, or `read_rows`.

    Attributes:
        facts: of the container and its streams.
        outcome: set once all rows have been read.
    """

    path: str
    request: Request
    outcome: Outcome | None = None
    _media: OpenMedia = field(init=False)
    _sound_media: OpenMedia | None = field(init=False, default=None)
    _max_error: float = field(init=False, default=0.0)
    _count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Opens the file; raises `MediaError` where it has nothing of what is asked for."""
        self._media = open_media(self.path, self.request.limits)
        try:
            self._check()
            if self.request.sound and self._media.audio is not None:
                # A container of its own, because one would have to hold back what the other stream is not ready for.
                self._sound_media = open_media(self.path, self.request.limits)
        except BaseException:
            self.close()
            raise

    @property
    def facts(self) -> MediaFacts:
        return self._media.facts

    def __enter__(self) -> "RowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._media.container.close()
        if self._sound_media is not None:
            self._sound_media.container.close()

    def __iter__(self) -> Iterator[MediaRow]:
        """Rows in order; raises `MediaError` where none can be read, and for presentations beyond the limits."""
        sound = None
        if self._sound_media is not None:
            sound = SoundReader(self._sound_media.container, self._sound_media.audio)
        if self.request.pictures is not None and self._media.video is not None:
            rows = self._rows_of_pictures(self.request.pictures, sound)
        else:
            assert sound is not None
            rows = self._rows_of_sound(sound)
        try:
            for row in rows:
                self._count += 1
                yield row
        except MediaError as error:
            if repr(self.path) in error.message:
                raise
            raise MediaError(error.reason, f"{self.path!r}: {error.message}") from error

    def _check(self) -> None:
        has_sound = self._media.audio is not None
        if self.request.pictures is None and not has_sound:
            raise MediaError(errors.NO_AUDIO_STREAM, f"{self.path!r} has no sound")
        if self.request.pictures is not None and self._media.video is None and not (self.request.sound and has_sound):
            raise MediaError(errors.NO_VIDEO_STREAM, f"{self.path!r} has no video (cover art is none)")
        for stream in (self._media.video, self._media.audio):
            if stream is not None and is_encrypted(stream):
                raise MediaError(errors.ENCRYPTED, f"{self.path!r}: its {stream.type} is encrypted; decrypt it first")

    def _rows_of_pictures(self, picture_format: PictureFormat, sound: SoundReader | None) -> Iterator[MediaRow]:
        pictures = PictureReader(self._media, self.request.sampling, picture_format)
        for picture in pictures:
            patch = None
            if sound is not None and sound.start() is not None:
                if not self._count and self._media.seekable:
                    sound.skip_to(pictures.origin_seconds + picture.target_seconds)
                patch = sound.patch(pictures.origin_seconds + picture.target_seconds)
            self._max_error = max(self._max_error, abs(picture.actual_seconds - picture.target_seconds))
            yield MediaRow(picture.row, picture.target_seconds, picture.actual_seconds, picture.pixels, patch)
        seconds = pictures.seconds
        if not self._count:
            self._check_range(seconds)
        if not self._count and not self.request.sampling.part:
            raise self._nothing("picture", pictures.packets, self.facts.video)
        reason, message = self._loss(pictures, sound)
        self.outcome = Outcome(
            self._count, seconds, pictures.errors, pictures.substituted, self._max_error, reason, message
        )

    def _rows_of_sound(self, sound: SoundReader) -> Iterator[MediaRow]:
        origin = sound.start()
        if origin is None:
            raise self._nothing("sound", sound.errors, self.facts.audio)
        sampling = self.request.sampling
        if self._media.seekable:
            sound.skip_to(origin + sampling.start)
        for row in itertools.count():
            target = float(sampling.seconds(row))
            # The last patch may lack its second half; the first may be shorter, or short clips would have no row.
            least = PATCH_SECONDS / 2 if row else 0.0
            if row >= sampling.stop_row or not sound.reaches(origin + target + least):
                break
            if target > self.request.limits.max_seconds:
                raise MediaError(
                    errors.TOO_LARGE, f"{self.path!r} is longer than {self.request.limits.max_seconds:,.0f} s"
                )
            if sampling.has(row):
                yield MediaRow(row, target, None, None, sound.patch(origin + target))
        seconds = sound.end_time - origin
        if not self._count:
            self._check_range(seconds)
        promised = self.facts.audio.seconds_promised if self.facts.audio is not None else None
        reason, message = self._cut(promised or self._media.seconds_stated, max(seconds, sound.end_time))
        if reason is None and sound.errors:
            reason, message = errors.DAMAGED, _packets_of_sound(sound.errors)
        if reason is None and self.request.pictures is not None:
            reason, message = self._without_decoder("video")
        self.outcome = Outcome(self._count, seconds, sound.errors, 0, 0.0, reason, message)

    def _check_range(self, seconds: float) -> None:
        """Raises where a segment begins after the end."""
        start = self.request.sampling.start
        if start > seconds > 0:
            message = f"{self.path!r}: the segment starts at {start:g} s, but the presentation has {seconds:.2f} s"
            raise MediaError(errors.OUT_OF_RANGE, message)

    def _nothing(self, what: str, packets: int, facts: VideoFacts | AudioFacts | None) -> MediaError:
        if packets:
            return MediaError(errors.DAMAGED, f"{self.path!r}: not one {what} can be decoded")
        promised = facts.seconds_promised if facts is not None else None
        length = f" ({promised:.1f} s by its header)" if promised else ""
        return MediaError(errors.TRUNCATED, f"{self.path!r} has a header, but no {what} data{length}; copy it again")

    def _loss(self, pictures: PictureReader, sound: SoundReader | None) -> tuple[str | None, str | None]:
        """What is missing of what the header promises, and what could not be decoded."""
        video = self.facts.video
        promised = video.seconds_promised if video is not None else None
        # A header may count from the container's time 0 or from the first frame: only what neither explains is missing.
        reached = max(pictures.seconds, pictures.seconds + pictures.origin_seconds) if pictures.decoded else 0.0
        if promised is None and self._media.audio is None:
            promised = self.facts.seconds_promised
        elif promised is None and sound is not None and (promised := self._media.seconds_stated) is not None:
            # The header's length is that of the longer one.
            sound.reaches(promised - _loss_allowed(promised) - max(0.0, -pictures.origin_seconds))
            reached = max(reached, sound.end_time, sound.end_time - pictures.origin_seconds)
        reason, message = self._cut(promised, reached)
        if reason is None and pictures.errors:
            where = f"; {pictures.substituted} rows hold the nearest good frame" if pictures.substituted else ""
            reason, message = errors.DAMAGED, f"{pictures.errors} packets or frames could not be decoded{where}"
        if reason is None and sound is not None:
            if sound.errors:
                reason, message = errors.DAMAGED, _packets_of_sound(sound.errors)
            elif sound.ended and self.facts.audio is not None:
                heard = max(sound.end_time, sound.end_time - (sound.first_time or 0.0))
                reason, message = self._cut(self.facts.audio.seconds_promised, heard, " of sound")
        if reason is None and self.request.sound:
            reason, message = self._without_decoder("audio")
        return reason, message

    def _cut(self, promised: float | None, reached: float, what: str = "") -> tuple[str | None, str | None]:
        """Whether much of what a header promises is missing, where all of it was asked for."""
        sampling = self.request.sampling
        if promised is None or sampling.end is not None or sampling.max_seconds is not None:
            return None, None
        if promised - reached <= _loss_allowed(promised):
            return None, None
        return errors.TRUNCATED, f"{reached:.1f} of the {promised:.1f} s{what} in its header could be read"

    def _without_decoder(self, kind: str) -> tuple[str | None, str | None]:
        if kind not in self._media.undecodable:
            return None, None
        return errors.UNSUPPORTED_CODEC, f"there is no decoder for its {kind}, which is left out"


def _loss_allowed(promised: float) -> float:
    """Seconds by which headers are wrong without anything being lost."""
    return max(1.0, 0.02 * promised)


def _packets_of_sound(count: int) -> str:
    return f"{count} packets of sound could not be decoded"
