"""The last frames of a stream, and that a live answer is batch scoring's answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.fixtures import training_data
from tests.vcls_model.models.test_models import FRAME_MODELS, small
from vcls_model.records.schema import FRAMES, VECTOR, Modality
from vcls_model.records.transformed import TransformedModality
from vcls_model.serving.exported import LoadedModel, read_exported_model
from vcls_model.serving.live.stream import FrameRing, batch_features, of_like_length

CODES = (Modality("rgb", 3, FRAMES, "uint8"), Modality("audio", 2, FRAMES, "uint8"))


def code_row(number: int) -> dict[str, np.ndarray]:
    return {"rgb": np.full(3, number % 256, np.uint8), "audio": np.full(2, (2 * number) % 256, np.uint8)}


def test_a_ring_holds_the_last_frames_in_order() -> None:
    ring = FrameRing(CODES, capacity=5)
    for number in range(23):
        ring.append(code_row(number), float(number))
        kept = list(range(max(0, number - 4), number + 1))
        assert ring.so_far()["rgb"][:, 0].tolist() == kept
        assert ring.so_far()["audio"][:, 1].tolist() == [2 * each for each in kept]
        assert ring.now(3)["rgb"][:, 0].tolist() == kept[-3:]
    assert ring.rows == 23


def test_now_is_a_time_and_not_a_number_of_rows() -> None:
    ring = FrameRing(CODES)
    for number, seconds in enumerate((0, 1, 2, 9, 10, 10)):
        ring.append(code_row(number), seconds)
    assert ring.now(2)["rgb"][:, 0].tolist() == [3, 4, 5]
    assert ring.now(0.5)["rgb"][:, 0].tolist() == [4, 5]
    ring.append(code_row(6), 100)
    assert ring.now(10)["rgb"][:, 0].tolist() == [6]


def test_what_a_row_lacks_is_filled_as_records_are() -> None:
    ring = FrameRing(CODES)
    ring.append({"rgb": np.zeros(3, np.uint8)}, 0)
    assert ring.so_far()["audio"].tolist() == [[128, 128]]  # the cell of 0 in [-2, 2]


def test_vectors_are_means_over_the_whole_stream() -> None:
    ring = FrameRing((Modality("mean_rgb", 2, VECTOR, "float32"),), capacity=4)
    values = np.random.default_rng(0).normal(size=(11, 2))
    for number, row in enumerate(values):
        ring.append({"mean_rgb": row}, number)
    np.testing.assert_allclose(ring.so_far()["mean_rgb"], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(ring.now(3)["mean_rgb"], values[-3:].mean(axis=0), rtol=1e-6)


def test_rows_that_do_not_fit_are_refused() -> None:
    ring = FrameRing(CODES)
    ring.append(code_row(0), 5.0)
    with pytest.raises(ValueError, match="a row of second 4 came after one of second 5"):
        ring.append(code_row(1), 4.0)
    with pytest.raises(ValueError, match="rgb must have 3 values"):
        ring.append({"rgb": np.zeros(4, np.uint8)}, 6.0)


def test_windows_of_like_length_share_a_call() -> None:
    def groups(*lengths: int) -> list[list[int]]:
        videos = [{name: np.zeros((length, 3), np.uint8) for name in ("rgb", "audio")} for length in lengths]
        return [rows.tolist() for rows in of_like_length(videos, CODES)]

    assert groups(10, 300, 10, 300) == [[0, 2], [1, 3]]
    assert groups(10, 12, 10) == [[0, 2, 1]]
    assert groups(10, 40) == [[0, 1]]  # another call costs more
    assert groups(1, 300, 70, 2) == [[0, 3], [2], [1]]
    assert groups(7) == [[0]]
    without_rgb = {"rgb": np.zeros((0, 3), np.uint8), "audio": np.zeros((300, 2), np.uint8)}
    short = {"rgb": np.zeros((10, 3), np.uint8), "audio": np.zeros((0, 2), np.uint8)}
    assert [rows.tolist() for rows in of_like_length([without_rgb, short], CODES)] == [[1], [0]]
    vectors = (Modality("mean_rgb", 2, VECTOR, "float32"),)
    assert [rows.tolist() for rows in of_like_length([{}, {}], vectors)] == [[0, 1]]


def export_small(name: str, graph: Path, output: Path) -> Path:
    """A tiny model with random weights, exported as training exports it."""
    from vcls_model.models import build_model
    from vcls_model.serving.export import EmbeddedTransform, ServingModule, save_module

    keras.utils.set_random_seed(1)
    schema = training_data.FRAME_SCHEMA
    modalities = [
        TransformedModality(each.name, each.width, each.kind, "uint8", 8 / 255, -4.0) for each in schema.modalities
    ]
    groups = {"groups": 3} if name == "nextvlad" else {}  # they divide both widths
    model = build_model(name, schema.modalities, 7, **small(name), **groups)
    module = ServingModule(
        lambda features: model(features, training=False), schema, modalities, EmbeddedTransform(str(graph)), [model]
    )
    save_module(module, module.signatures(), str(output))
    info = {"schema": {**schema.to_dict(), "class_count": 7}, "class_count": 7, "model": {"name": name}, "split": {}}
    (output / "info.json").write_text(json.dumps(info))
    rows = [f"{index},class {index}" for index in range(7)]
    (output / "labels.csv").write_text("\n".join(["index,name", *rows]) + "\n")
    return output


def so_far_of_each(model: LoadedModel, modalities: Sequence[Modality], codes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits (T, C) that a live stream of the rows shows, one prefix after the other."""
    ring = FrameRing(modalities)
    shown = []
    for number in range(len(codes[modalities[0].name])):
        ring.append({name: rows[number] for name, rows in codes.items()}, number)
        shown.append(model.logits(batch_features([ring.now(3), ring.so_far()], modalities))[1])
    return np.array(shown)


