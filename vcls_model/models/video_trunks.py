"""Trunks of the video-level models: (B, D) features to (B, F) features that a classifier reads."""

import keras
from keras import KerasTensor

from vcls_model.layers import ContextGating
from vcls_model.models.branch import Branch, batch_norm, hidden_layers


def identity_trunk(branch: Branch) -> KerasTensor:
    """The features themselves: the classifier is the whole model."""
    return branch.features


def dense_trunk(branch: Branch) -> KerasTensor:
    """Layers of ReLU units: the plain multi-layer perceptron (Rumelhart, Hinton and Williams 1986)."""
    return hidden_layers(branch, branch.features, branch.options["hidden_units"], normalised=False)


def residual_trunk(branch: Branch) -> KerasTensor:
    """One wide normalised layer, then blocks that add to it, then context gating.

    Residual connections: He et al. 2016, "Deep Residual Learning for Image Recognition"; the gate: Miech, Laptev and
    Sivic 2017, "Learnable pooling with Context Gating for video classification".
    """
    options = branch.options
    features = hidden_layers(branch, branch.features, (options["units"],), normalised=True, name="wide")
    for number in range(options["blocks"]):
        added = hidden_layers(branch, features, (options["units"],), normalised=True, name=f"block_{number}")
        features = keras.layers.Add(name=branch.name(f"block_{number}_add"))([features, added])
    if options["gating"]:
        features = ContextGating(name=branch.name("gating"))(features)
        features = batch_norm(branch.name("gating_norm"))(features)
    return features


def wide_trunk(branch: Branch) -> KerasTensor:
    """One wide normalised layer with much dropout, which the linear classifier beside it (`linear_skip`) completes.

    Wide beside linear: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems". Of the models here it is the
    best on tens of thousands of videos.
    """
    return hidden_layers(branch, branch.features, (branch.options["units"],), normalised=True, name="wide")


TRUNKS = {
    "chain": identity_trunk,
    "dense": dense_trunk,
    "logistic": identity_trunk,
    "moe": identity_trunk,
    "residual": residual_trunk,
    "wide": wide_trunk,
}
