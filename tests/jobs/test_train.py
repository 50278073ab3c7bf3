import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.fixtures import training_data
from vcls_model import train
from vcls_model.commands import JobError, UsageError
from vcls_model.input.options import InputOptions
from vcls_model.models import build_model
from vcls_model.records.transformed import open_transformed
from vcls_model.training import checkpoints, step
from vcls_model.training.config import changed_options
from vcls_model.training.flags import ineffective_flags, parse_config
from vcls_model.training.loop import Trainer
from vcls_model.training.options import TrainOptions

SMALL = ["--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--quiet"]


def weights_of(directory):
    return checkpoints.load(str(directory / "checkpoints" / "best.npz"))[0]["model"]


def read_examples(shard):
    return [tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]


def history_of(directory):
    lines = (directory / "history.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]


def without_times(rows):
    return [
        {key: value for key, value in row.items() if key not in ("train_seconds", "examples_per_second")}
        for row in rows
    ]


def statistics_of(schema):
    return training_data.moments(training_data.make_videos(schema, 200, 77), schema)


def seen_frames(count, limit, sampling):
    """Positions of the frames that a trained model sees of a video, with numpy."""
    kept = min(count, limit)
    if sampling in ("random", "uniform"):
        return np.floor((np.arange(kept) + 0.5) * count / kept).astype(int)
    start = (count - kept) // 2 if sampling == "sequence" else 0
    return np.arange(start, start + kept)


def padded(videos, names, limit, sampling="all"):
    """Decoded transformed frames as a model takes them, with numpy."""
    counts = np.array([min(limit, len(codes)) for codes in videos.features[names[0]]], np.int32)
    features = {"num_frames": counts}
    for name in names:
        codes = videos.features[name]
        features[name] = np.zeros((len(videos), counts.max(), codes[0].shape[1]), np.float32)
        for row, count in enumerate(counts):
            chosen = codes[row][seen_frames(len(codes[row]), limit, sampling)]
            features[name][row, :count] = chosen * (8 / 255) - 4
    return training_data.whole(features)


def test_training_learns_and_leaves_a_whole_model_directory(trained):
    info = json.loads((trained / "info.json").read_text())
    rows = history_of(trained)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert info["training"]["epochs"] == 3 and info["training"]["examples"] == 300
    best = rows[info["training"]["best_epoch"] - 1]
    assert info["training"]["validation"]["map"] == pytest.approx(float(best["val_map"]))
    assert info["class_count"] == 10 and info["split"] == {"method": "given", "ratios": None}
    assert info["model"]["parameter_count"] == 16 * 16 + 16 + 16 * 10 + 10
    assert info["schema"]["name"] == "small-video"
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "history.csv",
        "info.json",
        "labels.csv",
        "logs",
        "model.keras",
        "saved_model",
    }
    assert list((trained / "logs").glob("events*"))


def test_validation_metrics_are_those_of_an_independent_computation(trained, video_data):
    from sklearn.metrics import average_precision_score

    raw = training_data.make_videos(training_data.VIDEO_SCHEMA, 40, 2)
    served = tf.saved_model.load(str(trained / "saved_model"))
    logits = served.signatures["serving_default"](
        serialized=tf.constant(training_data.serialize_raw(raw, training_data.VIDEO_SCHEMA))
    )["logits"].numpy()
    targets = np.zeros((40, 10))
    for row, labels in enumerate(raw.labels):
        targets[row, labels] = 1
    present = targets.any(0)
    expected = np.mean([average_precision_score(targets[:, c], logits[:, c]) for c in np.flatnonzero(present)])
    info = json.loads((trained / "info.json").read_text())
    assert info["training"]["validation"]["map"] == pytest.approx(expected, abs=1e-3)
    # Best-F1 thresholds, tried one by one.
    lines = (trained / "labels.csv").read_text().splitlines()
    column = lines[0].split(",").index("best_threshold")
    probabilities = 1 / (1 + np.exp(-logits))

    def f1(c, threshold):
        chosen = probabilities[:, c] >= threshold
        return 2 * (chosen & (targets[:, c] > 0)).sum() / max(chosen.sum() + targets[:, c].sum(), 1)

    for c in np.flatnonzero(present):
        stored = float(lines[c + 1].split(",")[column])
        assert f1(c, stored) == pytest.approx(max(f1(c, value) for value in probabilities[:, c]), abs=0.03)


