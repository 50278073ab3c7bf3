"""Whatever happens to the files of a finished or begun job: the next one names the file, or does its work again.

No command takes damaged state for sound, and none answers with a traceback.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.media import colour_clip, write_encoders
from tests.fixtures.records import VIDEO, videos, write_shard
from tests.fixtures.scores import add_segments, write_scores
from vcls_model.commands import JobError, UsageError

DAMAGES = {
    "empty": b"",
    "zeros": bytes(300),
    "object": b"{}",
    "list": b"[]",
    "text": b"garbage\n",
    "array": b'[{"a": [1, null]}]\n{}\n',
}


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, model: Path, shards: Path) -> dict[str, tuple[Callable, Path]]:
    """Finished outputs of the jobs that --resume continues, with what continues them in a copy."""
    from pipelines import extract, preprocess, score

    root = tmp_path_factory.mktemp("begun")
    for number in range(2):
        some = videos(30, VIDEO, seed=number, prefix=f"{number}-")
        write_shard(root / f"in{number}.tfrecord", [video.example() for video in some])
    (root / "schema.json").write_text(json.dumps(VIDEO.to_dict()))
    for number in range(2):
        colour_clip(root / f"clip{number}.mp4", 2, first=number)
    flags = {
        preprocess: [f"--input={root}/in*.tfrecord", f"--schema={root}/schema.json"],
        score: [f"--input={shards}/part0[34].tfrecord", f"--model={model}"],
        extract: [f"--input={root}/clip*.mp4", *write_encoders(root).flags],
    }
    made = {}
    for job, given in flags.items():
        name = job.__name__.rpartition(".")[2]

        def again(output: Path, *more: str, job: Any = job, given: list[str] = given) -> dict[str, Any]:
            return job.run([*given, f"--output={output}", "--direct_num_workers=1", *more])

        again(root / name)
        made[name] = (again, root / name)
    return made


# (job, file) pairs that every run looks at; the others are for `make test-long`.
_OFTEN = {
    "preprocess": ("manifests/settings.json", "manifests/00000-of-00002.manifest", "info.json"),
    "score": ("state/settings.json", "labels.csv", "info.json"),
    "extract": ("state/settings.json", "state/records-00000-of-00001.json"),
}


def check_resumed(job: str, name: str, begun: dict[str, tuple[Callable, Path]], directory: Path) -> None:
    """For each damage of a file of a job's output."""
    again, finished = begun[job]
    for damage, content in DAMAGES.items():
        output = directory / damage
        shutil.copytree(finished, output)
        (output / name).write_bytes(content)
        try:
            again(output, "--resume")
        except (UsageError, JobError) as error:
            message = str(error)
            assert "\n" not in message and str(output) in message, (damage, message)
            again(output, "--overwrite")
        expected = {each: (finished / each).read_bytes() for each in files(finished)}
        for each in files(output):
            # What names this run, its time or its place; predictions that no manifest needs may stay damaged.
            if each not in ("info.json", "data_card.html", name) and not each.startswith(
                ("state/", "manifests/", "transform")
            ):
                assert (output / each).read_bytes() == expected[each], (damage, each)
        assert (output / "info.json").exists()
        shutil.rmtree(output)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "name"), [(job, name) for job, names in _OFTEN.items() for name in names])
def test_a_resumed_job_names_damaged_state_or_makes_it_again(
    job: str, name: str, begun: dict[str, tuple[Callable, Path]], tmp_path: Path
) -> None:
    assert (begun[job][1] / name).exists()
    check_resumed(job, name, begun, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("job", list(_OFTEN))
def test_every_file_of_a_job_may_be_damaged(job: str, begun: dict[str, tuple[Callable, Path]], tmp_path: Path) -> None:
    for number, name in enumerate(files(begun[job][1])):
        if name not in _OFTEN[job]:
            check_resumed(job, name, begun, tmp_path / str(number))


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_scores(tmp_path_factory.mktemp("scored") / "scores", videos=40, class_count=6)
    add_segments(directory, 6, [0, 1, 2], [0.5, -1.0, 2.0], [1, 0, 1])
    shutil.copy(directory / "labels.csv", directory / "thresholds.csv")
    return directory


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_report_is_made_of_damaged_scores(damage: str, scores: Path, tmp_path: Path) -> None:
    from pipelines.report import run

    names = [name for name in files(scores) if not name.startswith("state/")]  # which a comparison alone reads
    assert {"metrics.json", "labels.csv", "thresholds.csv", "info.json", "per_class.csv", "curves.npz"} <= set(names)
    for number, name in enumerate(names):
        if damage in _HARMLESS.get(name, ()):
            continue
        copy = tmp_path / f"scores{number}"
        shutil.copytree(scores, copy)
        (copy / name).write_bytes(DAMAGES[damage])
        with pytest.raises((UsageError, JobError)) as raised:
            run([f"--scores={copy}", f"--output={tmp_path / 'out'}"])
        message = str(raised.value)
        assert "\n" not in message and Path(name).name in message and f"scores{number}" in message, (name, message)
        assert not (tmp_path / "out").exists()
        shutil.rmtree(copy)


# What is sound, though empty: no example, no rejected record.
_HARMLESS = {"examples.json": ("object",), "dead_letter/shard-0.jsonl": ("empty",)}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_training_does_not_continue_from_damaged_state(
    damage: str, trained: Path, video_data: Path, tmp_path: Path
) -> None:
    from vcls_model.train import run

    flags = ["--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--quiet", "--resume", "--epochs=3"]
    for name in ("info.json", "checkpoints/last.npz", "checkpoints/best.npz"):
        copy = tmp_path / Path(name).name
        shutil.copytree(trained, copy)
        (copy / name).write_bytes(DAMAGES[damage])
        if name != "info.json":
            (copy / "info.json").unlink()  # stopped just before its end
        with pytest.raises((UsageError, JobError)) as raised:
            run([f"--data={video_data}", f"--output={copy}", *flags])
        message = str(raised.value)
        assert "\n" not in message and Path(name).name in message, (name, message)
