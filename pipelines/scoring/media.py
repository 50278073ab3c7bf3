"""Scoring media files directly: the encoders of the model's data embed a file, and nothing of it is written."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.scoring.config import ScoringConfig
from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.embedding import CAPTIONS, Embedder, EmbeddingConfig, record_of
from vcls_model.media.errors import MediaError
from vcls_model.media.sandbox import MIB
from vcls_model.media.suffixes import SOUND_SUFFIXES, VIDEO_SUFFIXES
from vcls_model.recorded_media import recorded_config
from vcls_model.records.captions import captions_beside
from vcls_model.records.decoding import Decoder, RawBatch, RecordOptions, Rejected
from vcls_model.records.ids import printable_id
from vcls_model.records.kernels.framing import HEADER_BYTES, length_at
from vcls_model.records.schema import RecordSchema
from vcls_model.serving.exported import ExportedModel
from vcls_model.tables import Column

_RECORDS = (".tfrecord", ".tfrecords", ".csv", ".gz")


def plan_media(args: argparse.Namespace, paths: Sequence[str], model: ExportedModel) -> EmbeddingConfig | None:
    """How the input becomes features, where it is media files; None where it is records.

    Raises:
        UsageError: the model does not take records made from media, or the input is of both kinds.
        JobError: an encoder of the model's data is not at hand, see `recorded_config`.
    """
    kinds = {_is_media(path, model) for path in paths}
    if len(kinds) > 1:
        raise UsageError(f"--input={args.input} matches records and media files: score them in two runs")
    if kinds != {True}:
        return None
    return recorded_config(
        model.schema,
        model.path,
        args.image_encoder,
        args.audio_encoder,
        args.text_encoder,
        seconds_per_minute=args.seconds_per_minute,
        memory_bytes=args.memory_mb * MIB,
        device="auto",
        file_count=len(paths),
    )


def read_texts(
    table: str | None, paths: Sequence[str], schema: RecordSchema, media: EmbeddingConfig | None
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """By path of a media file the texts, by column, that a CSV gives for it.

    Raises:
        UsageError: records are scored, or the CSV has none of the columns, or names none of the files.
    """
    if table is None:
        return ()
    if media is None:
        raise UsageError("--texts is for media files: records bring their own")
    raw = {modality.source for modality in schema.texts if modality.name != CAPTIONS}
    columns = [name for name in tables.read_header(table).names if name in raw | set(media.texts)]
    if not columns:
        known = ", ".join(sorted(raw | set(media.texts))) or "none"
        raise UsageError(f"--texts={table} has no column of text that the model knows; it knows {known}")
    known_paths = set(paths)
    found = []
    try:
        for row in tables.read_csv(table, [Column("path"), *map(Column, columns)], others="ignore"):
            place = next((place for place in tables.places_of(table, row["path"]) if place in known_paths), None)
            if place is not None:
                found.append((place, tuple((column, row.get(column)) for column in columns)))
    except JobError as error:
        raise tables.as_usage_error(error) from None
    if not found:
        raise UsageError(f"no row of --texts={table} names a file that --input matches")
    return tuple(found)


def _is_media(path: str, model: ExportedModel) -> bool:
    name = path.lower()
    if name.endswith(_RECORDS):
        return False
    return name.endswith(VIDEO_SUFFIXES + SOUND_SUFFIXES) or (
        bool(model.schema.encoders) and not _begins_as_records(path)
    )


def _begins_as_records(path: str) -> bool:
    """Whether a file is empty, gzip, or begins with the header of a TFRecord."""
    with storage.open_for_reading(path) as stream:
        head = stream.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return True
    return head[:2] == b"\x1f\x8b" or bool(length_at(np.frombuffer(head, np.uint8), 0) >= 0)


class MediaRecords:
    """Reads media files as `read_batches` reads shards: a batch of one record, or what was rejected."""

    def __init__(self, config: ScoringConfig) -> None:
        assert config.media is not None
        self._media = config.media
        self._embedder = Embedder(config.media)
        self._texts = {path: dict(texts) for path, texts in config.media_texts}
        self._raw_texts = {modality.source for modality in config.schema.texts}
        options = RecordOptions(
            config.class_count,
            config.max_frames,
            config.missing_modality == "fill",
            require_labels=False,
            context_features=config.slice_by,
            mask_missing=config.missing_modality == "mask",
        )
        self._decoder = Decoder(config.schema, options)

    def read_batches(self, path: str) -> Iterator[tuple[RawBatch, list[Rejected]]]:
        """The one batch of a file; the id of its record is the file's name without its suffix."""
        name = path.rpartition("/")[2]
        video_id = os.fsencode(name.rpartition(".")[0] or name)
        payload, rejected = b"", []
        notes: Mapping[str, int] = {}
        try:
            captions = captions_beside(path) if self._media.captions else None
            texts = self._texts.get(path, {})
            embedded = self._embedder.embed(path, captions=captions, texts=texts)
            said = {name: text for name, text in texts.items() if name in self._raw_texts}
            payload, notes = record_of(self._media, video_id, None, said, embedded), embedded.notes
        except MediaError as error:
            rejected = [Rejected(path, 0, printable_id(video_id), "media", error.reason, error.message)]
        place, length = np.zeros(1, np.int64), np.array([len(payload)], np.int64)
        here = slice(0, 0 if rejected else 1)
        batch, unusable = self._decoder.decode(
            path, np.frombuffer(payload, np.uint8), place[here], length[here], place[here]
        )
        batch.notes.update(notes)
        yield batch, rejected + unusable

    def close(self) -> None:
        """Ends the decoding process."""
        self._embedder.close()
