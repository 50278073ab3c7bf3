"""Labels as a 0 or 1 per class, which other tools' datasets have: refused by name, never read as class indices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.reading import read
from tests.fixtures.records import VIDEO, int64_feature, videos, write_shard
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run as metrics
from vcls_model.records.csv_rows import csv_schema
from vcls_model.records.shards import read_batches, refuse_multi_hot_labels

SAID = "look like one per class: list the indices"
THREE = [[0, 0, 1], [1, 0, 1], [0, 0, 0]]
PAIRS = [[0, 1], [1, 0], [0, 1]]


def parquet(path: Path, rows: list[list[int]]) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "labels": rows}), path.with_suffix(".parquet"))


def npz(path: Path, rows: list[list[int]]) -> None:
    flat = np.concatenate([np.array(row, np.int64) for row in rows])
    lengths = np.array([len(row) for row in rows])
    np.savez(path.with_suffix(".npz"), ids=np.array(["a", "b", "c"]), label_flat=flat, label_lens=lengths)


def csv(path: Path, rows: list[list[int]]) -> None:
    cells = [" ".join(map(str, row)) for row in rows]
    path.with_suffix(".csv").write_text(
        "id,labels\n" + "".join(f"{i},{c}\n" for i, c in zip("abc", cells, strict=True))
    )


@pytest.mark.parametrize("write", [parquet, npz, csv])
@pytest.mark.parametrize("rows", [THREE, PAIRS], ids=["three classes", "two classes"])
def test_labels_of_metrics(
    write: Callable[[Path, list[list[int]]], None], rows: list[list[int]], tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text("VideoId,LabelConfidencePairs\na,0 0.9 2 0.1\nb,1 0.8\nc,2 0.7\n")
    write(tmp_path / "labels", rows)
    labels = next(tmp_path.glob("labels.*"))
    flags = [f"--predictions={tmp_path}/p.csv", f"--labels={labels}", f"--output={tmp_path}/m.json"]
    if write is csv and rows is PAIRS:  # `0 1` in a cell of text is how people list two indices
        assert metrics(flags)["videos"] == 3
        return
    with pytest.raises(JobError, match=SAID) as raised:
        metrics(flags)
    assert str(labels) in str(raised.value)


@pytest.mark.parametrize("rows", [THREE, PAIRS], ids=["three classes", "two classes"])
def test_labels_beside_predictions(rows: list[list[int]], tmp_path: Path) -> None:
    columns = {"id": ["a", "b", "c"], "class_index": [[0], [1], [2]], "probability": [[0.9], [0.8], [0.7]]}
    pq.write_table(pa.table({**columns, "labels": rows}), tmp_path / "p.parquet")
    with pytest.raises(JobError, match=SAID):
        metrics([f"--predictions={tmp_path}/p.parquet", f"--output={tmp_path}/m.json"])
    pq.write_table(pa.table({**columns, "labels": [[0, 1], [0, 1], [2, 1, 0]]}), tmp_path / "p.parquet")
    assert metrics([f"--predictions={tmp_path}/p.parquet", f"--output={tmp_path}/m.json"])["videos"] == 3


def test_records(tmp_path: Path) -> None:
    made = videos(4, VIDEO)
    rows = [*THREE, [0, 2]]
    payloads = [video.example(labels=int64_feature(*row)) for video, row in zip(made, rows, strict=True)]
    found, rejected, _ = read(write_shard(tmp_path / "a", payloads), VIDEO)
    assert len(found) == 1 and [each.error for each in rejected] == ["labels_multi_hot"] * 3
    assert SAID in rejected[0].message
    payloads = [video.example(labels=int64_feature(*row)) for video, row in zip(made, PAIRS, strict=False)]
    with pytest.raises(UsageError, match=SAID):
        refuse_multi_hot_labels(str(write_shard(tmp_path / "b", payloads)), VIDEO)
    payloads = [
        video.example(labels=int64_feature(*row)) for video, row in zip(made, [[0, 1], [1], [0, 1]], strict=False)
    ]
    refuse_multi_hot_labels(str(write_shard(tmp_path / "c", payloads)), VIDEO)


def test_a_csv_of_features(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,labels,red\na,0;0;1,1\nb,0;1,2\nc,1 0 1 1,3\n")
    ((batch, rejected),) = read_batches(str(path), csv_schema(str(path)), class_count=4)
    assert batch.ids == [b"b"] and [each.error for each in rejected] == ["labels_multi_hot"] * 2
