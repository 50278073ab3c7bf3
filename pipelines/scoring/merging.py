"""The end of a scoring run: stored aggregates become metrics, one at a time, so that memory does not grow with them."""

import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipelines.scoring.layout import ids_name, segments_name, slices_name
from pipelines.scoring.thresholds import THRESHOLDS
from vcls_model import storage, tables
from vcls_model.commands import JobError
from vcls_model.metrics.prior import learned_nothing
from vcls_model.metrics.result import MetricResult, best_thresholds, compute_result
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import NO_VALUE, SliceAccumulator
from vcls_model.metrics.stored import STATE, merge, merge_aggregates
from vcls_model.records.vocabulary import write_labels_csv
from vcls_model.serving.exported import ExportedModel
from vcls_model.states import GroupManifest


@dataclasses.dataclass(frozen=True)
class Measured:
    """The metrics of a run.

    Attributes:
        metrics: the content of metrics.json, or None when no record carried labels and no metric file was written.
        models: the same of each model alone, when there are several.
        hint: what is plainly wrong with the model, "" where nothing is.
    """

    metrics: dict[str, Any] | None
    models: Sequence[dict[str, Any]] = ()
    hint: str = ""


# Files that are read at once, each of which may be a request to an object store.
_READERS = 16
_COUNTS = (
    "records_read",
    "records_written",
    "records_rejected",
    "records_labelled",
    "records_outside_split",
    "labels_unknown",
)


def total_counts(manifests: Sequence[GroupManifest]) -> dict[str, Any]:
    """Sums of the shards' counts, and of their records by reason of rejection and by split ({} where not known).

    Raises:
        JobError: two manifests list the same shard, so that its records would count twice.
    """
    totals: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    reasons: dict[str, int] = {}
    missing: dict[str, int] = {}
    by_split: dict[str, int] = {}
    known = True
    seen: dict[str, str] = {}
    for manifest in manifests:
        for shard in manifest["shards"]:
            if shard["path"] in seen:
                raise JobError(
                    f"{shard['path']} was scored twice, in groups {seen[shard['path']]} and "
                    f"{manifest['group']}: two runs wrote to one output at once; use --overwrite"
                )
            seen[shard["path"]] = manifest["group"]
            for key in _COUNTS:
                totals[key] += shard.get(key, 0)  # type: ignore[operator]  # 0.1 did not count unknown labels
            known = known and "records_by_split" in shard  # 0.1 did not count them
            for name, count in shard.get("records_by_split", {}).items():
                by_split[name] = by_split.get(name, 0) + count
            for reason, count in shard["rejected_by_reason"].items():
                reasons[reason] = reasons.get(reason, 0) + count
            for name, count in shard.get("missing", {}).items():
                missing[name] = missing.get(name, 0) + count
    if totals["records_read"] != totals["records_written"] + totals["records_rejected"]:
        raise JobError(
            f"the manifests count {totals['records_read']} records read, but {totals['records_written']} written and "
            f"{totals['records_rejected']} rejected: they are damaged; use --overwrite"
        )
    return {
        **totals,
        "rejected_by_reason": dict(sorted(reasons.items())),
        "missing": dict(sorted(missing.items())),
        "shards": len(seen),
        "records_by_split": by_split if known else {},
    }


def count_repeated_ids(output: str, manifests: Sequence[GroupManifest]) -> int:
    """The number of records whose id an earlier one had, by hashes of 64 bits; what 0.1 scored does not count.

    Raises:
        JobError: the hashes of a group are missing or damaged.
    """

    def of_group(manifest: GroupManifest) -> np.ndarray:
        path = storage.join(output, STATE, ids_name(manifest["group"]))
        data = storage.read_bytes(path) if storage.exists(path) else b""
        if len(data) != 8 * manifest["ids"]:
            raise JobError(f"{path} is missing or damaged; score again with --overwrite")
        return np.frombuffer(data, "<u8")

    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(of_group, [manifest for manifest in manifests if manifest.get("ids")]))
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    return len(hashes) - len(np.unique(hashes))


