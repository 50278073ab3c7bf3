"""How far an extract job is, whatever runs the pipeline: the parts and shards on the output tell."""

import time

from pipelines.extracting.config import ExtractConfig
from pipelines.extracting.manifests import PARTS, STATE, SUFFIX
from pipelines.running.progress import clock
from vcls_model import storage


class ExtractProgress:
    """What is done of a job."""

    def __init__(self, config: ExtractConfig) -> None:
        self._state = storage.join(config.output, STATE)
        self._sizes = {
            (shard.name, place): max(file.size_bytes, 0) + 1
            for shard in config.shards
            for place, file in enumerate(shard.files)
        }
        self._shards = {shard.name: range(len(shard.files)) for shard in config.shards}
        self._done: set[tuple[str, int]] = set()
        self._started = time.monotonic()
        self.look()
        self._before, self._files_before = self._bytes_done(), len(self._done)

    def look(self) -> None:
        """Takes in the parts and shards written since the last look."""
        for name in storage.list_names(storage.join(self._state, PARTS)):
            shard, _, place = name.rpartition(".")
            if shard in self._shards and place.isdigit():
                self._done.add((shard, int(place)))
        for name in storage.list_names(self._state, SUFFIX):
            shard = name.removesuffix(SUFFIX)
            self._done.update((shard, place) for place in self._shards.get(shard, ()))

    def _bytes_done(self) -> int:
        return sum(self._sizes[each] for each in self._done)

    def line(self) -> str:
        """Files done of all, files per minute, time left."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        parts = [
            f"extracted {len(self._done):,} of {len(self._sizes):,} files",
            f"{60 * (len(self._done) - self._files_before) / seconds:,.0f} files/min",
        ]
        done, work = self._bytes_done(), sum(self._sizes.values())
        if self._before < done < work:
            parts.append(f"{clock(seconds * (work - done) / (done - self._before))} left")
        return ", ".join([*parts, f"{clock(seconds)} elapsed"])
