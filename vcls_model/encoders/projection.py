"""Linear projections after a network: the PCA with whitening of YouTube-8M and of VGGish.

Both are files that their authors distribute; this module reads them and writes one form, `projection.npz` with `mean`
(d,) and `matrix` (d, width), which a custom encoder's description names.
"""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
        np.savez(path, mean=self.mean, matrix=self.matrix)


def read_projection(path: Path, width: int) -> Projection:
    """A projection to `width` values.

    Raises:
        UsageError: the file is absent, or is not an .npz with `mean` and `matrix` that fit each other and the width.
    """
    arrays = _load(path, UsageError)
    if not isinstance(arrays, dict) or not {"mean", "matrix"} <= arrays.keys():
        raise UsageError(f"{path}: expected an .npz file with the arrays mean and matrix")
    mean, matrix = arrays["mean"], arrays["matrix"]
    if mean.ndim != 1 or matrix.shape != (len(mean), width):
        raise UsageError(
            f"{path}: mean {mean.shape} and matrix {matrix.shape} do not project to {width} values: expected (d,) and "
            f"(d, {width})"
        )
    return Projection(mean.astype(np.float64), matrix.astype(np.float64))


def youtube8m_projection(directory: Path) -> Projection:
    """YouTube-8M's whitened PCA of Inception-v3's 2,048 values to 1,024.

    Its files are `mean.npy`, `eigenvals.npy` and `eigenvecs.npy`:
    (x - mean) E / sqrt(eigenvalue + 1e-4), the first 1,024 components (google/youtube-8m, feature_extractor).

    Raises:
        JobError: a file is absent or of another shape.
    """
    mean, values, vectors = (_array(directory / f"{name}.npy") for name in ("mean", "eigenvals", "eigenvecs"))
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
    kept = vectors.T[:, :_YOUTUBE8M_WIDTH].astype(np.float64)
    deviation = np.sqrt(values[:_YOUTUBE8M_WIDTH, 0].astype(np.float64) + _YOUTUBE8M_EPSILON)
    return Projection(mean[:, 0].astype(np.float64), kept / deviation)


def vggish_projection(path: Path) -> Projection:
    """VGGish's PCA of its 128 values, from `vggish_pca_params.npz`.

    Its matrix has the whitening in it already, with one component per row (tensorflow/models, vggish_postprocess).

    Raises:
        JobError: the file is absent or holds other arrays.
    """
    arrays = _load(path, JobError)
    if not isinstance(arrays, dict) or not {"pca_eigen_vectors", "pca_means"} <= arrays.keys():
        raise JobError(f"{path}: expected an .npz file with the arrays pca_eigen_vectors and pca_means")
    vectors, mean = arrays["pca_eigen_vectors"], arrays["pca_means"].reshape(-1)
    if vectors.ndim != 2 or vectors.shape[1] != len(mean):
        raise JobError(f"{path}: pca_eigen_vectors {vectors.shape} do not fit pca_means {mean.shape}")
    return Projection(mean.astype(np.float64), vectors.T.astype(np.float64))


def _array(path: Path) -> npt.NDArray[np.float64]:
    array = _load(path, JobError)
    if isinstance(array, dict):
        raise JobError(f"{path}: expected one array")
    return array


def _load(
    path: Path, failure: type[JobError] | type[UsageError]
) -> npt.NDArray[np.float64] | dict[str, npt.NDArray[np.float64]]:
    """One array, or several by name; never a pickle."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise failure(f"{path} cannot be read as numpy's file: {error}") from error
