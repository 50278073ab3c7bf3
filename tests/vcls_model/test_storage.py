"""Files on disks: names are never patterns, patterns follow the documented rules, and nothing outside is deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vcls_model import output_directories, storage
from vcls_model.commands import JobError, UsageError

# Names that a shell, Beam or TensorFlow would read as something else.
HOSTILE = ["out[1]", "o*", "o?t1", "out 1", "out\n1", "-x", "Ausgabe-ä-出力", "[!x]", "out[", "a,b", "**", "out\\1"]
# What the patterns above would match.
NEIGHBOURS = ["out1", "out", "o", "x", "a", "b", "output"]


def names_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with files and directories that hostile names would match if they were patterns."""
    for name in NEIGHBOURS:
        (tmp_path / f"{name}-directory").mkdir()
        (tmp_path / f"{name}-directory" / "precious.txt").write_text("precious")
        (tmp_path / name).write_text("precious")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("absolute", [True, False])
def test_overwriting_deletes_what_is_below_the_directory_and_nothing_else(
    name: str, absolute: bool, crowded: Path
) -> None:
    before = names_in(crowded)
    output = str(crowded / name) if absolute else name
    storage.write_text(storage.join(output, "deep", name, "old.txt"), "old")
    storage.write_text(storage.join(output, "old.txt"), "old")
    output_directories.prepare_output(output, resume=False, overwrite=True)
    assert names_in(crowded / name) == []
    assert names_in(crowded) == sorted([*before, name])
    assert all((crowded / neighbour).read_text() == "precious" for neighbour in NEIGHBOURS)
    assert all((crowded / f"{neighbour}-directory" / "precious.txt").exists() for neighbour in NEIGHBOURS)


@pytest.mark.parametrize("name", HOSTILE)
def test_deleting_takes_exactly_the_name(name: str, crowded: Path) -> None:
    before = names_in(crowded)
    storage.delete(name)  # it is not there
    assert names_in(crowded) == before
    storage.write_text(name, "file")
    storage.delete(name)
    assert names_in(crowded) == before
    storage.write_text(storage.join(name, "x"), "in a directory")
    storage.delete(storage.join(str(crowded), name) + "/")
    assert names_in(crowded) == before


