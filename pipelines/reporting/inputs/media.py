"""Where the media files of scored videos lie, and what a model says of single ones over time."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.media.suffixes import SOUND_SUFFIXES, VIDEO_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What a model says of one video over time.

    Attributes:
        video_id: as scored.
        seconds: float64 (T,), the moments.
        class_indices: K classes, those with the highest mean first.
        probabilities: float32 (T, K).
        pictures: square, uint8 RGB, evenly over the time; none where it has no pictures.
    """

    video_id: str
    seconds: np.ndarray
    class_indices: tuple[int, ...]
    probabilities: np.ndarray
    pictures: Sequence[np.ndarray]


class MediaFiles:
    """Media files by the ids of their videos: the file's name without its suffix, or with its folder before it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: dict[str, str] = {}
        for path in paths:
            folder, _, name = path.replace("\\", "/").rpartition("/")
            stem = name.rpartition(".")[0] or name
            self._paths.setdefault(stem, path)
            self._paths.setdefault(f"{folder.rpartition('/')[2]}/{stem}", path)

    def video_ids(self) -> list[str]:
        """The ids of all files, as `pipelines.score` gives them."""
        return [video_id for video_id in self._paths if "/" not in video_id]

    def find(self, video_id: str) -> tuple[str, float] | None:
        """The file of a video, and where its segment begins in seconds (an id such as `name:12.5`); None: unknown."""
        if (path := self._named(video_id)) is not None:
            return path, 0.0
        name, _, start = video_id.rpartition(":")
        try:
            seconds = float(start)
        except ValueError:
            return None
        path = self._named(name)
        return None if path is None or not seconds >= 0 else (path, seconds)

    def _named(self, name: str) -> str | None:
        """The file of that name; the last two parts of a longer path, or the last, may name it."""
        parts = name.split("/")
        for count in (2, 1):
            if (path := self._paths.get("/".join(parts[-count:]))) is not None:
                return path
        return None


def scored_media(pattern: str | None, flags: dict[str, object]) -> MediaFiles | None:
    """The media files that a user names, or else those that were scored directly and still are where they were.

    Raises:
        UsageError: the pattern matches nothing.
    """
    if pattern:
        return MediaFiles([path for path, _, _ in storage.list_files(pattern)])
    scored = str(flags.get("input") or "")
    if not scored.lower().endswith(VIDEO_SUFFIXES + SOUND_SUFFIXES):
        return None
    try:
        return MediaFiles([path for path, _, _ in storage.list_files(scored)])
    except UsageError:  # they are gone, or this is another directory than they were scored from
        return None
