"""Text in the tables that people open in spreadsheets, which run what looks like a formula."""

import re

# With `'` in front, spreadsheets show the rest as text; names that begin so already get one more, so that reading back
# is exact.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def harmless(text: str) -> str:
    """A cell that no spreadsheet runs: `'=1+1` for `=1+1`; numbers and other text stay as they are."""
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def original(cell: str) -> str:
    """The text that `harmless` made `cell` of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?%?", text, re.IGNORECASE) is not None
