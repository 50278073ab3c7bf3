import json

import pytest

from tests.fixtures import training_data
from vcls_model import tune
from vcls_model.commands import JobError, UsageError
from vcls_model.states import SEARCH, kind_of
from vcls_model.training.search import Dimension, search


@pytest.mark.slow
def test_a_search_finds_the_better_rate_and_is_not_repeated(video_data, tmp_path, monkeypatch):
    output = tmp_path / "search"
    arguments = [
        f"--data={video_data}",
        f"--output={output}",
        "--model=logistic",
        "--epochs=1",
        "--batch_size=20",
        "--search=learning_rate=choice:0.0000001:0.05",
        "--strategy=grid",
        "--quiet",
    ]
    info = tune.run([*arguments, "--trials=2"])
    assert [trial["flags"]["learning_rate"] for trial in info["trials"]] == ["0.05", "0.0000001"]
    assert info["trials"][0]["val_map"] > info["trials"][1]["val_map"]
    best = json.loads((output / "trials" / info["best"]["trial"] / "info.json").read_text())
    assert best["training"]["validation"]["map"] == pytest.approx(info["best"]["val_map"])
    monkeypatch.setattr(tune, "train", None)  # a trial would fail
    assert tune.run([*arguments, "--trials=2", "--resume"]) == info
    assert kind_of(str(output)) == SEARCH


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate", "must be like"),
        ("learning_rate=lg:1:2", "did you mean 'log'"),
        ("learning_rate=log:0:2", "positive"),
        ("learning_rate=float:2:1", "increase"),
        ("learning_rat=choice:1:2", "did you mean --learning_rate"),
        ("dropout=choice:0.1:1.5", "dropout must lie in"),
        ("class_prior=choice:true:perhaps", "must be true or false"),
        ("jit=choice:true:perhaps", "takes no number"),
        ("batch_size=float:8:64", "whole numbers only, which int draws"),
        ("batch_size=log:8.5:64", "whole number|invalid int"),
    ],
)
def test_a_wrong_search_is_refused_before_a_trial(text, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        tune.run(["--data=nowhere", f"--output={tmp_path / 's'}", f"--search={text}"])


def test_dimensions_draw_from_their_range():
    import keras_tuner

    space = keras_tuner.HyperParameters()
    assert Dimension.parse("a=int:3:9").draw(space) == "3"
    assert float(Dimension.parse("--b=log:0.001:0.1").draw(space)) == pytest.approx(0.001)
    assert Dimension.parse("c=choice:1024x512:7").draw(space) == "1024x512"
    assert [value.name for value in space.space] == ["a", "b", "c"]


def test_a_logarithmic_search_of_whole_numbers_draws_them():
    import keras_tuner

    config = tune.parse_tune_config(
        [
            "--data=d",
            "--output=o",
            "--search=batch_size=log:8:64",
            "--search=hidden_units=log:16:4096",
            "--search=learning_rate=log:0.001:1",
        ]
    )
    assert [dimension.whole for dimension in config.dimensions] == [True, True, False]
    space = keras_tuner.HyperParameters()
    for dimension in config.dimensions:
        dimension.draw(space)
    drawn = [space.space[1].random_sample(seed) for seed in range(200)]
    assert all(isinstance(value, int) and 16 <= value <= 4096 for value in drawn)
    assert 80 < sum(value < 256 for value in drawn) < 120  # half of the range on a logarithmic scale


def test_a_search_that_cannot_be_compared_is_refused_before_a_trial(video_data, graphs, tmp_path):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=40, validate=0, graph=graphs["video"])
    search = ["--model=logistic", "--search=class_prior=choice:true:false", "--quiet"]
    with pytest.raises(UsageError, match="no validation split"):
        tune.run([f"--data={data}", f"--output={tmp_path / 's'}", *search])
    with pytest.raises(JobError, match="not there"):
        tune.run([f"--data={tmp_path / 'nowhere'}", f"--output={tmp_path / 's'}", *search])
    assert not (tmp_path / "s").exists()
    with pytest.raises(UsageError, match="holds the input"):
        tune.run([f"--data={video_data}", f"--output={video_data}", *search, "--overwrite"])


@pytest.mark.slow
def test_a_trial_that_fails_does_not_end_the_search(video_data, tmp_path, capsys):
    arguments = [
        f"--data={video_data}",
        "--model=logistic",
        "--epochs=1",
        "--batch_size=20",
        "--strategy=grid",
        "--trials=2",
        "--quiet",
    ]
    info = tune.run([*arguments, f"--output={tmp_path / 's'}", "--search=learning_rate=choice:3e38:0.05"])
    assert [trial["flags"]["learning_rate"] for trial in info["trials"]] == ["0.05"]
    printed = capsys.readouterr()
    assert "failed: the" in printed.err
    assert printed.out.startswith("best of 1 trials") and printed.out.count("\n") == 1
    with pytest.raises(JobError, match="every trial failed; the last: "):
        tune.run([*arguments, f"--output={tmp_path / 't'}", "--search=learning_rate=choice:2e38:3e38"])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"garbage", b'{"trials": 3}'])
@pytest.mark.parametrize("name", ["oracle.json", "trial_0/trial.json"])
def test_damaged_files_of_a_search_are_named(name, content, tmp_path):
    flags = ["--data=d", "--model=dense", f"--output={tmp_path}", "--search=hidden_units=choice:8:16", "--trials=2"]
    config = tune.parse_tune_config([*flags, "--strategy=grid"])
    assert len(search(config, lambda trial, flags: 0.5)) == 2
    path = tmp_path / "search" / name
    assert path.exists()
    path.write_bytes(content)
    whole = content.startswith(b"{")
    with pytest.raises(JobError, match=f"{path.parents[name.count('/')] if whole else path} is damaged: start"):
        search(config, lambda trial, flags: 0.5)


@pytest.mark.slow
def test_a_search_with_other_flags_is_not_continued(video_data, tmp_path):
    arguments = [
        f"--data={video_data}",
        f"--output={tmp_path / 's'}",
        "--model=logistic",
        "--epochs=1",
        "--trials=1",
        "--batch_size=20",
        "--quiet",
    ]
    tune.run([*arguments, "--search=class_prior=choice:true:false"])
    with pytest.raises(UsageError, match="other flags"):
        tune.run([*arguments, "--search=learning_rate=choice:0.1:0.2", "--resume"])
