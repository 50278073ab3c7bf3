"""Preprocesses records for training: splits and normalises them, and writes a transformed dataset.

python -m pipelines.preprocess --input='sample/*.tfrecord' --vocabulary=sample/vocabulary.csv --output=out

Every job: `make_parser` declares the flags; `<job>/planning.plan` checks them and returns a frozen config; the output
is locked and opened; `build_pipeline` fills what `running_pipeline` runs; `<job>/outputs.finish` comes last.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.preprocessing.flags import add_text_flags
from pipelines.running.flags import add_job_flags, check_input_names
from pipelines.running.runners import add_runner_argument, parse_arguments, pipeline_options
from vcls_model.commands import DEFAULT, Parser, first_line, main

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.preprocessing.config import JobConfig


def make_parser() -> argparse.ArgumentParser:
    """The flags; all others go to Beam."""
    parser = Parser(
        prog="python -m pipelines.preprocess",
        description=first_line(__doc__),
        epilog="Other flags are Beam's. On this machine, shards are processed by one thread per core, in compiled code "
        "that uses all cores; --direct_num_workers=N changes the number of threads.",
    )
    add = parser.add_argument
    add(
        "--input",
        metavar="GLOB",
        help="records to split by a hash of the id: TFRecord (plain, gzip or zlib) or CSV; commas separate globs",
    )
    for split in ("train", "validate", "test"):
        add(f"--{split}_input", metavar="GLOB", help=f"records that all belong to the {split} split")
    add("--output", required=True, metavar="DIR", help="directory to write the transformed dataset to")
    add("--vocabulary", metavar="CSV", help="list of the classes (default: unnamed ones, as many as the schema says)")
    add(
        "--schema",
        default="auto",
        metavar="NAME",
        help="layout of the records: auto, a built-in name (yt8m-video, yt8m-frame, yt8m-segment, audioset, …-2017, "
        f"…-2016), or a schema file (JSON) {DEFAULT}",
    )
    ratios_help = f"fractions of train, validate and test {DEFAULT}"
    add("--split_ratios", default="0.7,0.2,0.1", metavar="A,B,C", help=ratios_help)
    normalise_help = f"zscore, minmax (to [0, 1]), l2 (to length 1) or none {DEFAULT}"
    add("--normalise", default="zscore", metavar="NAME", help=normalise_help)
    add(
        "--pca_dims",
        type=int,
        default=0,
        help=f"number of whitened principal components per modality; 0 disables PCA {DEFAULT}",
    )
    add("--pool_frames", action="store_true", help="also write mean, standard deviation and top-5 mean over the frames")
    add("--max_frames", type=int, default=300, help=f"keep at most this many frames per video {DEFAULT}")
    add(
        "--missing_modality",
        metavar="MODE",
        help="what to do with a record that lacks a modality: mask (models do without it), reject, or fill with 0 "
        "(default: mask; what an earlier run had, with --resume)",
    )
    unlabelled_help = "keep records without labels, which training and metrics ignore, instead of rejecting them"
    add("--allow_unlabelled", action="store_true", help=unlabelled_help)
    add_text_flags(parser)
    add_job_flags(parser, inputs="records", unit="shards")
    add_runner_argument(parser)
    return parser


def build_pipeline(pipeline: "beam.Pipeline", config: "JobConfig") -> None:
    """Adds the job to `pipeline`: measure every shard, fit the transform, transform every shard, count."""
    import apache_beam as beam

    from pipelines.preprocessing import steps
    from pipelines.preprocessing.fitting import fit_graph
    from pipelines.preprocessing.outputs import moments_path, summary_path

    transform = config.transform
    shards = (
        pipeline | "Shards" >> beam.Create(list(config.shards), reshuffle=False) | "SpreadShards" >> beam.Reshuffle()
    )
    fitted = (
        shards
        | "MeasureShards" >> beam.ParDo(steps.MeasureShard(config.output, transform))
        | "MergeStatistics" >> beam.CombineGlobally(steps.MergeStatistics(transform.schema))
        | "FinishStatistics"
        >> beam.Map(
            steps.finish_statistics, transform.schema, moments_path(config), transform.normalise, transform.text
        )
    )
    side_inputs = [beam.pvalue.AsSingleton(fitted)]
    if not transform.is_affine:
        side_inputs.append(beam.pvalue.AsSingleton(fit_graph(shards, fitted, config)))
    (
        shards
        | "TransformShards" >> beam.ParDo(steps.TransformShard(config.output, transform), *side_inputs)
        | "MergeSummaries" >> beam.CombineGlobally(steps.MergeSummaries())
        | "WriteSummary" >> beam.Map(steps.write_summary, summary_path(config))
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; returns the content of its `info.json` (of the plan, with --dry_run).

    Raises:
        UsageError: a flag is wrong, or the input cannot be used.
        JobError: too many records were rejected, or the output cannot be written.
    """
    started = time.monotonic()
    parser = make_parser()
    args, beam_argv = parse_arguments(parser, argv)
    check_input_names(args)
    options = pipeline_options(parser, args.runner, beam_argv)

    from pipelines.preprocessing import outputs, planning
    from pipelines.preprocessing.fitting import graph_context
    from pipelines.preprocessing.progress import PreprocessProgress
    from pipelines.running.pipeline import running_pipeline
    from pipelines.running.reach import check_job, runner_text
    from vcls_model.locks import locked_output

    check_job(options, args)
    config = planning.plan(args)
    if args.dry_run:
        print(planning.describe(config), runner_text(options), sep="\n")
        return {"config": config.flags}
    with locked_output(config.output, "preprocess", take_over=config.resume or config.overwrite):
        outputs.open_dataset(config)
        print(planning.describe(config), file=sys.stderr)
        graph = graph_context(config, options)
        with running_pipeline(options, config.output, PreprocessProgress(config), graph) as pipeline:
            build_pipeline(pipeline, config)
        return outputs.finish(config, started)


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
