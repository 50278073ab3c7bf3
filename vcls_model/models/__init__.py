"""Models by name. Importing this module is quick: Keras is loaded when a model is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vcls_model.models.catalogue import (
    MODEL_NAMES,
    MODELS,
    ModelInfo,
    default_hyperparameters,
    model_info,
    resolve_hyperparameters,
    select_modalities,
)
from vcls_model.models.hyperparameters import Hyperparameter
from vcls_model.records.schema import Modality

if TYPE_CHECKING:
    import keras
    import numpy as np

    from vcls_model.models.label_directions import LabelDirections
    from vcls_model.models.label_graph import LabelGraph
    from vcls_model.models.neighbour_memory import Memory
    from vcls_model.records.raw_values import RawValues

__all__ = [
    "MODELS",
    "MODEL_NAMES",
    "Hyperparameter",
    "ModelInfo",
    "build_model",
    "default_hyperparameters",
    "model_info",
    "resolve_hyperparameters",
    "select_modalities",
]


def build_model(
    name: str,
    modalities: Sequence[Modality],
    class_count: int,
    *,
    class_prior: np.ndarray | None = None,
    label_graph: LabelGraph | None = None,
    memory: Memory | None = None,
    label_directions: LabelDirections | None = None,
    raw_values: Mapping[str, RawValues] | None = None,
    label_vectors: np.ndarray | None = None,
    presence: bool = False,
    **hyperparameters: Any,
) -> keras.Model:
    """Builds the model called `name`.

    Args:
        name: one of `MODEL_NAMES`.
        modalities: the dataset's transformed modalities; those that `select_modalities` chooses become its inputs.
        class_count: number of classes C.
        class_prior: float (C,), fraction of the training videos that carry each class: the classifier's biases start at
            its log-odds, so that training need not spend its first steps on learning how rare labels are.
        label_graph: the graph of label co-occurrence, for `head="label_graph"`
            (`models.label_graph.count_label_graph`).
        memory: the training videos to compare with, for `neighbours` above 0 (`models.neighbour_memory.remember`).
        label_directions: the supervised projection, for `label_projection` above 0
            (`models.label_directions.find_label_directions`).
        raw_values: how to undo the dataset's normalisation, by modality, for `input_norm="l2"`
            (`records.raw_values.find_raw_values`).
        label_vectors: float32 (C, E), vectors of the classes' names, for `label_text` above 0
            (`models.label_text.find_label_vectors`).
        presence: a video may lack modalities: the model has an input that says so for each.
        **hyperparameters: overrides of `default_hyperparameters(name)`.

    Returns:
        A functional model. Input: a dict of `<name>` float32 (B, D) for each vector modality, `<name>` float32
        (B, T, D) for each frames modality, `<name>` float32 (B, L, 2) for each text (buckets and their weights), or
        (B, L, 3) for one of each second (and their frames), when there are frames `num_frames` int32 (B,), and with
        `presence` `has_<name>` float32 (B,) for each modality but texts, 1 or 0; no other keys. Output: logits float32
        (B, C). `models.head.depends_on_classes` says which layers depend on the classes.

    Raises:
        UsageError: unknown model or hyperparameter, a value out of range, or data without frames for a frame-level
            model.
    """
    resolved = resolve_hyperparameters(name, hyperparameters)
    chosen = select_modalities(name, modalities)
    # Keras takes seconds to import, and `--help` needs the catalogue alone.
    from vcls_model.models.assembly import assemble

    return assemble(
        name,
        chosen,
        class_count,
        resolved,
        class_prior=class_prior,
        label_graph=label_graph,
        memory=memory,
        label_directions=label_directions,
        raw_values=raw_values,
        label_vectors=label_vectors,
        presence=presence,
    )
