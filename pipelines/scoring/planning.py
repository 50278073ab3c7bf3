"""Planning a scoring job before a pipeline exists: its models, its shards, and the groups in which they are scored.

A *group* is what one worker scores in order; some of its shards are committed together, with one metric aggregate (an
aggregate of a single small shard would cost more to store than to compute). Aggregates add exactly, so how shards are
grouped never shows in the result.
"""

import argparse
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.running.flags import check_job_flags, check_max_frames
from pipelines.scoring.config import FRAME_BATCH_RECORDS, VIDEO_BATCH_RECORDS, ScoringConfig
from pipelines.scoring.layout import InputShard
from pipelines.scoring.media import plan_media, read_texts
from pipelines.scoring.models import check_same_task, common_splits, find_schema, schema_for_scoring
from pipelines.scoring.presence import subsets_of
from pipelines.scoring.thresholds import Thresholds, choose_thresholds
from vcls_model import storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.input.options import LARGEST_BATCH
from vcls_model.media.flags import check_decoder_flags
from vcls_model.metrics.catalogue import OWN_SLICES
from vcls_model.records.input_files import input_files
from vcls_model.records.shards import refuse_multi_hot_labels, refuse_transformed
from vcls_model.saved_models import refuse_encoder_programs, refuse_programs
from vcls_model.serving.exported import SAVED_MODEL, ExportedModel, read_exported_model, refuse_repeated

