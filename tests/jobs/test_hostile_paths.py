"""Whole jobs in directories whose names look like patterns, beside files that such patterns would match."""

import os
import shutil
from pathlib import Path

import pytest

from pipelines import preprocess, report, score
from tests.fixtures.scoring import make_videos, serialise, write_shard
from vcls_model import train
from vcls_model.commands import JobError, UsageError

NAMES = ["out[1]", "*", "o?t 1\n", "-x", "ä,出"]
NEIGHBOURS = ["out1", "x", "oat 1\n", "ä", "出"]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def beside(output: Path) -> dict[str, bytes]:
    """What lies beside an output, its own content left out."""
    return {name: data for name, data in snapshot(output.parent).items() if name.split("/")[0] != output.name}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with precious files and directories that the names would match as patterns."""
    directory = tmp_path / "place"
    for name in NEIGHBOURS:
        (directory / f"{name}.d" / "train").mkdir(parents=True)
        (directory / f"{name}.d" / "train" / "precious").write_text(name)
        (directory / name).write_text(name)
    return directory


def occupy(output: Path, outside: Path) -> None:
    """Fills an output with what an earlier run might have left, and links that lead out of it."""
    (output / "train").mkdir(parents=True)
    (output / "train" / "old.tfrecord").write_text("old")
    (output / "info.json").write_text("{}")
    (output / "link").symlink_to(outside)
    (output / "train" / "link").symlink_to(outside / "precious")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two shards and a vocabulary below a directory named like a pattern, beside files that are not records."""
    directory = tmp_path / "[D_DATA], all?"
    for number in range(2):
        payloads = [serialise(video) for video in make_videos(60, number)]
        write_shard(directory / f"v{number}.tfrecord", payloads)
    (directory / "vocabulary.csv").write_text("Index,Name\n" + "".join(f"{index},c{index}\n" for index in range(30)))
    (directory / "._v0.tfrecord").write_bytes(bytes.fromhex("00051607") + bytes(4092))
    (directory / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return directory


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "precious").write_text("precious")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_preprocess_overwrites_its_output_alone(
    name: str, place: Path, records: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    occupy(place / name, outside)
    before = beside(place / name)
    info = preprocess.run(
        [
            f"--input={records}/*.tfrecord",
            f"--vocabulary={records}/vocabulary.csv",
            f"--output={name}",
            "--overwrite",
            "--direct_num_workers=1",
        ]
    )
    assert (info["records_read"], info["records_written"]) == (120, 120)
    assert beside(place / name) == before
    assert (outside / "precious").read_text() == "precious"
    assert not (place / name / "train" / "old.tfrecord").exists() and not os.path.lexists(place / name / "link")
    assert len(list((place / name / "train").iterdir())) == 2


@pytest.mark.long
def test_every_job_works_below_directories_named_like_patterns(
    records: Path, place: Path, outside: Path, tmp_path: Path
) -> None:
    """Input, vocabulary, data, model, scores and report, each overwritten once with its neighbours watched."""
    root = place / "[D_DATA]" / "w?x" / "a,b"
    root.mkdir(parents=True)
    (place / "D").mkdir()
    (place / "D" / "precious").write_text("precious")
    data, model, scores, page = (root / f"{name}[1]" for name in ("data", "model", "scores", "report"))
    runs = {
        data: lambda: preprocess.run(
            [
                f"--input={records}/*.tfrecord",
                f"--vocabulary={records}/vocabulary.csv",
                f"--output={data}",
                "--overwrite",
                "--direct_num_workers=1",
            ]
        ),
        model: lambda: train.run(
            [f"--data={data}", f"--output={model}", "--model=logistic", "--epochs=1", "--quiet", "--overwrite"]
        ),
        scores: lambda: score.run(
            [f"--input={records}/*", f"--model={model}", f"--output={scores}", "--overwrite", "--direct_num_workers=1"]
        ),
        page: lambda: report.run(
            [f"--scores={scores}", f"--model={model}", f"--data={data}", f"--output={page}", "--overwrite"]
        ),
    }
    shutil.move(records / "vocabulary.csv", tmp_path / "vocabulary.csv")
    (records / "meta").mkdir()
    shutil.move(tmp_path / "vocabulary.csv", records / "meta" / "vocabulary.csv")
    (records / "vocabulary.csv").symlink_to(records / "meta" / "vocabulary.csv")
    for output, run in runs.items():
        if output == scores:
            (records / "vocabulary.csv").unlink()  # so that * matches records alone
        (root / output.name.replace("[1]", "1")).write_text("a neighbour")
        occupy(output, outside)
        before = beside(output)
        info = run()
        assert beside(output) == before
        assert (outside / "precious").read_text() == "precious"
        assert not os.path.lexists(output / "link"), output.name
        assert (output / "info.json").stat().st_size > 10
        if output in (data, scores):
            assert (info["records_read"], info["records_rejected"]) == (120, 0)
    assert (page / "report.html").exists()
    assert (place / "D" / "precious").read_text() == "precious"


@pytest.mark.long
def test_pca_in_a_directory_named_like_a_pattern(records: Path, place: Path) -> None:
    """The one transform for which tf.Transform's own analyzers run, with files of their own."""
    output = place / "out[1]"
    before = beside(output)
    info = preprocess.run(
        [
            f"--input={records}/v0.tfrecord,{records}/v[1].tfrecord",
            f"--output={output}",
            "--pca_dims=4",
            "--direct_num_workers=1",
        ]
    )
    assert info["records_written"] == 120
    assert beside(output) == before


def test_an_output_that_is_a_link_to_a_directory_keeps_its_target(records: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "old.txt").write_text("old")
    (tmp_path / "out").symlink_to(disk)
    preprocess.run(
        [f"--input={records}/*.tfrecord", f"--output={tmp_path / 'out'}", "--overwrite", "--direct_num_workers=1"]
    )
    assert (tmp_path / "out").is_symlink() and (disk / "info.json").exists() and not (disk / "old.txt").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["preprocess", "score", "report", "train"])