def test_links_in_the_output_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    output = tmp_path / "out"
    (output / "deep").mkdir(parents=True)
    (output / "to-directory").symlink_to(outside)
    (output / "deep" / "to-directory").symlink_to(outside)
    (output / "to-file").symlink_to(outside / "precious.txt")
    (output / "to-nothing").symlink_to(tmp_path / "absent")
    output_directories.prepare_output(str(output), resume=False, overwrite=True)
    assert names_in(output) == []
    assert (outside / "precious.txt").read_text() == "precious"


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_output_that_is_a_link_stays_one_and_its_directory_is_emptied(slash: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old.txt").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    output_directories.prepare_output(str(tmp_path / "out") + slash, resume=False, overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert names_in(tmp_path / "disk") == []
    (tmp_path / "disk" / "new.txt").write_text("new")
    storage.delete(str(tmp_path / "out") + slash)
    assert names_in(tmp_path) == ["disk"]
    assert names_in(tmp_path / "disk") == ["new.txt"]


@pytest.mark.parametrize("output", ["/", "..", "~", "~/.."])
def test_a_directory_that_holds_the_users_own_is_not_overwritten(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard only: nothing here could delete anything, should it fail."""
    (tmp_path / "home" / "work").mkdir(parents=True)
    (tmp_path / "home" / "work" / "file").touch()
    monkeypatch.chdir(tmp_path / "home" / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(output_directories, "check_writable", lambda directory: None)
    with pytest.raises(UsageError, match="would delete everything below"):
        output_directories.check_output(os.path.expanduser(output), resume=False, overwrite=True)
    output_directories.check_output(".", resume=False, overwrite=True)


def test_an_input_inside_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "out[1]" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out[1]")
    for output in ("out[1]", "link"):
        with pytest.raises(UsageError, match="holds the input .*in: name another directory"):
            output_directories.check_output(
                str(tmp_path / output), resume=False, overwrite=True, inputs=[str(tmp_path / "out[1]" / "in")]
            )


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with files to match."""
    for name in (
        "a.csv",
        "b.csv",
        "a,b.csv",
        "_SUCCESS",
        "._a.csv",
        ".hidden.csv",
        "a.csv.crc",
        "x[1].csv",
        "x1.csv",
        "d/a.csv",
        "d/deep/a.csv",
        "d/deep/deeper/a.csv",
        "d/.git/a.csv",
        "[D_DATA]/a.csv",
        "D/a.csv",
        "a,b/1.csv",
        "w?x/1.csv",
        "wax/1.csv",
        "new\nline/1.csv",
        "-x/1.csv",
        "ä出/1.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = {
    "a.csv": ["a.csv"],
    "[ab].csv": ["a.csv", "b.csv"],
    "[!b].csv": ["a.csv"],
    "[z-a].csv": None,
    "?.csv": ["a.csv", "b.csv"],
    "*.csv": ["a,b.csv", "a.csv", "b.csv", "x1.csv", "x[1].csv"],
    "*": ["a,b.csv", "a.csv", "b.csv", "x1.csv", "x[1].csv"],
    ".*.csv": ["._a.csv", ".hidden.csv"],
    ".hidden.csv": [".hidden.csv"],
    "_SUCCESS": ["_SUCCESS"],
    "*.crc": ["a.csv.crc"],
    "x[1].csv": ["x[1].csv"],
    "x[12].csv": ["x1.csv"],
    "d/*.csv": ["d/a.csv"],
    "d/*/*.csv": ["d/deep/a.csv"],
    "d/**": ["d/a.csv", "d/deep/a.csv", "d/deep/deeper/a.csv"],
    "d/**/*.csv": ["d/a.csv", "d/deep/a.csv", "d/deep/deeper/a.csv"],
    "d/**/deep*/a.csv": ["d/deep/a.csv", "d/deep/deeper/a.csv"],
    "d/**a.csv": ["d/a.csv", "d/deep/a.csv", "d/deep/deeper/a.csv"],
    "[D_DATA]/*.csv": ["[D_DATA]/a.csv"],
    "[D_DATA]/a.csv": ["[D_DATA]/a.csv"],
    "[DE]/a.csv": ["D/a.csv"],
    "w?x/*.csv": ["w?x/1.csv"],
    "w??/*.csv": ["w?x/1.csv", "wax/1.csv"],
    "w[a?]x/*.csv": ["w?x/1.csv", "wax/1.csv"],
    "a,b/*.csv": ["a,b/1.csv"],
    "a,b.csv": ["a,b.csv"],
    "a.csv,b.csv": ["a.csv", "b.csv"],
    "b.csv,a.csv,b.csv": ["a.csv", "b.csv"],
    "d/*.csv,a,b/*.csv,x[1].csv": ["a,b/1.csv", "d/a.csv", "x[1].csv"],
    "new\nline/*": ["new\nline/1.csv"],
    "-x/*": ["-x/1.csv"],
    "ä出/?.csv": ["ä出/1.csv"],
    "./*.csv,absent": None,
    "d": None,
    "d/deep/deeper/a.csv/": None,
    "": None,
}


@pytest.mark.parametrize("pattern", CASES)
@pytest.mark.parametrize("place", ["", "absolute", "file://"])
def test_patterns(pattern: str, place: str, tree: Path) -> None:
    root = {"": "", "absolute": f"{tree}/", "file://": f"file://{tree}/"}[place]
    pattern = ",".join(root + part if part else part for part in pattern.split(",")) if root else pattern
    # The comma in these is part of a name, so that what follows it is no path of its own.
    pattern = pattern.replace(f"a,{root}b", "a,b")
    expected = CASES[pattern.replace(root, "") if root else pattern]
    if expected is None:
        with pytest.raises(UsageError, match="no file matches|is a directory: name the files in it|an empty part"):
            storage.list_files(pattern)
        return
    files = storage.list_files(pattern)
    plain = root.removeprefix("file://")
    assert [path for path, _, _ in files] == sorted(plain + name for name in expected)
    assert all(size == len(path.removeprefix(plain).encode()) for path, size, _ in files)


def test_what_is_not_matched_is_told(tree: Path) -> None:
    (tree / "only").mkdir()
    (tree / "only" / "._a.csv").touch()
    with pytest.raises(UsageError, match=r"no file matches 'only/\*.csv' \(patterns do not match hidden files"):
        storage.list_files("only/*.csv")
    with pytest.raises(UsageError, match=r"'d' is a directory: name the files in it, as in 'd/\*\.csv'"):
        storage.list_files("d")
    with pytest.raises(UsageError, match=r"no file matches 'absent.csv'$"):
        storage.list_files("a.csv,absent.csv")


def test_a_link_to_the_directory_that_holds_it_is_entered_once(tree: Path) -> None:
    (tree / "d" / "deep" / "up").symlink_to(tree / "d")
    assert [path for path, _, _ in storage.list_files("d/**/a.csv")] == [
        "d/a.csv",
        "d/deep/a.csv",
        "d/deep/deeper/a.csv",
    ]


def test_a_directory_that_the_pattern_cannot_match_is_not_read(tree: Path) -> None:
    closed = tree / "closed"
    closed.mkdir()
    (tree / "open-1").mkdir()
    (tree / "open-1" / "a.csv").touch()
    scanned = []
    real = os.scandir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", lambda place: scanned.append(place) or real(place))
        storage.list_files("open-*/a.csv")
    assert scanned == [".", "open-1"]


# -- other programs' view of a directory -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_programs_that_expand_patterns_see_a_plain_name(name: str, tmp_path: Path) -> None:
    storage.write_text(str(tmp_path / name / "sub" / "file"), "content")
    with storage.local_copy(str(tmp_path / name)) as local:
        assert not set("*?[\\") & set(local)
        assert Path(local, "sub", "file").read_text() == "content"
    assert (tmp_path / name / "sub" / "file").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_directory_is_replaced_when_its_writer_succeeds(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    for content in ("first", "second"):
        with storage.replace_directory(path) as local:
            assert not set("*?[\\") & set(local)
            Path(local, "variables").mkdir()
            Path(local, "variables", content).write_text(content)
        assert names_in(tmp_path) == [name]
        assert names_in(tmp_path / name / "variables") == [content]
    with pytest.raises(ValueError, match="disk"), storage.replace_directory(path) as local:
        Path(local, "half").touch()
        raise ValueError("disk")
    assert names_in(tmp_path / name / "variables") == ["second"]
    with storage.replace_directory(path) as local:
        pass
    assert names_in(tmp_path) == [name]


def test_a_saved_model_is_written_to_and_read_from_a_directory_named_like_a_pattern(tmp_path: Path) -> None:
    import tensorflow as tf

    from vcls_model.serving.export import save_module
    from vcls_model.serving.exported import load_saved_model

    module = tf.Module()
    module.value = tf.Variable([1.0, 2.0])
    for name in ("[D_DATA]", "w?x", "a,b"):
        save_module(module, {}, str(tmp_path / name))
        assert load_saved_model(str(tmp_path / name)).value.numpy().tolist() == [1.0, 2.0]


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["gs://bucket/x", "s3://bucket/x", "hdfs://host/x"])
def test_addresses_of_object_stores(path: str) -> None:
    assert storage.is_object_store(path)


@pytest.mark.parametrize("path", ["x", "/data/x", "file:///data/x", "/data/http://x", "a b://x", "C:/x"])
def test_local_paths(path: str) -> None:
    assert not storage.is_object_store(path)


def test_a_file_address_is_the_local_path(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/new/a.json"
    storage.write_json(address, {"a": 1})
    with storage.open_atomically(f"file://{tmp_path}/new/b") as stream:
        stream.write(b"12")
    assert storage.read_json(str(tmp_path / "new" / "a.json")) == {"a": 1}
    assert storage.exists(address) and storage.size_of(f"file://{tmp_path}/new/b") == 2
    assert storage.list_names(f"file://{tmp_path}/new") == ["a.json", "b"]
    assert storage.absolute(address) == f"{tmp_path}/new/a.json"
    storage.empty_directory(f"file://{tmp_path}/new")
    assert names_in(tmp_path / "new") == []


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for name in ("a.tmp-0123456789ab", "a.tmp", "b"):
        (tmp_path / name).touch()
    storage.remove_temporaries(str(tmp_path))
    assert names_in(tmp_path) == ["a.tmp", "b"]


def test_json_that_is_not_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(JobError, match="x.json is not JSON"):
        storage.read_json(str(tmp_path / "x.json"))


def test_local_paths_do_not_import_beam(tmp_path: Path) -> None:
    script = (
        "import sys; from vcls_model import output_directories, storage; root = sys.argv[1]; "
        "storage.write_text(root + '/out/a', 'a'); storage.list_files(root + '/out/*'); "
        "output_directories.prepare_output(root + '/out', resume=False, overwrite=True); "
        "print([name for name in ('apache_beam', 'tensorflow', 'keras') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_output_without_a_name_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--output=$OUT` where OUT is not set."""
    monkeypatch.chdir(tmp_path)
    for output in ("", " "):
        for check in (
            output_directories.check_writable,
            lambda path: output_directories.prepare_output(path, resume=False, overwrite=True),
        ):
            with pytest.raises(UsageError, match="the output has no name"):
                check(output)


def test_what_is_not_a_small_file_is_not_read(tmp_path: Path) -> None:
    """A flag that names a shard, or a sparse file of a terabyte, by mistake or not."""
    path = tmp_path / "vocabulary.csv"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(JobError, match=r"vocabulary.csv has 1,099,511,627,776 bytes: it is not a file of this kind"):
        storage.read_small(str(path))
    with pytest.raises(JobError, match="not a file of this kind"):
        storage.read_json(str(path))


def test_a_device_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    for path in (str(pipe), str(link), f"file://{pipe}"):
        for use in (storage.read_bytes, storage.open_for_reading, storage.read_json):
            with pytest.raises(JobError, match="is a pipe, a socket or a device, not a file"):
                use(path)
        with pytest.raises(JobError, match="is a pipe"):
            storage.write_text(path, "x")
        with pytest.raises(JobError, match="is a pipe"), storage.open_atomically(path):
            pass
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    with pytest.raises(IsADirectoryError):
        storage.read_bytes(str(tmp_path))
