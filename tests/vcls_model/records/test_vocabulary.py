"""Vocabularies of the datasets, of users, and broken ones."""

import pytest

from vcls_model.commands import UsageError
from vcls_model.records.vocabulary import (
    ClassInfo,
    MultiHotLabels,
    check_same_classes,
    load_vocabulary,
    read_vocabulary,
    refuse_multi_hot_pairs,
    shared_names,
    unnamed_classes,
    write_labels_csv,
)


def test_youtube8m_columns_in_any_order_and_case():
    text = (
        "\ufeffName,index,Vertical1,VERTICAL2,Vertical3,TrainVideoCount,KnowledgeGraphId\r\n"
        '"Game, the ""best""",0,Games,,,788288,/m/03bt1gh\r\n,2,Arts & Entertainment,Games,,5,/m/0x\r\n'
    )
    assert read_vocabulary(text, "v.csv") == [
        ClassInfo(0, 'Game, the "best"', ("Games",), 788288),
        ClassInfo(1, "class 1"),
        ClassInfo(2, "class 2 (/m/0x)", ("Arts & Entertainment", "Games"), 5),
    ]


def test_audioset_columns_and_unicode():
    text = 'index,mid,display_name\n1,/m/05zppz,"Männlich, 男"\n0,/m/09x0r,<script>\n'
    assert [info.name for info in read_vocabulary(text, "a.csv")] == ["<script>", "Männlich, 男"]


def test_a_given_class_count_adds_unnamed_classes():
    assert read_vocabulary("index,name\n1,b\n", "v.csv", 3) == [
        ClassInfo(0, "class 0"),
        ClassInfo(1, "b"),
        ClassInfo(2, "class 2"),
    ]


def test_labels_csv_reads_back():
    classes = [ClassInfo(0, 'a "b", c\nd', ("X", "Y", "Z"), 7, 0.1), ClassInfo(1, "é", (), None, 0.30000000000000004)]
    assert read_vocabulary(write_labels_csv(classes), "labels.csv") == classes
    text = write_labels_csv(unnamed_classes(2), [0.25, 0.5])
    assert text.splitlines()[0] == "index,name,vertical1,vertical2,vertical3,best_threshold,train_count"
    assert [info.best_threshold for info in read_vocabulary(text, "labels.csv")] == [0.25, 0.5]
    with pytest.raises(ValueError, match="1 thresholds for 2"):
        write_labels_csv(unnamed_classes(2), [0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("name\nx\n", "no column named index"),
        ("index,name\n", "names no class"),
        ("index,name\nx,a\n", "v.csv, line 2: expected the index of a class, got 'x'"),
        ("index,name\n-1,a\n", "outside"),
        ("index,name\n0,a\n0,b\n", "line 3: class 0 is listed twice"),
        ("index\n99999999\n", "outside"),
        ("index,name,train_count\n0,a,many\n", "line 2: expected a number of training videos, got 'many'"),
        ("index,name,best_threshold\n0,a,nan\n", "line 2: expected a threshold, got 'nan'"),
        ("index,name\n0.7,a\n", "line 2: expected the index of a class, got '0.7'"),
        ("index,name\n0\n", "line 2: 1 cells in a table of 2 columns"),
        ("index,label_id\n0,0\n", "'index' and 'label_id' both mean"),
    ],
)
def test_broken_vocabularies_name_the_line(text, message):
    with pytest.raises(UsageError, match=message):
        read_vocabulary(text, "v.csv")


def test_a_vocabulary_of_more_classes_than_expected():
    with pytest.raises(UsageError, match="class 5, but there are 3 classes"):
        read_vocabulary("index\n5\n", "v.csv", 3)


def test_a_table_of_a_job_that_lost_rows_is_no_table_of_unnamed_classes() -> None:
    """The names, and worse, the thresholds of the others would be taken for unknown."""
    whole = write_labels_csv(read_vocabulary("index,name\n0,a\n1,b\n2,c\n", "v"))
    assert len(read_vocabulary(whole, "labels.csv", 3, complete=True)) == 3
    for lost in (1, 2, 3):
        rows = whole.splitlines(keepends=True)
        del rows[lost]
        with pytest.raises(UsageError, match=r"labels.csv is damaged: it has 2 of 3 classes"):
            read_vocabulary("".join(rows), "labels.csv", 3, complete=True)


def test_the_shipped_and_the_shared_vocabularies(sample, shared_data):
    shipped = read_vocabulary((sample / "vocabulary.csv").read_text(encoding="utf-8"), "sample")
    full = read_vocabulary((shared_data / "yt8m" / "vocabulary.csv").read_text(encoding="utf-8"), "full")
    assert len(shipped) == len(full) == 3862
    assert [info.verticals for info in shipped] == [info.verticals for info in full]
    assert full[0].train_count == 788288 and all(info.name for info in full)
    audio = (shared_data / "audioset" / "class_labels_indices.csv").read_text(encoding="utf-8")
    assert len(read_vocabulary(audio, "audioset", 527)) == 527


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path):  # type: ignore[no-untyped-def]
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufeffindex,name\n0,Straße\n".encode())
    assert [info.name for info in load_vocabulary(str(path))] == ["Straße"]
    path.write_bytes(b"index,name\n0,\xff\n")
    with pytest.raises(UsageError, match="is not UTF-8"):
        load_vocabulary(str(path))


def test_the_same_classes() -> None:
    check_same_classes("a", ["cat", "class 1", "dog"], "b", ["cat", "cow", "class 2 (/m/0bt9lr)"])
    with pytest.raises(UsageError, match="^a and b have different numbers of classes: 1 and 2; train again$"):
        check_same_classes("a", ["cat"], "b", ["cat", "dog"], "; train again")
    with pytest.raises(UsageError, match="a and b have different classes: class 1 is 'cow' in one, 'dog' in the other"):
        check_same_classes("a", ["cat", "cow"], "b", ["cat", "dog"])
    with pytest.raises(UsageError, match="class 0"):  # a name that only looks like a number
        check_same_classes("a", ["class 10"], "b", ["cat"])


def test_indices_written_as_floats_and_other_separators() -> None:
    assert [info.name for info in read_vocabulary("index;name\n0.0;no\n1.0;yes\n", "v.csv")] == ["no", "yes"]
    assert [info.name for info in read_vocabulary("name\tindex\nno\t0\n".encode("utf-16"), "v.csv")] == ["no"]


def test_names_that_classes_share() -> None:
    assert shared_names(["Flash", "a", "flash", "b", "a"]) == {"flash": [0, 2], "a": [1, 4]}


@pytest.mark.parametrize("cells", [[[0, 1], [1, 0]], [[0.0, 1.0], [0.0, 0.0], None]])
def test_a_0_or_1_for_each_of_two_classes_is_told_by_all_lists(cells: list[object]) -> None:
    with pytest.raises(MultiHotLabels, match="look like one per class"):
        refuse_multi_hot_pairs(cells, "labels")


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [[0, 1], [0, 1]],
        [[0, 1], [1]],
        [[0, 1], [1, 2]],
        [[0, [1]], [1, 0]],
        ["0 1", "1 0"],
        [[True, False], [False, True]],
    ],
)
def test_other_lists_are_left_to_whoever_reads_them(cells: list[object]) -> None:
    refuse_multi_hot_pairs(cells, "labels")
