"""Metrics of predictions that a user already has:

python -m vcls_model.metrics --predictions=FILE [--labels=FILE] --output=metrics.json
python -m vcls_model.metrics --predictions=FILE --ratings=FILE --output=metrics.json     (the segment task)
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcls_model.commands import JobError, Parser, UsageError, check_writable, main, parse_all

if TYPE_CHECKING:
    import numpy as np

    from vcls_model.metrics.accumulator import MetricAccumulator
    from vcls_model.metrics.reading import Predictions
    from vcls_model.metrics.segments import SegmentAccumulator
    from vcls_model.metrics.slices import SliceAccumulator
    from vcls_model.records.vocabulary import ClassInfo

    Ratings = Mapping[bytes, Mapping[int, int]]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m vcls_model.metrics", description="Metrics of given predictions.")
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help=".parquet (id, class_index, probability, labels; or a directory of such files), Kaggle "
        ".csv (VideoId,LabelConfidencePairs), or .npz (logits, ids, label_flat, label_lens)",
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
        help=".csv (id, value; the heading of the second column names the feature): metrics also for "
        "each value, at most 64",
    )
    parser.add_argument(
        "--ratings",
        metavar="FILE",
        help="the segment task: .csv (segment id, class, 0 or 1) of rated pairs; MAP@K over them. "
        "Predictions are by segment id, or a challenge submission (Class,Segments)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="metrics.json to write")
    parser.add_argument(
        "--details",
        metavar="DIR",
        help="also write per_class.csv, curves.npz, confusion.csv and examples.json there (segments: "
        "segment_per_class.csv)",
    )
    parser.add_argument("--vocabulary", metavar="FILE", help="CSV of class indices, names and verticals")
    parser.add_argument(
        "--class_count",
        type=int,
        metavar="N",
        help="number of classes (default: the vocabulary's, or the highest class that occurs)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a class counts as predicted (default 0.5)",
    )
    return parser


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Computes and writes the metrics; returns the content of metrics.json.

    Raises:
        UsageError: a flag is wrong.
        JobError: a file cannot be used, or no prediction has labels.
    """
    args = parse_all(_parser(), argv)
    if not 0 <= args.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {args.threshold}")
    if args.class_count is not None and args.class_count < 1:
        raise UsageError(f"--class_count must be at least 1, got {args.class_count}")
    if args.ratings and (args.labels or args.slices):
        raise UsageError("--labels and --slices are of videos, --ratings of segments: give one kind")
    _spare_inputs(args)
    classes = None
    if args.vocabulary:
        from vcls_model.records.vocabulary import read_vocabulary

        try:
            text = Path(args.vocabulary).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read --vocabulary={args.vocabulary}: {error}") from None
        classes = read_vocabulary(text, args.vocabulary, args.class_count)
    return _measure_segments(args, classes) if args.ratings else _measure_videos(args, classes)


def _spare_inputs(args: argparse.Namespace) -> None:
    """Raises `UsageError` when what is written would replace what is read, or cannot be written."""
    read = {
        os.path.realpath(path): path
        for path in (args.predictions, args.labels, args.slices, args.ratings, args.vocabulary)
        if path
    }
    if os.path.realpath(args.output) in read:
        raise UsageError(f"--output={args.output} is also an input: name another file")
    if os.path.isdir(args.output):
        raise UsageError(f"--output={args.output} is a directory: name a file, such as {args.output}/metrics.json")
    check_writable(os.path.dirname(os.path.abspath(args.output)))
    if args.details:
        place = os.path.realpath(args.details)
        if inside := [path for real, path in read.items() if os.path.dirname(real) == place]:
            raise UsageError(f"--details={args.details} holds the input {inside[0]}: name another directory")
        check_writable(args.details)


