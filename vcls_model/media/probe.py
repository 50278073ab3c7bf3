"""Opens a media file safely and says what it holds: the streams that a player would show, and their facts.

FFmpeg would follow a playlist to any address it names, guess a protocol from a file name, and probe for as long as the
file likes. Here only containers of audio and video are opened, by named protocols, within bounds.
"""

import os
import re
import stat
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.stream import Discard

from vcls_model.media import errors
from vcls_model.media.containers import begins_like_media, is_cut
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import AudioFacts, Limits, MediaFacts, VideoFacts
from vcls_model.storage import open_for_reading

_GUESS_ERROR = 0.02
_ANY_PIXELS = (1 << 31) - 1
_NETWORK_SECONDS = 20.0  # of silence after which an address is given up
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
_ATTACHED_PICTURE, _TIMED_THUMBNAILS = 0x400, 0x800
_ENCRYPTED_TAGS = ("encv", "enca", "drmi", "drms")


_INDEXED = frozenset({"mp4", "matroska"})
# Containers whose header states their length: of others FFmpeg guesses it, or reads it from the last timestamps.
_STATED = frozenset({"asf", "avi", "flv", "mp4", "matroska", "nut", "rm"})


@dataclass
class OpenMedia:
    """An open container with its chosen streams; a context manager that closes it.

    `undecodable` names the kinds, `audio` and `video`, that it has but that no decoder here reads.
    """

    path: str
    limits: Limits
    container: Any
    video: Any | None
    audio: Any | None
    facts: MediaFacts
    undecodable: tuple[str, ...] = ()

    @property
    def seekable(self) -> bool:
        """Whether the container has an index by which a moment is found, and times that only go forward."""
        return bool(_INDEXED & set(self.facts.container.split(",")))

    @property
    def seconds_stated(self) -> float | None:
        """The length in the container's header, if it has one."""
        return self.facts.seconds_promised if _STATED & set(self.facts.container.split(",")) else None

    def reopen(self) -> None:
        """Starts again at the beginning, with a new container; raises `MediaError`."""
        self.container.close()
        again = open_media(self.path, self.limits)
        self.container, self.video, self.audio = again.container, again.video, again.audio

    def __enter__(self) -> "OpenMedia":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()


def probe(path: str, limits: Limits | None = None) -> MediaFacts:
    """The facts of a media file, from its header and first packets; raises `MediaError`."""
    with open_media(path, limits) as media:
        return media.facts


def open_media(path: str, limits: Limits | None = None) -> OpenMedia:
    """Opens a media file and chooses its streams.

    Args:
        path: a local file, whatever its name (leading dashes, newlines, any script, bytes that are not UTF-8), or an
            address whose scheme is among `limits.protocols`.
        limits: bounds, by default `Limits()`.

    Raises:
        MediaError: not_found, unreadable, empty, forbidden_protocol, unknown_format, truncated, too_large,
            unsupported_codec, or no_video_stream where there is neither video nor audio.
    """
    limits = limits or Limits()
    address = _address(path, limits)
    try:
        container = _open(address, limits)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise _unopened(path, error) from error
    except (OSError, ValueError) as error:
        raise MediaError(errors.UNREADABLE, f"{path!r} cannot be opened: {error}") from error
    try:
        media = _choose(container, path, limits)
        if media.facts.video is not None and not media.facts.video.width:
            _check_hidden_size(address, path, limits, media.facts.video.index)
        return media
    except BaseException:
        container.close()
        raise


def _open(address: str, limits: Limits, **options: str) -> Any:
    bounds = {
        "protocol_whitelist": ",".join(limits.protocols),
        "format_whitelist": limits.containers,
        "max_streams": str(4 * limits.max_streams),  # FFmpeg calls more than that a lack of memory
        "max_pixels": str(limits.max_pixels),
    }
    # By its contents alone, FFmpeg takes a stream of JPEG pictures for one picture.
    raw_jpeg = address.startswith("file:") and address.lower().endswith((".mjpeg", ".mjpg"))
    return av.open(
        address,
        format="mjpeg" if raw_jpeg else None,
        metadata_errors="replace",
        timeout=None if address.startswith("file:") else _NETWORK_SECONDS,
        options=bounds | options,
    )


