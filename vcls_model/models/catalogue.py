"""The models by name: the level of data that each takes and its hyperparameters. Pure Python, for `--help`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.records.schema import FRAMES, VECTOR, Modality

VIDEO_LEVEL = "video"
FRAME_LEVEL = "frame"
FUSIONS = ("early", "late", "score")
MODALITY_NORMS = ("none", "l2", "unit")
HEADS = ("none", "label_graph")
CELLS = ("gru", "lstm")
CHOICES: dict[str, tuple[str, ...]] = {"fusion": FUSIONS, "modality_norm": MODALITY_NORMS, "head": HEADS, "cell": CELLS}

# What the hyperparameters mean that most models take.
MEANINGS: dict[str, str] = {
    "fusion": "early: the modalities' features are joined and go through one trunk; late: a trunk a modality, joined "
    "before the classifier; score: a whole model a modality, whose logits are averaged",
    # A mixture of two unit vectors (mixup) stays shorter than a video, which says that it is one: "unit" keeps that.
    "modality_norm": "none; l2: scales every modality's vector (of each frame) to a root mean square of 1; unit: the "
    "same by a constant, for data whose vectors have length 1 already (preprocess --normalise=l2)",
    "input_dropout": "fraction of input values dropped in training",
    "linear_skip": "true adds a linear classifier of the (frames' mean) input to the logits",
    "label_projection": "above 0 (0.75 is good) turns the joined features (fusion=early) towards what tells labels "
    "apart in the training videos: how far strong directions stand out",
    "neighbours": "how many of the most similar training videos vote on a prediction; 0 is off",
    "neighbour_weight": "share of their vote in a prediction",
    "head": "none; label_graph: scores are passed over the graph of label co-occurrence",
    "mixtures": "experts a class in the classifier; 1 is a linear classifier",
    "dropout": "fraction of hidden values dropped in training",
    "cell": "gru or lstm",
}
# What every model takes.
COMMON: dict[str, Any] = {
    "fusion": "early",
    "modality_norm": "none",
    "input_dropout": 0.0,
    "linear_skip": False,
    "label_projection": 0.0,
    "head": "none",
    "neighbours": 0,
    "neighbour_weight": 0.35,
}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it.

    Attributes:
        level: `"video"` or `"frame"`: the data that it takes.
        summary: one line for a help text.
        defaults: every hyperparameter with its default; the type of the default is the type of the hyperparameter.
    """

    level: str
    summary: str
    defaults: Mapping[str, Any]


def _info(level: str, summary: str, **defaults: Any) -> ModelInfo:
    return ModelInfo(level, summary, {**COMMON, **defaults})


