"""What a model starts from: pretrained weights, teachers to distil, what is counted in the training data beforehand."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vcls_model import storage
from vcls_model.batching import Plan, array_batches
from vcls_model.commands import JobError, UsageError
from vcls_model.export import open_model_info, transformed_signature
from vcls_model.input import decode_features, make_batches, readable
from vcls_model.models.assembly import PROJECTION
from vcls_model.models.graph import count_label_graph
from vcls_model.models.label_directions import LabelDirections, find_label_directions
from vcls_model.models.memory import remember
from vcls_model.options import ReadOptions
from vcls_model.schema import Modality
from vcls_model.transformed import TransformedData, TransformedModality, modality_from_dict

HEAD_PREFIX = "classifier"


def class_prior(data: TransformedData) -> np.ndarray:
    """Fraction of the training videos that carry each class, float (C,), from one pass over the labels alone."""
    counts = data.class_counts()
    if counts is not None:
        return np.asarray(counts, np.float64) / max(data.records.get("train", 0), 1)
    totals = np.zeros(data.class_count, np.int64)
    for values, _ in iterate_labels(data):
        totals += np.bincount(values, minlength=data.class_count)
    return totals / max(data.records.get("train", 0), 1)


def iterate_labels(data: TransformedData, split: str = "train") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The labels of a split in batches: class indices of all videos int32 (n,), and how many each has, int64 (B,)."""
    for batch in array_batches(Plan(data.shards(split), (), ReadOptions(4096))):
        present = batch["labels"] >= 0
        yield batch["labels"][present], present.sum(axis=1)


def training_knowledge(data: TransformedData, modalities: Sequence[TransformedModality],
                       hyperparameters: Mapping[str, Any], read: ReadOptions,
                       label_directions: LabelDirections | None = None) -> dict[str, Any]:
    """What `build_model` takes from the training videos, where the hyperparameters ask for it.

    Args:
        data, modalities, hyperparameters, read: of the model to build.
        label_directions: a pretrained model's, to be used instead of what these videos tell.

    Returns:
        `label_graph` for `head=label_graph`, `label_directions` for `label_projection` and `memory` for
        `neighbours` above 0.
    """
    knowledge: dict[str, Any] = {}
    if hyperparameters["head"] == "label_graph":
        values, lengths = zip(*iterate_labels(data), strict=True)
        knowledge["label_graph"] = count_label_graph(np.concatenate(values), np.concatenate(lengths), data.class_count)
    if hyperparameters["label_projection"]:
        knowledge["label_directions"] = label_directions or find_label_directions(
            _training_videos(data, modalities, read), modalities, data.class_count, hyperparameters["modality_norm"])
    if hyperparameters["neighbours"]:
        knowledge["memory"] = remember(
            _training_videos(data, modalities, read), modalities, data.class_count,
            directions=knowledge.get("label_directions"), modality_norm=hyperparameters["modality_norm"])
    return knowledge


def _training_videos(data: TransformedData, modalities: Sequence[TransformedModality],
                     read: ReadOptions) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Features, labels and labels a video of the training split, in the order of the files."""
    for batch in readable(make_batches(data.shards("train"), modalities, read)):
        features = decode_features(batch["features"], modalities)
        labels = batch["labels"].numpy()
        present = labels >= 0
        yield {name: value.numpy() for name, value in features.items()}, labels[present], present.sum(axis=1)


class Pretrained:
    """An exported model to start from; loaded once, when it is asked for.

    Raises:
        JobError: the directory holds no model.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.info = open_model_info(directory)

    @functools.cached_property
    def layers(self) -> dict[str, keras.layers.Layer]:
        """Its layers by name.

        Raises:
            JobError: it is no single model.
        """
        path = storage.join(self.directory, "model.keras")
        if not storage.exists(path):
            raise JobError(f"{self.directory} has no model.keras (an ensemble?): --init_from takes a single model")
        return {layer.name: layer for layer in load_keras_model(path).layers}

    def label_directions(self) -> LabelDirections | None:
        """What it projects its features with; None when it does not."""
        if PROJECTION not in self.layers:
            return None
        return LabelDirections(*(np.asarray(weight) for weight in self.layers[PROJECTION].weights))


