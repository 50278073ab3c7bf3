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
    MeanOfPresent,
    MeanPool,
    MemoryKey,
    NeighbourVote,
    PresentProjection,
    RepeatOverFrames,
    SharedNeighbourVote,
    UnitInput,
)
from vcls_model.models import frame_trunks, video_trunks
from vcls_model.models.branch import Branch, join
from vcls_model.models.catalogue import FRAME_LEVEL, model_info
from vcls_model.models.head import HEAD_PREFIX, Head
from vcls_model.models.label_directions import KEY_POWER, LabelDirections
from vcls_model.models.label_graph import LabelGraph
from vcls_model.models.neighbour_memory import Memory, shares_of
from vcls_model.models.presence import Presence
from vcls_model.models.texts import embed_texts
from vcls_model.records.raw_values import RawValues
from vcls_model.records.schema import FRAMES, TEXT, VECTOR, Modality
from vcls_model.records.transformed import presence_name

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
    presence: bool = False,
) -> keras.Model:
    """Builds a model from checked arguments; see `vcls_model.models.build_model`.

    Raises:
        ValueError: the options need a label graph, a memory, label directions, label vectors or raw values that are not
            given, or the prior's shape is not (C,).
    """
    frame_level = model_info(name).level == FRAME_LEVEL
    inputs, frame_mask = _inputs(modalities, presence)
    texts, text_modalities = embed_texts(inputs, modalities, options, frame_mask if frame_level else None)
    # Projection and neighbours compare features as they are in the data; the vectors of texts are learned.
    modalities = [modality for modality in modalities if modality.kind != TEXT]
    senses = Presence(modalities, inputs, with_texts=bool(texts))
    values = _input_values(inputs, modalities, options, raw_values, senses)
    features = _features(values, frame_mask, modalities, frame_level, senses)
    features = _normalised(features, modalities, options)
    if options["label_projection"]:
        features = [_projected(features, modalities, frame_mask, frame_level, options, label_directions, senses)]
    if options["label_text"] and label_vectors is None:
        raise ValueError("label_text needs label_vectors, which find_label_vectors makes from the classes' names")
    described = label_vectors if options["label_text"] else None
    heads = [Head(class_count, options, described, _member_prefix(member)) for member in range(options["members"])]
    members = [
        _member_scores(
            name,
            (features, modalities),
            (texts, text_modalities),
            frame_mask if frame_level else None,
            options,
            head,
            label_graph,
            senses,
        )
        for head in heads
    ]
    scores = members[0] if len(members) == 1 else MeanOfMembers(dtype="float32", name=f"{HEAD_PREFIX}_mean")(members)
    if options["neighbours"]:
        scores = _vote(scores, modalities, values, frame_mask, options, memory, label_directions, senses)
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
    read: tuple[Sequence[KerasTensor], Sequence[Modality]],
    embedded: tuple[Sequence[KerasTensor], Sequence[Modality]],
    frame_mask: KerasTensor | None,
    options: Mapping[str, Any],
    head: Head,
    label_graph: LabelGraph | None,
    senses: Presence,
) -> KerasTensor:
    """Logits (B, C) of one member: dropout of the input, trunks and classifier.

    Args:
        name: of the model.
        read: features of each modality, or of all joined and projected; and the modalities.
        embedded: the vectors of texts, and their modalities.
        frame_mask: of a frame-level model, else None.
        options: the hyperparameters.
        head: makes the member's classifiers.
        label_graph: for `head=label_graph`.
        senses: which modalities each video has.
    """
    modalities, text_modalities = list(read[1]), list(embedded[1])
    features = _dropped_out(read[0], modalities, options, head.member)
    texts = _dropped_out(embedded[0], text_modalities, options, head.member)
    # A video's vector goes around a trunk that reads frames, unless the projection has joined it with them.
    vectors: list[tuple[KerasTensor, Modality]] = []
    trunk_modalities = list(modalities)
    if frame_mask is not None and not options["label_projection"]:
        vectors = [pair for pair in zip(features, modalities, strict=True) if pair[1].kind == VECTOR]
        features = [tensor for tensor, modality in zip(features, modalities, strict=True) if modality.kind == FRAMES]
        trunk_modalities = [modality for modality in modalities if modality.kind == FRAMES]
    for tensor, modality in zip(texts, text_modalities, strict=True):
        if frame_mask is not None and modality.kind == VECTOR:
            vectors.append((tensor, modality))
        else:
            features, trunk_modalities = [*features, tensor], [*trunk_modalities, modality]
    around = [
        Branch(tensor, None, options, prefix=f"{head.member}{modality.name}_", narrow=False)
        for tensor, modality in vectors
    ]
    branches = _branches(trunk_modalities, features, frame_mask, options, senses, head.member)
    groups = [[modality.name] for modality in trunk_modalities]
    groups = [sum(groups, [])] if len(branches) == 1 else groups
    represented = [
        senses.keep(TRUNKS[name](branch), group, f"{branch.prefix}representation_kept")
        for branch, group in zip(branches, groups, strict=True)
    ]
    groups += [[modality.name] for _, modality in vectors]
    if options["fusion"] == "score":
        represented += [branch.features for branch in around]
        each = [
            head.logits(representation, [branch], branch.prefix)
            for representation, branch in zip(represented, branches + around, strict=True)
        ]
        if senses.table is not None and len(each) > 1:
            average = MeanOfPresent(dtype="float32", name=f"{HEAD_PREFIX}_{head.member}average")
            scores = average(each, senses.groups(groups, f"{head.member}scores_presence"))
        else:
            scores = head.mean(each)
    else:
        represented += [branch.features for branch in around]
        joined = join(represented, f"{head.member}representation")
        sizes = [tensor.shape[-1] for tensor in represented]
        joined = senses.rescale(joined, groups, sizes, f"{head.member}representation_rescaled")
        scores = head.logits(joined, branches + around, head.member)
    if options["head"] == "label_graph":
        scores = _graph_head(label_graph, head.member)(scores)
    return scores


