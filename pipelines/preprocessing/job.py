"""Planning a preprocess job before a pipeline exists, and finishing it after it ran."""

import argparse
import dataclasses
import hashlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.preprocessing import manifests
from pipelines.preprocessing.config import NORMALISATIONS, JobConfig, Shard, TransformConfig
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.moments import Moments
from vcls_model import storage
from vcls_model.commands import JobError, UsageError, unknown_choice
from vcls_model.records.schema import RecordSchema
from vcls_model.records.shards import resolve_schema
from vcls_model.records.splits import SPLITS, SplitRatios
from vcls_model.records.vocabulary import ClassInfo, read_vocabulary, unnamed_classes, write_labels_csv

# tf.Transform's working directories below the output: there, because a cluster's workers must all reach them.
TEMPORARY = ("analysis_tmp", "transform_tmp")
_SUMMARY = "summary"
_SETTINGS = "settings.json"
_GIVEN = ("train_input", "validate_input", "test_input")


def plan_shards(args: argparse.Namespace) -> tuple[Shard, ...]:
    """The input files, numbered.

    Raises:
        UsageError: no input, both ways of naming inputs, or a glob without a match.
    """
    given = [getattr(args, flag) for flag in _GIVEN]
    if args.input and any(given):
        raise UsageError("--input splits by id; it excludes --train_input, --validate_input and --test_input")
    if args.input:
        return _numbered(args.input, None)
    if not given[0]:
        raise UsageError("name the records with --input, or with --train_input (and --validate_input, --test_input)")
    shards = [shard for split, pattern in enumerate(given) if pattern for shard in _numbered(pattern, split)]
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
    found = storage.list_files(pattern)
    return tuple(
        Shard(index, len(found), storage.absolute(path), size, modified, split)
        for index, (path, size, modified) in enumerate(found)
    )


def plan_schema(name: str, shards: Sequence[Shard]) -> RecordSchema:
    """The layout that `--schema` names; `auto` looks at the first shard that has a readable record."""
    if name != "auto":
        return resolve_schema(name, shards[0].path)
    failure: UsageError | None = None
    for shard in [shard for shard in shards if shard.size_bytes][:8]:
        try:
            return resolve_schema(name, shard.path)
        except UsageError as error:
            failure = failure or error
    raise failure or UsageError(f"all {len(shards)} input files are empty, {shards[0].path} the first")


def plan_classes(vocabulary: str | None, schema: RecordSchema) -> list[ClassInfo]:
    """The classes: of the vocabulary, else as many as the schema says, without names.

    Raises:
        UsageError: neither tells how many there are, or the vocabulary is not one.
    """
    if vocabulary:
        if not storage.exists(vocabulary):
            raise UsageError(f"vocabulary {vocabulary} does not exist")
        text = storage.read_bytes(vocabulary).decode("utf-8-sig", "replace")
        classes = read_vocabulary(text, vocabulary)
        if schema.class_count and len(classes) < schema.class_count:
            # Names may be missing at the end; a label of a nameless class is still a label.
            print(
                f"warning: {vocabulary} names {len(classes):,} of the {schema.class_count:,} classes of schema "
                f"{schema.name}: is it this data's?",
                file=sys.stderr,
            )
            classes = read_vocabulary(text, vocabulary, schema.class_count)
        return classes
    if schema.class_count is None:
        raise UsageError(f"schema {schema.name!r} does not say how many classes there are: name them with --vocabulary")
    return unnamed_classes(schema.class_count)


def plan(args: argparse.Namespace) -> tuple[JobConfig, list[ClassInfo]]:
    """Checks the command line against the input.

    Raises:
        UsageError: anything about it that cannot be.
    """
    if args.normalise not in NORMALISATIONS:
        raise unknown_choice("normalisation", args.normalise, NORMALISATIONS)
    if args.missing_modality not in ("reject", "fill"):
        raise unknown_choice("value of --missing_modality", args.missing_modality, ("reject", "fill"))
    if args.max_frames < 1:
        raise UsageError(f"--max_frames must be at least 1, got {args.max_frames}")
    if args.pca_dims < 0:
        raise UsageError(f"--pca_dims must not be negative, got {args.pca_dims}")
    if args.pca_dims and args.normalise != "zscore":
        raise UsageError("--pca_dims whitens and so replaces --normalise: leave that at zscore")
    if not 0 <= args.max_rejected_fraction <= 1:
        raise UsageError(f"--max_rejected_fraction must lie in [0, 1], got {args.max_rejected_fraction}")
    ratios = SplitRatios.parse(args.split_ratios)
    shards = plan_shards(args)
    schema = plan_schema(args.schema, shards)
    if args.pool_frames and not schema.has_frames:
        raise UsageError(f"--pool_frames needs frame-level records; {schema.name!r} is video-level")
    classes = plan_classes(args.vocabulary, schema)
    transform = TransformConfig(
        schema,
        len(classes),
        ratios if args.input else None,
        args.normalise,
        args.pca_dims,
        args.pool_frames,
        args.max_frames,
        args.missing_modality,
        args.allow_unlabelled,
    )
    flags = {name: value for name, value in vars(args).items() if name not in ("dry_run", "resume", "overwrite")}
    return JobConfig(
        storage.absolute(args.output),
        shards,
        transform,
        args.vocabulary,
        args.max_rejected_fraction,
        flags,
        args.resume,
    ), classes


