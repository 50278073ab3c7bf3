"""From the counts of a `MetricAccumulator` to figures, curves and files."""

import dataclasses
import decimal
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vcls_model import storage, tables
from vcls_model.metrics import kernels
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import BIN_COUNT, bin_edges, bins_of, logit_of, nearest_edges, probability_of
from vcls_model.metrics.layout import COARSE_EDGES, EXAMPLE_KINDS, GROUPS
from vcls_model.records.ids import printable_id

if TYPE_CHECKING:
    from vcls_model.records.vocabulary import ClassInfo

CALIBRATION_BINS = 15
GRID = 101
RESAMPLES = 400
# Certified intervals are widened by what double precision can lose in a sum.
ROUNDING = 1e-12
# Below this number of positives a bootstrap says nothing about a single class.
FEWEST_FOR_CLASS_INTERVAL = 10
# Classes with positives, by falling support: the first tenth is the head, the next four tenths the torso.
HEAD_FRACTION, TORSO_FRACTION = 0.1, 0.5
_RESAMPLE_SEED = 20170214
_CLASSES_PER_CHUNK = 512
# By the end of a column's name.
_ROUNDING = {"lower": decimal.ROUND_FLOOR, "upper": decimal.ROUND_CEILING}


@dataclasses.dataclass(frozen=True)
class MetricResult:
    """The metrics of a set of videos.

    Attributes:
        summary: headline figures by name, as in metrics.json; NaN where a figure has no denominator.
        per_class: arrays of length C, by column of per_class.csv.
        curves: arrays by name, as in curves.npz.
        confusion: structured (n,): true_index, predicted_index, count; by falling count, then by index.
        examples: for hits, misses and false_alarms the most confident ones, each with id, class_index, probability and
            labels.
    """

    summary: dict[str, Any]
    per_class: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    confusion: np.ndarray
    examples: dict[str, list[dict[str, Any]]]

    def with_verticals(self, classes: "Sequence[ClassInfo]") -> dict[str, Any]:
        """The summary, its slices extended by one for each vertical (a class counts in each of its verticals).

        Raises:
            ValueError: `classes` are not the classes counted here.
        """
        self._check(classes)
        members: dict[str, list[int]] = {}
        for entry in classes:
            for vertical in entry.verticals:
                members.setdefault(vertical, []).append(entry.index)
        verticals = {name: slice_figures(self.per_class, np.array(members[name])) for name in sorted(members)}
        return {**self.summary, "slices": {**self.summary["slices"], "vertical": verticals}}

    def to_files(self, classes: "Sequence[ClassInfo]", more: Mapping[str, Any] | None = None) -> dict[str, bytes]:
        """File contents by name: metrics.json, per_class.csv, curves.npz, confusion.csv, examples.json.

        Args:
            classes: C classes, by index.
            more: further entries of metrics.json, such as `segments`.

        Raises:
            ValueError: `classes` are not the classes counted here.
        """
        curves = io.BytesIO()
        np.savez_compressed(curves, **self.curves)  # type: ignore[arg-type]
        return {
            "metrics.json": to_json({**self.with_verticals(classes), **(more or {})}),
            "per_class.csv": self._per_class_csv(classes),
            "curves.npz": curves.getvalue(),
            "confusion.csv": self._confusion_csv(classes),
            "examples.json": to_json(self.examples),
        }

    def _check(self, classes: "Sequence[ClassInfo]") -> None:
        expected = self.per_class["index"].size
        if [entry.index for entry in classes] != list(range(expected)):
            raise ValueError(f"the metrics count {expected} classes, but the vocabulary names {len(classes)}")

    def _per_class_csv(self, classes: "Sequence[ClassInfo]") -> bytes:
        columns = [name for name in self.per_class if name != "index"]
        lists = [_cells(self.per_class[name], _ROUNDING.get(name.rpartition("_")[2])) for name in columns]
        rows = (
            [entry.index, entry.name, "|".join(entry.verticals), *cells]
            for entry, *cells in zip(classes, *lists, strict=True)
        )
        return _csv(["index", "name", "vertical", *columns], rows)

    def _confusion_csv(self, classes: "Sequence[ClassInfo]") -> bytes:
        rows = (
            [true, classes[true].name, predicted, classes[predicted].name, count]
            for true, predicted, count in self.confusion.tolist()
        )
        return _csv(["true_index", "true_name", "predicted_index", "predicted_name", "count"], rows)


