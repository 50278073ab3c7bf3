"""Turn labelled video and sound files into records of features, laid out like those of YouTube-8M.

python -m pipelines.extract --input='videos/*.mp4' --labels=videos.csv --output=records
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.running.flags import add_job_flags, check_input_names
from pipelines.running.runners import add_runner_argument, parse_arguments, pipeline_options
from vcls_model.commands import DEFAULT, Parser, first_line, main
from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER
from vcls_model.media.flags import add_decoder_flags
from vcls_model.saved_models import add_trust_argument

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.extracting.config import ExtractConfig, MediaShard


def make_parser() -> argparse.ArgumentParser:
    """The flags; all others go to Beam."""
    parser = Parser(
        prog="python -m pipelines.extract",
        description=first_line(__doc__),
        epilog="Other flags are Beam's. On this machine, one thread per core takes a file at a time; "
        "--direct_num_workers=N changes the number of threads.",
    )
    add = parser.add_argument
    add("--input", metavar="GLOB", help="video and sound files (default: those that --labels names)")
    add(
        "--labels",
        metavar="CSV",
        help="CSV with the columns path and labels (names or indices, separated by ;) and, optionally, id, start and "
        "end (seconds); other columns are stored with each record. Or the word folders: a file's folder is its label",
    )
    add("--vocabulary", metavar="CSV", help="list of the classes (default: the labels that occur, by name)")
    add("--output", required=True, metavar="DIR", help="directory to write the records to")
    add(
        "--image_encoder",
        default=DEFAULT_IMAGE_ENCODER,
        metavar="NAME",
        help=f"encoder of the pictures: a name, the path of a model, or none {DEFAULT}",
    )
    add(
        "--audio_encoder",
        default=DEFAULT_AUDIO_ENCODER,
        metavar="NAME",
        help=f"encoder of the sound: a name, the path of a model, or none {DEFAULT}",
    )
    add(
        "--text_encoder",
        default="none",
        metavar="NAME",
        help="encoder of the columns title and description of --labels: minilm, the path of a model, or none "
        f"{DEFAULT}",
    )
    add("--fps", type=float, default=1.0, metavar="N", help=f"rows per second of media {DEFAULT}")
    add("--max_seconds", type=float, metavar="S", help="read at most the first S seconds per file (default: all)")
    add(
        "--sampling",
        default="exact",
        metavar="MODE",
        help=f"exact (the nearest frame) or keyframes (the nearest key frame; faster) {DEFAULT}",
    )
    add("--level", default="frame", metavar="NAME", help=f"frame (a row per moment) or video (their mean) {DEFAULT}")
    add(
        "--device",
        default="auto",
        metavar="NAME",
        help="where encoders run: cpu, gpu (in batches across files), or auto: a GPU where a worker has one that "
        f"TensorFlow can use {DEFAULT}",
    )
    add(
        "--captions",
        action="store_true",
        help="lay captions on the rows: of each file those beside it (name.vtt or name.srt), or the file that the "
        "column captions of --labels names (WebVTT, SRT, or JSON [[start, end, text], ...])",
    )
    ocr_help = f"reader of the text in the pictures, which is laid on the rows: rapidocr or none {DEFAULT}"
    add("--ocr", default="none", metavar="NAME", help=ocr_help)
    add_decoder_flags(parser)
    add_trust_argument(parser)
    add_job_flags(parser, inputs="files", unit="files")
    add_runner_argument(parser)
    return parser


def build_pipeline(pipeline: "beam.Pipeline", shards: "Sequence[MediaShard]", config: "ExtractConfig") -> None:
    """Adds the job to `pipeline`: extract every file of `shards`, then join the files of each shard."""
    import apache_beam as beam

    from pipelines.extracting.steps import AssembleShard, ExtractFile

    sizes = {(shard.index, place): file.size_bytes for shard in shards for place, file in enumerate(shard.files)}
    files = sorted(sizes, key=lambda place: -sizes[place])  # the largest last would keep one core busy, and no other
    (
        pipeline
        | "ListFiles" >> beam.Create(files, reshuffle=False)
        | "SpreadFiles" >> beam.Reshuffle()
        | "ExtractFiles" >> beam.ParDo(ExtractFile(config, files)).with_output_types(tuple[int, int])
        | "GroupByShard" >> beam.GroupByKey()
        | "AssembleShards" >> beam.ParDo(AssembleShard(config))
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; returns the content of its `info.json` (of the plan, with --dry_run).

    Raises:
        UsageError: a flag is wrong, or the input cannot be used.
        JobError: too many files were rejected, or the output cannot be written.
    """
    started = time.monotonic()
    parser = make_parser()
    args, beam_argv = parse_arguments(parser, argv)
    check_input_names(args)
    options = pipeline_options(parser, args.runner, beam_argv)

    from pipelines.extracting import outputs, planning
    from pipelines.extracting.progress import ExtractProgress
    from pipelines.running.pipeline import running_pipeline
    from pipelines.running.reach import check_job, runner_text
    from vcls_model.locks import locked_output

    check_job(options, args)
    config = planning.plan(args)
    if args.dry_run:
        print(planning.describe(config), runner_text(options), sep="\n")
        return {"config": config.flags}
    with locked_output(config.output, "extract", take_over=config.resume or config.overwrite):
        shards = outputs.open_records(config)
        print(planning.describe(config), file=sys.stderr)
        if shards:
            with running_pipeline(options, config.output, ExtractProgress(config)) as pipeline:
                build_pipeline(pipeline, shards, config)
        return outputs.finish(config, started)


def command() -> NoReturn:
    """The console script."""
    main(run)


if __name__ == "__main__":
    command()
