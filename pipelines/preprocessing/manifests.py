"""What a job stores about each shard, so that --resume processes unfinished shards only.

`manifests/<shard>.statistics` holds the statistics of its training records, `manifests/<shard>.manifest`, written last,
says that its outputs are complete and what they contain. Both begin with a line of JSON that names the input as it was
and the configuration: when either has changed, the shard is processed again.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipelines.preprocessing.config import Shard, TransformConfig
from pipelines.preprocessing.statistics import ShardMeter, arrays_from_bytes, arrays_to_bytes
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.listed_shards import MANIFEST_SUFFIX, MANIFESTS, first_line
from vcls_model.records.schema import RecordSchema
from vcls_model.records.splits import SPLITS

STATISTICS_SUFFIX = ".statistics"
MOST_LABELS_SHOWN = 64
# Pairs of labels that are collected, at least, before equal ones are added up.
_PAIRS_WAITING = 1 << 18
_SAMPLED = "sampled"
_IDS = "ids"
_READERS = 16


class PairCounts:
    """How often pairs of classes occur together; the code of a pair one < two of C classes is one * C + two."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, codes: np.ndarray, counts: np.ndarray) -> None:
        """Adds counts, int64 (N,) each."""
        self._parts.append((codes, counts))
        self._waiting += len(codes)
        # Adding up takes time in proportion to all pairs so far, so wait until their number has doubled.
        if self._waiting > max(_PAIRS_WAITING, len(self._parts[0][0])):
            self.arrays()

    def merge(self, other: "PairCounts") -> None:
        """Adds the counts of `other`."""
        self.add(*other.arrays())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(codes, ascending and each once; counts)."""
        if len(self._parts) != 1:
            codes = np.concatenate([part for part, _ in self._parts] or [np.zeros(0, np.int64)])
            counts = np.concatenate([part for _, part in self._parts] or [np.zeros(0, np.int64)])
            distinct, place = np.unique(codes, return_inverse=True)
            added = np.zeros(len(distinct), np.int64)
            np.add.at(added, place, counts)
            self._parts = [(distinct, added)]
            self._waiting = 0
        return self._parts[0]

    def count(self, code: int) -> int:
        """How often one pair occurs."""
        codes, counts = self.arrays()
        place = int(np.searchsorted(codes, code))
        return int(counts[place]) if place < len(codes) and codes[place] == code else 0

    def most_common(self, number: int) -> list[tuple[int, int]]:
        """(code, count) of the most frequent pairs; of equals, the lower code first."""
        codes, counts = self.arrays()
        order = np.argsort(-counts, kind="stable")[:number]
        return list(zip(codes[order].tolist(), counts[order].tolist(), strict=True))


@dataclasses.dataclass
class Summary:
    """Counts over one or more shards; they add up in any order.

    Attributes:
        shards, shards_empty, bytes_read, bytes_written: of the shards done.
        rejected: records by reason.
        notes: repairs by kind, see `RawBatch.notes`.
        missing: by raw modality, records written that lack it.
        written: records of each split, by `SPLITS`.
        class_counts: int64 (splits, C): records of each split that carry each class.
        label_counts: int64 (MOST_LABELS_SHOWN + 1,): videos by number of labels; the last counts all above.
        frame_counts: int64 (max_frames + 1,): videos by number of frames kept; empty for video-level data.
        pairs: videos that carry both of two classes.
        sampled: by transformed feature: values looked at, their sum and their sum of squares, (D,) each.
        content: the sum of `content_sum` over the shards; None where a shard was done before there was one.
        ids: of one shard, by split: hashes of the ids of its records, uint64, of segments those of their videos, each
            once. They do not add up: `count_repeated_ids` compares those of all shards. () where they are not known.
    """

    shards: int = 0
    shards_empty: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    rejected: Counter = dataclasses.field(default_factory=Counter)
    notes: Counter = dataclasses.field(default_factory=Counter)
    written: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(SPLITS), np.int64))
    class_counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((len(SPLITS), 0), np.int64))
    label_counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(MOST_LABELS_SHOWN + 1, np.int64))
    frame_counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: PairCounts = dataclasses.field(default_factory=PairCounts)
    sampled: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    content: int | None = 0
    ids: tuple[np.ndarray, ...] = ()
    missing: Counter = dataclasses.field(default_factory=Counter)

    @property
    def records_read(self) -> int:
        """Records in the input, usable or not."""
        return self.records_written + self.records_rejected

    @property
    def records_written(self) -> int:
        """Records in the transformed dataset."""
        return int(self.written.sum())

    @property
    def records_rejected(self) -> int:
        """Records in the dead letters."""
        return sum(self.rejected.values())

    def merge(self, other: "Summary") -> "Summary":
        """Adds `other` to this one and returns it."""
        self.shards += other.shards
        self.shards_empty += other.shards_empty
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        self.rejected.update(other.rejected)
        self.notes.update(other.notes)
        self.missing.update(other.missing)
        self.pairs.merge(other.pairs)
        self.written = self.written + other.written
        self.label_counts = self.label_counts + other.label_counts
        self.class_counts = _added(self.class_counts, other.class_counts)
        self.frame_counts = _added(self.frame_counts, other.frame_counts)
        for name, parts in other.sampled.items():
            mine = self.sampled.get(name)
            self.sampled[name] = [one + two for one, two in zip(mine, parts, strict=True)] if mine else list(parts)
        known = self.content is not None and other.content is not None
        self.content = (self.content + other.content) % (1 << 128) if known else None  # type: ignore[operator]
        return self

    def to_bytes(self) -> bytes:
        """A small file that `from_bytes` reads back exactly: a line of JSON, then arrays."""
        head = {
            "shards": self.shards,
            "shards_empty": self.shards_empty,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "rejected": dict(sorted(self.rejected.items())),
            "notes": dict(sorted(self.notes.items())),
            "missing": dict(sorted(self.missing.items())),
            "class_count": self.class_counts.shape[1],
            "content": None if self.content is None else f"{self.content:032x}",
        }
        used = np.flatnonzero(self.class_counts)  # few of the classes occur in one shard
        codes, counts = self.pairs.arrays()
        arrays = {
            "written": self.written,
            "classes": used,
            "class_counts": self.class_counts.reshape(-1)[used],
            "label_counts": self.label_counts,
            "frame_counts": self.frame_counts,
            "pairs": codes,
            "pair_counts": counts,
        }
        arrays.update({f"{_IDS}{split}": hashes for split, hashes in enumerate(self.ids)})
        for name, parts in self.sampled.items():
            arrays.update({f"{_SAMPLED}{place}/{name}": part for place, part in enumerate(parts)})
        return storage.to_json(head).encode() + b"\n" + arrays_to_bytes(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Summary":
        """Reads what `to_bytes` wrote.

        Raises:
            JobError, ValueError, KeyError: `data` is damaged.
        """
        line, _, body = data.partition(b"\n")
        head, arrays = storage.from_json(line, "the head of a manifest"), arrays_from_bytes(body)
        class_counts = np.zeros((len(SPLITS), head["class_count"]), np.int64)
        class_counts.reshape(-1)[arrays["classes"]] = arrays["class_counts"]
        sampled: dict[str, list[np.ndarray]] = {}
        for name, part in arrays.items():
            if name.startswith(_SAMPLED):
                sampled.setdefault(name.partition("/")[2], []).append(part)
        summary = cls(
            head["shards"],
            head["shards_empty"],
            head["bytes_read"],
            head["bytes_written"],
            Counter(head["rejected"]),
            Counter(head["notes"]),
            arrays["written"],
            class_counts,
            arrays["label_counts"],
            arrays["frame_counts"],
            sampled=sampled,
            content=int(head["content"], 16) if head.get("content") else None,
            missing=Counter(head.get("missing", {})),  # manifests of 0.1 have none
        )
        summary.pairs.add(arrays["pairs"], arrays["pair_counts"])
        return summary


def _ids(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """`Summary.ids`, which manifests of the first release lack."""
    return tuple(arrays[f"{_IDS}{split}"] for split in range(len(SPLITS)) if f"{_IDS}{split}" in arrays)


@dataclasses.dataclass(frozen=True)
class RepeatedIds:
    """The ids of all records, and which of them come more than once.

    Attributes:
        repeated: records whose id another record had before; of segments, videos that several shards hold.
        in_several_splits: ids that more than one split holds.
        by_split: hashes of the distinct ids of each split; None where a shard's are not known.
    """

    repeated: int
    in_several_splits: int
    by_split: tuple[np.ndarray, ...] | None


def count_repeated_ids(output: str, shards: Sequence[Shard]) -> RepeatedIds:
    """Compares the ids of all records, whose hashes the manifests of the finished shards hold: 8 bytes each.

    Shards that the first release finished do not count: their manifests hold no hashes.
    """

    def of_shard(shard: Shard) -> tuple[np.ndarray, ...]:
        return _ids(arrays_from_bytes(storage.read_bytes(manifest_path(output, shard)).split(b"\n", 2)[2]))

    none = np.zeros(0, np.uint64)
    # Threads, for the sake of object stores, where reading one of them is waiting for an answer.
    with ThreadPoolExecutor(_READERS) as readers:
        known = [ids for ids in readers.map(of_shard, shards) if ids]
    by_split = [np.concatenate([none, *parts]) for parts in zip(*known, strict=True)]
    distinct = [np.unique(hashes) for hashes in by_split]
    _, times = np.unique(np.concatenate([none, *distinct]), return_counts=True)
    return RepeatedIds(
        sum(map(len, by_split)) - len(times),
        int(np.count_nonzero(times > 1)),
        tuple(distinct) if len(known) == len(shards) else None,
    )


def _added(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    if not one.size or not two.size:
        return one if one.size else two
    return one + two


def statistics_path(output: str, shard: Shard) -> str:
    """Where the statistics of a shard are stored."""
    return storage.join(output, MANIFESTS, shard.name + STATISTICS_SUFFIX)


def manifest_path(output: str, shard: Shard) -> str:
    """Where the manifest of a finished shard is stored."""
    return storage.join(output, MANIFESTS, shard.name + MANIFEST_SUFFIX)


def dead_letter_path(output: str, shard: Shard) -> str:
    """Where the rejected records of a shard are listed; without any there is no file."""
    return storage.join(output, "dead_letter", f"{shard.name}.jsonl")


def _identity(shard: Shard, config: TransformConfig) -> dict[str, Any]:
    return {
        "input": shard.path,
        "size_bytes": shard.size_bytes,
        "modified_seconds": shard.modified_seconds,
        "split": shard.split,
        "config_hash": config.hash,
    }


def _is_about(head: Any, shard: Shard, identity: dict[str, Any]) -> bool:
    """Whether the first line of a stored file is about the input as it is now, and this configuration."""
    if not isinstance(head, dict) or any(head.get(key) != value for key, value in identity.items()):
        return False
    # Manifests of 0.1 hold no digest.
    return "digest" not in head or head["digest"] == storage.content_digest(shard.path)


def save_statistics(output: str, shard: Shard, config: TransformConfig, digest: str, meter: ShardMeter) -> None:
    """Stores the statistics of a shard: one line that identifies it, then the sums.

    Args:
        digest: the `storage.content_digest` of the input when it was read.
    """
    head = {**_identity(shard, config), "digest": digest, "records": meter.records}
    header = storage.to_json(head).encode() + b"\n"
    with storage.open_atomically(statistics_path(output, shard)) as stream:
        stream.write(header + meter.to_bytes())


def load_statistics(output: str, shard: Shard, config: TransformConfig, schema: RecordSchema) -> ShardMeter | None:
    """The stored statistics of a shard, or None without any for this input and configuration."""
    path = statistics_path(output, shard)
    if not storage.exists(path):
        return None
    header, _, data = storage.read_bytes(path).partition(b"\n")
    try:
        if not _is_about(storage.from_json(header, path), shard, _identity(shard, config)):
            return None
        return ShardMeter.from_bytes(data, schema, config.text)
    except (JobError, ValueError, KeyError):  # a damaged file, or one of another version, counts as none
        return None


def forget_if_changed(output: str, shard: Shard, config: TransformConfig) -> None:
    """Deletes what is stored about a shard unless it belongs to this input and configuration."""
    wanted = _identity(shard, config)
    for path in (statistics_path(output, shard), manifest_path(output, shard)):
        if not storage.exists(path):
            continue
        try:
            known = storage.from_json(storage.read_bytes(path).partition(b"\n")[0], path)
        except JobError:
            known = {}
        if not isinstance(known, dict) or any(known.get(key) != value for key, value in wanted.items()):
            storage.delete(path)


def count_records(output: str, name: str) -> tuple[int, int]:
    """(written, rejected) records of the finished shard that the manifest file `name` is about."""
    value = first_line(storage.join(output, MANIFESTS, name))
    return value["records_written"], value["records_rejected"]


def measured_records(output: str, shard: Shard) -> int | None:
    """Training records that the statistics of a shard count; None where they do not say, as those of 0.1."""
    path = statistics_path(output, shard)
    return first_line(path).get("records") if storage.exists(path) else None


def save_manifest(
    output: str,
    shard: Shard,
    config: TransformConfig,
    digest: str,
    statistics_hash: str,
    sizes: dict[str, int],
    summary: Summary,
) -> None:
    """Records that a shard is done: a line that says of what, with which result, then the whole summary.

    Args:
        digest: the `storage.content_digest` of the input when it was read.
        sizes: bytes of each file written, by path below `output`.
    """
    head = {
        **_identity(shard, config),
        "digest": digest,
        "statistics_hash": statistics_hash,
        "outputs": sizes,
        "records": {name: int(summary.written[SPLITS.index(name.partition("/")[0])]) for name in sizes},
        "records_written": summary.records_written,
        "records_rejected": summary.records_rejected,
    }
    with storage.open_atomically(manifest_path(output, shard)) as stream:
        stream.write(storage.to_json(head).encode() + b"\n" + summary.to_bytes())


def load_manifest(output: str, shard: Shard, config: TransformConfig, statistics_hash: str) -> Summary | None:
    """What a finished shard contains, or None when it must be done (again)."""
    path = manifest_path(output, shard)
    if not storage.exists(path):
        return None
    try:
        head, _, rest = storage.read_bytes(path).partition(b"\n")
        value = storage.from_json(head, path)
        if not _is_about(value, shard, {**_identity(shard, config), "statistics_hash": statistics_hash}):
            return None
        if any(storage.size_of(storage.join(output, name)) != size for name, size in value["outputs"].items()):
            return None
        return Summary.from_bytes(rest)
    # A damaged file, or one of another version, counts as none.
    except (JobError, ValueError, KeyError, TypeError, AttributeError):
        return None
