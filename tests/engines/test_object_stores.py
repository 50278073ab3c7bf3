"""`vcls_model.storage` on object stores: as on a disk, against emulators that speak the real protocols."""

import gc
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.engines.conftest import s3_environment, use_gs_emulator
from vcls_model import output_directories, storage
from vcls_model.commands import JobError, UsageError


@pytest.fixture(params=["gs", "s3", "disk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of its own for each test, on each kind of storage; the disk shows what the others must match."""
    if request.param == "disk":
        return str(tmp_path)
    return f"{request.getfixturevalue(request.param)}/{tmp_path.name}"


def test_written_bytes_are_read_back(root: str) -> None:
    for name, data in {
        "a.bin": bytes(range(256)) * 100,
        "empty.jsonl": b"",
        "large.bin": b"0123456789" * 900_000,
    }.items():
        path = storage.join(root, "sub", name)
        storage.write_atomically(path, data)
        assert storage.size_of(path) == len(data)
        assert storage.read_bytes(path) == data
        with storage.open_for_reading(path) as stream:
            assert stream.read(7) == data[:7]


def test_absent_files(root: str) -> None:
    path = storage.join(root, "absent.bin")
    assert not storage.exists(path)
    assert storage.size_of(path) == -1
    assert storage.list_names(root) == []


def test_a_suffix_does_not_compress(root: str) -> None:
    path = storage.join(root, "shard.tfrecord.gz")
    storage.write_atomically(path, b"as it is")
    assert storage.size_of(path) == 8
    assert storage.read_bytes(path) == b"as it is"


def test_writing_again_replaces(root: str) -> None:
    path = storage.join(root, "info.json")
    storage.write_json(path, {"records_read": 1})
    storage.write_json(path, {"records_read": 2})
    assert storage.read_json(path) == {"records_read": 2}
    assert storage.list_names(root) == ["info.json"]


def test_a_stream_appears_when_whole(root: str) -> None:
    path = storage.join(root, "part.bin")
    with storage.open_atomically(path) as stream:
        stream.write(b"half")
        assert not storage.exists(path)
        stream.write(b" and half")
    assert storage.read_bytes(path) == b"half and half"


def test_a_failed_stream_leaves_nothing(root: str) -> None:
    path = storage.join(root, "part.bin")
    with pytest.raises(RuntimeError, match="worker died"), storage.open_atomically(path) as stream:
        stream.write(b"half")
        raise RuntimeError("worker died")
    assert not storage.exists(path)
    assert storage.list_names(root) == []


def test_a_stream_larger_than_memory_allows_goes_over_the_scratch_disk(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SPOOL_BYTES", 1000)
    path = storage.join(root, "part.bin")
    with storage.open_atomically(path) as stream:
        for _ in range(10):
            stream.write(b"x" * 999)
    assert storage.read_bytes(path) == b"x" * 9990


def test_a_glob_lists_sizes_in_order_and_stays_in_its_directory(root: str) -> None:
    for name in ("b-2.tfrecord", "b-1.tfrecord", "c.csv", "deeper/b-3.tfrecord"):
        storage.write_atomically(storage.join(root, name), name.encode())
    found = storage.list_files(storage.join(root, "b-*.tfrecord"))
    assert [(path, size) for path, size, _ in found] == [
        (storage.join(root, "b-1.tfrecord"), 12),
        (storage.join(root, "b-2.tfrecord"), 12),
    ]
    both = storage.list_files(storage.join(root, "c.csv") + "," + storage.join(root, "b-1*"))
    assert [path for path, _, _ in both] == [storage.join(root, "b-1.tfrecord"), storage.join(root, "c.csv")]
    assert storage.list_names(root, ".tfrecord") == ["b-1.tfrecord", "b-2.tfrecord"]
    with pytest.raises(UsageError, match="no file matches"):
        storage.list_files(storage.join(root, "absent-*"))


def test_output_directory_rules(root: str) -> None:
    output = storage.join(root, "out")
    output_directories.prepare_output(output, resume=False, overwrite=False)
    storage.write_atomically(storage.join(output, "train", "a.tfrecord"), b"1")
    storage.write_atomically(storage.join(root, "outside.txt"), b"stays")
    with pytest.raises(UsageError, match="not empty"):
        output_directories.prepare_output(output, resume=False, overwrite=False)
    output_directories.prepare_output(output, resume=True, overwrite=False)
    assert storage.exists(storage.join(output, "train", "a.tfrecord"))
    output_directories.prepare_output(output, resume=False, overwrite=True)
    assert not storage.exists(storage.join(output, "train", "a.tfrecord"))
    assert storage.exists(storage.join(root, "outside.txt"))
    output_directories.prepare_output(output, resume=False, overwrite=False)


def test_delete_takes_a_file_or_a_directory(root: str) -> None:
    for name in ("d/a", "d/e/b", "c"):
        storage.write_atomically(storage.join(root, name), b"1")
    storage.delete(storage.join(root, "c"))
    storage.delete(storage.join(root, "d"))
    storage.delete(storage.join(root, "never-was"))
    assert not any(storage.exists(storage.join(root, name)) for name in ("d/a", "d/e/b", "c"))


@pytest.mark.parametrize("name", ["out[1]", "o*", "o?t1", "out 1", "Ausgabe-ä", "a,b"])
def test_hostile_names_are_names(name: str, root: str) -> None:
    """Listed, read and deleted exactly; what they would match as patterns stays."""
    if root.startswith("gs") and "?" in name:
        pytest.skip("the emulator takes what follows an escaped question mark for a query")
    neighbours = ["out1", "out1/x.csv", "o", "out/x.csv", "a", "b", f"{name}x"]
    if not root.startswith(("gs", "s3")):
        neighbours = ["out1", "o/x.csv", "a", "b", f"{name}x"]
    for neighbour in neighbours:
        storage.write_text(storage.join(root, neighbour), "stays")
    output = storage.join(root, name)
    for file in ("1.csv", "deep/[1].csv", "_SUCCESS", ".1.csv"):
        storage.write_text(storage.join(output, *file.split("/")), file)
    files = f"{storage.join(output, '*.csv')},{storage.join(output, 'deep', '[1].csv')}"
    assert [path for path, _, _ in storage.list_files(files)] == [
        storage.join(output, "1.csv"),
        storage.join(output, "deep", "[1].csv"),
    ]
    assert len(storage.list_files(storage.join(output, "**"))) == 2
    assert storage.list_names(output, ".csv") == ["1.csv"]
    with storage.local_copy(output) as local:
        assert Path(local, "deep", "[1].csv").read_text() == "deep/[1].csv"
    storage.delete(storage.join(output, "deep", "[1].csv"))
    assert not storage.exists(storage.join(output, "deep", "[1].csv"))
    output_directories.prepare_output(output, resume=False, overwrite=True)
    assert storage.list_names(output) == [] and not storage.holds_anything(output)
    assert all(storage.read_text(storage.join(root, neighbour)) == "stays" for neighbour in neighbours)
    storage.write_text(storage.join(root, "file[1]"), "x")
    storage.write_text(storage.join(root, "file1"), "x")
    assert [path for path, _, _ in storage.list_files(storage.join(root, "file[1]"))] == [storage.join(root, "file[1]")]
    storage.delete(storage.join(root, "file[1]"))
    assert storage.exists(storage.join(root, "file1"))


def test_a_directory_is_replaced(root: str) -> None:
    path = storage.join(root, "model", "saved_model")
    for name in ("old", "new"):
        with storage.replace_directory(path) as local:
            (Path(local) / "variables").mkdir()
            (Path(local) / "variables" / name).write_text(name)
    assert storage.list_names(storage.join(path, "variables")) == ["new"]


@pytest.mark.parametrize("store", ["gs", "s3"])
def test_an_object_whose_name_leads_out_of_a_copy_is_refused(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = f"{request.getfixturevalue(store)}/{tmp_path.name}"
    if store == "gs":
        pytest.skip("the emulator's client resolves the dots before it asks")
    storage.write_text(f"{root}/model/../outside", "x")
    with pytest.raises(JobError, match="cannot be copied to a disk"), storage.local_copy(f"{root}/model"):
        pass


@pytest.mark.parametrize("store", ["gs", "s3"])
def test_a_missing_bucket_is_named(store: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(store)
    path = f"{store}://no-such-bucket/x"
    with pytest.raises(JobError, match=f"{store}://no-such-bucket/x: there is no such bucket or object"):
        storage.write_atomically(path, b"data")
    with pytest.raises(JobError, match=f"{store}://no-such-bucket/x: .*(no such|[Nn]ot found)"):
        storage.read_bytes(path)


class _Forbidding(http.server.BaseHTTPRequestHandler):
    """A store that lets nobody in: both protocols say so with HTTP 403."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[str]] = []

    def _refuse(self) -> None:
        self.requests.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def forbidding_port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("store", ["gs", "s3"])
def test_a_bucket_without_permission_says_what_to_check(
    store: str, forbidding_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "gs":
        use_gs_emulator(forbidding_port, monkeypatch)
    else:
        pytest.importorskip("boto3")
        for name, value in s3_environment(forbidding_port).items():
            monkeypatch.setenv(name, value)
    path = f"{store}://private/x"
    expected = rf"{store}://private/x.*: no permission \(HTTP 403\): check the credentials"
    for action in (
        lambda: storage.read_bytes(path),
        lambda: storage.write_atomically(path, b"data"),
        lambda: storage.list_files(path + "*"),
        lambda: storage.exists(path),
        lambda: output_directories.prepare_output(path, resume=False, overwrite=False),
    ):
        with pytest.raises(JobError, match=expected):
            action()


def test_a_failed_upload_is_not_tried_again(forbidding_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, the stream of Google's client uploads once more when the garbage collector closes it."""
    use_gs_emulator(forbidding_port, monkeypatch)
    with pytest.raises(JobError, match="no permission"):
        storage.write_atomically("gs://private/x", b"data")
    requests = list(_Forbidding.requests)
    gc.collect()
    assert requests
    assert _Forbidding.requests == requests


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_job_that_may_not_use_its_bucket_ends_at_once(
    place: str, forbidding_port: int, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any worker starts: no minutes spent, nothing written."""
    from pipelines import preprocess

    pytest.importorskip("boto3")
    for name, value in s3_environment(forbidding_port).items():
        monkeypatch.setenv(name, value)
    paths = {"input": f"{sample}/*.tfrecord", "output": str(tmp_path / "out"), place: "s3://private/x"}
    with pytest.raises(JobError, match=r"s3://private/x.*: no permission \(HTTP 403\): check the credentials"):
        preprocess.run([f"--input={paths['input']}", f"--output={paths['output']}"])
    assert list(tmp_path.iterdir()) == []
