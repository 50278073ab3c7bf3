"""Planning an extract job: the files, their labels and the shards, before a pipeline exists."""

import argparse
import dataclasses
from collections.abc import Sequence

from pipelines.extracting.config import ExtractConfig, MediaFile, MediaShard
from pipelines.extracting.labels import FOLDERS, Entry, File, by_folder, index_labels, of_table, unlabelled
from pipelines.running.flags import check_job_flags
from vcls_model import storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.embedding import ID, LABELS, LEVELS, EmbeddingConfig, plan_text_encoder, vector_name
from vcls_model.encoders.batches import DEVICES
from vcls_model.encoders.screen_texts import SCREEN_TEXT, reader_info
from vcls_model.media.flags import check_decoder_flags
from vcls_model.media.sandbox import MIB
from vcls_model.media.suffixes import SOUND_SUFFIXES
from vcls_model.records.captions import captions_beside
from vcls_model.saved_models import refuse_encoder_programs
from vcls_model.states import kind_of

MODES = ("exact", "keyframes")
_NONE = "none"
# The columns of a CSV that are embedded by --text_encoder.
_TEXTS = ("title", "description")
# Shards are planned before a file is opened: a second of media is taken to have so many bytes.
_VIDEO_BYTES_PER_SECOND = 125_000
_SOUND_BYTES_PER_SECOND = 20_000
_SHARD_BYTES = 64 << 20
_SHARD_FILES = 4096
_NOT_SETTINGS = ("dry_run", "resume", "overwrite")


def plan(args: argparse.Namespace) -> ExtractConfig:
    """Checks the command line against the input.

    Raises:
        UsageError: a flag is out of range or contradicts another one or the input.
        JobError: the weights of an encoder are not installed.
    """
    _check_flags(args)
    refuse_encoder_programs(args)
    embedding = EmbeddingConfig.of(
        None if args.image_encoder == _NONE else args.image_encoder,
        None if args.audio_encoder == _NONE else args.audio_encoder,
        fps=args.fps,
        max_seconds=args.max_seconds,
        mode=args.sampling,
        level=args.level,
        captions=args.captions,
        ocr=None if args.ocr == _NONE else reader_info(args.ocr),
        seconds_per_minute=args.seconds_per_minute,
        memory_bytes=args.memory_mb * MIB,
        device=args.device,
    )
    try:
        embedding.request()
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if args.text_encoder != _NONE:
        embedding = dataclasses.replace(embedding, text_encoder=plan_text_encoder(args.text_encoder), texts=_TEXTS)
    entries = plan_entries(args.input, args.labels, embedding)
    embedding = _with_texts_of(embedding, entries)
    classes, labels = index_labels(entries, args.vocabulary)
    files = [
        MediaFile(
            storage.absolute(entry.file[0]),
            *entry.file[1:],
            entry.id,
            own if entry.labels else None,
            entry.context,
            entry.start,
            entry.end,
            _captions_of(entry) if args.captions else None,
        )
        for entry, own in zip(entries, labels, strict=True)
    ]
    return ExtractConfig(
        output=storage.absolute(args.output),
        shards=plan_shards(files, embedding),
        embedding=dataclasses.replace(embedding, file_count=len(files)),
        classes=tuple(classes),
        labels=args.labels,
        vocabulary=args.vocabulary,
        max_rejected_fraction=args.max_rejected_fraction,
        flags={name: value for name, value in vars(args).items() if name not in _NOT_SETTINGS},
        resume=args.resume,
        overwrite=args.overwrite,
    )


def _check_flags(args: argparse.Namespace) -> None:
    if args.sampling not in MODES:
        raise unknown_choice("sampling", args.sampling, MODES)
    if args.level not in LEVELS:
        raise unknown_choice("level", args.level, LEVELS)
    if args.device not in DEVICES:
        raise unknown_choice("device", args.device, DEVICES)
    check_decoder_flags(args)
    check_job_flags(args)


