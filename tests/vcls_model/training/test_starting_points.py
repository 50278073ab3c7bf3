import json
import shutil
import zipfile

import keras
import numpy as np
import pytest

from tests.fixtures import training_data
from vcls_model import ensemble, train
from vcls_model.commands import JobError, UsageError
from vcls_model.input.dataset import make_batches
from vcls_model.input.options import InputOptions
from vcls_model.models import build_model
from vcls_model.models.label_directions import KEY_POWER
from vcls_model.records.transformed import open_transformed
from vcls_model.training import checkpoints
from vcls_model.training.fine_tuning import FineTuning
from vcls_model.training.loop import Trainer
from vcls_model.training.options import TrainOptions
from vcls_model.training.starting_points import load_keras_model, load_teacher

FLAGS = ["--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--quiet"]


@pytest.fixture(scope="module")
def other_classes(graphs, tmp_path_factory):
    """The same kind of videos with 6 other classes."""
    directory = tmp_path_factory.mktemp("other")
    training_data.write_transformed(
        directory, training_data.VIDEO_SCHEMA, train=60, validate=20, graph=graphs["video"], class_count=6, seed=50
    )
    return directory


def weights(directory, name="best.npz"):
    return checkpoints.load(str(directory / "checkpoints" / name))[0]["model"]