def _inputs(modalities: Sequence[Modality], presence: bool) -> tuple[dict[str, KerasTensor], KerasTensor | None]:
    """The model's inputs by name, and the mask (B, T) of the real frames or None when there are no frames."""
    inputs = {}
    for modality in modalities:
        shape: tuple[int | None, ...] = (None, modality.width) if modality.kind == FRAMES else (modality.width,)
        if modality.kind == TEXT:
            shape = (None, 3 if modality.timed else 2)
        inputs[modality.name] = keras.Input(shape, name=modality.name)
    framed = [inputs[modality.name] for modality in modalities if modality.kind == FRAMES]
    if presence:
        names = [presence_name(modality.name) for modality in modalities if modality.kind != TEXT]
        inputs.update({name: keras.Input((), dtype="float32", name=name) for name in names})
    if not framed:
        return inputs, None
    inputs[NUM_FRAMES] = keras.Input((), dtype="int32", name=NUM_FRAMES)
    return inputs, FrameMask(name="frame_mask")(framed[0], inputs[NUM_FRAMES])


def _input_values(
    inputs: Mapping[str, KerasTensor],
    modalities: Sequence[Modality],
    options: Mapping[str, Any],
    raw_values: Mapping[str, RawValues] | None,
    senses: Presence,
) -> dict[str, KerasTensor]:
    """The inputs as `input_norm` says, see `catalogue.COMMON`; vectors that a video lacks are 0."""
    values = {modality.name: inputs[modality.name] for modality in modalities}
    if options["input_norm"] != "data":
        if raw_values is None:
            raise ValueError("input_norm='l2' needs raw_values, which find_raw_values reads from the dataset")
        for name, tensor in values.items():
            unit = UnitInput(
                raw_values[name].location, raw_values[name].spread, dtype="float32", name=f"{name}_unit_input"
            )
            values[name] = unit(tensor)
    return {
        modality.name: values[modality.name]
        if modality.kind == FRAMES
        else senses.keep(values[modality.name], [modality.name], f"{modality.name}_kept")
        for modality in modalities
    }


