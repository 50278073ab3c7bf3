"""Reports from the public trackers of other tools, tried as inputs here; each test names its report."""

import csv
import gzip
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import preprocess, score
from tests.conftest import ROOT
from tests.fixtures.scores import vocabulary, write_scores
from tests.fixtures.scoring import make_videos, serialise, write_shard
from vcls_model import compiled, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run as metrics
from vcls_model.records.csv_rows import csv_schema
from vcls_model.records.schema import RecordSchema
from vcls_model.records.shards import read_batches

PAIRS = "VideoId,LabelConfidencePairs\n"


def rows_of(path: Path, schema: RecordSchema | None = None) -> tuple[list[bytes], np.ndarray, list[Any]]:
    """Ids, values and rejected rows of a CSV of features."""
    ids, values, rejected = [], [], []
    for batch, unusable in read_batches(str(path), schema or csv_schema(str(path)), class_count=10):
        ids += batch.ids
        values.append(np.concatenate([rows for rows in batch.features.values()], axis=1))
        rejected += unusable
    return ids, np.concatenate(values), rejected


def test_commas_and_line_breaks_inside_quotes(tmp_path: Path) -> None:
    """tensorflow/tfx#2782: text with commas was read as more columns, and the job ended in a traceback."""
    path = tmp_path / "a.csv"
    path.write_text('id,labels,red,green\n"a, the first",0,1,2\n"b ""quoted""",1,3,4\n"c\nd",1,5,6\n"e",1,7,8\n')
    ids, values, rejected = rows_of(path)
    assert ids == [b"a, the first", b'b "quoted"', b"c\nd", b"e"] and not rejected
    np.testing.assert_array_equal(values, [[1, 2], [3, 4], [5, 6], [7, 8]])
    path.write_text('id,labels,red,green\n"a, the first",0,1,2\n"c\nd",1,5,6\n"e",1,7\n"f",1,7,8\n')
    ids, values, rejected = rows_of(path)
    assert ids == [b"a, the first", b"f"]
    # Beside a bad row both halves of a broken one are rejected, each with its line.
    assert [row.offset for row in rejected] == [3, 4, 5]


def test_a_byte_order_mark_before_a_quoted_heading(tmp_path: Path) -> None:
    """pandas-dev/pandas#13497: the mark and the quotes became part of the first column's name."""
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"id","labels","red","green"\n"a","0","1","2"\n')
    ids, values, _ = rows_of(path)
    assert (ids, values.tolist()) == ([b"a"], [[1, 2]])
    path.write_bytes(b'\xef\xbb\xbf"id","labels"\n"a","0"\n')
    assert [row["id"] for row in tables.read_csv(str(path), (tables.Column("id"), tables.Column("labels")))] == ["a"]


@pytest.mark.parametrize("header", ["id,labels,red,red", "id,labels,red, red ", "id,labels,Red,red", "ID,labels,id,x"])
def test_a_heading_that_comes_twice_is_refused(header: str, tmp_path: Path) -> None:
    """pandas-dev/pandas#19383 and #14367: the second column replaced the first, or was renamed in silence."""
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\na,0,1,2\n")
    with pytest.raises(UsageError, match=r"a.csv: the header names '(red|id)' more than once"):
        csv_schema(str(path))


