"""A CSV of features: clean blocks through pyarrow, blocks with a bad row through the careful reader, same result."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from vcls_model.commands import JobError, UsageError
from vcls_model.records import csv_rows
from vcls_model.records.schema import schema_from_dict
from vcls_model.records.shards import detect_schema, read_batches, resolve_schema

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
        ("\udcff,1,1,2,3,4,5", "not_utf8"),
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
    rows = ['"a,""b""", 3 ; 1 ;3,1,2,3,4,5', "", "ü,2;,1,2,3,4,5\r"]
    ids, labels, _, _, rejected, _ = read(write(tmp_path / "a.csv", rows, "\ufeff" + HEADER + "\r"))
    assert rejected == []
    assert ids == [b'a,"b"', "ü".encode()]
    assert labels == [[1, 3], [2]]


def test_the_header_makes_the_schema(tmp_path: Path) -> None:
    schema = detect_schema(str(write(tmp_path / "a.csv", ROWS)))
    assert [(modality.name, modality.width) for modality in schema.modalities] == [("mean_rgb", 3), ("mean_audio", 2)]
    schema = detect_schema(str(write(tmp_path / "b.csv", ["a,1,2,3"], "id,labels,height,width")))
    assert [(modality.name, modality.width) for modality in schema.modalities] == [("features", 2)]
    shuffled = write(tmp_path / "c.csv", ["7,1,8,v"], "x1,labels,x0,video_id")
    ((batch, _),) = read_batches(str(shuffled), detect_schema(str(shuffled)), class_count=None)
    assert batch.ids == [b"v"] and np.asarray(batch.features["x"]).tolist() == [[8, 7]]


def values_of(path: Path, schema=None):  # type: ignore[no-untyped-def]
    schema = schema or detect_schema(str(path))
    ((batch, rejected),) = read_batches(str(path), schema, class_count=10, require_labels=False)
    labels = [part.tolist() for part in np.split(batch.label_values, np.cumsum(batch.label_lengths))[:-1]]
    return batch.ids, labels, {name: np.asarray(each).tolist() for name, each in batch.features.items()}, rejected


PLAIN = "id,labels,loud,tempo\np,1;2,3,300\nq,0,4,400\n"
EXPECTED = [b"p", b"q"], [[1, 2], [0]], {"features": [[3, 300], [4, 400]]}, []


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "tempo,labels,LOUD,id\n300,1;2,3,p\n400,0,4,q\n",
        "id;labels;loud;tempo\np;1 2;3;300\nq;0;4;400\n",
        "id\tlabels\tloud\ttempo\np\t1;2\t3\t300\nq\t0\t4\t400\n",
        "id|labels|loud|tempo\np|1;2|3|300\nq|0|4|400\n",
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        'id,labels,loud,tempo\n"p", "1;2" ,"3", 300\n q ,"0",4,"400"\n',
        "id,labels,loud,tempo\np,1.0;2.0,3,300\nq,0.0,4,400\n",
        ",id,labels,loud,tempo\n7,p,1;2,3,300\n8,q,0,4,400\n",
        "Unnamed: 0.1,Unnamed: 0,id,labels,loud,tempo\n7,0,p,1;2,3,300\n7,1,q,0,4,400\n",
        "index,id,labels,loud,tempo\n0,p,1;2,3,300\n1,q,0,4,400\n",
    ],
)
def test_columns_are_read_by_name_in_any_clothes(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "plain.csv").write_text(PLAIN)
    schema = detect_schema(str(tmp_path / "plain.csv"))
    assert schema.modalities[0].columns == ("loud", "tempo")
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert values_of(path, schema) == EXPECTED


