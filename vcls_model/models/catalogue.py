"""The models by name: the level of data that each takes and its hyperparameters. Pure Python, for `--help`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.schema import FRAME_LEVEL, VIDEO_LEVEL, Modality

FUSIONS = ("early", "late", "score")
MODALITY_NORMS = ("none", "l2")
HEADS = ("none", "label_graph")
CELLS = ("gru", "lstm")
CHOICES: dict[str, tuple[str, ...]] = {"fusion": FUSIONS, "modality_norm": MODALITY_NORMS, "head": HEADS, "cell": CELLS}

# What every model takes.
#   fusion         early: the modalities' features are joined and go through one trunk; late: a trunk a modality, joined
#                  before the classifier; score: a whole model a modality, whose logits are averaged.
#   modality_norm  l2: every modality's vector (of each frame) is scaled to a root mean square of 1 first.
#   input_dropout  fraction of input values dropped in training.
#   linear_skip    adds a linear classifier of the (frames' mean) input to the logits.
#   head           label_graph: scores are passed over the graph of label co-occurrence (needs the graph).
COMMON: dict[str, Any] = {
    "fusion": "early",
    "modality_norm": "none",
    "input_dropout": 0.0,
    "linear_skip": False,
    "head": "none",
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
    "logistic": _info(VIDEO_LEVEL, "one linear classifier a class"),
    "dense": _info(VIDEO_LEVEL, "hidden layers of ReLU units, then a sigmoid a class",
                   hidden_units=(1024,), dropout=0.0),
}
MODEL_NAMES: tuple[str, ...] = tuple(sorted(MODELS))

# Integers that may be 0; every other integer must be at least 1.
_MAY_BE_ZERO = frozenset({"mixtures"})
_FRACTIONS = frozenset({"dropout", "input_dropout", "support_weight"})


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
            if value < (0 if key in _MAY_BE_ZERO else 1):
                raise UsageError(f"hyperparameter {key} must be positive, got {value}")
        elif isinstance(default, float):
            value = float(value)
            if key in _FRACTIONS and not 0 <= value < 1:
                raise UsageError(f"hyperparameter {key} must lie in [0, 1), got {value}")
        elif isinstance(default, tuple):
            if isinstance(value, str):
                value = value.replace("x", ",").split(",")
            value = tuple(int(part) for part in (value if isinstance(value, list | tuple) else [value]))
            if not value or min(value) < 1:
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
    return resolved


def select_modalities(name: str, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Those of a data set's transformed modalities that the model called `name` takes: the ones of its level.

    Raises:
        UsageError: unknown model, or the data set has no modality of the model's level.
    """
    level = model_info(name).level
    chosen = tuple(modality for modality in modalities if modality.level == level)
    if chosen:
        return chosen
    held = ", ".join(modality.name for modality in modalities) or "nothing"
    others = ", ".join(other for other in MODEL_NAMES if MODELS[other].level != level)
    if level == FRAME_LEVEL:
        raise UsageError(f"model {name!r} reads sequences of frames, but the data set holds only video-level features "
                         f"({held}): preprocess frame-level records, or choose one of {others}")
    raise UsageError(f"model {name!r} reads one vector a video, but the data set holds only frame-level features "
                     f"({held}): preprocess it again with pooled features, or choose one of {others}")