def _features(
    inputs: Mapping[str, KerasTensor],
    frame_mask: KerasTensor | None,
    modalities: Sequence[Modality],
    frame_level: bool,
    senses: Presence,
) -> list[KerasTensor]:
    """Each modality's features: vectors (B, D); frames (B, T, D) cleared of padding, or their mean (B, D)."""
    features = []
    for modality in modalities:
        tensor = inputs[modality.name]
        if modality.kind == FRAMES and frame_level:
            mask = senses.frames_of(frame_mask, modality.name)
            tensor = ClearPadding(name=f"{modality.name}_clear")(tensor, mask)
        elif modality.kind == FRAMES:
            mean = MeanPool(name=f"{modality.name}_frame_mean")(tensor, frame_mask)
            tensor = senses.keep(mean, [modality.name], f"{modality.name}_kept")
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
    senses: Presence,
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
    joined = join(features, "fused")
    power = options["label_projection"]
    if senses.table is None:
        return _projection(LabelProjection, label_directions, PROJECTION, power=power)(joined)
    sizes = [modality.width for modality in modalities]
    return _projection(PresentProjection, label_directions, PROJECTION, power=power, sizes=sizes)(joined, senses.table)


def _projection(kind: type[LabelProjection], directions: LabelDirections, name: str, **options: Any) -> LabelProjection:
    return kind(
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
    senses: Presence,
    prefix: str,
) -> list[Branch]:
    """One branch of all modalities joined (early fusion), or one branch per modality."""
    if options["fusion"] == "early":
        projected = bool(options["label_projection"])
        fused = join(
            features, f"{prefix}with_texts" if projected else f"{prefix}fused"
        )  # the projection has joined all but the texts
        if not projected:  # and scaled them
            groups, sizes = [[each.name] for each in modalities], [each.width for each in modalities]
            fused = senses.rescale(fused, groups, sizes, f"{prefix}fused_rescaled")
        return [Branch(fused, frame_mask, options, prefix=prefix, narrow=False)]
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
    senses: Presence,
) -> KerasTensor:
    """Mixes the votes of the most similar remembered videos into the scores."""
    if memory is None:
        raise ValueError("neighbours need memory, which remember makes from the training videos")
    vectors = [
        senses.keep(
            MeanPool(name=f"{modality.name}_key_mean")(inputs[modality.name], frame_mask),
            [modality.name],
            f"{modality.name}_key_kept",
        )
        if modality.kind == FRAMES
        else inputs[modality.name]
        for modality in modalities
    ]
    name = f"{HEAD_PREFIX}_neighbour_key"
    directions = label_directions if options["label_projection"] else None
    if directions is None:
        key = MemoryKey(shares_of(modalities), dtype="float32", name=name)(vectors)
    else:
        key = join(_normalised(vectors, modalities, options, "key_"), "key_fused")
    if senses.table is not None:
        return _shared_vote(modalities, options, memory, directions)(scores, key, senses.table)
    if directions is not None:
        key = _projection(LabelProjection, directions, name, power=KEY_POWER, unit=True)(key)
    return NeighbourVote(**_vote_settings(options, memory))(scores, key)


def _vote_settings(options: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
    """What both kinds of vote are told."""
    videos, labels_per_video = memory.labels.shape
    return {
        "videos": videos,
        "labels_per_video": labels_per_video,
        "neighbours": options["neighbours"],
        "weight": options["neighbour_weight"],
        "keys": memory.keys,
        "labels": memory.labels,
        "dtype": "float32",
        "name": f"{HEAD_PREFIX}_neighbours",
    }


def _shared_vote(
    modalities: Sequence[Modality], options: Mapping[str, Any], memory: Memory, directions: LabelDirections | None
) -> SharedNeighbourVote:
    """The vote by the modalities that both videos have."""
    if memory.presence is None or memory.grams is None:
        raise ValueError("a model whose videos may lack modalities needs a memory that remember made with presence")
    space: dict[str, Any] = {}
    if directions is not None:
        space = {"turned": directions.directions.shape[1], "mean": directions.mean, "turn": directions.key_turn}
    return SharedNeighbourVote(
        **_vote_settings(options, memory),
        sizes=[modality.width for modality in modalities],
        complete=bool(memory.presence.all()),
        grams=memory.grams,
        presence=memory.presence.astype(np.float32),
        **space,
    )
