"""What a trunk reads, and the layers that several trunks share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import KerasTensor

# Running statistics that adapt within a hundred steps: small datasets have no more than that per epoch.
BATCH_NORM_MOMENTUM = 0.95


@dataclasses.dataclass(frozen=True)
class Branch:
    """The features that go through one trunk: one modality's, or all of them joined.

    Attributes:
        features: symbolic float (B, D) or (B, T, D).
        frame_mask: symbolic bool (B, T) for frame-level features, else None.
        options: the model's hyperparameters.
        prefix: starts the names of the trunk's layers.
        narrow: the branch of a modality much narrower than the widest one, which gets half the units (as NeXtVLAD and
            Gated NetVLAD do with the audio).
    """

    features: KerasTensor
    frame_mask: KerasTensor | None
    options: Mapping[str, Any]
    prefix: str
    narrow: bool

    def units(self, count: int) -> int:
        """`count`, or half of it in a narrow branch."""
        return max(1, count // 2) if self.narrow else count

    def name(self, layer: str) -> str:
        """The full name of the trunk's layer called `layer`."""
        return self.prefix + layer


def join(tensors: Sequence[KerasTensor], name: str) -> KerasTensor:
    """Tensors side by side on the last axis; a single one as it is."""
    return keras.layers.Concatenate(name=name)(list(tensors)) if len(tensors) > 1 else tensors[0]


def batch_norm(name: str) -> keras.layers.BatchNormalization:
    """A batch normalisation layer as every trunk uses it."""
    return keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=name)


def hidden_layers(
    branch: Branch,
    features: KerasTensor,
    units: Sequence[int],
    *,
    normalised: bool,
    name: str = "hidden",
    activation: str = "relu",
) -> KerasTensor:
    """Dense layers on the last axis of `features`, each followed by the branch's `dropout`.

    With `normalised`, batch normalisation (over the real frames, if there are frames) stands before the activation.
    """
    for number, count in enumerate(units):
        dense = keras.layers.Dense(branch.units(count), use_bias=not normalised, name=branch.name(f"{name}_{number}"))
        features = dense(features)
        if normalised:
            mask = {"mask": branch.frame_mask} if len(features.shape) == 3 else {}
            features = batch_norm(branch.name(f"{name}_{number}_norm"))(features, **mask)
        features = keras.layers.Activation(activation, name=branch.name(f"{name}_{number}_{activation}"))(features)
        if branch.options["dropout"]:
            dropout = keras.layers.Dropout(branch.options["dropout"], name=branch.name(f"{name}_{number}_dropout"))
            features = dropout(features)
    return features
