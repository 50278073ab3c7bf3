"""The whole job on short clips made here: records, counts, resuming, and the way to scores of media files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipelines import preprocess, score
from pipelines.extract import run
from pipelines.extracting import planning, steps
from tests.conftest import ROOT
from tests.fixtures.media import Encoders, colour_clip, colour_codes, write_encoders, write_sound
from tests.fixtures.records import read_payloads
from vcls_model import train
from vcls_model.commands import JobError, UsageError
from vcls_model.states import RECORDS, kind_of

CLIPS = 12


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return write_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of two classes, one of them with sound; a sound; what is no video; and a CSV that names all."""
    directory = tmp_path_factory.mktemp("videos")
    lines = ["path,labels,title"]
    for number in range(CLIPS):
        name = f"clip{number:02d}.mp4"
        colour_clip(directory / name, 3, first=number % 2 * 2, sound=number == 3)
        lines.append(f"{name},{('red', 'blue')[number % 2]},number {number}")
    write_sound(directory / "tone.wav", 2.5)
    (directory / "broken.mp4").write_bytes(b"this is text" * 100)
    lines += ["tone.wav,sound;red,a tone", "broken.mp4,red,broken"]
    (directory / "videos.csv").write_text("\n".join(lines) + "\n")
    return directory


def job(videos: Path, encoders: Encoders, output: Path, *flags: str) -> dict[str, Any]:
    return run([f"--labels={videos}/videos.csv", f"--output={output}", *encoders.flags, *flags])


def digests(directory: Path) -> dict[str, str]:
    """What a run leaves, without its times: by path the hash of the content."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("info.json", "settings.json")
    }


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five files per shard."""
    monkeypatch.setattr(planning, "_SHARD_FILES", 5)


