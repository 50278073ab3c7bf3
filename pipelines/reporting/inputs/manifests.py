"""What a model, dataset or scores directory says of itself, apart from the metrics."""

from typing import Any

import numpy as np

from pipelines.reporting.inputs.files import floats, read_table
from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.listed_shards import compare_counts, read_manifests, shards_of_split
from vcls_model.records.vocabulary import ClassInfo, load_vocabulary
from vcls_model.states import DATASET, DatasetInfo, DeadLetter, checked, read_state, refuse_other_kind


def read_dataset_info(path: str) -> dict[str, Any]:
    """The `info.json` of the dataset that the command line names.

    Raises:
        UsageError: it is a directory of another kind.
        JobError: there is none, it is damaged, or what lies beside it is another run's.
    """
    refuse_other_kind(path, DATASET)
    info_path = storage.join(path, "info.json")
    if not storage.exists(info_path):
        raise JobError(f"the data directory {path} has no info.json: it is missing or incomplete")
    info = read_state(info_path, DatasetInfo)
    manifests = read_manifests(path)
    compare_counts(path, manifests, {split: entry["records"] for split, entry in info["splits"].items()})
    for split, entry in info["splits"].items():
        if storage.list_names(storage.join(path, split)):  # info.json and labels.csv may have been copied alone
            shards_of_split(path, split, manifests, entry.get("shards"))
    return dict(info)


def read_classes(path: str, class_count: int | None = None) -> list[ClassInfo]:
    """The classes in a directory's `labels.csv`, by index; [] when there is none.

    Raises:
        JobError: the file cannot be used.
    """
    file = storage.join(path, "labels.csv")
    if not storage.exists(file):
        return []
    try:
        return load_vocabulary(file, class_count, complete=True)
    except UsageError as error:
        raise JobError(str(error)) from None


def train_counts(classes: list[ClassInfo], class_count: int) -> np.ndarray:
    """Training examples of each class, (C,) float64, NaN where `classes` do not say."""
    counts = np.full(class_count, np.nan)
    if len(classes) == class_count:
        for entry in classes:
            if entry.train_count is not None:
                counts[entry.index] = entry.train_count
    return counts


def read_dead_letters(path: str, how_many: int) -> list[dict[str, Any]]:
    """The first rejected records of a Scores directory: shard, offset, id, stage, error, message; [] if none."""
    directory = storage.join(path, "dead_letter")
    letters: list[dict[str, Any]] = []
    for name in storage.list_names(directory):
        for line in storage.read_bytes(storage.join(directory, name)).splitlines():
            if len(letters) == how_many:
                return letters
            origin = f"a line of {storage.join(directory, name)}"
            letters.append(dict(checked(storage.from_json(line, origin), origin, DeadLetter)))
    return letters


def read_history(path: str) -> dict[str, np.ndarray]:
    """Numeric columns of `history.csv` in a Scores or model directory; {} when there is none.

    Raises:
        JobError: the file is not a table of epochs.
    """
    table = read_table(path, "history.csv")
    if table and not table.get("epoch"):
        raise JobError(f"{storage.join(path, 'history.csv')} is damaged: it must have a row per epoch")
    history = {}
    for name, values in table.items():
        try:
            history[name] = floats(values, name)
        except JobError:  # a column of text, such as a time stamp, is not a curve
            continue
    return history
