"""Puts a model together: inputs, fusion of the modalities, trunk, classifier, head."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from vcls_model.layers import (
    ClearPadding,
    FrameMask,
    L2Normalise,
    LabelGraphHead,
    LabelProjection,
    MeanPool,
    MemoryKey,
    MixtureOfExperts,
    NeighbourVote,
    ScoreGating,
)
from vcls_model.models import frame_trunks, video_trunks
from vcls_model.models.branch import Branch
from vcls_model.models.label_directions import KEY_POWER, LabelDirections
from vcls_model.models.label_graph import LabelGraph
from vcls_model.models.neighbour_memory import Memory, shares_of
from vcls_model.records.schema import FRAMES, Modality

TRUNKS = {**video_trunks.TRUNKS, **frame_trunks.TRUNKS}
NUM_FRAMES = "num_frames"
PROJECTION = "label_projection"
# Every layer whose weights depend on the classes has a name that starts with it.
HEAD_PREFIX = "classifier"


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
) -> keras.Model:
    """Builds a model from checked arguments; see `vcls_model.models.build_model`.

    Raises:
        ValueError: the options need a label graph, a memory or label directions that are not given, or the prior's
            shape is not (C,).
    """
    if options["head"] == "label_graph" and label_graph is None:
        raise ValueError("head='label_graph' needs label_graph, which count_label_graph makes from the training labels")
    if options["neighbours"] and memory is None:
        raise ValueError("neighbours need memory, which remember makes from the training videos")
    if options["label_projection"] and label_directions is None:
        raise ValueError(
            "label_projection needs label_directions, which find_label_directions makes from the training videos"
        )
    inputs, features, frame_mask = _inputs(modalities, options)
    if options["label_projection"]:
        assert label_directions is not None
        features = [
            _projection(label_directions, PROJECTION, power=options["label_projection"])(_join(features, "fused"))
        ]
    features = _dropped_out(features, modalities, options)
    branches = _branches(modalities, features, frame_mask, options)
    represented = [TRUNKS[name](branch) for branch in branches]
    if options["fusion"] == "score":
        logits = [
            _classify(name, representation, [branch], class_count, options, f"classifier_{branch.prefix}")
            for representation, branch in zip(represented, branches, strict=True)
        ]
        average = keras.layers.Average(name="classifier_average", dtype="float32")
        scores = average(logits) if len(logits) > 1 else logits[0]
    else:
        scores = _classify(name, _join(represented, "representation"), branches, class_count, options, "classifier_")
    if options["head"] == "label_graph":
        assert label_graph is not None
        head = LabelGraphHead(
            label_graph.neighbours.shape[1],
            neighbours=label_graph.neighbours,
            strength=label_graph.strength,
            dtype="float32",
            name="classifier_graph",
        )
        scores = head(scores)
    if options["neighbours"]:
        assert memory is not None
        scores = _vote(scores, modalities, inputs, frame_mask, options, memory, label_directions)
    model = keras.Model(inputs, scores, name=name)
    if class_prior is not None:
        # A gate lets half of each probability through before it has learnt anything.
        _start_at_prior(model, np.asarray(class_prior) * (2 if options.get("gate_scores") else 1), class_count)
    return model


def _join(tensors: Sequence[Any], name: str) -> Any:
    return keras.layers.Concatenate(name=name)(list(tensors)) if len(tensors) > 1 else tensors[0]


def _inputs(modalities: Sequence[Modality], options: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any], Any]:
    """The model's inputs; each modality's features, cleared of padding and normalised; the frames' mask or None."""
    framed = modalities[0].kind == FRAMES
    inputs = {
        modality.name: keras.Input((None, modality.width) if framed else (modality.width,), name=modality.name)
        for modality in modalities
    }
    features = list(inputs.values())
    frame_mask = None
    if framed:
        inputs[NUM_FRAMES] = keras.Input((), dtype="int32", name=NUM_FRAMES)
        frame_mask = FrameMask(name="frame_mask")(features[0], inputs[NUM_FRAMES])
        features = [
            ClearPadding(name=f"{modality.name}_clear")(tensor, frame_mask)
            for modality, tensor in zip(modalities, features, strict=True)
        ]
    features = _normalised(features, modalities, options)
    return inputs, features, frame_mask


def _normalised(
    features: Sequence[Any], modalities: Sequence[Modality], options: Mapping[str, Any], prefix: str = ""
) -> list[Any]:
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


def _projection(found: LabelDirections, name: str, **options: Any) -> LabelProjection:
    return LabelProjection(
        mean=found.mean, directions=found.directions, strengths=found.strengths, dtype="float32", name=name, **options
    )


def _dropped_out(features: Sequence[Any], modalities: Sequence[Modality], options: Mapping[str, Any]) -> list[Any]:
    """Features of each modality, or of all joined, behind input dropout."""
    if not options["input_dropout"]:
        return list(features)
    names = [f"{modality.name}_" for modality in modalities] if len(features) == len(modalities) else [""]
    return [
        keras.layers.Dropout(options["input_dropout"], name=f"{name}input_dropout")(tensor)
        for name, tensor in zip(names, features, strict=True)
    ]


def _branches(
    modalities: Sequence[Modality], features: Sequence[Any], frame_mask: Any, options: Mapping[str, Any]
) -> list[Branch]:
    """One branch of all modalities joined (early fusion), or one a modality."""
    if options["fusion"] == "early":
        return [Branch(_join(features, "fused"), frame_mask, options, prefix="", narrow=False)]
    widest = max(modality.width for modality in modalities)
    return [
        Branch(tensor, frame_mask, options, prefix=f"{modality.name}_", narrow=2 * modality.width <= widest)
        for modality, tensor in zip(modalities, features, strict=True)
    ]