def describe(config: JobConfig) -> str:
    """The plan, for `--dry_run` and the start of a run."""
    schema = config.transform.schema
    size = sum(shard.size_bytes for shard in config.shards)
    modalities = ", ".join(f"{modality.name} ({modality.width})" for modality in schema.modalities)
    split = "hash of the id, " + "/".join(map(str, _ratios(config) or [])) if config.transform.ratios else "as given"
    widths = ", ".join(f"{config.transform.width_of(modality)} of {modality.name}" for modality in schema.modalities)
    operations = f"PCA whitening, {widths}" if config.transform.pca_dims else config.transform.normalise
    return (
        f"{len(config.shards)} shards, {size / 1e6:,.1f} MB, schema {schema.name} "
        f"({'frame' if schema.has_frames else 'video'}-level: {modalities}), {config.transform.class_count} classes\n"
        f"split: {split}; normalise: {operations}"
        f"{', pooled frames' if config.transform.pool_frames else ''}; output: {config.output}"
    )


def _ratios(config: JobConfig) -> list[float] | None:
    ratios = config.transform.ratios
    return [ratios.train, ratios.validate, ratios.test] if ratios else None


def open_output(config: JobConfig, *, resume: bool, overwrite: bool) -> None:
    """Readies the output directory, and keeps there what the job is about.

    Raises:
        UsageError: the directory is in use and may not be continued or replaced, or it was begun with other settings or
            other input files: to continue would undo what is done.
    """
    settings = storage.join(config.output, manifests.DIRECTORY, _SETTINGS)
    mine = {
        "input": hashlib.sha256("\n".join(shard.path for shard in config.shards).encode()).hexdigest(),
        "files": len(config.shards),
        **config.transform.to_dict(),
    }
    if resume and not overwrite:
        if changed := storage.changed_settings(settings, mine):
            said = ", ".join(
                f"another {key}" if key == "input" or isinstance(now, dict) else f"{key} {then} then, {now} now"
                for key, (then, now) in changed.items()
            )
            raise UsageError(
                f"--resume: {config.output} was begun with other settings ({said}): repeat them, name "
                "another output, or start over with --overwrite"
            )
        if storage.list_names(config.output) and not storage.list_names(
            storage.join(config.output, manifests.DIRECTORY)
        ):
            raise UsageError(f"--resume: {config.output} holds no preprocess job to continue")
    storage.prepare_output(
        config.output,
        resume=resume,
        overwrite=overwrite,
        inputs=[*(shard.path for shard in config.shards), config.vocabulary],
    )
    storage.write_json(settings, mine)


def clear_stale(config: JobConfig) -> None:
    """Before a run continues in a directory: removes what it will write anew, and what no longer holds."""
    for name in ("info.json", "transform_fn", "transformed_metadata", "data_card.html", *TEMPORARY):
        storage.delete(storage.join(config.output, name))
    wanted = {shard.output(split) for shard in config.shards for split in shard.splits}
    for split in SPLITS:
        for name in storage.list_names(storage.join(config.output, split)):
            if f"{split}/{name}" not in wanted:
                storage.delete(storage.join(config.output, split, name))
    # One listing, not two requests a shard: on an object store thousands of them would be minutes.
    kept_names = set(storage.list_names(storage.join(config.output, manifests.DIRECTORY)))
    for shard in config.shards:
        if kept_names & {shard.name + manifests.STATISTICS_SUFFIX, shard.name + manifests.MANIFEST_SUFFIX}:
            manifests.forget_if_changed(config.output, shard, config.transform)
    for directory, suffixes in (
        ("dead_letter", [".jsonl"]),
        (manifests.DIRECTORY, [manifests.STATISTICS_SUFFIX, manifests.MANIFEST_SUFFIX]),
    ):
        kept = {shard.name + suffix for shard in config.shards for suffix in suffixes}
        for name in storage.list_names(storage.join(config.output, directory)):
            if name not in kept and name != _SETTINGS:
                storage.delete(storage.join(config.output, directory, name))


