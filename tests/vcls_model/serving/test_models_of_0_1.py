"""Models that version 0.1.0 trained and exported (commit 318fd1f), as its users have them.

The archive holds a video-level and a frame-level model directory, raw records, and the logits that the models' own
`serving_default` gave for these when they were exported.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fixtures import training_data
from vcls_model.serving.exported import read_exported_model

ARCHIVE = Path(__file__).parents[2] / "fixtures" / "models_of_0_1.zip"
SCHEMAS = {"video": training_data.VIDEO_SCHEMA, "frame": training_data.FRAME_SCHEMA}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked; with a schema file for each level."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    for level, schema in SCHEMAS.items():
        (folder / f"{level}.json").write_text(json.dumps(schema.to_dict()))
    return folder


@pytest.mark.parametrize("level", ["video", "frame"])
def test_they_are_scored_as_ever(level: str, old: Path, score: Callable[..., dict], tmp_path: Path) -> None:
    model = read_exported_model(str(old / level))
    assert model.schema.modalities == SCHEMAS[level].modalities
    info = score(old / f"{level}.tfrecord", f"--schema={old}/{level}.json", "--full_logits", models=[old / level])
    assert info["records_written"] == info["records_labelled"] == 12
    (path,) = (tmp_path / "scores" / "logits").iterdir()
    logits = np.array(pq.read_table(path)["logits"].to_pylist())
    np.testing.assert_allclose(logits, np.load(old / f"{level}_logits.npy"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["video", "frame"])
def test_they_are_fine_tuned_from(level: str, old: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from vcls_model.train import run

    data = request.getfixturevalue(f"{level}_data")
    flags = ["--hidden_units=4"] if level == "video" else ["--model=average", "--frame_units=4", "--hidden_units="]
    info = run(
        [
            f"--data={data}",
            f"--output={tmp_path / 'model'}",
            f"--init_from={old / level}",
            "--epochs=1",
            "--batch_size=20",
            "--quiet",
            *flags,
        ]
    )
    assert info["training"]["init_from"] == str(old / level)
    assert info["training"]["validation"]["map"] > 0
