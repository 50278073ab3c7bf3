import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data
from vcls_model import ensemble, train
from vcls_model.commands import UsageError
from vcls_model.training.joining import load_members


@pytest.fixture(scope="module")
def second(video_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("models") / "second"
    train.run(
        [
            f"--data={video_data}",
            f"--output={output}",
            "--model=logistic",
            "--epochs=2",
            "--batch_size=20",
            "--learning_rate=0.05",
            "--quiet",
        ]
    )
    return output


def logits_of(directory, count=12):
    raw = training_data.make_videos(training_data.VIDEO_SCHEMA, count, 9)
    served = tf.saved_model.load(str(directory / "saved_model")).signatures["serving_default"]
    return served(serialized=tf.constant(training_data.serialize_raw(raw, training_data.VIDEO_SCHEMA)))[
        "logits"
    ].numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.slow
def test_an_ensemble_averages_probabilities_of_raw_records(trained, second, video_data, tmp_path):
    output = tmp_path / "joined"
    info = ensemble.run(
        [f"--model={trained}", f"--model={second}", f"--output={output}", f"--data={video_data}", "--weights=3,1"]
    )
    expected = 0.75 * sigmoid(logits_of(trained)) + 0.25 * sigmoid(logits_of(second))
    np.testing.assert_allclose(sigmoid(logits_of(output)), expected, atol=1e-5)
    assert info["model"]["name"] == "ensemble" and info["training"]["validation"]["map"] > 0.3
    assert json.loads((output / "info.json").read_text())["class_count"] == 10
    lines = (output / "labels.csv").read_text().splitlines()
    assert all(line.split(",")[lines[0].split(",").index("best_threshold")] for line in lines[1:])


@pytest.mark.slow
def test_an_ensemble_is_a_teacher(trained, second, video_data, tmp_path):
    output = tmp_path / "joined"
    ensemble.run([f"--model={trained}", f"--model={second}", f"--output={output}", "--combine=logit"])
    np.testing.assert_allclose(logits_of(output), (logits_of(trained) + logits_of(second)) / 2, atol=1e-5)
    info = train.run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'student'}",
            f"--teacher={output}",
            "--epochs=1",
            "--hidden_units=16",
            "--batch_size=20",
            "--quiet",
        ]
    )
    assert info["training"]["teachers"] == [str(output)]


def test_members_that_do_not_fit_are_refused(trained, second, tmp_path):
    with pytest.raises(UsageError, match="two models or more"):
        ensemble.run([f"--model={trained}", f"--output={tmp_path / 'm'}"])
    with pytest.raises(UsageError, match="2 positive numbers"):
        ensemble.run([f"--model={trained}", f"--model={second}", f"--output={tmp_path / 'm'}", "--weights=1"])
    with pytest.raises(UsageError, match="2 positive numbers"):  # their sum is infinite
        ensemble.run([f"--model={trained}", f"--model={second}", f"--output={tmp_path / 'm'}", "--weights=1e308,1e308"])
    with pytest.raises(UsageError, match="did you mean 'logit'"):
        ensemble.run([f"--model={trained}", f"--model={second}", f"--output={tmp_path / 'm'}", "--combine=logits"])
    other = tmp_path / "other"
    shutil.copytree(second, other)
    info = json.loads((other / "info.json").read_text())
    (other / "info.json").write_text(json.dumps({**info, "class_count": 11}))
    with pytest.raises(UsageError, match="class_count differs"):
        ensemble.run([f"--model={trained}", f"--model={other}", f"--output={tmp_path / 'm'}"])


def test_a_member_named_twice_is_refused_and_a_copy_told(trained, tmp_path, capsys):
    (tmp_path / "link").symlink_to(trained)
    for again in (f"{trained}/", tmp_path / "link"):
        with pytest.raises(UsageError, match="is named twice, as .*: name it once"):
            ensemble.run([f"--model={trained}", f"--model={again}", f"--output={tmp_path / 'm'}"])
    shutil.copytree(trained, tmp_path / "copy")
    load_members([str(trained), str(tmp_path / "copy")])
    assert f"{tmp_path / 'copy'} is a copy of {trained}: it counts twice" in capsys.readouterr().err