@pytest.mark.slow
def test_the_exported_model_gives_transform_then_model_in_a_fresh_process(trained, tmp_path):
    schema = training_data.VIDEO_SCHEMA
    raw = training_data.make_videos(schema, 12, 9)
    np.save(tmp_path / "records.npy", np.array(training_data.serialize_raw(raw, schema), object), allow_pickle=True)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "records = np.load(sys.argv[2], allow_pickle=True)\n"
        "logits = model.signatures['serving_default'](serialized=tf.constant(list(records)))['logits']\n"
        "np.save(sys.argv[3], logits.numpy())\n"
    )
    subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(trained / "saved_model"),
            str(tmp_path / "records.npy"),
            str(tmp_path / "logits.npy"),
        ],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    served = np.load(tmp_path / "logits.npy")
    kernel, bias, kernel_out, bias_out = weights_of(trained)[:4]
    done = training_data.transform(raw, schema, statistics_of(schema))
    features = np.concatenate([done.features["mean_rgb"], done.features["mean_audio"]], axis=1)
    expected = np.maximum(features @ kernel + bias, 0) @ kernel_out + bias_out
    np.testing.assert_allclose(served, expected, atol=1e-4)
    model = tf.saved_model.load(str(trained / "saved_model"))
    from_features = model.signatures["features"](**{name: tf.constant(value) for name, value in raw.features.items()})
    np.testing.assert_allclose(from_features["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(
    "sampling", ["all", *(pytest.param(each, marks=pytest.mark.slow) for each in ("random", "sequence", "uniform"))]
)
def test_a_frame_level_model_is_served_from_sequence_examples(sampling, frame_data, tmp_path):
    import keras

    schema = training_data.FRAME_SCHEMA
    output = tmp_path / "model"
    train.run(
        [
            f"--data={frame_data}",
            f"--output={output}",
            "--model=average",
            "--epochs=1",
            "--max_frames=5",
            f"--frames={sampling}",
            "--batch_size=16",
            "--quiet",
        ]
    )
    raw = training_data.make_videos(schema, 12, 9)
    served = tf.saved_model.load(str(output / "saved_model")).signatures
    logits = served["serving_default"](serialized=tf.constant(training_data.serialize_raw(raw, schema)))["logits"]
    done = training_data.transform(raw, schema, statistics_of(schema))
    expected = keras.models.load_model(output / "model.keras")(padded(done, ["rgb", "audio"], 5, sampling))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    joined = {name: tf.constant([codes.tobytes() for codes in value]) for name, value in raw.features.items()}
    np.testing.assert_allclose(served["features"](**joined)["logits"], expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--model=average", "--mixup=0.3", "--neighbours=3"], ["--model=logistic"]])
def test_frames_and_vectors_are_trained_on_together_and_served(flags, mixed_data, tmp_path):
    import keras

    schema, output = training_data.MIXED_SCHEMA, tmp_path / "model"
    info = train.run(
        [f"--data={mixed_data}", f"--output={output}", "--epochs=2", "--max_frames=5", "--batch_size=16", *flags]
    )
    assert [(entry["name"], entry["kind"]) for entry in info["transformed"]] == [
        ("rgb", "frames"),
        ("title", "vector"),
        ("audio", "frames"),
    ]
    raw = training_data.make_videos(schema, 12, 9)
    done = training_data.transform(raw, schema, statistics_of(schema))
    features = {**padded(done, ["rgb", "audio"], 5), "title": done.features["title"], "has_title": np.ones(12)}
    expected = keras.models.load_model(output / "model.keras")(features)
    served = tf.saved_model.load(str(output / "saved_model")).signatures
    records = tf.constant(training_data.serialize_raw(raw, schema))
    np.testing.assert_allclose(served["serving_default"](serialized=records)["logits"], expected, atol=1e-4)
    given = {name: value for name, value in features.items() if not name.startswith("has_")}
    np.testing.assert_allclose(served["transformed"](**given)["logits"], expected, atol=1e-4)
    other = served["transformed"](**{**given, "title": -given["title"]})["logits"]
    assert np.abs(other - expected).max(axis=1).min() > 1e-5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, video_data, tmp_path):
    arguments = [f"--data={video_data}", "--epochs=3", *SMALL]
    train.run([*arguments, f"--output={tmp_path / 'again'}"])
    train.run([*arguments, f"--output={tmp_path / 'other'}", "--seed=1"])
    for first, again in zip(weights_of(trained), weights_of(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(weights_of(trained)[0], weights_of(tmp_path / "other")[0])


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--dropout=0.5", "--ema=0.9", "--mixup=0.5", "--optimizer=adamw"]])
def test_a_run_stopped_in_the_middle_of_an_epoch_resumes_to_the_same_weights(extra, video_data, tmp_path, monkeypatch):
    arguments = [f"--data={video_data}", "--epochs=3", "--steps_per_call=2", "--checkpoint_seconds=0", *SMALL, *extra]
    train.run([*arguments, f"--output={tmp_path / 'whole'}"])
    saves = []
    save = Trainer._save_last

    def stop_after(self):
        save(self)
        saves.append((self.progress.epoch, self.progress.step))
        if saves[-1] == (1, 2):
            raise Killed

    monkeypatch.setattr(Trainer, "_save_last", stop_after)
    with pytest.raises(Killed):
        train.run([*arguments, f"--output={tmp_path / 'broken'}"])
    monkeypatch.setattr(Trainer, "_save_last", save)
    train.run([*arguments, f"--output={tmp_path / 'broken'}", "--resume"])
    for whole, resumed in zip(weights_of(tmp_path / "whole"), weights_of(tmp_path / "broken"), strict=True):
        np.testing.assert_array_equal(whole, resumed)
    assert without_times(history_of(tmp_path / "whole")) == without_times(history_of(tmp_path / "broken"))


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_an_epoch_resumes_to_the_same_weights(video_data, tmp_path):
    output, last = tmp_path / "model", tmp_path / "model" / "checkpoints" / "last.npz"
    flags = [
        f"--data={video_data}",
        "--patience=0",
        "--dropout=0.2",
        "--steps_per_call=1",
        "--checkpoint_seconds=0",
        "--hidden_units=16",
        "--batch_size=4",
        "--learning_rate=0.01",
        "--quiet",
    ]
    command = [sys.executable, "-m", "vcls_model.train", f"--output={output}", *flags, "--epochs=100000", "--resume"]

    def place():
        progress = checkpoints.load(str(last))[1]["progress"] if last.exists() else {"epoch": 0, "step": 0}
        return progress["epoch"], progress["step"]

    for _ in range(5):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not (place()[0] >= 1 and 2 <= place()[1] <= 12) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if place()[1]:
            break  # else it ended an epoch of 25 steps before the signal came
    reached, step = place()
    assert reached >= 1 and 0 < step < 25
    with pytest.raises(UsageError, match="other options"):
        train.run([f"--output={output}", *flags, f"--epochs={reached + 1}", "--batch_size=10", "--resume"])
    # The number of epochs may change: a constant learning rate does not see it.
    train.run([f"--output={output}", *flags, f"--epochs={reached + 1}", "--resume"])
    train.run([f"--output={tmp_path / 'whole'}", *flags, f"--epochs={reached + 1}"])
    assert without_times(history_of(output)) == without_times(history_of(tmp_path / "whole"))
    for resumed, whole in zip(weights_of(output), weights_of(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(resumed, whole)


def test_resume_of_a_finished_model_does_nothing(trained, video_data):
    before = (trained / "model.keras").stat().st_mtime_ns
    info = train.run([f"--data={video_data}", f"--output={trained}", "--epochs=3", *SMALL, "--resume"])
    assert info["training"]["epochs"] == 3
    assert (trained / "model.keras").stat().st_mtime_ns == before


def test_resume_says_which_option_is_another(trained, video_data, tmp_path):
    flags = [f"--data={video_data}", "--epochs=3", *SMALL, "--resume", "--clip_norm=0.5"]
    with pytest.raises(UsageError, match=r"other data \(clip_norm was 0.0, is now 0.5\); repeat its flags \(with"):
        train.run([*flags, f"--output={trained}"])
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained / "checkpoints", unfinished / "checkpoints")
    with pytest.raises(UsageError, match=r"last.npz was written .* \(clip_norm was 0.0, is now 0.5\); repeat"):
        train.run([*flags, f"--output={unfinished}"])


def test_a_run_is_not_continued_on_data_of_other_labels(video_data, tmp_path):
    """Same settings, same numbers of videos: what 0.1 took for the same data."""
    data, output = tmp_path / "data", tmp_path / "m"
    shutil.copytree(video_data, data)
    info = json.loads((data / "info.json").read_text())
    known = {"statistics": "s", "labels": "l", "content": "c"}

    def run(**changes):
        (data / "info.json").write_text(json.dumps(info | {"identity": known | changes}))
        flags = ["--model=logistic", "--recipe=none", "--epochs=1", "--batch_size=20", "--quiet", "--resume"]
        return train.run([f"--data={data}", f"--output={output}", *flags])

    first = run()
    assert first["data"]["identity"] == known | {"settings": info["config_hash"]}
    assert run() == first
    for where in (f"the model in {output}", str(output / "checkpoints" / "last.npz")):
        for change, words in (
            ("labels", "the number of videos of each class"),
            ("statistics", "the statistics of the"),
        ):
            with pytest.raises(UsageError, match=f"{where} was trained on other data than {data} holds now: {words}"):
                run(**{change: "other"})
        (output / "info.json").unlink(missing_ok=True)  # as if it had been interrupted


def test_what_changed_is_said_by_the_names_of_flags():
    then = {"model": "dense", "options": {"rate": 0.1, "schedule": {"decay": "none"}}, "records": {"train": 3}}
    now = {"model": "dense", "options": {"rate": 0.2, "schedule": {"decay": "cosine"}}, "records": {"train": 4}}
    assert changed_options(then, now) == "decay was none, is now cosine; rate was 0.1, is now 0.2; the data changed"
    assert changed_options(then, then) == ""


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best_epoch(video_data, tmp_path):
    info = train.run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'm'}",
            "--epochs=40",
            "--patience=2",
            "--learning_rate=1.0",
            *SMALL[:2],
            "--quiet",
        ]
    )
    assert info["training"]["epochs"] < 40
    scores = [float(row["val_map"]) for row in history_of(tmp_path / "m")]
    assert info["training"]["best_epoch"] == int(np.argmax(scores)) + 1
    assert len(scores) == info["training"]["best_epoch"] + 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        ["--loss=focal", "--decay=cosine", "--warmup_examples=40"],
        pytest.param(
            ["--loss=asymmetric", "--label_smoothing=0.05", "--clip_norm=1", "--optimizer=adamw"],
            marks=pytest.mark.long,
        ),
        ["--ema=0.5", "--average_checkpoints=2", "--class_prior"],
        ["--precision=mixed_bfloat16"],
        pytest.param(["--precision=mixed_float16"], marks=pytest.mark.long),
        ["--jit", "--mixup=0.3"],
    ],
)
def test_options_train_and_export(extra, video_data, tmp_path):
    info = train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=3", *SMALL, *extra])
    rows = history_of(tmp_path / "m")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    raw = training_data.make_videos(training_data.VIDEO_SCHEMA, 5, 9)
    model = tf.saved_model.load(str(tmp_path / "m" / "saved_model"))
    logits = model.signatures["serving_default"](
        serialized=tf.constant(training_data.serialize_raw(raw, training_data.VIDEO_SCHEMA))
    )["logits"]
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    assert info["training"]["validation"]["map"] > 0.2