@pytest.mark.parametrize("config", [None, "[]", "{}", '{"module": "os", "class_name": "system", "config": "true"}'])
def test_a_damaged_keras_model_is_named(config, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        if config is not None:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", b"")
    with pytest.raises(JobError, match=r"model.keras cannot be loaded: .+") as raised:
        load_keras_model(str(path))
    assert "\n" not in str(raised.value) and "/tmp/tmp" not in str(raised.value)
    path.write_bytes(b"garbage")
    with pytest.raises(JobError, match=r"model.keras is not a Keras model"):
        load_keras_model(str(path))


@pytest.mark.slow
def test_a_frozen_body_with_a_new_head(trained, other_classes, tmp_path):
    output = tmp_path / "m"
    train.run(
        [
            f"--data={other_classes}",
            f"--output={output}",
            f"--init_from={trained}",
            "--new_head",
            "--freeze=hidden*",
            "--epochs=2",
            *FLAGS,
        ]
    )
    source, tuned = weights(trained), weights(output)
    np.testing.assert_array_equal(tuned[0], source[0])
    np.testing.assert_array_equal(tuned[1], source[1])
    assert tuned[2].shape == (16, 6)
    info = json.loads((output / "info.json").read_text())
    assert info["training"]["init_from"] == str(trained) and info["training"]["freeze"] == ["hidden*"]


@pytest.mark.slow
def test_the_documented_command_freezes_all_but_the_new_head(trained, other_classes, tmp_path):
    output = tmp_path / "m"
    arguments = [
        f"--data={other_classes}",
        f"--output={output}",
        f"--init_from={trained}",
        "--new_head",
        "--freeze=*",
        "--unfreeze_after=2",
        "--learning_rate_scale=hidden*=0.1",
        *FLAGS,
    ]
    train.run([*arguments, "--epochs=2"])
    source, tuned = weights(trained), weights(output, "last.npz")
    np.testing.assert_array_equal(tuned[0], source[0])
    train.run([*arguments, "--epochs=3", "--resume"])
    thawed = weights(output, "last.npz")
    assert not np.array_equal(thawed[0], source[0]) and not np.array_equal(thawed[2], tuned[2])


@pytest.mark.slow
def test_the_average_follows_layers_that_thaw(trained, other_classes, tmp_path):
    output = tmp_path / "m"
    train.run(
        [
            f"--data={other_classes}",
            f"--output={output}",
            f"--init_from={trained}",
            "--new_head",
            "--freeze=hidden*",
            "--unfreeze_after=1",
            "--ema=0.9",
            "--epochs=3",
            *FLAGS,
        ]
    )
    groups = checkpoints.load(str(output / "checkpoints" / "last.npz"))[0]
    assert [value.shape for value in groups["average"]] == [value.shape for value in groups["model"]][:4]
    assert not np.allclose(groups["average"][0], groups["model"][0], atol=1e-6)
    assert not np.array_equal(groups["average"][0], weights(trained)[0])


@pytest.mark.slow
def test_thawed_layers_begin_with_steps_of_the_learning_rate(trained, other_classes, tmp_path):
    output = tmp_path / "m"
    arguments = [
        f"--data={other_classes}",
        f"--output={output}",
        f"--init_from={trained}",
        "--new_head",
        "--freeze=hidden*",
        "--unfreeze_after=30",
        *FLAGS,
    ]
    train.run([*arguments, "--epochs=30", "--patience=0"])
    before_thaw = weights(output, "last.npz")
    train.run([*arguments, "--epochs=31", "--patience=0", "--resume"])
    moved = np.abs(weights(output, "last.npz")[0] - before_thaw[0])
    # 3 steps of 0.01 at most; with moments corrected for 90 steps that never were, they moved up to 0.08.
    assert 0.015 < moved.max() < 0.0301


def test_a_glob_for_all_layers_spares_all_of_the_classifier(frame_data):
    data = open_transformed(str(frame_data))
    model = build_model("netvlad", data.modalities, data.class_count, clusters=4, hidden_units=8)
    trainer = Trainer(
        model,
        data,
        data.modalities,
        TrainOptions(InputOptions(20)),
        "nowhere",
        fine_tuning=FineTuning(("*",), 1, (), True),
    )
    frozen = {layer.path for layer in trainer.frozen if layer.weights}
    assert frozen and not any(path.startswith("classifier") for path in frozen)
    learning = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert learning == {"classifier_scores", "classifier_gating"}
    assert any("normalise" in variable.path for variable in model.trainable_variables)


@pytest.mark.slow
def test_a_pretrained_projection_can_get_neighbours(video_data, tmp_path):
    arguments = [f"--data={video_data}", "--label_projection=0.75", "--epochs=1", *FLAGS]
    train.run([*arguments, f"--output={tmp_path / 'a'}"])
    info = train.run([*arguments, f"--output={tmp_path / 'b'}", f"--init_from={tmp_path / 'a'}", "--neighbours=3"])
    assert info["model"]["hyperparameters"]["neighbours"] == 3
    models = [keras.models.load_model(tmp_path / name / "model.keras") for name in "ab"]
    mean, directions, strengths = models[0].get_layer("label_projection").get_weights()
    vote = models[1].get_layer("classifier_neighbours")
    np.testing.assert_array_equal(vote.mean, mean)
    np.testing.assert_allclose(vote.turn, directions * strengths**KEY_POWER, rtol=1e-6)


@pytest.mark.slow
def test_averages_do_not_depend_on_steps_a_call_and_learn_in_a_short_run(video_data, tmp_path):
    found = {}
    for name, flags in (
        ("plain", []),
        ("one", ["--ema=0.999", "--steps_per_call=1"]),
        ("twenty", ["--ema=0.999", "--steps_per_call=20"]),
    ):
        found[name] = train.run([f"--data={video_data}", f"--output={tmp_path / name}", "--epochs=8", *flags, *FLAGS])[
            "training"
        ]["validation"]["map"]
    for one, twenty in zip(weights(tmp_path / "one"), weights(tmp_path / "twenty"), strict=True):
        np.testing.assert_allclose(one, twenty, atol=1e-5)
    assert found["one"] > 0.8 * found["plain"]


@pytest.mark.slow
def test_layers_thaw_after_the_epochs_asked_for(trained, other_classes, tmp_path):
    output = tmp_path / "m"
    arguments = [
        f"--data={other_classes}",
        f"--output={output}",
        f"--init_from={trained}",
        "--new_head",
        "--freeze=hidden*",
        "--unfreeze_after=1",
        *FLAGS,
    ]
    train.run([*arguments, "--epochs=1"])
    source = weights(trained)
    np.testing.assert_array_equal(weights(output, "last.npz")[0], source[0])
    train.run([*arguments, "--epochs=2", "--resume"])
    assert not np.array_equal(weights(output, "last.npz")[0], source[0])


def test_discriminative_learning_rates(trained, video_data, tmp_path):
    output = tmp_path / "m"
    train.run(
        [
            f"--data={video_data}",
            f"--output={output}",
            f"--init_from={trained}",
            "--epochs=1",
            "--learning_rate_scale=hidden*=0",
            *FLAGS,
        ]
    )
    source, tuned = weights(trained), weights(output)
    np.testing.assert_array_equal(tuned[0], source[0])
    assert not np.array_equal(tuned[2], source[2])


@pytest.mark.slow
def test_the_pretrained_projection_is_kept_and_compares_neighbours(video_data, other_classes, tmp_path):
    flags = [*FLAGS, "--label_projection=0.75", "--neighbours=3", "--epochs=1"]
    train.run([f"--data={video_data}", f"--output={tmp_path / 'source'}", *flags])
    train.run(
        [
            f"--data={other_classes}",
            f"--output={tmp_path / 'tuned'}",
            f"--init_from={tmp_path / 'source'}",
            "--new_head",
            *flags,
        ]
    )
    train.run([f"--data={other_classes}", f"--output={tmp_path / 'scratch'}", *flags])
    models = {name: keras.saving.load_model(tmp_path / name / "model.keras") for name in ("source", "tuned", "scratch")}
    projections = [model.get_layer("label_projection").directions for model in models.values()]
    turns = [model.get_layer("classifier_neighbours").turn for model in models.values()]
    for source, tuned, scratch in (projections, turns):
        np.testing.assert_array_equal(tuned, source)
        assert not np.allclose(scratch, source, atol=0.1)
    keys = {name: np.asarray(model.get_layer("classifier_neighbours").keys) for name, model in models.items()}
    assert keys["tuned"].shape == keys["scratch"].shape and not np.allclose(keys["tuned"], keys["scratch"], atol=0.1)


def test_all_weights_are_taken_over_without_a_new_head(trained, video_data, tmp_path):
    train.run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'm'}",
            f"--init_from={trained}",
            "--epochs=1",
            "--learning_rate_scale=*=0",
            *FLAGS,
        ]
    )
    model = keras.models.load_model(tmp_path / "m" / "model.keras")
    for ours, theirs in zip(model.weights, weights(trained), strict=False):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_what_does_not_fit_is_refused(trained, video_data, other_classes, frame_data, tmp_path):
    output = f"--output={tmp_path / 'm'}"
    with pytest.raises(UsageError, match="10 classes and the data 6: --new_head"):
        train.run([f"--data={other_classes}", output, f"--init_from={trained}", *FLAGS])
    with pytest.raises(JobError, match="has other hyperparameters: .*--hidden_units=16"):
        train.run([f"--data={video_data}", output, f"--init_from={trained}", "--hidden_units=8", "--quiet"])
    with pytest.raises(UsageError, match="missing or incomplete"):
        train.run([f"--data={video_data}", output, f"--init_from={tmp_path}", *FLAGS])
    with pytest.raises(UsageError, match="takes mean_rgb, mean_audio, but the data holds rgb, audio"):
        train.run([f"--data={frame_data}", output, f"--init_from={trained}", "--model=average", "--quiet"])
    with pytest.raises(UsageError, match="matches no layer .*hidden_0"):
        train.run([f"--data={video_data}", output, "--freeze=body*", *FLAGS])
    with pytest.raises(UsageError, match="matches no variable"):
        train.run([f"--data={video_data}", output, "--learning_rate_scale=body=0.1", *FLAGS])
    with pytest.raises(UsageError, match="every layer is frozen"):
        train.run([f"--data={video_data}", output, "--freeze=*", *FLAGS])


