"""Which dataset it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import preprocess, score
from tests.fixtures.records import VIDEO, videos, write_shard
from vcls_model.commands import JobError, UsageError
from vcls_model.records.identity import content_sum, dataset_identity, differences, trained_on
from vcls_model.records.transformed import open_transformed


def make(directory: Path, seed: int = 0, labels: bool = False) -> dict[str, str]:
    """A dataset in directory/out, with other labels of the same number if `labels`; returns its identity."""
    made = videos(60, VIDEO, seed=seed)
    if labels:
        pairs = zip(made[::2], made[1::2], strict=True)
        swapped = [(replace(one, labels=two.labels), replace(two, labels=one.labels)) for one, two in pairs]
        made = [video for pair in swapped for video in pair]
    write_shard(directory / "in0.tfrecord", [video.example() for video in made])
    (directory / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
    flags = [f"--schema={directory}/schema.json", f"--output={directory}/out", "--overwrite"]
    return preprocess.run([f"--input={directory}/in*.tfrecord", *flags])["identity"]


@pytest.mark.slow
def test_datasets_of_the_same_records_are_the_same_and_others_are_not(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    assert set(first) == {"settings", "statistics", "labels", "content"}
    assert make(tmp_path / "b") == first
    swapped = make(tmp_path / "c", labels=True)
    assert swapped["statistics"] == first["statistics"] and swapped["settings"] == first["settings"]
    assert "the records" in differences(first, swapped)
    other = make(tmp_path / "d", seed=1)
    assert differences(first, other) == (
        "the statistics of the features, the number of videos of each class and the records"
    )


@pytest.mark.slow
def test_a_resumed_job_has_the_same_identity(tmp_path: Path) -> None:
    first = make(tmp_path)
    flags = [f"--schema={tmp_path}/schema.json", f"--output={tmp_path}/out", "--resume"]
    assert preprocess.run([f"--input={tmp_path}/in*.tfrecord", *flags])["identity"] == first
    # A manifest of the first release does not know the content: that part is left out, not made up.
    manifest = next((tmp_path / "out" / "manifests").glob("*.manifest"))
    head, summary, arrays = manifest.read_bytes().split(b"\n", 2)
    old = {key: value for key, value in json.loads(summary).items() if key != "content"}
    manifest.write_bytes(b"\n".join([head, json.dumps(old).encode(), arrays]))
    resumed = preprocess.run([f"--input={tmp_path}/in*.tfrecord", *flags])["identity"]
    assert resumed == {part: value for part, value in first.items() if part != "content"}


def test_what_the_first_release_wrote_is_compared_as_far_as_it_tells() -> None:
    old = {"config_hash": "a", "statistics": {"features": {"rgb": {"mean": [1.0]}}, "class_counts": {"train": [3]}}}
    assert set(dataset_identity(old)) == {"settings", "statistics", "labels"}
    model = {"data": {"config_hash": "a"}}
    assert trained_on(model) == {"settings": "a"}
    assert differences(trained_on(model), dataset_identity(old)) == ""
    assert differences({"settings": "b"}, dataset_identity(old)) == "the settings of preprocess"


def test_the_content_depends_on_names_sizes_and_bytes() -> None:
    same = content_sum({"train/a": (3, 7), "test/a": (1, 1)})
    assert same == content_sum({"test/a": (1, 1), "train/a": (3, 7)})
    assert len({same, content_sum({"train/b": (3, 7), "test/a": (1, 1)}), content_sum({"train/a": (3, 8)})}) == 3


def test_shards_of_another_run_are_not_read(tmp_path: Path) -> None:
    make(tmp_path)
    data = tmp_path / "out"
    stray = data / "validate" / "validate-00001-of-00002.tfrecord"
    shutil.copy(next((data / "validate").glob("*.tfrecord")), stray)
    with pytest.raises(JobError, match="validate-00001-of-00002.tfrecord is none of them"):
        open_transformed(str(data)).shards("validate")
    stray.unlink()
    (data / "train" / "train-00000-of-00001.tfrecord").unlink()
    with pytest.raises(JobError, match="train-00000-of-00001.tfrecord is missing"):
        open_transformed(str(data)).shards("train")
    # What claims more than any disk holds costs no memory.
    info = json.loads((data / "info.json").read_text())
    info["splits"]["test"]["shards"] = 10**15
    (data / "info.json").write_text(json.dumps(info))
    with pytest.raises(JobError, match="does not hold the 1,000,000,000,000,000 shards"):
        open_transformed(str(data)).shards("test")
    (data / "info.json").write_text(json.dumps(info | {"class_count": 10**15}))
    with pytest.raises(JobError, match="class_count must lie between 1 and 1,000,000"):
        open_transformed(str(data))


def test_transformed_records_are_not_transformed_again(tmp_path: Path) -> None:
    make(tmp_path)
    records = tmp_path / "out" / "test"
    flags = [f"--schema={tmp_path}/schema.json", f"--output={tmp_path}/again", "--dry_run"]
    (tmp_path / "link").symlink_to(records)
    for directory in (records, tmp_path / "link"):
        with pytest.raises(UsageError, match="transformed already: .*name the raw records"):
            preprocess.run([f"--input={directory}/*", *flags])
    (tmp_path / "out" / "info.json").write_text("not ours")  # raw records may lie in a directory of this name, too
    preprocess.run([f"--input={records}/*", *flags])


@pytest.mark.slow
def test_score_refuses_transformed_records(model: Path, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match="transformed already: name the raw records, which a model normalises"):
        score.run([f"--input={tmp_path}/out/test/*", f"--model={model}", f"--output={tmp_path}/scores"])
