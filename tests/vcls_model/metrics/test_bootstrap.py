"""The intervals over videos: as wide as a direct bootstrap's, and covering about as often as they say."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.vcls_model.metrics import oracles
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import compute_result


def population(rng, videos, classes=12):
    """Videos drawn from one fixed distribution over scores and labels."""
    truth = rng.random((videos, classes)) < np.linspace(0.05, 0.4, classes)
    logits = (rng.normal(-2.5, 1.2, (videos, classes)) + 1.8 * truth).astype(np.float32)
    return logits, truth


def accumulate(logits, truth):
    accumulator = MetricAccumulator(logits.shape[1])
    rows, values = np.nonzero(truth)
    ids = [b"%d" % i for i in range(len(logits))]
    accumulator.update(logits, values, np.bincount(rows, minlength=len(logits)), ids)
    return compute_result(accumulator)


def test_intervals_are_as_wide_as_those_of_a_bootstrap_over_videos():
    rng = np.random.default_rng(1)
    logits, truth = population(rng, 500)
    result = accumulate(logits, truth)
    maps, gaps, first = [], [], []
    for _ in range(150):
        rows = rng.integers(0, 500, 500)
        maps.append(average_precision_score(truth[rows], logits[rows], average="macro"))
        first.append(average_precision_score(truth[rows, 5], logits[rows, 5]))
        scores, hits = logits[rows].ravel(), truth[rows].ravel()
        hits = hits[np.argsort(-scores)]
        gaps.append((hits * np.cumsum(hits) / np.arange(1, hits.size + 1)).sum() / hits.sum())
    for name, values in (("map", maps), ("gap_at_20", gaps)):
        low, high = (result.summary[f"{name}_ci_{end}"] for end in ("low", "high"))
        assert low < result.summary[name] < high
        assert (high - low) / (3.92 * np.std(values)) == pytest.approx(1, abs=0.3)
    width = result.per_class["ap_ci_high"][5] - result.per_class["ap_ci_low"][5]
    assert width / (3.92 * np.std(first)) == pytest.approx(1, abs=0.35)


def test_intervals_cover_the_figure_of_the_population():
    rng = np.random.default_rng(2)
    logits, truth = population(rng, 40_000)
    expected = average_precision_score(truth, logits, average="macro")
    covered = 0
    for _ in range(40):
        summary = accumulate(*population(rng, 400)).summary
        covered += summary["map_ci_low"] <= expected <= summary["map_ci_high"]
    assert covered >= 33


def test_intervals_of_the_reference_predictions(shared_data):
    data = np.load(shared_data / "reference" / "predictions.npz")
    accumulator = MetricAccumulator(3862)
    accumulator.update(data["logits"], data["label_flat"], data["label_lens"], [bytes(i) for i in data["ids"]])
    summary = compute_result(accumulator).summary
    truth = oracles.dense_labels(data["label_flat"], data["label_lens"], 3862)
    best = np.argsort(-data["logits"], axis=1, kind="stable")[:, :20]
    scores, hits = np.take_along_axis(data["logits"], best, 1), np.take_along_axis(truth, best, 1)
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(200):
        rows = rng.integers(0, 400, 400)
        ranked = hits[rows].ravel()[np.argsort(-scores[rows].ravel())]
        gaps.append((ranked * np.cumsum(ranked) / np.arange(1, ranked.size + 1)).sum() / truth[rows].sum())
    width = summary["gap_at_20_ci_high"] - summary["gap_at_20_ci_low"]
    assert width / (3.92 * np.std(gaps)) == pytest.approx(1, abs=0.3)