def _measure_videos(args: argparse.Namespace, classes: "Sequence[ClassInfo] | None") -> dict[str, Any]:
    import numpy as np

    from vcls_model.metrics.accumulator import MetricAccumulator
    from vcls_model.metrics.reading import read_labels, read_predictions, read_slices
    from vcls_model.metrics.slices import NO_VALUE, SliceAccumulator
    from vcls_model.records.vocabulary import unnamed_classes

    predictions = Path(args.predictions)
    labels = read_labels(Path(args.labels)) if args.labels else None
    class_count = len(classes) if classes else args.class_count or _count_classes(predictions, labels)
    accumulator = MetricAccumulator(class_count, threshold=args.threshold)
    feature, value_of = read_slices(Path(args.slices)) if args.slices else ("", {})
    slices = SliceAccumulator(class_count, feature) if args.slices else None
    unlabelled, named = 0, 0
    hashes: list[np.ndarray] = []
    for batch in read_predictions(predictions):
        batch.check(class_count)
        rows = batch.logits if batch.indices is None else batch.indices
        named = max([named, *map(len, rows)])
        hashes.append(np.fromiter(map(hash, batch.ids), np.int64, len(batch.ids)))
        unlabelled += _add(accumulator, slices, value_of, batch, labels)
    if accumulator.videos == 0:
        raise JobError(f"none of the {unlabelled} predictions has labels; hand them in with --labels=FILE")
    _warn(hashes, named, class_count)
    files = accumulator.result().to_files(classes or unnamed_classes(class_count))
    summary = json.loads(files["metrics.json"]) | {"videos_without_labels": unlabelled}
    if slices is not None:
        summary["slices"][feature] = slices.result()
        if set(summary["slices"][feature]) == {NO_VALUE}:
            print(f"warning: no video of the predictions has a value of {feature} in {args.slices}", file=sys.stderr)
    _write(Path(args.output), (json.dumps(summary, indent=1) + "\n").encode())
    if args.details:
        for name, content in files.items():
            if name != "metrics.json":
                _write(Path(args.details) / name, content)
    for name in ("videos", "gap_at_20", "map", "hit_at_1", "perr"):
        print(f"{name}: {summary[name]}")
    return summary


def _measure_segments(args: argparse.Namespace, classes: "Sequence[ClassInfo] | None") -> dict[str, Any]:
    from vcls_model.metrics.reading import is_segment_ranking, read_ratings
    from vcls_model.metrics.segments import SegmentAccumulator
    from vcls_model.records.vocabulary import unnamed_classes

    predictions, ratings = Path(args.predictions), read_ratings(Path(args.ratings))
    highest = max(index for of_segment in ratings.values() for index in of_segment)
    class_count = len(classes) if classes else args.class_count or highest + 1
    if highest >= class_count:
        raise JobError(f"{args.ratings} rates class {highest}, but {class_count} classes are expected")
    accumulator = SegmentAccumulator(class_count)
    add = _add_ranking if is_segment_ranking(predictions) else _add_scored_segments
    ranked = add(accumulator, predictions, ratings)
    if not ranked:
        raise JobError(f"{predictions} ranks none of the pairs that {args.ratings} rates")
    left_out = [
        (index, rating)
        for segment, of_segment in ratings.items()
        for index, rating in of_segment.items()
        if (segment, index) not in ranked
    ]
    if left_out:
        accumulator.add_unranked([index for index, _ in left_out], [rating for _, rating in left_out])
    summary, per_class = accumulator.to_files(classes or unnamed_classes(class_count))
    summary["pairs_left_out"] = len(left_out)
    _write(Path(args.output), (json.dumps({"segments": summary}, indent=1) + "\n").encode())
    if args.details:
        _write(Path(args.details) / "segment_per_class.csv", per_class)
    for name in ("rated_pairs", "pairs_left_out", "map_at_k"):
        print(f"{name}: {summary[name]}")
    return {"segments": summary}


