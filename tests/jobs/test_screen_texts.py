"""What is written in the pictures of videos, from files to scores of files."""

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import extract as extract_job
from pipelines import preprocess as preprocess_job
from pipelines import score as score_job
from tests.fixtures.media import write_encoders, write_sound
from tests.fixtures.records import read_payloads
from tests.jobs.test_captions import rows_of_any
from tests.vcls_model.media.clips import make_clip
from vcls_model import train as train_job
from vcls_model.commands import JobError, UsageError
from vcls_model.encoders.screen_texts import WEIGHTS
from vcls_model.media.requests import PictureFormat, Request
from vcls_model.media.sandbox import MediaReader
from vcls_model.media.split import SplitReader
from vcls_model.records import examples

RATE, SIZE = 4, (640, 360)
needs_weights = pytest.mark.skipif(not WEIGHTS.installed(), reason="the weights of rapidocr are not installed")


def slides(path: Path, *texts: str) -> Path:
    """A clip that shows each text for two seconds."""

    def draw(number: int, width: int, height: int) -> np.ndarray:
        picture = np.full((height, width, 3), (30, 60, 90), np.uint8)
        text = texts[min((number + 1) // (2 * RATE), len(texts) - 1)]
        cv2.putText(picture, text, (60, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3, cv2.LINE_AA)
        return picture

    times = [Fraction(number, RATE) for number in range(2 * RATE * len(texts))]
    return make_clip(path, times, size=SIZE, rate=RATE, draw=draw)


@pytest.mark.parametrize("reader", [MediaReader, SplitReader])
def test_rows_hold_what_is_said_of_their_pictures(tmp_path: Path, reader: type[MediaReader | SplitReader]) -> None:
    """The child calls what the request holds, and hands on its texts instead of pictures."""
    clip = slides(tmp_path / "clip.mp4", "one", "two")
    request = Request(PictureFormat(64, None), sound=False, describe="{0.shape} {1:.3f}".format)
    with reader() as media, media.read(str(clip), request) as rows:
        found = list(rows)
    assert [row.text for row in found] == ["(64, 64, 3) 1.778"] * 4
    assert all(row.picture is None for row in found)
    with reader() as media, media.read(str(clip), Request(PictureFormat(64, None), sound=False)) as rows:
        assert all(row.text is None and row.picture is not None for row in rows)


def test_pictures_that_stand_are_as_wide_as_they_are_shown(tmp_path: Path) -> None:
    """A telephone's upright video is stored lying, and turned by a quarter when it is shown."""
    lying = tmp_path / "lying.mp4"
    make_clip(lying, [Fraction(n, RATE) for n in range(8)], size=SIZE, rate=RATE, prepare=turned)
    request = Request(PictureFormat(64, None), sound=False, describe="{1:.3f}".format)
    with MediaReader() as media, media.read(str(lying), request) as rows:
        assert {row.text for row in rows} == {"0.562"}


def turned(stream: object) -> None:
    """Has the container say that the stream is shown turned by a quarter."""
    stream.set_display_rotation(90)  # type: ignore[attr-defined]


@needs_weights
@pytest.mark.slow
def test_from_files_to_scores_of_files(tmp_path: Path) -> None:
    encoders = write_encoders(tmp_path)
    lines = ["path,labels"]
    for number in range(6):
        slides(tmp_path / f"clip{number}.mp4", "NEWS TODAY", ("goal", "storm")[number % 2])
        lines.append(f"clip{number}.mp4,{('sport', 'weather')[number % 2]}")
    write_sound(tmp_path / "clip6.wav", 2)  # which shows nothing
    lines.append("clip6.wav,sport")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    records = tmp_path / "records"
    flags = [f"--labels={tmp_path}/videos.csv", *encoders.flags, "--seconds_per_minute=3000"]
    info = extract_job.run([*flags, f"--output={records}", "--ocr=rapidocr"])
    assert info["records_rejected"] == 0
    assert info["schema"]["modalities"][-1] == {"name": "screen_text", "width": 1, "kind": "text", "encoding": "lines"}
    assert info["schema"]["encoders"]["screen_text"]["name"] == "rapidocr"
    written = {}
    for payload in read_payloads(next(records.glob("*.tfrecord"))):
        record = examples.parse_record(payload)
        # The network tells the blank between two words from none on some pictures and not on others.
        rows = [row.values[0].replace(b" ", b"") for row in record.feature_lists.get("screen_text", ())]
        written[record.features["id"].values[0]] = rows
    assert written[b"clip0"] == [b"NEWSTODAY"] * 2 + [b"goal"] * 2
    assert written[b"clip1"] == [b"NEWSTODAY"] * 2 + [b"storm"] * 2
    assert written[b"clip6"] == []
    preprocess_job.run(
        [f"--input={records}", f"--output={tmp_path}/data", "--split_ratios=1,0,0", "--text_min_count=1"]
    )
    model = ["--model=average", "--recipe=none", "--epochs=1", "--quiet"]
    train_job.run([f"--data={tmp_path}/data", f"--output={tmp_path}/model", *model])
    score_job.run([f"--input={records}", f"--model={tmp_path}/model", f"--output={tmp_path}/a"])
    score_job.run(
        [f"--input={tmp_path}/clip[01].mp4", f"--model={tmp_path}/model", f"--output={tmp_path}/b", *encoders.flags]
        + ["--seconds_per_minute=3000"]
    )
    of_records, of_files = rows_of_any(tmp_path / "a"), rows_of_any(tmp_path / "b")
    assert set(of_files) == {"clip0", "clip1"}
    for video, row in of_files.items():
        np.testing.assert_allclose(row, of_records[video], rtol=1e-5)
    # Of whole videos it is one text, with one blank between places, in which what stands for long is said once.
    extract_job.run([*flags, f"--output={tmp_path}/whole", "--ocr=rapidocr", "--level=video"])
    first = examples.parse_record(read_payloads(next((tmp_path / "whole").glob("*.tfrecord")))[0])
    assert first.features["screen_text"].values == [b"NEWSTODAY goal"]


@needs_weights
def test_a_file_that_takes_too_long_to_read_is_given_up(tmp_path: Path) -> None:
    encoders = write_encoders(tmp_path)
    slides(tmp_path / "clip.mp4", "text")
    flags = [f"--input={tmp_path}/clip.mp4", *encoders.flags, "--ocr=rapidocr", "--max_rejected_fraction=1"]
    with pytest.raises(JobError, match=r"none of the 1 files could be read \(deadline: 1"):
        extract_job.run([*flags, f"--output={tmp_path}/records", "--seconds_per_minute=0.001"])
    (line,) = (tmp_path / "records" / "dead_letter").glob("*.jsonl")
    assert "--seconds_per_minute allows more" in json.loads(line.read_text())["message"]


def test_wrong_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = write_encoders(tmp_path)
    slides(tmp_path / "clip.mp4", "text")
    flags = [f"--input={tmp_path}/clip.mp4", *encoders.flags, f"--output={tmp_path}/records"]
    with pytest.raises(UsageError, match="unknown reader of --ocr 'tesseract'"):
        extract_job.run([*flags, "--ocr=tesseract"])
    monkeypatch.setattr("vcls_model.encoders.weights._distribution", lambda _: None)
    with pytest.raises(JobError, match="are not installed"):
        extract_job.run([*flags, "--ocr=rapidocr"])
