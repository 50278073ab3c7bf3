"""What an extract job is asked to do."""

import dataclasses
import functools
import hashlib
from typing import Any

from vcls_model import storage
from vcls_model.embedding import EmbeddingConfig
from vcls_model.records.vocabulary import ClassInfo

# Raised when the bytes that a given configuration writes change, so that --resume does not mix old and new shards.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """One record to make: a file, or a segment of it.

    Attributes:
        path: absolute, or an object store's address.
        size_bytes, modified_seconds: how it looked when the job began; -1 and 0 where it does not exist.
        id: of the video, as the record will have it.
        labels: class indices, ascending; None where they are not known.
        context: (name, text) of further features.
        start, end: the segment in seconds after the first moment; None for `end` means up to the file's own.
        captions: (path, bytes, time of the last change) of its captions, if records hold them; -1 bytes: not there.
    """

    path: str
    size_bytes: int
    modified_seconds: float
    id: str
    labels: tuple[int, ...] | None = None
    context: tuple[tuple[str, str], ...] = ()
    start: float = 0.0
    end: float | None = None
    captions: tuple[str, int, float] | None = None

    def identity(self) -> tuple[Any, ...]:
        """All of it; without captions as it was before there were any."""
        fields = dataclasses.astuple(self)
        return fields if self.captions is not None else fields[:-1]


@dataclasses.dataclass(frozen=True)
class MediaShard:
    """Some consecutive files whose records one shard holds.

    Attributes:
        index, count: its place among the shards.
        files: in the order of its records.
    """

    index: int
    count: int
    files: tuple[MediaFile, ...]

    @property
    def name(self) -> str:
        """`records-00012-of-00100`."""
        return f"records-{self.index:05d}-of-{self.count:05d}"

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the files, as they looked when the job began."""
        text = storage.to_json([file.identity() for file in self.files])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """A job as the command line describes it.

    Attributes:
        output: directory to write to; absolute, or an object store's address.
        shards: what each is made of.
        embedding: how files become features.
        classes: by index; empty where no file has labels.
        labels: path of the CSV, `folders` or None.
        vocabulary: path of the CSV that lists the classes, or None.
        max_rejected_fraction: in [0, 1], of the files; more rejected ones fail the job.
        flags: the command line, for `info.json`.
        resume, overwrite: continue, or delete, what is in `output`.
    """

    output: str
    shards: tuple[MediaShard, ...]
    embedding: EmbeddingConfig
    classes: tuple[ClassInfo, ...]
    labels: str | None
    vocabulary: str | None
    max_rejected_fraction: float
    flags: dict[str, Any]
    resume: bool = False
    overwrite: bool = False

    @property
    def file_count(self) -> int:
        """Records to make."""
        return sum(len(shard.files) for shard in self.shards)

    def settings(self) -> dict[str, Any]:
        """What must be equal for two runs to write to the same output, JSON-able; files may change, and are redone."""
        inputs = [[file.path, file.id, file.labels, file.context, file.start, file.end] for file in self._files()]
        return {
            "format": FORMAT_VERSION,
            "input": hashlib.sha256(storage.to_json(inputs).encode()).hexdigest(),
            "files": len(inputs),
            "shards": len(self.shards),
            "schema": self.embedding.schema(len(self.classes) or None).to_dict(),
            "classes": hashlib.sha256(storage.to_json([info.name for info in self.classes]).encode()).hexdigest(),
        }

    def _files(self) -> list[MediaFile]:
        return [file for shard in self.shards for file in shard.files]

    @functools.cached_property
    def hash(self) -> str:
        """Identifies what a file is made into: stored parts made with another configuration are not reused."""
        settings = {"format": FORMAT_VERSION, "schema": self.embedding.schema().to_dict()}
        return hashlib.sha256(storage.to_json(settings, sort_keys=True).encode()).hexdigest()[:16]
