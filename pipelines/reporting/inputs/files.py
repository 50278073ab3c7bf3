"""CSV files and JSON objects of a job's output directory, with errors that say which file and line is wrong."""

from typing import Any

import numpy as np

from vcls_model import storage, tables
from vcls_model.commands import JobError


def read_object(path: str) -> dict[str, Any]:
    """The JSON object that a file holds."""
    value = storage.read_json(path)
    if not isinstance(value, dict):
        raise JobError(f"{path} must hold one JSON object")
    return value


def read_table(path: str, name: str) -> dict[str, list[str]]:
    """A CSV as columns of strings; {} when the file is absent."""
    file = storage.join(path, name)
    if not storage.exists(file):
        return {}
    columns: dict[str, list[str]] = {name: [] for name in tables.read_header(file, fold_case=False).names}
    for row in tables.read_csv(file, None):
        for name, cell in row.cells.items():
            columns[name].append(cell)
    return columns


def floats(values: list[str], origin: str) -> np.ndarray:
    """Cells as float64, empty ones NaN; `origin` names them in the error."""
    try:
        return np.array([value or "nan" for value in values], np.float64)
    except ValueError as error:
        raise JobError(f"{origin} contains what is not a number: {error}") from None