@pytest.mark.slow
def test_checkpoint_averaging_exports_the_mean_of_the_best_epochs(video_data, tmp_path, monkeypatch):
    validate = Trainer._validate
    scores = iter([0.3, 0.5, 0.4, 0.9])  # the fourth is that of the average
    monkeypatch.setattr(Trainer, "_validate", lambda self: {**validate(self), "val_map": next(scores)})
    info = train.run(
        [f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=3", *SMALL, "--average_checkpoints=2"]
    )
    assert info["training"]["averaged_epochs"] == [2, 3]
    kept = sorted(path.name for path in (tmp_path / "m" / "checkpoints").glob("epoch-*"))
    assert kept == ["epoch-002.npz", "epoch-003.npz"]
    loaded = [checkpoints.load(str(tmp_path / "m" / "checkpoints" / name))[0]["model"] for name in kept]
    import keras

    model = keras.models.load_model(tmp_path / "m" / "model.keras")
    for variable, second, third in zip(model.weights, *loaded, strict=False):
        np.testing.assert_allclose(variable.numpy(), (second + third) / 2, rtol=1e-6)


@pytest.mark.slow
def test_the_best_epoch_in_place_of_a_mean_that_is_worse_is_said(video_data, tmp_path, monkeypatch, capsys):
    validate = Trainer._validate
    scores = iter([0.3, 0.5, 0.4, 0.45])  # the fourth is that of the average
    monkeypatch.setattr(Trainer, "_validate", lambda self: {**validate(self), "val_map": next(scores)})
    info = train.run(
        [f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=3", *SMALL, "--average_checkpoints=2"]
    )
    assert info["training"]["averaged_epochs"] == [] and info["training"]["best_epoch"] == 2
    printed = capsys.readouterr()
    assert (
        "the mean of epochs 2, 3 has a validation map of 0.4500, epoch 2 alone one of 0.5000: the best epoch is "
        "exported instead" in printed.err
    )
    assert printed.out.startswith("best epoch 2: validation gap_at_20 ")


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [False, True])
def test_the_result_is_one_line_on_standard_output(quiet, video_data, tmp_path, capsys):
    flags = [flag for flag in SMALL if flag != "--quiet"] + ["--quiet"] * quiet
    info = train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=2", *flags])
    printed = capsys.readouterr()
    found = info["training"]
    expected = f"best epoch {found['best_epoch']}: validation gap_at_20 {found['validation']['gap_at_20']:.4f}, "
    assert printed.out.count("\n") == 1 and printed.out.startswith(expected)
    assert printed.out.endswith(f"; model in {tmp_path / 'm'}\n")
    assert ("Epoch 2/2" in printed.err) != quiet and "\x1b" not in printed.err + printed.out


@pytest.mark.slow
def test_a_model_that_has_learned_nothing_is_told(graphs, tmp_path, capsys):
    training_data.write_transformed(tmp_path / "data", training_data.VIDEO_SCHEMA, train=60, graph=graphs["video"])
    flags = [f"--data={tmp_path / 'data'}", "--model=logistic", "--recipe=none", "--batch_size=20", "--quiet"]
    train.run([*flags, f"--output={tmp_path / 'bad'}", "--epochs=1", "--learning_rate=1e-9"])
    assert "the model has learned nothing that helps" in capsys.readouterr().err
    train.run([*flags, f"--output={tmp_path / 'good'}", "--epochs=8", "--learning_rate=0.05"])
    assert "learned nothing" not in capsys.readouterr().err


@pytest.mark.slow
def test_unlabelled_videos_weigh_nothing(graphs, tmp_path):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=40, train_shards=1, graph=graphs["video"])
    shard = next((data / "train").glob("*.tfrecord"))
    records = read_examples(shard)
    for record in records[::2]:
        del record.features.feature["labels"].int64_list.value[:]
        record.features.feature["mean_rgb"].float_list.value[:] = [1e6] * 12
    training_data.write_shard(shard, [record.SerializeToString() for record in records])
    info = train.run([f"--data={data}", f"--output={tmp_path / 'm'}", "--epochs=1", *SMALL])
    assert float(history_of(tmp_path / "m")[0]["loss"]) < 50
    assert info["training"]["epochs"] == 1


