"""Preprocess and score with input, model and output on an object store: the same as on a disk."""

from pathlib import Path

import pytest

from pipelines import preprocess, score
from tests.fixtures.scoring import make_videos, serialise, write_model, write_shard
from vcls_model import storage

pytestmark = pytest.mark.long


def upload(directory: Path, target: str) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            storage.write_atomically(storage.join(target, *path.relative_to(directory).parts), path.read_bytes())


@pytest.mark.parametrize("store", ["gs", "s3"])
def test_jobs_give_the_same_as_on_a_disk(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = f"{request.getfixturevalue(store)}/{tmp_path.name}"
    for shard in range(2):
        payloads = [serialise(video) for video in make_videos(20, shard)]
        write_shard(tmp_path / "records" / f"videos{shard}.tfrecord", payloads)
    write_model(tmp_path / "model")
    (tmp_path / "records" / "vocabulary.csv").write_text(
        "Index,Name\n" + "".join(f"{index},class {index}\n" for index in range(30))
    )
    for name in ("records", "model"):
        upload(tmp_path / name, storage.join(root, name))
    infos = {}
    for place in (str(tmp_path), root):
        records, model = storage.join(place, "records"), storage.join(place, "model")
        infos[place] = [
            preprocess.run(
                [
                    f"--input={records}/videos*.tfrecord",
                    f"--output={storage.join(place, 'data')}",
                    f"--vocabulary={records}/vocabulary.csv",
                ]
            ),
            score.run(
                [f"--input={records}/videos*.tfrecord", f"--model={model}", f"--output={storage.join(place, 'scores')}"]
            ),
        ]
    assert not [name for name in storage.list_names(root) if name.endswith(".lock")]
    for on_disk, on_store in zip(infos[str(tmp_path)], infos[root], strict=True):
        for key in ("records_read", "records_written", "records_rejected"):
            assert on_disk[key] == on_store[key]
    written = [path.relative_to(tmp_path) for path in (tmp_path / "data").glob("*/*.tfrecord")]
    assert written
    for path in [*written, Path("scores/metrics.json")]:
        assert storage.read_bytes(storage.join(root, *path.parts)) == (tmp_path / path).read_bytes(), path
