"""The directory of an exported model, read: what it says of itself, and its SavedModel, loaded and called.

A finished export holds `info.json`, `labels.csv` and `saved_model/`; every command that takes a model reads it here.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.decoding import FeatureValues, FrameBatch
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import FRAMES, TEXT, Modality, RecordSchema, schema_from_dict
from vcls_model.records.split_ids import GivenSplits, given_splits
from vcls_model.records.splits import SplitRatios
from vcls_model.records.transformed import presence_name
from vcls_model.records.vocabulary import ClassInfo, read_vocabulary
from vcls_model.saved_models import LARGEST_GRAPH_BYTES, graph_errors
from vcls_model.states import MODEL, ExportedInfo, read_state, refuse_other_kind

SAVED_MODEL = "saved_model"
FEATURES_SIGNATURE = "features"
CODES_SIGNATURE = "codes"
TABLES_SIGNATURE = "code_tables"
_FINISHED = ("info.json", "labels.csv", f"{SAVED_MODEL}/saved_model.pb")
# Frames of more videos at once are arrays of more than 32 MB of float32: too large for the allocator to use them again,
# so that the system would clear new memory for every call, which took half of its time.
_FRAME_CALL_VIDEOS = 16


def read_model_info(directory: str, keys: Sequence[str] = ("schema", "class_count")) -> dict[str, Any]:
    """The `info.json` of an exported model; does not import TensorFlow.

    Args:
        directory: the model directory, local or on an object store.
        keys: entries that the caller cannot do without.

    Raises:
        UsageError: the directory is absent, half written, or not that of a model.
    """
    for name in _FINISHED:
        if not storage.exists(storage.join(directory, *name.split("/"))):
            refuse_other_kind(directory, MODEL)
            raise UsageError(
                f"model directory {directory} has no {name}: it is missing or incomplete; a finished export has "
                f"info.json, labels.csv and {SAVED_MODEL}/"
            )
    path = storage.join(directory, "info.json")
    try:
        info: dict[str, Any] = dict(read_state(path, ExportedInfo))
    except JobError as error:
        raise UsageError(str(error)) from None
    for key in keys:
        if key not in info:
            raise UsageError(f"{path} lacks {key!r}: {directory} is not an exported model")
    return info


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A model directory, checked to be whole.

    Attributes:
        path: the directory, local or on an object store.
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

    @property
    def presence(self) -> bool:
        """Whether it bears that a record lacks a modality; models of 0.1 and those of one modality do not."""
        return bool(self.info.get("presence"))

    def class_thresholds(self) -> tuple[float, ...] | None:
        """The best-F1 threshold of each class, a probability (0.5 where there is none); None when none was chosen."""
        chosen = [info.best_threshold for info in self.classes]
        if all(threshold is None for threshold in chosen):
            return None
        return tuple(0.5 if threshold is None else threshold for threshold in chosen)

    def splits(self) -> "SplitRatios | GivenSplits | None":
        """How the ids of the model's data were split; None where neither a rule nor a list says it."""
        split = self.info.get("split") or {}
        if split.get("method") == "hash" and split.get("ratios"):
            return SplitRatios(*split["ratios"])
        return given_splits(self.info, self.path)


def read_exported_model(path: str) -> ExportedModel:
    """Reads a model directory, its vocabulary and identity included; does not import TensorFlow.

    Raises:
        UsageError: see `read_model_info`; or its vocabulary does not match its class count.
    """
    info = read_model_info(path)
    info_bytes, labels_csv, graph = (
        storage.read_small(storage.join(path, *name.split("/")), LARGEST_GRAPH_BYTES) for name in _FINISHED
    )
    info_path = storage.join(path, "info.json")
    class_count = info["class_count"]
    if type(class_count) is not int or class_count < 1:
        raise UsageError(f"{info_path}: class_count must be a positive integer, got {class_count!r}")
    origin = storage.join(path, "labels.csv")
    classes = read_vocabulary(labels_csv, origin, complete=True)
    if len(classes) != class_count:
        raise UsageError(
            f"the vocabulary of {path} does not match the model: labels.csv has {len(classes)} classes, "
            f"info.json says {class_count}"
        )
    identity = hashlib.sha256(info_bytes + labels_csv + graph).hexdigest()[:16]
    return ExportedModel(path, info, schema_from_dict(info["schema"], info_path), class_count, tuple(classes), identity)


def refuse_repeated(paths: Sequence[str]) -> None:
    """Raises `UsageError` where models that are to be averaged are one directory; says on standard error of copies.

    Args:
        paths: directories of finished models.
    """
    places: dict[str, str] = {}
    graphs: dict[bytes, str] = {}
    for path in paths:
        if other := places.get(place := storage.resolved(path).rstrip("/")):
            raise UsageError(f"--model={path} is named twice{'' if path == other else f', as {other}'}: name it once")
        places[place] = path
        read = (storage.read_small(storage.join(path, *name.split("/")), LARGEST_GRAPH_BYTES) for name in _FINISHED)
        if other := graphs.get(content := hashlib.sha256(b"".join(read)).digest()):
            print(f"warning: {path} is a copy of {other}: it counts twice in the average", file=sys.stderr)
        graphs[content] = path