def test_mixup_mixes_nothing_into_a_video_whose_partner_has_no_labels(video_data, tmp_path):
    data = open_transformed(str(video_data))
    model = build_model("logistic", data.modalities, data.class_count)
    trainer = Trainer(model, data, data.modalities, TrainOptions(InputOptions(4), mixup=1.0), str(tmp_path))
    random = np.random.default_rng(2)
    features = {
        modality.name: tf.constant(random.normal(size=(4, modality.width)), tf.float32) for modality in data.modalities
    }
    batch = {"features": features, "labels": tf.constant([[1, 2], [3, -1], [4, -1], [-1, -1]])}
    shares = tf.constant([0.3, 0.3, 0.3, 0.3])
    mixed, plain = (trainer.loss(batch, given, training=False)[0].numpy() for given in (shares, None))
    assert mixed[0] == pytest.approx(plain[0]) and mixed[3] == 0 == plain[3]
    assert mixed[1] != pytest.approx(plain[1])


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_patience(video_data, tmp_path):
    arguments = [
        f"--data={video_data}",
        f"--output={tmp_path / 'm'}",
        "--recipe=none",
        "--model=logistic",
        "--batch_size=20",
        "--learning_rate=1e-12",
        "--epochs=4",
        "--quiet",
    ]
    assert train.run([*arguments, "--patience=1"])["training"]["epochs"] == 2
    assert train.run([*arguments, "--patience=0", "--resume"])["training"]["epochs"] == 4


