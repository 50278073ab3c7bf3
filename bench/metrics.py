"""Speed and precision of the metrics at 3,862 classes, one line per figure.

    python bench/metrics.py [--scores=FILE.npz [--many=8000000]]

Speed is measured on scores of the scale of a real YouTube-8M classifier's: those of ../shared/data/reference repeated
with noise, or, where that is absent, made up with the same mean and spread. Times are CPU seconds of one thread, so
that other work on the machine changes the ratios little. Precision is measured on `--scores`, the real scores of a
model (an npz with the keys of reference/predictions.npz); without it these lines are left out. `--many` counts that
many videos instead, drawn from `--scores` with noise of half a logit, and shows the memory and packed size of
their accumulator.

References, on the same matrix and in the same run:

* starter: what google/youtube-8m's `eval_util` computes, in the way it does: for every video `argpartition` for its
  best 20, whose (class, score, label) go to per-class lists and a pooled list; Hit@1, PERR by a second `argpartition`;
  at the end one sort for GAP and one per class for MAP. The labels are the dense matrix that it is given.
* numpy: the best 20 of all videos of a batch by one `argpartition`, then the pooled sort: the least that a top-20-only
  pass in numpy can do, GAP alone.
* sklearn: `average_precision_score` of every class that has a positive.
"""

import argparse
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vcls_model.metrics.accumulator import MetricAccumulator  # noqa: E402
from vcls_model.metrics.result import compute_result  # noqa: E402

CLASSES = 3862
# As many as `pipelines.score` hands over at once.
BATCH = 2048
NUMPY_BATCH = 1024  # numpy is faster with it
PASSES = 4
REFERENCE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "reference" / "predictions.npz"


