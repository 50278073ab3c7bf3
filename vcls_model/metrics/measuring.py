"""Metrics of files of predictions and labels: the work of `python -m vcls_model.metrics`."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.reading import (
    Predictions,
    is_segment_ranking,
    prediction_files,
    read_labels,
    read_predictions,
    read_ratings,
    read_segment_ranking,
    read_slices,
)
from vcls_model.metrics.result import compute_result, to_json
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import NO_VALUE, SliceAccumulator
from vcls_model.records.ids import printable_id
from vcls_model.records.vocabulary import ClassInfo, ClassNames, load_vocabulary, unnamed_classes

# More classes than this are not inferred from an index: one wrong number would cost all memory.
_MOST_CLASSES_IMPLIED = 100_000

Labels = Mapping[bytes, np.ndarray | None]
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
            classes = load_vocabulary(config.vocabulary, config.class_count, tell=True)
        except OSError as error:
            raise UsageError(f"cannot read --vocabulary={config.vocabulary}: {error.strerror or error}") from None
    summary, files = _measure_segments(config, classes) if config.ratings else _measure_videos(config, classes)
    storage.write_atomically(config.output, to_json(summary))
    if config.details:
        for name, content in files.items():
            storage.write_atomically(storage.join(config.details, name), content)
    return summary


def _measure_videos(
    config: MeasureConfig, classes: Sequence[ClassInfo] | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of metrics.json, and the other files by name."""
    files_read = prediction_files(config.predictions)
    names = ClassNames([entry.name for entry in classes or ()])
    labels = read_labels(config.labels, names) if config.labels else None
    class_count = len(classes) if classes else config.class_count or _count_classes(config, files_read, labels)
    accumulator = MetricAccumulator(class_count, threshold=config.threshold)
    feature, value_of = read_slices(config.slices) if config.slices else ("", {})
    slices = SliceAccumulator(class_count, feature) if config.slices else None
    joined = _Joined(config, labels, value_of, class_count)
    named = 0
    hashes: list[np.ndarray] = []
    for batch in read_predictions(files_read):
        batch.check(class_count, config.predictions)
        rows = batch.logits if batch.indices is None else batch.indices
        named = max([named, *map(len, rows)])
        hashes.append(np.fromiter(map(hash, batch.ids), np.int64, len(batch.ids)))
        _add(accumulator, slices, batch, joined)
    joined.report()
    if accumulator.videos == 0:
        raise JobError(_no_labels(config, joined))
    _warn(hashes, named, class_count)
    result = compute_result(accumulator)
    if slices is not None:
        result.summary["slices"][feature] = slices.result()
    files = result.to_files(
        classes or unnamed_classes(class_count), {"videos_without_labels": joined.unlabelled, **joined.counts()}
    )
    return storage.from_json(files.pop("metrics.json"), "metrics.json"), files


