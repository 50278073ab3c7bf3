"""Planning a preprocess job: the command line checked against the input, before a pipeline exists."""

import argparse
import sys
from collections.abc import Sequence

from pipelines.preprocessing.config import MISSING_MODALITY, NORMALISATIONS, JobConfig, Shard, TransformConfig
from pipelines.preprocessing.flags import PREFIX, text_names, text_options
from pipelines.preprocessing.outputs import missing_modality_begun_with
from pipelines.running.flags import check_job_flags, check_max_frames
from vcls_model import patterns, storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.records.input_files import VOCABULARY_FILE, input_files
from vcls_model.records.schema import FRAMES, TEXT, RecordSchema
from vcls_model.records.shards import (
    check_made_alike,
    file_beside,
    refuse_multi_hot_labels,
    refuse_transformed,
    resolve_schema,
    unread_texts,
)
from vcls_model.records.splits import SPLITS, SplitRatios
from vcls_model.records.vocabulary import ClassInfo, load_vocabulary, unnamed_classes

# `--schema=auto` looks at no more shards than this before it gives up.
_PROBED_SHARDS = 8
_NOT_SETTINGS = ("dry_run", "resume", "overwrite")


def plan(args: argparse.Namespace) -> JobConfig:
    """Checks the command line against the input.

    Raises:
        UsageError: a flag is out of range or contradicts another one or the input.
    """
    _check_flags(args)
    ratios = SplitRatios.parse(args.split_ratios)
    shards = plan_shards(args)
    refuse_transformed([shard.path for shard in shards], "train on them as they are, or name the raw records")
    text, names = text_options(args), text_names(args)
    schema = plan_schema(args.schema, shards, names)
    if not names and args.schema == "auto":
        _note_unread_texts(shards[0].path, schema)
    refuse_multi_hot_labels(shards[0].path, schema)
    if args.pool_frames and not schema.has_frames:
        raise UsageError(f"--pool_frames needs records with frames; {schema.name!r} has vectors only")
    _check_float_frames(schema, args.normalise)
    if args.pca_dims and storage.is_object_store(args.output) and patterns.is_pattern(args.output):
        # On a disk a link stands in for it; tf.Transform's analysis would read this one as a pattern.
        raise UsageError(f"--pca_dims: --output={args.output} must not hold any of * ? [ on an object store")
    missing_modality = args.missing_modality
    if missing_modality is None:
        missing_modality = missing_modality_begun_with(args.output, "mask") if args.resume else "mask"
    vocabulary = args.vocabulary or (schema.encoders and file_beside(shards[0].path, VOCABULARY_FILE)) or None
    classes = plan_classes(vocabulary, schema)
    return JobConfig(
        output=storage.absolute(args.output),
        shards=shards,
        transform=TransformConfig(
            schema=schema,
            class_count=len(classes),
            ratios=ratios if args.input else None,
            normalise=args.normalise,
            pca_dims=args.pca_dims,
            pool_frames=args.pool_frames,
            max_frames=args.max_frames,
            missing_modality=missing_modality,
            allow_unlabelled=args.allow_unlabelled,
            text=text if schema.texts else None,
            class_names=tuple(info.name for info in classes) if vocabulary and schema.container == "csv" else (),
        ),
        vocabulary=vocabulary,
        max_rejected_fraction=args.max_rejected_fraction,
        flags={
            **{
                name: value
                for name, value in vars(args).items()
                if name not in _NOT_SETTINGS and (schema.texts or not name.startswith(PREFIX))
            },
            "missing_modality": missing_modality,
        },
        resume=args.resume,
        overwrite=args.overwrite,
        classes=tuple(classes),
    )


def _check_flags(args: argparse.Namespace) -> None:
    if args.normalise not in NORMALISATIONS:
        raise unknown_choice("normalisation", args.normalise, NORMALISATIONS)
    if args.missing_modality not in (None, *MISSING_MODALITY):
        raise unknown_choice("value of --missing_modality", args.missing_modality, MISSING_MODALITY)
    check_max_frames(args)
    if args.pca_dims < 0:
        raise UsageError(f"--pca_dims must not be negative, got {args.pca_dims}")
    if args.pca_dims and args.normalise != "zscore":
        raise UsageError("--pca_dims whitens and so replaces --normalise: leave that at zscore")
    check_job_flags(args)


def _check_float_frames(schema: RecordSchema, normalise: str) -> None:
    unknown = [each.name for each in schema.modalities if each.kind == FRAMES and not each.coded and not each.range]
    if normalise == "none" and unknown:
        raise UsageError(
            f"--normalise=none: frames are written as one byte per value, which needs the range of {unknown[0]!r}: "
            'add "range": [lowest, highest] to the schema, or normalise'
        )


