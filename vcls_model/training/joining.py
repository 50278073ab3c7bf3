"""Joins exported models into one SavedModel that averages them."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.input.dataset import decode_features
from vcls_model.input.options import InputOptions
from vcls_model.records.identity import SCALING, differences, trained_on
from vcls_model.records.schema import FRAMES
from vcls_model.records.split_ids import copy_split_ids
from vcls_model.records.transformed import TransformedData, TransformedModality, modality_from_dict
from vcls_model.records.vocabulary import load_vocabulary, write_labels_csv
from vcls_model.saved_models import refuse_programs
from vcls_model.serving.combining import combined_in_graph
from vcls_model.serving.export import marked_features, save_module
from vcls_model.serving.exported import SAVED_MODEL, load_saved_model, read_model_info, refuse_repeated
from vcls_model.training.evaluation import Validation, evaluate, summarise
from vcls_model.training.losses import sparse_loss
from vcls_model.training.options import LossOptions
from vcls_model.training.outputs import PACKAGES
from vcls_model.training.starting_points import class_names
from vcls_model.versions import versions_of

# Signatures of transformed features, which members have in common only if they were trained on the same dataset.
_SAME_FEATURES = ("transformed", "teaching")


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Attributes:
        path: its directory.
        info: its `info.json`.
        loaded: its SavedModel.
    """

    path: str
    info: Mapping[str, Any]
    loaded: Any

    @property
    def modalities(self) -> tuple[TransformedModality, ...]:
        """The transformed features that it takes."""
        return tuple(modality_from_dict(entry) for entry in self.info["transformed"])

    @property
    def presence(self) -> bool:
        """Whether it bears that a video lacks a modality."""
        return bool(self.info.get("presence"))

    @property
    def identity(self) -> dict[str, str]:
        """Of the transformed dataset that it was trained on, see `records.identity`."""
        return trained_on(self.info)

    @property
    def read(self) -> InputOptions:
        """Which frames of a video it sees, and how many at most; the same for all models that read no frames."""
        if not any(modality.kind == FRAMES for modality in self.modalities):
            return InputOptions(1, max_frames=1)
        options = self.info["training"]["options"]["read"]
        frames = InputOptions(1, options.get("frames", "all")).evaluation_frames()
        return InputOptions(1, frames, int(options["max_frames"]))

    def signature(self, name: str) -> Callable[..., dict[str, tf.Tensor]]:
        """One of its functions; a model without neighbours has no `teaching` of its own."""
        signatures = self.loaded.signatures
        return signatures[name if name in signatures else "transformed"]


def load_members(paths: Sequence[str], *, trusted: bool = False) -> tuple[Member, ...]:
    """Loads the models of an ensemble.

    Args:
        paths: their directories.
        trusted: they may have any operations.

    Raises:
        UsageError: a directory is not an exported model or named twice, their records, classes or splits differ, or
            one may do more than compute.
    """
    infos = [read_model_info(path, ("schema", "class_count", "model", "transformed")) for path in paths]
    refuse_repeated(paths)
    first = infos[0]
    for path, info in zip(paths[1:], infos[1:], strict=True):
        for key in ("schema", "class_count", "split"):
            if info.get(key) != first.get(key) and not (key == "split" and _same_split(info, first)):
                raise UsageError(
                    f"{path} and {paths[0]} cannot be joined: their {key} differs "
                    f"({info.get(key)} and {first.get(key)})"
                )
    names = [class_names(path, first["class_count"]) for path in paths]
    for path, other in zip(paths[1:], names[1:], strict=True):
        if other != names[0]:
            raise UsageError(f"{path} and {paths[0]} cannot be joined: their labels.csv name other classes")
    for path in paths:
        refuse_programs(storage.join(path, SAVED_MODEL), f"--model={path}", trusted=trusted)
    return tuple(Member(path, info, load_saved_model(path)) for path, info in zip(paths, infos, strict=True))