def test_overwrite_refuses_an_output_that_holds_an_input(
    command: str, name: str, place: Path, model: Path, video_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that looks like a pattern is refused as any other, before anything is read, and nothing is deleted."""
    monkeypatch.chdir(place)
    inside = Path(name, "inside")
    inside.mkdir(parents=True)
    write_shard(inside / "a.tfrecord", [serialise(video) for video in make_videos(2, 0)])
    shutil.copy(model / "info.json", inside / "info.json")
    before = snapshot(place)
    run, flags = {
        "preprocess": (preprocess.run, [f"--input={inside}/*.tfrecord"]),
        "score": (score.run, [f"--input={inside}/*.tfrecord", f"--model={model}"]),
        "report": (report.run, [f"--scores={inside}"]),
        "train": (train.run, [f"--data={video_data}", f"--init_from={place / inside}", "--quiet"]),
    }[command]
    with pytest.raises(UsageError):
        run([*flags, f"--output={name}", "--overwrite"])
    assert snapshot(place) == before


def test_score_empties_its_output_alone(
    place: Path, shards: Path, model: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.scoring.outputs import open_scores
    from pipelines.scoring.planning import make_plan

    monkeypatch.chdir(place)
    for name in NAMES:
        occupy(place / name, outside)
        before = beside(place / name)
        flags = [f"--input={shards}/*.tfrecord", f"--model={model}", f"--output={name}", "--overwrite"]
        open_scores(make_plan(score.make_parser().parse_args(flags)), dry_run=False)
        assert beside(place / name) == before and (outside / "precious").read_text() == "precious"
        assert [str(path.relative_to(place / name)) for path in (place / name).rglob("*") if path.is_file()] == [
            "state/settings.json"
        ]


def test_report_replaces_its_output_alone(
    place: Path, scores_directory: Path, outside: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for name in NAMES:
        occupy(place / name, outside)
        before = beside(place / name)
        report.run([f"--scores={scores_directory}", f"--output={name}", "--overwrite"])
        assert beside(place / name) == before and (outside / "precious").read_text() == "precious"
        assert (place / name / "report.html").exists() and not (place / name / "train").exists()


def test_training_empties_its_output_alone(
    place: Path, video_data: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vcls_model.training.loop import Trainer

    def fit(trainer: Trainer) -> None:
        raise JobError("the work begins")

    monkeypatch.setattr(Trainer, "fit", fit)
    monkeypatch.chdir(place)
    for name in NAMES:
        occupy(place / name, outside)
        before = beside(place / name)
        with pytest.raises(JobError, match="the work begins"):
            train.run([f"--data={video_data}", f"--output={name}", "--model=logistic", "--overwrite", "--quiet"])
        assert beside(place / name) == before and (outside / "precious").read_text() == "precious"
        assert not list((place / name).iterdir())
