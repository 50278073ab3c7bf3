"""Tables of the report: one object that is shown on the page and saved as CSV."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.reporting.inputs.scores import ClassName
from vcls_model import spreadsheets
from vcls_model.tables import write_csv


@dataclasses.dataclass(frozen=True)
class Table:
    """A named table; `columns` are the headings, `rows` hold str, int, float or None, `name` becomes the file's."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def to_csv(self) -> bytes:
        """RFC 4180 with a heading line; numbers in full precision, unknown ones empty, text never a formula.

        Before a column of classes stands one of their indices, which tells classes of one name apart.
        """
        named = [any(isinstance(row[place], ClassName) for row in self.rows) for place in range(len(self.columns))]
        header: list[str] = []
        for column, classes in zip(self.columns, named, strict=True):
            header += [_index_heading(column), column] if classes else [column]
        rows = []
        for row in self.rows:
            cells: list[Any] = []
            for cell, classes in zip(row, named, strict=True):
                cells += [getattr(cell, "class_index", None), cell] if classes else [cell]
            rows.append(["" if _is_unknown(cell) else _safe(_plain(cell)) for cell in cells])
        return write_csv(header, rows).encode(errors="backslashreplace")

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers only, so that it is set to the right."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, (int, float, np.number)) for cell in cells)


def _index_heading(column: str) -> str:
    return "index" if column.lower() in ("name", "class") else f"{column}, index"


def _is_unknown(cell: Any) -> bool:
    return cell is None or (isinstance(cell, (float, np.floating)) and not math.isfinite(cell))


def _safe(cell: Any) -> Any:
    return spreadsheets.harmless(cell) if isinstance(cell, str) else cell


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


def number(cell: Any) -> str:
    """A cell as shown: 1,234 for counts, three decimals for scores (none above zero rounded to it), – for what is
    unknown, text as it is."""
    cell = _plain(cell)
    if _is_unknown(cell):
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if 0 < cell < 0.0005:
            return "< 0.001"
        digits = 0 if abs(cell) >= 1000 else 1 if abs(cell) >= 10 else 3
        return f"{cell:,.{digits}f}".replace("-", "−")
    return str(cell)


def signed(value: float, places: int = 3) -> str:
    """A difference with its sign, a true minus."""
    return "–" if not math.isfinite(value) else f"{value:+.{places}f}".replace("-", "−")


def probability(value: float) -> str:
    """A probability to four decimals, never rounded to zero."""
    return f"{value:.4f}" if value >= 1e-4 or value == 0 else "< 0.0001"


def at_least(value: float, places: int = 5) -> str:
    """A lower bound, rounded down."""
    return f"{math.floor(value * 10**places) / 10**places:.{places}f}"


def at_most(value: float, places: int = 5) -> str:
    """An upper bound of a fraction, rounded up."""
    return f"{min(math.ceil(value * 10**places) / 10**places, 1):.{places}f}"


def pluralise(count: int, singular: str, plural: str = "") -> str:
    """`1 class`, `2,000 classes`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def columns_table(name: str, columns: Mapping[str, np.ndarray | Sequence[Any]]) -> Table:
    """A table from columns of equal length."""
    return Table(
        name, tuple(columns), list(zip(*(np.asarray(values, object) for values in columns.values()), strict=True))
    )
