"""What an input record holds: its id, its labels and its modalities. Pure Python, so that it loads fast."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from vcls_model import storage
from vcls_model.commands import JobError, UsageError, nearest, unknown_choice

VECTOR = "vector"
FRAMES = "frames"
TEXT = "text"
# How a text is held: as it is in a record, and as the weighted buckets that `records.text` makes of it.
UTF8, TOKENS = "utf-8", "tokens"
# How a text of each second is held: in memory as lines, the k-th of which is that of second k.
LINES, LINE_TOKENS = "lines", "line_tokens"
# What schema files and manifests call the older kinds under the key `level`.
_LEVELS = {"video": VECTOR, "frame": FRAMES}
# What transformed records have beside the modalities, and the beginning of what says whether one is there: `has_audio`.
RESERVED_NAMES = ("id", "labels", "num_frames")
PRESENCE = "has_"
# What only schemas of records made from media have.
_OF_MEDIA = ("encoders", "sampling")


class _Linear(Protocol):
    def __mul__(self, factor: float, /) -> Any: ...


_Numbers = TypeVar("_Numbers", bound=_Linear)


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What codes of one byte stand for: a code x for x * scale + offset."""

    scale: float
    offset: float

    @classmethod
    def of_range(cls, low: float, high: float) -> "Quantisation":
        """256 equal cells of [low, high], each code in the middle of its own."""
        width = (high - low) / 256
        return cls(width, low + width / 2)

    def __iter__(self) -> Iterator[float]:
        """Scale, then offset."""
        return iter((self.scale, self.offset))

    def values(self, codes: _Numbers) -> _Numbers:
        """The values of codes: of an array or tensor of floats, or a number.

        Example:
            >>> Quantisation(0.5, -1.0).values(np.array([0.0, 4.0], np.float32))
            array([-1.,  1.], dtype=float32)
        """
        values: _Numbers = codes * self.scale + self.offset
        return values


# YouTube-8M and AudioSet quantise features to uint8 over [-2, 2] (youtube-8m's `Dequantize`; its step is 4/255 and not
# the 4/256 of equal cells).
DEQUANTISE = Quantisation(4.0 / 255.0, 4.0 / 512.0 - 2.0)
DEQUANTISE_SCALE, DEQUANTISE_OFFSET = DEQUANTISE
_DEQUANTISED_RANGE = (-2.0, 2.0)
# Transformed frames hold z-scores clipped to +-4.
REQUANTISE = Quantisation(8.0 / 255.0, -4.0)
REQUANTISE_SCALE, REQUANTISE_OFFSET = REQUANTISE


