"""What a job stores of each file and each shard, so that --resume does only what is missing.

`state/parts/<shard>.<n>` is one finished file: a line of JSON (what it was made of, and how that ended), then the
framed record, if there is one. When all files of a shard are finished, their records become the shard, and
`state/<shard>.json`, written last, says that it is complete; then the parts go.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.extracting.config import ExtractConfig, MediaFile, MediaShard
from pipelines.running.outputs import DEAD_LETTER
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.decoding import Rejected

STATE, PARTS = "state", "parts"
INCOMPLETE = "incomplete"
SUFFIX = ".json"


@dataclasses.dataclass(frozen=True)
class Part:
    """How one file ended.

    Attributes:
        record: the framed record; empty where the file was rejected.
        rows, seconds: read of it.
        reason, message: of a rejection, or of what is missing in the record; None where nothing is.
        notes: counts of what was wrong with the captions.
    """

    record: bytes
    rows: int = 0
    seconds: float = 0.0
    reason: str | None = None
    message: str | None = None
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_bytes(self, identity: list[Any]) -> bytes:
        """The content of a part file."""
        head = {key: value for key, value in vars(self).items() if key != "record"}
        return storage.to_json({"of": identity, "bytes": len(self.record), **head}).encode() + b"\n" + self.record

    @classmethod
    def from_bytes(cls, data: bytes, identity: list[Any]) -> "Part | None":
        """Reads what `to_bytes` wrote; None when it is damaged or of something else."""
        line, _, record = data.partition(b"\n")
        try:
            head = storage.from_json(line, "a part")
        except JobError:
            return None
        if not isinstance(head, dict) or head.pop("of", None) != identity or head.pop("bytes", None) != len(record):
            return None
        try:
            return cls(record, **head)
        except TypeError:  # of another version
            return None


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a shard contains.

    Attributes:
        records_written, rows, seconds, bytes: of its records.
        rejected: files by reason.
        incomplete: records by what is missing in them.
        notes: what was wrong with captions, in how many places.
    """

    records_written: int
    rows: int
    seconds: float
    bytes: int
    rejected: dict[str, int]
    incomplete: dict[str, int]
    notes: dict[str, int] = dataclasses.field(default_factory=dict)


def part_path(config: ExtractConfig, shard: MediaShard, place: int) -> str:
    """Where the part of a shard's file number `place` is stored."""
    return storage.join(config.output, STATE, PARTS, f"{shard.name}.{place:04d}")


def part_identity(config: ExtractConfig, file: MediaFile) -> list[Any]:
    """What a part was made of: it is done again when that has changed."""
    as_tuple = [config.hash, *file.identity()]
    return storage.from_json(storage.to_json(as_tuple), "the identity of a part")  # type: ignore[no-any-return]


def load_part(config: ExtractConfig, shard: MediaShard, place: int) -> Part | None:
    """A finished file, or None when it is to be done."""
    path = part_path(config, shard, place)
    if not storage.exists(path):
        return None
    return Part.from_bytes(storage.read_bytes(path), part_identity(config, shard.files[place]))


def save_part(config: ExtractConfig, shard: MediaShard, place: int, part: Part) -> None:
    """Stores a finished file."""
    data = part.to_bytes(part_identity(config, shard.files[place]))
    with storage.open_atomically(part_path(config, shard, place)) as stream:
        stream.write(data)


def shard_path(config: ExtractConfig, shard: MediaShard) -> str:
    """The records of a shard."""
    return storage.join(config.output, f"{shard.name}.tfrecord")


def _manifest_path(config: ExtractConfig, shard: MediaShard) -> str:
    return storage.join(config.output, STATE, shard.name + SUFFIX)


def assemble(config: ExtractConfig, shard: MediaShard) -> ShardSummary:
    """Writes a shard of the parts of its files, its dead letters and its manifest, and deletes the parts.

    Raises:
        RuntimeError: a part is missing.
    """
    rejected, incomplete, notes = Counter[str](), Counter[str](), Counter[str]()
    letters = {DEAD_LETTER: b"", INCOMPLETE: b""}
    rows, seconds, written, size = 0, 0.0, 0, 0
    with storage.open_atomically(shard_path(config, shard)) as stream:
        for place, file in enumerate(shard.files):
            part = load_part(config, shard, place)
            if part is None:
                raise RuntimeError(f"{part_path(config, shard, place)} is missing")
            if part.reason is not None:
                counts, folder = (incomplete, INCOMPLETE) if part.record else (rejected, DEAD_LETTER)
                counts[part.reason] += 1
                letter = Rejected(file.path, 0, file.id, "media", part.reason, part.message or "")
                letters[folder] += letter.to_json()
            notes.update(part.notes)
            if part.record:
                stream.write(part.record)
                written += 1
                rows += part.rows
                seconds += part.seconds
                size += len(part.record)
    for folder, text in letters.items():
        path = storage.join(config.output, folder, f"{shard.name}.jsonl")
        if text:
            storage.write_atomically(path, text)
        else:
            storage.delete(path)
    summary = ShardSummary(
        written,
        rows,
        round(seconds, 3),
        size,
        dict(sorted(rejected.items())),
        dict(sorted(incomplete.items())),
        dict(sorted(notes.items())),
    )
    manifest = {"of": shard.digest, "config_hash": config.hash, **dataclasses.asdict(summary)}
    storage.write_json(_manifest_path(config, shard), manifest)
    for place in range(len(shard.files)):
        storage.delete(part_path(config, shard, place))
    return summary


def load_summary(config: ExtractConfig, shard: MediaShard) -> ShardSummary | None:
    """What a finished shard contains, or None when it is to be done."""
    path = _manifest_path(config, shard)
    if not storage.exists(path):
        return None
    try:
        manifest = storage.read_json(path)
        if manifest.pop("of") != shard.digest or manifest.pop("config_hash") != config.hash:
            return None
        summary = ShardSummary(**manifest)
    except (JobError, ValueError, KeyError, TypeError, AttributeError):  # a damaged file is the same as none
        return None
    return summary if storage.size_of(shard_path(config, shard)) == summary.bytes else None
