"""Models by name. Importing this module is quick: Keras is loaded when a model is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcls_model.models.catalogue import (
    CHOICES,
    MEANINGS,
    MODEL_NAMES,
    MODELS,
    ModelInfo,
    default_hyperparameters,
    model_info,
    resolve_hyperparameters,
    select_modalities,
)
from vcls_model.records.schema import Modality

if TYPE_CHECKING:
    import keras
    import numpy as np

    from vcls_model.models.label_directions import LabelDirections
    from vcls_model.models.label_graph import LabelGraph
    from vcls_model.models.neighbour_memory import Memory

__all__ = [
    "CHOICES",
    "MEANINGS",
    "MODELS",
    "MODEL_NAMES",
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
    **hyperparameters: Any,
) -> keras.Model:
    """Builds the model called `name`.

    Args:
        name: one of `MODEL_NAMES`.
        modalities: the data set's transformed modalities; those of the model's level become its inputs.
        class_count: number of classes C.
        class_prior: float (C,), fraction of the training videos that carry each class: the classifier's biases start at
            its log-odds, so that training need not spend its first steps on learning how rare labels are.
        label_graph: the graph of label co-occurrence, for `head="label_graph"` (`models.graph.count_label_graph`).
        memory: the training videos to compare with, for `neighbours` above 0 (`models.memory.remember`).
        label_directions: what tells labels apart, for `label_projection` above 0
            (`models.label_directions.find_label_directions`).
        **hyperparameters: overrides of `default_hyperparameters(name)`.

    Returns:
        A functional model. Input: a dict of `<name>` float32 (B, D) for video-level data; of `<name>` float32
        (B, T, D) and `num_frames` int32 (B,) for frame-level data; no other keys. Output: logits float32 (B, C). The
        layers that depend on the classes, and no others, have names that start with `classifier`.

    Raises:
        UsageError: unknown model or hyperparameter, a value out of range, or data of the wrong level.
    """
    resolved = resolve_hyperparameters(name, hyperparameters)
    chosen = select_modalities(name, modalities)
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
    )
