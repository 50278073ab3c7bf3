"""Texts in a model: each becomes a vector by an embedding of its own, and is a vector like others from there on."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import KerasTensor

from vcls_model.layers import TextBag
from vcls_model.records.schema import TEXT, VECTOR, Modality


def embed_texts(
    inputs: Mapping[str, KerasTensor], modalities: Sequence[Modality], options: Mapping[str, Any]
) -> tuple[list[KerasTensor], list[Modality]]:
    """The vectors (B, W) of the texts among some modalities, and the modalities that these are in the model."""
    texts = [modality for modality in modalities if modality.kind == TEXT]
    width = options["text_width"]
    vectors = [
        TextBag(modality.width, width, options["text_dropout"], dtype="float32", name=f"{modality.name}_text")(
            inputs[modality.name]
        )
        for modality in texts
    ]
    return vectors, [Modality(modality.name, width, VECTOR, "float32") for modality in texts]
