"""Metrics of files of predictions and labels: the work of `python -m vcls_model.metrics`."""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.reading import (
    Predictions,
    is_segment_ranking,
    read_labels,
    read_predictions,
    read_ratings,
    read_segment_ranking,
    read_slices,
)
from vcls_model.metrics.result import compute_result, to_json
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import NO_VALUE, SliceAccumulator
from vcls_model.records.vocabulary import ClassInfo, load_vocabulary, unnamed_classes

Labels = Mapping[bytes, np.ndarray]
Ratings = Mapping[bytes, Mapping[int, int]]


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """What the command measures; paths as given.

    Attributes:
        predictions: file or directory of predictions.
        output: metrics.json to write.
        labels: true classes, for predictions without them.
        slices: values of a context feature by video id.
        ratings: rated pairs of segment and class; the segment task instead of videos.
        details: directory for the other files.
        vocabulary: CSV of the classes.
        class_count: number of classes, None for the vocabulary's or the highest that occurs.
        threshold: probability from which a class counts as predicted.
    """

    predictions: str
    output: str
    labels: str | None = None
    slices: str | None = None
    ratings: str | None = None
    details: str | None = None
    vocabulary: str | None = None
    class_count: int | None = None
    threshold: float = 0.5


def measure(config: MeasureConfig) -> dict[str, Any]:
    """Reads, counts and writes; returns the content of metrics.json.

    Raises:
        UsageError: the vocabulary cannot be used.
        JobError: a file cannot be used, or no prediction has labels.
    """
    classes = None
    if config.vocabulary:
        try:
            classes = load_vocabulary(config.vocabulary, config.class_count)
        except OSError as error:
            raise UsageError(f"cannot read --vocabulary={config.vocabulary}: {error.strerror or error}") from None
    summary, files = _measure_segments(config, classes) if config.ratings else _measure_videos(config, classes)
    _write(Path(config.output), to_json(summary))
    if config.details:
        for name, content in files.items():
            _write(Path(config.details) / name, content)
    return summary


def _measure_videos(
    config: MeasureConfig, classes: Sequence[ClassInfo] | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of metrics.json, and the other files by name."""
    predictions = Path(config.predictions)
    labels = read_labels(Path(config.labels)) if config.labels else None
    class_count = len(classes) if classes else config.class_count or _count_classes(predictions, labels)
    accumulator = MetricAccumulator(class_count, threshold=config.threshold)
    feature, value_of = read_slices(Path(config.slices)) if config.slices else ("", {})
    slices = SliceAccumulator(class_count, feature) if config.slices else None
    unlabelled, named = 0, 0
    hashes: list[np.ndarray] = []
    for batch in read_predictions(predictions):
        batch.check(class_count)
        rows = batch.logits if batch.indices is None else batch.indices
        named = max([named, *map(len, rows)])
        hashes.append(np.fromiter(map(hash, batch.ids), np.int64, len(batch.ids)))
        unlabelled += _add(accumulator, slices, value_of, batch, labels)
    if accumulator.videos == 0:
        raise JobError(f"none of the {unlabelled} predictions has labels; pass them with --labels=FILE")
    _warn(hashes, named, class_count)
    result = compute_result(accumulator)
    if slices is not None:
        result.summary["slices"][feature] = slices.result()
        if set(result.summary["slices"][feature]) == {NO_VALUE}:
            print(f"warning: no predicted video has a value of {feature} in {config.slices}", file=sys.stderr)
    files = result.to_files(classes or unnamed_classes(class_count), {"videos_without_labels": unlabelled})
    return storage.from_json(files.pop("metrics.json"), "metrics.json"), files


def _measure_segments(
    config: MeasureConfig, classes: Sequence[ClassInfo] | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of metrics.json, and the other files by name."""
    assert config.ratings is not None
    predictions, ratings = Path(config.predictions), read_ratings(Path(config.ratings))
    highest = max(index for of_segment in ratings.values() for index in of_segment)
    class_count = len(classes) if classes else config.class_count or highest + 1
    if highest >= class_count:
        raise JobError(f"{config.ratings} rates class {highest}, but {class_count} classes are expected")
    accumulator = SegmentAccumulator(class_count)
    add = _add_ranking if is_segment_ranking(predictions) else _add_scored_segments
    ranked = add(accumulator, predictions, ratings)
    if not ranked:
        raise JobError(f"{predictions} ranks none of the pairs that {config.ratings} rates")
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
    return {"segments": summary}, {"segment_per_class.csv": per_class}


def _add_ranking(accumulator: SegmentAccumulator, path: Path, ratings: Ratings) -> set[tuple[bytes, int]]:
    """Adds the rated pairs of a challenge submission; returns them."""
    added: set[tuple[bytes, int]] = set()
    for index, segments in read_segment_ranking(path):
        places = [
            (place, ratings[segment][index])
            for place, segment in enumerate(segments)
            if index in ratings.get(segment, {})
        ]
        if places:
            accumulator.update([index] * len(places), [-place for place, _ in places], [rating for _, rating in places])
        added.update((segment, index) for segment in segments if index in ratings.get(segment, {}))
    return added


def _add_scored_segments(accumulator: SegmentAccumulator, path: Path, ratings: Ratings) -> set[tuple[bytes, int]]:
    """Adds the rated pairs that predictions have a score for; returns them."""
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
                raise JobError(f"{path}: {segment!r} occurs twice")
            added.add((segment, index))
        if pairs:
            _, classes, rated, logits = zip(*pairs, strict=True)
            accumulator.update(classes, logits, rated)
    return added


def _warn(hashes: Sequence[np.ndarray], named: int, class_count: int) -> None:
    """Warns of predictions that make the metrics mean something else than they seem to."""
    joined = np.concatenate(hashes)
    repeated = len(joined) - len(np.unique(joined))
    if repeated:
        print(
            f"warning: {repeated:,} of {len(joined):,} predictions repeat the id of an earlier one; each counts",
            file=sys.stderr,
        )
    if named < class_count:
        print(
            f"warning: predictions name at most {named:,} of {class_count:,} classes per video. The others count as "
            "scored below every class that is named for any video: map and its bounds describe that ranking, not the "
            "model's",
            file=sys.stderr,
        )


def _count_classes(path: Path, labels: Labels | None) -> int:
    highest = max((batch.highest_class() for batch in read_predictions(path)), default=-1)
    highest = max([highest, *(int(row.max()) for row in (labels or {}).values() if row.size)])
    if highest < 0:
        raise JobError(f"{path} holds no prediction")
    return highest + 1


def _add(
    accumulator: MetricAccumulator,
    slices: SliceAccumulator | None,
    value_of: Mapping[bytes, str],
    batch: Predictions,
    labels: Labels | None,
) -> int:
    """Adds the labelled videos of a batch; returns how many have no labels."""
    truth = [labels.get(video_id) for video_id in batch.ids] if labels is not None else batch.labels
    if truth is None:
        return len(batch.ids)
    rows = [row for row, values in enumerate(truth) if values is not None]
    values = [value for value in truth if value is not None]
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