def _scores(features: Any, class_count: int, mixtures: int, name: str) -> Any:
    """Logits (B, C) of a linear classifier or of a mixture of them.

    Whatever the precision of the rest, in float32: in bfloat16 logits around -7 are 0.03 apart, and rankings tie.
    """
    if mixtures > 1:
        return MixtureOfExperts(class_count, mixtures, dtype="float32", name=name)(features)
    return keras.layers.Dense(class_count, dtype="float32", name=name)(features)


def _chain(features: Any, class_count: int, options: Mapping[str, Any], prefix: str) -> Any:
    """Deep combine chain: each stage sees the features and a summary of every earlier stage's predictions.

    Wang et al. 2017, "The Monkeytyping Solution to the YouTube-8M Video Understanding Challenge", section 3.1. There,
    the earlier stages have losses of their own; here their mean enters the output with the weight `support_weight`,
    which trains them through the one loss.
    """
    seen, support = [features], []
    for stage in range(options["stages"] - 1):
        logits = _scores(
            _join(seen, f"{prefix}seen_{stage}") if len(seen) > 1 else features,
            class_count,
            options["mixtures"],
            f"{prefix}stage_{stage}",
        )
        support.append(logits)
        predicted = keras.layers.Activation("sigmoid", name=f"{prefix}predicted_{stage}")(logits)
        link = keras.layers.Dense(options["link_units"], activation="relu", name=f"{prefix}link_{stage}")(predicted)
        seen.append(L2Normalise(name=f"{prefix}link_{stage}_l2")(link))
    last = options["stages"] - 1
    final = _scores(_join(seen, f"{prefix}seen_{last}"), class_count, options["mixtures"], f"{prefix}stage_{last}")
    if not support or not options["support_weight"]:
        return final
    weight = options["support_weight"]
    scaled = [
        keras.layers.Rescaling(weight / len(support), dtype="float32", name=f"{prefix}support_{stage}")(logits)
        for stage, logits in enumerate(support)
    ]
    main = keras.layers.Rescaling(1 - weight, dtype="float32", name=f"{prefix}main")(final)
    return keras.layers.Add(dtype="float32", name=f"{prefix}combined")([main, *scaled])


def _classify(
    name: str, features: Any, branches: Sequence[Branch], class_count: int, options: Mapping[str, Any], prefix: str
) -> Any:
    """Logits (B, C) float32 from the trunks' output. Every layer made here has a name that starts with `prefix`."""
    if name == "chain":
        logits = _chain(features, class_count, options, prefix)
    else:
        logits = _scores(features, class_count, options.get("mixtures", 1), f"{prefix}scores")
    if options["linear_skip"]:
        means = [
            branch.features
            if branch.frame_mask is None
            else MeanPool(name=f"{branch.prefix}skip_mean")(branch.features, branch.frame_mask)
            for branch in branches
        ]
        skip = keras.layers.Dense(class_count, use_bias=False, dtype="float32", name=f"{prefix}skip")
        logits = keras.layers.Add(dtype="float32", name=f"{prefix}sum")([logits, skip(_join(means, "skip"))])
    if options.get("gate_scores"):
        logits = ScoreGating(dtype="float32", name=f"{prefix}gating")(logits)
    return keras.layers.Activation("linear", dtype="float32", name=f"{prefix}logits")(logits)


def _vote(
    scores: Any,
    modalities: Sequence[Modality],
    inputs: Mapping[str, Any],
    frame_mask: Any,
    options: Mapping[str, Any],
    memory: Memory,
    label_directions: LabelDirections | None,
) -> Any:
    """Mixes the votes of the most similar remembered videos into the scores."""
    vectors = [
        inputs[modality.name]
        if frame_mask is None
        else MeanPool(name=f"{modality.name}_key_mean")(inputs[modality.name], frame_mask)
        for modality in modalities
    ]
    if options["label_projection"]:
        assert label_directions is not None
        joined = _join(_normalised(vectors, modalities, options, "key_"), "key_fused")
        key = _projection(label_directions, "classifier_neighbour_key", power=KEY_POWER, unit=True)(joined)
    else:
        key = MemoryKey(shares_of(modalities), dtype="float32", name="classifier_neighbour_key")(vectors)
    videos, labels_per_video = memory.labels.shape
    vote = NeighbourVote(
        videos,
        labels_per_video,
        options["neighbours"],
        weight=options["neighbour_weight"],
        keys=memory.keys,
        labels=memory.labels,
        dtype="float32",
        name="classifier_neighbours",
    )
    return vote(scores, key)


def _start_at_prior(model: keras.Model, class_prior: np.ndarray, class_count: int) -> None:
    """Sets the biases of all linear classifiers and mixtures of `model` so that each gives the prior on zero input.

    A chain's later stages see random links besides, and start near the prior.
    """
    prior = np.asarray(class_prior, np.float64)
    if prior.shape != (class_count,):
        raise ValueError(f"class_prior must have shape ({class_count},), got {prior.shape}")
    for layer in model.layers:
        if isinstance(layer, MixtureOfExperts):
            # On zero input the gate gives each expert 1 / (M + 1), and the one that says no the rest.
            expert = np.clip(prior * (layer.mixtures + 1) / layer.mixtures, 1e-6, 1 - 1e-6)
            layer.expert_bias.assign(np.repeat(np.log(expert / (1 - expert)), layer.mixtures).astype(np.float32))
        elif (
            isinstance(layer, keras.layers.Dense)
            and layer.use_bias
            and layer.name.startswith(HEAD_PREFIX)
            and (layer.name.endswith("scores") or "stage_" in layer.name)
        ):
            clipped = np.clip(prior, 1e-6, 1 - 1e-6)
            layer.bias.assign(np.log(clipped / (1 - clipped)).astype(np.float32))