# Some 100,000 video-level or 15,000 frame-level records: long enough to hide the half second that storing an aggregate
# takes. What a worker that is lost has to repeat is less, see `groups.PART_SECONDS`.
VIDEO_GROUP_BYTES = 512 << 20
FRAME_GROUP_BYTES = 4 << 30
# Some minutes of media.
MEDIA_GROUP_BYTES = 64 << 20
# Not worth dividing.
SMALL_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Group:
    """Shards that one worker scores in order."""

    name: str
    shards: tuple[InputShard, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A scoring job that was checked against its input.

    Attributes:
        config: what the workers need.
        models: the exported models.
        shards: all shards of the input.
        max_rejected_fraction: in [0, 1]; above it the job fails.
        resume, overwrite: what to do with an output directory that is not empty.
        flags: the command line, for `info.json`.
        thresholds: where the thresholds of the classes come from.
    """

    config: ScoringConfig
    models: tuple[ExportedModel, ...]
    shards: tuple[InputShard, ...]
    max_rejected_fraction: float
    resume: bool
    overwrite: bool
    flags: dict[str, Any]
    thresholds: Thresholds

    def groups(self, shards: Sequence[InputShard], workers: int) -> list[Group]:
        """The groups in which `shards`, those that are still to be scored, are shared out among workers."""
        group_bytes = FRAME_GROUP_BYTES if self.config.schema.has_frames else VIDEO_GROUP_BYTES
        if self.config.media:
            group_bytes = MEDIA_GROUP_BYTES
        return plan_groups(shards, workers=workers, group_bytes=group_bytes)

    def describe(self, groups: Sequence[Group]) -> str:
        """The plan as text, for `--dry_run`."""
        config = self.config
        left = [shard for group in groups for shard in group.shards]
        return (
            f"score {len(left)} of {len(self.shards)} shards ({sum(shard.size_bytes for shard in left)} bytes) in "
            f"{len(groups)} groups\n"
            f"records: {config.schema.name}, {config.split or 'all'} of them, {config.batch_size} per batch\n"
            f"{'without ' + ', '.join(config.without) + chr(10) if config.without else ''}"
            f"models: {', '.join(config.model_paths)} ({config.class_count} classes)\n"
            f"output: {config.output}: {config.form} with the best {config.top_k} classes, "
            f"full logits: {config.full_logits}"
        )

    def summary(self, groups: Sequence[Group]) -> dict[str, Any]:
        """The plan as data, for callers of `run` with `--dry_run`."""
        left = sum(len(group.shards) for group in groups)
        return {"shards": len(self.shards), "shards_left": left, "groups": len(groups), **self.config.fingerprint()}


def make_plan(args: argparse.Namespace) -> Plan:
    """Checks the command line against the models and the input.

    Raises:
        UsageError: the command asks for something that is not possible.
    """
    _check_ranges(args)
    models = [read_exported_model(path) for path in args.model]
    refuse_repeated(args.model)
    check_same_task(models)
    for path in args.model:
        refuse_programs(storage.join(path, SAVED_MODEL), f"--model={path}", trusted=args.trust_model)
    refuse_encoder_programs(args)
    splits = common_splits(models, needed=args.split is not None)
    shards = list_shards(args.input)
    paths = [shard.path for shard in shards]
    refuse_transformed(paths, "name the raw records, which a model normalises itself")
    media = plan_media(args, paths, models[0])
    schema = schema_for_scoring(models[0].schema, models[0]) if media else find_schema(args.schema, paths, models[0])
    if not media:
        refuse_multi_hot_labels(paths[0], schema)
    slice_by = tuple(name for name in args.slice_by.split(",") if name)
    if slice_by and schema.container == "csv":
        raise UsageError("--slice_by needs TFRecords: a CSV has the columns id, labels and values of one modality only")
    if len(set(slice_by)) != len(slice_by) or set(OWN_SLICES) & set(slice_by):
        raise UsageError(f"--slice_by={args.slice_by}: name each feature once, and none called frequency or vertical")
    missing_modality, without = plan_missing(args, models)
    thresholds = choose_thresholds(args.thresholds, models, shards, args.split, optimistic=args.allow_optimistic)
    config = ScoringConfig(
        output=storage.absolute(args.output),
        model_paths=tuple(map(storage.absolute, args.model)),
        model_identities=tuple(each.identity for each in models),
        schema=schema,
        split=args.split,
        splits=splits,
        top_k=min(args.top_k, models[0].class_count),
        threshold=args.threshold,
        class_thresholds=thresholds.values,
        thresholds_given=args.thresholds is not None,
        form=args.format,
        full_logits=args.full_logits,
        batch_size=args.batch_size or (FRAME_BATCH_RECORDS if schema.has_frames else VIDEO_BATCH_RECORDS),
        max_frames=args.max_frames,
        missing_modality=missing_modality,
        without=without,
        subsets=plan_subsets(args, models[0], missing_modality, without),
        run_id=args.run_id or "",
        min_probability=args.min_probability,
        slice_by=slice_by,
        media=media,
        media_texts=read_texts(args.texts, [shard.path for shard in shards], models[0].schema, media),
        class_names=tuple(info.name for info in models[0].classes) if schema.container == "csv" else (),
    )
    return Plan(
        config,
        tuple(models),
        tuple(shards),
        args.max_rejected_fraction,
        resume=args.resume or args.run_id is not None,
        overwrite=args.overwrite,
        flags={
            **{name: value for name, value in vars(args).items() if name != "dry_run"},
            "missing_modality": missing_modality,
        },
        thresholds=thresholds,
    )


def plan_missing(args: argparse.Namespace, models: Sequence[ExportedModel]) -> tuple[str, tuple[str, ...]]:
    """What becomes of a record that lacks a modality, and the modalities that are ignored in all.

    Raises:
        UsageError: a model does not bear it, or --without names what the models do not take, or all they take.
    """
    without = tuple(name for name in args.without.split(",") if name)
    stubborn = next((model for model in models if not model.presence), None)
    missing = args.missing_modality or ("reject" if stubborn else "mask")
    texts = {modality.name for modality in models[0].schema.texts}  # which any model bears without
    if stubborn and (set(without) - texts or missing == "mask"):
        flag = f"--without={args.without}" if without else "--missing_modality=mask"
        raise UsageError(
            f"{flag}: {stubborn.path} does not bear a missing modality: it was trained by an earlier version, or on "
            "records of one modality. Train it again, or choose --missing_modality=fill"
        )
    names = [modality.name for modality in models[0].schema.modalities]
    for name in without:
        if name not in names:
            raise unknown_choice("modality of --without", name, names)
    if set(without) == set(names):
        raise UsageError(f"--without={args.without} leaves nothing of the records: {models[0].path} takes no more")
    if set(without) - texts and missing != "mask":
        raise UsageError(f"--without needs --missing_modality=mask, which is the default, not {missing}")
    return missing, without


def plan_subsets(
    args: argparse.Namespace, model: ExportedModel, missing_modality: str, without: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The subsets of the modalities that --modalities measures.

    Raises:
        UsageError: there is nothing to leave out.
    """
    if not args.modalities:
        return ()
    names = [modality.name for modality in model.schema.modalities if modality.name not in without]
    if len(names) < 2:
        raise UsageError(f"--modalities compares several of them, and there is one: {names[0]}")
    if missing_modality != "mask":
        raise UsageError(
            f"--modalities needs models that bear a missing modality, which {model.path} does not"
            if not model.presence
            else f"--modalities needs --missing_modality=mask, not {missing_modality}"
        )
    return subsets_of(names)


def _check_ranges(args: argparse.Namespace) -> None:
    if args.top_k < 1:
        raise UsageError(f"--top_k must be at least 1, got {args.top_k}")
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold must lie between 0 and 1, got {args.threshold}")
    if not 0 <= args.min_probability <= 1:
        raise UsageError(f"--min_probability must lie in [0, 1], got {args.min_probability}")
    check_max_frames(args)
    if args.batch_size is not None and not 1 <= args.batch_size <= LARGEST_BATCH:
        raise UsageError(f"--batch_size must lie between 1 and {LARGEST_BATCH:,}, got {args.batch_size:,}")
    check_decoder_flags(args)
    check_job_flags(args)
    if args.run_id == "":
        raise UsageError("--run_id must not be empty")


def list_shards(pattern: str) -> list[InputShard]:
    """The shards that a glob (or comma-separated globs) matches, sorted by path; local paths are made absolute.

    Raises:
        UsageError: nothing matches.
    """
    return [InputShard(storage.absolute(path), size, modified) for path, size, modified in input_files(pattern)]


def plan_groups(shards: Sequence[InputShard], *, workers: int, group_bytes: int) -> list[Group]:
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
    current: list[InputShard] = []
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


def _group(shards: Iterable[InputShard]) -> Group:
    shards = tuple(shards)
    text = "\n".join(f"{shard.path} {shard.size_bytes}" for shard in shards)
    return Group(hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16], shards)
