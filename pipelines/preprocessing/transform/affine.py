"""Normalising without TensorFlow: what the transform graph does wherever each value depends on one raw value alone.

The arithmetic is that of the graph, operation by operation in float32, so that the bytes written are those the graph
gives; `check_against_graph` holds the two together in every run.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from pipelines.preprocessing.config import TransformConfig
from pipelines.preprocessing.moments import Moments
from vcls_model.records.encoding import CodeMap
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, FRAMES

if TYPE_CHECKING:
    from pipelines.preprocessing.transform.graph import TransformGraph

CODES = 256
_PROBES = 64


def affine_of(normalise: str, moments: Moments) -> np.ndarray:
    """What normalising subtracts and multiplies by, float32 (2, D).

    Where the training values do not vary, the factor is 1: the result is 0 for the value seen in training.
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
        affine: by video-level modality: float32 (2, D), see `affine_of`.
        codes: by frame-level modality: what its codes become.
    """

    affine: dict[str, np.ndarray]
    codes: dict[str, CodeMap]

    @classmethod
    def of(cls, config: TransformConfig, statistics: dict[str, Moments]) -> "AffineTransform":
        """From the statistics of the training records; `config` must be affine."""
        assert config.is_affine
        affine, codes = {}, {}
        for modality in config.schema.modalities:
            fitted = affine_of(config.normalise, statistics[modality.name])
            if modality.kind == FRAMES:
                codes[modality.name] = CodeMap.of(
                    fitted, (DEQUANTISE_SCALE, DEQUANTISE_OFFSET), config.code_range(modality)
                )
            else:
                affine[modality.name] = fitted
        return cls(affine, codes)

    def check_against_graph(
        self, graph: "TransformGraph", config: TransformConfig, statistics: dict[str, Moments]
    ) -> None:
        """Compares with what the graph does: every code in every dimension, or probes of float32.

        Raises:
            RuntimeError: they differ by more than another processor's rounding could (one code, or 2e-6 of a value), so
                that what is written would not be what the exported model computes.
        """
        if self.codes:
            ramps = {
                name: np.repeat(np.arange(CODES, dtype=np.uint8)[:, np.newaxis], mapping.affine.shape[1], axis=1)
                for name, mapping in self.codes.items()
            }
            outputs = graph({name: [ramp.tobytes()] for name, ramp in ramps.items()})
            expected = {
                name: np.frombuffer(outputs[name][0], np.uint8).reshape(ramp.shape) for name, ramp in ramps.items()
            }
            found = {name: self.codes[name](ramp) for name, ramp in ramps.items()}
        else:
            probes = {modality.name: _probes(statistics[modality.name]) for modality in config.schema.modalities}
            expected = graph(probes)
            found = {name: (probes[name] - location) * factor for name, (location, factor) in self.affine.items()}
        for name, values in found.items():
            difference = np.abs(values.astype(np.float64) - expected[name])
            if (difference > (1 if self.codes else 2e-6 * (1 + np.abs(values)))).any():
                raise RuntimeError(
                    f"the transform graph and the kernels differ in {name!r} by up to {difference.max():g}"
                )


def _probes(moments: Moments) -> np.ndarray:
    """Raw values float32 (P, D) as they occur, and some that do not."""
    draws = np.random.default_rng(0).normal(size=(_PROBES, len(moments.mean)))
    draws[:4] *= [[0.0], [1e-6], [1e3], [1e9]]
    return (moments.mean + moments.std * draws).astype(np.float32)
