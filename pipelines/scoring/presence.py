"""Records whose modalities are ignored or counted as missing, and what each modality is worth."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from vcls_model.records.decoding import FeatureValues, FrameBatch
from vcls_model.records.encoding import BytesColumn

Features = Mapping[str, FeatureValues]


def subsets_of(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Each modality alone, then all but one; without any that holds all of them or comes twice.

    Example:
        >>> subsets_of(["rgb", "audio", "title"])[3:]
        (('audio', 'title'), ('rgb', 'title'), ('rgb', 'audio'))
    """
    alone = [(name,) for name in names]
    but_one = [tuple(name for name in names if name != other) for other in names]
    return tuple(dict.fromkeys(subset for subset in alone + but_one if 0 < len(subset) < len(names)))


def without(features: Features, names: Collection[str]) -> dict[str, FeatureValues]:
    """Features of records that all lack some modalities, see `RawBatch.features`."""
    return {name: _nothing(values) if name in names else values for name, values in features.items()}


def _nothing(values: FeatureValues) -> FeatureValues:
    if isinstance(values, BytesColumn):
        return BytesColumn(values.data, values.begins, np.zeros_like(values.lengths))
    if isinstance(values, FrameBatch):
        return FrameBatch(values.buffer, values.begins, values.strides, np.zeros_like(values.lengths), values.width)
    return np.full_like(values, np.nan)


def present(features: Features) -> np.ndarray:
    """Bool (M, B): which records have each modality."""
    return np.stack(
        [v.lengths > 0 if isinstance(v, FrameBatch | BytesColumn) else ~np.isnan(v[:, 0]) for v in features.values()]
    )


def select(features: Features, rows: np.ndarray) -> dict[str, FeatureValues]:
    """The records that a bool mask (B,) keeps."""
    return {name: v.select(rows) if isinstance(v, FrameBatch) else v[rows] for name, v in features.items()}
