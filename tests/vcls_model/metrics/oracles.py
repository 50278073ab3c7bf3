"""The metrics once more, slowly and from their definitions, in plain numpy: nothing here is shared with the product."""

import numpy as np


def random_case(rng, videos, classes, *, ties=False, spread=3.0):
    """Logits (B, C), label values, label lengths and ids of a made-up data set; scores follow the labels a little."""
    truth = rng.random((videos, classes)) < rng.uniform(0.02, 0.4, classes)
    logits = (rng.normal(-3, spread, (videos, classes)) + 2.5 * truth).astype(np.float32)
    if ties:
        logits = np.round(logits).astype(np.float32)
    values = [np.flatnonzero(row) for row in truth]
    lengths = np.array([row.size for row in values], np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *values]).astype(np.int64)
    return logits, flat, lengths, [b"v%06d" % i for i in rng.permutation(videos)]


def dense_labels(values, lengths, classes):
    truth = np.zeros((len(lengths), classes), bool)
    truth[np.repeat(np.arange(len(lengths)), lengths), values] = True
    return truth


def best_classes(row, count):
    return sorted(range(row.size), key=lambda c: (-row[c], c))[:count]


def top_pairs(logits, truth, keep=20):
    """(score, hit, class) of every video's best `keep` classes."""
    return [
        (float(logits[r, c]), bool(truth[r, c]), c)
        for r in range(logits.shape[0])
        for c in best_classes(logits[r], keep)
    ]


def precision_sum(scores, hits):
    """Sum over positives of precision at their threshold; equal scores are one threshold."""
    scores, hits = np.asarray(scores, np.float64), np.asarray(hits, bool)
    return sum(hits[scores >= score].mean() for score in scores[hits])


def gap_at_20(logits, truth):
    scores, hits, _ = zip(*top_pairs(logits, truth), strict=True)
    return precision_sum(scores, hits) / truth.sum()


def map_at_20(logits, truth):
    pairs = top_pairs(logits, truth)
    precisions = []
    for c in np.flatnonzero(truth.any(axis=0)):
        mine = [(score, hit) for score, hit, of in pairs if of == c]
        total = precision_sum(*zip(*mine, strict=True)) if mine else 0.0
        precisions.append(total / truth[:, c].sum())
    return np.mean(precisions)


def hit_at_1(logits, truth):
    return np.mean([truth[r, best_classes(logits[r], 1)[0]] for r in range(len(logits))])


def perr(logits, truth):
    figures = []
    for row, labels in zip(logits, truth, strict=True):
        count = labels.sum()
        figures.append(labels[best_classes(row, count)].mean() if count else 0.0)
    return np.mean(figures)


def confusion(logits, truth):
    """{(true, predicted): count} by the definition of the accumulator."""
    counts = {}
    for row, labels in zip(logits, truth, strict=True):
        true = set(np.flatnonzero(labels).tolist())
        predicted = set(best_classes(row, len(true)))
        pairs = [(c, c) for c in true & predicted] + [(a, b) for a in true - predicted for b in predicted - true]
        for pair in pairs:
            counts[pair] = counts.get(pair, 0) + 1
    return counts
