"""What an ensemble is made of, and the members that its recipe trains."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from vcls_model import storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.models.catalogue import FRAME_LEVEL, VIDEO_LEVEL
from vcls_model.models.recipes import ENSEMBLES
from vcls_model.records.schema import FRAMES
from vcls_model.records.transformed import TransformedData
from vcls_model.serving.combining import COMBINATIONS

if TYPE_CHECKING:
    from vcls_model.training.joining import Member

RECIPES = ("best", "none")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble.

    Attributes:
        models: directories of exported models; with `recipe="best"`, those that the members are trained into.
        output: directory of the ensemble.
        data: transformed dataset on whose validation split the thresholds are chosen; empty leaves them out.
        combine: what is averaged: `probability` or `logit`.
        weights: one positive number per member; they are scaled to add to 1. Empty gives all the same weight.
        overwrite: replace what the output directory holds.
        recipe: `best` trains the members first, `none` joins models that exist.
        resume: continue with members that are not finished.
        trust_model: members may have any operations.
    """

    models: tuple[str, ...]
    output: str
    data: str = ""
    combine: str = "probability"
    weights: tuple[float, ...] = ()
    overwrite: bool = False
    recipe: str = "none"
    resume: bool = False
    trust_model: bool = False

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise unknown_choice("recipe", self.recipe, RECIPES)
        if self.resume and self.recipe == "none":
            raise UsageError("--resume continues the training of --recipe=best; models that exist are joined at once")
        if len(self.models) < 2:
            raise UsageError("an ensemble joins two models or more: repeat --model")
        if self.combine not in COMBINATIONS:
            raise unknown_choice("combination", self.combine, COMBINATIONS)
        weights = self.weights or (1.0,) * len(self.models)
        if len(weights) != len(self.models) or not (min(weights) > 0 and math.isfinite(sum(weights))):
            raise UsageError(f"--weights must be {len(self.models)} positive numbers, got {list(weights)}")
        object.__setattr__(self, "weights", tuple(weight / sum(weights) for weight in weights))


@dataclasses.dataclass(frozen=True)
class EnsemblePlan:
    """An ensemble whose members fit each other.

    Attributes:
        config: the ensemble.
        members: the models that it joins.
        data: the dataset to choose thresholds on, or None.
    """

    config: EnsembleConfig
    members: tuple["Member", ...]
    data: TransformedData | None


def member_flags(data: TransformedData, output: str) -> dict[str, dict[str, Any]]:
    """The flags of training of each member of the recipe for a dataset, by the member's name."""
    frames = any(modality.kind == FRAMES for modality in data.modalities)
    members = ENSEMBLES[FRAME_LEVEL if frames else VIDEO_LEVEL]
    return {
        name: {"data": data.directory, **flags, "output": storage.join(output, "members", name)}
        for name, flags in members.items()
    }
