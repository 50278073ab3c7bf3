"""The flags of the score job."""

import argparse

from pipelines.running.flags import add_job_flags
from pipelines.scoring.config import FRAME_BATCH_RECORDS, FULL_LOGITS, PREDICTION_FORMATS, VIDEO_BATCH_RECORDS
from vcls_model.commands import DEFAULT
from vcls_model.media.flags import add_decoder_flags
from vcls_model.records.splits import SPLITS
from vcls_model.saved_models import add_trust_argument


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them, but for the runner's."""
    add = parser.add_argument
    add(
        "--input",
        required=True,
        metavar="GLOB",
        help="raw records, or media files if the model was trained on records made from media files; commas separate "
        "globs",
    )
    add("--model", required=True, action="append", metavar="DIR", help="exported model; repeat to average several")
    add("--output", required=True, metavar="DIR", help="scores directory to write")
    add("--split", choices=SPLITS, help="score only the ids in this split of the model's dataset (default: all)")
    schema_help = f"layout of the records: auto, a built-in name or a schema file {DEFAULT}"
    add("--schema", default="auto", metavar="NAME", help=schema_help)
    add("--top_k", type=int, default=20, help=f"number of top classes to keep per record {DEFAULT}")
    add(
        "--min_probability",
        type=float,
        default=0,
        metavar="P",
        help=f"omit less probable classes from the predictions; metrics count all classes {DEFAULT}",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help=f"minimum probability of a predicted class in precision, recall and F1 {DEFAULT}",
    )
    add(
        "--thresholds",
        metavar="DIR",
        help="use the per-class best-F1 thresholds in this scores directory (default: the model's own; none for an "
        "average of models)",
    )
    add(
        "--allow_optimistic",
        action="store_true",
        help="accept --thresholds that were chosen on the same videos; the report says so",
    )
    add(
        "--slice_by",
        default="",
        metavar="NAME,...",
        help="context features, such as an upload year: metrics.json has metrics for each of their values, at most 64 "
        "per feature (default: none)",
    )
    add("--format", choices=PREDICTION_FORMATS, default="parquet", help=f"file format of the predictions {DEFAULT}")
    add(
        "--full_logits",
        nargs="?",
        const="float32",
        default="none",
        choices=FULL_LOGITS,
        help=f"also write all logits to logits/*.parquet; without a value, as float32 {DEFAULT}",
    )
    add("--max_frames", type=int, default=300, help=f"keep at most this many frames per video {DEFAULT}")
    add(
        "--missing_modality",
        choices=("mask", "reject", "fill"),
        help="what to do with a record that lacks a modality: mask (the model does without it), reject, or fill with 0 "
        "(default: mask, and reject for models that were not made for it)",
    )
    add(
        "--without",
        default="",
        metavar="NAME,...",
        help="modalities to ignore, as if every record lacked them (default: none)",
    )
    add(
        "--modalities",
        action="store_true",
        help="also measure what each modality is worth: the models again with each alone, and without each, on the "
        "records that have all; takes as many times as long",
    )
    add(
        "--batch_size",
        type=int,
        help=f"records per batch (default: {VIDEO_BATCH_RECORDS}, or {FRAME_BATCH_RECORDS} when they hold frames)",
    )
    add(
        "--run_id",
        metavar="NAME",
        help="name of a scheduled run; only shards that are not yet in --output are scored, so repeated calls are safe",
    )
    add(
        "--texts",
        metavar="CSV",
        help="what is written about media files: a CSV with the column path and those of the texts that the model "
        "knows, such as title (media files only)",
    )
    for medium in ("image", "audio", "text"):
        encoder_help = f"path of the {medium} encoder that made the model's data, unless it is built in"
        add(f"--{medium}_encoder", metavar="PATH", help=f"{encoder_help} (media files only)")
    add_decoder_flags(parser, " (media files only)")
    add_trust_argument(parser)
    add_job_flags(parser, inputs="records", unit="shards")
