"""Thousands of shards on an object store: the requests that planning makes do not grow with them."""

import http.server
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from pipelines import preprocess, score
from tests.engines.conftest import s3_environment
from tests.fixtures.scoring import make_videos, serialise, write_model, write_shard
from vcls_model import storage

SHARDS = 3844
PAGE = 1000  # keys that S3 lists at once
KEYS = [f"frame/train{index:04d}.tfrecord" for index in range(SHARDS)]


class _Bucket(http.server.BaseHTTPRequestHandler):
    """S3 as far as reading goes: a bucket whose every object holds the same shard. Counts what it is asked."""

    protocol_version = "HTTP/1.1"
    shard = b""
    asked: "Counter[str]" = Counter()

    def do_GET(self) -> None:  # noqa: N802
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if "prefix" in query or "list-type" in query:
            self.asked["list"] += 1
            self._answer(200, self._page(query), "application/xml")
        elif url.path.removeprefix("/bucket/") in KEYS:
            self.asked["read"] += 1
            self._answer(200, self.shard, "application/octet-stream")
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")

    def do_HEAD(self) -> None:  # noqa: N802
        self.asked["head"] += 1
        found = urllib.parse.urlsplit(self.path).path.removeprefix("/bucket/") in KEYS
        self._answer(200 if found else 404, self.shard if found else b"", "application/octet-stream")

    def _page(self, query: dict[str, str]) -> bytes:
        keys = [key for key in KEYS if key.startswith(query.get("prefix", ""))]
        start = int(query.get("continuation-token", "0"))
        page, rest = keys[start : start + PAGE], len(keys) > start + PAGE
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;0&quot;</ETag><Size>{len(self.shard)}</Size></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if rest else ""
        return (
            f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>bucket</Name><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>{more}{entries}"
            "</ListBucketResult>"
        ).encode()

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Bucket]]:
    pytest.importorskip("boto3")
    write_shard(tmp_path / "shard.tfrecord", [serialise(video) for video in make_videos(2, 0)])
    _Bucket.shard = (tmp_path / "shard.tfrecord").read_bytes()
    _Bucket.asked = Counter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in s3_environment(server.server_address[1]).items():
        monkeypatch.setenv(name, value)
    yield _Bucket
    server.shutdown()
    server.server_close()


GLOB = "s3://bucket/frame/train*.tfrecord"
ONE_LISTING = -(-SHARDS // PAGE)


def test_a_glob_is_one_listing(bucket: type[_Bucket]) -> None:
    found = storage.list_files(GLOB)
    assert [path for path, _, _ in found] == [f"s3://bucket/{key}" for key in KEYS]
    assert {size for _, size, _ in found} == {len(bucket.shard)}
    assert bucket.asked == {"list": ONE_LISTING}


@pytest.mark.parametrize("job", [preprocess, score])
def test_planning_a_job_lists_once_and_asks_nothing_about_each_shard(
    job: object, bucket: type[_Bucket], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--input={GLOB}", f"--output={tmp_path / 'out'}", "--dry_run"]
    if job is score:
        flags.append(f"--model={write_model(tmp_path / 'model')}")
    else:
        (tmp_path / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{index},{index}\n" for index in range(30)))
        flags.append(f"--vocabulary={tmp_path / 'vocabulary.csv'}")
    job.run(flags)  # type: ignore[attr-defined]
    assert str(SHARDS) in capsys.readouterr().out
    assert bucket.asked["list"] == ONE_LISTING
    # A look into the first shard, to find out its layout; reading a file takes a few requests.
    assert bucket.asked["read"] + bucket.asked["head"] <= 10


def test_readying_an_output_does_not_ask_about_each_shard(s3: str, tmp_path: Path) -> None:
    """A fresh output directory: what an earlier run may have left is one listing a folder."""
    import unittest.mock

    from pipelines.preprocessing import outputs
    from pipelines.preprocessing.config import JobConfig, Shard, TransformConfig
    from vcls_model import object_stores
    from vcls_model.records.schema import schema_by_name

    shards = tuple(Shard(index, SHARDS, f"s3://bucket/{key}", 100, 1.0) for index, key in enumerate(KEYS))
    config = JobConfig(
        f"{s3}/{tmp_path.name}/out", shards, TransformConfig(schema_by_name("yt8m-video"), 30), None, 0.01, {}, False
    )
    with (
        unittest.mock.patch.object(object_stores, "list_prefix", wraps=object_stores.list_prefix) as listed,
        unittest.mock.patch.object(object_stores, "exists", wraps=object_stores.exists) as exists,
    ):
        outputs.clear_stale(config)
    assert 0 < listed.call_count + exists.call_count < 50


def test_files_share_one_client(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one takes longer than a request; other settings get another."""
    import boto3

    made = []
    session = boto3.session.Session

    def counted() -> object:
        made.append(1)
        return session()

    monkeypatch.setattr(boto3.session, "Session", counted)
    path = f"{s3}/{tmp_path.name}/x"
    storage.exists(path)
    made.clear()
    for number in range(3):
        storage.write_atomically(f"{path}{number}", b"data")
        assert storage.read_bytes(f"{path}{number}") == b"data"
    assert made == []
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert storage.read_bytes(f"{path}0") == b"data"
    assert made == [1]
