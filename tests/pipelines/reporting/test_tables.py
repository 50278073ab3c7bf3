"""Cells as a reader sees them."""

import math

import pytest

from pipelines.reporting.tables import number


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (1234, "1,234"),
        (0.12345, "0.123"),
        (0.0, "0.000"),
        (0.0004, "< 0.001"),
        (0.0005, "0.001"),
        (1e-12, "< 0.001"),
        (-0.25, "\u22120.250"),
        (12.34, "12.3"),
        (56789.0, "56,789"),
        (math.nan, "\u2013"),
        (None, "\u2013"),
        ("a", "a"),
        (True, "yes"),
    ],
)
def test_numbers(cell, shown):
    assert number(cell) == shown