def plan_entries(pattern: str | None, labels: str | None, embedding: EmbeddingConfig) -> list[Entry]:
    """What is to be extracted, in the order of the CSV or of the paths.

    Raises:
        UsageError: nothing is, or two records would have the same id.
    """
    if pattern and (kind := kind_of(pattern)):
        raise UsageError(f"--input={pattern} is {kind}, not media files: name those, as in 'videos/*.mp4'")
    files: list[File] | None = storage.list_files(pattern) if pattern else None
    if labels is not None and labels != FOLDERS:
        if not storage.exists(labels):
            raise UsageError(f"--labels={labels}: there is no such file; name a CSV, or {FOLDERS}")
        names = [ID, LABELS, *(modality.name for modality in embedding.schema().modalities)]
        entries = of_table(labels, files, names, captions=embedding.captions)
    elif files is None:
        raise UsageError("name the media files with --input, or in the column path of a CSV with --labels=CSV")
    else:
        absolute = [(storage.absolute(path), size, modified) for path, size, modified in files]
        entries = by_folder(absolute) if labels == FOLDERS else unlabelled(absolute)
    seen: dict[str, str] = {}
    for entry in entries:
        if (other := seen.setdefault(entry.id, entry.where)) != entry.where:
            raise UsageError(
                f"{other} and {entry.where} would have the same id {entry.id!r}: give each an id of its own, in the "
                "column id of a CSV with --labels=CSV"
            )
    return entries


def _with_texts_of(embedding: EmbeddingConfig, entries: Sequence[Entry]) -> EmbeddingConfig:
    """The configuration for the columns of text that there are."""
    if embedding.text_encoder is None:
        return embedding
    columns = {name for name, _ in entries[0].context}
    texts = tuple(name for name in _TEXTS if name in columns)
    if not texts:
        raise UsageError(f"--text_encoder embeds the columns {' and '.join(_TEXTS)} of --labels=CSV, and there is none")
    return dataclasses.replace(embedding, texts=texts)


def _captions_of(entry: Entry) -> tuple[str, int, float] | None:
    """Path, bytes and time of the captions that a table names, or that lie beside the file."""
    path = entry.captions or captions_beside(storage.absolute(entry.file[0]))
    if path is None:
        return None
    return path, *(storage.status_of(path) or (-1, 0.0))


def plan_shards(files: Sequence[MediaFile], embedding: EmbeddingConfig) -> tuple[MediaShard, ...]:
    """Divides the files into shards of about 64 MB, by their sizes alone: so no worker changes what a shard holds."""
    row_bytes = sum(info.width for _, _, info in embedding.encoders)
    groups: list[list[MediaFile]] = []
    filled = 0.0
    for file in files:
        rows = _seconds(file, embedding) * embedding.fps if embedding.level == "frame" else 4
        if not groups or filled + rows * row_bytes > _SHARD_BYTES or len(groups[-1]) == _SHARD_FILES:
            groups.append([])
            filled = 0.0
        groups[-1].append(file)
        filled += rows * row_bytes
    return tuple(MediaShard(index, len(groups), tuple(group)) for index, group in enumerate(groups))


def _seconds(file: MediaFile, embedding: EmbeddingConfig) -> float:
    """A guess at the length of a file, from its size."""
    sound = file.path.lower().endswith(SOUND_SUFFIXES)
    seconds = file.size_bytes / (_SOUND_BYTES_PER_SECOND if sound else _VIDEO_BYTES_PER_SECOND) - file.start
    limits = [file.end - file.start if file.end is not None else None, embedding.max_seconds]
    return max(1.0, min([seconds, *(limit for limit in limits if limit is not None)]))


def describe(config: ExtractConfig) -> str:
    """The plan, for `--dry_run` and the start of a run."""
    embedding = config.embedding
    size = sum(max(file.size_bytes, 0) for shard in config.shards for file in shard.files)
    encoders = ", ".join(
        f"{embedding.name_of(medium)} by {info.name} ({info.width})" for medium, _, info in embedding.encoders
    )
    if embedding.text_encoder is not None:
        info = embedding.text_encoder[1]
        encoders += "".join(f", {vector_name(name)} by {info.name} ({info.width})" for name in embedding.texts)
    if embedding.ocr is not None:
        encoders += f", {SCREEN_TEXT} by {embedding.ocr.name}"
    labelled = sum(file.labels is not None for shard in config.shards for file in shard.files)
    captioned = sum(file.captions is not None for shard in config.shards for file in shard.files)
    captions = f"; captions of {captioned:,} files" if embedding.captions else ""
    length = f" of at most {embedding.max_seconds:g} s" if embedding.max_seconds else ""
    return (
        f"{config.file_count:,} files{length}, {size / 1e6:,.1f} MB, {labelled:,} with labels of "
        f"{len(config.classes):,} classes\n"
        f"{encoders}; {embedding.fps:g} per second, {embedding.mode}; {embedding.level} level{captions}; "
        f"{len(config.shards)} shards; output: {config.output}"
    )
