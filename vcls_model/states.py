"""The shapes of the JSON files that jobs leave for later jobs, declared once and checked whenever one is read.

Only what some reader needs is declared: other keys, of this version or another one, pass through. Keys that the first
release did not write are `NotRequired`. What a directory is follows from its `info.json`, too.
"""

import functools
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from vcls_model import storage
from vcls_model.commands import JobError, UsageError

_OPEN = ConfigDict(extra="allow", strict=True)
_Shape = TypeVar("_Shape")
# What is counted fits a float.
Count = Annotated[int, Field(ge=0, le=1 << 53)]
# Of sums of floats: 1 may be a little more.
Fraction = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]
# A count, which stays an integer, or a fraction.
Figure = Count | Annotated[float, Field(ge=-1e-6, le=1 << 53)]


class Counted(TypedDict):
    """`info.json` of a job, in so far as all have it: every record read is written or rejected."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    records_read: Count
    records_written: Count
    records_rejected: Count
    rejected_by_reason: dict[str, Count]


class SplitCount(TypedDict):
    """A split in the `info.json` of a dataset."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    records: Count
    shards: NotRequired[Count]


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
    class_counts: NotRequired[dict[str, list[Count]]]
    features: NotRequired[dict[str, FeatureStatistics]]
    labels_per_video: NotRequired[list[Count]]


class DatasetInfo(TypedDict):
    """`info.json` of a transformed dataset."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    schema: dict[str, Any]
    transformed: list[dict[str, Any]]
    splits: dict[str, SplitCount]
    class_count: Count
    statistics: NotRequired[DatasetStatistics]
    identity: NotRequired[dict[str, str]]


class ShardManifest(TypedDict):
    """What the manifest of a shard that preprocess finished begins with: its files, and the records in each."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    outputs: dict[str, Count]
    records_written: Count
    records_rejected: Count
    records: NotRequired[dict[str, Count]]


class ExportedInfo(TypedDict):
    """`info.json` of an exported model."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    schema: NotRequired[dict[str, Any]]
    class_count: NotRequired[Count]
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
    size_bytes: Count
    records_read: Count
    records_written: Count
    records_rejected: Count
    records_labelled: Count
    records_outside_split: Count
    rejected_by_reason: dict[str, Count]
    modified_seconds: NotRequired[float]
    digest: NotRequired[str]
    labels_unknown: NotRequired[Count]
    missing: NotRequired[dict[str, Count]]
    records_by_split: NotRequired[dict[str, Count]]


class GroupManifest(TypedDict):
    """The manifest of a scored group."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    group: str
    run_id: str
    aggregates: Count
    modalities: NotRequired[Count]
    ids: NotRequired[Count]
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

    class_count: NotRequired[Count | None]
    models: NotRequired[list[dict[str, Any]] | None]
    records_labelled: NotRequired[Count]
    schema: NotRequired[dict[str, Any] | None]
    threshold: NotRequired[Fraction]
    records_by_split: NotRequired[dict[str, Count]]


class StoredMetrics(TypedDict):
    """`metrics.json`; a figure without a denominator is None."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    videos: Count
    gap_at_20: Fraction | None
    map: Fraction | None
    hit_at_1: Fraction | None
    map_at_20: NotRequired[Fraction | None]
    perr: NotRequired[Fraction | None]
    macro_roc_auc: NotRequired[Fraction | None]
    precision_micro: NotRequired[Fraction | None]
    recall_micro: NotRequired[Fraction | None]
    f1_micro: NotRequired[Fraction | None]
    f1_macro: NotRequired[Fraction | None]
    f1_weighted: NotRequired[Fraction | None]
    expected_calibration_error: NotRequired[Fraction | None]
    expected_calibration_error_at_20: NotRequired[Fraction | None]
    threshold: NotRequired[Fraction | None]
    confusion_video_fraction: NotRequired[Fraction | None]
    gap_at_20_lower: NotRequired[Fraction | None]
    gap_at_20_upper: NotRequired[Fraction | None]
    map_lower: NotRequired[Fraction | None]
    map_upper: NotRequired[Fraction | None]
    map_at_20_lower: NotRequired[Fraction | None]
    map_at_20_upper: NotRequired[Fraction | None]
    gap_at_20_ci_low: NotRequired[Fraction | None]
    gap_at_20_ci_high: NotRequired[Fraction | None]
    map_ci_low: NotRequired[Fraction | None]
    map_ci_high: NotRequired[Fraction | None]
    labels: NotRequired[Count]
    class_count: NotRequired[Count]
    classes_with_positives: NotRequired[Count]
    slices: NotRequired[dict[str, dict[str, dict[str, Figure | None]]]]
    segments: NotRequired[dict[str, Figure | None]]


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
    videos: Count
    subsets: list[dict[str, Any]]


class SearchFacts(TypedDict):
    """`search.json` of a search: its flags, and the dataset that it was begun with."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    data: NotRequired[dict[str, str]]


