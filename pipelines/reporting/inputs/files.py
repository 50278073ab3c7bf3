"""CSV files and JSON objects of a job's output directory, with errors that say which file and line is wrong."""

import csv
from typing import Any

import numpy as np

from vcls_model import storage
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
    try:
        rows = list(csv.reader(storage.csv_text(storage.read_bytes(file))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise JobError(f"{file} is not a CSV: {error}") from None
    if not rows:
        raise JobError(f"{file} is empty")
    header, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise JobError(f"{file} line {number} has {len(row)} fields, the header has {len(header)}")
    return {key: [row[place] for row in body] for place, key in enumerate(header)}


def number_of(text: str) -> float:
    """A cell's number, NaN for an empty one."""
    return float(text) if text.strip() else float("nan")


def floats(values: list[str], origin: str) -> np.ndarray:
    """Cells as float64, empty ones NaN; `origin` names them in the error."""
    try:
        return np.array([number_of(value) for value in values], np.float64)
    except ValueError as error:
        raise JobError(f"{origin} holds what is not a number: {error}") from None
