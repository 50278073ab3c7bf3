"""The segment task of the 2019 YouTube-8M challenge: mean average precision over rated (segment, class) pairs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vcls_model import tables
from vcls_model.metrics import kernels
from vcls_model.metrics.packing import pack, unpack
from vcls_model.metrics.sparse import ScoreSketch

if TYPE_CHECKING:
    from vcls_model.records.vocabulary import ClassInfo

# Segments that a submission may name for a class.
DEPTH = 100_000
_BUDGET = 1 << 20


class SegmentAccumulator:
    """MAP@K over rated pairs, mergeable to the bit.

    For each class its rated segments are ranked by score; what nobody rated is neither a true nor a false positive and
    is left out. AP@K is the sum of precision at the positives among the K best, over all positives of the class; MAP@K
    its mean over the classes with a positive. Equal scores count as one threshold. (The challenge's evaluation page,
    and `segment_eval_inference` of google/youtube-8m.)
    """

    def __init__(self, class_count: int):
        """Args:
        class_count: number of classes C.
        """
        if class_count < 1 or class_count >= 1 << 30:
            raise ValueError(f"class_count must be in [1, 2^30), got {class_count}")
        self.class_count = class_count
        self.positives = np.zeros(class_count, np.int64)
        self.rated = np.zeros(class_count, np.int64)
        self.pairs = ScoreSketch(_BUDGET)

    def update(self, classes: ArrayLike, logits: ArrayLike, ratings: ArrayLike) -> None:
        """Adds rated pairs.

        Args:
            classes: (n,) integers, the rated class.
            logits: (n,) float32, the score of that class for the segment.
            ratings: (n,) 0 or 1, whether the raters confirmed the class in the segment.

        Raises:
            ValueError: shapes differ, a class lies outside [0, C), a rating is not 0 or 1, or a logit is NaN.
        """
        classes, ratings = np.asarray(classes, np.int64), np.asarray(ratings, np.int64)
        logits = np.asarray(logits, np.float32)
        if not classes.shape == logits.shape == ratings.shape or classes.ndim != 1:
            raise ValueError(
                f"classes, logits and ratings differ in shape: {classes.shape}, {logits.shape}, {ratings.shape}"
            )
        if ((classes < 0) | (classes >= self.class_count)).any():
            raise ValueError(f"a class lies outside [0, {self.class_count})")
        if ((ratings != 0) & (ratings != 1)).any():
            raise ValueError("ratings must be 0 or 1")
        if np.isnan(logits).any():
            raise ValueError(f"pair {int(np.flatnonzero(np.isnan(logits))[0])}: the logit is NaN")
        self.pairs.add(kernels.pair_keys(classes, logits, ratings))
        self.add_unranked(classes, ratings)

    def add_unranked(self, classes: ArrayLike, ratings: ArrayLike) -> None:
        """Adds rated pairs that a submission does not rank: they add no precision, but their positives count.

        Args:
            classes: (n,) integers in [0, C).
            ratings: (n,) 0 or 1.
        """
        classes = np.asarray(classes, np.int64)
        self.rated += np.bincount(classes, minlength=self.class_count)
        self.positives += np.bincount(classes, np.asarray(ratings), self.class_count).astype(np.int64)

    def merge(self, other: "SegmentAccumulator") -> None:
        """Adds the pairs of `other`, which stays as it is.

        Raises:
            ValueError: `other` has another number of classes.
        """
        if self.class_count != other.class_count:
            raise ValueError(f"cannot merge metrics of {self.class_count} and of {other.class_count} classes")
        self.pairs.merge(other.pairs)
        self.rated += other.rated
        self.positives += other.positives

    def to_bytes(self) -> bytes:
        """The state, compressed; the same multiset of pairs always gives the same bytes."""
        header, arrays = self.pairs.packable("pairs")
        return pack({"kind": "segments", **header}, {"positives": self.positives, "rated": self.rated, **arrays})

    @classmethod
    def from_bytes(cls, data: bytes) -> "SegmentAccumulator":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is damaged or something else.
        """
        header, arrays = unpack(data)
        if header.get("kind") != "segments":
            raise ValueError("not the metrics of segments")
        result = cls(arrays["positives"].size)
        result.positives, result.rated = arrays["positives"], arrays["rated"]
        result.pairs.restore("pairs", header, arrays)
        return result

    def result(self, depth: int = DEPTH) -> dict[str, Any]:
        """MAP@K with its certified interval, and AP@K by class.

        Args:
            depth: K, how many of a class's best segments count.

        Returns:
            map_at_k, map_at_k_lower, map_at_k_upper (NaN when no class has a positive), k, rated_pairs, positive_pairs,
            classes_with_positives; and `ap` (C,) float64, NaN for classes without a positive.
        """
        self.pairs.compact()
        sums = kernels.cell_precisions(
            (self.pairs.keys >> np.uint64(32)).astype(np.int64),
            self.pairs.counts[:, 0],
            self.pairs.counts[:, 1],
            depth,
            self.class_count,
        )
        seen = self.positives > 0
        ap = np.full((self.class_count, 3), np.nan)
        ap[seen] = np.clip(sums[seen] / self.positives[seen, None], 0, 1)  # a sum may be rounded above its count
        means = ap[seen].mean(axis=0).tolist() if seen.any() else [float("nan")] * 3
        return {
            "map_at_k": means[0],
            "map_at_k_lower": means[1],
            "map_at_k_upper": means[2],
            "k": depth,
            "rated_pairs": int(self.rated.sum()),
            "positive_pairs": int(self.positives.sum()),
            "classes_with_positives": int(seen.sum()),
            "ap": ap[:, 0],
        }

    def to_files(self, classes: "Sequence[ClassInfo]") -> tuple[dict[str, Any], bytes]:
        """The entry `segments` of metrics.json, and segment_per_class.csv: index, name, rated, positives, ap_at_k."""
        summary = self.result()
        precisions = summary.pop("ap").tolist()
        rows = [
            (entry.index, entry.name, rated, positives, "" if ap != ap else f"{ap:.6g}")
            for entry, rated, positives, ap in zip(
                classes, self.rated.tolist(), self.positives.tolist(), precisions, strict=True
            )
        ]
        text = tables.write_csv(("index", "name", "rated", "positives", "ap_at_k"), rows)
        return {key: None if value != value else value for key, value in summary.items()}, text.encode()
