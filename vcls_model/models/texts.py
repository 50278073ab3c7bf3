"""Texts in a model: each becomes a vector, or one of each second a vector per frame, by an embedding of its own.

From there on it is a modality like others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import KerasTensor

from vcls_model.layers import L2Normalise, LineBags, TextBag
from vcls_model.records.schema import FRAMES, TEXT, VECTOR, Modality


def embed_texts(
    inputs: Mapping[str, KerasTensor],
    modalities: Sequence[Modality],
    options: Mapping[str, Any],
    frame_mask: KerasTensor | None,
) -> tuple[list[KerasTensor], list[Modality]]:
    """The vectors of the texts among some modalities, and the modalities that these are in the model.

    Args:
        inputs: of the model, by name.
        modalities: of the dataset.
        options: the hyperparameters.
        frame_mask: bool (B, T), for a model that reads frames: texts of seconds become (B, T, W), others (B, W).
    """
    width = options["text_width"]
    vectors, embedded = [], []
    for modality in modalities:
        if modality.kind != TEXT:
            continue
        name = f"{modality.name}_text"
        settings = (modality.width, width, options["text_dropout"])
        if modality.timed and frame_mask is not None:
            vectors.append(LineBags(*settings, dtype="float32", name=name)(inputs[modality.name], frame_mask))
        else:
            vector = TextBag(*settings, dtype="float32", name=name)(inputs[modality.name])
            if modality.timed:  # the bag of all lines is as long as they are many
                vector = L2Normalise(name=f"{name}_l2")(vector)
                vector = keras.layers.Rescaling(width**0.5, name=f"{name}_unit")(vector)
            vectors.append(vector)
        kind = FRAMES if modality.timed and frame_mask is not None else VECTOR
        embedded.append(Modality(modality.name, width, kind, "float32"))
    return vectors, embedded