def _measure_segments(
    config: MeasureConfig, classes: Sequence[ClassInfo] | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The content of metrics.json, and the other files by name."""
    assert config.ratings is not None
    predictions, ratings = config.predictions, read_ratings(config.ratings)
    highest = max(index for of_segment in ratings.values() for index in of_segment)
    class_count = len(classes) if classes else config.class_count or _class_count(highest, config.ratings)
    if highest >= class_count:
        raise JobError(f"{config.ratings} rates class {highest}, but {class_count} classes are expected")
    accumulator = SegmentAccumulator(class_count)
    caps: dict[bytes, float] = {}
    if is_segment_ranking(predictions):
        ranked = _add_ranking(accumulator, predictions, ratings)
    else:
        ranked, caps = _add_scored_segments(accumulator, predictions, ratings)
    if not ranked:
        raise JobError(f"{predictions} ranks none of the pairs that {config.ratings} rates")
    segments = len({segment for segment, _ in ranked})
    print(
        f"{config.ratings}: {segments:,} of {len(ratings):,} rated segments are in the predictions, "
        f"{len(ratings) - segments:,} are not",
        file=sys.stderr,
    )
    left_out = [
        (segment, (index, rating))
        for segment, of_segment in ratings.items()
        for index, rating in of_segment.items()
        if (segment, index) not in ranked
    ]
    cut = [(caps[segment], *pair) for segment, pair in left_out if segment in caps]
    bounds = _bounds_of_cut(accumulator, cut, [pair for segment, pair in left_out if segment not in caps])
    if left_out:
        accumulator.add_unranked(*np.array([pair for _, pair in left_out]).T)
    summary, per_class = accumulator.to_files(classes or unnamed_classes(class_count))
    summary |= {"pairs_left_out": len(left_out), "pairs_below_the_cut": len(cut), **bounds}
    if cut:
        print(
            f"warning: the predictions leave out {len(cut):,} rated pairs, in which a class is not among the best of "
            f"its segment. Their places are not known: map_at_k is certain to lie between "
            f"{bounds['map_at_k_lower']:.4f} and {bounds['map_at_k_upper']:.4f}, and {summary['map_at_k']:.4f} counts "
            "them as if they ranked last. python -m pipelines.score measures it exactly; so do predictions with all "
            "classes (score --top_k)",
            file=sys.stderr,
        )
    return {"segments": summary}, {"segment_per_class.csv": per_class}


def _add_ranking(accumulator: SegmentAccumulator, path: str, ratings: Ratings) -> set[tuple[bytes, int]]:
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


def _bounds_of_cut(
    accumulator: SegmentAccumulator,
    cut: Sequence[tuple[float, int, int]],
    absent: Sequence[tuple[int, int]],
) -> dict[str, float]:
    """What MAP@K may be where predictions name only the best classes of a segment.

    A class that is left out scores at most as high as the lowest that is named. MAP@K is lowest if all negatives so cut
    off score as high as that and all positives below everything, and highest the other way round.

    Args:
        accumulator: the pairs that are ranked.
        cut: the lowest score named for the segment, class and rating of each pair that is cut off.
        absent: class and rating of the pairs of segments that have no predictions.
    """
    if not cut:
        return {}
    found = {}
    for name, raised in (("map_at_k_lower", 0), ("map_at_k_upper", 1)):
        bound = SegmentAccumulator(accumulator.class_count)
        bound.merge(accumulator)
        high = [pair for pair in cut if pair[2] == raised]
        low = [pair[1:] for pair in cut if pair[2] != raised]
        if high:
            scores, classes, rated = zip(*high, strict=True)
            bound.update(classes, scores, rated)
        if low or absent:
            bound.add_unranked(*np.array([*low, *absent]).T)
        found[name] = float(bound.result()[name])
    return found


def _add_scored_segments(
    accumulator: SegmentAccumulator, path: str, ratings: Ratings
) -> tuple[set[tuple[bytes, int]], dict[bytes, float]]:
    """Adds the rated pairs that predictions have a score for.

    Returns:
        Those pairs, and by segment the lowest score that it has; infinity where no class is named.
    """
    added: set[tuple[bytes, int]] = set()
    lowest: dict[bytes, float] = {}
    for batch in read_predictions(prediction_files(path)):
        pairs = []
        for row, segment in enumerate(batch.ids):
            of_segment = ratings.get(segment)
            if not of_segment:
                continue
            named = range(len(batch.logits[row])) if batch.indices is None else batch.indices[row].tolist()
            lowest[segment] = float(batch.logits[row].min()) if len(batch.logits[row]) else math.inf
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
    return added, lowest


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


def _count_classes(config: MeasureConfig, files: Sequence[str], labels: Labels | None) -> int:
    predicted = max((batch.highest_class() for batch in read_predictions(files)), default=-1)
    labelled = max((int(row.max()) for row in (labels or {}).values() if row is not None and row.size), default=-1)
    if max(predicted, labelled) < 0:
        raise JobError(f"{config.predictions} holds no prediction")
    return max(_class_count(predicted, config.predictions), _class_count(labelled, str(config.labels)))


def _class_count(highest: int, path: str) -> int:
    """The number of classes that the highest index implies, unless that looks like a mistake."""
    if highest >= _MOST_CLASSES_IMPLIED:
        raise JobError(f"{path}: class {highest} occurs: if there are that many classes, say so with --class_count")
    return highest + 1


class _Joined:
    """How labels and values of a feature met the predictions, and what of them was left out.

    Attributes:
        labels: of another file, None for those of the predictions themselves.
        value_of: value of the feature by video id.
        predicted: number of predictions.
        first_id: of the first of them.
        unlabelled: number of those whose labels are unknown.
        nulls: number of those that are listed, with a null in the place of labels.
        of_no_class: number of those whose labels are an empty list or cell.
        unknown_labels: number of labels that are none of the C classes.
    """

    def __init__(
        self, config: MeasureConfig, labels: Labels | None, value_of: Mapping[bytes, str], class_count: int
    ) -> None:
        self.config = config
        self._class_count = class_count
        self.labels = labels
        self.value_of = value_of
        self.predicted = self.unlabelled = self.nulls = self.of_no_class = self.unknown_labels = 0
        self.first_id = b""
        self._of_labels: set[bytes] = set()
        self._of_values: set[bytes] = set()

    def truth(self, batch: Predictions) -> list[np.ndarray | None]:
        """The labels of each video that are among the C classes; None where they are unknown."""
        if self.labels is not None:
            rows = [self.labels.get(video_id) for video_id in batch.ids]
            listed = [video_id for video_id in batch.ids if video_id in self.labels]
            self._of_labels.update(listed)
            self.nulls += sum(self.labels[video_id] is None for video_id in listed)
        elif batch.labels is not None:
            rows = batch.labels
            self.nulls += sum(row is None for row in rows)
        else:
            rows = [None] * len(batch.ids)
        self.of_no_class += sum(row is not None and not len(row) for row in rows)
        self._of_values.update(video_id for video_id in batch.ids if video_id in self.value_of)
        self.first_id = self.first_id or batch.ids[0]
        self.predicted += len(batch.ids)
        self.unlabelled += sum(row is None for row in rows)
        known = [None if row is None else row[row < self._class_count] for row in rows]
        self.unknown_labels += sum(
            len(row) - len(kept) for row, kept in zip(rows, known, strict=True) if row is not None and kept is not None
        )
        return known

    @property
    def labels_from(self) -> str:
        """The file that has the labels."""
        return self.config.labels or self.config.predictions

    def counts(self) -> dict[str, int]:
        """What goes into metrics.json."""
        counts = {"labels_unknown": self.unknown_labels, "videos_of_no_class": self.of_no_class}
        return {name: count for name, count in counts.items() if count}

    def report(self) -> None:
        """Says how many ids joined and how many did not."""
        if self.labels is not None:
            self._say(str(self.config.labels), "labels", len(self._of_labels), len(self.labels))
        if self.nulls:
            print(
                f"{self.labels_from}: {self.nulls:,} null labels count as unknown: those videos are left out",
                file=sys.stderr,
            )
        if self.of_no_class:
            print(
                f"{self.labels_from}: {self.of_no_class:,} videos have empty labels, which say that no class "
                "fits; where that is not known, write null (Parquet) or leave the row out",
                file=sys.stderr,
            )
        if self.config.slices:
            self._say(self.config.slices, "values", len(self._of_values), len(self.value_of))
            if not self._of_values:
                print(f"warning: no video of the predictions has a value in {self.config.slices}", file=sys.stderr)
        if self.unknown_labels:
            print(
                f"warning: {self.unknown_labels:,} labels are none of the {self._class_count:,} classes and were left "
                "out; is it the right vocabulary?",
                file=sys.stderr,
            )

    def _say(self, path: str, what: str, joined: int, listed: int) -> None:
        print(
            f"{path}: {what} of {listed:,} videos; {joined:,} of them are among the {self.predicted:,} predictions, "
            f"{listed - joined:,} are not",
            file=sys.stderr,
        )


def _no_labels(config: MeasureConfig, joined: _Joined) -> str:
    if not joined.predicted:
        return f"{config.predictions} holds no prediction"
    if joined.nulls:
        return f"{joined.labels_from}: the labels of all {joined.nulls:,} predictions that it has labels for are null"
    if config.labels is None:
        return (
            f"none of the {joined.unlabelled} predictions of {config.predictions} has labels; "
            "pass them with --labels=FILE"
        )
    if not joined.labels:
        return f"{config.labels} has labels of no video: it has no row"
    listed, predicted = (
        each.decode("utf-8", "backslashreplace") for each in (next(iter(joined.labels)), joined.first_id)
    )
    return (
        f"{config.labels} has labels of none of the {joined.unlabelled} predictions of {config.predictions}; ids there "
        f"look like {listed!r}, those of the predictions like {predicted!r}"
    )


def _add(accumulator: MetricAccumulator, slices: SliceAccumulator | None, batch: Predictions, joined: _Joined) -> None:
    """Adds the labelled videos of a batch."""
    truth = joined.truth(batch)
    rows = [row for row, values in enumerate(truth) if values is not None]
    values = [value for value in truth if value is not None]
    if not rows:
        return
    try:
        logits, ids = batch.dense(accumulator.class_count)[rows], [batch.ids[row] for row in rows]
        flat, lengths = np.concatenate(values), np.array([value.size for value in values])
        accumulator.update(logits, flat, lengths, ids)
    except ValueError as error:
        raise JobError(f"{joined.config.predictions}, from {printable_id(batch.ids[0])} on: {error}") from None
    if slices is not None:
        try:
            slices.update(logits, flat, lengths, [joined.value_of.get(video_id, NO_VALUE) for video_id in ids])
        except ValueError as error:
            raise JobError(f"{joined.config.slices}: {error}") from None
