"""Encoders of the user's own, and the description beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vcls_model.encoders.synthetic import melody, picture
from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import encoder_info, load_encoder
from vcls_model.encoders.custom import description_path
from vcls_model.encoders.projection import Projection

PICTURE: dict[str, Any] = {
    "name": "colours",
    "modality": "picture",
    "width": 3,
    "range": [-1, 1],
    "licence": "CC0-1.0",
    "input": {"size": 8, "mean": [127.5] * 3, "scale": [127.5] * 3, "layout": "nchw"},
}
SOUND: dict[str, Any] = {
    "name": "loudness",
    "modality": "sound",
    "width": 64,
    "range": [-10, 10],
    "licence": "CC0-1.0",
    "input": {"features": "log_mel", "log_offset": 0.01},
}


def write_onnx(path: Path, shape: list[int], axes: list[int], outputs: int = 1) -> Path:
    """A model that takes the mean over `axes`, with as many equal outputs as asked for."""
    from onnx import TensorProto, helper, save

    names = [f"mean{number}" for number in range(outputs)]
    nodes = [helper.make_node("ReduceMean", ["pixels"], [name], axes=axes, keepdims=0) for name in names]
    left = [size for axis, size in enumerate(shape) if axis not in axes]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, left) for name in names],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def describe(model: Path, description: Any) -> Path:
    description_path(model).write_text(json.dumps(description))
    return model


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """The mean colour of a picture, in [-1, 1]."""
    return describe(write_onnx(tmp_path / "colours.onnx", [1, 3, 8, 8], [2, 3]), PICTURE)


def test_an_onnx_picture_encoder(colours: Path) -> None:
    encoder = load_encoder(str(colours), "picture")
    spec = encoder.info.input
    batch = np.stack([spec.prepare(picture(40, 60, seed)) for seed in range(4)])
    features = encoder.encode(batch)
    np.testing.assert_allclose(features, batch.mean((1, 2)) / 127.5 - 1, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode_codes(batch), np.floor((features.astype(float) + 1) * 128))
    np.testing.assert_array_equal(encoder.encode(batch[::-1])[::-1], features)
    assert encoder.info == encoder_info(str(colours), "picture")
    assert (encoder.info.name, encoder.info.version, encoder.info.width) == ("colours", "1", 3)


def test_an_onnx_sound_encoder(tmp_path: Path) -> None:
    encoder = load_encoder(str(describe(write_onnx(tmp_path / "l.onnx", [1, 96, 64], [1]), SOUND)), "sound")
    patches = encoder.info.input.patches(melody(), 4)
    expected = encoder.info.input.network_input(patches).mean(axis=1)
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-4)


def test_a_sound_encoder_that_takes_the_waveform(tmp_path: Path) -> None:
    description = {**SOUND, "width": 2, "input": {"features": "waveform", "samples": 16_000, "shape": [2, 8_000]}}
    encoder = load_encoder(str(describe(write_onnx(tmp_path / "w.onnx", [1, 2, 8_000], [2]), description)), "sound")
    patches = encoder.info.input.patches(np.arange(20_000, dtype=np.float32) / 20_000, 2)
    np.testing.assert_allclose(encoder.encode(patches), patches.reshape(2, 2, 8_000).mean(2), atol=1e-5)


@pytest.fixture(scope="module")
def keras_model() -> Any:
    import keras

    layer = keras.layers
    inputs = layer.Input((8, 8, 3))
    return keras.Model(inputs, layer.GlobalAveragePooling2D()(inputs))


@pytest.mark.parametrize("kind", ["keras", "savedmodel"])
def test_a_model_of_tensorflow(tmp_path: Path, keras_model: Any, kind: str) -> None:
    model = tmp_path / ("colours.keras" if kind == "keras" else "colours.v2")
    if kind == "keras":
        keras_model.save(model)
    else:
        keras_model.export(str(model), verbose=False)
    describe(model, {**PICTURE, "input": {**PICTURE["input"], "layout": "nhwc", "channels": "bgr"}})
    encoder = load_encoder(str(model), "picture")
    batch = np.stack([picture(8, 8, seed) for seed in range(3)])
    expected = batch.mean((1, 2))[:, ::-1] / 127.5 - 1
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(batch[1:2]), encoder.encode(batch)[1:2])


def test_a_projection_follows_the_network(colours: Path) -> None:
    generator = np.random.default_rng(3)
    projection = Projection(generator.standard_normal(3), generator.standard_normal((3, 2)))
    projection.save(colours.with_name("pca.npz"))
    plain = load_encoder(str(colours), "picture")
    describe(colours, {**PICTURE, "width": 2, "projection": "pca.npz"})
    encoder = load_encoder(str(colours), "picture")
    batch = picture(8, 8)[None]
    np.testing.assert_allclose(
        encoder.encode(batch), (plain.encode(batch) - projection.mean) @ projection.matrix, atol=1e-5
    )
    assert encoder.info.weights_sha256 != plain.info.weights_sha256


def test_a_projection_that_does_not_fit_is_refused(colours: Path) -> None:
    describe(colours, {**PICTURE, "width": 2, "projection": "pca.npz"})
    with pytest.raises(UsageError, match="pca.npz is not there"):
        load_encoder(str(colours), "picture")
    np.savez(colours.with_name("pca.npz"), mean=np.array(["a"]), matrix=np.zeros((1, 2)))
    with pytest.raises(UsageError, match="pca.npz: the array mean must hold numbers, got <U1 values"):
        load_encoder(str(colours), "picture")
    Projection(np.zeros(3), np.zeros((3, 4))).save(colours.with_name("pca.npz"))
    with pytest.raises(UsageError, match=r"mean \(3,\) and matrix \(3, 4\) do not project to 2 values"):
        load_encoder(str(colours), "picture")
    Projection(np.zeros(5), np.zeros((5, 2))).save(colours.with_name("pca.npz"))
    with pytest.raises(UsageError, match=r"gives \(1, 3\), its projection takes \(1, 5\)"):
        load_encoder(str(colours), "picture")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 3}, "has the unknown key 'widht'; did you mean 'width'"),
        ({"colour": 3}, r"has the unknown key 'colour' \(known: modality, width,"),
        ({"width": None}, "width must be a whole number from 1 to 65536, got null"),
        ({"width": True}, "width must be a whole number"),
        ({"width": 0}, "width must be a whole number"),
        ({"modality": "smell"}, 'modality must be one of picture, sound, got "smell"'),
        ({"range": [1, -1]}, "range must increase"),
        ({"range": [0]}, "range must be a list of 2 numbers"),
        ({"range": [0, float("nan")]}, "range must be a list of 2 numbers"),
        ({"range": [0, 10**400]}, "range must be a list of 2 numbers"),
        ({"name": " "}, "name must be a text that is not empty"),
        ({"rounding": "up"}, "rounding must be one of midpoint, rounded, truncated"),
        ({"input": [1]}, "input must be a JSON object"),
        ({"output": "other"}, "there is no output 'other'; .* has mean0"),
    ],
)
def test_a_wrong_description_is_refused(colours: Path, change: dict[str, Any], message: str) -> None:
    describe(colours, {**PICTURE, **change})
    with pytest.raises(UsageError, match=message):
        load_encoder(str(colours), "picture")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [1, 0, 1]}, "input: scale must be a list of 3 numbers other than 0"),
        ({"crop": 0}, r"crop must be a share of the shorter side in \(0, 1\]"),
        ({"size": 100_000}, "size must be a whole number from 1 to 4096"),
        ({"layout": "hwc"}, "layout must be one of nhwc, nchw"),
        ({"features": "log_mel"}, "input has the unknown key 'features'"),
    ],
)
def test_a_wrong_input_is_refused(colours: Path, change: dict[str, Any], message: str) -> None:
    describe(colours, {**PICTURE, "input": {**PICTURE["input"], **change}})
    with pytest.raises(UsageError, match=message):
        load_encoder(str(colours), "picture")


@pytest.mark.parametrize("key", ["name", "modality", "width", "range", "licence"])
def test_a_missing_key_is_named(colours: Path, key: str) -> None:
    describe(colours, {name: value for name, value in PICTURE.items() if name != key})
    with pytest.raises(UsageError, match=f"colours.json lacks the key '{key}'"):
        load_encoder(str(colours), "picture")


def test_a_sound_shape_must_hold_the_patch(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "l.onnx", [1, 96, 64], [1])
    describe(model, {**SOUND, "input": {**SOUND["input"], "shape": [96, 32]}})
    with pytest.raises(UsageError, match=r"shape \[96, 32\] does not hold 6144 values"):
        load_encoder(str(model), "sound")
    describe(model, {**SOUND, "input": {**SOUND["input"], "shape": 5}})
    with pytest.raises(UsageError, match="shape must be a list of whole numbers"):
        load_encoder(str(model), "sound")
    describe(model, {**SOUND, "input": {"features": "log_mel", "log_offset": 0}})
    with pytest.raises(UsageError, match="log_offset must be positive"):
        load_encoder(str(model), "sound")


def test_what_is_not_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no encoder at"):
        load_encoder(str(tmp_path / "absent.onnx"), "picture")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="neither an .onnx file"):
        load_encoder(str(tmp_path / "empty"), "picture")
    model = write_onnx(tmp_path / "alone.onnx", [1, 3, 8, 8], [2, 3])
    with pytest.raises(UsageError, match="needs a description of its input in .*alone.json"):
        load_encoder(str(model), "picture")
    description_path(model).write_text("{")
    with pytest.raises(UsageError, match="alone.json is not JSON"):
        load_encoder(str(model), "picture")


def test_a_file_that_is_no_model_is_refused(colours: Path) -> None:
    colours.write_bytes(b"not a model")
    with pytest.raises(JobError, match="colours.onnx cannot be loaded: "):
        load_encoder(str(colours), "picture")


def test_a_model_of_another_shape_is_refused(colours: Path, tmp_path: Path) -> None:
    write_onnx(colours, [1, 3, 9, 9], [2, 3])
    with pytest.raises(JobError, match="does not run on its described input"):
        load_encoder(str(colours), "picture")
    write_onnx(colours, [1, 3, 8, 8], [1, 2])
    with pytest.raises(UsageError, match=r"gives \(1, 8\), its description says \(1, 3\)"):
        load_encoder(str(colours), "picture")


def test_a_model_with_several_outputs_needs_one_named(colours: Path) -> None:
    write_onnx(colours, [1, 3, 8, 8], [2, 3], outputs=2)
    with pytest.raises(UsageError, match="no output is named; .* has mean0, mean1"):
        load_encoder(str(colours), "picture")
    describe(colours, {**PICTURE, "output": "mean1"})
    assert load_encoder(str(colours), "picture").encode(np.zeros((1, 8, 8, 3), np.uint8)).tolist() == [[-1, -1, -1]]


def test_a_description_for_the_other_modality_is_refused(colours: Path) -> None:
    with pytest.raises(UsageError, match="is a picture encoder, where a sound encoder is needed"):
        load_encoder(str(colours), "sound")


def test_a_recorded_encoder_is_no_other(colours: Path) -> None:
    own = encoder_info(str(colours), "picture")
    own.check_same(own.as_json(), "records")
    with pytest.raises(
        JobError, match="records was made by the picture encoder 'colours' .* not by 'efficientnet-lite0'"
    ):
        encoder_info("efficientnet-lite0", "picture").check_same(own.as_json(), "records")


def test_the_identity_follows_the_model_and_its_input(colours: Path) -> None:
    first = encoder_info(str(colours), "picture")
    describe(colours, {**PICTURE, "input": {**PICTURE["input"], "crop": 0.5}})
    with pytest.raises(JobError, match="their input differ"):
        encoder_info(str(colours), "picture").check_same(first.as_json(), "records")
    colours.write_bytes(colours.read_bytes() + b"\x00")
    assert encoder_info(str(colours), "picture").weights_sha256 != first.weights_sha256
