"""A CSV of features: clean blocks through pyarrow, blocks with a bad row through the careful reader, same result."""

from pathlib import Path

import numpy as np
import pytest

from vcls_model.commands import UsageError
from vcls_model.records.shards import detect_schema, read_batches

HEADER = "id,labels,mean_rgb_0,mean_rgb_1,mean_rgb_2,mean_audio_0,mean_audio_1"
ROWS = [
    f"v{row},{row % 5};{row % 5 + 3}," + ",".join(str(row + column / 4) for column in range(5)) for row in range(50)
]


def read(path: Path, batch_bytes: int = 1 << 20, **options):  # type: ignore[no-untyped-def]
    ids, labels, rgb, audio, rejected, lines = [], [], [], [], [], []
    for batch, unusable in read_batches(
        str(path), detect_schema(str(path)), batch_bytes=batch_bytes, **{"class_count": 10, **options}
    ):
        ids += batch.ids
        labels += [part.tolist() for part in np.split(batch.label_values, np.cumsum(batch.label_lengths))[:-1]]
        rgb += batch.features["mean_rgb"].tolist()
        audio += batch.features["mean_audio"].tolist()
        lines += batch.offsets.tolist()
        rejected += unusable
    return ids, labels, rgb, audio, rejected, lines


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_bytes(("\n".join([header, *rows]) + "\n").encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("batch_bytes", [200, 1 << 20])
@pytest.mark.parametrize("spoilt", [False, True])
def test_rows_become_records(tmp_path: Path, batch_bytes: int, spoilt: bool) -> None:
    rows = list(ROWS)
    if spoilt:
        rows[20] = "v20,99,1,2,3,4,5"
    ids, labels, rgb, audio, rejected, lines = read(write(tmp_path / "a.csv", rows), batch_bytes)
    kept = [row for row in range(50) if not (spoilt and row == 20)]
    assert ids == [f"v{row}".encode() for row in kept]
    assert labels == [[row % 5, row % 5 + 3] for row in kept]
    assert rgb == [[row, row + 0.25, row + 0.5] for row in kept]
    assert audio == [[row + 0.75, row + 1.0] for row in kept]
    assert lines == [row + 2 for row in kept]
    assert [(item.error, item.offset) for item in rejected] == ([("label_out_of_range", 22)] if spoilt else [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,1,1,2,3,4", "wrong_width"),
        ("x,1,1,2,3,4,5,6", "wrong_width"),
        (",1,1,2,3,4,5", "empty_id"),
        ("x,,1,2,3,4,5", "no_labels"),
        ("x,a,1,2,3,4,5", "wrong_type"),
        ("x,1.5,1,2,3,4,5", "wrong_type"),
        ("x,-1,1,2,3,4,5", "label_out_of_range"),
        ("x,10,1,2,3,4,5", "label_out_of_range"),
        ("x,1,one,2,3,4,5", "wrong_type"),
        ("x,1,,2,3,4,5", "missing_feature"),
        ("x,1,nan,2,3,4,5", "not_finite"),
        ("x,1,1,inf,3,4,5", "not_finite"),
        ("x,1,1e60,2,3,4,5", "not_finite"),
    ],
)
def test_a_bad_row_costs_itself(tmp_path: Path, row: str, reason: str) -> None:
    ids, _, _, _, rejected, _ = read(write(tmp_path / "a.csv", [*ROWS[:3], row, *ROWS[3:5]]))
    assert ids == [b"v0", b"v1", b"v2", b"v3", b"v4"]
    assert [(item.error, item.offset) for item in rejected] == [(reason, 5)]


def test_spreadsheet_habits_are_understood(tmp_path: Path) -> None:
    rows = ['"a,""b""", 3 ; 1 ;3,1,2,3,4,5', "\udcff,2,1,2,3,4,5", "", "ü,2;,1,2,3,4,5\r"]
    ids, labels, _, _, rejected, _ = read(write(tmp_path / "a.csv", rows, "\ufeff" + HEADER + "\r"))
    assert rejected == []
    assert ids == [b'a,"b"', b"\xff", "ü".encode()]
    assert labels == [[1, 3], [2], [2]]


def test_the_header_makes_the_schema(tmp_path: Path) -> None:
    schema = detect_schema(str(write(tmp_path / "a.csv", ROWS)))
    assert [(modality.name, modality.width) for modality in schema.modalities] == [("mean_rgb", 3), ("mean_audio", 2)]
    schema = detect_schema(str(write(tmp_path / "b.csv", ["a,1,2,3"], "id,labels,height,width")))
    assert [(modality.name, modality.width) for modality in schema.modalities] == [("features", 2)]
    shuffled = write(tmp_path / "c.csv", ["7,1,8,v"], "x1,labels,x0,video_id")
    ((batch, _),) = read_batches(str(shuffled), detect_schema(str(shuffled)), class_count=None)
    assert batch.ids == [b"v"] and np.asarray(batch.features["x"]).tolist() == [[8, 7]]


def test_files_must_agree_on_their_columns(tmp_path: Path) -> None:
    schema = detect_schema(str(write(tmp_path / "a.csv", ROWS)))
    other = write(tmp_path / "b.csv", ["a,1,2"], "id,labels,mean_rgb_0")
    ((batch, rejected),) = read_batches(str(other), schema, class_count=10)
    assert len(batch) == 0 and [item.error for item in rejected] == ["wrong_columns"]


@pytest.mark.parametrize("header", ["", "a,b,c", "id,labels", "id,mean_rgb_0", "id,labels,f1,f1"])
def test_a_table_of_something_else_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(UsageError, match="is not a CSV of features"):
        detect_schema(str(write(tmp_path / "a.csv", [], header)))
