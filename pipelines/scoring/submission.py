"""`submission.csv` of a scores directory: one file to upload to Kaggle, made of the predictions of all shards."""

from collections.abc import Iterator

import numpy as np

from pipelines.scoring.layout import PREDICTIONS
from vcls_model import storage, tables
from vcls_model.metrics.segments import DEPTH

FILE = "submission.csv"
_SUFFIX = ".csv"
# Pairs of segment and class that are ranked at once, some 100 MB.
_PAIRS_AT_ONCE = 1 << 22


def write_submission(output: str, class_count: int, *, segments: bool) -> None:
    """Writes it, from the Kaggle CSVs of the predictions.

    Of videos it is one such CSV of all. Of segments it has the layout of the 2019 challenge, `Class,Segments`: a row
    for each class that is predicted anywhere, with the segments that have it, the most probable first and at most
    100,000 of them; equal ones in the order of the files.

    Args:
        output: the scores directory.
        class_count: number of classes C.
        segments: the records are segments.
    """
    with storage.open_atomically(storage.join(output, FILE)) as stream:
        if segments:
            for row in _ranked_segments(output, class_count):
                stream.write(tables.write_csv(row, ()).encode())
            return
        for number, path in enumerate(_parts(output)):
            heading, _, rows = storage.read_bytes(path).partition(b"\n")
            stream.write(rows if number else heading + b"\n" + rows)


def _parts(output: str) -> list[str]:
    directory = storage.join(output, PREDICTIONS)
    return [storage.join(directory, name) for name in storage.list_names(directory, _SUFFIX)]


def _rows(path: str) -> Iterator[tables.Row]:
    return tables.read_csv(path, (tables.Column("VideoId"), tables.Column("LabelConfidencePairs")))


def _ranked_segments(output: str, class_count: int) -> Iterator[tuple[str | int, str]]:
    yield "Class", "Segments"
    counts = np.zeros(class_count, np.int64)
    for _, indices, _ in _scored(output):
        counts[indices] += 1
    # Classes in parts of so many pairs, each a pass over the predictions: memory does not grow with their number.
    part_of = np.cumsum(counts) // _PAIRS_AT_ONCE
    for part in np.unique(part_of[counts > 0]):
        wanted = part_of == part
        ids: list[str] = []
        classes: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        for video_id, indices, confidences in _scored(output):
            chosen = wanted[indices]
            if chosen.any():
                classes.append(indices[chosen])
                scores.append(confidences[chosen])
                owners.append(np.full(int(chosen.sum()), len(ids)))
                ids.append(video_id)
        of_class, score, owner = np.concatenate(classes), np.concatenate(scores), np.concatenate(owners)
        order = np.lexsort((owner, -score, of_class))
        starts = np.searchsorted(of_class[order], np.flatnonzero(wanted & (counts > 0)))
        for rows in np.split(order, starts[1:]):
            yield int(of_class[rows[0]]), " ".join(ids[place] for place in owner[rows[:DEPTH]].tolist())


def _scored(output: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each segment its id, its classes, int64 (k,), and their confidences, float64 (k,)."""
    for path in _parts(output):
        for row in _rows(path):
            values = np.array(row["LabelConfidencePairs"].split(), np.float64)
            yield row["VideoId"], values[::2].astype(np.int64), values[1::2]
