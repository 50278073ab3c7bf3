"""What there is to score: shards, the groups in which they are scored and committed, and what earlier runs have done.

A *group* is the unit of commitment: some shards whose metric aggregate is stored as one file (an aggregate of a single
small shard would cost more to store than to compute). Aggregates add exactly, so how shards are grouped never shows in
the result. A group is done when its manifest, written last, is there.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.scoring.config import ScoringConfig
from vcls_model import storage
from vcls_model.commands import UsageError

STATE = "state"
SETTINGS = "settings.json"
MANIFEST_SUFFIX = ".manifest.json"
# Some 100,000 video-level or 15,000 frame-level records: under a minute of work to lose, and long enough for the half
# second that storing an aggregate takes not to show.
VIDEO_GROUP_BYTES = 512 << 20
FRAME_GROUP_BYTES = 4 << 30
# Below this there is no point in dividing the work.
SMALL_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """One input file: where it is and how long it is, in bytes."""

    path: str
    size_bytes: int

    @property
    def name(self) -> str:
        """Name of its outputs: its base name and a few digits that tell equal base names in two folders apart."""
        base = self.path.rsplit("/", 1)[-1].removesuffix(".tfrecord")
        return f"{base}-{hashlib.sha256(self.path.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True)
class Group:
    """Shards that one worker scores in order and commits together."""

    name: str
    shards: tuple[Shard, ...]


def list_shards(pattern: str) -> list[Shard]:
    """The shards that a glob (or comma-separated globs) matches, sorted by path; local paths are made absolute.

    Raises:
        UsageError: nothing matches.
    """
    return [Shard(storage.absolute(path), size) for path, size, _ in storage.list_files(pattern)]


def plan_groups(shards: Sequence[Shard], *, workers: int, group_bytes: int) -> list[Group]:
    """Divides `shards` into groups of consecutive ones.

    There are at least as many groups as workers, where there is work for them, and none is much above `group_bytes`
    unless a single shard is.
    """
    total = sum(shard.size_bytes + 1 for shard in shards)  # + 1: an empty file is work too
    if total > SMALL_BYTES:
        count = -(-total // group_bytes)
        count = -(-count // workers) * workers
    else:
        count = 1
    groups: list[Group] = []
    current: list[Shard] = []
    taken = 0
    for shard in shards:
        current.append(shard)
        taken += shard.size_bytes + 1
        if taken * count >= total * (len(groups) + 1):
            groups.append(_group(current))
            current = []
    if current:
        groups.append(_group(current))
    return groups


def _group(shards: Iterable[Shard]) -> Group:
    shards = tuple(shards)
    text = "\n".join(f"{shard.path} {shard.size_bytes}" for shard in shards)
    return Group(hashlib.sha256(text.encode()).hexdigest()[:16], shards)


def manifest_path(output: str, group: str) -> str:
    """The file whose presence says that a group is done."""
    return storage.join(output, STATE, group + MANIFEST_SUFFIX)


def read_manifests(output: str) -> list[dict[str, Any]]:
    """The manifests of all groups that are done, in the order of their names."""
    directory = storage.join(output, STATE)
    return [storage.read_json(storage.join(directory, name)) for name in storage.list_names(directory, MANIFEST_SUFFIX)]


def remaining_shards(shards: Sequence[Shard], manifests: Sequence[dict[str, Any]]) -> list[Shard]:
    """The shards that no manifest lists.

    Raises:
        UsageError: a shard has another size than when it was scored; its old share cannot be taken out of the metrics.
    """
    done = {entry["path"]: entry["size_bytes"] for manifest in manifests for entry in manifest["shards"]}
    for shard in shards:
        if shard.path in done and done[shard.path] != shard.size_bytes:
            raise UsageError(
                f"{shard.path} has {shard.size_bytes} bytes but had {done[shard.path]} when it was "
                "scored: score everything again with --overwrite, or name another output"
            )
    return [shard for shard in shards if shard.path not in done]


def open_output(
    config: ScoringConfig, shards: Sequence[Shard], *, resume: bool, overwrite: bool, dry_run: bool
) -> list[Shard]:
    """Readies the output directory; returns the shards that are still to be scored.

    Raises:
        UsageError: the directory is in use and may not be continued or replaced, or it was begun with other models or
            settings, so that its scores and new ones would not be comparable.
    """
    settings = storage.join(config.output, STATE, SETTINGS)
    if resume and not overwrite:
        if changed := storage.changed_settings(settings, config.fingerprint()):
            then, now = next(iter(changed.values()))
            raise UsageError(
                f"{config.output} was begun with other settings ({', '.join(changed)}: {then} then, {now} "
                "now): name another output, or start over with --overwrite"
            )
        if storage.list_names(config.output) and not storage.exists(settings):
            raise UsageError(f"{config.output} is not a scores directory: it has no {STATE}/{SETTINGS}")
    if not (dry_run and overwrite):
        storage.prepare_output(
            config.output,
            resume=resume,
            overwrite=overwrite,
            inputs=[*(shard.path for shard in shards), *config.model_paths],
        )
    if not dry_run:
        storage.write_json(settings, config.fingerprint())
    return remaining_shards(shards, read_manifests(config.output) if resume else [])


def runs_of(manifests: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What each run added, by run id (`""` for a run without one)."""
    runs: dict[str, dict[str, int]] = {}
    for manifest in manifests:
        run = runs.setdefault(
            manifest["run_id"], {"shards": 0, "records_read": 0, "records_written": 0, "records_rejected": 0}
        )
        for shard in manifest["shards"]:
            run["shards"] += 1
            for key in ("records_read", "records_written", "records_rejected"):
                run[key] += shard[key]
    return dict(sorted(runs.items()))
