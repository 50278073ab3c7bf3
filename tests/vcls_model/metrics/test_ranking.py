"""The best classes of each row."""

import numpy as np
import pytest

from vcls_model.metrics.ranking import NotANumberError, first_k, select_best


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    logits = np.array([[1, 3, 3, -2, 3], [0, 0, 0, 0, 0], [np.inf, -np.inf, 5, np.inf, 0]], np.float32)
    indices, values = first_k(select_best(logits, np.full(3, 3)), 3)
    assert indices.tolist() == [[1, 2, 4], [0, 1, 2], [0, 3, 2]]
    assert values.tolist() == [[3, 3, 3], [0, 0, 0], [np.inf, np.inf, 5]]


@pytest.mark.parametrize("classes", [3, 127, 128, 129, 500])
def test_the_best_are_those_that_sorting_puts_first(classes: int) -> None:
    logits = np.random.default_rng(11).normal(size=(40, classes)).astype(np.float32)
    logits[::2] = np.round(logits[::2])  # many ties
    for k in (1, 20, 200):
        width = min(k, classes)
        indices, values = first_k(select_best(logits, np.full(40, width)), width)
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(values, np.take_along_axis(logits, expected, axis=1))
    logits[7, classes - 1] = np.nan
    with pytest.raises(NotANumberError, match=f"row 7, class {classes - 1}: the logit is NaN"):
        select_best(logits, np.full(40, 1))