@pytest.mark.slow
def test_only_epochs_that_are_to_be_averaged_are(graphs, tmp_path, capsys):
    training_data.write_transformed(
        tmp_path / "data", training_data.VIDEO_SCHEMA, train=40, validate=0, graph=graphs["video"]
    )
    arguments = [f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'out[1]'}", *SMALL]
    averaged = train.run([*arguments, "--epochs=4", "--average_checkpoints=3"])["training"]["averaged_epochs"]
    assert averaged == [2, 3, 4]
    kept = sorted(path.name for path in (tmp_path / "out[1]" / "checkpoints").glob("epoch-*"))
    assert kept == ["epoch-002.npz", "epoch-003.npz", "epoch-004.npz"]
    assert train.run([*arguments, "--epochs=6", "--resume"])["training"]["averaged_epochs"] == []
    info = train.run([*arguments, "--epochs=7", "--average_checkpoints=3", "--resume"])
    assert info["training"]["averaged_epochs"] == []
    assert "of the epochs to average (5, 6, 7) only the weights of 7 were kept" in capsys.readouterr().err


def test_shards_of_a_directory_named_like_a_glob_are_found(video_data, tmp_path):
    data = tmp_path / "video[1]*"
    shutil.copytree(video_data, data)
    names = [shard.path.rsplit("/", 1)[1] for shard in open_transformed(str(data)).shards("train")]
    assert names == [f"train-{number:05d}-of-00004.tfrecord" for number in range(4)]


