"""Transformed shards are, to the byte, those of the first release: of the sample and of small datasets."""

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.preprocess import run
from tests.conftest import ROOT
from tests.fixtures.records import FRAME, VIDEO, videos, write_shard
from vcls_model.records.schema import RecordSchema
from vcls_model.records.splits import SPLITS

# Without TensorFlow, whose kernels round differently from processor to processor.
EXPECTED = {
    "sample": "a91da38791cf68fb7062baf16e5ffcf9a32f4603f01f39ab7331f25389416336",
    "video-zscore": "1e8ac049d1f1e989fe2cd59af5270a858793f4dd99d0c43cc4c1f7940b74edd8",
    "video-minmax": "d34b28d437628387dfeadd210898dc51458c33248b8b6e7d8fd03068bf72463a",
    "video-none": "1373a348c18b5e2b075c3eff5373548a9a97597cfbc4e1e262340d2d08215735",
    "frame-zscore": "62f1b1a1771d4874b81226aaa22c90f79f690cb456bf8fcf286435a7c90fff30",
    "frame-minmax": "66295e39424e8fc4857fdab8d3b8ebc359225d5252c22678203861be8d68522d",
}


def digest(output: Path) -> str:
    """One hash over the names and bytes of all shards."""
    paths = [path for split in SPLITS for path in sorted((output / split).iterdir())]
    text = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in paths)
    return hashlib.sha256(text.encode()).hexdigest()


def write_input(directory: Path, schema: RecordSchema) -> list[str]:
    """Three shards of a schema; returns the flags that name them."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        made = videos(40, schema, seed=shard, prefix=f"{shard}-")
        write_shard(
            directory / f"in{shard}.tfrecord",
            [video.sequence() if schema.has_frames else video.example() for video in made],
        )
    (directory / "schema.json").write_text(json.dumps(schema.to_dict()))
    return [f"--input={directory}/in*", f"--schema={directory}/schema.json"]


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPECTED)
def test_transformed_shards_are_those_of_the_first_release(case: str, tmp_path: Path) -> None:
    if case == "sample":
        flags = [f"--input={ROOT}/sample/*.tfrecord", f"--vocabulary={ROOT}/sample/vocabulary.csv"]
    else:
        kind, normalise = case.split("-")
        flags = write_input(tmp_path, {"video": VIDEO, "frame": FRAME}[kind])
        flags += [f"--normalise={normalise}", "--max_frames=9"]
    run([*flags, f"--output={tmp_path}/out"])
    assert digest(tmp_path / "out") == EXPECTED[case]
