"""The steps of the pipeline. The first decodes and encodes a file, the second joins the files of a shard."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam

from pipelines.extracting.config import ExtractConfig, MediaFile
from pipelines.extracting.manifests import Part, ShardSummary, assemble, load_part, load_summary, save_part
from pipelines.extracting.sharing import Place, SharedFiles
from pipelines.running.counters import inc_counter
from pipelines.running.inputs import check_unchanged
from vcls_model.embedding import Embedder, EmbeddingConfig, record_of
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.records.framing import frame_record
from vcls_model.records.kernels.framing import MAX_RECORD_BYTES


def extract_file(file: MediaFile, embedder: Embedder, config: EmbeddingConfig) -> Part:
    """One file as a framed record, or the reason why there is none."""
    if file.size_bytes < 0:
        return Part(b"", reason=errors.NOT_FOUND, message=f"{file.path!r} does not exist")
    try:
        captions = file.captions[0] if file.captions else None
        embedded = embedder.embed(file.path, file.start, file.end, captions, dict(file.context))
    except MediaError as error:
        return Part(b"", reason=error.reason, message=error.message)
    payload = record_of(config, os.fsencode(file.id), file.labels, dict(file.context), embedded)
    if len(payload) > MAX_RECORD_BYTES:
        message = f"{file.path!r} becomes a record of {len(payload):,} bytes; --max_seconds makes it shorter"
        return Part(b"", reason=errors.TOO_LARGE, message=message)
    return Part(
        frame_record(payload),
        embedded.rows,
        embedded.seconds,
        embedded.reason,
        embedded.message,
        dict(embedded.notes),
    )


class ExtractFile(beam.DoFn):
    """(index of a shard, place of a file in it) -> the same, once the file's part is stored.

    Args:
        config: the job.
        files: all that the step will be given, those that take longest first: at the end of a bundle, a thread goes on
            with what the other threads of its process have not begun.
    """

    def __init__(self, config: ExtractConfig, files: Sequence[Place] = ()) -> None:
        self._config = config
        self._files = SharedFiles(files)
        self._embedder: Embedder | None = None

    def process(self, element: Place) -> Iterable[Place]:
        with self._files.working_on(element) as begun:
            if begun:
                self._store_part(element)
        yield element

    def finish_bundle(self) -> None:
        for element in self._files.of_this_process():
            with self._files.working_on(element, wait=False) as begun:
                if begun:
                    self._store_part(element)

    def _store_part(self, element: Place) -> None:
        """Extracts a file, unless its part is there."""
        shard, place = self._config.shards[element[0]], element[1]
        if load_part(self._config, shard, place) is None:
            if self._embedder is None:
                self._embedder = Embedder(self._config.embedding)
            file = shard.files[place]
            part = extract_file(file, self._embedder, self._config.embedding)
            if file.size_bytes >= 0:  # one that is still being recorded, say
                check_unchanged(file.path, file.size_bytes, file.modified_seconds)
            if file.captions is not None and file.captions[1] >= 0:
                check_unchanged(*file.captions)
            save_part(self._config, shard, place, part)
            inc_counter(self, "records_written" if part.record else f"rejected_{part.reason}")
            inc_counter(self, "rows", part.rows)

    def teardown(self) -> None:
        """Ends the decoding process."""
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None


class AssembleShard(beam.DoFn):
    """(index of a shard, its places) -> its `ShardSummary`, once it is written."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterable[ShardSummary]:
        shard = self._config.shards[element[0]]
        # A bundle that is retried finds the parts gone and the shard there.
        yield load_summary(self._config, shard) or assemble(self._config, shard)
