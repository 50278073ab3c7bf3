"""The counts that a scoring run stored in `state/` of its scores directory, read back and added up."""

from collections.abc import Sequence
from typing import TypeVar

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import SliceAccumulator
from vcls_model.states import GroupManifest, read_state

STATE = "state"
MANIFEST_SUFFIX = ".manifest.json"

# A sum of counts that workers stored: `from_bytes` reads one, `merge` adds another to it.
Aggregate = TypeVar("Aggregate", MetricAccumulator, SegmentAccumulator, SliceAccumulator)


def aggregate_name(group: str, number: int) -> str:
    """File name of a group's aggregate: number 0 is the mean of the models, n > 0 the n-th model alone."""
    return f"{group}.metrics" if number == 0 else f"{group}.model{number}.metrics"


def read_manifests(scores: str) -> list[GroupManifest]:
    """The manifests of all groups that are done, in the order of their names.

    Raises:
        JobError: one is damaged.
    """
    directory = storage.join(scores, STATE)
    paths = [storage.join(directory, name) for name in storage.list_names(directory, MANIFEST_SUFFIX)]
    try:
        return [read_state(path, GroupManifest) for path in paths]
    except JobError as error:
        raise JobError(f"{error}; score again with --overwrite") from None


def merge_aggregates(scores: str, manifests: Sequence[GroupManifest], number: int) -> MetricAccumulator | None:
    """The sum of all groups' aggregates of one number (see `aggregate_name`); None when no record carried labels.

    Raises:
        JobError: a stored aggregate is missing or damaged.
    """
    names = [aggregate_name(manifest["group"], number) for manifest in manifests if number < manifest["aggregates"]]
    return merge(scores, names, MetricAccumulator)


def merge(scores: str, names: Sequence[str], kind: type[Aggregate]) -> Aggregate | None:
    """The sum of the aggregates in these files of `state/`; None without files.

    Raises:
        JobError: one is missing or damaged.
        ValueError: they cannot be added.
    """
    merged: Aggregate | None = None
    for name in names:
        if merged is None:
            merged = _read(scores, name, kind)
        else:
            merged.merge(_read(scores, name, kind))  # in no variable, so that no two such parts are alive at once
    return merged


def _read(scores: str, name: str, kind: type[Aggregate]) -> Aggregate:
    path = storage.join(scores, STATE, name)
    try:
        return kind.from_bytes(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read the stored aggregate {path}: {error}; score again with --overwrite") from None
