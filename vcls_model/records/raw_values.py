"""The raw values behind the normalised ones of a transformed dataset. numpy only."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.schema import TEXT
from vcls_model.records.transformed import TransformedData, TransformedModality
from vcls_model.states import FeatureStatistics, read_state

# Squared lengths below this are those of zero vectors, as for `tf.math.l2_normalize`.
_LEAST_SQUARE = 1e-12


@dataclasses.dataclass(frozen=True)
class RawValues:
    """What preprocess did to the values of one modality: raw = transformed · spread + location.

    Attributes:
        location: float32 (D,).
        spread: float32 (D,).
    """

    location: np.ndarray
    spread: np.ndarray

    def unit(self, transformed: np.ndarray) -> np.ndarray:
        """Raw vectors scaled to a length of 1, float32 (…, D), of transformed ones (…, D); see `layers.UnitInput`."""
        raw = transformed * self.spread + self.location
        squares = np.sum(np.square(raw), axis=-1, keepdims=True)
        return np.asarray(raw / np.sqrt(np.maximum(squares, _LEAST_SQUARE)), np.float32)


def normalisation_of(data: TransformedData) -> str | None:
    """How preprocess normalised a dataset: its `--normalise`, `pca`, or None where its `info.json` does not say."""
    config = data.info.get("config")
    if not isinstance(config, dict) or "normalise" not in config:
        return None
    return "pca" if config.get("pca_dims") else str(config["normalise"])


def find_raw_values(data: TransformedData, modalities: Sequence[TransformedModality]) -> dict[str, RawValues]:
    """How to undo the normalisation of a dataset, by modality; nothing is known of texts.

    Of `--normalise=l2` the lengths are lost, but not the directions, which are all that is left of a raw vector once it
    is scaled to a length of 1. Pooled means and top values of frames are undone as the frames are, their standard
    deviations by the factor alone.

    Raises:
        UsageError: the normalisation cannot be undone (PCA), or the dataset does not say what it is.
    """
    normalise = normalisation_of(data)
    if normalise not in ("zscore", "minmax", "l2", "none"):
        reason = "PCA has whitened its features" if normalise == "pca" else "its info.json does not say what it is"
        raise UsageError(f"the normalisation of {data.directory} cannot be undone: {reason}")
    names = {modality.name for modality in data.schema.modalities}
    raw = {}
    for modality in modalities:
        if modality.kind == TEXT:
            continue
        # What preprocess pools from `rgb` is called `rgb_mean`, `rgb_std` and `rgb_top5`.
        source, _, pool = (modality.name, "", "") if modality.name in names else modality.name.rpartition("_")
        location, spread = np.zeros(modality.width), np.ones(modality.width)
        if normalise in ("zscore", "minmax"):
            location, spread = _location_and_spread(data, source, normalise)
        if pool == "std":
            location = np.zeros_like(location)
        raw[modality.name] = RawValues(location.astype(np.float32), spread.astype(np.float32))
    return raw


def _location_and_spread(data: TransformedData, name: str, normalise: str) -> tuple[np.ndarray, np.ndarray]:
    """What preprocess subtracted from a modality and divided it by, float64 (D,) each."""
    zscore = normalise == "zscore"
    path = storage.join(data.directory, *(("info.json",) if zscore else ("manifests", "moments.json")))
    try:
        if zscore:
            statistics = data.info["statistics"]["features"][name]
            location, spread = np.array(statistics["mean"]), np.array(statistics["std"])
        else:
            extremes = read_state(path, dict[str, FeatureStatistics])[name]
            location = np.array(extremes["lowest"])
            spread = np.array(extremes["highest"]) - location
    except (KeyError, ValueError) as error:
        raise JobError(f"{path} is damaged: it lacks statistics of {name} ({error})") from None
    # Where the training values do not vary, preprocess only subtracts.
    return location, np.where(spread <= np.abs(location) * 1e-7, 1.0, spread)
