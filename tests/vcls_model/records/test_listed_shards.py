"""Which files belong to a transformed dataset: those that its manifests list, whole, and no others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.reporting.inputs.manifests import read_dataset_info
from tests.fixtures import training_data
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.transformed import open_transformed

RECORDS = {"train": 12, "validate": 4, "test": 3}
SHARDS = 2


@pytest.fixture(params=["today", "0.1"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dataset whose manifests are those of this version, or of the first, which counts records by shard alone."""
    directory = tmp_path / "data"
    (directory / "manifests").mkdir(parents=True)
    for number in range(SHARDS):
        outputs, records = {}, {}
        for split, count in RECORDS.items():
            name = f"{split}/{split}-{number:05d}-of-{SHARDS:05d}.tfrecord"
            (directory / split).mkdir(exist_ok=True)
            (directory / name).write_bytes(bytes(10 * number + count))
            outputs[name], records[name] = 10 * number + count, count - count // 2 if number else count // 2
        head = {"outputs": outputs, "records_written": sum(records.values()), "records_rejected": 0}
        if request.param == "today":
            head["records"] = records
        path = directory / "manifests" / f"{number:05d}-of-{SHARDS:05d}.manifest"
        path.write_bytes(json.dumps(head).encode() + b"\n{}\n\x00\xff")
    info = {
        "schema": training_data.VIDEO_SCHEMA.to_dict(),
        "transformed": [modality.to_dict() for modality in training_data.VIDEO_SCHEMA.modalities],
        "splits": {split: {"records": count, "shards": SHARDS} for split, count in RECORDS.items()},
        "class_count": 10,
    }
    (directory / "info.json").write_text(json.dumps(info))
    return directory


def by_training(directory: Path) -> None:
    open_transformed(str(directory)).check_shards()


def by_reports(directory: Path) -> None:
    read_dataset_info(str(directory))


def test_the_files_are_those_that_the_manifests_list(dataset: Path) -> None:
    data = open_transformed(str(dataset))
    today = "records" in json.loads(next((dataset / "manifests").iterdir()).read_bytes().split(b"\n")[0])
    assert [(shard.path, shard.size_bytes, shard.records) for shard in data.shards("train")] == [
        (str(dataset / "train" / "train-00000-of-00002.tfrecord"), 12, 6 if today else None),
        (str(dataset / "train" / "train-00001-of-00002.tfrecord"), 22, 6 if today else None),
    ]
    assert [shard.records for shard in data.shards("test")] == ([1, 2] if today else [None, None])
    by_training(dataset)
    by_reports(dataset)


def _rename(directory: Path) -> None:
    (directory / "train" / "train-00001-of-00002.tfrecord").rename(directory / "train" / "b.tfrecord")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file of another run": (
        lambda directory: (directory / "train" / "train-00000-of-00004.tfrecord").write_bytes(b"1"),
        "/train does not hold the 2 shards .* but 3 .train-00000-of-00004.tfrecord is none of them",
    ),
    "a lost file": (
        lambda directory: (directory / "validate" / "validate-00001-of-00002.tfrecord").unlink(),
        "/validate does not hold the 2 shards .* but 1 .validate-00001-of-00002.tfrecord is missing",
    ),
    "another name": (_rename, "train-00001-of-00002.tfrecord is missing"),
    "a cut file": (
        lambda directory: (directory / "validate" / "validate-00001-of-00002.tfrecord").write_bytes(bytes(13)),
        "/validate/validate-00001-of-00002.tfrecord has 13 bytes, its manifest says 14",
    ),
    "a lost manifest": (
        lambda directory: (directory / "manifests" / "00001-of-00002.manifest").unlink(),
        "/manifests lists .* videos, info.json beside it counts .*: files of two runs",
    ),
    "a damaged manifest": (
        lambda directory: (directory / "manifests" / "00001-of-00002.manifest").write_bytes(b"{}\n"),
        "/manifests/00001-of-00002.manifest is damaged, or not a file of this kind: outputs",
    ),
    "a manifest that is no JSON": (
        lambda directory: (directory / "manifests" / "00000-of-00002.manifest").write_bytes(b"\x00\xff\n"),
        "/manifests/00000-of-00002.manifest ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", [by_training, by_reports])
def test_what_differs_is_named(damage: str, reader: Callable[[Path], None], dataset: Path) -> None:
    change, message = DAMAGES[damage]
    change(dataset)
    with pytest.raises(JobError, match=message):
        reader(dataset)


def test_a_count_that_differs_from_the_manifests_is_named(dataset: Path) -> None:
    info = json.loads((dataset / "info.json").read_text())
    info["splits"]["train"]["records"] = 13
    (dataset / "info.json").write_text(json.dumps(info))
    for reader in (by_training, by_reports):
        with pytest.raises(
            JobError, match="manifests lists 1[29] (train )?videos, info.json beside it counts (13|20):"
        ):
            reader(dataset)


def test_fewer_shards_in_the_manifests_than_in_info_json_are_noticed(dataset: Path) -> None:
    info = json.loads((dataset / "info.json").read_text())
    info["splits"]["test"]["shards"] = 3
    (dataset / "info.json").write_text(json.dumps(info))
    with pytest.raises(JobError, match="/test does not hold the 3 shards .* but 2 .of which the manifests list 2"):
        open_transformed(str(dataset)).shards("test")


def test_a_split_that_training_does_not_read_may_lie_elsewhere(dataset: Path) -> None:
    shutil.move(dataset / "test", dataset.parent / "kept")
    by_training(dataset)
    with pytest.raises(JobError, match="test-00000-of-00002.tfrecord is missing"):
        open_transformed(str(dataset)).shards("test")


def test_a_report_takes_a_description_that_was_copied_alone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(dataset / "info.json", tmp_path / "copy")
    by_reports(tmp_path / "copy")


def test_sizes_are_listed_as_names_are(dataset: Path) -> None:
    (dataset / "train" / "._hidden.tfrecord").write_bytes(b"1")
    below = str(dataset / "train")
    sizes = storage.list_sizes(below, ".tfrecord")
    assert list(sizes) == storage.list_names(below, ".tfrecord") and list(sizes.values()) == [12, 22]