def test_blocks_of_utf_16_break_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(("\n".join([HEADER, *ROWS]) + "\n").encode("utf-16"))
    assert read(tmp_path / "a.csv", 301) == read(write(tmp_path / "b.csv", ROWS), 301)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,labels,loud,pitch\np,1,3,300\n", ["lacks 'tempo'", "has 'pitch'", "must be 'loud', 'tempo'"]),
        ("id,labels,loud\np,1,3\n", ["lacks 'tempo'"]),
        ("id,labels,loud,tempo,pitch\np,1,3,300,2\n", ["has 'pitch' in addition"]),
        ("id,labels,loud,loud\np,1,3,300\n", ["'loud' more than once"]),
        ("p,1,3,300\n", ["no column named id"]),
        ("id,loud,tempo\np,3,300\n", ["no column named labels"]),
        ("id,labels,loud,tempo,lärm\n".encode("latin-1"), ["Latin-1"]),
        (b"PAR1\0\0" + bytes(range(1, 200)), ["is not a text file"]),
    ],
)
def test_a_file_of_other_columns_fails_by_name(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    (tmp_path / "plain.csv").write_text(PLAIN)
    schema = detect_schema(str(tmp_path / "plain.csv"))
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(JobError) as refused:
        values_of(path, schema)
    assert all(word in str(refused.value) for word in [str(path), *words]), refused.value


def test_files_of_numbered_columns_must_agree_on_their_widths(tmp_path: Path) -> None:
    schema = detect_schema(str(write(tmp_path / "a.csv", ROWS)))
    other = write(tmp_path / "b.csv", ["a,1,2"], "id,labels,mean_rgb_0")
    with pytest.raises(JobError, match="b.csv: its columns 'mean_rgb_0' make mean_rgb.1., expected mean_rgb.3."):
        values_of(other, schema)


def test_columns_that_are_left_out_are_named(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "a.csv", ["0,v,1,2,3"], "index,id,labels,mean_rgb_0,mean_rgb_1")
    assert [(each.name, each.width) for each in detect_schema(str(path)).modalities] == [("mean_rgb", 2)]
    assert "not used, because row numbers say nothing of a video: 'index'" in capsys.readouterr().err


def test_a_refused_cell_is_shown_with_its_column(tmp_path: Path) -> None:
    rows = ["a,.7,1,2", "b,1,x,2", "c,1,1,nan", "d,1,1,"]
    *_, rejected = values_of(write(tmp_path / "a.csv", rows, "id,labels,loud,tempo"))
    assert [(item.offset, item.message) for item in rejected] == [
        (2, "labels: expected class indices separated by ';', got '.7'"),
        (3, "loud must be a number, got 'x'"),
        (4, "tempo is nan: NaN, infinite, or beyond float32"),
        (5, "tempo is empty"),
    ]


def test_a_schema_file_takes_the_names_of_the_first_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("clip,labels,tempo,loud\np,1;2,300,3\n")
    second.write_text("loud,clip,labels,tempo\n3,p,1;2,300\n")
    modality = {"name": "features", "width": 2, "kind": "vector", "encoding": "float32"}
    described = {"name": "mine", "container": "csv", "id_feature": "clip", "labels_feature": "labels"}
    (tmp_path / "s.json").write_text(json.dumps({**described, "modalities": [modality]}))
    schema = resolve_schema(str(tmp_path / "s.json"), str(first))
    assert values_of(first, schema) == values_of(second, schema) == ([b"p"], [[1, 2]], {"features": [[300, 3]]}, [])
    assert schema_from_dict(schema.to_dict()) == schema
    assert "columns" not in schema.settings()["modalities"][0]


@pytest.mark.parametrize("header", ["", "a,b,c", "id,labels", "id,mean_rgb_0", "id,labels,f1,f1"])
def test_a_table_of_something_else_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(UsageError, match="is not a CSV of features"):
        detect_schema(str(write(tmp_path / "a.csv", [], header)))


def test_what_is_meant_to_take_for_ever_takes_a_moment(tmp_path: Path) -> None:
    read(write(tmp_path / "warm.csv", ROWS))
    started = time.process_time()
    # A heading of digits, which a pattern would divide in every way.
    schema = detect_schema(str(write(tmp_path / "a.csv", ["x,1,1"], "id,labels," + "1" * 500_000 + "x")))
    assert schema.modalities[0].width == 1
    # A row with as many labels as fit, of which one is out of range.
    labels = ";".join(map(str, range(300_000)))
    ids, _, _, _, rejected, _ = read(write(tmp_path / "b.csv", [f"x,{labels},1,2,3,4,5", ROWS[0]]))
    assert ids == [b"v0"] and [item.error for item in rejected] == ["label_out_of_range"]
    # Thousands of columns without numbers in their names.
    names = [f"n{'abcdefghij'[number % 10]}{number}z" for number in range(20_000)]
    path = write(tmp_path / "c.csv", ["x,1," + ",".join(["1"] * 20_000)], "id,labels," + ",".join(names))
    ((batch, _),) = read_batches(str(path), detect_schema(str(path)), class_count=10)
    assert batch.features["features"].shape == (1, 20_000)
    assert time.process_time() - started < 10


def test_a_line_without_an_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_LONGEST_LINE_BYTES", 3 << 20)
    path = write(tmp_path / "a.csv", ["x,1," + "1" * (9 << 20)])
    with pytest.raises(JobError, match="a.csv, line 2: it has more than 3 MB, as no row has"):
        read(path)


def test_numbers_are_written_as_every_program_writes_them(tmp_path: Path) -> None:
    _, _, _, _, rejected, _ = read(write(tmp_path / "a.csv", ["x,1,1_000,2,3,4,5", "y,1," + "z" * 5000 + ",2,3,4,5"]))
    assert [item.error for item in rejected] == ["wrong_type"] * 2
    assert "got '1_000'" in rejected[0].message and len(rejected[1].message) < 200


def test_labels_by_name(tmp_path: Path) -> None:
    names = ("Arcade game", "Car", "car", "7", "Dog")
    rows = ["a,Arcade game;4,1,2,3,4,5", "b,DOG; 0,1,2,3,4,5", "c,Car,1,2,3,4,5", "d,cAR,1,2,3,4,5"]
    rows += ["e,Cat;Dog,1,2,3,4,5", "f,3 1,1,2,3,4,5"]
    path = write(tmp_path / "a.csv", rows)
    ids, labels, _, _, rejected, _ = read(path, class_names=names, class_count=5)
    assert dict(zip(ids, labels, strict=True)) == {b"a": [0, 4], b"b": [0, 4], b"c": [1], b"f": [1, 3]}
    assert [(item.id, item.error) for item in rejected] == [("d", "wrong_type"), ("e", "unknown_label")]
    assert "the classes 1, 2 are called 'cAR': write an index" in rejected[0].message
    assert "no class of the vocabulary is called 'Cat'" in rejected[1].message
    # Scoring leaves out labels that the model does not know, and counts them.
    batches = list(
        read_batches(str(path), detect_schema(str(path)), class_count=5, class_names=names, drop_unknown_labels=True)
    )
    assert [batch.notes["labels_unknown"] for batch, _ in batches] == [1]
    assert batches[0][0].ids == [b"a", b"b", b"c", b"e", b"f"]
    # Without a vocabulary there are indices alone.
    _, _, _, _, rejected, _ = read(path)
    assert {item.error for item in rejected} == {"wrong_type"} and len(rejected) == 5


def test_rows_may_lack_modalities_but_not_all(tmp_path: Path) -> None:
    """Empty cells are a modality that is missing, if they are all of it; a row that has only a title is a record."""
    rows = [*ROWS[:3], "a,1,,,,4,5", "b,1,1,2,3,,", "c,1,,,,,", "d,1,1,,3,4,5", "e,1,1,2,3,4,"]
    path = write(tmp_path / "a.csv", rows)
    ids, _, rgb, audio, rejected, _ = read(path, missing_modality="mask")
    assert ids == [b"v0", b"v1", b"v2", b"a", b"b"]
    assert np.isnan(rgb).any(axis=1).tolist() == [False, False, False, True, False]
    assert np.isnan(audio).any(axis=1).tolist() == [False, False, False, False, True]
    assert [(each.id, each.error) for each in rejected] == [(name, "missing_feature") for name in "cde"]
    assert len(read(path)[4]) == 5  # and with `reject`, which is the default here, all of them
    titled = write(tmp_path / "b.csv", ["a,1,1,2,word", "b,1,,,word", "c,1,,, ", "d,1,,2,word"], "id,labels,x,y,title")
    schema = detect_schema(str(titled), texts=["title"])
    batches = read_batches(str(titled), schema, class_count=10, missing_modality="mask", batch_records=1)
    found, unusable = zip(*batches, strict=True)
    assert [batch.ids for batch in found] == [[b"a"], [b"b"]]
    vector = next(modality.name for modality in schema.modalities if modality.name != "title")
    assert [np.isnan(batch.features[vector]).all() for batch in found] == [False, True]
    assert [batch.missing[vector].tolist() for batch in found] == [[False], [True]]
    assert [each.id for each in sum(unusable, [])] == ["c", "d"]