def plan_shards(args: argparse.Namespace) -> tuple[Shard, ...]:
    """The input files, numbered.

    Raises:
        UsageError: there is no input, it is named in both ways, a glob matches nothing, or two splits share a file.
    """
    by_split = [getattr(args, f"{split}_input") for split in SPLITS]
    if args.input and any(by_split):
        raise UsageError("--input splits by id; it excludes --train_input, --validate_input and --test_input")
    if args.input:
        return _numbered(args.input, None)
    if not by_split[0]:
        raise UsageError("name the records with --input, or with --train_input (and --validate_input, --test_input)")
    shards = [shard for split, pattern in enumerate(by_split) if pattern for shard in _numbered(pattern, split)]
    seen: dict[str, int] = {}
    for shard in shards:
        assert shard.split is not None
        if seen.setdefault(shard.path, shard.split) != shard.split:
            raise UsageError(
                f"{shard.path} is given as {SPLITS[seen[shard.path]]} and as {SPLITS[shard.split]} input: "
                "a held-out split must hold other videos"
            )
    return tuple(shards)


def _numbered(pattern: str, split: int | None) -> tuple[Shard, ...]:
    files = input_files(pattern)
    return tuple(
        Shard(index, len(files), storage.absolute(path), size, modified, split)
        for index, (path, size, modified) in enumerate(files)
    )


def _note_unread_texts(path: str, schema: RecordSchema) -> None:
    """Says which texts of the records are left out, and how they are used."""
    if unread := unread_texts(path, schema):
        names = ", ".join(unread)
        print(
            f"note: the records also hold text that is not used: {names}; --text={','.join(unread)} learns from it",
            file=sys.stderr,
        )


def plan_schema(name: str, shards: Sequence[Shard], texts: Sequence[str] = ()) -> RecordSchema:
    """The layout that `--schema` names; `auto` looks at the first shard that has a readable record.

    Args:
        name: see `resolve_schema`.
        shards: the input.
        texts: names of features that are texts in addition to those of the layout.

    Raises:
        UsageError: there is no such schema, or the records of the first shards fit none.
    """
    if name != "auto":
        return resolve_schema(name, shards[0].path, texts=texts)
    check_made_alike([shard.path for shard in shards])
    failure: UsageError | None = None
    for shard in [shard for shard in shards if shard.size_bytes][:_PROBED_SHARDS]:
        try:
            return resolve_schema(name, shard.path, texts=texts)
        except UsageError as error:
            failure = failure or error
    raise failure or UsageError(f"all {len(shards)} input files are empty, {shards[0].path} the first")


def plan_classes(vocabulary: str | None, schema: RecordSchema) -> list[ClassInfo]:
    """The classes: of the vocabulary, else as many as the schema says, without names.

    Raises:
        UsageError: neither gives their number, or the vocabulary cannot be read.
    """
    if vocabulary:
        if not storage.exists(vocabulary):
            raise UsageError(f"vocabulary {vocabulary} does not exist")
        classes = load_vocabulary(vocabulary, tell=True)
        if schema.class_count and len(classes) < schema.class_count:
            # Names may be missing at the end; a label of a nameless class is still a label.
            print(
                f"warning: {vocabulary} names {len(classes):,} of the {schema.class_count:,} classes of schema "
                f"{schema.name}: does it belong to this dataset?",
                file=sys.stderr,
            )
            classes = load_vocabulary(vocabulary, schema.class_count)
        return classes
    if schema.class_count is None:
        raise UsageError(f"schema {schema.name!r} does not say how many classes there are: name them with --vocabulary")
    return unnamed_classes(schema.class_count)


def describe(config: JobConfig) -> str:
    """The plan, for `--dry_run` and the start of a run."""
    transform = config.transform
    schema = transform.schema
    size = sum(shard.size_bytes for shard in config.shards)
    modalities = ", ".join(
        f"{each.name} (text{' per second' if each.timed else ''})"
        if each.kind == TEXT
        else f"{each.name} ({each.kind}, {each.width})"
        for each in schema.modalities
    )
    ratios = transform.ratios
    split = f"hash of the id, {ratios.train}/{ratios.validate}/{ratios.test}" if ratios else "as given"
    numbers = [modality for modality in schema.modalities if modality.kind != TEXT]
    widths = ", ".join(f"{transform.width_of(modality)} of {modality.name}" for modality in numbers)
    operations = f"PCA whitening, {widths}" if transform.pca_dims else transform.normalise
    return (
        f"{len(config.shards)} shards, {size / 1e6:,.1f} MB, schema {schema.name}: {modalities}, "
        f"{transform.class_count} classes\n"
        f"split: {split}; normalise: {operations}{', pooled frames' if transform.pool_frames else ''}; "
        f"output: {config.output}"
    )