def with_class_names(source, directory, names):
    """A copy of a dataset or model whose labels.csv names these classes."""
    shutil.copytree(source, directory)
    (directory / "labels.csv").write_text("\n".join(["index,name", *(f"{i},{n}" for i, n in enumerate(names))]) + "\n")
    return directory


def test_other_classes_of_the_same_number_are_refused(trained, video_data, tmp_path):
    data = with_class_names(video_data, tmp_path / "data", "abcdefghij")
    model = with_class_names(trained, tmp_path / "model", "abcdefghkj")
    for flag in ("--init_from", "--teacher"):
        with pytest.raises(UsageError, match=f"{flag}=.* other classes .*: class 8 is 'k' there and 'i' here"):
            train.run([f"--data={data}", f"--output={tmp_path / 'm'}", f"{flag}={model}", *FLAGS])
    other = with_class_names(trained, tmp_path / "other", "abcdefghij")
    with pytest.raises(UsageError, match="name other classes"):
        ensemble.run([f"--model={model}", f"--model={other}", f"--output={tmp_path / 'm'}"])
    train.run(
        [f"--data={data}", f"--output={tmp_path / 'm'}", f"--init_from={model}", "--new_head", "--epochs=1", *FLAGS]
    )


def test_forgotten_hyperparameters_and_another_architecture_are_refused(trained, video_data, tmp_path):
    source = tmp_path / "source"
    train.run([f"--data={video_data}", f"--output={source}", "--label_projection=0.75", "--epochs=1", *FLAGS])
    arguments = [f"--data={video_data}", f"--output={tmp_path / 'm'}"]
    with pytest.raises(JobError, match="label_projection is 0.75 there and 0.0 here"):
        train.run([*arguments, f"--init_from={source}", *FLAGS])
    with pytest.raises(JobError, match="modality_norm is none there and l2 here"):
        train.run([*arguments, f"--init_from={trained}", "--modality_norm=l2", *FLAGS])
    with pytest.raises(JobError, match="is of the architecture dense, not logistic"):
        train.run([*arguments, f"--init_from={trained}", "--model=logistic", "--quiet"])