def test_headings_that_look_like_renamed_ones_are_what_they_are(tmp_path: Path) -> None:
    """pandas-dev/pandas#14704: a column "0.1" was overwritten by the second "0"."""
    path = tmp_path / "a.csv"
    path.write_text("id,labels,-0.1,0,0.1\na,0,123,456,789\n")
    schema = csv_schema(str(path))
    assert schema.modalities[0].columns == ("-0.1", "0", "0.1")
    assert rows_of(path)[1].tolist() == [[123, 456, 789]]


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    """pandas-dev/pandas#39906: 000000 was read as an empty cell; 1E5 and long numbers become other numbers."""
    path = tmp_path / "a.csv"
    names = ["000000", "00123", "1E5", "1.0", "9007199254740993", "0x1F", "NA", "nan", "None", "TRUE"]
    path.write_text("id,labels,red\n" + "".join(f"{name},0,1\n" for name in names))
    assert rows_of(path)[0] == [name.encode() for name in names]
    (tmp_path / "p.csv").write_text(PAIRS + "".join(f"{name},0 0.5\n" for name in names))
    (tmp_path / "l.csv").write_text("id,labels\n" + "".join(f"{name},0\n" for name in names))
    found = metrics([f"--predictions={tmp_path}/p.csv", f"--labels={tmp_path}/l.csv", f"--output={tmp_path}/m.json"])
    assert found["videos"] == len(names)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_decimal_commas_are_refused_with_the_cell(separator: str, tmp_path: Path) -> None:
    """nyetwurk/ecuxplot#14 and jagduvi1/Cellarion#437: 0,75 was read as 0, or as two cells."""
    path = tmp_path / "a.csv"
    path.write_text("id,labels,red,green\na,0,0,75,1\n".replace(",", separator).replace(f"0{separator}75", "0,75"))
    with pytest.raises(JobError, match="a.csv the first .wrong_type: 1"):
        preprocess.run(
            [f"--train_input={path}", f"--vocabulary={_classes(tmp_path)}", f"--output={tmp_path}/o"]
            + ["--direct_num_workers=1"]
        )
    (letter,) = [json.loads(line) for file in (tmp_path / "o" / "dead_letter").iterdir() for line in file.open()]
    assert letter["message"] == "red must be a number, got '0,75' (numbers have a decimal point)"


def _classes(place: Path) -> Path:
    (place / "v.csv").write_text("index,name\n0,no\n1,yes\n")
    return place / "v.csv"


@pytest.mark.parametrize("mixed", [False, True])
def test_ids_of_another_type_join(mixed: bool, tmp_path: Path) -> None:
    """Bears-R-Us/arkouda#1247 and jorgecarleitao/arrow2#983: ids in a dictionary, as large text, as bytes; nulls."""
    labels = pa.array([[0], [], None], pa.large_list(pa.int16()))
    ids = pa.array(["7", "8", "9"], pa.large_string())
    pq.write_table(
        pa.table({"video_id": ids.dictionary_encode() if mixed else ids, "labels": labels}), tmp_path / "l.parquet"
    )
    numbers = pa.array([7, 8, 9], pa.int64()) if mixed else pa.array([b"7", b"8", b"9"])
    pq.write_table(
        pa.table({"id": numbers, "class_index": [[0, 1]] * 3, "probability": [[0.9, 0.1]] * 3}), tmp_path / "p.parquet"
    )
    found = metrics(
        [f"--predictions={tmp_path}/p.parquet", f"--labels={tmp_path}/l.parquet", f"--output={tmp_path}/m.json"]
    )
    # An empty list says "none of the classes"; null says nothing.
    assert (found["videos"], found["videos_without_labels"], found["hit_at_1"]) == (2, 1, 0.5)


