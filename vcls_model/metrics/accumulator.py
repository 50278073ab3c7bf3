"""`MetricAccumulator`: all metrics of a multi-label classifier from one pass over its scores, mergeable to the bit."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model.metrics import kernels
from vcls_model.metrics.binning import BIN_COUNT, logit_of
from vcls_model.metrics.layout import COARSE_EDGES, EXAMPLE_KINDS, FALSE_ALARMS, GROUPS, HITS, MISSES, TOP
from vcls_model.metrics.packing import pack, unpack
from vcls_model.metrics.ranking import NotANumberError, select_best, shortened, starts_of
from vcls_model.metrics.sparse import SampledCounts, ScoreSketch
from vcls_model.records.splits import hashes_of_ids

CLASS_PAIR_BUDGET = 1 << 19
POOLED_PAIR_BUDGET = 1 << 17
CONFUSION_BUDGET = 1 << 19
# Up to this many scores (414 videos of 3,862 classes) the ranking is kept whole; it packs to some 4 MB.
EXACT_SCORES = 1_600_000
EXAMPLES_KEPT = 25
_MAX_EXAMPLE_LABELS = 100
# So many additions fit into 16 bits on top of a count that `carry_counts` left.
_MOST_BEFORE_CARRY = 32_768
_VERSION = 2


@dataclasses.dataclass(frozen=True, order=True)
class Example:
    """The most confident score of one kind in a video; sorts in the order of display.

    Attributes:
        key: the logit, negated where high ones come first.
        id: of the video.
        class_index: whose score it is.
        logit: the score.
        labels: the video's true classes, ascending (the first 100).
    """

    key: float
    id: bytes
    class_index: int
    logit: float
    labels: tuple[int, ...]


class MetricAccumulator:
    """Counts from which every metric of `catalogue.py` follows, for C classes and any number of videos.

    The state holds integers only, so that `merge` is associative and commutative to the bit: any partition of the
    videos over batches and workers, merged in any order, gives the same `to_bytes()`.

    Tie rules. Inside a video, equal scores rank by ascending class index. In a ranking over videos, equal scores count
    as one threshold, as scikit-learn counts them: each positive among them gets the precision at the end of the tie.
    The same rule holds for scores that share a bin, or a cell of a `ScoreSketch` beyond its budget, so that each figure
    is scikit-learn's on scores rounded to the bins; its certified interval covers every order inside them.

    Up to `exact_scores` scores the full ranking is kept whole, so that small sets have no error but ties; beyond, it is
    counted in bins (`binning.py`), and the interval says what that costs.

    Memory at 3,862 classes: two tables of 33 MB, one of 16 MB and 25 MB of group tables, of which only the pages
    touched are resident, and at most 25 MB of sparse counts.
    """

    def __init__(
        self,
        class_count: int,
        *,
        threshold: float = 0.5,
        class_thresholds: np.ndarray | None = None,
        exact_scores: int = EXACT_SCORES,
    ):
        """Args:
            class_count: number of classes C.
            threshold: probability from which a class counts as predicted.
            class_thresholds: (C,) probabilities, one per class, for the second set of precision, recall and F1.
            exact_scores: largest number of scores (videos times classes) at which the full ranking is kept whole.

        Raises:
            ValueError: a count or threshold is out of range or has the wrong shape.
        """
        if class_count < 1 or class_count >= 1 << 30:
            raise ValueError(f"class_count must be in [1, 2^30), got {class_count}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self.class_count = int(class_count)
        self.threshold = float(threshold)
        self.class_thresholds: np.ndarray | None = None
        rows = [np.full(class_count, logit_of(threshold))]
        if class_thresholds is not None:
            self.class_thresholds = np.asarray(class_thresholds, np.float64)
            if self.class_thresholds.shape != (class_count,):
                raise ValueError(
                    f"class_thresholds must have shape ({class_count},), got {self.class_thresholds.shape}"
                )
            rows.append(logit_of(self.class_thresholds))
        self._logit_thresholds = np.stack(rows).astype(np.float32)
        self.videos = 0
        self.hits_at_1 = 0
        self.table = np.zeros((class_count, BIN_COUNT), np.uint32)
        self.positives = np.zeros((class_count, BIN_COUNT), np.uint32)
        # Added to first, and part of the count of each cell: half as wide, twice as much of it stays in the caches.
        # Only what outgrows it goes to `table`, few cells of which are ever touched before millions of videos.
        self._low_counts = np.zeros((class_count, BIN_COUNT), np.uint16)
        self._since_carry = 0
        self.exact_scores = int(exact_scores)
        # (C, n) blocks of score keys, each row one class; None once the scores went into the tables.
        self._exact: list[np.ndarray] | None = []
        self.predicted = np.zeros((len(rows), class_count), np.int64)
        self.true_positives = np.zeros((len(rows), class_count), np.int64)
        cells = COARSE_EDGES.size + 1
        self.group_positives = np.zeros((class_count, cells, GROUPS), np.uint32)
        self.group_negatives = np.zeros((class_count, cells, GROUPS), np.uint32)
        self.pooled_hits = np.zeros((BIN_COUNT, GROUPS), np.uint32)
        self.pooled_totals = np.zeros((BIN_COUNT, GROUPS), np.uint32)
        self.group_videos = np.zeros(GROUPS, np.int64)
        self.group_labels = np.zeros(GROUPS, np.int64)
        self.class_pairs = ScoreSketch(CLASS_PAIR_BUDGET)
        self.pooled_pairs = ScoreSketch(POOLED_PAIR_BUDGET)
        self.confused = SampledCounts(CONFUSION_BUDGET)
        # Histogram keyed by (number of labels n << 32 | number of them among the video's n best), for PERR.
        self.recall_counts: dict[int, int] = {}
        self.examples: dict[str, list[Example]] = {kind: [] for kind in EXAMPLE_KINDS}

    def update(
        self,
        logits: np.ndarray,
        label_values: np.ndarray,
        label_lengths: np.ndarray,
        ids: Sequence[bytes],
        best: kernels.BestRows | None = None,
    ) -> None:
        """Adds a batch of labelled videos. On an error nothing is added.

        Args:
            logits: (B, C) float32; infinities are legal.
            label_values: (n,) integers, the true classes of all videos, one video after the other. A class named
                twice for a video counts once.
            label_lengths: (B,) integers that add to n.
            ids: B video ids; they choose the video's bootstrap group and name it among the examples.
            best: the best classes of these logits, where the caller has selected them already: of each video at least
                20 (or C) and as many as it has labels.

        Raises:
            ValueError: a shape does not fit, a label lies outside [0, C), or a logit is NaN (the message names the
                first row and class).
        """
        logits = np.ascontiguousarray(logits, np.float32)
        if logits.ndim != 2 or logits.shape[1] != self.class_count:
            raise ValueError(f"logits must have shape (B, {self.class_count}), got {logits.shape}")
        batch = logits.shape[0]
        lengths = np.asarray(label_lengths, np.int64)
        labels = np.asarray(label_values, np.int64)
        if lengths.shape != (batch,) or len(ids) != batch:
            raise ValueError(f"{batch} rows of logits, but {lengths.shape} label lengths and {len(ids)} ids")
        if labels.ndim != 1 or (lengths < 0).any() or lengths.sum() != labels.size:
            raise ValueError(f"label lengths add to {lengths.sum()}, but there are {labels.size} labels")
        outside = np.flatnonzero((labels < 0) | (labels >= self.class_count))
        if outside.size:
            row = int(np.searchsorted(np.cumsum(lengths), outside[0], side="right"))
            raise ValueError(f"row {row}: label {labels[outside[0]]} is outside [0, {self.class_count})")
        if batch == 0:
            return
        keyed = np.unique(np.repeat(np.arange(batch), lengths) * self.class_count + labels)
        rows, labels = np.divmod(keyed, self.class_count)
        lengths = np.bincount(rows, minlength=batch)
        self._update(logits, labels, lengths, ids, best)

    def _update(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        lengths: np.ndarray,
        ids: Sequence[bytes],
        selected: kernels.BestRows | None,
    ) -> None:
        batch = lengths.size
        keep = min(TOP, self.class_count)
        truth = kernels.LabelRows(labels, starts_of(lengths))
        best = self._best_of(logits, np.maximum(lengths, keep), ids, selected)
        predicted = np.zeros(self.predicted.shape, np.int32)
        kernels.count_reached(logits, best, self._logit_thresholds, self._logit_thresholds.min(axis=1), predicted)
        hashes = hashes_of_ids(ids)
        groups = (hashes & np.uint64(GROUPS - 1)).astype(np.int64)
        hits, label_hits = kernels.mark_hits(truth, best, self.class_count)
        worst_missed = kernels.count_labels(
            logits, truth, groups, self._logit_thresholds, COARSE_EDGES, self.true_positives, self.group_positives
        )
        pair_keys, best_hit, best_false = kernels.count_best(
            best, hits, keep, groups, COARSE_EDGES, self.group_negatives, self.pooled_hits, self.pooled_totals
        )
        confused, confused_row = kernels.confused_classes(truth, best, hits, label_hits, self.class_count)
        self.predicted += predicted
        self.videos += batch
        if self._exact is not None and self.videos * self.class_count <= self.exact_scores:
            self._exact.append(kernels.score_keys(logits, labels, truth.starts))
        else:
            self._spill()
            self._count_scores(logits)
            kernels.count_positives(logits, labels, truth.starts, self.positives)
        self.group_videos += np.bincount(groups, minlength=GROUPS)
        self.group_labels += np.bincount(groups, lengths, GROUPS).astype(np.int64)
        self.hits_at_1 += int(np.count_nonzero(hits[best.starts[:-1]]))
        self.class_pairs.add(pair_keys)
        self.pooled_pairs.add(pair_keys & np.uint64((1 << 33) - 1))
        ranks = _trailing_zeros(hashes >> np.uint64(6))
        self.confused.add(confused, ranks[confused_row])
        keys, counts = np.unique((lengths << 32) | label_hits, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.recall_counts[key] = self.recall_counts.get(key, 0) + count
        for kind, chosen, sign in (
            (HITS, best_hit, -1.0),
            (MISSES, worst_missed, 1.0),
            (FALSE_ALARMS, best_false, -1.0),
        ):
            self._add_examples(kind, chosen, sign, logits, truth, ids)

    def _best_of(
        self, logits: np.ndarray, sizes: np.ndarray, ids: Sequence[bytes], selected: kernels.BestRows | None
    ) -> kernels.BestRows:
        """As many best classes of each row as `sizes` says."""
        if selected is not None:
            return shortened(selected, sizes)
        try:
            return select_best(logits, sizes)
        except NotANumberError as error:
            raise ValueError(
                f"row {error.row} (id {ids[error.row]!r}), class {error.column}: the logit is NaN"
            ) from None

    def _count_scores(self, logits: np.ndarray) -> None:
        for first in range(0, len(logits), _MOST_BEFORE_CARRY):
            part = logits[first : first + _MOST_BEFORE_CARRY]
            if self._since_carry + len(part) > _MOST_BEFORE_CARRY:
                kernels.carry_counts(self._low_counts, self.table)
                self._since_carry = 0
            kernels.count_scores(part, self._low_counts)
            self._since_carry += len(part)

    def _add_examples(
        self,
        kind: str,
        chosen: np.ndarray,
        sign: float,
        logits: np.ndarray,
        truth: kernels.LabelRows,
        ids: Sequence[bytes],
    ) -> None:
        rows = np.flatnonzero(chosen >= 0)
        keys = sign * logits[rows, chosen[rows]] + 0.0  # -0.0 and 0.0 are one score
        kept = self.examples[kind]
        if len(kept) == EXAMPLES_KEPT:
            close = keys <= kept[-1].key
            rows, keys = rows[close], keys[close]
        if rows.size > EXAMPLES_KEPT:
            close = keys <= np.partition(keys, EXAMPLES_KEPT - 1)[EXAMPLES_KEPT - 1]
            rows, keys = rows[close], keys[close]
        new = [
            Example(
                float(key),
                bytes(ids[row]),
                int(chosen[row]),
                float(logits[row, chosen[row]] + 0.0),
                tuple(truth.classes[truth.starts[row] : truth.starts[row + 1]][:_MAX_EXAMPLE_LABELS].tolist()),
            )
            for row, key in zip(rows.tolist(), keys, strict=True)
        ]
        if new:
            self.examples[kind] = sorted(kept + new)[:EXAMPLES_KEPT]

    def exact_keys(self) -> np.ndarray | None:
        """(C, videos) uint64 keys score << 1 | hit, each row ascending, while the ranking is kept whole, else None."""
        if self._exact is None:
            return None
        if len(self._exact) != 1:
            keys = np.concatenate([np.empty((self.class_count, 0), np.uint64), *self._exact], axis=1)
            self._exact = [keys]
        self._exact[0].sort(axis=1)
        return self._exact[0]

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts by class and bin of all scores and of those of true labels, (C, BIN_COUNT) uint32 each."""
        if self._exact is None:
            self.table += self._low_counts
            self._low_counts.fill(0)
            self._since_carry = 0
            return self.table, self.positives
        table, positives = np.zeros_like(self.table), np.zeros_like(self.positives)
        self._count_exact(table, positives)
        return table, positives

    def _count_exact(self, table: np.ndarray, positives: np.ndarray) -> None:
        for keys in self._exact or ():
            kernels.count_keys(keys, table, positives)

    def _spill(self) -> None:
        """Moves scores kept whole into the tables."""
        self._count_exact(self.table, self.positives)
        self._exact = None

    def merge(self, other: "MetricAccumulator") -> None:
        """Adds the videos of `other`, which stays as it is.

        Raises:
            ValueError: `other` counts other classes or uses other thresholds.
        """
        if self.class_count != other.class_count:
            raise ValueError(f"cannot merge metrics of {self.class_count} and of {other.class_count} classes")
        if not np.array_equal(self._logit_thresholds, other._logit_thresholds):
            raise ValueError("cannot merge metrics counted at different thresholds")
        if self.exact_scores != other.exact_scores:
            raise ValueError(f"cannot merge metrics exact to {self.exact_scores} and to {other.exact_scores} scores")
        if (
            self._exact is not None
            and other._exact is not None
            and (self.videos + other.videos) * self.class_count <= self.exact_scores
        ):
            self._exact = self._exact + [keys.copy() for keys in other._exact]
        else:
            self._spill()
            other._count_exact(self.table, self.positives)
        for name in _COUNT_ARRAYS:
            array = getattr(self, name)
            array += getattr(other, name)
        self.table += other._low_counts
        self.videos += other.videos
        self.hits_at_1 += other.hits_at_1
        for name in _SPARSE:
            getattr(self, name).merge(getattr(other, name))
        for key, count in other.recall_counts.items():
            self.recall_counts[key] = self.recall_counts.get(key, 0) + count
        for kind in EXAMPLE_KINDS:
            self.examples[kind] = sorted(self.examples[kind] + other.examples[kind])[:EXAMPLES_KEPT]

    def to_bytes(self) -> bytes:
        """The state, compressed; the same multiset of videos always gives the same bytes (with one zlib version)."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _COUNT_ARRAYS}
        arrays["table"] = (self.table, self._low_counts)
        header: dict[str, Any] = {
            "version": _VERSION,
            "class_count": self.class_count,
            "threshold": self.threshold,
            "class_thresholds": None if self.class_thresholds is None else self.class_thresholds.tolist(),
            "exact_scores": self.exact_scores,
            "videos": self.videos,
            "hits_at_1": self.hits_at_1,
            "recall_counts": sorted(self.recall_counts.items()),
            "examples": {
                kind: [[e.key, e.id.hex(), e.class_index, e.logit, e.labels] for e in examples]
                for kind, examples in self.examples.items()
            },
        }
        exact = self.exact_keys()
        if exact is not None:
            arrays["exact"] = np.diff(exact, axis=1, prepend=np.uint64(0))
        for name in _SPARSE:
            entry, columns = getattr(self, name).packable(name)
            header |= entry
            arrays |= columns
        return pack(header, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "MetricAccumulator":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is damaged or of another version.
        """
        header, arrays = unpack(data)
        if header.get("version") != _VERSION:
            raise ValueError(f"a metric accumulator of version {header.get('version')}; this program reads {_VERSION}")
        thresholds = header["class_thresholds"]
        result = cls(
            header["class_count"],
            threshold=header["threshold"],
            class_thresholds=None if thresholds is None else np.array(thresholds),
            exact_scores=header["exact_scores"],
        )
        result._exact = [np.cumsum(arrays["exact"], axis=1, dtype=np.uint64)] if "exact" in arrays else None
        for name in _COUNT_ARRAYS:
            setattr(result, name, arrays[name])
        result.videos, result.hits_at_1 = header["videos"], header["hits_at_1"]
        result.recall_counts = dict(header["recall_counts"])
        result.examples = {
            kind: [
                Example(key, bytes.fromhex(video_id), index, logit, tuple(labels))
                for key, video_id, index, logit, labels in examples
            ]
            for kind, examples in header["examples"].items()
        }
        for name in _SPARSE:
            getattr(result, name).restore(name, header, arrays)
        return result


_COUNT_ARRAYS = (
    "table",
    "positives",
    "predicted",
    "true_positives",
    "group_positives",
    "group_negatives",
    "pooled_hits",
    "pooled_totals",
    "group_videos",
    "group_labels",
)
_SPARSE = ("class_pairs", "pooled_pairs", "confused")


def _trailing_zeros(values: np.ndarray) -> np.ndarray:
    """Number of trailing zero bits of each uint64, at most 57."""
    lowest = values & (~values + np.uint64(1))
    return np.minimum(np.frexp(lowest.astype(np.float64))[1] - 1, 57).astype(np.int64) % 58