def record_codes(modalities: Sequence[Modality], frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {each.name: rng.integers(0, 256, (frames, each.width)).astype(np.uint8) for each in modalities}


def check_every_prefix(output: Path, modalities: Sequence[Modality], classes: int) -> None:
    """By the signature `features`, which takes the prefixes as strings and goes no way of the live path's."""
    import tensorflow as tf

    codes = record_codes(modalities, 12)
    live = so_far_of_each(LoadedModel(str(output), classes), modalities, codes)
    features = tf.saved_model.load(str(output / "saved_model")).signatures["features"]
    prefixes = {key: tf.constant([rows[: end + 1].tobytes() for end in range(12)]) for key, rows in codes.items()}
    batch = features(**prefixes)["logits"].numpy()
    assert live.shape == batch.shape == (12, classes)
    assert np.abs(live - batch).max() <= 1e-5
    assert np.abs(np.diff(batch, axis=0)).max() > 1e-3  # prefixes differ, so equality says something


def test_live_equals_the_exported_function(media_model: Path) -> None:
    """Of a model without layers; those with them are below."""
    check_every_prefix(media_model, read_exported_model(str(media_model)).schema.modalities, 5)


@pytest.mark.long
@pytest.mark.parametrize("name", FRAME_MODELS)
def test_live_equals_the_exported_function_of_every_model(name: str, graphs: dict[str, Path], tmp_path: Path) -> None:
    output = export_small(name, graphs["frame"], tmp_path)
    check_every_prefix(output, training_data.FRAME_SCHEMA.modalities, 7)


@pytest.mark.long
def test_live_equals_the_score_job_on_every_prefix(
    graphs: dict[str, Path], tmp_path: Path, score: Callable[..., dict]
) -> None:
    import pyarrow.parquet as parquet

    output = export_small("netvlad", graphs["frame"], tmp_path / "model")
    modalities = training_data.FRAME_SCHEMA.modalities
    codes = record_codes(modalities, 20)
    videos = training_data.Videos(
        [f"v{end:02d}".encode() for end in range(20)],
        [[0]] * 20,
        {name: [rows[: end + 1] for end in range(20)] for name, rows in codes.items()},
    )
    (tmp_path / "schema.json").write_text(json.dumps(training_data.FRAME_SCHEMA.to_dict()))
    records = training_data.serialize_raw(videos, training_data.FRAME_SCHEMA)
    training_data.write_shard(tmp_path / "prefixes.tfrecord", records)
    score(
        tmp_path / "prefixes.tfrecord",
        f"--schema={tmp_path / 'schema.json'}",
        "--full_logits=float32",
        models=[output],
        output=tmp_path / "scores",
    )
    table = parquet.read_table(tmp_path / "scores" / "logits").to_pydict()
    batch = np.array([logits for _, logits in sorted(zip(table["id"], table["logits"], strict=True))])
    assert np.abs(so_far_of_each(LoadedModel(str(output), 7), modalities, codes) - batch).max() <= 1e-5


def test_a_stream_without_sound_lacks_it_where_the_model_bears_that() -> None:
    """Of frames there are none, of a vector no number; once a row had it, the others are filled."""
    modalities = (*CODES, Modality("title", 2, VECTOR, "float32"))
    bearing, plain = (FrameRing(modalities, capacity=5, masks=masks) for masks in (True, False))
    for ring in (bearing, plain):
        for number in range(3):
            ring.append({"rgb": np.full(3, number, np.uint8)}, float(number))
    for video in (bearing.so_far(), bearing.now(2)):
        assert video["audio"].shape == (0, 2) and np.isnan(video["title"]).all()
    assert plain.so_far()["audio"].tolist() == [[128, 128]] * 3 and plain.so_far()["title"].tolist() == [0, 0]
    bearing.append(code_row(7), 3.0)
    assert bearing.so_far()["audio"].tolist() == [[128, 128]] * 3 + [[14, 14]]
    bearing.append({"rgb": np.zeros(3, np.uint8)}, 4.0)
    assert bearing.now(1)["audio"].shape == (0, 2)  # it has gone from the last second
    batch = batch_features([bearing.now(1), bearing.so_far()], modalities)
    assert batch["audio"].lengths.tolist() == [0, 5]