def clear_temporaries(config: JobConfig) -> None:
    """After a run: removes the half-written files of workers that were killed while others did their work again."""
    for directory in (*SPLITS, "dead_letter", manifests.DIRECTORY):
        storage.remove_temporaries(storage.join(config.output, directory))


def summary_path(config: JobConfig) -> str:
    """Where the pipeline leaves the counts of the whole job."""
    return storage.join(config.output, manifests.DIRECTORY, _SUMMARY)


def moments_path(config: JobConfig) -> str:
    """Where the pipeline leaves the statistics of the training records."""
    return storage.join(config.output, manifests.DIRECTORY, "moments.json")


def check_rejected(config: JobConfig, summary: Summary) -> None:
    """Fails the job when too much was rejected, or nothing is left to train on.

    Raises:
        JobError: with the reasons and where the dead letters are.
    """
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in summary.rejected.most_common())
    where = f"; see {storage.join(config.output, 'dead_letter')}" if summary.rejected else ""
    if not summary.records_written:
        raise JobError(
            f"no usable record among {summary.records_read:,} read from {len(config.shards)} files, "
            f"{config.shards[0].path} the first" + (f" ({reasons})" if reasons else "") + where
        )
    fraction = summary.records_rejected / summary.records_read
    if fraction > config.max_rejected_fraction:
        raise JobError(
            f"{summary.records_rejected:,} of {summary.records_read:,} records were rejected, {fraction:.2%}, more "
            f"than --max_rejected_fraction={config.max_rejected_fraction:g} allows ({reasons}){where}; "
            "what is good is written: with a higher fraction, --resume accepts it"
        )
    if not summary.written[0]:
        raise JobError(
            f"none of the {summary.records_written:,} usable records fell into the train split: "
            "there is nothing to fit statistics on"
        )


def make_info(config: JobConfig, summary: Summary, features: dict[str, Moments], wall_seconds: float) -> dict[str, Any]:
    """The content of `info.json`."""
    transform = config.transform
    assert summary.records_read == summary.records_written + summary.records_rejected
    return {
        "records_read": summary.records_read,
        "records_written": summary.records_written,
        "records_rejected": summary.records_rejected,
        "rejected_by_reason": dict(sorted(summary.rejected.items())),
        "notes": dict(sorted(summary.notes.items())),
        "splits": {
            name: {"records": int(count), "shards": sum(split in shard.splits for shard in config.shards)}
            for split, (name, count) in enumerate(zip(SPLITS, summary.written, strict=True))
        },
        "schema": transform.schema.to_dict(),
        "transformed": [feature.to_dict() for feature in transform.transformed()],
        "class_count": transform.class_count,
        "split": {"method": "hash" if transform.ratios else "given", "ratios": _ratios(config)},
        "config": config.flags,
        "config_hash": transform.hash,
        "statistics": {
            "class_counts": {name: summary.class_counts[split].tolist() for split, name in enumerate(SPLITS)},
            "features": {
                name: {"count": moments.count, "mean": moments.mean.tolist(), "std": moments.std.tolist()}
                for name, moments in features.items()
            },
            "labels_per_video": summary.label_counts.tolist(),
            "frames_per_video": summary.frame_counts.tolist(),
        },
        "input": {"files": len(config.shards), "empty_files": summary.shards_empty, "bytes": summary.bytes_read},
        "output_bytes": summary.bytes_written,
        "versions": versions(),
        "wall_seconds": round(wall_seconds, 3),
    }


def versions() -> dict[str, str]:
    """What the job ran on."""
    from importlib.metadata import version

    import vcls_model

    packages = ("apache-beam", "tensorflow", "tensorflow-transform", "tfx-bsl", "numpy", "numba", "pyarrow")
    return {
        "video-classification": vcls_model.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def labels_csv(classes: Sequence[ClassInfo], summary: Summary) -> str:
    """`labels.csv` of the data set: the classes, and on how many training videos each is."""
    counts = summary.class_counts[0].tolist()
    return write_labels_csv([dataclasses.replace(info, train_count=counts[info.index]) for info in classes])


def table(summary: Summary) -> str:
    """The splits, for a person."""
    lines = [f"{'split':<10}{'records':>12}{'classes':>10}{'labels/video':>14}"]
    for split, name in enumerate(SPLITS):
        counts = summary.class_counts[split]
        records = int(summary.written[split])
        lines.append(
            f"{name:<10}{records:>12,}{int((counts > 0).sum()):>10,}{counts.sum() / records if records else 0:>14.2f}"
        )
    lines.append(
        f"{'rejected':<10}{summary.records_rejected:>12,}"
        + (
            "  " + ", ".join(f"{reason}: {count:,}" for reason, count in summary.rejected.most_common())
            if summary.rejected
            else ""
        )
    )
    return "\n".join(lines)
