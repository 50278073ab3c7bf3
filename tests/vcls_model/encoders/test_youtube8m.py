"""The worked examples of docs/ENCODERS.md, on stand-ins of the real files' shapes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vcls_model.encoders.synthetic import melody, picture
from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import load_encoder
from vcls_model.encoders.custom import description_path, read_description
from vcls_model.encoders.youtube8m import write_inception, write_vggish

GENERATOR = np.random.default_rng(11)


@pytest.fixture(scope="module")
def inception() -> Any:
    """Takes and gives what Inception-v3 does: mean colours of the picture's quarters, spread over 2,048 values."""
    import keras

    layer = keras.layers
    inputs = layer.Input((299, 299, 3))
    quarters = layer.Flatten()(layer.AveragePooling2D(149)(inputs))
    return keras.Model(inputs, layer.Dense(2048, "relu")(quarters))


@pytest.fixture(scope="module")
def pca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YouTube-8M's three arrays, by shape."""
    directory = tmp_path_factory.mktemp("pca")
    np.save(directory / "mean.npy", GENERATOR.random((2048, 1)).astype(np.float32))
    np.save(directory / "eigenvals.npy", np.sort(GENERATOR.random((2048, 1)).astype(np.float32), axis=0)[::-1])
    np.save(directory / "eigenvecs.npy", (GENERATOR.standard_normal((2048, 2048)) / 45).astype(np.float32))
    return directory


def test_inception_with_the_pca_of_youtube8m(inception: Any, pca: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(write_inception(inception, pca, tmp_path / "inception")), "picture")
    batch = np.stack([encoder.info.input.prepare(picture(120, 200, seed)) for seed in range(2)])
    features = inception(batch / np.float32(127.5) - 1).numpy()
    # As google/youtube-8m's extractor does it: centre, project, whiten, clip, round.
    mean, values, vectors = (np.load(pca / f"{name}.npy") for name in ("mean", "eigenvals", "eigenvecs"))
    whitened = (features - mean[:, 0]) @ vectors.T[:, :1024] / np.sqrt(values[:1024, 0] + 1e-4)
    np.testing.assert_allclose(encoder.encode(batch), whitened, atol=1e-3)
    codes = encoder.encode_codes(batch).astype(int)
    expected = np.rint((np.clip(whitened, -2, 2) + 2) * 255 / 4).astype(int)
    assert np.abs(codes - expected).max() <= 1 and (codes == expected).mean() > 0.99
    assert encoder.info.rounding == "rounded"


def test_a_pca_of_another_shape_is_refused(inception: Any, pca: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="mean.npy is not there"):
        write_inception(inception, tmp_path, tmp_path / "inception")
    for name in ("mean", "eigenvals"):
        np.save(tmp_path / f"{name}.npy", np.load(pca / f"{name}.npy"))
    np.save(tmp_path / "eigenvecs.npy", np.zeros((2048, 1024), np.float32))
    with pytest.raises(
        JobError, match=r"expected YouTube-8M's mean .* got \(2048, 1\), \(2048, 1\) and \(2048, 1024\)"
    ):
        write_inception(inception, tmp_path, tmp_path / "inception")


def write_means(path: Path, shape: list[int], width: int) -> tuple[Path, np.ndarray]:
    """An ONNX model that flattens its input and multiplies it by a matrix, and the matrix."""
    from onnx import TensorProto, helper, numpy_helper, save

    matrix = (GENERATOR.standard_normal((int(np.prod(shape)), width)) / 80).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["patch"], ["flat"]), helper.make_node("MatMul", ["flat", "matrix"], ["values"])],
        "stand_in",
        [helper.make_tensor_value_info("patch", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path, matrix


def test_vggish_with_its_pca(tmp_path: Path) -> None:
    model, matrix = write_means(tmp_path / "vggish.onnx", [1, 96, 64], 128)
    vectors, means = GENERATOR.standard_normal((128, 128)) / 8, GENERATOR.random((128, 1))
    np.savez(tmp_path / "vggish_pca_params.npz", pca_eigen_vectors=vectors, pca_means=means)
    encoder = load_encoder(str(write_vggish(model, tmp_path / "vggish_pca_params.npz", (1, 96, 64))), "sound")
    patches = encoder.info.input.patches(melody(), 3)
    values = encoder.info.input.network_input(patches).reshape(3, -1) @ matrix
    # As VGGish's post-processor does it: centre, project, clip, cut off.
    projected = (vectors @ (values.T - means)).T
    np.testing.assert_allclose(encoder.encode(patches), projected, atol=1e-3)
    codes = encoder.encode_codes(patches).astype(int)
    expected = ((np.clip(projected, -2, 2) + 2) * (255 / 4)).astype(np.uint8).astype(int)
    assert np.abs(codes - expected).max() <= 1 and (codes == expected).mean() > 0.99


def test_a_vggish_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no encoder at"):
        write_vggish(tmp_path / "vggish.onnx", tmp_path / "pca.npz")
    model, _ = write_means(tmp_path / "vggish.onnx", [96, 64], 128)
    np.savez(tmp_path / "pca.npz", other=np.zeros(3))
    with pytest.raises(JobError, match="pca.npz has no array pca_eigen_vectors; it holds other"):
        write_vggish(model, tmp_path / "pca.npz")


def test_the_descriptions_in_the_document_are_right(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    text = (request.config.rootpath / "docs" / "ENCODERS.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.S)]
    assert [block["name"] for block in blocks] == ["clip-vit-base-patch32", "vggish"]
    clip, vggish = blocks
    model = tmp_path / "clip.onnx"
    model.write_bytes(b"")
    description_path(model).write_text(json.dumps(clip))
    assert read_description(model).info.input.row_shape == (224, 224, 3)
    model, _ = write_means(tmp_path / "vggish.onnx", [1, 96, 64], 128)
    np.savez(tmp_path / "params.npz", pca_eigen_vectors=np.eye(128), pca_means=np.zeros((128, 1)))
    write_vggish(model, tmp_path / "params.npz", (1, 96, 64))
    assert json.loads(description_path(model).read_text()) == vggish
