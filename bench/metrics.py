"""Speed and precision of the metrics at 3,862 classes, one line a figure.

    python bench/metrics.py [--logits=FILE.npz]

The scores have the scale of a real YouTube-8M classifier's: those of ../shared/data/reference (or of `--logits`, an npz
with the same keys) repeated with noise, or, where there are none, made up with the same mean and spread. Times are CPU
seconds of one thread, so that other work on the machine changes the ratios little.

References, on the same matrix and in the same run:

* starter: what google/youtube-8m's `eval_util` computes, in the way it does: for every video `argpartition` for its
  best 20, whose (class, score, label) go to per-class lists and a pooled list; Hit@1, PERR by a second `argpartition`;
  at the end one sort for GAP and one a class for MAP. The labels are the dense matrix that it is given.
* numpy: the best 20 of all videos of a batch by one `argpartition`, then the pooled sort: the least that a top-20-only
  pass in numpy can do, GAP alone.
* sklearn: `average_precision_score` of every class that has a positive.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vcls_model.metrics import MetricAccumulator  # noqa: E402

CLASSES = 3862
BATCH = 1024
REFERENCE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "reference" / "predictions.npz"


def scores(videos: int, source: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (videos, 3862) float32, label values and label lengths."""
    generator = np.random.default_rng(1)
    if source.exists():
        data = np.load(source)
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
            accumulator.update(logits[first:last], values[starts[first] : starts[last]], lengths[first:last],
                               [b"%d-%d" % (turn, row) for row in range(first, last)])
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
        "hit_at_1": hits / len(truth), "perr": perr / len(truth),
    }


def numpy_gap(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """GAP@20 alone, the selection vectorised over a batch."""
    kept = []
    for first in range(0, len(truth), BATCH):
        part = probabilities[first : first + BATCH]
        best = np.argpartition(part, -20, axis=1)[:, -20:]
        kept.append((np.take_along_axis(part, best, 1), np.take_along_axis(truth[first : first + BATCH], best, 1)))
    pooled, hits = (np.concatenate([pair[i] for pair in kept]).ravel() for i in (0, 1))
    ranked = hits[np.argsort(-pooled)].astype(float)
    return float((ranked * np.cumsum(ranked) / np.arange(1, ranked.size + 1)).sum() / truth.sum())


def cpu_seconds(work) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def line(name: str, unit: str, figure: float, reference: float, target: str) -> None:
    print(f"{name}  {unit}={figure:.0f}  reference={reference:.0f}  ratio={figure / reference:.1f}x  target{target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logits", type=Path, default=REFERENCE, help="npz with logits, label_flat, label_lens")
    parser.add_argument("--videos", type=int, default=8192, help="videos in the matrix (default 8192)")
    args = parser.parse_args()
    from sklearn.metrics import average_precision_score

    logits, values, lengths = scores(args.videos, args.logits)
    truth = dense(values, lengths)
    probabilities = 1 / (1 + np.exp(-logits))
    accumulate(logits[:BATCH], values[: lengths[:BATCH].sum()], lengths[:BATCH]).result()  # compiles

    passes = 4
    seconds, accumulator = min((cpu_seconds(lambda: accumulate(logits, values, lengths, passes)) for _ in range(2)),
                               key=lambda timed: timed[0])
    speed = passes * args.videos / seconds
    few = min(args.videos, 2048)
    starter_seconds, starter_figures = cpu_seconds(lambda: starter(probabilities[:few], truth[:few]))
    numpy_seconds, numpy_figure = cpu_seconds(lambda: numpy_gap(probabilities, truth))
    seen = truth.any(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sklearn_seconds, precisions = cpu_seconds(
            lambda: average_precision_score(truth[:, seen], logits[:, seen], average=None))
    # Scikit-learn skips the classes without positives here; per score it does the same for them.
    sklearn_speed = args.videos / (sklearn_seconds * CLASSES / seen.sum())
    line("metrics_vs_starter_top20", "videos/s", speed, few / starter_seconds, ">=6x")
    line("metrics_vs_numpy_gap_only", "videos/s", speed, args.videos / numpy_seconds, ">=1x")
    line("metrics_vs_sklearn_ap", "videos/s", speed, sklearn_speed, ">=20x")

    once = accumulate(logits, values, lengths)
    result = once.result()
    few_summary = accumulate(logits[:few], values[: lengths[:few].sum()], lengths[:few]).result().summary
    agreement = max(abs(few_summary[name] - figure) for name, figure in starter_figures.items())
    agreement = max(agreement, abs(result.summary["gap_at_20"] - numpy_figure))
    inside = (result.per_class["ap_lower"][seen] <= precisions) & (precisions <= result.per_class["ap_upper"][seen])
    print(f"metrics_agreement  largest_difference={agreement:.1e}  reference=starter+numpy  target<=1e-6")
    print(f"metrics_ap_in_interval  classes={inside.sum()}  reference=sklearn:{seen.sum()}  "
          f"ratio={inside.mean():.3f}x  target>=1x")
    width = result.summary["map_upper"] - result.summary["map_lower"]
    gap_width = result.summary["gap_at_20_upper"] - result.summary["gap_at_20_lower"]
    print(f"metrics_map_interval  width={width:.5f}  reference=0.001  ratio={0.001 / width:.1f}x  target<=0.001")
    print(f"metrics_gap_interval  width={gap_width:.7f}  reference=0.0001  ratio={0.0001 / gap_width:.1f}x  "
          "target<=0.0001")
    seconds, packed = cpu_seconds(accumulator.to_bytes)
    print(f"metrics_shuffled  MB={len(packed) / 1e6:.2f}  reference=8  ratio={8e6 / len(packed):.1f}x  target<=8MB  "
          f"({accumulator.videos} videos, packed in {seconds:.2f} s)")
    seconds, _ = cpu_seconds(accumulator.result)
    print(f"metrics_result  seconds={seconds:.2f}  reference=2  ratio={2 / seconds:.1f}x  target<=2s")


if __name__ == "__main__":
    main()
