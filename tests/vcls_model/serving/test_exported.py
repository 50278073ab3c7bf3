"""What a model directory says of itself, and what a loaded model makes of raw features."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import records, training_data
from tests.fixtures.scoring import write_model
from vcls_model.commands import JobError, UsageError
from vcls_model.records.decoding import FrameBatch
from vcls_model.records.schema import VECTOR, Modality, RecordSchema
from vcls_model.serving import exported
from vcls_model.serving.export import EmbeddedTransform
from vcls_model.serving.exported import LoadedModel, describe, mapped_codes, read_model_info

MIXED = (*training_data.FRAME_SCHEMA.modalities, Modality("title", 4, VECTOR, "float32"))


@pytest.mark.parametrize("missing", ["info.json", "labels.csv", "saved_model/saved_model.pb"])
def test_a_model_without_one_of_its_parts_is_not_finished(missing: str, model: Path, tmp_path: Path) -> None:
    half = shutil.copytree(model, tmp_path / "half")
    (half / missing).unlink()
    with pytest.raises(UsageError, match=f"half has no {missing}: it is missing or incomplete"):
        read_model_info(str(half))


def test_damaged_variables_are_one_line(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    (data,) = (copy / "saved_model" / "variables").glob("*.data-*")
    data.write_bytes(b"")
    with pytest.raises(JobError, match=r"saved_model cannot be loaded: .+") as raised:
        LoadedModel(str(copy), 30)
    assert "\n" not in str(raised.value)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(JobError, match=r"variables.data.* is a pipe"):
        LoadedModel(str(copy), 30)


def test_a_damaged_transform_graph_is_one_line(graphs: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(graphs["video"], tmp_path / "data")
    for path in (copy / "transform_fn" / "variables").iterdir():
        path.write_bytes(b"")
    with pytest.raises(JobError, match=r"data holds no transform graph that can be loaded: .+") as raised:
        EmbeddedTransform(str(copy))
    assert "\n" not in str(raised.value)


def test_a_graph_that_fails_when_it_is_called_is_one_line(tmp_path: Path) -> None:
    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def features(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            tf.debugging.assert_greater(tf.reduce_sum(x), 1e9, message="no\nsuch records")
            return {"logits": x}

    failing = Failing()
    tf.saved_model.save(failing, str(tmp_path / "saved_model"), signatures={"features": failing.features})
    with pytest.raises(JobError, match=r"the model .* cannot be run: .*such records") as raised:
        LoadedModel(str(tmp_path), 2).logits({"x": np.zeros((3, 2), np.float32)})
    assert "\n" not in str(raised.value)


def test_what_a_caller_needs_is_there(model: Path) -> None:
    assert read_model_info(str(model))["class_count"] == 30
    with pytest.raises(UsageError, match=r"info.json lacks 'transformed': .* is not an exported model"):
        read_model_info(str(model), ("model", "transformed"))


def test_modalities_are_described_by_their_kinds() -> None:
    assert describe(MIXED[:2]) == "rgb[6] + audio[3] (frame-level)"
    assert describe(MIXED[2:]) == "title[4] (video-level)"
    assert describe(MIXED) == "rgb[6] (frames) + audio[3] (frames) + title[4] (vector)"


def frames_of(codes: list[np.ndarray]) -> FrameBatch:
    return FrameBatch.of(np.concatenate(codes), np.array([len(rows) for rows in codes]))


def test_codes_are_looked_up_by_column() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (5, 256)).astype(np.uint8)
    codes = [rng.integers(0, 256, (length, 5)).astype(np.uint8) for length in (3, 1, 4)]
    mapped = mapped_codes(frames_of(codes), table, 4)
    assert mapped.shape == (3, 4, 5)
    for row, rows in zip(mapped, codes, strict=True):
        assert row[: len(rows)].tolist() == [[table[d, code] for d, code in enumerate(frame)] for frame in rows]
        assert not row[len(rows) :].any()


def export(
    graph: Any, schema: RecordSchema, output: Path, *, max_frames: int = 300, frames: str = "all"
) -> dict[str, np.ndarray]:
    """Exports a linear model over the mean of the frames and the vectors; returns its weights by modality.

    Args:
        graph: directory of a transform graph, or a transform.
        schema: layout of the raw records.
        output: the model directory.
        max_frames, frames: which frames the model sees.
    """
    import tensorflow as tf

    from vcls_model.records.schema import FRAMES
    from vcls_model.records.transformed import TransformedModality
    from vcls_model.serving.export import EmbeddedTransform, ServingModule, save_module

    rng = np.random.default_rng(1)
    kernels = {each.name: rng.normal(size=(each.width, 7)).astype(np.float32) for each in schema.modalities}
    modalities = [
        TransformedModality(each.name, each.width, each.kind, "uint8", 8 / 255, -4.0)
        if each.kind == FRAMES
        else TransformedModality(each.name, each.width, each.kind, "float32")
        for each in schema.modalities
    ]

    def logits(features: dict) -> tf.Tensor:
        total = tf.constant(0.0)
        for each in schema.modalities:
            values = features[each.name]
            if each.kind == FRAMES:
                values = tf.reduce_sum(values, 1) / tf.cast(features["num_frames"], tf.float32)[:, None]
            total += values @ tf.constant(kernels[each.name])
        return total

    transform = EmbeddedTransform(str(graph)) if isinstance(graph, Path) else graph
    module = ServingModule(logits, schema, modalities, transform, [], max_frames=max_frames, frames=frames)
    save_module(module, module.signatures(), str(output))
    return kernels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("max_frames", "frames"),
    [pytest.param(300, "all", marks=pytest.mark.slow), (4, "all"), (4, "middle"), (3, "uniform")],
)
def test_codes_give_what_strings_give(
    max_frames: int, frames: str, graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More videos than one call takes; the signature `features`, which older models have alone, is the reference."""
    export(graphs["frame"], training_data.FRAME_SCHEMA, tmp_path, max_frames=max_frames, frames=frames)
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 12, 40)
    features = {
        each.name: frames_of([rng.integers(0, 256, (length, each.width)).astype(np.uint8) for length in lengths])
        for each in training_data.FRAME_SCHEMA.modalities
    }
    loaded = LoadedModel(str(tmp_path), 7)
    assert set(loaded._tables) == {"rgb", "audio"}
    by_codes = loaded.logits(features)
    assert by_codes.shape == (40, 7)
    monkeypatch.setattr(exported, "CODES_SIGNATURE", "none such")
    by_strings = LoadedModel(str(tmp_path), 7)
    assert by_strings._tables == {}
    np.testing.assert_allclose(by_codes, by_strings.logits(features), atol=1e-5)


