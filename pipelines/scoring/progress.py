"""Progress of a scoring job, read from small files that workers leave beside its state (works with every runner)."""

import time
from collections.abc import Sequence
from typing import Any

from pipelines.running.progress import clock
from pipelines.scoring.layout import STATE
from pipelines.scoring.planning import Group
from vcls_model import storage

PROGRESS = "progress"


def note_shard(output: str, name: str, counts: dict[str, Any]) -> None:
    """Notes that the predictions of a shard are written. Only the progress line reads it: the manifests of the groups
    say what is committed."""
    with storage.open_atomically(storage.join(output, STATE, PROGRESS, f"{name}.json")) as stream:
        stream.write(storage.to_json({key: counts[key] for key in ("records_read", "records_rejected")}).encode())


def forget_notes(output: str) -> None:
    """Removes all notes: before a run, those of one that was killed; after a run, its own."""
    storage.delete(storage.join(output, STATE, PROGRESS))


class ScoreProgress:
    """How much of the groups of one run is done."""

    def __init__(self, output: str, groups: Sequence[Group]) -> None:
        self._folder = storage.join(output, STATE, PROGRESS)
        self._sizes = {shard.name: shard.size_bytes for group in groups for shard in group.shards}
        self._done: set[str] = set()
        self._records = 0
        self._rejected = 0
        self._started = time.monotonic()

    def look(self) -> None:
        """Takes in the notes left since the last look."""
        for name in storage.list_names(self._folder, ".json"):
            shard = name.removesuffix(".json")
            if shard in self._sizes and shard not in self._done:
                counts = storage.read_json(storage.join(self._folder, name))
                self._done.add(shard)
                self._records += counts["records_read"]
                self._rejected += counts["records_rejected"]

    def line(self) -> str:
        """Shards done and in all, records per second, rejected so far, time left."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        parts = [
            f"scored {len(self._done)} of {len(self._sizes)} shards",
            f"{self._records / seconds:,.0f} records/s",
            f"{self._rejected:,} rejected",
        ]
        done, work = sum(self._sizes[name] for name in self._done), sum(self._sizes.values())
        if 0 < done < work:
            parts.append(f"{clock(seconds * (work - done) / done)} left")
        return ", ".join([*parts, f"{clock(seconds)} elapsed"])