# -- bad input ------------------------------------------------------------------------------------------------------


def test_nan_stops_names_the_shard_and_keeps_the_checkpoint(graphs, tmp_path):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=80, graph=graphs["video"])
    shard = data / "train" / "train-00000-of-00004.tfrecord"
    records = read_examples(shard)
    records[7].features.feature["mean_audio"].float_list.value[1] = float("nan")
    training_data.write_shard(shard, [record.SerializeToString() for record in records])
    with pytest.raises(JobError, match="train-00000-of-00004.tfrecord.*last good checkpoint.*last.npz"):
        train.run([f"--data={data}", f"--output={tmp_path / 'm'}", "--epochs=1", *SMALL])
    groups, facts = checkpoints.load(str(tmp_path / "m" / "checkpoints" / "last.npz"))
    assert all(np.isfinite(value).all() for values in groups.values() for value in values)
    assert facts["progress"]["epoch"] == 0


@pytest.mark.parametrize(
    ("features", "losses", "loss", "blamed"),
    [
        ([0, 0, 0], [1, 1, 1], 1, -1),
        ([0, np.nan, 0], [np.nan, np.nan, np.nan], np.nan, 4),  # batch normalisation spreads it
        ([0, np.inf, 0], [1, 1, 1], 1, 4),  # a ReLU hides it
        ([0, 0, 0], [np.inf, 1, 1], np.inf, 3),
        ([0, 0, 0], [1, 1, 1], np.nan, 5),  # a regulariser's: any video of the batch
    ],
)
def test_the_shard_to_blame_is_that_of_the_video_at_fault(features, losses, loss, blamed):
    vectors = np.zeros((3, 2), np.float32)
    vectors[:, 1] = features
    batch = {
        "features": {"mean_rgb": tf.constant(vectors), "num_frames": tf.constant([1, 2, 3])},
        "shard": tf.constant([3, 4, 5]),
    }
    found = step.shard_to_blame(batch, tf.constant(losses, tf.float32), tf.constant(loss, tf.float32))
    assert int(found) == blamed


@pytest.mark.parametrize(
    ("flags", "reason", "remedy"),
    [
        ("--gamma=1", "without --loss=focal or --loss=asymmetric", "--loss=focal"),
        ("--margin=0.1", "without --loss=asymmetric", "--loss=asymmetric"),
        ("--alpha=0.3", "without --loss=focal", "--loss=focal"),
        ("--teacher_weight=0.9", "without --teacher", "--teacher=m"),
        ("--init_from=m --class_prior", "with --init_from without --new_head", "--new_head"),
        ("--weight_decay=0.1", "without --optimizer=adamw", "--optimizer=adamw"),
        ("--decay_rate=0.5", "without --decay=exponential", "--decay=exponential"),
        ("--final_rate=0.1", "without --decay=cosine", "--decay=cosine"),
        ("--unfreeze_after=5", "with --epochs=5", "--epochs=6"),
    ],
)
def test_flags_without_effect_are_named(flags, reason, remedy):
    given = ["--data=d", "--output=m", *flags.split()]
    name = given[-1].partition("=")[0]
    assert ineffective_flags(given, reads_frames=True) == [f"{name} has no effect {reason}"]
    assert ineffective_flags([*given, remedy], reads_frames=True) == []


@pytest.mark.slow
def test_frame_flags_have_no_effect_on_data_without_frames(video_data, tmp_path, capsys):
    given = ["--data=d", "--output=m", "--frames=random"]
    reason = "because --model=dense reads no frames of this data"
    assert ineffective_flags(given, reads_frames=False) == [f"--frames has no effect {reason}"]
    assert ineffective_flags(given, reads_frames=True) == []
    train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=1", "--max_frames=5", *SMALL])
    assert f"warning: --max_frames has no effect {reason}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "extra"), [("train", ["--label_projection=0.75"]), ("validate", [])])
