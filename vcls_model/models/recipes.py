"""How each model is trained best: the defaults of `vcls_model.train --model=NAME`. Pure Python.

A recipe gives values to flags of training and to hyperparameters, by their names. Where it is silent, the flag has its
plain default. `vcls_model.training.recipes` fits it to the data; docs/BENCHMARKS.md says what it reaches.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Flags of training, and where they were measured.

    Attributes:
        values: by name of the flag, in the type of its default.
        videos: training videos on which they were chosen; 0 when they fit any number.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    videos: int = 0

    def but(self, **values: Any) -> "Recipe":
        """The same with other values."""
        return dataclasses.replace(self, values=MappingProxyType({**self.values, **values}))


PLAIN = Recipe()
# Chosen on the tuning shards of YouTube-8M's video-level data.
VIDEO_RECIPE = Recipe(
    MappingProxyType(
        {
            "input_norm": "l2",
            "modality_norm": "unit",
            "label_projection": 0.75,
            "neighbours": 60,
            "class_prior": True,
            "batch_size": 256,
            "epochs": 6,
            "patience": 0,
            "learning_rate": 0.002,
            "decay": "cosine",
            "warmup_examples": 9_000,
            "mixup": 0.4,
            "modality_dropout": 0.15,
            "calibration": "platt",
            "precision": "mixed_bfloat16",
        }
    ),
    videos=23_091,
)
# Chosen on the tuning clips of AudioSet, which hold ten frames each.
FRAME_RECIPE = Recipe(
    MappingProxyType(
        {
            "label_projection": 0.5,
            "neighbours": 80,
            "class_prior": True,
            "batch_size": 128,
            "epochs": 8,
            "patience": 0,
            "learning_rate": 0.001,
            "decay": "cosine",
            "mixup": 0.4,
            "modality_dropout": 0.15,
            "calibration": "platt",
            "precision": "mixed_bfloat16",
        }
    ),
    videos=19_899,
)
# Chosen by a prototype on the same shards and on parts of the training shards; see docs/BENCHMARKS.md.
WIDE_RECIPE = VIDEO_RECIPE.but(
    epochs=9,
    units=1024,
    members=2,
    label_text=0.3,
    classifier_rate=0.3,
    ema=0.99,
    final_rate=0.2,
    neighbour_weight=0.25,
)
# Its probabilities are too small with as much mixup as `wide` takes.
RESIDUAL_RECIPE = WIDE_RECIPE.but(linear_skip=True, input_dropout=0.3, mixup=0.3)

# By level: the members of `vcls_model.ensemble --recipe=best`, each with its model and what differs from its recipe.
# They differ so that their errors do.
ENSEMBLES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "video": {
        "wide": {"model": "wide"},
        "residual": {"model": "residual", "seed": 2},
        "residual_strong": {"model": "residual", "seed": 6, "label_projection": 1.0},
        "late": {"model": "wide", "seed": 3, "fusion": "late"},
    },
    "frame": {
        "attention_rnn": {"model": "attention_rnn", "seed": 1},
        "nextvlad": {"model": "nextvlad", "seed": 3},
        "multiscale_cnn": {"model": "multiscale_cnn", "seed": 4},
    },
}
