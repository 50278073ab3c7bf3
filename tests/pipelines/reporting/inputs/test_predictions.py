"""What the report reads from predictions: against a loop over the same videos."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.reporting.inputs.predictions import Cooccurrence, count_cooccurrence, prediction_statistics
from tests.fixtures.scores import labels_and_logits, write_predictions, write_unlabelled


def test_cooccurrence_is_what_a_loop_counts(tmp_path: Path):
    labels, logits = labels_and_logits(200, 30, 3)
    write_predictions(tmp_path, logits, labels)
    pairs = [(1, 2), (0, 5), (7, 29)]
    found = count_cooccurrence(str(tmp_path), pairs, 30)
    sets = [set(row.tolist()) for row in labels]
    assert found == Cooccurrence(
        {(a, b): (sum({a, b} <= row for row in sets), sum(bool({a, b} & row) for row in sets)) for a, b in pairs}
    )
    assert found.pairs[1, 2][0] > 50


def test_cooccurrence_counts_several_parts_and_skips_videos_without_labels(tmp_path: Path):
    labels, logits = labels_and_logits(40, 30, 3)
    write_predictions(tmp_path, logits, labels)
    (tmp_path / "predictions" / "shard-0.parquet").rename(tmp_path / "predictions" / "shard-1.parquet")
    once = count_cooccurrence(str(tmp_path), [(1, 2)], 30)
    write_predictions(tmp_path, logits, None)
    assert count_cooccurrence(str(tmp_path), [(1, 2)], 30) == once
    write_predictions(tmp_path, logits, labels)
    twice = count_cooccurrence(str(tmp_path), [(1, 2)], 30)
    assert once is not None and twice is not None
    assert twice.pairs[1, 2] == tuple(2 * count for count in once.pairs[1, 2])


def test_cooccurrence_is_unknown_without_predictions_or_pairs(tmp_path: Path):
    assert count_cooccurrence(str(tmp_path), [(1, 2)], 30) is None
    write_unlabelled(tmp_path / "scores")
    assert count_cooccurrence(str(tmp_path / "scores"), [], 40) is None


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_statistics_are_what_a_loop_counts(tmp_path: Path, threshold: float):
    scores = write_unlabelled(tmp_path / "scores", videos=60)
    found = prediction_statistics(str(scores), 40, threshold)
    _, logits = labels_and_logits(60, 40, 2, 5.0)
    probability = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    kept = np.argsort(-logits, axis=1)[:, :20]
    above = np.zeros(40, np.int64)
    for row, classes in enumerate(kept):
        above[classes[probability[row, classes] >= threshold]] += 1
    assert found.videos == 60
    np.testing.assert_array_equal(found.first, np.bincount(logits.argmax(axis=1), minlength=40))
    np.testing.assert_array_equal(found.above, above)
    np.testing.assert_array_equal(found.top_count, np.histogram(probability.max(axis=1), found.top_edges)[0])