@pytest.mark.slow
def test_remembered_videos_are_never_taken_over(video_data, graphs, tmp_path):
    flags = [*FLAGS, "--neighbours=3", "--epochs=1"]
    other = tmp_path / "other"
    training_data.write_transformed(other, training_data.VIDEO_SCHEMA, train=100, graph=graphs["video"], seed=30)
    longer = tmp_path / "longer"
    training_data.write_transformed(longer, training_data.VIDEO_SCHEMA, train=140, graph=graphs["video"], seed=60)
    train.run([f"--data={video_data}", f"--output={tmp_path / 'source'}", *flags])
    keys = {}
    for name, data in (("other", other), ("longer", longer)):
        started = [f"--data={data}", f"--output={tmp_path / f'm_{name}'}", f"--init_from={tmp_path / 'source'}", *flags]
        with pytest.raises(UsageError, match="features scaled otherwise than those of .*--allow_other_scaling starts"):
            train.run(started)
        train.run([*started, "--allow_other_scaling"])
        model = keras.saving.load_model(tmp_path / f"m_{name}" / "model.keras")
        keys[name] = np.asarray(model.get_layer("classifier_neighbours").keys)
    theirs = keras.saving.load_model(tmp_path / "source" / "model.keras").get_layer("classifier_neighbours").keys
    assert not np.allclose(keys["other"], theirs, atol=0.05) and keys["longer"].shape[0] == 140


@pytest.mark.slow
def test_a_teacher_does_not_ask_the_videos_it_remembers(video_data, tmp_path):
    """Each training video is its own nearest neighbour, whose vote would be its labels."""
    teacher = tmp_path / "teacher"
    train.run([f"--data={video_data}", f"--output={teacher}", "--neighbours=3", "--epochs=1", *FLAGS])
    joined = tmp_path / "joined"
    shutil.copytree(teacher, tmp_path / "copy")
    ensemble.run([f"--model={teacher}", f"--model={tmp_path / 'copy'}", f"--output={joined}"])
    data = open_transformed(str(video_data))
    batch = next(iter(make_batches(data.shards("train"), data.modalities, InputOptions(20))))
    inputs = training_data.whole(batch["features"])
    model = keras.saving.load_model(teacher / "model.keras")
    voted = np.asarray(model(inputs))
    model.get_layer("classifier_neighbours").weight = 0.0
    alone = np.asarray(model(inputs))
    assert np.abs(voted - alone).max() > 0.5
    for directory in (teacher, joined):
        taught = load_teacher(str(directory), data.modalities, data)(inputs)
        np.testing.assert_allclose(taught, alone, atol=1e-4)


def test_an_ensemble_over_different_data_is_no_teacher(trained, video_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    info = json.loads((other / "info.json").read_text())
    info["data"]["config_hash"] = "another"
    (other / "info.json").write_text(json.dumps(info))
    joined = tmp_path / "joined"
    with pytest.raises(UsageError, match="not the transformed dataset that every member"):
        ensemble.run([f"--model={trained}", f"--model={other}", f"--output={joined}", f"--data={video_data}"])
    assert not joined.exists()
    ensemble.run([f"--model={trained}", f"--model={other}", f"--output={joined}"])
    with pytest.raises(UsageError, match="name the members"):
        train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", f"--teacher={joined}", *FLAGS])
    with pytest.raises(UsageError, match="holds the input"):
        ensemble.run([f"--model={trained}", f"--model={other}", f"--output={other}", "--overwrite"])


def test_distillation_follows_the_teachers(trained, video_data, tmp_path):
    """With all weight on a teacher, training a copy of it must not move it: the gradient is zero there."""
    train.run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'm'}",
            f"--init_from={trained}",
            f"--teacher={trained}",
            f"--teacher={trained}",
            "--teacher_weight=1",
            "--epochs=1",
            "--learning_rate=1e-9",
            "--quiet",
            "--hidden_units=16",
            "--batch_size=100",
        ]
    )
    row = (tmp_path / "m" / "history.csv").read_text().splitlines()[1].split(",")
    loss = float(row[2])
    raw = training_data.make_videos(training_data.VIDEO_SCHEMA, 100, 1)
    done = training_data.transform(
        raw,
        training_data.VIDEO_SCHEMA,
        training_data.moments(
            training_data.make_videos(training_data.VIDEO_SCHEMA, 200, 77), training_data.VIDEO_SCHEMA
        ),
    )
    logits = np.asarray(
        keras.models.load_model(trained / "model.keras")(training_data.whole(done.features)),
        np.float64,
    )
    p = 1 / (1 + np.exp(-logits))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(1).mean()
    assert loss == pytest.approx(entropy, rel=1e-3)


def test_a_teacher_of_other_classes_or_other_data_is_refused(trained, other_classes, graphs, tmp_path):
    with pytest.raises(UsageError, match="10 classes and the data 6"):
        train.run([f"--data={other_classes}", f"--output={tmp_path / 'm'}", f"--teacher={trained}", *FLAGS])
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=20, graph=graphs["video"], seed=9)
    with pytest.raises(UsageError, match="another transformed dataset"):
        train.run([f"--data={data}", f"--output={tmp_path / 'm'}", f"--teacher={trained}", *FLAGS])