def test_data_that_members_were_not_trained_on_are_refused(trained, second, video_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(video_data, other)
    info = json.loads((other / "info.json").read_text())
    (other / "info.json").write_text(json.dumps(info | {"config_hash": "another"}))
    with pytest.raises(UsageError, match=f"is not the .* trained on: the settings of preprocess differ .* {trained}"):
        ensemble.run([f"--model={trained}", f"--model={second}", f"--output={tmp_path / 'm'}", f"--data={other}"])


@pytest.mark.slow
def test_ensembles_of_differently_transformed_members_join(trained, second, graphs, tmp_path):
    """Two ensembles without transformed features in common are still joined over raw records."""
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=60, graph=graphs["video"])
    info = json.loads((data / "info.json").read_text())
    (data / "info.json").write_text(json.dumps(info | {"config_hash": "another"}))
    train.run(
        [f"--data={data}", f"--output={tmp_path / 'c'}", "--model=logistic", "--epochs=1", "--batch_size=20", "--quiet"]
    )
    for name, member in (("ac", trained), ("bc", second)):
        ensemble.run(
            [f"--model={member}", f"--model={tmp_path / 'c'}", f"--output={tmp_path / name}", "--combine=logit"]
        )
    ensemble.run(
        [f"--model={tmp_path / 'ac'}", f"--model={tmp_path / 'bc'}", f"--output={tmp_path / 'all'}", "--combine=logit"]
    )
    expected = (logits_of(trained) + logits_of(second) + 2 * logits_of(tmp_path / "c")) / 4
    np.testing.assert_allclose(logits_of(tmp_path / "all"), expected, atol=1e-5)


@pytest.mark.slow
def test_a_recipe_trains_its_members_and_joins_them(video_data, tmp_path, monkeypatch):
    small = {"one": {"model": "logistic", "epochs": 1}, "two": {"model": "logistic", "epochs": 1, "seed": 2}}
    monkeypatch.setattr("vcls_model.training.members.ENSEMBLES", {"video": small, "frame": {}})
    arguments = ["--recipe=best", f"--data={video_data}", f"--output={tmp_path / 'joined'}"]
    info = ensemble.run(arguments)
    members = [str(tmp_path / "joined" / "members" / name) for name in small]
    assert [member["path"] for member in info["model"]["members"]] == members
    assert [member["training"]["seed"] for member in info["model"]["members"]] == [0, 2]
    expected = np.mean([sigmoid(logits_of(Path(member))) for member in members], axis=0)
    np.testing.assert_allclose(sigmoid(logits_of(tmp_path / "joined")), expected, atol=1e-5)
    with pytest.raises(UsageError, match="not empty"):
        ensemble.run(arguments)
    # An interrupted one goes on: what is finished stays, what is missing is trained.
    shutil.rmtree(members[1])
    (tmp_path / "joined" / "info.json").unlink()
    finished = Path(members[0], "info.json").stat().st_mtime_ns
    ensemble.run([*arguments, "--resume"])
    assert Path(members[0], "info.json").stat().st_mtime_ns == finished and Path(members[1], "info.json").exists()
    np.testing.assert_allclose(sigmoid(logits_of(tmp_path / "joined")), expected, atol=1e-5)


def test_what_an_ensemble_of_a_recipe_needs_is_said(tmp_path):
    for flags, message in (
        (["--recipe=best"], "needs --data, and no --model"),
        (["--recipe=best", "--data=d", "--model=m"], "needs --data, and no --model"),
        (["--recipe=beste", "--model=a", "--model=b"], "did you mean 'best'"),
        (["--resume", "--model=a", "--model=b"], "--resume continues the training of --recipe=best"),
    ):
        with pytest.raises(UsageError, match=message):
            ensemble.parse_config([f"--output={tmp_path / 'm'}", *flags])
