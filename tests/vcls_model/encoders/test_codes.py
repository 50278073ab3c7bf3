"""Quantisation: what a code stands for, in each of the three conventions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcls_model.encoders.codes import ROUNDINGS, dequantise, quantise

ALL_CODES = np.arange(256, dtype=np.uint8)
RANGES = st.tuples(st.floats(-100, 100), st.floats(0.01, 100)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def test_a_midpoint_code_stands_for_the_middle_of_its_interval() -> None:
    values = dequantise(ALL_CODES, (0.0, 4.0))
    assert values[0] == 4 / 512
    assert values[255] == 4 - 4 / 512
    np.testing.assert_allclose(np.diff(values), 4 / 256, rtol=1e-5)


@given(RANGES)
def test_every_midpoint_code_comes_back(value_range: tuple[float, float]) -> None:
    np.testing.assert_array_equal(quantise(dequantise(ALL_CODES, value_range), value_range), ALL_CODES)


@given(RANGES, st.floats(0, 1))
def test_a_value_within_the_range_moves_by_half_a_step_at_most(value_range: tuple[float, float], share: float) -> None:
    low, high = value_range
    value = low + share * (high - low)
    error = abs(float(dequantise(quantise(value, value_range), value_range)) - value)
    assert error <= (high - low) / 512 * 1.001 + 1e-5 * max(abs(low), abs(high))


def test_values_outside_the_range_take_the_nearest_code() -> None:
    for rounding in ROUNDINGS:
        assert quantise([-9.0, 9.0], (-2.0, 2.0), rounding).tolist() == [0, 255]


def test_youtube8m_rounds_where_vggish_truncates() -> None:
    values = np.array([-2.0, -1.99, 0.0, 0.0079, 1.999, 2.0], np.float32)
    # By their authors' formulas: (v + 2) * 63.75, rounded and cut off.
    assert quantise(values, (-2, 2), "rounded").tolist() == [0, 1, 128, 128, 255, 255]
    assert quantise(values, (-2, 2), "truncated").tolist() == [0, 0, 127, 128, 254, 255]


def test_rounded_codes_stand_for_what_youtube8m_says() -> None:
    theirs = [code * 4.0 / 255.0 + (4.0 / 512.0 - 2.0) for code in range(256)]
    np.testing.assert_allclose(dequantise(ALL_CODES, (-2, 2), "rounded"), theirs, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_value_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantise([0.0, value], (0, 1))


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf)])
def test_an_empty_range_is_refused(value_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="lo < hi"):
        quantise([0.0], value_range)
