"""Preprocesses records for training: splits, normalises with tf.Transform, writes a transformed data set.

python -m pipelines.preprocess --input='sample/*.tfrecord' --vocabulary=sample/vocabulary.csv --output=out
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.running.runners import add_runner_argument, parse_arguments, pipeline_options
from vcls_model import storage
from vcls_model.commands import Parser, main

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.preprocessing.config import JobConfig


def make_parser() -> argparse.ArgumentParser:
    """The flags; all others go to Beam."""
    parser = Parser(
        prog="python -m pipelines.preprocess",
        description=__doc__.split("\n")[0],
        epilog="Other flags are Beam's. On this machine the shards are shared out over threads, one a core; the work "
        "on records runs in compiled code that lets other threads run, so all cores are used. "
        "--direct_num_workers=N changes their number, --direct_running_mode=multi_processing takes processes.",
    )
    parser.add_argument(
        "--input", help="glob(s) of records, split by a hash of the id: TFRecord (plain or gzip), or a CSV"
    )
    for split in ("train", "validate", "test"):
        parser.add_argument(f"--{split}_input", help=f"glob(s) of records that all belong to the {split} split")
    parser.add_argument("--output", required=True, help="directory to write the transformed data set to")
    parser.add_argument("--vocabulary", help="CSV of the classes; without it their number comes from the schema")
    parser.add_argument(
        "--schema",
        default="auto",
        help="layout of the records: auto, a built-in name (yt8m-video, yt8m-frame, yt8m-segment, "
        "audioset, …-2017, …-2016), or a schema file (JSON) (default: %(default)s)",
    )
    parser.add_argument(
        "--split_ratios", default="0.7,0.2,0.1", help="fractions of train, validate and test (default: %(default)s)"
    )
    parser.add_argument(
        "--normalise", default="zscore", help="zscore, minmax (to [0, 1]), l2 (length 1) or none (default: %(default)s)"
    )
    parser.add_argument(
        "--pca_dims",
        type=int,
        default=0,
        help="whiten to this many principal components a modality; 0: no PCA (default: %(default)s)",
    )
    parser.add_argument(
        "--pool_frames",
        action="store_true",
        help="frame-level: also write mean, standard deviation and top-5 mean over the frames",
    )
    parser.add_argument("--max_frames", type=int, default=300, help="frames beyond are cut (default: %(default)s)")
    parser.add_argument(
        "--missing_modality",
        default="reject",
        help="what to do with a record that lacks one modality: reject, or fill with 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--allow_unlabelled",
        action="store_true",
        help="keep records without labels, which training and metrics leave out, instead of rejecting them",
    )
    parser.add_argument(
        "--max_rejected_fraction",
        type=float,
        default=0.01,
        help="fail above this fraction of unusable records (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="do only what an interrupted run left undone")
    parser.add_argument("--overwrite", action="store_true", help="replace the output directory")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the plan, write nothing")
    add_runner_argument(parser)
    return parser


def build_pipeline(pipeline: "beam.Pipeline", config: "JobConfig") -> None:
    """Adds the job to `pipeline`: measure every shard, fit the transform, transform every shard, count."""
    import apache_beam as beam

    from pipelines.preprocessing.job import moments_path, summary_path
    from pipelines.preprocessing.steps import (
        MeasureShard,
        MergeStatistics,
        MergeSummaries,
        TransformShard,
        finish_statistics,
        write_summary,
    )

    transform = config.transform
    shards = (
        pipeline | "Shards" >> beam.Create(list(config.shards), reshuffle=False) | "SpreadShards" >> beam.Reshuffle()
    )
    fitted = (
        shards
        | "MeasureShards" >> beam.ParDo(MeasureShard(config.output, transform))
        | "MergeStatistics" >> beam.CombineGlobally(MergeStatistics(transform.schema))
        | "FinishStatistics" >> beam.Map(finish_statistics, transform.schema, moments_path(config))
    )
    side_inputs = [beam.pvalue.AsSingleton(fitted)]
    if not transform.is_affine:
        side_inputs.append(beam.pvalue.AsSingleton(_fit_graph(shards, fitted, config)))
    (
        shards
        | "TransformShards" >> beam.ParDo(TransformShard(config.output, transform), *side_inputs)
        | "MergeSummaries" >> beam.CombineGlobally(MergeSummaries())
        | "WriteSummary" >> beam.Map(write_summary, summary_path(config))
    )


def _fit_graph(shards: "beam.PCollection", fitted: "beam.PCollection", config: "JobConfig") -> "beam.PCollection":
    """The directory of the transform graph, written for workers that need it."""
    import apache_beam as beam

    from pipelines.preprocessing.transform.graph import write_transform

    transform = config.transform
    moments = fitted | "Moments" >> beam.Map(lambda each: each.moments)
    if not transform.pca_dims:
        return moments | "FitTransform" >> beam.Map(write_transform, transform, config.output)
    import tensorflow_transform.beam as tft_beam

    from pipelines.preprocessing.transform.pca import FitTransform, ReadTrainingBatches

    training = shards | "TrainingBatches" >> beam.ParDo(ReadTrainingBatches(transform))
    transform_fn = moments | "FitTransform" >> FitTransform(transform, training)
    transform_fn | "WriteTransformFn" >> tft_beam.WriteTransformFn(config.output)
    return transform_fn[0]


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; returns the content of its `info.json` (of the plan, with --dry_run).

    Raises:
        UsageError: the command line or the input cannot be.
        JobError: too many records were rejected, or the output cannot be written.
    """
    started = time.monotonic()
    parser = make_parser()
    args, beam_argv = parse_arguments(parser, argv)

    from pipelines.preprocessing.config import is_affine
    from pipelines.preprocessing.transform.background import GraphWriter

    affine = is_affine(args.pca_dims, args.pool_frames, args.normalise)
    with GraphWriter(import_early=affine and not args.dry_run) as writer:
        options = pipeline_options(parser, args.runner, beam_argv)

        from pipelines.preprocessing import job
        from pipelines.preprocessing.card import render_card
        from pipelines.preprocessing.execution import execute
        from vcls_model.records.framing import cut_short_note

        config, classes = job.plan(args)
        if args.dry_run:
            print(job.describe(config))
            return {"config": config.flags}
        job.open_output(config, resume=args.resume, overwrite=args.overwrite)
        print(job.describe(config), file=sys.stderr)
        job.clear_stale(config)
        summary, features = execute(config, options, build_pipeline, writer)
    job.clear_temporaries(config)
    print(job.table(summary))
    if note := cut_short_note(summary.rejected, storage.join(config.output, "dead_letter")):
        print(note, file=sys.stderr)
    job.check_rejected(config, summary)
    storage.write_atomically(storage.join(config.output, "labels.csv"), job.labels_csv(classes, summary).encode())
    info = job.make_info(config, summary, features, time.monotonic() - started)
    card = render_card(config, info, summary, classes, features)
    storage.write_atomically(storage.join(config.output, "data_card.html"), card.encode())
    storage.write_json(storage.join(config.output, "info.json"), info)
    return info


if __name__ == "__main__":
    main(run)