def merge_segments(output: str, manifests: Sequence[GroupManifest]) -> SegmentAccumulator | None:
    """The sum of all groups' aggregates over rated segments; None without groups.

    Raises:
        JobError: a stored aggregate is missing or damaged.
    """
    return merge(output, [segments_name(manifest["group"]) for manifest in manifests], SegmentAccumulator)


def merge_slices(output: str, manifests: Sequence[GroupManifest], features: Sequence[str]) -> dict[str, Any]:
    """The metrics by the values of each context feature: entries of `slices` in metrics.json.

    Raises:
        JobError: a stored aggregate is missing or damaged, or all of them together have too many values.
    """
    slices = {}
    for number, feature in enumerate(features):
        try:
            merged = merge(output, [slices_name(manifest["group"], number) for manifest in manifests], SliceAccumulator)
        except ValueError as error:
            raise JobError(f"--slice_by={feature}: {error}") from None
        if merged is None:
            raise JobError(f"{output} holds no counts for --slice_by={feature}; use --overwrite")
        slices[feature] = merged.result()
        if set(slices[feature]) == {NO_VALUE}:
            print(f"warning: --slice_by={feature}: no labelled record has such a feature", file=sys.stderr)
    return slices


def write_metrics(
    output: str,
    manifests: Sequence[GroupManifest],
    models: Sequence[ExportedModel],
    names: Sequence[str],
    *,
    segments: bool = False,
    slice_by: Sequence[str] = (),
) -> Measured:
    """Merges the aggregates and writes the metric files.

    Segment records get a `segments` entry in metrics.json, MAP@K over rated pairs, and `segment_per_class.csv`; their
    other figures count a class that nobody looked for as absent.

    Args:
        output: the scores directory.
        manifests: of all groups that are done.
        models: those that were averaged.
        names: names of the models, all different.
        segments: the records are rated segments.
        slice_by: context features by which metrics are broken down.

    """
    merged = merge_aggregates(output, manifests, 0)
    if merged is None:
        return Measured(None)
    result = compute_result(merged)
    result.summary["slices"].update(merge_slices(output, manifests, slice_by))
    more: dict[str, Any] = {}
    contents: dict[str, bytes] = {}
    if segments:
        of_segments = merge_segments(output, manifests)
        if of_segments is None:
            raise JobError(f"{output} holds no counts of rated segments; use --overwrite")
        more["segments"], contents["segment_per_class.csv"] = of_segments.to_files(models[0].classes)
    contents |= result.to_files(models[0].classes, more)
    contents[THRESHOLDS] = write_labels_csv(models[0].classes, best_thresholds(merged).tolist()).encode()
    for name, data in contents.items():
        storage.write_atomically(storage.join(output, name), data)
    counts = [entry.train_count for entry in models[0].classes if entry.train_count is not None]
    known = len(counts) == len(models[0].classes)
    hint = learned_nothing(result.summary, result.per_class["support"], counts if known else None)
    if len(models) == 1:
        return Measured(result.summary, hint=hint)
    del merged
    singles: list[MetricResult] = []
    for number in range(1, len(models) + 1):
        single = merge_aggregates(output, manifests, number)
        if single is None:
            raise JobError(f"{output} holds no counts of model {number} of {len(models)}; use --overwrite")
        singles.append(compute_result(single))
    storage.write_atomically(storage.join(output, "per_model.csv"), per_model_csv(names, singles))
    return Measured(result.summary, [single.summary for single in singles], hint)


def per_model_csv(names: Sequence[str], results: Sequence[MetricResult]) -> bytes:
    """Average precision of each class (a row) by each model alone (a column); empty for a class without positives."""
    columns = [result.per_class["ap"].tolist() for result in results]
    rows = (
        [index, *("" if value != value else repr(value) for value in row)]
        for index, row in enumerate(zip(*columns, strict=True))
    )
    return tables.write_csv(["index", *names], rows).encode()
