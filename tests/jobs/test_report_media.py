"""The report where the media files are at hand: pictures of the examples, and single videos over time."""

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import extract, report, score
from pipelines.reporting.inputs.media import MediaFiles, scored_media
from tests.fixtures.scoring import guilty_copy
from vcls_model import everyday
from vcls_model.commands import UsageError
from vcls_model.embedding import Embedder, EmbeddingConfig
from vcls_model.encoders import dequantise, encoder_info
from vcls_model.serving.everyday import Everyday

ENCODER = "efficientnet-lite0"
CLIPS = ("V_AIRPLANE_005", "V_AIRPLANE_052", "V_BIRD_001")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model") / "everyday"
    everyday.run([f"--image_encoder={ENCODER}", f"--output={output}"])
    return output


@pytest.fixture(scope="module")
def scores(sample: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled scores of records of three clips."""
    directory = tmp_path_factory.mktemp("scores")
    rows = [f"{sample}/video/{name}.mp4,airliner\n" for name in CLIPS]
    (directory / "videos.csv").write_text("path,labels\n" + "".join(rows))
    extract.run(
        [
            f"--labels={directory}/videos.csv",
            f"--vocabulary={model}/labels.csv",
            f"--image_encoder={ENCODER}",
            f"--output={directory}/records",
        ]
    )
    score.run(
        [
            f"--input={directory}/records",
            f"--model={model}",
            f"--output={directory}/scores",
            "--missing_modality=fill",
        ]
    )
    return directory / "scores"


def jpegs(page: str) -> list[Image.Image]:
    found = re.findall(r'<img class="sheet" src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


@pytest.mark.slow
def test_a_model_that_may_do_more_than_compute_is_refused(
    sample: Path, scores: Path, model: Path, tmp_path: Path
) -> None:
    guilty = guilty_copy(model, tmp_path / "guilty")
    flags = [f"--scores={scores}", f"--media={sample}/video/V_*.mp4", f"--model={guilty}"]
    with pytest.raises(UsageError, match="the model .*guilty has operations that may do more than compute: WriteFile"):
        report.run([*flags, f"--output={tmp_path / 'out'}"])


@pytest.mark.slow
def test_examples_have_pictures_and_videos_a_timeline(sample: Path, scores: Path, model: Path, tmp_path: Path) -> None:
    info = report.run([f"--scores={scores}", f"--media={sample}/video/V_*.mp4", f"--output={tmp_path / 'out'}"])
    page = (tmp_path / "out" / "report.html").read_text()
    sheets = jpegs(page)
    assert len(sheets) >= 3
    assert {sheet.size for sheet in sheets} == {(4 * 72, 72)}
    assert all(np.asarray(sheet).std() > 5 for sheet in sheets)
    assert [name for name in info["figures"] if name.startswith("timeline")] == [
        f"timeline_{number}" for number in (1, 2, 3)
    ]
    assert "Single videos over time" in page
    assert len(page) < 3_000_000
    with open(tmp_path / "out" / "figures" / "timeline_1.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    video_id = next(name for name in CLIPS if re.search(rf"<h3>[^<]*{name}</h3>", page))
    expected = moments(sample / "video" / f"{video_id}.mp4")
    assert len(rows) == len(expected)
    names = [name for name in rows[0] if name != "seconds"]
    assert len(names) == 5
    for name in names:
        index = int(name.split(" ")[0])
        shown = [float(row[name]) for row in rows]
        if index < 1000:
            assert shown == pytest.approx(expected[:, index].tolist(), abs=2e-3)


def moments(path: Path) -> np.ndarray:
    """Mean probability of each class over each second and two on either side, (T, 1000)."""
    config = EmbeddingConfig.of(ENCODER, None)
    with Embedder(config) as embedder:
        rows = embedder.embed(str(path)).features["rgb"]
    assert isinstance(rows, list)
    info = encoder_info(ENCODER, "picture")
    values = dequantise(np.stack([np.frombuffer(row, np.uint8) for row in rows]), info.value_range, info.rounding)
    by_row = Everyday.load(ENCODER).probabilities("picture", values)
    return np.array([by_row[max(0, row - 2) : row + 3].mean(axis=0) for row in range(len(by_row))])


@pytest.mark.slow
def test_scored_files_are_shown_without_being_named(sample: Path, model: Path, tmp_path: Path) -> None:
    score.run(
        [
            f"--input={sample}/video/V_BIRD_00*.mp4",
            f"--model={model}",
            f"--output={tmp_path / 'scores'}",
            "--missing_modality=fill",
        ]
    )
    info = report.run([f"--scores={tmp_path / 'scores'}", f"--output={tmp_path / 'out'}"])
    assert not info["labelled"]
    assert {"timeline_1", "timeline_2"} <= set(info["figures"])


def test_without_files_the_report_is_as_ever(scores: Path, tmp_path: Path) -> None:
    info = report.run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert not any(name.startswith("timeline") for name in info["figures"])
    assert "Single videos over time" not in page and not jpegs(page)


def test_files_go_by_their_names_folders_and_segments() -> None:
    files = MediaFiles(["videos/cat/a.mp4", "videos/dog/a.mp4", "b.c.mov"])
    assert files.find("a") == ("videos/cat/a.mp4", 0.0)
    assert files.find("dog/a") == ("videos/dog/a.mp4", 0.0)
    assert files.find("elsewhere/videos/dog/a") == ("videos/dog/a.mp4", 0.0)
    assert files.find("b.c:12.5") == ("b.c.mov", 12.5)
    assert files.find("b.c:x") is None and files.find("d") is None and files.find("d:1") is None


def test_files_that_are_gone_are_no_error_but_a_wrong_pattern_is(tmp_path: Path) -> None:
    assert scored_media(None, {"input": f"{tmp_path}/*.mp4"}) is None
    assert scored_media(None, {"input": f"{tmp_path}/*.tfrecord"}) is None
    with pytest.raises(UsageError, match="no file matches"):
        scored_media(f"{tmp_path}/*.mp4", {})