def _add_ranking(accumulator: "SegmentAccumulator", path: Path, ratings: "Ratings") -> set[tuple[bytes, int]]:
    """Adds the rated pairs of a challenge submission; returns them."""
    from vcls_model.metrics.reading import read_segment_ranking

    added: set[tuple[bytes, int]] = set()
    for index, segments in read_segment_ranking(path):
        places = [
            (place, ratings[segment][index])
            for place, segment in enumerate(segments)
            if index in ratings.get(segment, {})
        ]
        if places:
            accumulator.update([index] * len(places), [-place for place, _ in places], [found for _, found in places])
        added.update((segment, index) for segment in segments if index in ratings.get(segment, {}))
    return added


def _add_scored_segments(accumulator: "SegmentAccumulator", path: Path, ratings: "Ratings") -> set[tuple[bytes, int]]:
    """Adds the rated pairs that predictions have a score for; returns them."""
    from vcls_model.metrics.reading import read_predictions

    added: set[tuple[bytes, int]] = set()
    for batch in read_predictions(path):
        pairs = []
        for row, segment in enumerate(batch.ids):
            of_segment = ratings.get(segment)
            if not of_segment:
                continue
            named = range(len(batch.logits[row])) if batch.indices is None else batch.indices[row].tolist()
            pairs += [
                (segment, index, of_segment[index], float(logit))
                for index, logit in zip(named, batch.logits[row], strict=True)
                if index in of_segment
            ]
        for segment, index, _, logit in pairs:
            if math.isnan(logit):
                raise JobError(f"{path}: the score of class {index} for {segment!r} is NaN")
            if (segment, index) in added:
                raise JobError(f"{path}: {segment!r} comes twice")
            added.add((segment, index))
        if pairs:
            _, classes, found, logits = zip(*pairs, strict=True)
            accumulator.update(classes, logits, found)
    return added


def _warn(hashes: "Sequence[np.ndarray]", named: int, class_count: int) -> None:
    """Tells what of the predictions makes the metrics other than they seem."""
    import numpy as np

    joined = np.concatenate(hashes)
    repeated = len(joined) - len(np.unique(joined))
    if repeated:
        print(
            f"warning: {repeated:,} of {len(joined):,} predictions are of a video that came before; each counts",
            file=sys.stderr,
        )
    if named < class_count:
        print(
            f"warning: predictions name at most {named:,} of {class_count:,} classes a video. The others count as "
            "scored below all that are named, also those of other videos: map and its bounds are of that ranking, "
            "not of the model's",
            file=sys.stderr,
        )


def _count_classes(path: Path, labels: "Mapping[bytes, np.ndarray] | None") -> int:
    from vcls_model.metrics.reading import read_predictions

    highest = max((batch.highest_class() for batch in read_predictions(path)), default=-1)
    highest = max([highest, *(int(row.max()) for row in (labels or {}).values() if row.size)])
    if highest < 0:
        raise JobError(f"{path} holds no prediction")
    return highest + 1


def _add(
    accumulator: "MetricAccumulator",
    slices: "SliceAccumulator | None",
    value_of: Mapping[bytes, str],
    batch: "Predictions",
    labels: "Mapping[bytes, np.ndarray] | None",
) -> int:
    """Adds the labelled videos of a batch; returns how many have no labels."""
    import numpy as np

    from vcls_model.metrics.slices import NO_VALUE

    found = [labels.get(video_id) for video_id in batch.ids] if labels is not None else batch.labels
    if found is None:
        return len(batch.ids)
    rows = [row for row, values in enumerate(found) if values is not None]
    values = [value for value in found if value is not None]
    if rows:
        try:
            logits, ids = batch.dense(accumulator.class_count)[rows], [batch.ids[row] for row in rows]
            flat, lengths = np.concatenate(values), np.array([value.size for value in values])
            accumulator.update(logits, flat, lengths, ids)
            if slices is not None:
                slices.update(logits, flat, lengths, [value_of.get(video_id, NO_VALUE) for video_id in ids])
        except ValueError as error:
            raise JobError(f"predictions from {batch.ids[0]!r} on: {error}") from None
    return len(batch.ids) - len(rows)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    main(run)
