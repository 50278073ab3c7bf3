"""Puts a model together: inputs, fusion of the modalities, trunks, classifier, neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from vcls_model.layers import (
    ClearPadding,
    FrameMask,
    L2Normalise,
    LabelGraphHead,
    LabelProjection,
    MeanOfMembers,
    MeanPool,
    MemoryKey,
    NeighbourVote,
    RepeatOverFrames,
    UnitInput,
)
from vcls_model.models import frame_trunks, video_trunks
from vcls_model.models.branch import Branch, join
from vcls_model.models.catalogue import FRAME_LEVEL, model_info
from vcls_model.models.head import HEAD_PREFIX, Head
from vcls_model.models.label_directions import KEY_POWER, LabelDirections
from vcls_model.models.label_graph import LabelGraph
from vcls_model.models.neighbour_memory import Memory, shares_of
from vcls_model.records.raw_values import RawValues
from vcls_model.records.schema import FRAMES, VECTOR, Modality

TRUNKS = {**video_trunks.TRUNKS, **frame_trunks.TRUNKS}
NUM_FRAMES = "num_frames"
PROJECTION = "label_projection"


def assemble(
    name: str,
    modalities: Sequence[Modality],
    class_count: int,
    options: Mapping[str, Any],
    *,
    class_prior: np.ndarray | None = None,
    label_graph: LabelGraph | None = None,
    memory: Memory | None = None,
    label_directions: LabelDirections | None = None,
    raw_values: Mapping[str, RawValues] | None = None,
    label_vectors: np.ndarray | None = None,
) -> keras.Model:
    """Builds a model from checked arguments; see `vcls_model.models.build_model`.

    Raises:
        ValueError: the options need a label graph, a memory, label directions, label vectors or raw values that are not
            given, or the prior's shape is not (C,).
    """
    frame_level = model_info(name).level == FRAME_LEVEL
    inputs, frame_mask = _inputs(modalities)
    values = _input_values(inputs, modalities, options, raw_values)
    features = _features(values, frame_mask, modalities, frame_level)
    features = _normalised(features, modalities, options)
    if options["label_projection"]:
        features = [_projected(features, modalities, frame_mask, frame_level, options, label_directions)]
    if options["label_text"] and label_vectors is None:
        raise ValueError("label_text needs label_vectors, which find_label_vectors makes from the classes' names")
    vectors = label_vectors if options["label_text"] else None
    heads = [Head(class_count, options, vectors, _member_prefix(member)) for member in range(options["members"])]
    members = [
        _member_scores(name, features, modalities, frame_mask if frame_level else None, options, head, label_graph)
        for head in heads
    ]
    scores = members[0] if len(members) == 1 else MeanOfMembers(dtype="float32", name=f"{HEAD_PREFIX}_mean")(members)
    if options["neighbours"]:
        scores = _vote(scores, modalities, values, frame_mask, options, memory, label_directions)
    model = keras.Model(inputs, scores, name=name)
    if class_prior is not None:
        for head in heads:
            head.start_at_prior(class_prior)
    return model


def _member_prefix(member: int) -> str:
    """Starts the names of a member's layers; those of a first or only member are named as ever."""
    return f"member{member}_" if member else ""