def test_nan_elsewhere_names_the_shard(split, extra, graphs, tmp_path):
    """Before training, where the directions are counted, and in validation, where a ReLU would hide it."""
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=80, graph=graphs["video"])
    shard = sorted((data / split).iterdir())[-1]
    records = read_examples(shard)
    records[3].features.feature["mean_rgb"].float_list.value[0] = float("nan")
    training_data.write_shard(shard, [record.SerializeToString() for record in records])
    with pytest.raises(JobError, match=f"{shard.name}: mean_rgb of a video holds values that are not finite"):
        train.run([f"--data={data}", f"--output={tmp_path / 'm'}", "--epochs=1", *extra, *SMALL])


@pytest.mark.slow
def test_a_validation_split_without_labels_counts_as_none(graphs, tmp_path, capsys):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=80, graph=graphs["video"])
    shard = data / "validate" / "validate-00000-of-00001.tfrecord"
    records = read_examples(shard)
    for record in records:
        record.features.feature["labels"].int64_list.value[:] = []
    training_data.write_shard(shard, [record.SerializeToString() for record in records])
    arguments = [f"--data={data}", f"--output={tmp_path / 'm'}", *SMALL]
    info = train.run([*arguments, "--epochs=2"])
    assert "no video of the validation split has a label" in capsys.readouterr().err
    assert info["training"]["validation"] == {} and info["training"]["best_epoch"] == 2
    for ours, last in zip(
        weights_of(tmp_path / "m"),
        checkpoints.load(str(tmp_path / "m" / "checkpoints" / "last.npz"))[0]["model"],
        strict=False,
    ):
        np.testing.assert_array_equal(ours, last)
    assert train.run([*arguments, "--epochs=3", "--resume"])["training"]["best_epoch"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["random", "sequence", "uniform"])
def test_validation_sees_the_frames_that_serving_sees(sampling, frame_data, tmp_path):
    """The same metrics from the exported model on the raw records."""
    import keras

    from vcls_model.metrics.accumulator import MetricAccumulator
    from vcls_model.metrics.result import compute_result

    info = train.run(
        [
            f"--data={frame_data}",
            f"--output={tmp_path / 'm'}",
            "--model=average",
            "--epochs=1",
            "--max_frames=3",
            f"--frames={sampling}",
            "--batch_size=16",
            "--quiet",
        ]
    )
    videos = training_data.make_videos(training_data.FRAME_SCHEMA, 20, 2)
    done = training_data.transform(videos, training_data.FRAME_SCHEMA, statistics_of(training_data.FRAME_SCHEMA))
    logits = keras.models.load_model(tmp_path / "m" / "model.keras")(padded(done, ["rgb", "audio"], 3, sampling))
    accumulator = MetricAccumulator(10)
    accumulator.update(
        np.asarray(logits),
        np.concatenate([np.asarray(one) for one in videos.labels]),
        np.array([len(one) for one in videos.labels]),
        [b"%d" % row for row in range(20)],
    )
    assert info["training"]["validation"]["gap_at_20"] == pytest.approx(
        compute_result(accumulator).summary["gap_at_20"], abs=1e-3
    )


def test_overwrite_spares_inputs_and_what_flags_that_do_not_fit_would_replace(trained, video_data, graphs, tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(video_data, data)
    shutil.copytree(trained, model)
    for output, extra in (
        (data, []),
        (tmp_path, []),
        (tmp_path / "data" / ".." / "data", []),
        (model, [f"--init_from={model}"]),
        (model, [f"--teacher={model}"]),
    ):
        with pytest.raises(UsageError, match="holds the input"):
            train.run([f"--data={data}", f"--output={output}", "--overwrite", *extra, *SMALL])
    with pytest.raises(UsageError, match="matches no layer"):
        train.run([f"--data={data}", f"--output={model}", "--overwrite", "--freeze=nope", *SMALL])
    assert (data / "info.json").exists() and (model / "info.json").exists()


@pytest.mark.slow
def test_a_batch_larger_than_the_data_counts_the_videos_that_there_are(video_data, tmp_path):
    train.run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'm'}",
            "--recipe=none",
            "--model=logistic",
            "--batch_size=512",
            "--warmup_examples=1000",
            "--learning_rate=0.01",
            "--epochs=4",
            "--quiet",
        ]
    )
    rates = [float(row["learning_rate"]) for row in history_of(tmp_path / "m")]
    assert rates == pytest.approx([0.002, 0.003, 0.004, 0.005], rel=1e-3)  # of the step to come, of 100 videos each