def best_thresholds(accumulator: MetricAccumulator) -> np.ndarray:
    """The probability threshold with the best F1 of each class, (C,) float64, each on a bin edge.

    To be chosen on validation data and handed to another accumulator as `class_thresholds`. The highest such edge when
    several are best; 0.5 for a class without positives.
    """
    statistics = _class_statistics(accumulator, *accumulator.tables())
    chosen = statistics[:, 5].astype(np.int64)
    return np.where(chosen < 0, 0.5, probability_of(bin_edges()[chosen]))


def compute_result(accumulator: MetricAccumulator) -> MetricResult:
    """All metrics of the videos counted so far; ratios without a denominator are NaN."""
    return compute_resampled(accumulator)[0]


def compute_resampled(accumulator: MetricAccumulator) -> tuple[MetricResult, dict[str, np.ndarray]]:
    """`compute_result`, and figures of R resamples of the videos, the same ones for every accumulator.

    Returns:
        The result; and `ap` (R, C), `map` (R,) and `gap` (R,), of which only the spread is of use.
    """
    table, positives = accumulator.tables()
    statistics = _class_statistics(accumulator, table, positives)
    per_class = _per_class(accumulator, statistics)
    seen = per_class["support"] > 0
    labels = int(per_class["support"].sum())
    videos = accumulator.videos
    gap = _gap(accumulator, labels)
    map_at_20 = _map_at_20(accumulator, per_class["support"])
    resampled = _resample(accumulator, table)
    per_class.update(_class_intervals(per_class, resampled["ap"]))
    mean_ap = _mean(per_class["ap"])
    totals, hits = (counts.sum(axis=0, dtype=np.int64) for counts in (table, positives))
    calibration = _calibration(totals, hits)
    top_calibration = _calibration(
        accumulator.pooled_totals.sum(axis=1, dtype=np.int64), accumulator.pooled_hits.sum(axis=1, dtype=np.int64)
    )
    tp, fp, fn = (int(per_class[name].sum()) for name in ("tp", "fp", "fn"))
    map_interval = _bootstrap_interval(mean_ap, resampled["map"])
    gap_interval = _bootstrap_interval(gap[0], resampled["gap"])
    summary = {
        "gap_at_20": gap[0],
        "gap_at_20_lower": gap[1],
        "gap_at_20_upper": gap[2],
        "gap_at_20_ci_low": gap_interval[0],
        "gap_at_20_ci_high": gap_interval[1],
        "map_at_20": map_at_20[0],
        "map_at_20_lower": map_at_20[1],
        "map_at_20_upper": map_at_20[2],
        "map": mean_ap,
        "map_lower": _mean(per_class["ap_lower"]),
        "map_upper": _mean(per_class["ap_upper"]),
        "map_ci_low": map_interval[0],
        "map_ci_high": map_interval[1],
        "hit_at_1": _ratio(accumulator.hits_at_1, videos),
        "perr": _ratio(
            sum(
                count * (key & 0xFFFFFFFF) / (key >> 32)
                for key, count in sorted(accumulator.recall_counts.items())
                if key >> 32
            ),
            videos,
        ),
        "macro_roc_auc": _mean(per_class["roc_auc"]),
        "precision_micro": _ratio(tp, tp + fp),
        "recall_micro": _ratio(tp, tp + fn),
        "f1_micro": _ratio(2 * tp, 2 * tp + fp + fn),
        "f1_macro": _mean(per_class["f1"][seen]),
        "f1_weighted": _ratio(float((per_class["f1"][seen] * per_class["support"][seen]).sum()), labels),
        "expected_calibration_error": _calibration_error(calibration),
        "expected_calibration_error_at_20": _calibration_error(top_calibration),
        "videos": videos,
        "labels": labels,
        "class_count": accumulator.class_count,
        "classes_with_positives": int(seen.sum()),
        "threshold": accumulator.threshold,
        "confusion_video_fraction": 2.0**-accumulator.confused.level,
        "slices": {"frequency": _frequency_slices(per_class)},
    }
    curves = (
        _ranking_curves(table, positives)
        | _threshold_curves(table, positives, totals, hits)
        | {
            "calibration_edges": np.linspace(0, 1, CALIBRATION_BINS + 1),
            "calibration_count": calibration[0],
            "calibration_confidence": calibration[1],
            "calibration_accuracy": calibration[2],
            "calibration_top_count": top_calibration[0],
            "calibration_top_confidence": top_calibration[1],
            "calibration_top_accuracy": top_calibration[2],
        }
    )
    result = MetricResult(summary, per_class, curves, _confusion(accumulator), _examples(accumulator))
    return result, resampled