# Beyond these no layer fits a machine: such a number is a mistake, or meant to exhaust the memory.
MOST_CLASSES = 1_000_000
# Twelve days, at one per second.
MOST_FRAMES = 1 << 20
MOST_VALUES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of feature of a video.

    Attributes:
        name: of the feature, e.g. `mean_rgb`.
        width: values per vector, D; of a text 1, and of its tokens the number of buckets.
        kind: `"vector"` (one vector per video), `"frames"` (one vector per second) or `"text"` (one text per video, or
            per second).
        encoding: `"float32"`, or `"uint8"`: codes; of a text `"utf-8"`, or `"tokens"` once it is transformed; of one
            per second `"lines"`, and then `"line_tokens"`.
        range: lowest and highest value that codes stand for, in 256 equal cells; None: YouTube-8M's [-2, 2]. Of float32
            frames: what is written of them where they are not normalised.
        columns: of a CSV whose columns are not numbered: the heading of each value; None: they are.
        feature: what the record calls the feature, where that is not `name`.
    """

    name: str
    width: int
    kind: str
    encoding: str
    range: tuple[float, float] | None = dataclasses.field(default=None, kw_only=True)
    columns: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    feature: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._check_names()
        if self.kind not in (VECTOR, FRAMES, TEXT):
            raise UsageError(f"modality {self.name!r}: kind must be 'vector', 'frames' or 'text', got {self.kind!r}")
        encodings = (UTF8, TOKENS, LINES, LINE_TOKENS) if self.kind == TEXT else ("float32", "uint8")
        if self.encoding not in encodings:
            known = " or ".join(map(repr, encodings))
            raise UsageError(f"modality {self.name!r}: encoding must be {known}, got {self.encoding!r}")
        object.__setattr__(self, "width", _whole(self.width))
        if type(self.width) is not int or self.width < 1:
            raise UsageError(f"modality {self.name!r}: width must be a positive integer, got {self.width!r}")
        if self.width > MOST_VALUES:
            raise UsageError(f"modality {self.name!r}: width must be at most {MOST_VALUES:,}, got {self.width:,}")
        if self.range is not None:
            self._check_range(self.range)
            object.__setattr__(self, "range", tuple(self.range))  # a list in JSON
        if self.columns is not None:
            self._check_columns(self.columns)
            object.__setattr__(self, "columns", tuple(self.columns))

    def _check_columns(self, names: Any) -> None:
        texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not texts or len(names) != self.width or len({name.lower() for name in names}) != len(names):
            raise UsageError(f"modality {self.name!r}: columns must be {self.width} different names, got {names!r}")

    def _check_names(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"the name of a modality must be text, got {self.name!r}")
        if self.name in RESERVED_NAMES:
            raise UsageError(
                f"modality {self.name!r}: transformed records have a feature of this name for another purpose. Name "
                f'the columns otherwise, or in a schema file {{"name": "my_{self.name}", "feature": "{self.name}", …}}'
            )
        if "/" in self.name:  # Keras takes no such name for an input
            own = self.name.partition("/")[0].lower() or "frames"
            raise UsageError(
                f'modality {self.name!r}: a name must not contain a slash: call it {{"name": "{own}", '
                f'"feature": "{self.name}", …}}'
            )
        if self.feature is not None and (not isinstance(self.feature, str) or not self.feature):
            raise UsageError(f"modality {self.name!r}: feature must be text, got {self.feature!r}")

    def _check_range(self, ends: Any) -> None:
        if self.encoding != "uint8" and self.kind != FRAMES:
            raise UsageError(f"modality {self.name!r}: only codes have a range; the encoding is {self.encoding!r}")
        numbers = isinstance(ends, list | tuple) and all(type(end) in (int, float) for end in ends)
        if not numbers or len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
            raise UsageError(f"modality {self.name!r}: range must be two numbers, lowest and highest, got {ends!r}")

    @property
    def source(self) -> str:
        """What the record calls the feature."""
        return self.feature or self.name

    @property
    def timed(self) -> bool:
        """Whether it is a text of each second."""
        return self.encoding in (LINES, LINE_TOKENS)

    @property
    def coded(self) -> bool:
        """Whether the values in memory are codes: those of vectors are dequantised when they are read."""
        return self.kind == FRAMES and self.encoding == "uint8"

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame in memory: codes, or float32 as it is on disk."""
        return self.width if self.encoding == "uint8" else 4 * self.width

    @property
    def quantisation(self) -> Quantisation:
        """What the codes of the modality stand for, where its encoding is `uint8`."""
        return DEQUANTISE if self.range is None else Quantisation.of_range(*self.range)

    @property
    def fill_code(self) -> int:
        """The code whose cell holds 0, or the one nearest to it."""
        low, high = self.range or _DEQUANTISED_RANGE
        return min(max(int(-low / (high - low) * 256), 0), 255)

    @property
    def element(self) -> tuple[str, tuple[int, ...]]:
        """(dtype, shape) of a video's values as a graph takes them.

        A vector; all frames, or a text, or all its lines as a byte string.
        """
        return ("string", ()) if self.kind in (FRAMES, TEXT) else ("float32", (self.width,))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; `modality_fields` reads it back."""
        return with_level(vars(self))


def _whole(value: Any) -> Any:
    """A number of JSON that is whole as an integer: some programs write 1024 as 1024.0."""
    return int(value) if type(value) is float and value.is_integer() else value


def with_level(modality: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's entry in a manifest: its fields, and the kind once more as the `level` that older readers know."""
    levels = {kind: level for level, kind in _LEVELS.items()}
    entry = {}
    for key, value in modality.items():
        if value is None:
            continue
        entry[key] = list(value) if isinstance(value, tuple) else value  # as JSON gives it back
        if key == "kind" and value in levels:
            entry["level"] = levels[value]
    return entry


