"""What an input record holds: its id, its labels and its modalities. Pure Python: every job reads it quickly."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from vcls_model.commands import UsageError, unknown_choice

VECTOR = "vector"
FRAMES = "frames"
# What schema files and manifests call the kinds under the key `level`.
_LEVELS = {"video": VECTOR, "frame": FRAMES}

# YouTube-8M and AudioSet quantise features to uint8 over [-2, 2]; a code x stands for x * SCALE + OFFSET (youtube-8m's
# `Dequantize`, which centres each code in its cell).
DEQUANTISE_SCALE = 4.0 / 255.0
DEQUANTISE_OFFSET = 4.0 / 512.0 - 2.0

# Transformed frame-level features hold z-scores clipped to +-4 in one byte: a code x stands for x * SCALE + OFFSET.
REQUANTISE_SCALE = 8.0 / 255.0
REQUANTISE_OFFSET = -4.0


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of feature of a video.

    Attributes:
        name: feature name in the record, e.g. `mean_rgb`.
        width: values per vector, D.
        kind: `"vector"` (one vector per video) or `"frames"` (one vector per second).
        encoding: `"float32"`, or `"uint8"`: codes that dequantise to [-2, 2].
    """

    name: str
    width: int
    kind: str
    encoding: str

    def __post_init__(self) -> None:
        if self.kind not in (VECTOR, FRAMES):
            raise UsageError(f"modality {self.name!r}: kind must be 'vector' or 'frames', got {self.kind!r}")
        if self.encoding not in ("float32", "uint8"):
            raise UsageError(f"modality {self.name!r}: encoding must be 'float32' or 'uint8', got {self.encoding!r}")
        if not isinstance(self.width, int) or self.width < 1:
            raise UsageError(f"modality {self.name!r}: width must be a positive integer, got {self.width!r}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; `modality_fields` reads it back."""
        return with_level(vars(self))


def with_level(modality: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's entry in a manifest: its fields, and the kind once more as the `level` that older readers know."""
    levels = {kind: level for level, kind in _LEVELS.items()}
    entry = {}
    for key, value in modality.items():
        entry[key] = value
        if key == "kind":
            entry["level"] = levels[value]
    return entry


def modality_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a modality from an entry that gives its `kind`, its `level` (`video` or `frame`), or both.

    Raises:
        UsageError: the two contradict each other, or the level is neither.
    """
    fields = dict(entry)
    if "level" not in fields:
        return fields
    level = fields.pop("level")
    if level not in _LEVELS:
        raise UsageError(f"modality {fields.get('name')!r}: level must be 'video' or 'frame', got {level!r}")
    if fields.setdefault("kind", _LEVELS[level]) != _LEVELS[level]:
        raise UsageError(f"modality {fields.get('name')!r}: level {level!r} contradicts kind {fields['kind']!r}")
    return fields


@dataclasses.dataclass(frozen=True)
class RecordSchema:
    """The layout of one input record.

    Attributes:
        name: `yt8m-video`, … or the user's own.
        container: `"example"` (tf.train.Example), `"sequence_example"` (tf.train.SequenceExample) or `"csv"`.
        id_feature: bytes feature that names the video.
        labels_feature: int64 list of class indices; for segment records the video-level labels.
        modalities: in the order in which they are written and fed to a model.
        class_count: number of classes C when the edition fixes it, else None (the vocabulary decides).
        segments: the records carry YouTube-8M segment ratings (`segment_start_times`, `segment_labels`, …).
    """

    name: str
    container: str
    id_feature: str
    labels_feature: str
    modalities: tuple[Modality, ...]
    class_count: int | None = None
    segments: bool = False

    def __post_init__(self) -> None:
        if self.container not in ("example", "sequence_example", "csv"):
            raise UsageError(
                f"schema {self.name!r}: container must be 'example', 'sequence_example' or 'csv', "
                f"got {self.container!r}"
            )
        if not self.modalities:
            raise UsageError(f"schema {self.name!r} has no modality")
        names = [modality.name for modality in self.modalities]
        if len(set(names)) != len(names):
            raise UsageError(f"schema {self.name!r} names a modality twice: {names}")
        if len({modality.kind for modality in self.modalities}) != 1:
            raise UsageError(f"schema {self.name!r} mixes video-level and frame-level modalities")

    @property
    def has_frames(self) -> bool:
        """Whether any modality is a sequence of frames."""
        return any(modality.kind == FRAMES for modality in self.modalities)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; `schema_from_dict` reads it back."""
        return {**vars(self), "modalities": [modality.to_dict() for modality in self.modalities]}

    def settings(self) -> dict[str, Any]:
        """`to_dict` with the keys of the first manifests, which --resume and `config_hash` compare."""
        described = self.to_dict()
        for modality in described["modalities"]:
            del modality["kind"]
        return described


def schema_from_dict(value: dict[str, Any]) -> RecordSchema:
    """Reads what `RecordSchema.to_dict` wrote, or a schema file of the user's.

    Raises:
        UsageError: a key is missing, unknown or out of range.
    """
    try:
        modalities = tuple(Modality(**modality_fields(modality)) for modality in value["modalities"])
        return RecordSchema(**{**value, "modalities": modalities})
    except KeyError as error:
        raise UsageError(f"the schema lacks {error.args[0]!r}") from None
    except TypeError as error:
        raise UsageError(f"the schema is not one: {error}") from None


def _video(name: str, id_feature: str, rgb: str, classes: int) -> RecordSchema:
    modalities = [Modality(rgb, 1024, VECTOR, "float32")]
    if rgb == "mean_rgb":
        modalities.append(Modality("mean_audio", 128, VECTOR, "float32"))
    return RecordSchema(name, "example", id_feature, "labels", tuple(modalities), classes)


def _frame(name: str, id_feature: str, rgb: str, classes: int, segments: bool = False) -> RecordSchema:
    modalities = [Modality(rgb, 1024, FRAMES, "uint8")]
    if rgb == "rgb":
        modalities.append(Modality("audio", 128, FRAMES, "uint8"))
    return RecordSchema(name, "sequence_example", id_feature, "labels", tuple(modalities), classes, segments)


BUILT_IN = {
    schema.name: schema
    for schema in (
        _video("yt8m-video", "id", "mean_rgb", 3862),
        _video("yt8m-video-2017", "video_id", "mean_rgb", 4716),
        _video("yt8m-video-2016", "video_id", "mean_inc3", 4800),
        _frame("yt8m-frame", "id", "rgb", 3862),
        _frame("yt8m-frame-2017", "video_id", "rgb", 4716),
        _frame("yt8m-frame-2016", "video_id", "inc3", 4800),
        _frame("yt8m-segment", "id", "rgb", 3862, segments=True),
        RecordSchema(
            "audioset",
            "sequence_example",
            "video_id",
            "labels",
            (Modality("audio_embedding", 128, FRAMES, "uint8"),),
            527,
        ),
    )
}


def schema_by_name(name: str) -> RecordSchema:
    """The built-in schema called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in BUILT_IN:
        raise unknown_choice("schema", name, BUILT_IN)
    return BUILT_IN[name]


def schema_from_json(text: str, origin: str) -> RecordSchema:
    """Parses a schema file's text; `origin` is its path, for the message."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"schema file {origin} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"schema file {origin} must hold one JSON object")
    return schema_from_dict(value)
