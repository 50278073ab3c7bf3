"""Recipes: their values arrive, flags override them, the rules fit them to data, `dense` has none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures import training_data
from vcls_model import train
from vcls_model.commands import UsageError
from vcls_model.layers import unit_inputs
from vcls_model.models import MODELS
from vcls_model.records.raw_values import RawValues, find_raw_values
from vcls_model.records.schema import FRAMES, VECTOR
from vcls_model.records.transformed import TransformedData, TransformedModality, open_transformed
from vcls_model.training.config import TrainConfig
from vcls_model.training.flags import parse_config
from vcls_model.training.recipes import DataFacts, apply_recipe, choose_model, fit_recipe, recipe_values

# Of `--model=dense` with no other flag before there were recipes: checkpoints carry it.
FINGERPRINT = "f139788c1d905751"
PLACES = ["--data=nowhere", "--output=nowhere"]
# Of the fixtures' datasets of vectors.
STATISTICS = training_data.moments(
    training_data.make_videos(training_data.VIDEO_SCHEMA, 200, 77), training_data.VIDEO_SCHEMA
)
# What the recipes were measured on: nothing is left to fit.
AS_MEASURED = DataFacts(23_091, 20.0, 1_152, 0, "zscore")


def fitted(facts: DataFacts, *flags: str, bfloat16: bool = True) -> TrainConfig:
    config = parse_config([*PLACES, *flags])
    return apply_recipe(config, fit_recipe(MODELS[config.model].recipe, config, facts, bfloat16=bfloat16))


def with_statistics(source: Path, directory: Path, normalise: str = "zscore", pca_dims: int = 0) -> Path:
    """A copy of a small dataset whose info.json says how it is normalised, as preprocess writes it."""
    shutil.copytree(source, directory)
    info = json.loads((directory / "info.json").read_text())
    schema = training_data.VIDEO_SCHEMA if "mean_rgb" in str(info["schema"]) else training_data.FRAME_SCHEMA
    statistics = training_data.moments(training_data.make_videos(schema, 200, 77), schema)
    info["config"] = {"normalise": normalise, "pca_dims": pca_dims}
    info["statistics"] = {
        "features": {name: {"mean": mean.tolist(), "std": std.tolist()} for name, (mean, std) in statistics.items()}
    }
    (directory / "info.json").write_text(json.dumps(info))
    return directory


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_values_of_a_recipe_arrive(name: str) -> None:
    recipe = MODELS[name].recipe
    config = parse_config([*PLACES, f"--model={name}"])
    assert config.recipe == tuple(recipe.values)
    assert recipe_values(config) == dict(recipe.values)
    facts = DataFacts(recipe.videos, 20.0, 1_152, 10 if MODELS[name].level == "frame" else 0, "zscore")
    # On data like those that it was measured on nothing changes.
    assert fitted(facts, f"--model={name}").recipe_notes == ()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_flag_overrides_its_own_entry_and_no_other(name: str) -> None:
    recipe = MODELS[name].recipe.values
    others = {
        "input_norm": ("data", "data"),
        "modality_norm": ("none", "none"),
        "label_projection": ("0.25", 0.25),
        "neighbours": ("7", 7),
        "class_prior": ("false", False),
        "batch_size": ("32", 32),
        "epochs": ("3", 3),
        "patience": ("2", 2),
        "learning_rate": ("0.01", 0.01),
        "decay": ("constant", "constant"),
        "warmup_examples": ("5", 5),
        "mixup": ("0.1", 0.1),
        "modality_dropout": ("0.3", 0.3),
        "calibration": ("none", "none"),
        "precision": ("mixed_float16", "mixed_float16"),
        "linear_skip": ("false", False),
        "input_dropout": ("0.2", 0.2),
        "recurrent_units": ("8,8", (8, 8)),
        "frame_units": ("8", (8,)),
        "kernel_sizes": ("3", (3,)),
        "blocks": ("1", 1),
        "dropout": ("0.1", 0.1),
        "fusion": ("early", "early"),
        "clusters": ("4", 4),
        "hidden_units": ("4", (4,)),
        "label_text": ("0.1", 0.1),
        "classifier_rate": ("0.7", 0.7),
        "ema": ("0.5", 0.5),
        "final_rate": ("0.1", 0.1),
        "neighbour_weight": ("0.1", 0.1),
        "units": ("8", 8),
        "members": ("3", 3),
    }
    for flag in recipe:
        text, expected = others[flag]
        fusion = ["--fusion=early"] if flag == "label_projection" and "fusion" not in recipe else []
        config = parse_config([*PLACES, f"--model={name}", f"--{flag}={text}", *fusion])
        assert flag not in config.recipe and set(config.recipe) == set(recipe) - {flag}
        rest = {other: recipe[other] for other in config.recipe}
        assert recipe_values(config) == rest
        given = apply_recipe(
            config, fit_recipe(MODELS[name].recipe, config, DataFacts(40, 1.0, 9_999, 300, "pca"), bfloat16=False)
        )
        assert flag not in given.recipe
        everything = {**vars(given), **vars(given.options), **vars(given.options.read), **vars(given.options.schedule)}
        everything["final_rate"] = given.options.schedule.floor
        assert {**everything, **given.hyperparameters}[flag] == expected


def test_a_flag_given_its_plain_default_overrides_too() -> None:
    config = parse_config([*PLACES, "--model=wide", "--epochs=5", "--class_prior=false", "--neighbours=0"])
    assert (config.options.epochs, config.class_prior, config.hyperparameters["neighbours"]) == (5, False, 0)
    assert not {"epochs", "class_prior", "neighbours"} & set(config.recipe)
    small = apply_recipe(config, fit_recipe(MODELS["wide"].recipe, config, AS_MEASURED, bfloat16=True))
    assert small.options.epochs == 5


def test_dense_has_the_defaults_of_the_brief() -> None:
    config = parse_config(PLACES)
    assert config == parse_config([*PLACES, "--recipe=none"]) and config.recipe == ()
    options = config.options
    assert (options.read.batch_size, options.epochs, options.patience, options.mixup) == (64, 5, 3, 0.0)
    assert (options.schedule.learning_rate, options.schedule.decay, options.optimizer) == (0.001, "constant", "adam")
    assert config.hyperparameters == {
        "fusion": "early",
        "input_norm": "data",
        "modality_norm": "none",
        "input_dropout": 0.0,
        "text_width": 64,
        "text_dropout": 0.5,
        "linear_skip": False,
        "label_projection": 0.0,
        "members": 1,
        "head": "none",
        "label_text": 0.0,
        "classifier_rate": 0.0,
        "neighbours": 0,
        "neighbour_weight": 0.35,
        "hidden_units": (1024,),
        "dropout": 0.0,
    }
    assert (config.precision, config.class_prior) == ("float32", False)


def test_no_recipe_is_what_every_model_had() -> None:
    for name, info in MODELS.items():
        config = parse_config([*PLACES, f"--model={name}", "--recipe=none"])
        assert config.hyperparameters == info.defaults
        assert config.options == parse_config(PLACES).options
    with pytest.raises(UsageError, match="unknown recipe 'bst'; did you mean 'best'"):
        parse_config([*PLACES, "--recipe=bst"])


def test_the_fingerprint_of_a_run_without_a_recipe_stays() -> None:
    facts = {"config_hash": "abc", "splits": {"train": {"records": 3}}}
    assert parse_config(PLACES).fingerprint(facts) == FINGERPRINT
    assert parse_config([*PLACES, "--model=wide", "--recipe=none"]).fingerprint(facts) != FINGERPRINT


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (AS_MEASURED, {"batch_size": 256, "epochs": 9, "neighbours": 60, "warmup_examples": 9_000}),
        # 4 shards of YouTube-8M.
        (
            DataFacts(1_202, 3.8, 1_152, 0, "zscore"),
            {"batch_size": 64, "epochs": 39, "neighbours": 12, "warmup_examples": 3_125, "learning_rate": 0.001},
        ),
        (
            DataFacts(24, 4.0, 1_152, 0, "zscore"),
            {
                "batch_size": 8,
                "epochs": 45,
                "neighbours": 0,
                "label_projection": 0.0,
                "warmup_examples": 72,
                "learning_rate": 0.001,
            },
        ),
        (DataFacts(3, 1.0, 1_152, 0, "zscore"), {"batch_size": 3, "epochs": 45, "warmup_examples": 9}),
        (DataFacts(400_000, 50.0, 1_152, 0, "zscore"), {"epochs": 2, "neighbours": 60, "label_projection": 0.75}),
        (
            DataFacts(8_000_000, 2_000.0, 1_152, 0, "zscore"),
            {
                "epochs": 2,
                "neighbours": 0,
                "label_projection": 0.0,
                "warmup_examples": 9_000,
                "batch_size": 256,
                "members": 1,
            },
        ),
        (DataFacts(23_091, 1.5, 1_152, 0, "zscore"), {"label_projection": 0.0, "neighbours": 60}),
        (DataFacts(23_091, 20.0, 5_000, 0, "zscore"), {"label_projection": 0.0, "neighbours": 60}),
        (DataFacts(23_091, 20.0, 1_152, 0, "pca"), {"input_norm": "data", "modality_norm": "l2"}),
        (DataFacts(23_091, 20.0, 1_152, 0, None), {"input_norm": "data", "modality_norm": "l2"}),
        (DataFacts(23_091, 20.0, 1_152, 0, "l2"), {"input_norm": "l2", "modality_norm": "unit"}),
        (DataFacts(23_091, 20.0, 1_152, 0, "l2", named=False), {"label_text": 0.0, "classifier_rate": 0.3}),
    ],
)
def test_a_recipe_fits_the_data(facts: DataFacts, expected: dict[str, Any]) -> None:
    config = fitted(facts, "--model=wide")
    values = recipe_values(config)
    assert {name: values[name] for name in expected} == expected
    changed = {note.split("=")[0].removeprefix("--") for note in config.recipe_notes}
    assert changed == {name for name, value in values.items() if value != MODELS["wide"].recipe.values[name]}


def test_many_frames_make_smaller_batches() -> None:
    values = recipe_values(fitted(DataFacts(20_000, 20.0, 1_152, 300, "zscore"), "--model=nextvlad"))
    assert (values["batch_size"], values["learning_rate"]) == (64, 0.000707)
    short = fitted(DataFacts(20_000, 20.0, 1_152, 300, "zscore"), "--model=nextvlad", "--max_frames=50")
    assert recipe_values(short)["batch_size"] == 128


def test_what_is_given_moves_what_depends_on_it() -> None:
    values = recipe_values(fitted(AS_MEASURED, "--model=wide", "--fusion=late", "--batch_size=64", "--epochs=2"))
    assert values["label_projection"] == 0 and values["learning_rate"] == 0.001
    assert values["warmup_examples"] == 23_091 * 2 // 15
    values = recipe_values(fitted(AS_MEASURED, "--model=wide", "--input_norm=data"))
    assert values["modality_norm"] == "l2"


def test_precision_follows_the_hardware() -> None:
    assert fitted(AS_MEASURED, "--model=wide").precision == "mixed_bfloat16"
    config = fitted(AS_MEASURED, "--model=wide", bfloat16=False)
    assert config.precision == "float32" and "bfloat16" in config.recipe_notes[0]


def described(kind: str, videos: int, frames_per_video: list[int]) -> TransformedData:
    modality = TransformedModality("rgb", 4, kind, "uint8" if kind == FRAMES else "float32")
    info = {"statistics": {"frames_per_video": frames_per_video}}
    return TransformedData("data", training_data.VIDEO_SCHEMA, (modality,), 3, {"train": videos}, info)


def test_auto_chooses_by_level_and_size() -> None:
    assert choose_model(described(VECTOR, 10_000, [])) == "residual"
    assert choose_model(described(VECTOR, 9_999, [])) == "wide"
    assert choose_model(described(VECTOR, 199, [])) == "logistic"
    assert choose_model(described(FRAMES, 5_000, [0] * 10 + [5])) == "attention_rnn"
    assert choose_model(described(FRAMES, 5_000, [0] * 300 + [5])) == "nextvlad"
    assert choose_model(described(FRAMES, 50, [0] * 10 + [5])) == "average"


def test_auto_is_resolved_before_anything_is_trained(video_data: Path, tmp_path: Path) -> None:
    config = parse_config([f"--data={video_data}", "--output=m", "--model=auto"])
    assert config.model == "logistic" and config.recipe == tuple(MODELS["logistic"].recipe.values)


@pytest.mark.slow
@pytest.mark.parametrize(("normalise", "pca_dims", "expected"), [("zscore", 0, "l2"), ("zscore", 4, None)])
def test_only_an_affine_normalisation_can_be_undone(
    normalise: str, pca_dims: int, expected: str | None, video_data: Path, tmp_path: Path, capsys: Any
) -> None:
    data = with_statistics(video_data, tmp_path / "data", normalise, pca_dims)
    flags = [f"--data={data}", "--model=logistic", "--epochs=1"]
    if expected:
        info = train.run([*flags, f"--output={tmp_path / 'm'}"])
        assert info["model"]["hyperparameters"]["input_norm"] == "l2"
        return
    with pytest.raises(UsageError, match="cannot be undone: PCA has whitened"):
        train.run([*flags, f"--output={tmp_path / 'n'}", "--input_norm=l2"])
    info = train.run([*flags, f"--output={tmp_path / 'm'}"])
    assert info["training"]["recipe"]["values"]["input_norm"] == "data"
    assert "PCA has whitened the data" in capsys.readouterr().err


def test_raw_values_are_those_before_preprocess(video_data: Path, tmp_path: Path) -> None:
    data = open_transformed(str(with_statistics(video_data, tmp_path / "data")))
    schema = training_data.VIDEO_SCHEMA
    videos = training_data.make_videos(schema, 5, 3)
    done = training_data.transform(videos, schema, STATISTICS)
    for name, values in find_raw_values(data, data.modalities).items():
        raw = videos.features[name]
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(values.unit(done.features[name]), expected, atol=1e-5)
    zero = RawValues(np.zeros(2, np.float32), np.ones(2, np.float32)).unit(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(zero, 0)


def test_minmax_is_undone_from_the_range(video_data: Path, tmp_path: Path) -> None:
    directory = with_statistics(video_data, tmp_path / "data", "minmax")
    (directory / "manifests").mkdir()
    ranges = {
        name: {"lowest": [-1.0] * width, "highest": [3.0] * (width - 1) + [-1.0]}
        for name, width in (("mean_rgb", 12), ("mean_audio", 4))
    }
    (directory / "manifests" / "moments.json").write_text(json.dumps(ranges))
    data = open_transformed(str(directory))
    values = find_raw_values(data, data.modalities)["mean_audio"]
    assert values.location.tolist() == [-1] * 4 and values.spread.tolist() == [4, 4, 4, 1]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["video", "frame"])
def test_raw_vectors_are_scaled_inside_the_exported_model(
    level: str, video_data: Path, frame_data: Path, tmp_path: Path
) -> None:
    """From z-scores the model computes what it would from vectors that preprocess had scaled to length 1."""
    import keras
    import tensorflow as tf

    schema = training_data.VIDEO_SCHEMA if level == "video" else training_data.FRAME_SCHEMA
    data = with_statistics(video_data if level == "video" else frame_data, tmp_path / "data")
    name = "wide" if level == "video" else "average"
    flags = ["--input_norm=l2", "--modality_norm=unit", "--neighbours=3", "--label_projection=0.5", "--epochs=1"]
    info = train.run([f"--data={data}", f"--output={tmp_path / 'm'}", f"--model={name}", "--quiet", *flags])
    assert info["model"]["hyperparameters"]["input_norm"] == "l2"
    model = keras.models.load_model(tmp_path / "m" / "model.keras")
    videos = training_data.make_videos(schema, 6, 9)
    raw = training_data.serialize_raw(videos, schema)
    served = tf.saved_model.load(str(tmp_path / "m" / "saved_model")).signatures["serving_default"]
    logits = served(serialized=tf.constant(raw))["logits"].numpy()
    if level == "frame":
        assert np.isfinite(logits).all() and np.ptp(logits, axis=0).max() > 0
        return
    done = training_data.transform(videos, schema, STATISTICS)
    features = {each.name: done.features[each.name] for each in schema.modalities}
    np.testing.assert_allclose(logits, model(training_data.whole(features)), atol=1e-4)
    unit = {key: videos.features[key] / np.linalg.norm(videos.features[key], axis=1, keepdims=True) for key in features}
    with unit_inputs():
        np.testing.assert_allclose(logits, model(training_data.whole(unit)), atol=1e-4)
    # Longer raw vectors of the same directions score the same.
    longer = {key: (3 * videos.features[key] - STATISTICS[key][0]) / STATISTICS[key][1] for key in features}
    np.testing.assert_allclose(logits, model(training_data.whole(longer)), atol=1e-3)


def test_mixtures_are_made_of_unit_vectors_and_stay_shorter(video_data: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    from vcls_model.models import build_model
    from vcls_model.training.step import BatchLoss

    data = open_transformed(str(with_statistics(video_data, tmp_path / "data")))
    model = build_model(
        "logistic",
        data.modalities,
        data.class_count,
        input_norm="l2",
        raw_values=find_raw_values(data, data.modalities),
    )
    config = parse_config([*PLACES, "--model=logistic"])
    loss = BatchLoss(model, data.modalities, config.options, [])
    videos = training_data.make_videos(training_data.VIDEO_SCHEMA, 2, 5)
    done = training_data.transform(videos, training_data.VIDEO_SCHEMA, STATISTICS)
    batch = {
        "features": {name: tf.constant(value) for name, value in done.features.items()},
        "labels": tf.constant([[1, -1], [2, 3]]),
    }
    _, logits = loss(batch, tf.constant([0.3, 0.3]), training=False)
    unit = {key: value / np.linalg.norm(value, axis=1, keepdims=True) for key, value in videos.features.items()}
    mixed = np.concatenate([0.3 * value + 0.7 * value[::-1] for value in unit.values()], axis=1)
    kernel, bias = (np.asarray(weight) for weight in model.get_layer("classifier_scores").weights)
    np.testing.assert_allclose(logits, mixed @ kernel + bias, atol=1e-5)


@pytest.mark.slow
def test_a_run_prints_and_stores_its_recipe(video_data: Path, tmp_path: Path, capsys: Any) -> None:
    data = with_statistics(video_data, tmp_path / "data")
    info = train.run([f"--data={data}", f"--output={tmp_path / 'm'}", "--model=wide", "--epochs=1", "--units=8"])
    printed = capsys.readouterr()
    assert "recipe of wide for 100 training videos:" in printed.err and "--mixup=0.4" in printed.err
    assert "warning: --" not in printed.err
    recipe = info["training"]["recipe"]
    assert recipe["values"]["batch_size"] == 8 and "epochs" not in recipe["values"]
    assert "--batch_size=8 rather than 256: 100 training videos" in recipe["notes"]
    assert info["training"]["options"]["read"]["batch_size"] == 8 and info["training"]["class_prior"]


@pytest.mark.slow
def test_a_long_command_on_another_normalisation_is_warned(video_data: Path, tmp_path: Path, capsys: Any) -> None:
    data = with_statistics(video_data, tmp_path / "data")
    flags = [f"--data={data}", f"--output={tmp_path / 'm'}", "--model=logistic", "--epochs=1", "--quiet"]
    train.run([*flags, "--recipe=none", "--modality_norm=unit"])
    assert "warning: --modality_norm=unit is meant for vectors of length 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_thousand_videos_are_enough(graphs: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    training_data.write_transformed(tmp_path / "raw", training_data.VIDEO_SCHEMA, train=1_000, graph=graphs["video"])
    data = with_statistics(tmp_path / "raw", tmp_path / "data")
    info = train.run([f"--data={data}", f"--output={tmp_path / 'm'}", "--model=auto", "--units=16", "--epochs=2"])
    assert info["model"]["name"] == "wide"
    assert info["model"]["hyperparameters"]["neighbours"] == 10
    assert info["model"]["hyperparameters"]["label_projection"] == 0.75
    assert "warning: --" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_pretrained_model_brings_the_hyperparameters_that_shape_layers(video_data: Path, tmp_path: Path) -> None:
    data = with_statistics(video_data, tmp_path / "data")
    plain = [f"--data={video_data}", f"--output={tmp_path / 'old'}", "--model=logistic", "--epochs=1", "--quiet"]
    train.run([*plain, "--recipe=none"])
    flags = [f"--data={data}", "--model=logistic", "--epochs=1", "--quiet", f"--init_from={tmp_path / 'old'}"]
    info = train.run([*flags, f"--output={tmp_path / 'new'}"])
    chosen = info["model"]["hyperparameters"]
    assert (chosen["input_norm"], chosen["modality_norm"], chosen["label_projection"]) == ("data", "none", 0.0)
    assert not info["training"]["class_prior"] and info["training"]["options"]["mixup"] == 0.4


def test_help_shows_the_recipe(capsys: Any) -> None:
    for flags, expected in ((["--model=wide"], "(default: 256)"), (["--model=wide", "--recipe=none"], "(default: 64)")):
        with pytest.raises(SystemExit):
            parse_config([*flags, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert f"videos per step, on all devices together {expected}" in text


def test_dense_trains_as_it_did_before_there_were_recipes(video_data: Path, tmp_path: Path) -> None:
    """Against figures recorded with the code before; bits depend on the processor, these digits do not."""
    import keras

    from vcls_model.models import build_model

    data = open_transformed(str(video_data))
    keras.utils.set_random_seed(0)
    initial = np.asarray(build_model("dense", data.modalities, data.class_count).weights[0])
    assert float(np.abs(initial, dtype=np.float64).sum()) == pytest.approx(625.29089, rel=1e-6)
    train.run([f"--data={video_data}", f"--output={tmp_path / 'm'}", "--epochs=2", "--quiet"])
    losses = [float(line.split(",")[2]) for line in (tmp_path / "m" / "history.csv").read_text().splitlines()[1:]]
    assert losses == pytest.approx([6.978494644, 6.653451920], rel=1e-5)