def test_an_id_in_two_splits_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """huggingface/datasets#4261 and simula/kvasir-capsule#2: the same videos in train and validation, unnoticed."""
    for name, ids in (("a", ["x", "y", "z"]), ("b", ["z", "w"]), ("c", ["x", "u", "u"])):
        (tmp_path / f"{name}.csv").write_text("id,labels,red\n" + "".join(f"{each},0,1\n" for each in ids))
    flags = [f"--vocabulary={_classes(tmp_path)}", "--direct_num_workers=1"]
    splits = [f"--{split}_input={tmp_path}/{name}.csv" for split, name in (("train", "a"), ("validate", "b"))]
    info = preprocess.run([*splits, f"--test_input={tmp_path}/c.csv", f"--output={tmp_path}/given", *flags])
    assert (info["notes"]["ids_repeated"], info["notes"]["ids_in_several_splits"]) == (3, 2)
    printed = capsys.readouterr().err
    assert "warning: 3 records have the id of another one" in printed
    assert "warning: 2 ids are in more than one of --train_input, --validate_input and --test_input" in printed
    again = preprocess.run(
        [*splits, f"--test_input={tmp_path}/c.csv", f"--output={tmp_path}/given", *flags, "--resume"]
    )
    assert again["notes"] == info["notes"]
    capsys.readouterr()
    info = preprocess.run([f"--input={tmp_path}/a.csv", f"--output={tmp_path}/hashed", "--split_ratios=1,0,0", *flags])
    assert "ids_repeated" not in info["notes"] and "warning" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound shard beside four damaged ones."""
    place = tmp_path_factory.mktemp("damaged")
    data = write_shard(place / "sound.tfrecord", [serialise(video) for video in make_videos(40, 0)]).read_bytes()
    packed = gzip.compress(data)
    (place / "truncated.tfrecord").write_bytes(data[: len(data) // 2 + 100])
    (place / "gzip_cut.tfrecord").write_bytes(packed[: len(packed) // 2])
    (place / "gzip_twice.tfrecord").write_bytes(gzip.compress(packed))
    (place / "holes.tfrecord").write_bytes(data[:10000] + bytes(300) + data[10300:])
    return place


@pytest.mark.parametrize("name", ["truncated", "gzip_cut", "gzip_twice", "holes"])
@pytest.mark.parametrize("job", ["preprocess", "score"])
def test_a_damaged_shard_is_named_and_costs_no_more_than_itself(
    job: str, name: str, damaged: Path, model: Path, tmp_path: Path
) -> None:
    """tensorflow/tensorflow#20835, #26991 and #6164: the job died, and did not say of which file."""
    flags = [f"--input={damaged}/sound.tfrecord,{damaged}/{name}.tfrecord", f"--output={tmp_path}/o"]
    flags.append("--direct_num_workers=1")
    run = preprocess.run if job == "preprocess" else score.run
    if job == "score":
        flags.append(f"--model={model}")
    with pytest.raises(JobError) as raised:
        run(flags)
    assert f"{name}.tfrecord" in str(raised.value) or "dead_letter" in str(raised.value)
    info = run([*flags, "--resume", "--max_rejected_fraction=0.9"])
    assert info["records_written"] >= 40
    letters = [json.loads(line) for path in (tmp_path / "o" / "dead_letter").iterdir() for line in path.open()]
    assert letters and all(letter["shard"].endswith(f"{name}.tfrecord") for letter in letters)
    assert len(letters) == info["records_rejected"]


NAMES = {
    "500 letters": "Very long " * 50,
    "500 wide letters": "音楽" * 250,
    "dollars": "A$AP $ign & $$",  # matplotlib/matplotlib#20266
    "underscore": "_hidden",
    "line break": "two\nlines",
    "right to left": "\u202eמוזיקה",
    "formula": "\\frac{1}{2} ^ _",
    "blank": "\u00a0",
}