def test_video_level_models_have_no_signature_for_codes(graphs: dict[str, Path], tmp_path: Path) -> None:
    import tensorflow as tf

    export(graphs["video"], training_data.VIDEO_SCHEMA, tmp_path)
    assert set(tf.saved_model.load(str(tmp_path / "saved_model")).signatures) == {
        "features",
        "transformed",
        "serving_default",
    }


def test_a_saved_model_replaces_an_older_one(graphs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "left_over").write_text("")
    export(graphs["video"], training_data.VIDEO_SCHEMA, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved_model"]
    assert not (tmp_path / "saved_model" / "left_over").exists()


def test_reading_a_model_imports_neither_tensorflow_nor_beam(model: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from vcls_model.serving.exported import read_exported_model as read; "
        f"assert read({str(model)!r}).class_count == 30; "
        "print(sorted({'tensorflow', 'apache_beam', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_other_graphs_than_the_directory_promises(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", classes=12)
    assert json.loads((directory / "info.json").read_text())["class_count"] == 12
    with pytest.raises(UsageError, match="gives 12 logits per record, its info.json says 11 classes"):
        LoadedModel(str(directory), 11)


def test_a_mixture_is_served_by_records_by_strings_and_by_codes(tmp_path: Path) -> None:
    """Frames and a vector of the whole video: each signature gives the same logits."""
    import tensorflow as tf

    class Transform(tf.Module):
        """Moves the vector, leaves the frames; as tf.Transform's graphs, without what it is not given."""

        def __call__(self, raw: dict) -> dict:
            outputs = {name: raw[name] for name in ("rgb", "audio") if name in raw}
            if "rgb" in raw:
                outputs["num_frames"] = tf.cast(tf.strings.length(raw["rgb"]) // 6, tf.int64)
            if "title" in raw:
                outputs["title"] = raw["title"] * 2 - 1
            return outputs

    schema = dataclasses.replace(training_data.FRAME_SCHEMA, modalities=MIXED)
    export(Transform(), schema, tmp_path)
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, 20)
    codes = {
        each.name: [rng.integers(0, 256, (length, each.width)).astype(np.uint8) for length in lengths]
        for each in MIXED[:2]
    }
    title = rng.normal(size=(20, 4)).astype(np.float32)
    loaded = LoadedModel(str(tmp_path), 7)
    assert set(loaded._inputs) == {"rgb", "audio", "title", "num_frames"}
    logits = loaded.logits({"title": title, **{name: frames_of(rows) for name, rows in codes.items()}})
    strings = {name: tf.constant([rows.tobytes() for rows in videos]) for name, videos in codes.items()}
    signatures = tf.saved_model.load(str(tmp_path / "saved_model")).signatures
    by_strings = signatures["features"](title=tf.constant(title), **strings)["logits"].numpy()
    np.testing.assert_allclose(logits, by_strings, atol=1e-5)
    videos = [
        records.Video(b"v", (), {"title": title[row], **{name: rows[row] for name, rows in codes.items()}})
        for row in range(20)
    ]
    serialized = tf.constant([video.sequence() for video in videos])
    np.testing.assert_allclose(signatures["serving_default"](serialized)["logits"].numpy(), by_strings, atol=1e-5)
    changed = loaded.logits({"title": title + 1, **{name: frames_of(rows) for name, rows in codes.items()}})
    assert (np.abs(changed - logits).max(axis=1) > 0.1).all()