class LockFile(TypedDict):
    """The lock of an output directory."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    token: str
    job: str
    host: str
    machine: str
    pid: Count
    born: int
    since: str
    renewed: Count


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


# What jobs leave, as messages call it.
RECORDS = "a folder of extracted records"
DATASET = "a transformed dataset"
MODEL = "an exported model"
SEARCH = "a search for hyperparameters"
SCORES = "a scores directory"
REPORT = "a report"
_WRITERS = {
    RECORDS: "pipelines.extract",
    DATASET: "pipelines.preprocess",
    MODEL: "vcls_model.train",
    SEARCH: "vcls_model.tune",
    SCORES: "pipelines.score",
    REPORT: "pipelines.report",
}
# Keys that its `info.json` has, of every version, and no other kind's has all of.
_TELLING_KEYS = {
    REPORT: {"report", "figures"},
    SEARCH: {"best", "trials"},
    MODEL: {"model", "schema"},
    DATASET: {"splits", "transformed"},
    SCORES: {"models", "threshold"},
    RECORDS: {"rows", "seconds"},
}


def kind_of(directory: str) -> str | None:
    """What a finished job left in a directory: one of the kinds above; None where `info.json` does not tell."""
    return _kind_by(_info_of(directory) or {})


def _kind_by(info: dict[str, Any]) -> str | None:
    return next((kind for kind, keys in _TELLING_KEYS.items() if keys <= info.keys()), None)


def _info_of(directory: str) -> dict[str, Any] | None:
    """The `info.json` of a directory, {} where it cannot be used; None where there is none."""
    path = storage.join(directory, "info.json")
    try:
        if not storage.exists(path):
            return None
        info = storage.read_json(path)
    except (JobError, OSError):  # whoever needs it says what is wrong with it
        return {}
    return info if isinstance(info, dict) else {}


def refuse_other_kind(directory: str, expected: str) -> None:
    """Raises `UsageError` where a path is recognised as something else than a directory of the kind `expected`.

    What is not recognised passes: it may be unfinished, or damaged, of which its reader can say more.
    """
    writer = f"that {_WRITERS[expected]} wrote"
    info = _info_of(directory)
    kind = _kind_by(info or {})
    if kind is not None and kind != expected:
        hint = f"name a directory {writer}"
        best = (info or {}).get("best") if kind == SEARCH and expected == MODEL else None
        if isinstance(best, dict) and "path" in best:
            hint = f"its best model is {best['path']}"
        raise UsageError(f"{directory} is {kind}, not {expected}: {hint}")
    if kind is None and not storage.is_object_store(directory) and storage.exists(directory):
        above = storage.absolute(directory).rstrip("/").rpartition("/")[0]
        if kind_of(above) == expected:
            raise UsageError(f"{directory} is a part of {expected}: name the whole, {above}")
        names = storage.list_names(directory, ".tfrecord") if info is None else []
        if names:
            raise UsageError(f"{directory} holds records ({names[0]}), it is not {expected}: name a directory {writer}")