def _same_split(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the data of two models were split alike, as far as both say: earlier versions did not list the ids."""
    splits = [dict(info.get("split") or {}) for info in (one, other)]
    listed = [split.pop("ids", None) for split in splits]
    return splits[0] == splits[1] and (None in listed or listed[0] == listed[1])


def _same_features(members: Sequence[Member]) -> bool:
    """Whether all members take the same transformed features, on one scale, of the same frames."""
    return (
        # Ensembles of differently transformed members have no such signature.
        all("transformed" in member.loaded.signatures for member in members)
        and len({(member.modalities, member.read) for member in members}) == 1
        and not any(_scaled_differently(one, two) for one, two in itertools.combinations(members, 2))
    )


def _scaled_differently(one: Member, two: Member) -> bool:
    settings = [member.identity.get("settings") for member in (one, two)]
    return settings[0] != settings[1] or bool(differences(one.identity, two.identity, SCALING))


def check_data(members: Sequence[Member], data: TransformedData) -> None:
    """Raises `UsageError` unless every member was trained on `data`, with the same frames of its videos."""
    for member in members:
        if differing := differences(member.identity, data.identity):
            raise UsageError(
                f"--data={data.directory} is not the transformed dataset that every member was trained on: {differing} "
                f"differ from those of {member.path}"
            )
    if not _same_features(members) or members[0].identity.get("settings") != data.identity.get("settings"):
        raise UsageError(
            f"--data={data.directory} is not the transformed dataset that every member was trained on, with the same "
            "frames of its videos"
        )


def join_members(
    members: Sequence[Member],
    data: TransformedData | None,
    output: str,
    weights: Sequence[float],
    combine: str,
    overwrite: bool,
) -> dict[str, Any]:
    """Writes the ensemble; returns the content of its `info.json`, which is written last.

    Args:
        members: the models.
        data: the dataset on whose validation split thresholds are chosen; None leaves them out.
        output: directory of the ensemble.
        weights: one per member; they add to 1.
        combine: see `combined_in_graph`.
        overwrite: replace what the output directory holds.
    """
    if overwrite:
        storage.empty_directory(output)
    names = ["serving_default", "features"]
    if _same_features(members):
        names += [name for name in _SAME_FEATURES if any(name in member.loaded.signatures for member in members)]
    signatures = {name: _joined(members, name, weights, combine) for name in names}
    module = tf.Module()
    module.members = [member.loaded for member in members]  # a module keeps the variables that it holds
    save_module(module, signatures, output)
    presence = all(member.presence for member in members)
    validation = Validation()
    if data is not None:
        validation = _validate(signatures["transformed"], members[0], data, presence)
    class_count = members[0].info["class_count"]
    labels = storage.join(members[0].path, "labels.csv")
    classes = [dataclasses.replace(entry, best_threshold=None) for entry in load_vocabulary(labels, class_count)]
    storage.write_text(storage.join(output, "labels.csv"), write_labels_csv(classes, validation.thresholds))
    copy_split_ids(members[0].path, output)
    info = {**_describe(members, weights, combine, validation), "presence": presence}
    storage.write_json(storage.join(output, "info.json"), info)
    shown = validation.headline() if data is not None else "skipped (no --data)"
    print(f"{len(members)} models joined in {output}; validation {shown}")
    return info


def _joined(members: Sequence[Member], name: str, weights: Sequence[float], combine: str) -> Any:
    """The concrete function that averages one of the members' signatures."""
    functions = [member.signature(name) for member in members]
    specs = functions[0].structured_input_signature[1]  # type: ignore[attr-defined]

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": combined_in_graph([function(**inputs)["logits"] for function in functions], weights, combine)}

    return tf.function(call).get_concrete_function(
        **{key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in specs.items()}
    )


def _validate(
    transformed: Callable[..., dict[str, tf.Tensor]], member: Member, data: TransformedData, presence: bool
) -> Validation:
    modalities = member.modalities

    @tf.function(reduce_retracing=True)
    def predict(batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        features = decode_features(batch["features"], modalities)
        logits = transformed(**(marked_features(features, modalities) if presence else features))["logits"]
        return logits, sparse_loss(logits, batch["labels"], LossOptions())

    read = dataclasses.replace(member.read, batch_size=64)
    return summarise(*evaluate(predict, data, modalities, read, presence=presence))


def _describe(
    members: Sequence[Member], weights: Sequence[float], combine: str, validation: Validation
) -> dict[str, Any]:
    """The content of `info.json`."""
    first = members[0].info
    trained = [member.info["training"] for member in members]
    reads = {member.read for member in members}
    # Another ensemble reads here what this one sees: the longest of its members' frames where they differ.
    read = {
        "frames": members[0].read.frames if len(reads) == 1 else "all",
        "max_frames": max(read.max_frames for read in reads),
    }
    return {
        "schema": first["schema"],
        "split": first["split"],
        "class_count": first["class_count"],
        "transformed": first["transformed"],
        "model": {
            "name": "ensemble",
            "hyperparameters": {"combine": combine, "weights": list(weights)},
            "parameter_count": sum(member.info["model"]["parameter_count"] for member in members),
            "members": [
                {"path": member.path, "model": member.info["model"], "training": member.info["training"]}
                for member in members
            ],
        },
        "training": {
            "examples": sum(training["examples"] for training in trained),
            "epochs": None,
            "best_epoch": None,
            "validation": validation.metrics,
            "wall_seconds": sum(training["wall_seconds"] for training in trained),
            "seed": None,
            "options": {"read": read},
        },
        "data": first["data"] if _same_features(members) else {},
        "versions": versions_of(*PACKAGES),
    }