def take_over(model: keras.Model, pretrained: Pretrained, modalities: Sequence[Modality], class_count: int, *,
              new_head: bool) -> None:
    """Copies the weights of an exported model into `model`, variable by variable.

    Args:
        model: of the same architecture and hyperparameters.
        pretrained: the exported model.
        modalities: what `model` takes.
        class_count: of `model`.
        new_head: leave the layers that depend on the classes as they are.

    Raises:
        JobError: it is no single model, or one of another architecture.
        UsageError: its classes differ from the data's and `new_head` is not set.
    """
    info, directory, source_layers = pretrained.info, pretrained.directory, pretrained.layers
    if info["class_count"] != class_count and not new_head:
        raise UsageError(f"--init_from={directory} has {info['class_count']} classes and the data {class_count}: "
                         "--new_head gives the model a classifier of its own")
    theirs = [entry["name"] for entry in info["transformed"]]
    ours = [modality.name for modality in modalities]
    if theirs != ours:
        raise UsageError(f"--init_from={directory} takes {', '.join(theirs)}, but the data holds {', '.join(ours)}")
    for layer in model.layers:
        if not layer.weights or (new_head and layer.name.startswith(HEAD_PREFIX)):
            continue
        other = source_layers.get(layer.name)
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if other is None or [tuple(weight.shape) for weight in other.weights] != shapes:
            raise JobError(f"--init_from={directory} is a {info['model']['name']} with other sizes: layer {layer.name} "
                           "differs; repeat its model and hyperparameters "
                           f"({_flags(info['model'].get('hyperparameters', {}))})")
        for weight, value in zip(layer.weights, other.weights, strict=True):
            weight.assign(np.asarray(value))


def _flags(hyperparameters: dict[str, Any]) -> str:
    return " ".join(f"--{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
                    for key, value in hyperparameters.items())


def load_keras_model(path: str) -> keras.Model:
    """Loads a `model.keras`; the project's layers are registered by importing them."""
    import io

    import vcls_model.models.assembly  # noqa: F401

    try:
        import os
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            local = os.path.join(scratch, "model.keras")
            with open(local, "wb") as stream:
                stream.write(io.BytesIO(storage.read_bytes(path)).getbuffer())
            return keras.models.load_model(local, compile=False)
    except (ValueError, OSError) as error:
        raise JobError(f"{path} cannot be loaded: {error}") from None


def load_teacher(directory: str, modalities: Sequence[Modality],
                 data: TransformedData) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """A function from decoded transformed features to the logits (B, C) of an exported model.

    Raises:
        JobError: the directory holds no model.
        UsageError: the model has other classes, takes features that the data lacks, or was trained on a dataset that
            was transformed otherwise.
    """
    info = open_model_info(directory)
    if info["class_count"] != data.class_count:
        raise UsageError(f"--teacher={directory} has {info['class_count']} classes and the data {data.class_count}")
    needed = [modality_from_dict(entry) for entry in info["transformed"]]
    names = {modality.name for modality in modalities}
    missing = [modality.name for modality in needed if modality.name not in names]
    if missing:
        raise UsageError(f"--teacher={directory} takes {', '.join(missing)}, which this model does not read")
    theirs, ours = info.get("data", {}).get("config_hash"), data.info.get("config_hash")
    if theirs is not None and ours is not None and theirs != ours:
        raise UsageError(f"--teacher={directory} was trained on another transformed dataset "
                         f"({info['data'].get('path')}): its features are scaled otherwise")
    loaded = tf.saved_model.load(storage.join(directory, "saved_model"))
    signature = loaded.signatures["transformed"]
    wanted = list(transformed_signature(needed))

    def teach(features: dict[str, tf.Tensor]) -> tf.Tensor:
        arguments = {name: features[name] if name == "num_frames" else tf.cast(features[name], tf.float32)
                     for name in wanted}
        return signature(**arguments)["logits"]

    teach.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return teach