MODELS: dict[str, ModelInfo] = {
    # Video-level: one vector a modality.
    "logistic": _info(VIDEO_LEVEL, "one linear classifier a class"),
    "dense": _info(
        VIDEO_LEVEL, "hidden layers of ReLU units, then a sigmoid a class", hidden_units=(1024,), dropout=0.0
    ),
    "moe": _info(VIDEO_LEVEL, "mixture of linear experts a class", mixtures=2),
    "residual": _info(
        VIDEO_LEVEL,
        "wide layer with batch normalisation and dropout, residual blocks, context gating",
        units=2048,
        blocks=1,
        gating=True,
        dropout=0.5,
        mixtures=1,
    ),
    "wide": _info(
        VIDEO_LEVEL,
        "one wide layer beside a linear classifier",
        units=2048,
        dropout=0.5,
        mixtures=1,
        input_dropout=0.3,
        linear_skip=True,
    ),
    "chain": _info(
        VIDEO_LEVEL,
        "deep combine chain: classifiers that see the predictions of earlier ones",
        stages=3,
        link_units=200,
        mixtures=2,
        support_weight=0.2,
    ),
    # Frame-level: a sequence of vectors a modality.
    "average": _info(
        FRAME_LEVEL,
        "mean over frames, then hidden layers",
        frame_units=(),
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "feature_attention": _info(
        FRAME_LEVEL,
        "dense layers on frames, then a weighted mean a feature",
        frame_units=(1024, 1024, 1024),
        hidden_units=(),
        dropout=0.5,
        mixtures=1,
    ),
    "cnn_rnn": _info(
        FRAME_LEVEL,
        "convolutions over time, then GRU or LSTM",
        filters=(512, 512),
        kernel_size=5,
        cell="gru",
        recurrent_units=(1024,),
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "multiscale_cnn": _info(
        FRAME_LEVEL,
        "convolutions of several lengths and reaches, pooled at every scale",
        filters=256,
        kernel_sizes=(1, 3, 5),
        blocks=4,
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "attention_rnn": _info(
        FRAME_LEVEL,
        "GRU or LSTM in both directions, then attention over frames",
        cell="gru",
        recurrent_units=(512,),
        attention_units=256,
        heads=4,
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "dbof": _info(
        FRAME_LEVEL, "deep bag of frames", fusion="late", clusters=8192, hidden_units=(1024,), dropout=0.0, mixtures=2
    ),
    "netvlad": _info(
        FRAME_LEVEL,
        "gated NetVLAD",
        fusion="late",
        clusters=256,
        hidden_units=(1024,),
        dropout=0.0,
        mixtures=2,
        gate_scores=True,
    ),
    "nextvlad": _info(
        FRAME_LEVEL,
        "NeXtVLAD with squeeze-and-excite gating",
        fusion="late",
        clusters=128,
        groups=8,
        expansion=2,
        hidden_units=(2048,),
        reduction=8,
        dropout=0.5,
        mixtures=1,
    ),
    "transformer": _info(
        FRAME_LEVEL,
        "transformer encoder, then attention over frames",
        units=512,
        blocks=6,
        heads=8,
        inner_units=2048,
        dropout=0.1,
        mixtures=1,
    ),
}
MODEL_NAMES: tuple[str, ...] = tuple(sorted(MODELS))

# Integers that may be 0 and lists that may be empty; every other integer must be at least 1, every other list hold one.
_MAY_BE_NONE = frozenset({"blocks", "frame_units", "hidden_units", "neighbours"})
# Numbers from 0 on: what each must stay below.
_BELOW = {"dropout": 1, "input_dropout": 1, "support_weight": 1, "neighbour_weight": 1, "label_projection": 10}


def model_info(name: str) -> ModelInfo:
    """What is known of the model called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in MODELS:
        raise unknown_choice("model", name, MODEL_NAMES)
    return MODELS[name]


def default_hyperparameters(name: str) -> dict[str, Any]:
    """The hyperparameters of the model called `name` with their defaults.

    Raises:
        UsageError: there is no such model.
    """
    return dict(model_info(name).defaults)


def _checked(key: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`; text (from a command line) and lists (from JSON) are converted."""
    wrong = UsageError(f"hyperparameter {key} must be like {default!r}, got {value!r}")
    try:
        if isinstance(default, bool):
            if isinstance(value, str):
                value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
            if not isinstance(value, bool):
                raise wrong
        elif isinstance(default, int):
            if isinstance(value, float) and value != int(value):
                raise wrong
            value = int(value)
            if value < (0 if key in _MAY_BE_NONE else 1):
                raise UsageError(f"hyperparameter {key} must be positive, got {value}")
        elif isinstance(default, float):
            value = float(value)
            if key in _BELOW and not 0 <= value < _BELOW[key]:
                raise UsageError(f"hyperparameter {key} must lie in [0, {_BELOW[key]}), got {value}")
        elif isinstance(default, tuple):
            if isinstance(value, str):
                value = [part for part in value.split(",") if part.strip()]
            value = tuple(int(part) for part in (value if isinstance(value, list | tuple) else [value]))
            if (not value and key not in _MAY_BE_NONE) or any(part < 1 for part in value):
                raise UsageError(f"hyperparameter {key} must be one or more positive integers, got {value}")
        elif value not in CHOICES[key]:
            raise unknown_choice(key, str(value), CHOICES[key])
    except (TypeError, ValueError):
        raise wrong from None
    return value


def resolve_hyperparameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the model called `name` overridden by `given`, checked and of the right types.

    Values may be text as typed on a command line (`"1024,512"`, `"true"`) or lists as read from JSON.

    Raises:
        UsageError: unknown model or hyperparameter (names the nearest), or a value out of range.
    """
    defaults = model_info(name).defaults
    resolved = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise unknown_choice(f"hyperparameter of {name}", key, defaults)
        resolved[key] = _checked(key, value, defaults[key])
    if name == "multiscale_cnn" and not resolved["blocks"]:
        raise UsageError("multiscale_cnn needs blocks of 1 or more: it pools what they give")
    if name == "transformer" and (resolved["units"] % resolved["heads"] or resolved["units"] % 2):
        raise UsageError(
            f"transformer needs units that are even and a multiple of heads, got {resolved['units']} "
            f"units and {resolved['heads']} heads"
        )
    if resolved["label_projection"] and resolved["fusion"] != "early":
        raise UsageError("label_projection joins the modalities' features first: it needs fusion=early")
    return resolved


def select_modalities(name: str, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Those of a data set's transformed modalities that the model called `name` takes: the ones of its level.

    Raises:
        UsageError: unknown model, or the data set has no modality of the model's level.
    """
    level = model_info(name).level
    kind = FRAMES if level == FRAME_LEVEL else VECTOR
    chosen = tuple(modality for modality in modalities if modality.kind == kind)
    if chosen:
        return chosen
    held = ", ".join(modality.name for modality in modalities) or "nothing"
    others = ", ".join(other for other in MODEL_NAMES if MODELS[other].level != level)
    if level == FRAME_LEVEL:
        raise UsageError(
            f"model {name!r} reads sequences of frames, but the data set holds only video-level features "
            f"({held}): preprocess frame-level records, or choose one of {others}"
        )
    raise UsageError(
        f"model {name!r} reads one vector a video, but the data set holds only frame-level features "
        f"({held}): preprocess it again with pooled features, or choose one of {others}"
    )
