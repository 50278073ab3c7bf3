"""Puts a model together: inputs, fusion of the modalities, trunk, classifier, head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from vcls_model.models.graph import LabelGraph
from vcls_model.schema import Modality

Options = Mapping[str, Any]


def _logistic_trunk(features: Any, options: Options, prefix: str) -> Any:
    return features


def _dense_trunk(features: Any, options: Options, prefix: str) -> Any:
    for number, units in enumerate(options["hidden_units"]):
        features = keras.layers.Dense(units, activation="relu", name=f"{prefix}hidden_{number}")(features)
        if options["dropout"]:
            features = keras.layers.Dropout(options["dropout"], name=f"{prefix}dropout_{number}")(features)
    return features


TRUNKS: dict[str, Callable[..., Any]] = {"logistic": _logistic_trunk, "dense": _dense_trunk}


def assemble(name: str, modalities: Sequence[Modality], class_count: int, options: Options, *,
             class_prior: np.ndarray | None = None, label_graph: LabelGraph | None = None) -> keras.Model:
    """Builds a model from checked arguments; see `vcls_model.models.build_model`."""
    inputs = {modality.name: keras.Input((modality.width,), name=modality.name) for modality in modalities}
    joined = list(inputs.values())
    features = keras.layers.Concatenate(name="fused")(joined) if len(joined) > 1 else joined[0]
    features = TRUNKS[name](features, options, "")
    logits = keras.layers.Dense(class_count, name="classifier")(features)
    logits = keras.layers.Activation("linear", dtype="float32", name="classifier_logits")(logits)
    return keras.Model(inputs, logits, name=name)
