"""Batch scoring: raw records and exported models in, predictions and metrics out. See `--help`."""

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.running.runners import add_runner_argument, parse_arguments, pipeline_options, worker_count
from vcls_model import storage
from vcls_model.commands import JobError, Parser, UsageError, main
from vcls_model.records.splits import SPLITS

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.scoring.config import ScoringConfig
    from pipelines.scoring.planning import Group, Shard
    from vcls_model.records.schema import RecordSchema
    from vcls_model.serving.exported import ExportedModel

VIDEO_BATCH_RECORDS = 1024
FRAME_BATCH_RECORDS = 64


def make_parser() -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = Parser(
        prog="python -m pipelines.score",
        description="Scores raw records with an exported model: writes the best classes of each record and, where "
        "records carry labels, metrics over all of them.",
    )
    parser.add_argument(
        "--input", required=True, metavar="GLOB", help="shards of raw records; several globs separated by commas"
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="DIR",
        help="exported model; repeated: the mean of the models' probabilities",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the scores directory to write")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="keep only the ids that the model's data set put into this split (default: all records)",
    )
    parser.add_argument(
        "--schema",
        default="auto",
        help="layout of the records: a built-in name, a schema file, or auto (default: %(default)s)",
    )
    parser.add_argument(
        "--top_k",
        type=int,
        default=20,
        metavar="CLASSES",
        help="classes a record in the predictions (default: %(default)s)",
    )
    parser.add_argument(
        "--min_probability",
        type=float,
        default=0,
        metavar="PROBABILITY",
        help="leave classes below it out of the predictions; metrics count them all the same (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="PROBABILITY",
        help="probability from which a class counts as predicted in precision, recall and F1 (default: %(default)s)",
    )
    parser.add_argument(
        "--thresholds",
        metavar="DIR",
        help="scores of the same models over their validation split: its best-F1 thresholds are used "
        "for the classes (default: those that a single model brings; none for several)",
    )
    parser.add_argument(
        "--slice_by",
        default="",
        metavar="FEATURE,...",
        help="context features of the records, such as an upload year: metrics.json gives metrics for "
        "each value, at most 64 of a feature (default: none)",
    )
    parser.add_argument(
        "--format",
        choices=("parquet", "kaggle_csv"),
        default="parquet",
        help="of the predictions (default: %(default)s)",
    )
    parser.add_argument(
        "--full_logits",
        nargs="?",
        const="float32",
        default="none",
        choices=("none", "float16", "float32"),
        help="also write every logit, to logits/*.parquet (default: %(default)s; bare: float32)",
    )
    parser.add_argument(
        "--max_frames",
        type=int,
        default=300,
        metavar="FRAMES",
        help="frames of a video beyond this are cut (default: %(default)s)",
    )
    parser.add_argument(
        "--missing_modality",
        choices=("reject", "fill"),
        default="reject",
        help="what to do with a record that lacks one of the modalities (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="RECORDS",
        help=f"records a model call, at most (default: {VIDEO_BATCH_RECORDS}; frame-level: {FRAME_BATCH_RECORDS})",
    )
    parser.add_argument(
        "--run_id",
        metavar="NAME",
        help="of a scheduled run: adds the shards not scored yet to what is in --output already, "
        "however often it is called",
    )
    parser.add_argument("--resume", action="store_true", help="continue in an output directory that is not empty")
    parser.add_argument("--overwrite", action="store_true", help="delete what is in the output directory")
    parser.add_argument(
        "--max_rejected_fraction",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="fail above this fraction of rejected records, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    add_runner_argument(parser)
    return parser


@dataclasses.dataclass(frozen=True)
class Plan:
    """A scoring run that has been found possible.

    Attributes:
        config: what the workers need.
        models: the exported models.
        shards: all shards of the input.
        groups: what is left to do.
        workers: that do it at the same time.
    """

    config: "ScoringConfig"
    models: "list[ExportedModel]"
    shards: "list[Shard]"
    groups: "list[Group]"
    workers: int


def _check_ranges(args: argparse.Namespace) -> None:
    if args.top_k < 1:
        raise UsageError(f"--top_k must be at least 1, got {args.top_k}")
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold must lie between 0 and 1, got {args.threshold}")
    if not 0 <= args.min_probability <= 1:
        raise UsageError(f"--min_probability must lie in [0, 1], got {args.min_probability}")
    if args.max_frames < 1:
        raise UsageError(f"--max_frames must be at least 1, got {args.max_frames}")
    if args.batch_size is not None and args.batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {args.batch_size}")
    if not 0 <= args.max_rejected_fraction <= 1:
        raise UsageError(f"--max_rejected_fraction must lie in [0, 1], got {args.max_rejected_fraction}")
    if args.run_id == "":
        raise UsageError("--run_id must not be empty")


def find_schema(name: str, shards: "Sequence[Shard]", model: "ExportedModel") -> "RecordSchema":
    """How to read the records, with `class_count`: what `--schema` says, held against what the model takes.

    With `auto` the first shard that has a record decides; where none has, the model's own layout is as good as any.

    Raises:
        UsageError: the records do not fit the model, or no such schema is known.
    """
    from vcls_model.records.framing import read_chunks
    from vcls_model.records.shards import resolve_schema
    from vcls_model.serving.exported import schema_for_scoring

    if name != "auto":
        return schema_for_scoring(resolve_schema(name, shards[0].path), model)
    for shard in shards:
        if shard.path.endswith((".csv", ".csv.gz")) or any(chunk.starts.size for chunk in read_chunks(shard.path)):
            return schema_for_scoring(resolve_schema(name, shard.path), model)
    return schema_for_scoring(model.schema, model)


def make_plan(args: argparse.Namespace, options: "PipelineOptions") -> Plan:
    """Checks everything that can be checked before a graph exists, and divides the work.

    Raises:
        UsageError: the command asks for something that cannot be.
    """
    from pipelines.scoring import planning
    from pipelines.scoring.config import ScoringConfig
    from vcls_model.serving.exported import check_same_task, read_exported_model

    _check_ranges(args)
    models = [read_exported_model(path) for path in args.model]
    check_same_task(models)
    ratios = models[0].split_ratios() if args.split else None
    if args.split and any(model.split_ratios() != ratios for model in models):
        raise UsageError("--split needs models whose data were split alike; their info.json name different ratios")
    shards = planning.list_shards(args.input)
    schema = find_schema(args.schema, shards, models[0])
    slice_by = tuple(name for name in args.slice_by.split(",") if name)
    if slice_by and schema.container == "csv":
        raise UsageError("--slice_by needs TFRecords: the columns of a CSV are id, labels and values of one modality")
    if len(set(slice_by)) != len(slice_by) or {"frequency", "vertical"} & set(slice_by):
        raise UsageError(f"--slice_by={args.slice_by}: each feature once, and none called frequency or vertical")
    frames = schema.has_frames
    config = ScoringConfig(
        output=storage.absolute(args.output),
        model_paths=tuple(map(storage.absolute, args.model)),
        model_identities=tuple(each.identity for each in models),
        schema=schema,
        split=args.split,
        ratios=ratios,
        top_k=min(args.top_k, models[0].class_count),
        threshold=args.threshold,
        class_thresholds=_class_thresholds(args.thresholds, models),
        thresholds_given=args.thresholds is not None,
        form=args.format,
        full_logits=args.full_logits,
        batch_size=args.batch_size or (FRAME_BATCH_RECORDS if frames else VIDEO_BATCH_RECORDS),
        max_frames=args.max_frames,
        missing_modality=args.missing_modality,
        run_id=args.run_id or "",
        min_probability=args.min_probability,
        slice_by=slice_by,
    )
    left = planning.open_output(
        config, shards, resume=args.resume or args.run_id is not None, overwrite=args.overwrite, dry_run=args.dry_run
    )
    workers = worker_count(options)
    groups = planning.plan_groups(
        left, workers=workers, group_bytes=planning.FRAME_GROUP_BYTES if frames else planning.VIDEO_GROUP_BYTES
    )
    return Plan(config, models, shards, groups, workers)


def _class_thresholds(directory: str | None, models: "Sequence[ExportedModel]") -> tuple[float, ...] | None:
    from vcls_model.serving.exported import read_thresholds

    if directory is not None:
        return read_thresholds(directory, models)
    return models[0].class_thresholds() if len(models) == 1 else None


def build_pipeline(pipeline: "beam.Pipeline", groups: "Sequence[Group]", config: "ScoringConfig") -> None:
    """Adds the steps that score `groups`."""
    import apache_beam as beam

    from pipelines.scoring.steps import ScoreGroups

    _ = (
        pipeline
        | "ListGroups" >> beam.Create(groups, reshuffle=False)
        | "SpreadGroups" >> beam.Reshuffle()
        | "ScoreGroups" >> ScoreGroups(config)
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; returns the content of its `info.json` (of the plan, with `--dry_run`).

    Raises:
        UsageError: the command asks for something that cannot be.
        JobError: too many records were rejected, or stored results are damaged.
    """
    parser = make_parser()
    args, beam_argv = parse_arguments(parser, argv)
    started = time.monotonic()
    options = pipeline_options(parser, args.runner, beam_argv)
    plan = make_plan(args, options)
    if args.dry_run:
        return _print_plan(plan)
    if plan.groups:
        _score_groups(plan, options)
    return _finish(args, plan, started)


def _score_groups(plan: Plan, options: "PipelineOptions") -> None:
    import apache_beam as beam

    from pipelines.running.failures import explained_failures, quiet_runner
    from pipelines.running.progress import shown_progress
    from pipelines.running.runners import check_runner, is_local
    from pipelines.scoring.groups import DEAD_LETTER
    from pipelines.scoring.planning import STATE
    from pipelines.scoring.predictions import LOGITS, PREDICTIONS
    from pipelines.scoring.progress import ScoreProgress, forget_notes
    from vcls_model.quiet import start_tensorflow

    check_runner(options)
    if is_local(options):
        start_tensorflow()  # the workers' threads would import it a moment later
    # RunInference warns, for every process, that it cannot measure memory where PyTorch is not installed.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in record.getMessage())
    output = plan.config.output
    forget_notes(output)
    try:
        with (
            explained_failures(output),
            quiet_runner(),
            shown_progress(ScoreProgress(output, plan.groups), output),
            beam.Pipeline(options=options) as pipeline,
        ):
            build_pipeline(pipeline, plan.groups, plan.config)
    finally:
        forget_notes(output)
    for directory in (STATE, DEAD_LETTER, PREDICTIONS, LOGITS):
        storage.remove_temporaries(storage.join(output, directory))  # of workers that were killed


def _print_plan(plan: Plan) -> dict[str, Any]:
    left = sum(len(group.shards) for group in plan.groups)
    config = plan.config
    size = sum(shard.size_bytes for group in plan.groups for shard in group.shards)
    print(
        f"score {left} of {len(plan.shards)} shards ({size} bytes) in {len(plan.groups)} groups\n"
        f"records: {config.schema.name}, {config.split or 'all'} of them, {config.batch_size} a model call\n"
        f"models: {', '.join(config.model_paths)} ({config.class_count} classes)\n"
        f"output: {config.output}: {config.form} with the best {config.top_k} classes, "
        f"full logits: {config.full_logits}"
    )
    return {"shards": len(plan.shards), "shards_left": left, "groups": len(plan.groups), **config.fingerprint()}


def _finish(args: argparse.Namespace, plan: Plan, started: float) -> dict[str, Any]:
    from pipelines.preprocessing.job import versions
    from pipelines.scoring.merging import model_names, total_counts, write_metrics
    from pipelines.scoring.planning import read_manifests, runs_of
    from vcls_model.records.framing import cut_short_note
    from vcls_model.records.vocabulary import write_labels_csv

    config = plan.config
    manifests = read_manifests(config.output)
    counts = total_counts(manifests)
    read, rejected = counts["records_read"], counts["records_rejected"]
    if rejected > args.max_rejected_fraction * read:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected_by_reason"].items())
        raise JobError(
            f"{rejected} of {read} records were rejected ({reasons}), more than --max_rejected_fraction="
            f"{args.max_rejected_fraction}; they are listed in {storage.join(config.output, 'dead_letter')}"
        )
    if note := cut_short_note(counts["rejected_by_reason"], storage.join(config.output, "dead_letter")):
        print(note, file=sys.stderr)
    names = model_names([model.path for model in plan.models])
    measured = write_metrics(
        config.output, manifests, plan.models, names, segments=config.schema.segments, slice_by=config.slice_by
    )
    chosen = config.class_thresholds or [None] * config.class_count
    classes = [
        dataclasses.replace(entry, best_threshold=threshold)
        for entry, threshold in zip(plan.models[0].classes, chosen, strict=True)
    ]
    storage.write_atomically(storage.join(config.output, "labels.csv"), write_labels_csv(classes).encode())
    history = storage.join(plan.models[0].path, "history.csv")
    if storage.exists(history):
        storage.write_atomically(storage.join(config.output, "history.csv"), storage.read_bytes(history))
    models = [
        {"name": name, "path": model.path, "info": model.info} for name, model in zip(names, plan.models, strict=True)
    ]
    for entry, summary in zip(models, measured["models"], strict=False):
        entry["metrics"] = summary
    info = {
        **counts,
        "models": models,
        "split": config.split,
        "top_k": config.top_k,
        "threshold": config.threshold,
        "thresholds_from": None if args.thresholds is None else storage.absolute(args.thresholds),
        "schema": config.schema.to_dict(),
        "class_count": config.class_count,
        "runs": runs_of(manifests),
        "config": {name: value for name, value in vars(args).items() if name != "dry_run"},
        "versions": versions(),
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    storage.write_json(storage.join(config.output, "info.json"), info)
    _print_summary(info, measured["metrics"])
    return info


def _print_summary(info: dict[str, Any], metrics: dict[str, Any] | None) -> None:
    print(
        f"scored {info['records_written']} records of {info['shards']} shards, {info['records_rejected']} rejected, "
        f"{info['records_labelled']} with labels",
        file=sys.stderr,
    )
    if metrics is None:
        print("no record carried labels: predictions were written, metrics were not", file=sys.stderr)
    else:
        print(
            ", ".join(
                f"{key} {metrics[key]:.4f}"
                for key in ("gap_at_20", "map", "hit_at_1", "perr")
                if metrics[key] is not None
            ),
            file=sys.stderr,
        )


if __name__ == "__main__":
    main(run)
