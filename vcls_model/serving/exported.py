"""Exported models as scoring sees them: what a model directory says of itself, and the loaded SavedModel."""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.scoring.planning import SETTINGS, STATE
from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.records.schema import FRAMES, Modality, RecordSchema, schema_from_dict
from vcls_model.records.splits import SplitRatios
from vcls_model.records.vocabulary import ClassInfo, read_vocabulary

SAVED_MODEL = "saved_model"
FEATURES_SIGNATURE = "features"
# In a scores directory, laid out as labels.csv: the thresholds with the best F1 on the records scored.
THRESHOLDS = "thresholds.csv"


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A model directory, checked to be whole.

    Attributes:
        path: the directory, on any file system that Beam knows.
        info: its `info.json`.
        schema: layout of the raw records that it takes.
        class_count: number of classes C.
        classes: its vocabulary, by index.
        identity: tells this model from another at the same path.
    """

    path: str
    info: dict[str, Any]
    schema: RecordSchema
    class_count: int
    classes: tuple[ClassInfo, ...]
    identity: str

    def class_thresholds(self) -> tuple[float, ...] | None:
        """The best-F1 threshold of each class, a probability (0.5 where there is none); None when none was chosen."""
        chosen = [info.best_threshold for info in self.classes]
        if all(threshold is None for threshold in chosen):
            return None
        return tuple(0.5 if threshold is None else threshold for threshold in chosen)

    def split_ratios(self) -> SplitRatios:
        """The ratios by which the model's data were split.

        Raises:
            UsageError: its data were not split by a hash of the id, so which split an id belongs to is not known.
        """
        split = self.info.get("split") or {}
        if split.get("method") != "hash" or not split.get("ratios"):
            method = split.get("method") or "an unknown method"
            raise UsageError(
                f"--split needs a model whose data were split by a hash of the id; the data of "
                f"{self.path} were split by {method!r}"
            )
        return SplitRatios(*split["ratios"])


def read_exported_model(path: str) -> ExportedModel:
    """Reads what a model directory says of itself; does not import TensorFlow.

    Raises:
        UsageError: the directory is absent, half written, or its vocabulary does not match its class count.
    """
    for name in ("info.json", "labels.csv", f"{SAVED_MODEL}/saved_model.pb"):
        if not storage.exists(storage.join(path, *name.split("/"))):
            raise UsageError(
                f"model directory {path} has no {name}: it is absent or half written; "
                "a finished export has info.json, labels.csv and saved_model/"
            )
    info_bytes = storage.read_bytes(storage.join(path, "info.json"))
    info = storage.read_json(storage.join(path, "info.json"))
    for key in ("schema", "class_count"):
        if not isinstance(info, dict) or key not in info:
            raise UsageError(f"{storage.join(path, 'info.json')} lacks {key!r}: {path} is not an exported model")
    schema = schema_from_dict(info["schema"])
    class_count = int(info["class_count"])
    labels_csv = storage.read_bytes(storage.join(path, "labels.csv"))
    graph = storage.read_bytes(storage.join(path, SAVED_MODEL, "saved_model.pb"))
    identity = hashlib.sha256(info_bytes + labels_csv + graph).hexdigest()[:16]
    return ExportedModel(path, info, schema, class_count, _read_classes(path, class_count), identity)


def _read_classes(path: str, class_count: int) -> tuple[ClassInfo, ...]:
    origin = storage.join(path, "labels.csv")
    classes = read_vocabulary(storage.csv_text(storage.read_bytes(origin)).read(), origin)
    if len(classes) != class_count:
        raise UsageError(
            f"the vocabulary of {path} does not match the model: labels.csv has {len(classes)} classes, "
            f"info.json says {class_count}"
        )
    return tuple(classes)


def read_thresholds(directory: str, models: Sequence[ExportedModel]) -> tuple[float, ...]:
    """The best-F1 thresholds of the classes that a scores directory of the same models found.

    Raises:
        UsageError: there are none, they are of other models, or they were found on records that trained the models.
    """
    info_path, path = (storage.join(directory, name) for name in ("info.json", THRESHOLDS))
    if not storage.exists(info_path):
        raise UsageError(f"--thresholds={directory} is no finished scores directory: it has no info.json")
    if not storage.exists(path):
        raise UsageError(f"--thresholds={directory} has no {THRESHOLDS}: its records carried no labels")
    scored = storage.read_json(storage.join(directory, STATE, SETTINGS))
    if sorted(scored["models"]) != sorted(model.identity for model in models):
        raise UsageError(
            f"the thresholds in {directory} were chosen for other models than {models[0].path}"
            + (f" and {len(models) - 1} more" if len(models) > 1 else "")
        )
    if scored["split"] == "train":
        raise UsageError(f"{directory} holds scores of the training split: choose thresholds on --split=validate")
    classes = read_vocabulary(storage.csv_text(storage.read_bytes(path)).read(), path, models[0].class_count)
    return tuple(0.5 if entry.best_threshold is None else entry.best_threshold for entry in classes)


def check_same_task(models: Sequence[ExportedModel]) -> None:
    """Raises `UsageError` unless the models can be averaged: same classes, same kind of records."""
    first = models[0]
    for other in models[1:]:
        if other.class_count != first.class_count:
            raise UsageError(
                f"the models cannot be averaged: {first.path} has {first.class_count} classes, "
                f"{other.path} has {other.class_count}"
            )
        if [info.name for info in other.classes] != [info.name for info in first.classes]:
            raise UsageError(f"the models cannot be averaged: {other.path} has another vocabulary than {first.path}")
        if other.schema.modalities != first.schema.modalities:
            raise UsageError(
                f"the models cannot be averaged: {first.path} takes {describe(first.schema.modalities)}, "
                f"{other.path} takes {describe(other.schema.modalities)}"
            )


def describe(modalities: Sequence[Modality]) -> str:
    """`mean_rgb[1024] + mean_audio[128] (video-level)`, for messages."""
    names = " + ".join(f"{modality.name}[{modality.width}]" for modality in modalities)
    return f"{names} ({'frame' if any(modality.kind == FRAMES for modality in modalities) else 'video'}-level)"


def schema_for_scoring(records: RecordSchema, model: ExportedModel) -> RecordSchema:
    """How to read `records` for `model`: their container and names, the model's modalities and class count.

    Raises:
        UsageError: the records lack what the model takes; the message names both.
    """
    held = {modality.name: modality for modality in records.modalities}
    if any(held.get(wanted.name) != wanted for wanted in model.schema.modalities):
        raise UsageError(
            f"the model does not fit the records: {model.path} takes {describe(model.schema.modalities)}, "
            f"the records ({records.name}) hold {describe(records.modalities)}"
        )
    return dataclasses.replace(records, modalities=model.schema.modalities, class_count=model.class_count)


class LoadedModel:
    """A SavedModel in memory, called with arrays of decoded raw features."""

    def __init__(self, path: str, class_count: int) -> None:
        """Loads `<path>/saved_model`, by way of a local copy where `path` is not on this machine's disk."""
        import tensorflow as tf

        self._class_count = class_count
        self._path = path
        directory = storage.join(path, SAVED_MODEL)
        if storage.is_object_store(path):
            with tempfile.TemporaryDirectory(prefix="vcls-model-") as local:
                copy_directory(directory, local)
                self._model = tf.saved_model.load(local)
        else:
            self._model = tf.saved_model.load(directory)
        signature = self._model.signatures.get(FEATURES_SIGNATURE)
        if signature is None:
            raise UsageError(
                f"{directory} has no signature {FEATURES_SIGNATURE!r}; it has {', '.join(self._model.signatures)}"
            )
        self._features = signature
        outputs = signature.structured_outputs
        width = outputs["logits"].shape[-1] if "logits" in outputs else None
        if width not in (None, class_count):
            raise UsageError(f"model {path} gives {width} logits a record, its info.json says {class_count} classes")
        if "logits" not in outputs:
            raise UsageError(f"the signature {FEATURES_SIGNATURE!r} of {directory} gives no 'logits'")

    def logits(self, features: Mapping[str, Any]) -> np.ndarray:
        """float32 (B, C) of B records.

        Args:
            features: by modality: float32 (B, D), or, frame-level, B bytes strings of all frames' codes.
        """
        import tensorflow as tf

        result = self._features(**{name: tf.constant(value) for name, value in features.items()})
        return result["logits"].numpy()


def copy_directory(source: str, target: str) -> None:
    """Copies all files below `source`, on any file system, to a local directory."""
    from apache_beam.io.filesystems import FileSystems

    prefix = source.rstrip("/") + "/"
    for match in FileSystems.match([prefix + "**"])[0].metadata_list:
        local = os.path.join(target, match.path[len(prefix) :])
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with storage.open_for_reading(match.path) as stream, open(local, "wb") as copy:
            shutil.copyfileobj(stream, copy)


def frame_strings(codes: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Each video's codes as the one bytes string that a frame-level model takes.

    Args:
        codes: uint8 (sum of T, D). lengths: int64 (B,), frames a video.
    """
    ends = np.cumsum(lengths)
    return [codes[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
