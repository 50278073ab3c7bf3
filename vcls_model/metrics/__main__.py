"""Metrics of predictions that a user already has:

python -m vcls_model.metrics --predictions=FILE [--labels=FILE] --output=metrics.json
python -m vcls_model.metrics --predictions=FILE --ratings=FILE --output=metrics.json     (the segment task)
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from vcls_model import output_directories, storage
from vcls_model.commands import DEFAULT, Parser, UsageError, main, parse_all
from vcls_model.metrics.catalogue import HEADLINE
from vcls_model.records.schema import MOST_CLASSES


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = Parser(prog="python -m vcls_model.metrics", description="Computes the metrics of existing predictions.")
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help=".parquet (id, class_index, probability, labels), Kaggle .csv (VideoId,LabelConfidencePairs), or .npz "
        "(logits, ids, label_flat, label_lens); a directory or a pattern of several",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="true classes, for predictions without them: .parquet (id, labels), .npz (ids, "
        "label_flat, label_lens) or .csv (id, class indices separated by spaces)",
    )
    parser.add_argument(
        "--slices",
        metavar="FILE",
        help=".csv (id, value; the heading of the second column names the feature): compute metrics per value too, "
        "for at most 64 values",
    )
    parser.add_argument(
        "--ratings",
        metavar="FILE",
        help="the segment task: .csv (segment id, class, 0 or 1) of rated pairs, to compute MAP@K over. "
        "Predictions are by segment id, or a challenge submission (Class,Segments)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="metrics.json to write")
    parser.add_argument(
        "--details",
        metavar="DIR",
        help="directory for per_class.csv, curves.npz, confusion.csv and examples.json (with --ratings: "
        "segment_per_class.csv)",
    )
    parser.add_argument("--vocabulary", metavar="FILE", help="CSV of class indices, names and verticals")
    parser.add_argument(
        "--class_count",
        type=int,
        help="number of classes (default: the vocabulary's, or the highest class that occurs)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help=f"probability from which a class counts as predicted {DEFAULT}",
    )
    return parser


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Computes and writes the metrics; returns the content of metrics.json.

    Raises:
        UsageError: a flag is wrong.
        JobError: a file cannot be used, or no prediction has labels.
    """
    args = parse_all(make_parser(), argv)
    _check(args)
    # Imported here: numpy and the compiler are not needed for --help.
    from vcls_model.metrics.measuring import MeasureConfig, measure

    summary = measure(MeasureConfig(**vars(args)))
    if args.ratings:
        shown, figures = ["rated_pairs", "pairs_left_out", "map_at_k"], summary["segments"]
        if figures["pairs_below_the_cut"]:
            shown += ["map_at_k_lower", "map_at_k_upper"]
    else:
        shown, figures = ["videos", *(metric.key for metric in HEADLINE)], summary
    for name in shown:
        print(f"{name}: {figures[name]}")
    return summary


def _check(args: argparse.Namespace) -> None:
    """Raises `UsageError` when a flag is out of range, or what is written would replace what is read."""
    if not 0 <= args.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {args.threshold}")
    if args.class_count is not None and not 1 <= args.class_count <= MOST_CLASSES:
        raise UsageError(f"--class_count must be at least 1 and at most {MOST_CLASSES:,}, got {args.class_count}")
    if args.ratings and (args.labels or args.slices):
        raise UsageError("--labels and --slices are for videos, --ratings is for segments: pass one kind")
    read = {
        storage.resolved(path): path
        for path in (args.predictions, args.labels, args.slices, args.ratings, args.vocabulary)
        if path
    }
    output_directories.check_writable(args.output and os.path.dirname(storage.absolute(args.output)))
    if storage.resolved(args.output) in read:
        raise UsageError(f"--output={args.output} is also an input: name another file")
    if os.path.isdir(args.output):
        raise UsageError(f"--output={args.output} is a directory: name a file, such as {args.output}/metrics.json")
    if args.details:
        place = storage.resolved(args.details).rstrip("/")
        if inside := [path for real, path in read.items() if os.path.dirname(real) == place]:
            raise UsageError(f"--details={args.details} holds the input {inside[0]}: name another directory")
        output_directories.check_writable(args.details)


if __name__ == "__main__":
    main(run)
