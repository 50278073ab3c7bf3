"""The graph of label co-occurrence, against counting pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcls_model.models.label_graph import count_label_graph

CLASSES = 6
videos = st.lists(st.lists(st.integers(0, CLASSES - 1), unique=True, max_size=4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(videos)
def test_strength_is_the_smoothed_conditional_probability(labels: list[list[int]]) -> None:
    values = np.array([label for video in labels for label in video], np.int64)
    graph = count_label_graph(values, np.array([len(v) for v in labels], np.int64), CLASSES, degree=3, smoothing=2.0)
    assert graph.neighbours.shape == graph.strength.shape == (CLASSES, 3)
    for target in range(CLASSES):
        expected = {}
        for source in range(CLASSES):
            together = sum(target in video and source in video for video in labels)
            if source != target and together:
                expected[source] = together / (sum(source in video for video in labels) + 2.0)
        best = sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:3]
        held = [(int(n), float(s)) for n, s in zip(graph.neighbours[target], graph.strength[target], strict=True) if s]
        assert [n for n, _ in held] == [n for n, _ in best]
        np.testing.assert_allclose([s for _, s in held], [s for _, s in best], rtol=1e-6)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="add to 3, but there are 2 labels"):
        count_label_graph(np.array([0, 1]), np.array([3]), CLASSES)
    with pytest.raises(ValueError, match=r"must lie in \[0, 6\), got 0..6"):
        count_label_graph(np.array([0, 6]), np.array([2]), CLASSES)


def test_the_degree_is_at_most_the_number_of_classes() -> None:
    assert count_label_graph(np.array([0, 1]), np.array([2]), 2, degree=8).neighbours.shape == (2, 2)