@pytest.fixture(scope="module")
def records(videos: Path, encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbed, in shards of five files."""
    output = tmp_path_factory.mktemp("records") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_SHARD_FILES", 5)
        job(videos, encoders, output, "--max_rejected_fraction=0.1", "--direct_num_workers=1")
    return output


def test_records_are_those_of_youtube8m(records: Path) -> None:
    names = sorted(path.name for path in records.glob("*.tfrecord"))
    assert names == [f"records-0000{shard}-of-00003.tfrecord" for shard in range(3)]
    assert kind_of(str(records)) == RECORDS
    parsed = {}
    for name in names:
        for payload in read_payloads(records / name):
            context, frames = tf.io.parse_single_sequence_example(
                payload,
                {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
                | {"title": tf.io.FixedLenFeature([], tf.string)},
                {"rgb": tf.io.VarLenFeature(tf.string), "audio": tf.io.VarLenFeature(tf.string)},
            )
            rows = {key: [list(row) for row in values.values.numpy()] for key, values in frames.items()}
            parsed[context["id"].numpy().decode()] = context, {key: np.array(value) for key, value in rows.items()}
    assert list(parsed) == [*(f"clip{number:02d}" for number in range(CLIPS)), "tone"]
    for number in range(CLIPS):
        context, rows = parsed[f"clip{number:02d}"]
        assert context["labels"].values.numpy().tolist() == [(1, 0)[number % 2]]  # blue, red, sound
        assert context["title"].numpy() == f"number {number}".encode()
        np.testing.assert_allclose(rows["rgb"], colour_codes(3, first=number % 2 * 2), atol=3)
        assert len(rows["audio"]) == (3 if number == 3 else 0)
    context, rows = parsed["tone"]
    assert context["labels"].values.numpy().tolist() == [1, 2]
    assert len(rows["rgb"]) == 0 and rows["audio"].shape == (3, 64)
    # Half a second of the chord, then silence.
    assert rows["audio"][0].mean() > rows["audio"][2].mean() > 0


def test_every_file_is_accounted_for(records: Path, videos: Path) -> None:
    info = json.loads((records / "info.json").read_text())
    assert info["records_read"] == info["records_written"] + info["records_rejected"] == CLIPS + 2
    assert info["rejected_by_reason"] == {"unknown_format": 1}
    [letter] = [json.loads(line) for path in (records / "dead_letter").iterdir() for line in path.open()]
    assert letter["shard"] == str(videos / "broken.mp4") and letter["id"] == "broken" and letter["stage"] == "media"
    assert info["rows"] == 3 * CLIPS + 3 and info["seconds"] == pytest.approx(3 * CLIPS + 2.5, abs=0.11 * CLIPS)
    schema = json.loads((records / "schema.json").read_text())
    assert [(each["name"], each["width"], each["range"]) for each in schema["modalities"]] == [
        ("rgb", 3, [-1, 1]),
        ("audio", 64, [-10, 10]),
    ]
    assert schema["encoders"]["rgb"]["name"] == "colours" and len(schema["encoders"]["rgb"]["weights_sha256"]) == 64
    assert (records / "vocabulary.csv").read_text().split("\n")[1:4] == ["0,blue,,,", "1,red,,,", "2,sound,,,"]


@pytest.mark.usefixtures("small_shards")
def test_workers_do_not_change_a_byte(videos: Path, encoders: Encoders, records: Path, tmp_path: Path) -> None:
    job(videos, encoders, tmp_path / "out", "--max_rejected_fraction=0.1", "--direct_num_workers=3")
    assert digests(tmp_path / "out") == digests(records)


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_run_continues_with_what_is_missing(
    videos: Path, encoders: Encoders, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_file: Callable[..., Any] = steps.extract_file
    done: list[str] = []

    def failing(file: Any, *rest: Any) -> Any:
        if len(done) == 7:
            raise OSError(28, "No space left on device")
        done.append(file.id)
        return extract_file(file, *rest)

    monkeypatch.setattr(steps, "extract_file", failing)
    with pytest.raises(JobError, match="the disk is full.*--resume continues"):
        job(videos, encoders, tmp_path / "out", "--max_rejected_fraction=0.1", "--direct_num_workers=1")
    with pytest.raises(UsageError, match="begun with other settings.*fps"):
        job(videos, encoders, tmp_path / "out", "--resume", "--fps=2")
    again: list[str] = []
    monkeypatch.setattr(steps, "extract_file", lambda file, *rest: again.append(file.id) or extract_file(file, *rest))
    with pytest.raises(JobError, match=r"1 of 14 records were rejected.*unknown_format: 1"):
        job(videos, encoders, tmp_path / "out", "--resume")
    assert len(again) == CLIPS + 2 - len(done) and not set(again) & set(done)
    again.clear()
    info = job(videos, encoders, tmp_path / "out", "--resume", "--max_rejected_fraction=0.1")
    assert not again and info["records_written"] == CLIPS + 1
    assert digests(tmp_path / "out") == digests(records)


@pytest.mark.slow
def test_a_killed_run_continues(videos: Path, encoders: Encoders, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flags = [f"--labels={videos}/videos.csv", f"--output={output}", "--max_rejected_fraction=0.1", *encoders.flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.extract", *flags, "--direct_num_workers=1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    parts = output / "state" / "parts"
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not (parts.is_dir() and len(list(parts.iterdir())) > 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    info = run([*flags, "--resume"])
    assert info["records_written"] == CLIPS + 1
    job(videos, encoders, tmp_path / "whole", "--max_rejected_fraction=0.1")
    assert digests(output) == digests(tmp_path / "whole")


def test_means_of_whole_videos(videos: Path, encoders: Encoders, tmp_path: Path) -> None:
    flags = (f"--input={videos}/clip0[0-1].mp4", f"--image_encoder={encoders.colours}", "--audio_encoder=none")
    run([*flags, f"--output={tmp_path / 'out'}", "--level=video", "--fps=2", "--max_seconds=2"])
    [path] = (tmp_path / "out").glob("*.tfrecord")
    records = [tf.train.Example.FromString(payload).features.feature for payload in read_payloads(path)]
    assert [record["id"].bytes_list.value[0] for record in records] == [b"clip00", b"clip01"]
    for number, record in enumerate(records):
        assert "labels" not in record
        rows = colour_codes(3, first=number * 2)[[0, 1, 1, 2]]  # at 0, 0.5, 1 and 1.5 s: colours change at the half
        expected = (rows / 256 * 2 - 1).mean(axis=0)
        np.testing.assert_allclose(record["mean_rgb"].float_list.value, expected, atol=0.02)


def test_a_dry_run_writes_nothing(
    videos: Path, encoders: Encoders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(videos, encoders, tmp_path / "out", "--dry_run")
    assert "14 files" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampling=exakt"], "sampling 'exakt'"),
        (["--fps=0"], "--fps must be in"),
        (["--max_seconds=-1"], "--max_seconds must be positive"),
        (["--image_encoder=none", "--audio_encoder=none"], "nothing to extract"),
        (["--image_encoder=efficientnet-lite9"], "efficientnet-lite2"),
        (["--labels=nowhere.csv"], "there is no such file"),
    ],
)
def test_wrong_usage(videos: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run([f"--input={videos}/*.mp4", f"--output={tmp_path / 'out'}", *flags])
    assert not (tmp_path / "out").exists()


def test_from_files_to_scores_of_files(
    videos: Path, encoders: Encoders, records: Path, tmp_path: Path, shared_encoder: Encoders
) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    fill = "--missing_modality=fill"
    preprocess.run([f"--input={records}", f"--output={data}", fill, "--split_ratios=0.6,0.2,0.2"])
    info = json.loads((data / "info.json").read_text())
    assert info["class_count"] == 3 and info["records_written"] == CLIPS + 1
    train.run([f"--data={data}", f"--output={model}", "--model=average", "--epochs=1"])
    score.run([f"--input={records}", f"--model={model}", f"--output={tmp_path / 'a'}", fill])
    files = f"--input={videos}/*.mp4,{videos}/tone.wav"
    accept = "--max_rejected_fraction=0.1"
    with pytest.raises(JobError, match="made by the picture encoder 'colours': give its path by --image_encoder"):
        score.run([files, f"--model={model}", f"--output={tmp_path / 'b'}", fill])
    scored = score.run([files, f"--model={model}", f"--output={tmp_path / 'b'}", fill, accept, *encoders.flags])
    assert scored["records_written"] == CLIPS + 1 and scored["rejected_by_reason"] == {"unknown_format": 1}
    of_records, of_files = ({row["id"]: row for row in rows(tmp_path / name)} for name in "ab")
    assert of_records.keys() == of_files.keys()
    for video, row in of_records.items():
        assert of_files[video]["class_index"] == row["class_index"] and of_files[video]["labels"] is None
        np.testing.assert_allclose(of_files[video]["probability"], row["probability"], rtol=1e-5)
    # Records, and files, by another encoder are refused by name.
    other = tmp_path / "other"
    run([f"--input={videos}/clip00.mp4", f"--output={other}", *shared_encoder.flags])
    with pytest.raises(JobError, match="made by the rgb encoder 'colours' .* not by 'colours' .*weights_sha256 differ"):
        score.run([f"--input={other}", f"--model={model}", f"--output={tmp_path / 'c'}", fill])
    with pytest.raises(JobError, match="made by the picture encoder 'colours'"):
        score.run([files, f"--model={model}", f"--output={tmp_path / 'c'}", fill, *shared_encoder.flags])
    with pytest.raises(UsageError, match="made by different encoders"):
        preprocess.run([f"--input={records}/*.tfrecord,{other}/*.tfrecord", f"--output={tmp_path / 'd'}", fill])


def rows(scores: Path) -> list[dict[str, Any]]:
    return [row for path in (scores / "predictions").iterdir() for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def shared_encoder(tmp_path: Path) -> Encoders:
    """Encoders of the same names and shapes, but other weights."""
    (tmp_path / "others").mkdir()
    others = write_encoders(tmp_path / "others")
    for path in (others.colours, others.loudness):
        import onnx

        network = onnx.load(path)
        network.doc_string = "another training run"
        onnx.save(network, path)
    return others


def test_a_model_of_other_records_takes_no_media_files(model: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not made from media files"):
        score.run([f"--input={videos}/clip00.mp4", f"--model={model}", f"--output={tmp_path / 'out'}"])


def test_real_clips(shared_data: Path, tmp_path: Path) -> None:
    media = shared_data / "media"
    info = run(
        [
            f"--input={media}/clips/V_*00[2-3].mp4",
            f"--labels={media}/clips.csv",
            "--image_encoder=efficientnet-lite0",
            "--audio_encoder=none",
            "--max_seconds=2",
            f"--output={tmp_path / 'out'}",
        ]
    )
    assert info["records_rejected"] == 0 and info["rows"] == 2 * info["records_written"] > 4
    assert info["schema"]["modalities"][0]["range"] == [0, 4]
