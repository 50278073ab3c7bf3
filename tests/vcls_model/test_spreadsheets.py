"""Cells that spreadsheets would run are text, and come back unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcls_model.records.vocabulary import ClassInfo, read_vocabulary, write_labels_csv
from vcls_model.spreadsheets import harmless, original

FORMULAS = ["=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text(text: str) -> None:
    assert harmless(text)[0] == "'"
    assert original(harmless(text)) == text


@pytest.mark.parametrize("text", ["", "-0.25", "+3", "-1e-07", "12%", "Game", "'quoted'", "a=b"])
def test_numbers_and_names_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text
    assert original(text) == text


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert original(harmless(text)) == text


def test_labels_csv_holds_no_formula_and_reads_back() -> None:
    classes = [ClassInfo(index, name, (name,)) for index, name in enumerate(["=1+1", "-x", "@y", "Game", "'=z"])]
    written = write_labels_csv(classes)
    cells = [cell for line in written.splitlines()[1:] for cell in line.split(",")]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
    assert read_vocabulary(written, "labels.csv") == classes
