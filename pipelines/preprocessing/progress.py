"""Progress of a preprocess job, read from its manifests (works with every runner)."""

import time

from pipelines.preprocessing import manifests
from pipelines.preprocessing.config import JobConfig
from pipelines.running.progress import clock
from vcls_model import storage
from vcls_model.records.listed_shards import MANIFEST_SUFFIX, MANIFESTS


class PreprocessProgress:
    """Counts what is done of a job by its manifests."""

    def __init__(self, config: JobConfig) -> None:
        self._output = config.output
        self._sizes = {shard.name: shard.size_bytes for shard in config.shards}
        self._measurable = {shard.name for shard in config.shards if 0 in shard.splits}
        self._measured: set[str] = set()
        self._transformed: set[str] = set()
        self._records = 0
        self._rejected = 0
        self._started = time.monotonic()
        self._work = sum(self._sizes.values()) + sum(self._sizes[name] for name in self._measurable)
        self.look()
        self._work_before = self._work_done()
        self._records_before = self._records

    def look(self) -> None:
        """Reads the manifests written since the last call."""
        names = storage.list_names(storage.join(self._output, MANIFESTS))
        self._measured.update(self._sizes.keys() & {name.removesuffix(manifests.STATISTICS_SUFFIX) for name in names})
        done = self._sizes.keys() & {name.removesuffix(MANIFEST_SUFFIX) for name in names}
        for shard in done - self._transformed:
            written, rejected = manifests.count_records(self._output, shard + MANIFEST_SUFFIX)
            self._transformed.add(shard)
            self._rejected += rejected
            self._records += written

    def _work_done(self) -> int:
        measured = (self._measured | self._transformed) & self._measurable
        return sum(self._sizes[name] for name in measured) + sum(self._sizes[name] for name in self._transformed)

    def line(self) -> str:
        """Shards done of all, records per second, records rejected so far, time left."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        count = len(self._sizes)
        if not self._transformed and len(self._measured) < len(self._measurable):
            parts = [f"measured {len(self._measured)} of {len(self._measurable)} shards"]
        elif not self._transformed:
            return f"measured all {len(self._measurable)} shards, fitting the transform, {clock(seconds)} elapsed"
        else:
            parts = [f"transformed {len(self._transformed)} of {count} shards"]
            parts.append(f"{(self._records + self._rejected - self._records_before) / seconds:,.0f} records/s")
            parts.append(f"{self._rejected:,} rejected")
        done = self._work_done()
        if done > self._work_before and done < self._work:
            parts.append(f"{clock(seconds * (self._work - done) / (done - self._work_before))} left")
        return ", ".join([*parts, f"{clock(seconds)} elapsed"])
