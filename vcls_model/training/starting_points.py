"""What a model starts from: pretrained weights, teachers to distil, statistics of the training data."""

import dataclasses
import functools
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.input.batches import BatchPlan, array_batches
from vcls_model.input.dataset import decode_features, make_batches, readable, refuse_not_finite
from vcls_model.input.options import InputOptions
from vcls_model.layers import LabelProjection, NeighbourVote, UnitInput
from vcls_model.models import build_model, model_info
from vcls_model.models.assembly import PROJECTION
from vcls_model.models.head import depends_on_classes
from vcls_model.models.label_directions import LabelDirections, find_label_directions
from vcls_model.models.label_graph import count_label_graph
from vcls_model.models.label_text import find_label_vectors
from vcls_model.models.neighbour_memory import MEMORY_LIMIT, remember
from vcls_model.records.identity import SCALING, differences, trained_on
from vcls_model.records.raw_values import RawValues, find_raw_values
from vcls_model.records.schema import TEXT, Modality
from vcls_model.records.transformed import TransformedData, TransformedModality, modality_from_dict, presence_name
from vcls_model.records.vocabulary import load_vocabulary
from vcls_model.saved_models import refuse_programs
from vcls_model.serving.export import marked_features, transformed_signature
from vcls_model.serving.exported import SAVED_MODEL, load_saved_model, read_model_info
from vcls_model.training.checkpoints import bears_missing
from vcls_model.training.config import TrainConfig

# What info.json must say of a model that training starts from.
_NEEDED = ("class_count", "model", "transformed")


def refuse_training_programs(config: TrainConfig) -> None:
    """Raises `UsageError` if a teacher, or the transform graph of the data, may do more than compute."""
    graphs = {f"the transform graph of --data={config.data}": storage.join(config.data, "transform_fn")}
    graphs |= {f"--teacher={path}": storage.join(path, SAVED_MODEL) for path in config.teachers}
    for what, directory in graphs.items():
        refuse_programs(directory, what, trusted=config.trust_model)


def refuse_too_large(
    hyperparameters: Mapping[str, Any], modalities: Sequence[Modality], class_count: int, memory_bytes: int = 0
) -> None:
    """Refuses a layer that the machine cannot hold, before anything is allocated.

    Each unit has a weight at least to each value of the smallest input or to each class; training holds of each a
    float32, its gradient and two moments.

    Args:
        hyperparameters: of the model.
        modalities: what it takes.
        class_count: number of classes C.
        memory_bytes: of the machine; 0 asks the system.

    Raises:
        UsageError: names the hyperparameter.
    """
    memory_bytes = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # A layer that reads a text alone reads at least `text_width` values.
    width = int(hyperparameters.get("text_width", 1))
    narrowest = min(class_count, *(width if each.kind == TEXT else each.width for each in modalities))
    for name, value in hyperparameters.items():
        sizes = [size for size in (value if isinstance(value, tuple | list) else [value]) if type(size) is int]
        needed = max(sizes, default=0) * narrowest * 16
        if needed > memory_bytes:
            raise UsageError(
                f"--{name}={max(sizes)} makes a layer that takes {needed / 1e9:,.0f} GB or more to train; this machine "
                f"has {memory_bytes / 1e9:,.0f} GB of memory"
            )


def make_model(
    config: TrainConfig,
    data: TransformedData,
    modalities: Sequence[TransformedModality],
    strategy: tf.distribute.Strategy,
) -> keras.Model:
    """Builds the model of a run, under its strategy, and gives it its initial weights.

    Raises:
        UsageError: the model cannot be built with its hyperparameters, or does not fit `init_from`.
        JobError: `init_from` is not a model, or one of another architecture or other sizes.
    """
    refuse_too_large(config.hyperparameters, modalities, data.class_count)
    pretrained = Pretrained(config.init_from) if config.init_from else None
    if pretrained:
        pretrained.check(
            config.model,
            config.hyperparameters,
            modalities,
            data,
            new_head=config.new_head,
            allow_other_scaling=config.allow_other_scaling,
        )
    projects = bool(config.hyperparameters["label_projection"])
    directions = pretrained.label_directions() if pretrained and projects else None
    presence = data.may_lack and not (config.resume and not bears_missing(config.output))
    knowledge = training_knowledge(
        data, modalities, config.hyperparameters, config.options.read, directions, presence=presence
    )
    with strategy.scope():
        try:
            model = build_model(
                config.model,
                modalities,
                data.class_count,
                class_prior=class_prior(data) if config.class_prior else None,
                presence=presence,
                **knowledge,
                **config.hyperparameters,
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"model {config.model} cannot be built with these hyperparameters: {error}") from error
        if pretrained:
            take_over(model, pretrained, new_head=config.new_head)
    return model


