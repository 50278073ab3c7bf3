"""The features of YouTube-8M from networks of one's own: Inception-v3 and VGGish with the dataset's whitened PCA.

Their files are not ours to ship: the user downloads them (docs/ENCODERS.md says which), and these functions put the
encoder together. The codes follow what wrote YouTube-8M's records: pictures are rounded, sound is truncated.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.encoders.custom import description_path, read_description
from vcls_model.encoders.projection import Projection, vggish_projection, youtube8m_projection

if TYPE_CHECKING:
    import keras

_INCEPTION: dict[str, Any] = {
    "name": "inception-v3-yt8m",
    "modality": "picture",
    "width": 1024,
    "range": [-2, 2],
    "rounding": "rounded",
    "licence": "Apache-2.0",
    "input": {
        "size": 299,
        "crop": "none",
        "resize": "bilinear",
        "mean": [127.5, 127.5, 127.5],
        "scale": [127.5, 127.5, 127.5],
        "layout": "nhwc",
    },
}
_VGGISH: dict[str, Any] = {
    "name": "vggish",
    "modality": "sound",
    "width": 128,
    "range": [-2, 2],
    "rounding": "truncated",
    "licence": "Apache-2.0",
    "input": {"features": "log_mel", "log_offset": 0.01},
}


def write_inception(model: "keras.Model", pca: Path, output: Path) -> Path:
    """An encoder of Inception-v3 with YouTube-8M's PCA.

    Args:
        model: takes (N, 299, 299, 3) in [-1, 1] and gives (N, 2048), such as
            `keras.applications.InceptionV3(include_top=False, pooling="avg")`.
        pca: directory with YouTube-8M's mean.npy, eigenvals.npy and eigenvecs.npy.
        output: directory for the encoder; made when absent.

    Returns:
        The path for `--image_encoder`.

    Raises:
        JobError: a file of the PCA is absent or of another shape.
    """
    projection = youtube8m_projection(pca)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "inception.keras"
    model.save(path)
    return _describe(path, _INCEPTION, projection)


def write_vggish(model: Path, pca: Path, shape: tuple[int, ...] = (96, 64)) -> Path:
    """An encoder of VGGish with its PCA: writes the description and the projection beside the model.

    Args:
        model: an ONNX file, a `.keras` file or a SavedModel's directory that gives (1, 128).
        pca: `vggish_pca_params.npz`.
        shape: of one log-mel patch as the model takes it, such as (96, 64), (96, 64, 1) or (1, 96, 64).

    Returns:
        The path for `--audio_encoder`.

    Raises:
        JobError: the PCA's file is absent or holds other arrays.
        UsageError: the model is absent, or the shape holds other than 96 × 64 values.
    """
    if not model.exists():
        raise UsageError(f"there is no encoder at {model}")
    return _describe(model, {**_VGGISH, "input": {**_VGGISH["input"], "shape": list(shape)}}, vggish_projection(pca))


def _describe(model: Path, description: dict[str, Any], projection: Projection) -> Path:
    beside = description_path(model)
    file = beside.with_name(beside.stem + "_pca.npz")
    projection.save(file)
    storage.write_json(str(beside), {**description, "projection": file.name})
    read_description(model)
    return model
