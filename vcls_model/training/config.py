"""What one training run is. Pure Python, so that wrong flags are refused at once."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from vcls_model import storage
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.training.options import DISTRIBUTIONS, PRECISIONS, TrainOptions

# Options that may differ when a finished run is resumed: they decide only how long it goes on.
LENGTH_OPTIONS = ("epochs", "patience", "average_checkpoints")
# Hyperparameters younger than checkpoints that may be continued, with the values that change nothing.
YOUNGER = {
    "input_norm": "data",
    "members": 1,
    "label_text": 0.0,
    "classifier_rate": 0.0,
    "text_width": 64,
    "text_dropout": 0.5,
}


# What of `TrainConfig.deciding` comes from the dataset.
_OF_DATA = {"data_hash": "the data", "records": "the data"}
_CHANGES_SHOWN = 6
_LONGEST_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: directory of the transformed dataset.
        output: directory of the model.
        model: name of the architecture.
        hyperparameters: all of the architecture's hyperparameters.
        options: how to fit.
        resume: continue what is in `output`.
        overwrite: replace what is in `output`.
        trust_model: teachers and the transform graph may have any operations.
        precision: dtype policy of the layers.
        distribution: `auto`, `none`, `mirrored` or `multi_worker`.
        devices: devices to mirror over.
        class_prior: start the classifier's biases at the classes' log-odds.
        teachers: directories of exported models to distil.
        init_from: directory of an exported model whose weights are taken over; empty starts from scratch.
        new_head: initialise the layers that depend on the classes instead of taking them over.
        allow_other_scaling: take weights over although the data are normalised otherwise.
        freeze: globs of layers that do not learn.
        unfreeze_after: epochs after which they do; 0 never.
        rate_scales: (glob over variables, factor on the learning rate).
        verbose: show progress.
        recipe: names of the flags whose values are those of the model's recipe.
        recipe_notes: why some of them differ from the recipe; see `training.recipes`.
    """

    data: str
    output: str
    model: str
    hyperparameters: dict[str, Any]
    options: TrainOptions
    resume: bool = False
    overwrite: bool = False
    trust_model: bool = False
    precision: str = "float32"
    distribution: str = "auto"
    devices: tuple[str, ...] = ()
    class_prior: bool = False
    teachers: tuple[str, ...] = ()
    init_from: str = ""
    new_head: bool = False
    allow_other_scaling: bool = False
    freeze: tuple[str, ...] = ()
    unfreeze_after: int = 0
    rate_scales: tuple[tuple[str, float], ...] = ()
    verbose: bool = True
    recipe: tuple[str, ...] = ()
    recipe_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_choice("precision", self.precision, PRECISIONS)
        if self.distribution not in DISTRIBUTIONS:
            raise unknown_choice("distribution", self.distribution, DISTRIBUTIONS)
        if self.devices and self.distribution not in ("auto", "mirrored"):
            raise UsageError(
                f"--devices lists devices to mirror over, but --distribution={self.distribution} is not mirrored"
            )
        if self.new_head and not self.init_from:
            raise UsageError("--new_head leaves out a part of the weights of --init_from, which is not given")
        if self.unfreeze_after < 0 or (self.unfreeze_after and not self.freeze):
            raise UsageError("--unfreeze_after must not be negative and applies to the layers of --freeze: give both")

    def fingerprint(self, data_info: Mapping[str, Any]) -> str:
        """A hash of `deciding`: a checkpoint with another fingerprint must not be continued."""
        text = storage.to_json(self.deciding(data_info), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def deciding(self, data_info: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the result.

        Args:
            data_info: the `info.json` of the dataset.
        """
        value = dataclasses.asdict(self)
        for name in (
            "data",
            "output",
            "resume",
            "overwrite",
            "trust_model",
            "allow_other_scaling",
            "verbose",
            "distribution",
            "devices",
            "recipe",
            "recipe_notes",
        ):
            del value[name]
        for name, default in YOUNGER.items():
            if value["hyperparameters"].get(name) == default:
                del value["hyperparameters"][name]
        if not self.options.modality_dropout:
            del value["options"]["modality_dropout"]  # the same
        if self.options.calibration == "none":
            del value["options"]["calibration"]  # the same
        for name in ("patience", "checkpoint_seconds", "average_checkpoints"):
            del value["options"][name]  # a run that continues may change them
        if self.options.schedule.decay != "cosine":
            del value["options"]["epochs"]  # only a cosine depends on where the run ends
        value["data_hash"] = data_info.get("config_hash")
        value["records"] = data_info.get("splits")
        return value


def changed_options(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between `TrainConfig.deciding` of two runs, in words; "" where nothing does."""
    before, after = (_leaves(storage.from_json(storage.to_json(each, default=str), "")) for each in (then, now))
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    words = []
    for name in changed[:_CHANGES_SHOWN]:
        shown = [str(each.get(name, "not set")) for each in (before, after)]
        plain = name not in _OF_DATA and max(map(len, shown)) < _LONGEST_SHOWN
        words.append(f"{name} was {shown[0]}, is now {shown[1]}" if plain else f"{_OF_DATA.get(name, name)} changed")
    return "; ".join(dict.fromkeys(words))


def _leaves(value: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of nested mappings by their own names, which are those of flags."""
    leaves: dict[str, Any] = {}
    for name, entry in value.items():
        leaves.update(_leaves(entry) if isinstance(entry, dict) and name not in _OF_DATA else {name: entry})
    return leaves
