"""The shapes of the JSON files that jobs leave for later jobs, declared once and checked whenever one is read.

Only what some reader needs is declared: other keys, of this version or another one, pass through. Keys that the first
release did not write are `NotRequired`.
"""

import functools
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from vcls_model import storage
from vcls_model.commands import JobError

_OPEN = ConfigDict(extra="allow", strict=True)
_Shape = TypeVar("_Shape")


class Counted(TypedDict):
    """`info.json` of a job, in so far as all have it: every record read is written or rejected."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    records_read: int
    records_written: int
    records_rejected: int
    rejected_by_reason: dict[str, int]


class SplitCount(TypedDict):
    """A split in the `info.json` of a dataset."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    records: int
    shards: NotRequired[int]


class FeatureStatistics(TypedDict):
    """Of a modality of a dataset: in its `info.json`, or in `manifests/moments.json`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]
    lowest: NotRequired[list[float]]
    highest: NotRequired[list[float]]


class DatasetStatistics(TypedDict):
    """What preprocess counted and measured."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    class_counts: NotRequired[dict[str, list[int]]]
    features: NotRequired[dict[str, FeatureStatistics]]
    labels_per_video: NotRequired[list[int]]


class DatasetInfo(TypedDict):
    """`info.json` of a transformed dataset."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    schema: dict[str, Any]
    transformed: list[dict[str, Any]]
    splits: dict[str, SplitCount]
    class_count: int
    statistics: NotRequired[DatasetStatistics]
    identity: NotRequired[dict[str, str]]


class ExportedInfo(TypedDict):
    """`info.json` of an exported model."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    schema: NotRequired[dict[str, Any]]
    class_count: NotRequired[int]
    model: NotRequired[dict[str, Any]]
    transformed: NotRequired[list[dict[str, Any]]]
    presence: NotRequired[bool]
    training: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    split: NotRequired[dict[str, Any] | None]


class ScoredShard(TypedDict):
    """A shard in the manifest of a scored group."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    path: str
    size_bytes: int
    records_read: int
    records_written: int
    records_rejected: int
    records_labelled: int
    records_outside_split: int
    rejected_by_reason: dict[str, int]
    modified_seconds: NotRequired[float]
    digest: NotRequired[str]
    labels_unknown: NotRequired[int]
    missing: NotRequired[dict[str, int]]
    records_by_split: NotRequired[dict[str, int]]


class GroupManifest(TypedDict):
    """The manifest of a scored group."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    group: str
    run_id: str
    aggregates: int
    modalities: NotRequired[int]
    ids: NotRequired[int]
    shards: list[ScoredShard]


class PreprocessSettings(TypedDict):
    """The settings that a dataset was begun with."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    missing_modality: NotRequired[str]


class ScoreSettings(TypedDict):
    """The settings that a scores directory was begun with."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    models: list[str]
    split: str | None


class ScoresInfo(Counted):
    """`info.json` of a scores directory."""

    class_count: NotRequired[int | None]
    models: NotRequired[list[dict[str, Any]] | None]
    records_labelled: NotRequired[int]
    schema: NotRequired[dict[str, Any] | None]
    threshold: NotRequired[float]
    records_by_split: NotRequired[dict[str, int]]


class StoredMetrics(TypedDict):
    """`metrics.json`; a figure without a denominator is None."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    videos: int
    gap_at_20: float | None
    map: float | None
    hit_at_1: float | None
    slices: NotRequired[dict[str, dict[str, Any]]]
    segments: NotRequired[dict[str, Any]]


class DeadLetter(TypedDict):
    """A line of `dead_letter/*.jsonl`: a record that was rejected."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    shard: str
    offset: NotRequired[int]
    error: str
    message: str


class ModalitiesInfo(TypedDict):
    """`modalities.json` of a scores directory."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    modalities: list[str]
    videos: int
    subsets: list[dict[str, Any]]


class CheckpointFacts(TypedDict):
    """What a training checkpoint says of itself."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    progress: dict[str, Any]
    config_hash: str
    data: NotRequired[dict[str, str]]
    settings: NotRequired[dict[str, Any]]


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def checked(value: Any, origin: str, shape: type[_Shape]) -> _Shape:
    """`value`, which a file held, if it has the shape declared for that file.

    Raises:
        JobError: it has not; the message begins with `origin` and names the place.
    """
    try:
        return _adapter(shape).validate_python(value)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise JobError(f"{origin} is damaged, or not a file of this kind: {place}: {first['msg'].lower()}") from None


def read_state(path: str, shape: type[_Shape]) -> _Shape:
    """Reads a JSON file of a declared shape.

    Raises:
        JobError: it is not JSON, or of another shape; the message names the file and the place.
    """
    return checked(storage.read_json(path), path, shape)