@pytest.mark.slow
def test_class_names_of_any_length_leave_figures_legible(tmp_path: Path) -> None:
    """matplotlib/matplotlib#17222 and #20266: long names squeezed the axes to nothing, dollars were formulas."""
    from pipelines.report import run

    classes = [
        type(info)(info.index, name, (name[:300],), info.train_count)
        for info, name in zip(vocabulary(len(NAMES)), NAMES.values(), strict=True)
    ]
    scores = write_scores(tmp_path / "scores", videos=80, classes=classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run([f"--scores={scores}", f"--output={tmp_path}/report", "--classes=0,1,2,3"])
    assert not [str(each.message) for each in caught if "layout" in str(each.message)]
    figures = {path.stem: path.read_text("utf-8") for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert "Very long Very long Ver…" in figures["pr_curves"] and "A$AP $ign" in figures["pr_curves"]
    assert all("Very long " * 5 not in figure for figure in figures.values())
    assert "音楽" * 5 in figures["pr_curves"] and "音楽" * 13 not in figures["pr_curves"]
    # The tables have the whole names.
    tables_text = "".join(path.read_text("utf-8") for path in (tmp_path / "report" / "tables").glob("*.csv"))
    assert ("Very long " * 50).strip() in tables_text and "音楽" * 250 in tables_text


def test_kernels_of_every_package_find_a_place_where_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """numba/numba#5566 and LMCache/LMCache#4597: "no locator available" where package and home are read-only."""
    monkeypatch.setattr(compiled, "_writable", lambda folder: False)
    for cached in (compiled._folder, compiled._temporary):
        cached.cache_clear()
    try:
        places = {compiled._folder(f"vcls_model.{package}") for package in ("records.kernels", "metrics.kernels")}
        assert all(Path(place).is_dir() for place in places)
        assert capsys.readouterr().err.count("set NUMBA_CACHE_DIR") == 1
    finally:
        for cached in (compiled._folder, compiled._temporary):
            cached.cache_clear()


def test_a_decimal_comma_in_the_locale_changes_nothing(tmp_path: Path) -> None:
    """kgabis/parson#142 and d99kris/rapidcsv#102: numbers were read as the locale writes them."""
    (tmp_path / "p.csv").write_text(PAIRS + "a,0 0.75 1 0.25\nb,0 0.5 1 0.625\n")
    (tmp_path / "l.csv").write_text("id,labels\na,0\nb,1\n")
    script = (
        "import locale, sys\n"
        "for name in ('de_DE.UTF-8', 'fr_FR.UTF-8', ''):\n"
        "    try:\n"
        "        locale.setlocale(locale.LC_ALL, name)\n"
        "        break\n"
        "    except locale.Error:\n"
        "        pass\n"
        "from vcls_model.metrics.__main__ import run\n"
        "print(run(sys.argv[1:])['hit_at_1'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"--predictions={tmp_path}/p.csv", f"--labels={tmp_path}/l.csv"]
        + [f"--output={tmp_path}/m.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["1.0"], done.stderr


def test_a_column_whose_name_has_a_slash_makes_a_modality(tmp_path: Path) -> None:
    """keras-team/keras#16717 and #20130: a slash in the name of an input ends training after all work is done."""
    path = tmp_path / "a.csv"
    path.write_text("id,labels,rgb/mean_0,rgb/mean_1\na,0,1,2\n")
    (modality,) = csv_schema(str(path)).modalities
    assert (modality.name, modality.width) == ("rgb_mean", 2)
    assert rows_of(path)[1].tolist() == [[1, 2]]


def test_a_table_is_never_cut_at_a_cell_of_any_length(tmp_path: Path) -> None:
    """Python's own reader refuses cells of more than 131,072 characters, which a list of classes reaches."""
    pairs = " ".join(f"{index} 0.000{index % 9 + 1}" for index in range(20000))
    (tmp_path / "p.csv").write_text(f"{PAIRS}a,{pairs}\n")
    (tmp_path / "l.csv").write_text("id,labels\na,0\n")
    found = metrics([f"--predictions={tmp_path}/p.csv", f"--labels={tmp_path}/l.csv", f"--output={tmp_path}/m.json"])
    assert len(pairs) > 131_072 and found["videos"] == 1


def test_one_writer_of_csv(tmp_path: Path) -> None:
    """What is written is read back: quotes, separators and line breaks in names."""
    rows = [(0, 'a "b", c;d'), (1, "two\nlines"), (2, "")]
    (tmp_path / "a.csv").write_text(text := tables.write_csv(("index", "name"), rows), newline="")
    assert list(csv.reader(io.StringIO(text)))[1:] == [[str(index), name] for index, name in rows]
    read = list(tables.read_csv(str(tmp_path / "a.csv"), (tables.Column("index"), tables.Column("name"))))
    assert [(int(row["index"]), row["name"]) for row in read] == rows


@pytest.mark.parametrize("flag", ["labels", "slices"])
def test_headings_in_the_midst_of_joined_tables(flag: str, tmp_path: Path) -> None:
    """dotnet/machinelearning-modelbuilder#698: `cat a.csv b.csv` leaves a heading among the rows."""
    tables_of = {
        "predictions": PAIRS + "a,1 0.9\nb,0 0.8\n",
        "labels": "id,labels\na,1\nb,0\n",
        "slices": "id,y\na,1\nb,2\n",
    }
    tables_of[flag] += tables_of[flag].replace("\na,", "\nc,").replace("\nb,", "\nd,")
    for name, text in tables_of.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(JobError, match=rf"{flag}\.csv, line 4: the heading comes again"):
        metrics([*(f"--{name}={tmp_path}/{name}.csv" for name in tables_of), f"--output={tmp_path}/m.json"])


def test_labels_that_are_but_a_heading(tmp_path: Path) -> None:
    """mir-dataset-loaders/mirdata#402: annotation files without an annotation."""
    (tmp_path / "p.csv").write_text(PAIRS + "a,1 0.9\n")
    (tmp_path / "l.csv").write_text("id,labels\n")
    with pytest.raises(JobError, match=r"l\.csv has labels of no video: it has no row"):
        metrics([f"--predictions={tmp_path}/p.csv", f"--labels={tmp_path}/l.csv", f"--output={tmp_path}/m.json"])
