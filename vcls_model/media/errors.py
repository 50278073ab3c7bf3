"""Why a media file yields no rows, or fewer than it promises: a reason for counters and a sentence for people."""

NOT_FOUND = "not_found"
UNREADABLE = "unreadable"
EMPTY = "empty"
UNKNOWN_FORMAT = "unknown_format"
UNSUPPORTED_CODEC = "unsupported_codec"
NO_VIDEO_STREAM = "no_video_stream"
NO_AUDIO_STREAM = "no_audio_stream"
ENCRYPTED = "encrypted"
TRUNCATED = "truncated"
DAMAGED = "damaged"
TOO_LARGE = "too_large"
FORBIDDEN_PROTOCOL = "forbidden_protocol"
OUT_OF_RANGE = "out_of_range"
DEADLINE = "deadline"
MEMORY = "memory"
CRASHED = "crashed"

REASONS = frozenset(
    {
        NOT_FOUND,
        UNREADABLE,
        EMPTY,
        UNKNOWN_FORMAT,
        UNSUPPORTED_CODEC,
        NO_VIDEO_STREAM,
        NO_AUDIO_STREAM,
        ENCRYPTED,
        TRUNCATED,
        DAMAGED,
        TOO_LARGE,
        FORBIDDEN_PROTOCOL,
        OUT_OF_RANGE,
        DEADLINE,
        MEMORY,
        CRASHED,
    }
)


class MediaError(Exception):
    """A media file cannot be read, or no further.

    Attributes:
        reason: one of `REASONS`, stable, for counters and dead letters.
        message: one sentence that says what is wrong and, where something can be done, what.
    """

    def __init__(self, reason: str, message: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r} (known: {', '.join(sorted(REASONS))})")
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
