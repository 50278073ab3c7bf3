"""Linear projections after a network: the PCA with whitening of YouTube-8M and of VGGish.

Both are files that their authors distribute; this module reads them and writes one form, `projection.npz` with `mean`
(d,) and `matrix` (d, width), which a custom encoder's description names.
"""

import dataclasses
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError

_YOUTUBE8M_WIDTH = 1024
_YOUTUBE8M_EPSILON = 1e-4


@dataclasses.dataclass(frozen=True)
class Projection:
    """(x - mean) @ matrix.

    Attributes:
        mean: (d,) float64.
        matrix: (d, width) float64.
    """

    mean: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]

    def __call__(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, width) float32 of features (N, d), each row computed for itself."""
        # Sums row by row without BLAS, whose order of summing follows the number of rows and of threads.
        centred = features.astype(np.float64) - self.mean
        return np.stack([np.einsum("d,dw->w", row, self.matrix) for row in centred]).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes the form that `read_projection` reads."""
        stream = io.BytesIO()
        np.savez(stream, mean=self.mean, matrix=self.matrix)
        storage.write_atomically(str(path), stream.getvalue())


def read_projection(path: Path, width: int) -> Projection:
    """A projection to `width` values.

    Raises:
        UsageError: the file is absent, or is not an .npz with `mean` and `matrix` that fit each other and the width.
    """
    try:
        mean, matrix = _arrays(path, ("mean", "matrix"))
    except JobError as error:
        raise tables.as_usage_error(error) from None
    if mean.ndim != 1 or matrix.shape != (len(mean), width):
        raise UsageError(
            f"{path}: mean {mean.shape} and matrix {matrix.shape} do not project to {width} values: expected (d,) and "
            f"(d, {width})"
        )
    return Projection(mean, matrix)


def youtube8m_projection(directory: Path) -> Projection:
    """YouTube-8M's whitened PCA of Inception-v3's 2,048 values to 1,024.

    Its files are `mean.npy`, `eigenvals.npy` and `eigenvecs.npy`:
    (x - mean) E / sqrt(eigenvalue + 1e-4), the first 1,024 components (google/youtube-8m, feature_extractor).

    Raises:
        JobError: a file is absent or of another shape.
    """
    files = [directory / f"{name}.npy" for name in ("mean", "eigenvals", "eigenvecs")]
    mean, values, vectors = (_numbers(tables.read_npy(str(_there(file))), str(file)) for file in files)
    inputs = mean.shape[0] if mean.ndim == 2 else 0
    if (
        mean.shape != (inputs, 1)
        or values.ndim != 2
        or len(values) < _YOUTUBE8M_WIDTH
        or vectors.shape[1:] != (inputs,)
    ):
        raise JobError(
            f"{directory}: expected YouTube-8M's mean (2048, 1), eigenvals (2048, 1) and eigenvecs (2048, 2048), got "
            f"{mean.shape}, {values.shape} and {vectors.shape}"
        )
    deviation = np.sqrt(values[:_YOUTUBE8M_WIDTH, 0] + _YOUTUBE8M_EPSILON)
    return Projection(mean[:, 0], vectors.T[:, :_YOUTUBE8M_WIDTH] / deviation)


def vggish_projection(path: Path) -> Projection:
    """VGGish's PCA of its 128 values, from `vggish_pca_params.npz`.

    Its matrix has the whitening in it already, with one component per row (tensorflow/models, vggish_postprocess).

    Raises:
        JobError: the file is absent or holds other arrays.
    """
    vectors, means = _arrays(path, ("pca_eigen_vectors", "pca_means"))
    mean = means.reshape(-1)
    if vectors.ndim != 2 or vectors.shape[1] != len(mean):
        raise JobError(f"{path}: pca_eigen_vectors {vectors.shape} do not fit pca_means {mean.shape}")
    return Projection(mean, vectors.T)


def _arrays(path: Path, names: tuple[str, str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    arrays = tables.read_npz(str(_there(path)), names)
    one, other = (_numbers(arrays[name], f"{path}: the array {name}") for name in names)
    return one, other


def _there(path: Path) -> Path:
    if not path.exists():
        raise JobError(f"{path} is not there")
    return path


def _numbers(array: np.ndarray, what: str) -> npt.NDArray[np.float64]:
    if array.dtype.kind not in "fiu":
        raise JobError(f"{what} must hold numbers, got {array.dtype} values")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise JobError(f"{what} holds a value that is not finite")
    return values
