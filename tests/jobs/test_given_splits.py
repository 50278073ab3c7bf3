"""Splits given by hand, from preprocess to report: by the ids that the dataset lists, not by a hash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from pipelines import preprocess, report, score
from pipelines.reporting.page import figures
from vcls_model import ensemble, train
from vcls_model.commands import UsageError
from vcls_model.records.split_ids import FILE, places_of, write_split_ids
from vcls_model.serving.exported import read_exported_model

_SIZES = {"train": 60, "validate": 20, "test": 15}


def _write_csv(path: Path, ids: list[str], seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [
        f"{name},{place % 3},{','.join(f'{value:.4f}' for value in generator.normal(place % 3, 1, 4))}"
        for place, name in enumerate(ids)
    ]
    path.write_text("\n".join(["id,labels,a,b,c,d", *rows]) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose test split also holds two training videos, a model of them, and a file of videos in no split."""
    place = tmp_path_factory.mktemp("given")
    ids = {split: [f"{split}{number}" for number in range(count)] for split, count in _SIZES.items()}
    ids["test"] += ids["train"][:2]
    for seed, (split, names) in enumerate({**ids, "new": ["new0", "new1", "new2"]}.items()):
        _write_csv(place / f"{split}.csv", names, seed)
    (place / "vocabulary.csv").write_text("Index,Name\n0,zero\n1,one\n2,two\n")
    preprocess.run(
        [
            *(f"--{split}_input={place}/{split}.csv" for split in _SIZES),
            f"--vocabulary={place}/vocabulary.csv",
            f"--output={place}/data",
            "--direct_num_workers=1",
        ]
    )
    train.run(
        [
            f"--data={place}/data",
            f"--output={place}/model",
            "--model=logistic",
            "--recipe=none",
            "--epochs=1",
            "--quiet",
        ]
    )
    return place


def _score(place: Path, output: Path, names: list[str], *flags: str, model: str = "model") -> dict:
    pattern = ",".join(f"{place}/{name}.csv" for name in names)
    return score.run(
        [f"--input={pattern}", f"--model={place}/{model}", f"--output={output}", "--direct_num_workers=1", *flags]
    )


def _ids(output: Path) -> set[str]:
    return {name for part in (output / "predictions").iterdir() for name in parquet.read_table(part)["id"].to_pylist()}


def _held_out(scores: Path, output: Path) -> str:
    report.run([f"--scores={scores}", f"--output={output}"])
    page = (output / "report.html").read_text()
    start = page.index("<strong>Held out.</strong>")
    return page[page.rindex("<li", 0, start) : page.index("</li>", start)]


@pytest.mark.slow
def test_split_takes_the_ids_that_the_dataset_lists(place: Path, tmp_path: Path) -> None:
    names = ["train", "validate", "test", "new"]
    found = {}
    for split in _SIZES:
        info = _score(place, tmp_path / split, names, f"--split={split}")
        found[split] = _ids(tmp_path / split)
        assert info["records_by_split"][split] == info["records_read"]
    # A training video stays one although the test file holds it, too.
    assert found == {split: {f"{split}{number}" for number in range(count)} for split, count in _SIZES.items()}


def test_the_model_brings_the_list_of_its_data(place: Path, tmp_path: Path) -> None:
    assert (place / "model" / FILE).read_bytes() == (place / "data" / FILE).read_bytes()
    # 9 bytes per video and two small heads.
    assert (place / "data" / FILE).stat().st_size < 95 * 9 + 800
    rule = read_exported_model(str(place / "model")).splits()
    assert rule is not None
    ids = [b"train5", b"validate19", b"test0", b"train0", b"new1", b""]
    assert places_of(ids, rule).tolist() == [0, 1, 2, 0, -1, -1]
    shutil.copytree(place / "model", tmp_path / "copy")
    ensemble.run([f"--model={place}/model", f"--model={tmp_path}/copy", f"--output={tmp_path}/both"])
    joined = read_exported_model(str(tmp_path / "both")).splits()
    assert joined is not None and places_of(ids, joined).tolist() == [0, 1, 2, 0, -1, -1]


@pytest.mark.parametrize(
    ("names", "flags", "state", "words"),
    [
        (["test", "new"], ["--split=test"], "good", "The model has seen none of the 15 scored videos"),
        (["new"], [], "good", "or not in them at all (3)"),
        (["test"], [], "attention", "2 of 17 scored videos are in the training split"),
        (["validate", "new"], [], "attention", "20 of 23 scored videos are in the validation split"),
    ],
)
def test_the_report_says_whether_videos_were_held_out(
    names: list[str],
    flags: list[str],
    state: str,
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "draw", lambda plot, data, size: (b"<svg/>", b"\x89PNG"))
    _score(place, tmp_path / "scores", names, *flags)
    line = _held_out(tmp_path / "scores", tmp_path / "report")
    assert f'class="{state}"' in line and words in line


def test_a_model_without_the_list_says_what_to_do(place: Path, tmp_path: Path) -> None:
    for name in ("saved_model", "labels.csv", "info.json"):
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / "old" / name).symlink_to(place / "model" / name)
    with pytest.raises(UsageError, match="does not say which ids are in which split"):
        score.run([f"--input={place}/test.csv", f"--model={tmp_path}/old", f"--output={tmp_path}/s", "--split=test"])
    info = score.run(
        [f"--input={place}/test.csv", f"--model={tmp_path}/old", f"--output={tmp_path}/s", "--direct_num_workers=1"]
    )
    assert "records_by_split" not in info


def test_an_id_in_several_splits_belongs_to_the_first(tmp_path: Path) -> None:
    splits = [np.array([5, 9], np.uint64), np.array([9, 2], np.uint64), np.array([5, 1], np.uint64)]
    digest = write_split_ids(str(tmp_path), splits)
    arrays = np.load(tmp_path / FILE)
    assert arrays["hashes"].tolist() == [1, 2, 5, 9] and arrays["splits"].tolist() == [2, 1, 0, 0]
    assert digest != write_split_ids(str(tmp_path), [*splits[:2], splits[2][:1]])


def test_the_dataset_says_that_it_lists_its_ids(place: Path) -> None:
    split = json.loads((place / "data" / "info.json").read_text())["split"]
    assert split["method"] == "given" and len(split["ids"]) == 16
    assert json.loads((place / "model" / "info.json").read_text())["split"] == split
