"""The shards of a transformed dataset: those that the manifests of `pipelines.preprocess` list, and no others."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.splits import SPLITS
from vcls_model.states import ShardManifest, checked

MANIFESTS, MANIFEST_SUFFIX = "manifests", ".manifest"
_AGAIN = "preprocess again with --overwrite"
_READERS = 16


@dataclasses.dataclass(frozen=True)
class ListedShard:
    """A TFRecord file of a transformed dataset.

    Attributes:
        path: its path.
        size_bytes: as its manifest lists it; None where the dataset came without manifests.
        records: number of its records; None where nothing says so, as in datasets of 0.1.
    """

    path: str
    size_bytes: int | None = None
    records: int | None = None


def first_line(path: str) -> Any:
    """The JSON that a manifest, or a file of statistics, begins with."""
    with storage.open_for_reading(path) as stream:
        head = io.BufferedReader(stream).readline() if isinstance(stream, io.RawIOBase) else stream.readline()
    return storage.from_json(head, path)


def read_manifests(directory: str) -> list[ShardManifest]:
    """What the manifests of a dataset begin with, in the order of their names; [] where there are none.

    Raises:
        JobError: one is damaged; the message names it.
    """
    names = storage.list_names(storage.join(directory, MANIFESTS), MANIFEST_SUFFIX)

    def read(name: str) -> ShardManifest:
        path = storage.join(directory, MANIFESTS, name)
        return checked(first_line(path), path, ShardManifest)

    # Threads, for the sake of object stores, where reading one of them is waiting for an answer.
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, names))


def compare_counts(directory: str, manifests: Sequence[ShardManifest], records: Mapping[str, int]) -> None:
    """Compares what the manifests count with `records`, what `info.json` beside them does, by split.

    Raises:
        JobError: they differ.
    """
    if not manifests:
        return
    listed: dict[str, int] = dict.fromkeys(SPLITS, 0)
    for manifest in manifests:
        for name, count in manifest.get("records", {}).items():
            split = name.partition("/")[0]
            listed[split] = listed.get(split, 0) + count
    counts = [(f"{split} videos", listed[split], records.get(split, 0)) for split in SPLITS]
    if any("records" not in manifest for manifest in manifests):
        counts = [("videos", sum(manifest["records_written"] for manifest in manifests), sum(records.values()))]
    for what, one, other in counts:
        if one != other:
            raise JobError(
                f"{storage.join(directory, MANIFESTS)} lists {one:,} {what}, info.json beside it counts {other:,}: "
                f"files of two runs, or a manifest is missing; {_AGAIN}"
            )


def shards_of_split(
    directory: str, split: str, manifests: Sequence[ShardManifest], count: int | None
) -> list[ListedShard]:
    """The files of a split, by name.

    Args:
        directory: of the dataset.
        split: which split.
        manifests: those of the dataset; without any, the files are those that have the usual names.
        count: how many files `info.json` counts; None where it does not know the split.

    Raises:
        JobError: one of them is missing or has another size, or there are others: files of another run, perhaps.
    """
    below = storage.join(directory, split)
    present = storage.list_sizes(below, ".tfrecord")
    if count is None:
        return [ListedShard(storage.join(below, name)) for name in present]
    if manifests:
        listed = {
            name.partition("/")[2]: ListedShard(
                storage.join(directory, name), size, manifest.get("records", {}).get(name)
            )
            for manifest in manifests
            for name, size in manifest["outputs"].items()
            if name.partition("/")[0] == split
        }
    else:
        # No more of them are named than can tell what is missing: `count` may be anything.
        names = [f"{split}-{index:05d}-of-{count:05d}.tfrecord" for index in range(min(count, len(present) + 1))]
        listed = {name: ListedShard(storage.join(below, name)) for name in names}
    if listed.keys() != present.keys() or len(listed) != count:
        _refuse_other_files(below, count, listed, present)
    for name, shard in listed.items():
        if shard.size_bytes not in (None, present[name]):
            raise JobError(
                f"{shard.path} has {present[name]:,} bytes, its manifest says {shard.size_bytes:,}: it was changed, or "
                f"not copied whole; copy it again, or {_AGAIN}"
            )
    return [listed[name] for name in sorted(listed)]


def _refuse_other_files(
    below: str, count: int, listed: Mapping[str, ListedShard], present: Mapping[str, int]
) -> NoReturn:
    missing, others = sorted(listed.keys() - present.keys()), sorted(present.keys() - listed.keys())
    if missing:
        which = f"{missing[0]} is missing"
    elif others:
        which = f"{others[0]} is none of them"
    else:
        which = f"of which the manifests list {len(listed)}"
    raise JobError(
        f"{below} does not hold the {count:,} shards that preprocess finished, but {len(present)} ({which}): {_AGAIN}"
    )
