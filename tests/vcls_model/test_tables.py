"""Tables that people bring, read by name: what is accepted, and what each refusal names."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vcls_model import tables
from vcls_model.commands import JobError
from vcls_model.tables import Column

COLUMNS = (Column("id", ("video_id",)), Column("labels"), Column("note", required=False))
PLAIN = "id,labels,note\na,1;2,x\nb,,y\n"


def rows(path: Path, data: str | bytes, **options) -> list[dict[str, str]]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return [dict(row.cells) for row in tables.read_csv(str(path), COLUMNS, **options)]


EXPECTED = [{"id": "a", "labels": "1;2", "note": "x"}, {"id": "b", "labels": "", "note": "y"}]


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        "note,labels,id\nx,1;2,a\ny,,b\n",
        " ID , Labels,NOTE\na, 1;2 ,x\nb,,y\n",
        "video_id,labels,note\r\na,1;2,x\r\n\r\nb,,y",
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        'id;labels;note\na;"1;2";x\nb;;y\n',
        "id\tlabels\tnote\na\t1;2\tx\nb\t\ty\n",
        "id|labels|note\na|1;2|x\nb||y\n",
        '"id","labels","note"\n"a", "1;2","x"\n"b","","y"\n',
        ",id,labels,note\n0,a,1;2,x\n1,b,,y\n",
    ],
)
def test_the_same_table_in_other_clothes(tmp_path: Path, data: str | bytes) -> None:
    assert rows(tmp_path / "t.csv", data) == EXPECTED


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", ["is empty"]),
        ("a,1\nb,2\n", ["no column named id", "video_id", "first line"]),
        ("id,note\na,x\n", ["no column named labels", "commas"]),
        ("id,labels,ID\na,1,b\n", ["'id'", "more than once"]),
        ("id,video_id,labels\na,b,1\n", ["'id' and 'video_id'"]),
        ("id;labels\na;1\nid; labels\nb;2\n", ["line 3", "the heading comes again"]),
        ("id,labels\na,1,2\n", ["line 2", "3 cells", "2 columns"]),
        ("id,labels\na,1\nb\n", ["line 3", "1 cells"]),
        ('id,labels\na,"1\n', ["line 2", "a quote is not closed"]),
        ("id,labels\nä,1\n".encode("latin-1"), ["not UTF-8", "0xe4", "Latin-1"]),
        ("id,labels\na,1\n".encode("utf-16-le"), ["UTF-16 without a byte-order mark"]),
        ("id,labels\na,1\n".encode("utf-32"), ["UTF-32"]),
        (b"PK\x03\x04\0\0" + bytes(range(1, 200)), ["not a text file"]),
    ],
)
def test_a_refusal_names_what_is_wrong(tmp_path: Path, data: str | bytes, words: list[str]) -> None:
    with pytest.raises(JobError) as refused:
        rows(tmp_path / "t.csv", data)
    message = str(refused.value)
    assert all(word in message for word in [str(tmp_path / "t.csv"), *words]), message
    assert "\n" not in message


def test_an_id_that_comes_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="line 4: id 'a' occurs twice, after line 2"):
        rows(tmp_path / "t.csv", "id,labels\na,1\nb,1\na,2\n", unique="id")


def test_columns_that_are_not_used_are_reported(tmp_path: Path, capsys) -> None:
    rows(tmp_path / "t.csv", "id,labels,title,,url\na,1,t,0,u\n")
    assert "not used: 'title', 'column 4', 'url'" in capsys.readouterr().err
    rows(tmp_path / "t.csv", "id,labels,title\na,1,t\n", others="ignore")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("text", "value"), [("1", 1), (" 7 ", 7), ("1.0", 1), ("-3", -3), ("1e3", 1000), ("+2", 2)])
def test_whole_numbers(text: str, value: int) -> None:
    assert tables.whole_number(text, "f, line 2") == value


@pytest.mark.parametrize("text", [".7", "1.9", "", "nan", "inf", "1e300", "0x1", "1,5", "a", "9007199254740993.0"])
def test_what_is_not_a_whole_number_is_shown(text: str) -> None:
    with pytest.raises(JobError) as refused:
        tables.whole_number(text, "f.csv, line 2")
    assert str(refused.value).startswith("f.csv, line 2: ") and repr(text) in str(refused.value)


def test_whole_numbers_of_arrays() -> None:
    assert tables.whole_numbers(np.array([1.0, 2.0]), "f").tolist() == [1, 2]
    with pytest.raises(JobError, match="got 1.9"):
        tables.whole_numbers(np.array([1.0, 1.9]), "f")
    with pytest.raises(JobError, match="got nan"):
        tables.whole_numbers(np.array([np.nan]), "f")
    with pytest.raises(JobError, match="<U1"):
        tables.whole_numbers(np.array(["a"]), "f")


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ("00123", b"00123"),
        ("1E5", b"1E5"),
        (7, b"7"),
        (np.int64(8), b"8"),
        (b"\xff", b"\xff"),
        ("é", b"\xc3\xa9"),
        (5.0, b"5"),
    ],
)
def test_ids_are_text_whatever_their_type(value: object, identity: bytes) -> None:
    assert tables.id_bytes(value, "f") == identity


@pytest.mark.parametrize("value", [None, "", b"", 1.5, float("nan"), True, ["a"]])
def test_what_is_not_an_id_is_refused(value: object) -> None:
    with pytest.raises(JobError, match="^f: "):
        tables.id_bytes(value, "f")


def test_parquet_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"Labels": [[1], []], "video_id": [b"a", b"b"]}), path)
    file = tables.open_parquet(str(path))
    names = tables.parquet_columns(file, COLUMNS, str(path))
    assert names == {"id": "video_id", "labels": "Labels"}
    (batch,) = tables.parquet_batches(file, str(path), 10, list(names.values()))
    assert batch.column("video_id").to_pylist() == [b"a", b"b"]
    with pytest.raises(JobError, match="no column named score"):
        tables.parquet_columns(file, [Column("score")], str(path))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(JobError, match="t.parquet cannot be read as Parquet"):
        tables.open_parquet(str(path))


def test_npz_names_the_array(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, ids=np.array(["a", "b"], dtype=object), lens=np.arange(2), ok=np.ones(3))
    assert tables.read_npz(str(path), ["ok"], ["absent"]).keys() == {"ok"}
    with pytest.raises(JobError, match="the array ids holds Python objects.*np.asarray"):
        tables.read_npz(str(path), ["ids"])
    with pytest.raises(JobError, match="no array other; it holds ids, lens, ok"):
        tables.read_npz(str(path), ["other"])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(JobError, match="t.npz is not an npz file"):
        tables.read_npz(str(path), ["ok"])


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, values=np.random.default_rng(0).normal(size=5000))
    data = bytearray(path.read_bytes())
    data[500:700] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(JobError, match="the array values is damaged"):
        tables.read_npz(str(path), ["values"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), at=st.integers(0, len(PLAIN)), cut=st.integers(0, 10))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes, at: int, cut: int) -> None:
    mutated = PLAIN.encode()[:at] + data + PLAIN.encode()[at + cut :]
    path = tmp_path / "t.csv"
    path.write_bytes(mutated)
    try:
        for row in tables.read_csv(str(path), COLUMNS):
            assert set(row.cells) >= {"id", "labels"}
    except JobError as error:
        assert str(path) in str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40), at=st.floats(0, 1), cut=st.integers(0, 40))
@example(data=b"@" + bytes(10), at=0.75, cut=11)  # asks for another version of zip
def test_any_bytes_of_an_npz_are_read_or_refused(tmp_path: Path, data: bytes, at: float, cut: int) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=np.array(["a", "b"]), values=np.arange(50.0))
    whole = buffer.getvalue()
    position = int(at * len(whole))
    path = tmp_path / "t.npz"
    path.write_bytes(whole[:position] + data + whole[position + cut :])
    try:
        tables.read_npz(str(path), ["ids", "values"])
    except JobError as error:
        assert str(path) in str(error)


def test_a_line_without_an_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LONGEST_LINE", 2 << 20)
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1," + "y" * (1 << 20) + "\n")
    assert [len(row["b"]) for row in tables.read_csv(str(path), None)] == [1 << 20]
    for text in ("a,b\n1," + "y" * (3 << 20), "a" * (3 << 20)):
        path.write_text(text)
        with pytest.raises(JobError, match="x.csv is not a table: it has a line of more than 2 MB"):
            list(tables.read_csv(str(path), None))


def test_bombs_are_refused_before_they_inflate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_INFLATED_FREELY_BYTES", 32 << 20)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, ids=np.array(["a"]), logits=np.zeros((5000, 4000), np.float32))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(JobError, match=r"x.npz: the array logits inflates to 80,000,\d+ bytes, many times its size"):
        tables.read_npz(str(path), ["ids", "logits"])
    assert list(tables.read_npz(str(path), ["ids"])) == ["ids"]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"class_index": pa.array([[7] * (8 << 20)] * 5, pa.list_(pa.int32()))}), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(JobError, match="x.parquet claims to hold 41,943,040 values, many times its size"):
        tables.open_parquet(str(path))


def test_an_array_that_claims_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    path, stream = tmp_path / "x.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", stream.getvalue() + bytes(64))
    with pytest.raises(JobError, match="x.npz: the array logits is (larger than the memory|damaged)"):
        tables.read_npz(str(path), ["logits"])