def describe(modalities: Sequence[Modality]) -> str:
    """`mean_rgb[1024] + mean_audio[128] (video-level)`, for messages; kinds are given one by one where they differ."""
    kinds = {modality.kind for modality in modalities}
    if len(kinds) > 1 or TEXT in kinds:
        return " + ".join(
            f"{each.name} (text{' per second' if each.timed else ''})"
            if each.kind == TEXT
            else f"{each.name}[{each.width}] ({each.kind})"
            for each in modalities
        )
    names = " + ".join(f"{modality.name}[{modality.width}]" for modality in modalities)
    return f"{names} ({'frame' if FRAMES in kinds else 'video'}-level)"


def load_saved_model(directory: str) -> Any:
    """TensorFlow's object for the `saved_model/` of an exported model directory.

    Raises:
        JobError: it is damaged.
    """
    import tensorflow as tf

    path = storage.join(directory, SAVED_MODEL)
    with storage.local_copy(path) as local, graph_errors(f"{path} cannot be loaded"):
        storage.refuse_devices_below(local)
        return tf.saved_model.load(local)


class LoadedModel:
    """A SavedModel in memory, called with decoded raw features."""

    def __init__(self, path: str, class_count: int) -> None:
        """Loads `<path>/saved_model`, by way of a local copy where `path` is on an object store.

        Raises:
            UsageError: the SavedModel has no such signature as scoring needs, or gives another number of classes.
            JobError: it cannot be loaded.
        """
        self._path = path
        directory = storage.join(path, SAVED_MODEL)
        self._model = load_saved_model(path)
        signatures = self._model.signatures
        if FEATURES_SIGNATURE not in signatures:
            raise UsageError(f"{directory} has no signature {FEATURES_SIGNATURE!r}; it has {', '.join(signatures)}")
        self._tables: dict[str, np.ndarray] = {}
        self._call = signatures[FEATURES_SIGNATURE]
        if CODES_SIGNATURE in signatures:  # models of earlier versions, and ensembles, lack it
            self._call = signatures[CODES_SIGNATURE]
            self._tables = {name: table.numpy() for name, table in signatures[TABLES_SIGNATURE]().items()}
        self._inputs = set(self._call.structured_input_signature[1])
        outputs = self._call.structured_outputs
        if "logits" not in outputs:
            raise UsageError(f"the signature {FEATURES_SIGNATURE!r} of {directory} gives no 'logits'")
        width = outputs["logits"].shape[-1]
        if width not in (None, class_count):
            raise UsageError(f"model {path} gives {width} logits per record, its info.json says {class_count} classes")

    def logits(self, features: Mapping[str, FeatureValues]) -> np.ndarray:
        """float32 (B, C) of B records, B at least 1.

        Args:
            features: by modality: float32 (B, D), or the frames or texts of B videos. For a model that bears a missing
                modality a vector may be NaN, and a video may have no frames of a modality.

        Raises:
            JobError: the graph does not run on them.
        """
        with graph_errors(f"the model {self._path} cannot be run"):
            parts = [self._logits(part) for part in _calls(features)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _logits(self, features: Mapping[str, FeatureValues]) -> np.ndarray:
        import tensorflow as tf

        inputs: dict[str, np.ndarray | list[bytes]] = {}
        framed = [values.lengths for values in features.values() if isinstance(values, FrameBatch)]
        counts = functools.reduce(np.maximum, framed) if framed else np.zeros(0, np.int64)
        for name, values in features.items():
            if isinstance(values, BytesColumn):
                inputs[name] = values.tolist()
            elif not isinstance(values, FrameBatch):
                inputs[name] = values
            elif name in self._tables:
                inputs[name] = mapped_codes(values, self._tables[name], max(1, int(counts.max())))
                inputs["num_frames"] = counts.astype(np.int32)
                inputs[presence_name(name)] = (values.lengths > 0).astype(np.float32)
            else:
                inputs[name] = values.strings()
        # Not `.numpy()`, which copies.
        return np.asarray(self._call(**{name: tf.constant(inputs[name]) for name in self._inputs})["logits"])


def _calls(features: Mapping[str, FeatureValues]) -> Iterator[Mapping[str, FeatureValues]]:
    """The features of each call of the model: of all records, or of a few where there are frames."""
    frames = next((values for values in features.values() if isinstance(values, FrameBatch)), None)
    if frames is None:
        yield features
        return
    for start in range(0, len(frames.lengths), _FRAME_CALL_VIDEOS):
        rows = slice(start, start + _FRAME_CALL_VIDEOS)
        yield {
            name: values.select(rows) if isinstance(values, FrameBatch) else values[rows]
            for name, values in features.items()
        }


def mapped_codes(frames: FrameBatch, table: np.ndarray, steps: int) -> np.ndarray:
    """What the transform graph makes of each code of the frames of B videos.

    Args:
        frames: raw codes.
        table: uint8 (D, 256), the transformed code of each raw code, by column.
        steps: T, at least as many as any video has frames.

    Returns:
        uint8 (B, T, D); filled with 0.
    """
    from vcls_model.serving.kernels import map_codes

    codes = np.empty((len(frames.lengths), steps, frames.width), np.uint8)
    map_codes(frames.buffer, frames.begins, frames.strides, frames.lengths, table, codes)
    return codes