def test_sizes_that_do_not_fit_are_a_usage_error(frame_data, tmp_path):
    for model, flags, message in (
        ("transformer", ["--units=16", "--heads=3"], "even and a multiple of heads"),
        ("transformer", ["--units=15", "--heads=3"], "even and a multiple of heads"),
        ("multiscale_cnn", ["--blocks=0"], "blocks must be positive"),
        ("nextvlad", ["--groups=7"], "cannot be built with these hyperparameters"),
    ):
        with pytest.raises(UsageError, match=message):
            train.run([f"--data={frame_data}", f"--output={tmp_path / 'm'}", f"--model={model}", "--quiet", *flags])


def test_a_device_that_is_not_there_is_refused(video_data, tmp_path):
    with pytest.raises(UsageError, match="there is no TPU:9"):
        train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--devices=TPU:9", *SMALL])
    with pytest.raises(UsageError, match="--distribution=none is not mirrored"):
        train.run(
            [f"--data={video_data}", f"--output={tmp_path / 'm'}", "--devices=CPU:0", "--distribution=none", *SMALL]
        )


def test_a_directory_without_info_is_refused(tmp_path):
    with pytest.raises(JobError, match="not there"):
        train.run([f"--data={tmp_path / 'none'}", f"--output={tmp_path / 'm'}"])
    (tmp_path / "half").mkdir()
    with pytest.raises(JobError, match="info.json"):
        train.run([f"--data={tmp_path / 'half'}", f"--output={tmp_path / 'm'}"])
    (tmp_path / "half" / "info.json").write_text("{}")
    with pytest.raises(JobError, match="info.json is damaged, or not a file of this kind"):
        train.run([f"--data={tmp_path / 'half'}", f"--output={tmp_path / 'm'}"])
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_a_frame_level_model_needs_frames(video_data, frame_data, tmp_path):
    with pytest.raises(UsageError, match="'netvlad' reads sequences of frames"):
        train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--model=netvlad"])
    # The other way round fits: a video-level model reads the mean of the frames.
    info = train.run([f"--data={frame_data}", f"--output={tmp_path / 'm'}", "--epochs=1", *SMALL])
    assert [entry["name"] for entry in info["transformed"]] == ["rgb", "audio"]


def test_an_output_in_use_is_refused_and_can_be_overwritten(trained, video_data, tmp_path):
    with pytest.raises(UsageError, match="not empty"):
        train.run([f"--data={video_data}", f"--output={trained}"])
    with pytest.raises(UsageError, match="exclude"):
        train.run([f"--data={video_data}", f"--output={trained}", "--resume", "--overwrite"])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("old")
    train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--overwrite", "--epochs=1", *SMALL])
    assert not (tmp_path / "m" / "old").exists()


def test_shards_with_fewer_videos_than_counted_or_corrupt_ones_are_named(graphs, tmp_path):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=80, graph=graphs["video"])
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "train" / "train-00001-of-00004.tfrecord").unlink()
    with pytest.raises(JobError, match="does not hold the 4 shards .*train-00001-of-00004.tfrecord is missing"):
        train.run([f"--data={copy}", f"--output={tmp_path / 'm'}", *SMALL])
    shard = data / "train" / "train-00001-of-00004.tfrecord"
    content = bytearray(shard.read_bytes())
    content[200] ^= 255
    shard.write_bytes(content)
    with pytest.raises(JobError, match="train-00001"):
        train.run([f"--data={data}", f"--output={tmp_path / 'n'}", *SMALL])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model=dens", "did you mean 'dense'"),
        ("--epoch=3", "did you mean --epochs"),
        ("--hiden_units=3", "did you mean --hidden_units"),
        ("--hidden_units=0", "hidden_units"),
        ("--clusters=8", "dense has no hyperparameter clusters; these have it: dbof, netvlad, nextvlad"),
        ("--loss=bse", "did you mean 'bce'"),
        ("--optimizer=adm", "did you mean 'adam'"),
        ("--precision=half", "unknown precision"),
        ("--ema=1", "ema"),
        ("--gamma=nan", "gamma must be finite"),
        ("--clip_norm=inf", "clip_norm must be finite"),
        ("--mixup=nan", "mixup must be finite"),
        (f"--max_frames={10**20}", "max_frames must lie between 1 and"),
        ("--new_head", "--init_from"),
        ("--unfreeze_after=2", "--freeze"),
        ("--learning_rate_scale=hidden", "FACTOR|like"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_read(flag, message):
    with pytest.raises(UsageError, match=message):
        parse_config(["--data=nowhere", "--output=nowhere", flag])


def test_help_is_quick():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vcls_model.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--learning_rate" in done.stdout and "netvlad" in done.stdout
    assert not any(name in done.stderr for name in ("tensorflow", "keras", "numba"))
    assert time.monotonic() - started < 20
