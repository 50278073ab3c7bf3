"""Tables as people bring them to more than one command: the same rule in each, and nothing left out in silence."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run as metrics
from vcls_model.records.csv_rows import csv_schema
from vcls_model.records.shards import read_batches
from vcls_model.records.vocabulary import load_vocabulary

PAIRS = "VideoId,LabelConfidencePairs\na,0 0.9 1 0.1\nb,0 0.2 1 0.8\nc,0 0.3 1 0.6\n"
LABELS = "id,labels\na,0\nb,1\nc,1\n"
CELLS = {"class_index": [[0, 1]] * 3, "probability": [[0.9, 0.1], [0.2, 0.8], [0.3, 0.6]]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p.csv").write_text(PAIRS)
    (tmp_path / "l.csv").write_text(LABELS)
    return tmp_path


def measured(place: Path, *flags: str, **named: Path | str) -> dict[str, Any]:
    wanted = {"predictions": place / "p.csv", "labels": place / "l.csv", "output": place / "m.json", **named}
    return metrics([*(f"--{name}={value}" for name, value in wanted.items()), *flags])


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_files_of_the_file_manager_are_no_part_of_a_directory(place: Path) -> None:
    folder = place / "predictions"
    folder.mkdir()
    for number, own in enumerate(("a", "b", "c")):
        row = {name: cells[number : number + 1] for name, cells in CELLS.items()}
        parquet(folder / f"{number}.parquet", id=[own], **row)
    (folder / "._0.parquet").write_bytes(bytes.fromhex("00051607") + bytes(4092))
    found = measured(place, predictions=folder)
    assert (found["videos"], found["hit_at_1"]) == (3, 1)
    assert storage.list_names(str(folder)) == ["0.parquet", "1.parquet", "2.parquet"]
    assert measured(place, predictions=f"{folder}/[01].parquet")["videos"] == 2


def test_a_directory_of_two_kinds_says_what_is_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "predictions"
    folder.mkdir()
    parquet(folder / "0.parquet", id=["a", "b", "c"], **CELLS)
    (folder / "more.csv").write_text(PAIRS)
    assert measured(place, predictions=folder)["videos"] == 3
    assert capsys.readouterr().err.count("not read beside 0.parquet: more.csv") == 1


def test_empty_labels_say_that_no_class_fits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "e.csv").write_text("id,labels\na,0\nb,\nc,1\n")
    found = measured(place, labels=place / "e.csv")
    assert (found["videos"], found["videos_without_labels"], found["videos_of_no_class"]) == (3, 0, 1)
    assert "e.csv: 1 videos have empty labels" in capsys.readouterr().err


def test_null_labels_are_told_where_predictions_hold_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = pa.array([[0], None, [1]], pa.list_(pa.int32()))
    predictions = parquet(place / "n.parquet", id=["a", "b", "c"], labels=labels, **CELLS)
    found = metrics([f"--predictions={predictions}", f"--output={place}/m.json"])
    assert (found["videos"], found["videos_without_labels"], found["hit_at_1"]) == (2, 1, 1)
    assert "n.parquet: 1 null labels count as unknown" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.list_(pa.string())])
def test_labels_of_parquet_may_be_text(kind: pa.DataType, place: Path) -> None:
    texts: list[Any] = ["cat", "dog;cat", "dog"]
    if pa.types.is_list(kind):
        texts = [text.split(";") for text in texts]
    (place / "v.csv").write_text("index,name\n0,cat\n1,dog\n")
    labels = parquet(place / "l.parquet", id=["a", "b", "c"], labels=pa.array(texts, kind))
    found = measured(place, labels=labels, vocabulary=place / "v.csv")
    assert (found["videos"], found["labels"], found["hit_at_1"]) == (3, 4, 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [True, False, True]}, "row 0, labels: expected class indices, got true and false"),
        ({"labels": [[True, False], [False, True], [False, True]]}, "row 0, labels: expected class indices, got true"),
        ({"labels": pa.array([None] * 3, pa.list_(pa.int64()))}, "l.parquet: the labels of all 3 predictions .* null"),
        ({"labels": [b"\xff", b"1", b"1"]}, "row 0: the label .* is not UTF-8"),
    ],
)
def test_labels_that_are_none_are_refused_by_name(columns: dict[str, Any], message: str, place: Path) -> None:
    labels = parquet(place / "l.parquet", id=["a", "b", "c"], **columns)
    with pytest.raises(JobError, match=message):
        measured(place, labels=labels)


@pytest.mark.parametrize("name", ["class_index", "probability"])
def test_a_null_prediction_is_refused_with_its_row(name: str, place: Path) -> None:
    cells: dict[str, list[Any]] = {**CELLS, name: [CELLS[name][0], None, CELLS[name][2]]}
    predictions = parquet(place / "p.parquet", id=["a", "b", "c"], **cells)
    with pytest.raises(JobError, match="p.parquet, row 1: the prediction is null"):
        measured(place, predictions=predictions)


def test_ids_are_text_without_blanks_around_it_whatever_their_type(place: Path) -> None:
    ids: list[Any] = [[" a", "b ", "c"], [b" a", b"b ", b"c"]]
    for own in ids:
        assert measured(place, predictions=parquet(place / "p.parquet", id=own, **CELLS))["videos"] == 3


def test_predictions_without_a_row_are_called_so(place: Path) -> None:
    (place / "p.csv").write_text("VideoId,LabelConfidencePairs\n")
    with pytest.raises(JobError, match="p.csv holds no prediction"):
        measured(place)


@pytest.mark.parametrize("name", ["frequency", "vertical"])
def test_a_feature_does_not_take_the_place_of_slices_that_are_there(name: str, place: Path) -> None:
    (place / "s.csv").write_text(f"id,{name}\na,1\nb,2\n")
    with pytest.raises(JobError, match=f"s.csv: the metrics have slices called '{name}' of their own"):
        measured(place, slices=place / "s.csv")


def test_an_empty_value_of_a_feature_is_no_value(place: Path) -> None:
    (place / "s.csv").write_text("id,year\na,\nb,2016\n")
    slices = measured(place, slices=place / "s.csv")["slices"]["year"]
    assert {value: figures["videos"] for value, figures in slices.items()} == {"(none)": 2, "2016": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("index,name\n1,cat\n2,dog\n", "leaves out 1 of 3 classes: 0, .*; indices begin with 0"),
        ("index,name\n0,cat\n3,dog\n", "leaves out 2 of 4 classes: 1, 2, which are called 'class 1'"),
        ("index,name\n0,cat\n1,Cat\n2,dog\n", "the classes 0, 1 are all called 'cat'"),
        ("index,name\n0,cat\n1,dog\n", ""),
    ],
)
def test_a_vocabulary_with_gaps_or_one_name_twice_is_told(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.csv").write_text(text)
    load_vocabulary(str(tmp_path / "v.csv"), tell=True)
    printed = capsys.readouterr().err
    if told:
        assert re.search(f"warning: vocabulary .*v.csv.*{told}", printed), printed
    else:
        assert printed == ""
    load_vocabulary(str(tmp_path / "v.csv"))
    assert capsys.readouterr().err == ""


def features(path: Path, text: str) -> tuple[list[bytes], list[int], list[list[float]], list[str]]:
    """Ids, labels, values and the messages about rejected rows of a CSV of features."""
    path.write_bytes(text.encode())
    ids, labels, values, rejected = [], [], [], []
    for batch, unusable in read_batches(str(path), csv_schema(str(path)), class_count=10):
        ids += batch.ids
        labels += batch.label_values.tolist()
        values += np.concatenate(list(batch.features.values()), axis=1).tolist()
        rejected += [each.message for each in unusable]
    return ids, labels, values, rejected


ROWS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "text",
    [
        'labels,red,green,id\n0,1,2, "a"\n1,3,4, "b"\n',
        '"id", "labels", "red", "green"\n"a", "0", "1", "2"\n"b", "1", "3", "4"\n',
        '"id" ,"labels" ,"red" ,"green"\n"a" ,"0" ,"1" ,"2"\n"b" ,"1" ,"3" ,"4"\n',
        "id,labels,red,green\ra,0,1,2\rb,1,3,4\r",
        "id,labels,red,green\r\na,0,1,2\r\nb,1,3,4\r\n,,,\r\n,,,\r\n",
        "id,labels,red,green\n\n a , 0 , 1 , 2 \n  \nb,1,3,4",
        "id;labels;red;green\na;0;1;2\nb;1.0;3;4\n",
    ],
)
def test_quotes_blanks_and_ends_of_lines_around_cells(text: str, tmp_path: Path) -> None:
    assert features(tmp_path / "a.csv", text) == ([b"a", b"b"], [0, 1], ROWS, [])


@pytest.mark.parametrize("beside", ["", "x,0,1\n"])
def test_a_label_means_the_same_beside_a_bad_row(beside: str, tmp_path: Path) -> None:
    ids, labels, _, rejected = features(tmp_path / "a.csv", f"id,labels,red,green\na,0x1,1,2\nb,1.0,3,4\n{beside}")
    assert (ids, labels) == ([b"b"], [1])
    assert rejected[0] == "labels: expected class indices separated by ';', got '0x1'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,labels\n"a" ,0\n', "line 2: a quoted cell goes on behind its second quote"),
        ('id,labels\n"a,0\n', "line 2: a quote is not closed"),
        ("\nid,labels\na,0\n", "is empty, or its first line is: that line must name the columns"),
    ],
)
def test_a_table_that_is_none_says_where_and_what_to_do(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(JobError, match=f"l.csv,? {message}"):
        list(tables.read_csv(str(tmp_path / "l.csv"), (tables.Column("id"), tables.Column("labels"))))


def test_a_first_line_that_no_reader_can_divide_is_shown(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"its first line, which must name the columns, is not one of a CSV: 'a\\rb'"):
        tables.parse_header("a\rb", "l.csv")


def test_no_file_of_features_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UsageError, match="a.csv is empty, or its first line is"):
        csv_schema(str(tmp_path / "a.csv"))
