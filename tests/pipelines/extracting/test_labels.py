"""Labels of CSVs and folders, ids, and the division into shards."""

from pathlib import Path

import pytest

from pipelines.extracting import planning
from pipelines.extracting.config import MediaFile
from pipelines.extracting.labels import Entry, by_folder, index_labels, of_table, unlabelled
from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.embedding import EmbeddingConfig


def entries_of(*labels: str) -> list[Entry]:
    return [
        Entry(("x", 1, 0.0), str(row), tuple(cell.split(";")) if cell else None, f"row {row}")
        for row, cell in enumerate(labels)
    ]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("cats/a.mp4", "cats/b.mp4", "dogs/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_names_are_classes_in_alphabetical_order() -> None:
    classes, labels = index_labels(entries_of("dog;cat", "", "bird"), None)
    assert [info.name for info in classes] == ["bird", "cat", "dog"]
    assert labels == [(1, 2), (), (0,)]


def test_whole_numbers_are_indices_unless_the_vocabulary_has_such_names(tmp_path: Path) -> None:
    classes, labels = index_labels(entries_of("3;1", "0"), None)
    assert len(classes) == 4 and labels == [(1, 3), (0,)]
    (tmp_path / "vocabulary.csv").write_text("index,name\n0,7\n1,bird\n2,7up\n")
    _, labels = index_labels(entries_of("7;2", "bird"), str(tmp_path / "vocabulary.csv"))
    assert labels == [(0, 2), (1,)]
    with pytest.raises(UsageError, match=r"row 0: .*vocabulary.csv has no class 'brid' \(3 classes\)"):
        index_labels(entries_of("brid"), str(tmp_path / "vocabulary.csv"))
    (tmp_path / "vocabulary.csv").write_text("index,name\n0,Flash\n1,bird\n2,Flash\n")
    with pytest.raises(UsageError, match=r"row 1: .* has several classes 'Flash': write one of the indices 0, 2"):
        index_labels(entries_of("2;0", "Flash"), str(tmp_path / "vocabulary.csv"))


def test_a_csv_names_files_from_its_own_folder(videos: Path) -> None:
    table = videos / "videos.csv"
    table.write_text(
        "path,labels,title,start,end\ncats/a.mp4,cat; pet,One,,\ndogs/a.mp4,,Two,2,5.5\ndogs/b.mp4,dog,,,\n"
    )
    entries = of_table(str(table), None, [])
    assert [entry.id for entry in entries] == ["cats/a", "dogs/a:2", "dogs/b"]
    assert [entry.labels for entry in entries] == [("cat", "pet"), None, ("dog",)]
    assert entries[0].file[0] == str(videos / "cats/a.mp4") and entries[2].file[1] == -1  # dogs/b.mp4 is not there
    assert entries[1].context == (("title", "Two"),) and (entries[1].start, entries[1].end) == (2.0, 5.5)


def test_paths_as_windows_writes_them(videos: Path) -> None:
    """A name that holds a backslash comes first where there is such a file."""
    table = videos / "videos.csv"
    table.write_text("path,labels\r\ncats\\a.mp4,cat\r\n.\\dogs\\a.mp4,dog\r\n")
    entries = of_table(str(table), None, [])
    assert [entry.file[0] for entry in entries] == [str(videos / "cats/a.mp4"), str(videos / "dogs/a.mp4")]
    (videos / "cats\\a.mp4").write_bytes(b"x")
    assert of_table(str(table), None, [])[0].file[0] == str(videos / "cats\\a.mp4")


def test_input_chooses_rows_and_says_what_is_left_out(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = videos / "videos.csv"
    table.write_text("path,labels\ncats/a.mp4,cat\nfish/a.mp4,fish\n")
    entries = of_table(str(table), storage.list_files(f"{videos}/cats/*.mp4"), [])
    assert [entry.id for entry in entries] == ["cats/a"]
    warnings = capsys.readouterr().err
    assert "1 rows" in warnings and "fish/a.mp4" in warnings and "1 files have no row" in warnings
    with pytest.raises(UsageError, match="no row of .* names a file that --input matches"):
        of_table(str(table), storage.list_files(f"{videos}/dogs/*.mp4"), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file name,labels\na.mp4,x\n", "has no column named path"),
        ("path,start,end\na.mp4,5,2\n", "line 2: start must be 0 or more and end after it"),
        ("path,start\na.mp4,soon\n", "line 2: expected seconds, got 'soon'"),
        ("path,rgb\na.mp4,1\n", "feature 'rgb' of their own"),
        ("path,labels\n", "has no rows"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "videos.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        of_table(str(tmp_path / "videos.csv"), None, ["rgb"])


def test_folders_are_labels(videos: Path) -> None:
    entries = by_folder(storage.list_files(f"{videos}/*/*.mp4"))
    assert [(entry.id, entry.labels) for entry in entries] == [
        ("cats/a", ("cats",)),
        ("cats/b", ("cats",)),
        ("dogs/a", ("dogs",)),
    ]


def test_two_files_with_one_id_are_refused(videos: Path) -> None:
    embedding = EmbeddingConfig(())
    with pytest.raises(UsageError, match="same id 'a'.*column id"):
        planning.plan_entries(f"{videos}/*/*.mp4", None, embedding)
    assert len(planning.plan_entries(f"{videos}/*/*.mp4", "folders", embedding)) == 3
    assert [entry.id for entry in unlabelled([("x/one.two.mp4", 1, 0.0)])] == ["one.two"]


def test_shards_follow_from_sizes_alone() -> None:
    files = [MediaFile(f"{number}.mp4", 125_000 * 3600, 0.0, str(number)) for number in range(20)]  # an hour each
    embedding = EmbeddingConfig.of("efficientnet-lite2", "yamnet")
    shards = planning.plan_shards(files, embedding)
    assert [file for shard in shards for file in shard.files] == files
    assert [len(shard.files) for shard in shards] == [8, 8, 4]  # 3,600 rows of 2,304 bytes are 8.3 MB
    assert [shard.name for shard in shards][:1] == ["records-00000-of-00003"]


def test_indices_may_be_written_as_floats_but_not_as_fractions(tmp_path: Path) -> None:
    classes, labels = index_labels(entries_of("1.0;2.0", "", "0"), None)
    assert ([info.name for info in classes], labels) == (["class 0", "class 1", "class 2"], [(1, 2), (), (0,)])
    (tmp_path / "vocabulary.csv").write_text("index,name\n0,no\n1,yes\n")
    assert index_labels(entries_of("1.0", "no"), str(tmp_path / "vocabulary.csv"))[1] == [(1,), (0,)]
    for wrong in ("0.7", "1,5", "-1"):
        for vocabulary in (None, str(tmp_path / "vocabulary.csv")):
            with pytest.raises(UsageError, match=f"(expected the|must not be negative).*{wrong}"):
                index_labels(entries_of("1", wrong), vocabulary)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("cat", "0.7;1"), "classes called '0.7', '1': numbers are names where other labels are"),
        (("cat", "nan"), "classes called 'nan': a file without a label has an empty cell"),
        (("cat", "Cat;dog"), "classes called 'Cat', 'cat': they differ in case alone"),
        (("cat", "dog"), ""),
    ],
)
def test_labels_that_make_odd_classes_are_told(
    labels: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index_labels(entries_of(*labels), None)
    printed = capsys.readouterr().err
    assert told in printed and bool(told) == bool(printed)
