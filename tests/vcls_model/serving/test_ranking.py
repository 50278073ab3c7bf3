"""The best classes of each row."""

import numpy as np
import pytest

from vcls_model.serving.ranking import top_k


def test_top_k_breaks_ties_by_class() -> None:
    logits = np.array([[1, 3, 3, -2, 3], [0, 0, 0, 0, 0], [np.inf, -np.inf, 5, np.inf, 0]], np.float32)
    indices, values = top_k(logits, 3)
    assert indices.tolist() == [[1, 2, 4], [0, 1, 2], [0, 3, 2]]
    assert values.tolist() == [[3, 3, 3], [0, 0, 0], [np.inf, np.inf, 5]]
    assert top_k(logits, 9)[0].shape == (3, 5)


def test_top_k_against_sorting() -> None:
    rng = np.random.default_rng(11)
    for classes in (3, 127, 128, 129, 500):
        logits = rng.normal(size=(40, classes)).astype(np.float32)
        logits[::2] = np.round(logits[::2])  # many ties
        for k in (1, 20, 200):
            indices, values = top_k(logits, k)
            expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(indices, expected)
            np.testing.assert_array_equal(values, np.take_along_axis(logits, expected, axis=1))
        logits[7, classes - 1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            top_k(logits, 1)
