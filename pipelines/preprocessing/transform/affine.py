"""Normalising without TensorFlow, wherever each transformed value depends on one raw value alone.

The arithmetic is that of the transform graph, operation by operation in float32, so that the bytes written are those
that the graph gives; `graph.check_against_kernels` compares the two in every run.
"""

import dataclasses

import numpy as np

from pipelines.preprocessing.config import TransformConfig
from pipelines.preprocessing.statistics import Fitted, Moments
from vcls_model.records.encoding import CodeMap
from vcls_model.records.schema import FRAMES, TEXT, Quantisation


def affine_of(normalise: str, moments: Moments) -> np.ndarray:
    """What normalising subtracts and multiplies by, float32 (2, D).

    Where the training values do not vary, the factor is 1: the result is 0 for the value seen in training.

    Args:
        normalise: `zscore`, `minmax` or `none`.
        moments: of the raw values of one modality.
    """
    if normalise == "zscore":
        location, spread = moments.mean, moments.std
    elif normalise == "minmax":
        location, spread = moments.lowest, moments.highest - moments.lowest
    else:
        location, spread = np.zeros_like(moments.mean), np.ones_like(moments.mean)
    # A spread below what float32 can tell from 0 beside the location is rounding, not spread.
    flat = spread <= np.abs(location) * 1e-7
    return np.stack([location, 1.0 / np.where(flat, 1.0, spread)]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class AffineTransform:
    """Statistics made ready for the kernels.

    Attributes:
        affine: by modality of vectors: float32 (2, D), see `affine_of`.
        codes: by modality of frames: what its codes, or values, become.
    """

    affine: dict[str, np.ndarray]
    codes: dict[str, CodeMap]

    @classmethod
    def of(cls, config: TransformConfig, statistics: Fitted) -> "AffineTransform":
        """From the statistics of the training records; `config` must be affine."""
        if not config.is_affine:
            raise ValueError("the kernels know no transform but an affine one")
        affine, codes = {}, {}
        for modality in config.schema.modalities:
            if modality.kind == TEXT:
                continue
            moments = statistics[modality.name]
            assert isinstance(moments, Moments)
            fitted = affine_of(config.normalise, moments)
            if modality.kind == FRAMES:
                read = modality.quantisation if modality.coded else Quantisation(1.0, 0.0)
                codes[modality.name] = CodeMap.of(fitted, read, config.code_range(modality))
            else:
                affine[modality.name] = fitted
        return cls(affine, codes)