def _member_scores(
    name: str,
    features: Sequence[KerasTensor],
    modalities: Sequence[Modality],
    frame_mask: KerasTensor | None,
    options: Mapping[str, Any],
    head: Head,
    label_graph: LabelGraph | None,
) -> KerasTensor:
    """Logits (B, C) of one member: dropout of the input, trunks and classifier.

    Args:
        name: of the model.
        features: of each modality, or of all joined and projected.
        modalities: all that the model reads.
        frame_mask: of a frame-level model, else None.
        options: the hyperparameters.
        head: makes the member's classifiers.
        label_graph: for `head=label_graph`.
    """
    features = _dropped_out(features, modalities, options, head.member)
    # A video's vector goes around a trunk that reads frames, unless the projection has joined it with them.
    around: list[Branch] = []
    trunk_modalities = list(modalities)
    if frame_mask is not None and not options["label_projection"]:
        around = [
            Branch(tensor, None, options, prefix=f"{head.member}{modality.name}_", narrow=False)
            for tensor, modality in zip(features, modalities, strict=True)
            if modality.kind == VECTOR
        ]
        features = [tensor for tensor, modality in zip(features, modalities, strict=True) if modality.kind == FRAMES]
        trunk_modalities = [modality for modality in modalities if modality.kind == FRAMES]
    branches = _branches(trunk_modalities, features, frame_mask, options, head.member)
    represented = [TRUNKS[name](branch) for branch in branches]
    if options["fusion"] == "score":
        represented += [branch.features for branch in around]
        scores = head.mean(
            [
                head.logits(representation, [branch], branch.prefix)
                for representation, branch in zip(represented, branches + around, strict=True)
            ]
        )
    else:
        joined = join([*represented, *(branch.features for branch in around)], f"{head.member}representation")
        scores = head.logits(joined, branches + around, head.member)
    if options["head"] == "label_graph":
        scores = _graph_head(label_graph, head.member)(scores)
    return scores


def _inputs(modalities: Sequence[Modality]) -> tuple[dict[str, KerasTensor], KerasTensor | None]:
    """The model's inputs by name, and the mask (B, T) of the real frames or None when there are no frames."""
    inputs = {
        modality.name: keras.Input(
            (None, modality.width) if modality.kind == FRAMES else (modality.width,), name=modality.name
        )
        for modality in modalities
    }
    framed = [inputs[modality.name] for modality in modalities if modality.kind == FRAMES]
    if not framed:
        return inputs, None
    inputs[NUM_FRAMES] = keras.Input((), dtype="int32", name=NUM_FRAMES)
    return inputs, FrameMask(name="frame_mask")(framed[0], inputs[NUM_FRAMES])


def _input_values(
    inputs: Mapping[str, KerasTensor],
    modalities: Sequence[Modality],
    options: Mapping[str, Any],
    raw_values: Mapping[str, RawValues] | None,
) -> dict[str, KerasTensor]:
    """The inputs as `input_norm` says; see `catalogue.COMMON`."""
    if options["input_norm"] == "data":
        return {modality.name: inputs[modality.name] for modality in modalities}
    if raw_values is None:
        raise ValueError("input_norm='l2' needs raw_values, which find_raw_values reads from the dataset")
    return {
        modality.name: UnitInput(
            raw_values[modality.name].location,
            raw_values[modality.name].spread,
            dtype="float32",
            name=f"{modality.name}_unit_input",
        )(inputs[modality.name])
        for modality in modalities
    }


def _features(
    inputs: Mapping[str, KerasTensor], frame_mask: KerasTensor | None, modalities: Sequence[Modality], frame_level: bool
) -> list[KerasTensor]:
    """Each modality's features: vectors (B, D); frames (B, T, D) cleared of padding, or their mean (B, D)."""
    features = []
    for modality in modalities:
        tensor = inputs[modality.name]
        if modality.kind == FRAMES and frame_level:
            tensor = ClearPadding(name=f"{modality.name}_clear")(tensor, frame_mask)
        elif modality.kind == FRAMES:
            tensor = MeanPool(name=f"{modality.name}_frame_mean")(tensor, frame_mask)
        features.append(tensor)
    return features


def _normalised(
    features: Sequence[KerasTensor], modalities: Sequence[Modality], options: Mapping[str, Any], prefix: str = ""
) -> list[KerasTensor]:
    """Each modality's features as `modality_norm` says; see `catalogue.COMMON`."""
    if options["modality_norm"] == "l2":
        return [
            L2Normalise(name=f"{prefix}{modality.name}_l2")(tensor)
            for modality, tensor in zip(modalities, features, strict=True)
        ]
    if options["modality_norm"] == "unit":
        return [
            keras.layers.Rescaling(modality.width**0.5, name=f"{prefix}{modality.name}_unit")(tensor)
            for modality, tensor in zip(modalities, features, strict=True)
        ]
    return list(features)


