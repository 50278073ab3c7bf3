"""Metrics by the value of a context feature, light enough for one set per value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vcls_model.metrics import kernels
from vcls_model.metrics.binning import bin_edges
from vcls_model.metrics.kernels import BestRows
from vcls_model.metrics.layout import TOP
from vcls_model.metrics.packing import pack, unpack
from vcls_model.metrics.ranking import select_best, shortened, starts_of
from vcls_model.metrics.sparse import ScoreSketch

MOST_VALUES = 64
# The value of a video that lacks the feature.
NO_VALUE = "(none)"
_BUDGET = 1 << 14
# Lower ends, in logits, of the cells in which a value's full rankings are counted: 8 per logit where rankings are
# decided, 1 beyond.
_CELL_ENDS = np.concatenate([np.arange(-20, -7), np.arange(-56, 32) / 8, np.arange(4, 20)])
_CELL_OF_BIN = np.searchsorted(_CELL_ENDS, bin_edges()[:-1], side="right") - 1
# Certified intervals are widened by what double precision can lose in a sum.
_ROUNDING = 1e-12


class _Slice:
    """The counts of one value."""

    def __init__(self, class_count: int) -> None:
        self.videos = 0
        self.labels = 0
        self.hits_at_1 = 0
        # label count << 32 | labels among as many best: number of videos
        self.recall_counts: dict[int, int] = {}
        self.pairs = ScoreSketch(_BUDGET)
        # (C, cells) counts of all scores and of those of true labels; None once what is added has none.
        shape = (class_count, _CELL_ENDS.size)
        self.tables: tuple[np.ndarray, np.ndarray] | None = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)

    def mean_average_precision(self) -> np.ndarray:
        """Mean over the classes with a positive of average precision: with the scores of a cell tied, and its bounds.

        NaN without such a class.
        """
        if self.tables is None:
            return np.full(3, np.nan)
        cells = np.zeros(_CELL_ENDS.size)
        sums = kernels.class_statistics(*self.tables, cells, cells.astype(np.int64), 1)[:, :4]
        seen = sums[:, 0] > 0
        if not seen.any():
            return np.full(3, np.nan)
        means = (sums[seen, 1:] / sums[seen, :1]).mean(axis=0)
        return np.clip(means + [0, -_ROUNDING, _ROUNDING], 0, 1)

    def add_recall(self, counts: dict[int, int]) -> None:
        for key, count in counts.items():
            self.recall_counts[key] = self.recall_counts.get(key, 0) + count


class SliceAccumulator:
    """GAP@20, mAP, Hit@1 and PERR for each value of a feature, such as the upload year; mergeable to the bit.

    At most 64 values, of 4 MB each at 3,862 classes: the full rankings are counted in cells of 1/8 logit, and the
    certified interval of mAP says what that costs.
    """

    def __init__(self, class_count: int, feature: str):
        """Args:
        class_count: number of classes C.
        feature: name of the context feature.
        """
        if class_count < 1:
            raise ValueError(f"class_count must be at least 1, got {class_count}")
        self.class_count = class_count
        self.feature = feature
        self.slices: dict[str, _Slice] = {}

    def update(
        self,
        logits: np.ndarray,
        label_values: np.ndarray,
        label_lengths: np.ndarray,
        values: Sequence[str],
        best: BestRows | None = None,
    ) -> None:
        """Adds a batch; arguments as for `MetricAccumulator.update`, with B feature values in place of ids.

        Raises:
            ValueError: as there, or the feature has more than 64 values.
        """
        logits = np.ascontiguousarray(logits, np.float32)
        lengths, labels = np.asarray(label_lengths, np.int64), np.asarray(label_values, np.int64)
        if logits.ndim != 2 or logits.shape[1] != self.class_count:
            raise ValueError(f"logits must have shape (B, {self.class_count}), got {logits.shape}")
        if len(values) != len(logits) or lengths.shape != (len(logits),) or lengths.sum() != labels.size:
            raise ValueError(
                f"{len(logits)} rows of logits, but {len(values)} values, {lengths.shape} label lengths "
                f"that add to {lengths.sum()} for {labels.size} labels"
            )
        if ((labels < 0) | (labels >= self.class_count)).any():
            raise ValueError(f"a label is outside [0, {self.class_count})")
        distinct = sorted(set(values))
        if len(self.slices.keys() | set(distinct)) > MOST_VALUES:
            raise ValueError(f"the feature {self.feature!r} has more than {MOST_VALUES} values")
        rows = np.repeat(np.arange(len(logits)), lengths)
        truth = set((rows * self.class_count + labels).tolist())
        counts = (
            np.bincount([key // self.class_count for key in truth], minlength=len(logits))
            if truth
            else np.zeros(len(logits), np.int64)
        )
        keep = min(TOP, self.class_count)
        sizes = np.maximum(counts, keep)
        rows_best = select_best(logits, sizes) if best is None else shortened(best, sizes)
        top_class, top_logit, starts = rows_best
        places = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
        owners = np.repeat(np.arange(len(logits)), np.diff(starts))
        hits = np.isin(owners * self.class_count + top_class, np.fromiter(truth, np.int64, len(truth)))
        recalled = np.bincount(owners, hits & (places < counts[owners]), len(logits)).astype(np.int64)
        first_hit = hits[starts[:-1]]
        keys = kernels.pair_keys(np.zeros(starts[-1], np.int64), top_logit, hits)
        label_starts = starts_of(counts)
        classes = np.array(sorted(truth), np.int64) % self.class_count
        of_value = {value: number for number, value in enumerate(distinct)}
        numbers = np.array([of_value[value] for value in values], np.int64)
        for number, value in enumerate(distinct):
            chosen = numbers == number
            target = self.slices.get(value) or self.slices.setdefault(value, _Slice(self.class_count))
            target.videos += int(chosen.sum())
            if target.tables is not None:
                kernels.count_in_cells(
                    logits, np.flatnonzero(chosen), classes, label_starts, _CELL_OF_BIN, *target.tables
                )
            target.labels += int(counts[chosen].sum())
            target.hits_at_1 += int(first_hit[chosen].sum())
            target.pairs.add(keys[chosen[owners] & (places < keep)])
            found, times = np.unique((counts[chosen] << 32) | recalled[chosen], return_counts=True)
            target.add_recall(dict(zip(found.tolist(), times.tolist(), strict=True)))

    def merge(self, other: "SliceAccumulator") -> None:
        """Adds the videos of `other`, which stays as it is.

        Raises:
            ValueError: `other` slices by another feature or other classes, or there are more than 64 values.
        """
        if (self.class_count, self.feature) != (other.class_count, other.feature):
            raise ValueError(
                f"cannot merge slices by {self.feature!r} of {self.class_count} classes with slices by "
                f"{other.feature!r} of {other.class_count}"
            )
        if len(self.slices.keys() | other.slices.keys()) > MOST_VALUES:
            raise ValueError(f"the feature {self.feature!r} has more than {MOST_VALUES} values")
        for value, source in other.slices.items():
            target = self.slices.get(value) or self.slices.setdefault(value, _Slice(self.class_count))
            if target.tables is None or source.tables is None:
                target.tables = None
            else:
                for mine, theirs in zip(target.tables, source.tables, strict=True):
                    mine += theirs
            target.videos += source.videos
            target.labels += source.labels
            target.hits_at_1 += source.hits_at_1
            target.add_recall(source.recall_counts)
            target.pairs.merge(source.pairs)

    def to_bytes(self) -> bytes:
        """The state, compressed; the same multiset of videos always gives the same bytes."""
        header: dict[str, Any] = {"kind": "slices", "class_count": self.class_count, "feature": self.feature}
        arrays: dict[str, np.ndarray] = {}
        entries = []
        for number, (value, state) in enumerate(sorted(self.slices.items())):
            entry, columns = state.pairs.packable(f"pairs{number:02d}")
            header |= entry
            arrays |= columns
            if state.tables is not None:
                arrays[f"table{number:02d}"], arrays[f"positives{number:02d}"] = state.tables
            entries.append([value, state.videos, state.labels, state.hits_at_1, sorted(state.recall_counts.items())])
        return pack({**header, "slices": entries}, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "SliceAccumulator":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: `data` is damaged or something else.
        """
        header, arrays = unpack(data)
        if header.get("kind") != "slices":
            raise ValueError("not the metrics of slices")
        result = cls(header["class_count"], header["feature"])
        for number, (value, videos, labels, hits_at_1, recall_counts) in enumerate(header["slices"]):
            state = result.slices[value] = _Slice(result.class_count)
            names = [f"{name}{number:02d}" for name in ("table", "positives")]
            # Earlier versions kept no tables.
            state.tables = (arrays[names[0]], arrays[names[1]]) if set(names) <= arrays.keys() else None
            state.videos, state.labels, state.hits_at_1 = videos, labels, hits_at_1
            state.recall_counts = dict(recall_counts)
            state.pairs.restore(f"pairs{number:02d}", header, arrays)
        return result

    def result(self) -> dict[str, dict[str, Any]]:
        """Figures by value, for `summary["slices"][feature]`."""
        figures = {}
        for value, state in sorted(self.slices.items()):
            state.pairs.compact()
            sums = kernels.cell_precisions(
                np.zeros(state.pairs.keys.size, np.int64),
                state.pairs.counts[:, 0],
                state.pairs.counts[:, 1],
                np.iinfo(np.int64).max // 2,
                1,
            )[0]
            gap = np.clip(sums / state.labels, 0, 1) if state.labels else np.full(3, np.nan)
            recall = sum(
                count * (key & 0xFFFFFFFF) / (key >> 32)
                for key, count in sorted(state.recall_counts.items())
                if key >> 32
            )
            mean = state.mean_average_precision()
            figures[value] = {
                "videos": state.videos,
                "labels": state.labels,
                "gap_at_20": float(gap[0]),
                "gap_at_20_lower": float(gap[1]),
                "gap_at_20_upper": float(gap[2]),
                "map": float(mean[0]),
                "map_lower": float(mean[1]),
                "map_upper": float(mean[2]),
                "hit_at_1": state.hits_at_1 / state.videos,
                "perr": recall / state.videos,
            }
        return figures