def slice_figures(per_class: dict[str, np.ndarray], members: np.ndarray) -> dict[str, Any]:
    """Means over the classes `members` (indices) that have positives: one slice of metrics.json."""
    members = members[per_class["support"][members] > 0]
    tp, fp, fn = (int(per_class[name][members].sum()) for name in ("tp", "fp", "fn"))
    return {
        "classes": int(members.size),
        "labels": int(per_class["support"][members].sum()),
        "map": _mean(per_class["ap"][members]),
        "map_lower": _mean(per_class["ap_lower"][members]),
        "map_upper": _mean(per_class["ap_upper"][members]),
        "macro_roc_auc": _mean(per_class["roc_auc"][members]),
        "f1_macro": _mean(per_class["f1"][members]),
        "f1_micro": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def _bin_probabilities() -> np.ndarray:
    edges = bin_edges()
    return probability_of((edges[1:] + edges[:-1]) / 2)


def _calibration_cells() -> np.ndarray:
    return np.minimum((_bin_probabilities() * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _class_statistics(accumulator: MetricAccumulator, table: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The columns of `kernels.class_statistics`, the ranking's from every score while the accumulator has them."""
    statistics = kernels.class_statistics(
        table, positives, _bin_probabilities(), _calibration_cells(), CALIBRATION_BINS
    )
    exact = accumulator.exact_keys()
    if exact is not None:
        statistics[:, 1:5] = kernels.exact_statistics(exact)
    return statistics


def _per_class(accumulator: MetricAccumulator, statistics: np.ndarray) -> dict[str, np.ndarray]:
    support = statistics[:, 0].astype(np.int64)
    ap, lower, upper = _certified(*(_divide(statistics[:, i], support) for i in (1, 2, 3)))
    columns = {
        "index": np.arange(accumulator.class_count),
        "support": support,
        "ap": ap,
        "ap_lower": lower,
        "ap_upper": upper,
        "roc_auc": _divide(statistics[:, 4], support * (accumulator.videos - support)),
    }
    tp, predicted = accumulator.true_positives[0], accumulator.predicted[0]
    columns |= _counts_to_ratios(tp, predicted, support, "")
    columns |= {
        "tp": tp.copy(),
        "fp": predicted - tp,
        "fn": support - tp,
        "tn": accumulator.videos - predicted - support + tp,
    }
    missing = np.full(accumulator.class_count, np.nan)
    if accumulator.class_thresholds is None:
        columns |= {name: missing for name in ("best_threshold", "precision_best", "recall_best", "f1_best")}
    else:
        columns["best_threshold"] = accumulator.class_thresholds.copy()
        columns |= _counts_to_ratios(accumulator.true_positives[1], accumulator.predicted[1], support, "_best")
    columns["calibration_error"] = statistics[:, 7]
    columns["mean_probability"] = statistics[:, 8]
    return columns


def _counts_to_ratios(tp: np.ndarray, predicted: np.ndarray, support: np.ndarray, suffix: str) -> dict[str, np.ndarray]:
    return {
        "precision" + suffix: _divide(tp, predicted),
        "recall" + suffix: _divide(tp, support),
        "f1" + suffix: _divide(2 * tp, predicted + support),
    }


def _gap(accumulator: MetricAccumulator, labels: int) -> tuple[float, float, float]:
    sketch = accumulator.pooled_pairs
    sketch.compact()
    owners = np.zeros(sketch.keys.size, np.int64)
    sums = kernels.cell_precisions(owners, sketch.counts[:, 0], sketch.counts[:, 1], np.iinfo(np.int64).max // 2, 1)[0]
    tied, lower, upper = _certified(*_divide(sums[:, None], np.array([labels])))
    return float(tied[0]), float(lower[0]), float(upper[0])


def _map_at_20(accumulator: MetricAccumulator, support: np.ndarray) -> tuple[float, float, float]:
    sketch = accumulator.class_pairs
    sketch.compact()
    owners = (sketch.keys >> np.uint64(32)).astype(np.int64)
    sums = kernels.cell_precisions(
        owners, sketch.counts[:, 0], sketch.counts[:, 1], np.iinfo(np.int64).max // 2, accumulator.class_count
    )
    tied, lower, upper = _certified(*(_divide(sums[:, i], support) for i in range(3)))
    return _mean(tied), _mean(lower), _mean(upper)


def _certified(tied: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.clip(tied, 0, 1), np.clip(lower - ROUNDING, 0, 1), np.clip(upper + ROUNDING, 0, 1)


def _resample(accumulator: MetricAccumulator, table: np.ndarray) -> dict[str, np.ndarray]:
    """Bootstraps the groups of videos: draws as many groups, with replacement, `RESAMPLES` times.

    A group's table holds its positives and its hard negatives, those among a video's best 20, in coarse cells; the
    other negatives, far down the ranking and many, are scaled by the number of videos drawn instead of resampled.

    Returns:
        ap (R, C), map (R,) and gap (R,), each as the coarse cells give it: only the spread is of use.
    """
    generator = np.random.default_rng(_RESAMPLE_SEED)
    drawn = generator.multinomial(GROUPS, np.full(GROUPS, 1 / GROUPS), size=RESAMPLES).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = (drawn @ accumulator.group_videos) / max(accumulator.videos, 1)
    cells = COARSE_EDGES.size + 1
    starts = np.concatenate([[0], bins_of(COARSE_EDGES)])
    classes = accumulator.class_count
    ap = np.empty((RESAMPLES, classes))
    for first in range(0, classes, _CLASSES_PER_CHUNK):
        chunk = slice(first, min(first + _CLASSES_PER_CHUNK, classes))
        size = chunk.stop - chunk.start
        positives = accumulator.group_positives[chunk]
        negatives = accumulator.group_negatives[chunk]
        easy = (
            np.add.reduceat(table[chunk].astype(np.int64), starts, axis=1)
            - positives.sum(axis=2, dtype=np.int64)
            - negatives.sum(axis=2, dtype=np.int64)
        )
        hits, hard = (
            (drawn @ counts.reshape(size * cells, GROUPS).T.astype(np.float32)).reshape(RESAMPLES, size, cells)
            for counts in (positives, negatives)
        )
        sums, totals = kernels.resampled_precisions(hits, hard, easy.astype(np.float64), weights)
        ap[:, chunk] = _divide(sums, totals)
    pooled = drawn @ accumulator.pooled_hits.T.astype(np.float32)
    misses = drawn @ (accumulator.pooled_totals - accumulator.pooled_hits).T.astype(np.float32)
    sums, _ = kernels.resampled_precisions(
        pooled[:, None], misses[:, None], np.zeros((1, BIN_COUNT)), np.zeros(RESAMPLES)
    )
    return {"ap": ap, "map": _mean_rows(ap), "gap": _divide(sums[:, 0], drawn @ accumulator.group_labels)}


def _bootstrap_interval(figure: float, resampled: np.ndarray) -> tuple[float, float]:
    """95% interval: the resamples' deviations from their mean, put around the figure."""
    values = resampled[~np.isnan(resampled)]
    if values.size < 2 or math.isnan(figure):
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975]) - values.mean()
    return float(np.clip(figure + low, 0, 1)), float(np.clip(figure + high, 0, 1))


def _class_intervals(per_class: dict[str, np.ndarray], resampled: np.ndarray) -> dict[str, np.ndarray]:
    low, high = (np.full(resampled.shape[1], np.nan) for _ in range(2))
    enough = per_class["support"] >= FEWEST_FOR_CLASS_INTERVAL
    if enough.any():
        values = resampled[:, enough]
        quantiles = np.nanquantile(values, [0.025, 0.975], axis=0) - np.nanmean(values, axis=0)
        low[enough], high[enough] = np.clip(per_class["ap"][enough] + quantiles, 0, 1)
    return {"ap_ci_low": low, "ap_ci_high": high}


def _calibration(totals: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean probability and fraction of positives in even probability cells, from counts by logit bin.

    A score counts with the probability in the middle of its bin, which is within 0.001 of its own.
    """
    cells = _calibration_cells()
    count = np.bincount(cells, totals, CALIBRATION_BINS)
    confidence = np.bincount(cells, totals * _bin_probabilities(), CALIBRATION_BINS)
    positives = np.bincount(cells, hits, CALIBRATION_BINS)
    return count.astype(np.int64), _divide(confidence, count), _divide(positives, count)


def _calibration_error(calibration: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    count, confidence, accuracy = calibration
    return _ratio(float(np.nansum(count * np.abs(confidence - accuracy))), int(count.sum()))


def _frequency_slices(per_class: dict[str, np.ndarray]) -> dict[str, Any]:
    order = np.argsort(-per_class["support"], kind="stable")
    order = order[per_class["support"][order] > 0]
    head, torso = math.ceil(order.size * HEAD_FRACTION), math.ceil(order.size * TORSO_FRACTION)
    return {
        "head": slice_figures(per_class, order[:head]),
        "torso": slice_figures(per_class, order[head:torso]),
        "tail": slice_figures(per_class, order[torso:]),
    }


def _ranking_curves(table: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
    """Precision against recall and ROC: micro, macro, interquartile range over classes, and each class."""
    pr_class, roc_class = kernels.class_curves(table, positives, GRID)
    pooled, pooled_positives = (counts.sum(axis=0, dtype=np.int64, keepdims=True) for counts in (table, positives))
    pr_micro, roc_micro = kernels.class_curves(pooled, pooled_positives, GRID)
    grid = np.linspace(0, 1, GRID)
    curves = {"recall_grid": grid, "pr_micro": pr_micro[0], "fpr_grid": grid, "roc_micro": roc_micro[0]}
    for name, values in (("pr", pr_class), ("roc", roc_class)):
        rows = values[~np.isnan(values).any(axis=1)]
        if rows.size == 0:
            rows = np.full((1, GRID), np.nan, np.float32)
        low, high = np.quantile(rows, [0.25, 0.75], axis=0)
        curves |= {
            f"{name}_macro": rows.mean(axis=0, dtype=np.float64),
            f"{name}_band_low": low,
            f"{name}_band_high": high,
            f"{name}_class": values.astype(np.float16),
        }
    return curves


def _threshold_curves(
    table: np.ndarray, positives: np.ndarray, totals: np.ndarray, hits: np.ndarray
) -> dict[str, np.ndarray]:
    """Precision, recall and F1 at thresholds 0.01 ... 0.99, each moved to the nearest bin edge, within 0.001."""
    grid = np.arange(1, 100) / 100
    edges = nearest_edges(logit_of(grid))
    tp = np.cumsum(hits[::-1])[::-1][edges]
    predicted = np.cumsum(totals[::-1])[::-1][edges]
    labels = int(hits.sum())
    support = positives.sum(axis=1, dtype=np.int64)
    seen = np.flatnonzero(support > 0)
    f1_macro = np.full(grid.size, np.nan)
    if seen.size:
        f1_sum = np.zeros(grid.size)
        for chunk in np.array_split(seen, math.ceil(seen.size / _CLASSES_PER_CHUNK)):
            above = (np.add.reduceat(counts[chunk], edges, axis=1, dtype=np.int64) for counts in (positives, table))
            class_tp, class_predicted = (np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] for counts in above)
            f1_sum += (2 * class_tp / (class_predicted + support[chunk, None])).sum(axis=0)
        f1_macro = f1_sum / seen.size
    return {
        "threshold_grid": grid,
        "precision_micro": _divide(tp, predicted),
        "recall_micro": _divide(tp, np.full_like(tp, labels)),
        "f1_micro": _divide(2 * tp, predicted + labels),
        "f1_macro": f1_macro,
    }


def _confusion(accumulator: MetricAccumulator) -> np.ndarray:
    keys, counts = accumulator.confused.totals()
    rows = np.empty(keys.size, [("true_index", np.int32), ("predicted_index", np.int32), ("count", np.int64)])
    rows["true_index"], rows["predicted_index"] = np.divmod(keys, accumulator.class_count)
    rows["count"] = counts
    return rows[np.argsort(-counts, kind="stable")]


def _examples(accumulator: MetricAccumulator) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [
            {
                "id": printable_id(example.id),
                "class_index": example.class_index,
                "probability": float(probability_of(example.logit)),
                "labels": list(example.labels),
            }
            for example in accumulator.examples[kind]
        ]
        for kind in EXAMPLE_KINDS
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator != 0, np.asarray(numerator, np.float64) / denominator, np.nan)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan


def _mean(values: np.ndarray) -> float:
    """Mean of the entries that are defined; NaN when none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _mean_rows(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _cells(values: np.ndarray, rounding: str | None = None) -> list[object]:
    """The cells of a column, numbers to six digits: bounds are rounded outward, so that they stay bounds."""
    if values.dtype.kind != "f":
        return values.tolist()
    if rounding is None:
        return ["" if math.isnan(value) else f"{value:.6g}" for value in values.tolist()]
    context = decimal.Context(prec=6, rounding=rounding)
    rounded = (context.create_decimal_from_float(value) for value in values.tolist())
    return ["" if value.is_nan() else f"{float(value):.6g}" for value in rounded]


def _csv(header: list[str], rows: Iterable[Sequence[object]]) -> bytes:
    return tables.write_csv(header, rows).encode()


def to_json(value: Any) -> bytes:
    """A file's content; NaN and infinities become null."""
    return (storage.to_json(value, indent=1, ensure_ascii=False) + "\n").encode()