def _projected(
    features: Sequence[KerasTensor],
    modalities: Sequence[Modality],
    frame_mask: KerasTensor | None,
    frame_level: bool,
    options: Mapping[str, Any],
    label_directions: LabelDirections | None,
) -> KerasTensor:
    """The features of all modalities joined and projected: (B, D), or (B, T, D) for a frame-level model.

    The directions are those of whole joined vectors, so that every frame is joined with the video's own vectors.
    """
    if label_directions is None:
        raise ValueError(
            "label_projection needs label_directions, which find_label_directions makes from the training videos"
        )
    if frame_level:
        features = [
            RepeatOverFrames(name=f"{modality.name}_repeated")(tensor, frame_mask)
            if modality.kind == VECTOR
            else tensor
            for modality, tensor in zip(modalities, features, strict=True)
        ]
    projection = _projection(label_directions, PROJECTION, power=options["label_projection"])
    return projection(join(features, "fused"))


def _projection(directions: LabelDirections, name: str, **options: Any) -> LabelProjection:
    return LabelProjection(
        mean=directions.mean,
        directions=directions.directions,
        strengths=directions.strengths,
        dtype="float32",
        name=name,
        **options,
    )


def _dropped_out(
    features: Sequence[KerasTensor], modalities: Sequence[Modality], options: Mapping[str, Any], prefix: str
) -> list[KerasTensor]:
    """The features of each modality, or of all joined, after input dropout."""
    if not options["input_dropout"]:
        return list(features)
    names = [f"{modality.name}_" for modality in modalities] if len(features) == len(modalities) else [""]
    return [
        keras.layers.Dropout(options["input_dropout"], name=f"{prefix}{name}input_dropout")(tensor)
        for name, tensor in zip(names, features, strict=True)
    ]


def _branches(
    modalities: Sequence[Modality],
    features: Sequence[KerasTensor],
    frame_mask: KerasTensor | None,
    options: Mapping[str, Any],
    prefix: str,
) -> list[Branch]:
    """One branch of all modalities joined (early fusion), or one branch per modality."""
    if options["fusion"] == "early":
        return [Branch(join(features, f"{prefix}fused"), frame_mask, options, prefix=prefix, narrow=False)]
    widest = max(modality.width for modality in modalities)
    return [
        Branch(tensor, frame_mask, options, prefix=f"{prefix}{modality.name}_", narrow=2 * modality.width <= widest)
        for modality, tensor in zip(modalities, features, strict=True)
    ]


def _graph_head(label_graph: LabelGraph | None, prefix: str) -> LabelGraphHead:
    if label_graph is None:
        raise ValueError("head='label_graph' needs label_graph, which count_label_graph makes from the training labels")
    return LabelGraphHead(
        label_graph.neighbours.shape[1],
        neighbours=label_graph.neighbours,
        strength=label_graph.strength,
        dtype="float32",
        name=f"{HEAD_PREFIX}_{prefix}graph",
    )


def _vote(
    scores: KerasTensor,
    modalities: Sequence[Modality],
    inputs: Mapping[str, KerasTensor],
    frame_mask: KerasTensor | None,
    options: Mapping[str, Any],
    memory: Memory | None,
    label_directions: LabelDirections | None,
) -> KerasTensor:
    """Mixes the votes of the most similar remembered videos into the scores."""
    if memory is None:
        raise ValueError("neighbours need memory, which remember makes from the training videos")
    vectors = [
        MeanPool(name=f"{modality.name}_key_mean")(inputs[modality.name], frame_mask)
        if modality.kind == FRAMES
        else inputs[modality.name]
        for modality in modalities
    ]
    name = f"{HEAD_PREFIX}_neighbour_key"
    if label_directions is not None and options["label_projection"]:
        joined = join(_normalised(vectors, modalities, options, "key_"), "key_fused")
        key = _projection(label_directions, name, power=KEY_POWER, unit=True)(joined)
    else:
        key = MemoryKey(shares_of(modalities), dtype="float32", name=name)(vectors)
    videos, labels_per_video = memory.labels.shape
    vote = NeighbourVote(
        videos,
        labels_per_video,
        options["neighbours"],
        weight=options["neighbour_weight"],
        keys=memory.keys,
        labels=memory.labels,
        dtype="float32",
        name=f"{HEAD_PREFIX}_neighbours",
    )
    return vote(scores, key)
