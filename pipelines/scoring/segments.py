"""Ratings of segments: which classes raters looked for in a segment, and whether they found them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model.records import examples
from vcls_model.records.framing import read_chunks
from vcls_model.records.schema import RecordSchema

# id of a segment, `video:start` -> class -> 1 found, 0 not found
ShardRatings = Mapping[bytes, Mapping[int, int]]


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Rated pairs of the segments of a block: row of the segment, class, and 1 or 0, int64 (n,) each."""

    rows: np.ndarray
    classes: np.ndarray
    found: np.ndarray

    def select(self, rows: np.ndarray) -> "Ratings":
        """The pairs of the segments that a bool mask (B,) keeps, their rows counted anew."""
        kept = rows[self.rows]
        return Ratings((np.cumsum(rows) - 1)[self.rows[kept]], self.classes[kept], self.found[kept])


def read_ratings(path: str, schema: RecordSchema) -> ShardRatings:
    """All ratings of a shard of segment records.

    Records that cannot be read are passed over: reading the features rejects them. A class rated twice in a segment
    counts as found if it was found once.
    """
    ratings: dict[bytes, dict[int, int]] = {}
    for chunk in read_chunks(path):
        for start, length in zip(chunk.starts.tolist(), chunk.lengths.tolist(), strict=True):
            try:
                record = examples.parse_record(chunk.buffer[start : start + length].tobytes())
            except examples.WireError:
                continue
            if schema.id_feature in record.features:
                _add_ratings(record, schema, ratings)
    return ratings


def _add_ratings(record: examples.Record, schema: RecordSchema, ratings: dict[bytes, dict[int, int]]) -> None:
    ids = record.features[schema.id_feature].values
    columns = [_values(record, name) for name in ("segment_start_times", "segment_labels", "segment_scores")]
    starts, labels, scores = columns[0], columns[1], columns[2] or [1.0] * len(columns[0])
    if len(ids) != 1 or not len(starts) == len(labels) == len(scores):
        return
    for start, label, score in zip(starts, labels, scores, strict=True):
        of_segment = ratings.setdefault(b"%s:%d" % (ids[0], int(start)), {})
        of_segment[int(label)] = max(of_segment.get(int(label), 0), int(score >= 0.5))


def _values(record: examples.Record, name: str) -> list[float]:
    feature = record.features.get(name)
    return [float(value) for value in feature.values] if feature and feature.kind in ("int64", "float") else []


def ratings_of(ids: Sequence[bytes], ratings: ShardRatings) -> Ratings:
    """The rated pairs of a block of segments."""
    pairs = [
        (row, label, found) for row, segment in enumerate(ids) for label, found in ratings.get(segment, {}).items()
    ]
    return Ratings(*np.array(pairs, np.int64).reshape(-1, 3).T)