def scores(videos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (videos, 3862) float32, label values and label lengths."""
    generator = np.random.default_rng(1)
    if REFERENCE.exists():
        data = np.load(REFERENCE)
        rows = generator.integers(0, len(data["logits"]), videos)
        starts = np.concatenate([[0], np.cumsum(data["label_lens"])])
        logits = data["logits"][rows] + generator.normal(0, 0.5, (videos, CLASSES)).astype(np.float32)
        values = np.concatenate([data["label_flat"][starts[row] : starts[row + 1]] for row in rows])
        return logits, values, data["label_lens"][rows]
    popularity = 1 / np.arange(1, CLASSES + 1)
    lengths = generator.integers(1, 7, videos)
    labels = [generator.choice(CLASSES, size, replace=False, p=popularity / popularity.sum()) for size in lengths]
    logits = generator.normal(-6.2, 1.3, (videos, CLASSES)).astype(np.float32)
    values = np.concatenate(labels)
    logits[np.repeat(np.arange(videos), lengths), values] += generator.normal(5, 2, values.size).astype(np.float32)
    return logits, values, lengths


def dense(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    truth = np.zeros((lengths.size, CLASSES), bool)
    truth[np.repeat(np.arange(lengths.size), lengths), values] = True
    return truth


def accumulate(logits: np.ndarray, values: np.ndarray, lengths: np.ndarray, passes: int = 1) -> MetricAccumulator:
    accumulator = MetricAccumulator(CLASSES)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for turn in range(passes):
        for first in range(0, lengths.size, BATCH):
            last = min(first + BATCH, lengths.size)
            accumulator.update(
                logits[first:last],
                values[starts[first] : starts[last]],
                lengths[first:last],
                [b"%d-%d" % (turn, row) for row in range(first, last)],
            )
    return accumulator


def precision_sum(pairs: list[tuple[float, bool]]) -> float:
    pairs.sort(key=lambda pair: -pair[0])
    hits = np.array([hit for _, hit in pairs], float)
    return float((hits * np.cumsum(hits) / np.arange(1, hits.size + 1)).sum())


def starter(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Top-20 metrics in the manner of the starter."""
    by_class: list[list[tuple[float, bool]]] = [[] for _ in range(CLASSES)]
    pooled: list[tuple[float, bool]] = []
    hits, perr = 0, 0.0
    for row, labels in zip(probabilities, truth, strict=True):
        best = np.argpartition(row, -20)[-20:]
        triplets = [(index, row[index], labels[index]) for index in best]
        for index, score, label in triplets:
            by_class[index].append((score, label))
            pooled.append((score, label))
        hits += bool(labels[np.argmax(row)])
        count = int(labels.sum())
        if count:
            perr += labels[np.argpartition(row, -count)[-count:]].mean()
    positives = truth.sum(axis=0)
    return {
        "gap_at_20": precision_sum(pooled) / positives.sum(),
        "map_at_20": float(np.mean([precision_sum(by_class[c]) / positives[c] for c in np.flatnonzero(positives)])),
        "hit_at_1": hits / len(truth),
        "perr": perr / len(truth),
    }


def numpy_gap(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """GAP@20 alone, the selection vectorised over a batch."""
    kept = []
    for first in range(0, len(truth), NUMPY_BATCH):
        part = probabilities[first : first + NUMPY_BATCH]
        best = np.argpartition(part, -20, axis=1)[:, -20:]
        kept.append(
            (np.take_along_axis(part, best, 1), np.take_along_axis(truth[first : first + NUMPY_BATCH], best, 1))
        )
    pooled, hits = (np.concatenate([pair[i] for pair in kept]).ravel() for i in (0, 1))
    ranked = hits[np.argsort(-pooled)].astype(float)
    return float((ranked * np.cumsum(ranked) / np.arange(1, ranked.size + 1)).sum() / truth.sum())


def cpu_seconds(work) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def line(name: str, unit: str, figure: float, reference: float, target: str) -> None:
    print(f"{name}  {unit}={figure:.0f}  reference={reference:.0f}  ratio={figure / reference:.1f}x  target{target}")


def scikit_learn(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Average precision of every class; `logits` and `truth` lie row by row, which scikit-learn is fastest on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return average_precision_score(truth, logits, average=None)


def speed(videos: int) -> None:
    """Prints videos per second beside the references, and that all agree."""
    logits, values, lengths = scores(videos)
    truth = dense(values, lengths)
    probabilities = 1 / (1 + np.exp(-logits))
    compute_result(accumulate(logits[:BATCH], values[: lengths[:BATCH].sum()], lengths[:BATCH]))  # compiles
    few = min(videos, 2048)
    seconds, starter_seconds = [], []
    for _ in range(3):
        taken, accumulator = cpu_seconds(lambda: accumulate(logits, values, lengths, PASSES))
        seconds.append(taken)
        taken, starter_figures = cpu_seconds(lambda: starter(probabilities[:few], truth[:few]))
        starter_seconds.append(taken)
    figure = PASSES * videos / min(seconds)
    numpy_seconds, numpy_figure = cpu_seconds(lambda: numpy_gap(probabilities, truth))
    # Scikit-learn takes as long for any class; a part of them is enough to know its speed.
    some = np.flatnonzero(truth.any(axis=0))[:: 1 + CLASSES // 1000]
    some_truth, some_logits = np.ascontiguousarray(truth[:, some]), np.ascontiguousarray(logits[:, some])
    sklearn_seconds, precisions = cpu_seconds(lambda: scikit_learn(some_truth, some_logits))
    line("metrics_vs_starter_top20", "videos/s", figure, few / min(starter_seconds), ">=6x")
    line("metrics_vs_numpy_gap_only", "videos/s", figure, videos / numpy_seconds, ">=1x")
    line("metrics_vs_sklearn_ap", "videos/s", figure, videos / (sklearn_seconds * CLASSES / some.size), ">=20x")

    result = compute_result(accumulate(logits, values, lengths))
    few_summary = compute_result(accumulate(logits[:few], values[: lengths[:few].sum()], lengths[:few])).summary
    difference = max(abs(few_summary[name] - value) for name, value in starter_figures.items())
    difference = max(difference, abs(result.summary["gap_at_20"] - numpy_figure))
    print(
        f"metrics_agreement  largest_difference={difference:.1e}  reference=starter+numpy  "
        f"ratio={1e-6 / difference:.1f}x  target<=1e-6"
    )
    inside = (result.per_class["ap_lower"][some] <= precisions) & (precisions <= result.per_class["ap_upper"][some])
    print(
        f"metrics_ap_in_interval  classes={inside.sum()}  reference={some.size}  ratio={inside.mean():.3f}x  target>=1x"
    )
    taken, packed = cpu_seconds(accumulator.to_bytes)
    print(
        f"metrics_shuffled  MB={len(packed) / 1e6:.2f}  reference=12  ratio={12e6 / len(packed):.1f}x  target<=12  "
        f"({accumulator.videos} videos, packed in {taken:.2f} s)"
    )
    taken, _ = cpu_seconds(lambda: compute_result(accumulator))
    print(f"metrics_result  seconds={taken:.2f}  reference=2  ratio={2 / taken:.1f}x  target<=2")


def precision(path: Path) -> None:
    """How wide the certified intervals are on real scores, and that scikit-learn's values lie in them."""
    data = np.load(path)
    logits, values, lengths = data["logits"], data["label_flat"], data["label_lens"]
    accumulator = accumulate(logits, values, lengths)
    result = compute_result(accumulator)
    summary = result.summary
    seen = np.flatnonzero(result.per_class["support"])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(np.arange(lengths.size), lengths)
    inside, precisions = 0, []
    for chunk in np.array_split(seen, -(-seen.size // 200)):
        truth = np.zeros((lengths.size, CLASSES), bool)
        truth[rows, values] = True
        figures = scikit_learn(np.ascontiguousarray(truth[:, chunk]), np.ascontiguousarray(logits[:, chunk]))
        inside += int(
            ((result.per_class["ap_lower"][chunk] <= figures) & (figures <= result.per_class["ap_upper"][chunk])).sum()
        )
        precisions.append(figures)
    exact = float(np.concatenate(precisions).mean())
    for name, width in (("map", 0.001), ("gap_at_20", 0.0001)):
        measured = summary[f"{name}_upper"] - summary[f"{name}_lower"]
        print(
            f"metrics_{name}_interval  width={measured:.6f}  reference={width}  ratio={width / measured:.1f}x  "
            f"target<={width}  ({starts.size - 1} videos)"
        )
    print(
        f"metrics_sklearn_inside  classes={inside}  reference={seen.size}  ratio={inside / seen.size:.4f}x  "
        f"target>=1x  (map in [{summary['map_lower']:.6f}, {summary['map_upper']:.6f}], sklearn's {exact:.6f})"
    )
    size = len(accumulator.to_bytes())
    print(f"metrics_shuffled_real  MB={size / 1e6:.2f}  reference=12  ratio={12e6 / size:.1f}x  target<=12")


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def size_at_scale(path: Path, videos: int) -> None:
    """Memory and packed size of an accumulator of many videos."""
    data = np.load(path)
    logits, values, lengths = data["logits"], data["label_flat"], data["label_lens"]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    generator = np.random.default_rng(7)
    noise = generator.normal(0, 0.5, (4 * BATCH, CLASSES)).astype(np.float32)
    batch = np.empty((BATCH, CLASSES), np.float32)
    before, most = resident_mb(), 0.0
    accumulator = MetricAccumulator(CLASSES)
    for first in range(0, videos, BATCH):
        rows = generator.integers(0, len(logits), BATCH)
        np.add(logits[rows], noise[generator.integers(0, len(noise), BATCH)], out=batch)
        accumulator.update(
            batch,
            np.concatenate([values[starts[row] : starts[row + 1]] for row in rows]),
            lengths[rows],
            [b"%d" % row for row in range(first, first + BATCH)],
        )
        most = max(most, resident_mb() - before)
    packed = accumulator.to_bytes()
    print(
        f"metrics_memory_at_scale  MB={most:.0f}  reference=256  ratio={256 / most:.1f}x  target<=256  "
        f"({accumulator.videos} videos, with the rows being counted)"
    )
    print(
        f"metrics_shuffled_at_scale  MB={len(packed) / 1e6:.2f}  reference=12  ratio={12e6 / len(packed):.2f}x  "
        f"target<=12  ({accumulator.videos} videos)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scores", type=Path, help="npz of real scores: logits, label_flat, label_lens")
    parser.add_argument("--many", type=int, metavar="VIDEOS", help="only count that many videos drawn from --scores")
    parser.add_argument("--videos", type=int, default=8192, help="videos of the speed test (default 8192)")
    args = parser.parse_args()
    if args.many:
        if not args.scores:
            parser.error("--many needs --scores")
        size_at_scale(args.scores, args.many)
        return
    speed(args.videos)
    if args.scores:
        precision(args.scores)


if __name__ == "__main__":
    main()