def _check_hidden_size(address: str, path: str, limits: Limits, index: int) -> None:
    """Raises too_large where a stream has no size because FFmpeg refused it; nothing is decoded to find out."""
    try:
        with _open(address, limits, max_pixels=str(_ANY_PIXELS), skip_frame="all") as container:
            stream = container.streams[index]
            _check_pixels(path, stream.width, stream.height, limits)
    except av.error.FFmpegError:
        return  # what is wrong with it shows when it is read


def _check_pixels(path: str, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        message = f"{path!r}: {width} x {height} pixels are more than {limits.max_pixels:,}"
        raise MediaError(errors.TOO_LARGE, message)


def _address(path: str, limits: Limits) -> str:
    """What FFmpeg opens: a local file by `file:` and its absolute path, so that no name is taken for a protocol."""
    scheme = _SCHEME.match(path)
    if scheme and not os.path.exists(path):
        if scheme.group(1).lower() not in limits.protocols:
            allowed = ", ".join(limits.protocols)
            raise MediaError(errors.FORBIDDEN_PROTOCOL, f"{path!r}: protocol {scheme.group(1)} is not among {allowed}")
        return path
    try:
        status = os.stat(path)
        mode = status.st_mode
        readable = os.access(path, os.R_OK)
    except ValueError as error:
        raise MediaError(errors.NOT_FOUND, f"{path!r} is not a file name: {error}") from error
    except OSError as error:
        reason = errors.NOT_FOUND if isinstance(error, FileNotFoundError | NotADirectoryError) else errors.UNREADABLE
        raise MediaError(reason, f"{path!r}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise MediaError(errors.UNREADABLE, f"{path!r} is not a regular file")
    if not readable:
        raise MediaError(errors.UNREADABLE, f"there is no permission to read {path!r}")
    if not status.st_size:
        raise MediaError(errors.EMPTY, f"{path!r} has 0 bytes")
    return "file:" + os.path.abspath(path)


def _unopened(path: str, error: Exception) -> MediaError:
    """Why FFmpeg would not open an address, or an existing file, judged by how the file begins."""
    if not os.path.exists(path):
        return MediaError(errors.UNREADABLE, f"{path!r} cannot be opened: {error}")
    try:
        with open_for_reading(path) as file:
            head = file.read(4096)
    except OSError:
        return MediaError(errors.UNREADABLE, f"{path!r} cannot be opened: {error}")
    if begins_like_media(head):
        message = f"{path!r} begins like a media file, but its header is incomplete or damaged; copy or record it again"
        return MediaError(errors.TRUNCATED, message)
    return MediaError(errors.UNKNOWN_FORMAT, f"{path!r} is not audio or video in a known container")


def _choose(container: Any, path: str, limits: Limits) -> OpenMedia:
    """Checks bounds, picks the default streams and closes the tap of all others."""
    if len(container.streams) > limits.max_streams:
        raise MediaError(
            errors.TOO_LARGE, f"{path!r} has {len(container.streams)} streams, more than {limits.max_streams}"
        )
    video = _default_video(container)
    audio = _best(container, "audio", video)
    if audio is not None and audio.codec_context is None:
        audio = None
    undecodable = _undecodable(container)
    if video is None and audio is None:
        if is_cut(path):
            raise MediaError(errors.TRUNCATED, f"{path!r} breaks off in its header; copy or record it again")
        if undecodable:
            raise MediaError(
                errors.UNSUPPORTED_CODEC, f"{path!r}: there is no decoder for its {' and '.join(undecodable)}"
            )
        raise MediaError(errors.NO_VIDEO_STREAM, f"{path!r} holds neither video nor audio")
    for stream in container.streams:
        if stream is not video and stream is not audio:
            stream.discard = Discard.all
    facts = MediaFacts(
        container=container.format.name,
        seconds_promised=container.duration / av.time_base if container.duration and container.duration > 0 else None,
        video=_video_facts(video, path, limits) if video is not None else None,
        audio=_audio_facts(audio, path) if audio is not None else None,
    )
    return OpenMedia(path, limits, container, video, audio, facts, undecodable)


def _undecodable(container: Any) -> tuple[str, ...]:
    """`audio` and `video` where there is no decoder for any stream of the kind; cover art does not count."""
    kinds: dict[str, bool] = {}
    for stream in container.streams:
        if stream.type in ("video", "audio") and not _is_picture_attached(stream):
            kinds[stream.type] = kinds.get(stream.type, True) and stream.codec_context is None
    return tuple(sorted(kind for kind, all_of_it in kinds.items() if all_of_it))


def _is_picture_attached(stream: Any) -> bool:
    """Whether a video stream is cover art or thumbnails, which players do not play."""
    return stream.type == "video" and bool(int(stream.disposition) & (_ATTACHED_PICTURE | _TIMED_THUMBNAILS))


def _best(container: Any, kind: str, related: Any | None) -> Any | None:
    """The stream that FFmpeg's players choose (default disposition, then frames and bit rate)."""
    return container.streams.best(kind, related=related) if related is not None else container.streams.best(kind)


def _default_video(container: Any) -> Any | None:
    candidates = [
        stream
        for stream in container.streams.video
        if not _is_picture_attached(stream) and stream.codec_context is not None
    ]
    best = _best(container, "video", None)
    if best in candidates:
        return best
    # The best by FFmpeg's own rule is cover art or has no decoder: the largest default stream of the rest.
    return max(candidates, key=lambda s: (int(s.disposition) & 1, s.width * s.height, -s.index), default=None)


def _seconds(stream: Any) -> float | None:
    if not stream.duration or stream.duration < 0 or not stream.time_base:
        return None
    return float(stream.duration * stream.time_base)


def _video_facts(stream: Any, path: str, limits: Limits) -> VideoFacts:
    _check_pixels(path, stream.width, stream.height, limits)
    if stream.frames > limits.max_frames:
        message = f"{path!r}: its header promises {stream.frames:,} frames, more than {limits.max_frames:,}"
        raise MediaError(errors.TOO_LARGE, message)
    ratio = stream.sample_aspect_ratio
    pixel_format = stream.codec_context.format
    return VideoFacts(
        index=stream.index,
        codec=stream.codec_context.name,
        pixel_format=pixel_format.name if pixel_format else None,
        width=stream.width,
        height=stream.height,
        sample_aspect_ratio=Fraction(ratio) if ratio and ratio > 0 else Fraction(1),
        frame_rate=stream.average_rate or stream.guessed_rate or None,
        frames_promised=stream.frames,
        seconds_promised=_seconds(stream),
    )


def _audio_facts(stream: Any, path: str) -> AudioFacts:
    context, seconds = stream.codec_context, _seconds(stream)
    if seconds is not None and stream.bit_rate and os.path.isfile(path):
        guess = 8 * os.path.getsize(path) / stream.bit_rate
        seconds = None if abs(seconds - guess) < _GUESS_ERROR * guess else seconds
    return AudioFacts(stream.index, context.name, context.sample_rate, context.channels, seconds)


def is_encrypted(stream: Any) -> bool:
    """Whether a stream's header declares its samples encrypted: FFmpeg would decode noise from them, or nothing."""
    tag = stream.codec_context.codec_tag if stream.codec_context else ""
    return str(tag).lower() in _ENCRYPTED_TAGS or "enc_key_id" in stream.metadata