def text_modality(name: str, feature: str | None = None) -> Modality:
    """The modality of a text in a record."""
    return Modality(name, 1, TEXT, UTF8, feature=feature)


def lines_modality(name: str) -> Modality:
    """The modality of a text of each second, such as captions."""
    return Modality(name, 1, TEXT, LINES)


def modality_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a modality from an entry that gives its `kind`, its `level` (`video` or `frame`), or both.

    Of a text the name and the kind are enough.

    Raises:
        UsageError: the two contradict each other, or the level is neither.
    """
    fields = {"width": 1, "encoding": UTF8, **entry} if entry.get("kind") == TEXT else dict(entry)
    if "level" not in fields:
        return fields
    level = fields.pop("level")
    if not isinstance(level, str) or level not in _LEVELS:
        raise UsageError(f"modality {fields.get('name')!r}: level must be 'video' or 'frame', got {level!r}")
    if fields.setdefault("kind", _LEVELS[level]) != _LEVELS[level]:
        raise UsageError(f"modality {fields.get('name')!r}: level {level!r} contradicts kind {fields['kind']!r}")
    return fields


@dataclasses.dataclass(frozen=True)
class RecordSchema:
    """The layout of one input record.

    Attributes:
        name: `yt8m-video`, … or a user's own.
        container: `"example"` (tf.train.Example), `"sequence_example"` (tf.train.SequenceExample) or `"csv"`.
        id_feature: bytes feature that identifies the video.
        labels_feature: int64 list of class indices; in segment records the labels of the video.
        modalities: in the order in which they are written and fed to a model.
        class_count: number of classes C if the edition fixes it, else None (the vocabulary decides).
        segments: the records carry YouTube-8M segment ratings (`segment_start_times`, `segment_labels`, …).
        encoders: of records made from media: by modality, the identity of the encoder (`EncoderInfo.as_json`).
        sampling: of such records: `fps`, `mode` and `max_seconds`.
    """

    name: str
    container: str
    id_feature: str
    labels_feature: str
    modalities: tuple[Modality, ...]
    class_count: int | None = None
    segments: bool = False
    encoders: Mapping[str, Any] | None = dataclasses.field(default=None, kw_only=True, hash=False)
    sampling: Mapping[str, Any] | None = dataclasses.field(default=None, kw_only=True, hash=False)

    def __post_init__(self) -> None:
        if self.container not in ("example", "sequence_example", "csv"):
            raise UsageError(
                f"schema {self.name!r}: container must be 'example', 'sequence_example' or 'csv', "
                f"got {self.container!r}"
            )
        for what, text in (
            ("name", self.name),
            ("id_feature", self.id_feature),
            ("labels_feature", self.labels_feature),
        ):
            if not isinstance(text, str) or not text:
                raise UsageError(f"schema {self.name!r}: {what} must be text, got {text!r}")
        object.__setattr__(self, "class_count", _whole(self.class_count))
        if self.class_count is not None and (type(self.class_count) is not int or self.class_count < 1):
            raise UsageError(f"schema {self.name!r}: class_count must be a positive integer, got {self.class_count!r}")
        if self.class_count is not None and self.class_count > MOST_CLASSES:
            raise UsageError(f"schema {self.name!r}: class_count must be at most {MOST_CLASSES:,}")
        if type(self.segments) is not bool:
            raise UsageError(f"schema {self.name!r}: segments must be true or false, got {self.segments!r}")
        for what, facts in (("encoders", self.encoders), ("sampling", self.sampling)):
            if facts is not None and not isinstance(facts, Mapping):
                raise UsageError(f"schema {self.name!r}: {what} must be a JSON object, got {facts!r}")
        if not self.modalities:
            raise UsageError(f"schema {self.name!r} has no modality")
        names = [modality.name for modality in self.modalities]
        if len(set(names)) != len(names):
            raise UsageError(f"schema {self.name!r} names a modality twice: {names}")
        if timed := [modality.name for modality in self.modalities if modality.timed and not self.has_frames]:
            raise UsageError(f"schema {self.name!r}: {timed[0]!r} is a text of each second, but there are no frames")
        if self.container == "csv" and self.has_frames:
            raise UsageError(f"schema {self.name!r}: a CSV holds vectors, not frames")
        if any(modality.columns for modality in self.modalities) and (
            self.container != "csv" or len(self.modalities) - len(self.texts) > 1
        ):
            raise UsageError(f"schema {self.name!r}: only the one modality of a CSV has names of columns")
        for name in names:
            if PRESENCE + name in names:
                raise UsageError(
                    f"schema {self.name!r}: the modality {PRESENCE + name!r} has the name of the feature that says "
                    f"whether a record has {name!r}: name it otherwise"
                )
        sources = [modality.source for modality in self.modalities]
        if len(set(sources)) != len(sources):
            raise UsageError(f"schema {self.name!r} reads a feature twice: {sources}")

    @property
    def has_frames(self) -> bool:
        """Whether any modality is a sequence of frames."""
        return any(modality.kind == FRAMES for modality in self.modalities)

    @property
    def texts(self) -> tuple[Modality, ...]:
        """The modalities that are texts."""
        return tuple(modality for modality in self.modalities if modality.kind == TEXT)

    @property
    def has_lines(self) -> bool:
        """Whether any modality is a text of each second."""
        return any(modality.timed for modality in self.modalities)

    @property
    def has_float_frames(self) -> bool:
        """Whether any modality is a sequence of frames of float32."""
        return any(modality.kind == FRAMES and not modality.coded for modality in self.modalities)

    def elements(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The raw features of one video as a graph takes them: (dtype, shape) by modality name."""
        return {modality.name: modality.element for modality in self.modalities}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; `schema_from_dict` reads it back."""
        fields = {key: value for key, value in vars(self).items() if key not in _OF_MEDIA or value is not None}
        return {**fields, "modalities": [modality.to_dict() for modality in self.modalities]}

    def settings(self) -> dict[str, Any]:
        """`to_dict` with the keys of the first manifests, which --resume and `config_hash` compare."""
        described = self.to_dict()
        for modality in described["modalities"]:
            if "level" in modality:
                del modality["kind"]
            modality.pop("columns", None)
        return described


def schema_from_dict(value: Any, origin: str = "the schema") -> RecordSchema:
    """Reads what `RecordSchema.to_dict` wrote, or a user's schema file.

    Raises:
        UsageError: a key is missing, unknown or out of range; the message begins with `origin`.
    """
    _check_keys(value, RecordSchema, ("name", "container", "id_feature", "labels_feature", "modalities"), origin)
    if not isinstance(value["modalities"], list):
        raise UsageError(f"{origin}: modalities must be a list, got {value['modalities']!r}")
    modalities = []
    for entry in value["modalities"]:
        try:
            fields = modality_fields(entry) if isinstance(entry, Mapping) else entry
            _check_keys(fields, Modality, ("name", "width", "kind", "encoding"), "a modality")
            modalities.append(Modality(**fields))
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from None
    try:
        return RecordSchema(**{**value, "modalities": tuple(modalities)})
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from None


def _check_keys(value: Any, of: type, required: Sequence[str], what: str) -> None:
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} must be a JSON object, got {value!r}")
    known = [field.name for field in dataclasses.fields(of)]
    if missing := [key for key in required if key not in value]:
        raise UsageError(f"{what} lacks {missing[0]!r}")
    if unknown := [key for key in value if key not in known]:
        suggestion = nearest(unknown[0], known)
        hint = f"; did you mean {suggestion!r}?" if suggestion else ""
        raise UsageError(f"{what} has the unknown key {unknown[0]!r}{hint}")


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
        UsageError: there is none of that name; the message suggests the nearest.
    """
    if name not in BUILT_IN:
        raise unknown_choice("schema", name, BUILT_IN)
    return BUILT_IN[name]


def schema_from_json(text: bytes | str, origin: str) -> RecordSchema:
    """Parses a schema file's text; `origin` is its path, for the message."""
    try:
        value = storage.from_json(text, f"schema file {origin}")
    except JobError as error:
        raise UsageError(str(error)) from None
    return schema_from_dict(value, f"schema file {origin}")