def class_prior(data: TransformedData) -> np.ndarray:
    """Fraction of the labelled training videos that carry each class, float (C,).

    From what preprocess counted, or from one pass over the labels alone.
    """
    counts = data.class_counts()
    if counts is not None and data.all_labelled():
        return np.asarray(counts, np.float64) / max(data.records.get("train", 0), 1)
    totals, videos = np.zeros(data.class_count, np.int64), 0
    for values, lengths in iterate_labels(data):
        totals += np.bincount(values, minlength=data.class_count)
        videos += int(np.count_nonzero(lengths))
    return totals / max(videos, 1)


def iterate_labels(data: TransformedData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The labels of the training split in batches: class indices of all videos int32 (n,), lengths int64 (B,)."""
    for batch in array_batches(BatchPlan(data.training_shards(), (), InputOptions(4096))):
        present = batch["labels"] >= 0
        yield batch["labels"][present], present.sum(axis=1)


def training_knowledge(
    data: TransformedData,
    modalities: Sequence[TransformedModality],
    hyperparameters: Mapping[str, Any],
    read: InputOptions,
    label_directions: LabelDirections | None = None,
    presence: bool = True,
) -> dict[str, Any]:
    """What `build_model` takes from the training videos, where the hyperparameters ask for it.

    Args:
        data, modalities, hyperparameters, read: of the model to build.
        label_directions: those of a pretrained model, to be used instead of counting in these videos.
        presence: the model takes the presence of its modalities, where a video may lack one.

    Returns:
        `label_graph` for `head=label_graph`, `label_directions` for `label_projection`, `memory` for `neighbours`
        above 0, `raw_values` for `input_norm=l2` and `label_vectors` for `label_text`.

    Raises:
        UsageError: there are only texts, whose vectors a model has yet to learn; or `label_text`, and the dataset does
            not name its classes.
    """
    knowledge: dict[str, Any] = {}
    modalities = [modality for modality in modalities if modality.kind != TEXT]
    if not modalities and (hyperparameters["label_projection"] or hyperparameters["neighbours"]):
        raise UsageError("--label_projection and --neighbours compare vectors or frames: this dataset has only texts")
    raw = find_raw_values(data, modalities) if hyperparameters.get("input_norm") == "l2" else {}
    if raw:
        knowledge["raw_values"] = raw
    if hyperparameters.get("label_text"):
        vectors = find_label_vectors(data.classes())
        if vectors is None:
            raise UsageError(f"--label_text needs the names of the classes, which {data.directory} does not hold")
        knowledge["label_vectors"] = vectors
    if hyperparameters["head"] == "label_graph":
        values, lengths = zip(*iterate_labels(data), strict=True)
        knowledge["label_graph"] = count_label_graph(np.concatenate(values), np.concatenate(lengths), data.class_count)
    if hyperparameters["label_projection"]:
        knowledge["label_directions"] = label_directions or find_label_directions(
            _training_videos(data, modalities, read, raw),
            modalities,
            data.class_count,
            hyperparameters["modality_norm"],
        )
    if hyperparameters["neighbours"]:
        if data.records["train"] > MEMORY_LIMIT:
            print(
                f"note: --neighbours compares with the first {MEMORY_LIMIT:,} of {data.records['train']:,} training "
                "videos",
                file=sys.stderr,
            )
        knowledge["memory"] = remember(
            _training_videos(data, modalities, read, raw),
            modalities,
            data.class_count,
            directions=knowledge.get("label_directions"),
            modality_norm=hyperparameters["modality_norm"],
            presence=presence and data.may_lack,
        )
    return knowledge


def _training_videos(
    data: TransformedData,
    modalities: Sequence[TransformedModality],
    read: InputOptions,
    raw: Mapping[str, RawValues],
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Features, labels and labels per video of the training split's labelled videos, in the order of the files.

    Their frames are those that the model sees later: nothing is random. Modalities in `raw` are normalised as a model
    with `input_norm=l2` does it.

    Raises:
        JobError: a feature is not finite; the message names the shard.
    """
    shards = data.training_shards()
    read = dataclasses.replace(read, frames=read.evaluation_frames())
    for batch in readable(make_batches(shards, modalities, read, presence=data.may_lack)):
        refuse_not_finite(batch, shards)
        features = decode_features(batch["features"], modalities)
        labels = batch["labels"].numpy()
        known = (labels >= 0).any(axis=1)
        if not known.any():
            continue
        labels = labels[known]
        present = labels >= 0
        inputs = {name: value.numpy()[known] for name, value in features.items()}
        for name, values in raw.items():
            inputs[name] = values.unit(inputs[name])
            if data.may_lack:
                lacking = inputs[presence_name(name)] == 0
                inputs[name][lacking] = 0
        yield inputs, labels[present], present.sum(axis=1)


class Pretrained:
    """An exported model to start from; loaded once, when its layers are first needed.

    Raises:
        UsageError: the directory does not hold a finished model.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.info = read_model_info(directory, _NEEDED)

    @functools.cached_property
    def layers(self) -> dict[str, keras.layers.Layer]:
        """Its layers by name.

        Raises:
            JobError: it is not a single model.
        """
        path = storage.join(self.directory, "model.keras")
        if not storage.exists(path):
            raise JobError(f"{self.directory} has no model.keras (an ensemble?): --init_from takes a single model")
        return {layer.name: layer for layer in load_keras_model(path).layers}

    def check(
        self,
        name: str,
        hyperparameters: Mapping[str, Any],
        modalities: Sequence[Modality],
        data: TransformedData,
        *,
        new_head: bool,
        allow_other_scaling: bool = False,
    ) -> None:
        """Whether a model can take this one's weights over.

        Args:
            name, hyperparameters, modalities: of the model to build.
            data: what it will be trained on.
            new_head: the layers that depend on the classes are not taken over.
            allow_other_scaling: it may have been trained on features that were normalised with other statistics.

        Raises:
            JobError: this is another architecture, or one of other sizes.
            UsageError: it takes other features; or its classes, or the scale of its features, differ from the data's
                and neither flag allows that.
        """
        theirs = [entry["name"] for entry in self.info["transformed"]]
        ours = [modality.name for modality in modalities]
        if theirs != ours:
            raise UsageError(
                f"--init_from={self.directory} takes {', '.join(theirs)}, but the data holds {', '.join(ours)}"
            )
        if not new_head:
            check_same_classes(
                f"--init_from={self.directory}",
                self.directory,
                self.info["class_count"],
                data,
                ": --new_head gives the model a new classifier",
            )
        if differing := differences(trained_on(self.info), data.identity, SCALING):
            found = (
                f"--init_from={self.directory} was trained on features scaled otherwise than those of "
                f"{data.directory}: {differing} differ"
            )
            if not (new_head or allow_other_scaling):
                raise UsageError(
                    f"{found}, so that its weights are a start, but not a model of this data; --allow_other_scaling "
                    "starts from them all the same"
                )
            print(f"warning: {found}; its weights are a start, but not a model of this data", file=sys.stderr)
        model = self.info["model"]
        was = dict(model.get("hyperparameters", {}))
        if model["name"] != name:
            raise JobError(f"--init_from={self.directory} is of the architecture {model['name']}, not {name}")
        declared = model_info(name).hyperparameters
        for key, value in hyperparameters.items():
            if not declared[key].shapes_layers or (new_head and declared[key].of_head) or key not in was:
                continue
            there = tuple(was[key]) if isinstance(was[key], list) else was[key]
            if there != value:
                raise JobError(
                    f"--init_from={self.directory} has other hyperparameters: {key} is {there} "
                    f"there and {value} here; repeat its hyperparameters ({_flags(was)})"
                )

    def label_directions(self) -> LabelDirections | None:
        """What it projects its features with; None when it does not."""
        if PROJECTION not in self.layers:
            return None
        return LabelDirections(*(np.asarray(weight) for weight in self.layers[PROJECTION].weights))


def take_over(model: keras.Model, pretrained: Pretrained, *, new_head: bool) -> None:
    """Copies the weights of an exported model into `model`, variable by variable.

    The videos that a model remembers are never copied: `model` remembers those that it is trained on, and undoes the
    normalisation of its own dataset.

    Args:
        model: what `pretrained.check` allowed.
        pretrained: the exported model.
        new_head: leave the layers that depend on the classes as they are.

    Raises:
        JobError: it is not a single model, or a layer has other sizes.
    """
    for layer in model.layers:
        # A projection is made from the pretrained model's already; its copy for neighbours may be new.
        if (
            not layer.weights
            or isinstance(layer, NeighbourVote | LabelProjection | UnitInput)
            or (new_head and depends_on_classes(layer))
        ):
            continue
        other = pretrained.layers.get(layer.name)
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if other is None or [tuple(weight.shape) for weight in other.weights] != shapes:
            raise JobError(
                f"--init_from={pretrained.directory} is a {pretrained.info['model']['name']} with other "
                f"sizes: layer {layer.name} differs"
            )
        for weight, value in zip(layer.weights, other.weights, strict=True):
            weight.assign(np.asarray(value))


def class_names(directory: str, class_count: int) -> list[str] | None:
    """Names by class index in the `labels.csv` of a dataset or model; None where there is none."""
    path = storage.join(directory, "labels.csv")
    if not storage.exists(path):
        return None
    return [entry.name for entry in load_vocabulary(path, class_count, complete=True)]


def check_same_classes(what: str, directory: str, class_count: int, data: TransformedData, advice: str = "") -> None:
    """Raises `UsageError` when a model's classes are not the data's: other names, or another number."""
    if class_count != data.class_count:
        raise UsageError(f"{what} has {class_count} classes and the data {data.class_count}{advice}")
    theirs, ours = class_names(directory, class_count), class_names(data.directory, class_count)
    if theirs and ours and theirs != ours:
        number = next(index for index, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
        raise UsageError(
            f"{what} has other classes than the data: class {number} is {theirs[number]!r} there and "
            f"{ours[number]!r} here{advice}"
        )


def _flags(hyperparameters: dict[str, Any]) -> str:
    return " ".join(
        f"--{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in hyperparameters.items()
    )


def load_keras_model(path: str) -> keras.Model:
    """Loads a `model.keras`; its layers are those that this module's imports have registered.

    Raises:
        JobError: it cannot be loaded.
    """
    # Keras reads local paths only.
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "model.keras")
        storage.copy_to_disk(path, local)
        if not zipfile.is_zipfile(local):
            raise JobError(f"{path} is not a Keras model: it is damaged")
        try:
            return keras.models.load_model(local, compile=False)
        except MemoryError:
            raise
        except Exception as error:  # of damaged files Keras raises whatever its parsers do
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(local, path)
            raise JobError(f"{path} cannot be loaded: {reason}") from error


def load_teacher(
    directory: str, modalities: Sequence[Modality], data: TransformedData
) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """A function from decoded transformed features to the logits (B, C) of an exported model.

    Raises:
        UsageError: the directory does not hold a finished model; or the model has other classes, takes features that
            the data lacks, or was trained on a dataset that was transformed differently.
    """
    info = read_model_info(directory, _NEEDED)
    check_same_classes(f"--teacher={directory}", directory, info["class_count"], data)
    needed = [modality_from_dict(entry) for entry in info["transformed"]]
    names = {modality.name for modality in modalities}
    missing = [modality.name for modality in needed if modality.name not in names]
    if missing:
        raise UsageError(f"--teacher={directory} takes {', '.join(missing)}, which this model does not read")
    if differing := differences(trained_on(info), data.identity, SCALING):
        raise UsageError(
            f"--teacher={directory} was trained on another transformed dataset ({info['data'].get('path')}): "
            f"{differing} differ, so its features are scaled differently"
        )
    loaded = load_saved_model(directory)
    # An ensemble has neither, when its members were trained on differently transformed data or frames.
    name = next((name for name in ("teaching", "transformed") if name in loaded.signatures), None)
    if name is None:
        raise UsageError(
            f"--teacher={directory} averages models of differently transformed data, which cannot all be "
            "applied to this data: name the members that were trained on it instead"
        )
    signature = loaded.signatures[name]
    wanted = list(transformed_signature(needed))

    def teach(features: dict[str, tf.Tensor]) -> tf.Tensor:
        marked = marked_features(features, needed) if info.get("presence") else features
        arguments = {
            name: marked[name] if name == "num_frames" else tf.cast(marked[name], tf.float32) for name in wanted
        }
        return signature(**arguments)["logits"]

    teach.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return teach
