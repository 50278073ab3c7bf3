"""The scores directory: opening it, which groups are done, and what is written once the pipeline ran.

A group is done when its manifest, written last, is there.
"""

import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.running import outputs
from pipelines.scoring.layout import LOGITS, PREDICTIONS, SETTINGS
from pipelines.scoring.merging import count_repeated_ids, total_counts, write_metrics
from pipelines.scoring.planning import InputShard, Plan
from pipelines.scoring.submission import write_submission
from pipelines.scoring.thresholds import checked_source
from pipelines.scoring.worth import write_worth
from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.metrics.catalogue import describe
from vcls_model.metrics.stored import STATE, read_manifests
from vcls_model.records.vocabulary import write_labels_csv
from vcls_model.states import GroupManifest, ScoredShard

# Shards whose content is compared at once with what was scored: each may be a request to an object store.
_LOOKING = 16
# The options behind the stored settings, for messages.
_OPTIONS = {
    "models": "--model",
    "schema": "--schema (or its modalities)",
    "ratios": "the split of the model's data",
    "class_thresholds": "--thresholds",
}


def remaining_shards(shards: Sequence[InputShard], manifests: Sequence[GroupManifest]) -> list[InputShard]:
    """The shards that no manifest lists.

    Raises:
        UsageError: a shard has changed since it was scored; its old share cannot be taken out of the metrics.
    """
    done = {entry["path"]: entry for manifest in manifests for entry in manifest["shards"]}
    scored = [shard for shard in shards if shard.path in done]
    with ThreadPoolExecutor(_LOOKING) as pool:
        for shard, change in zip(scored, pool.map(_change, scored, [done[each.path] for each in scored]), strict=True):
            if change:
                raise UsageError(
                    f"{shard.path} {change}: score everything again with --overwrite, or name another output"
                )
    return [shard for shard in shards if shard.path not in done]


def _change(shard: InputShard, entry: ScoredShard) -> str:
    """What has happened to a shard since a manifest's `entry` was written; "" when it is as it was."""
    if shard.size_bytes != entry["size_bytes"]:
        return f"has {shard.size_bytes} bytes but had {entry['size_bytes']} when it was scored"
    if "digest" not in entry:  # manifests of 0.1
        return ""
    if storage.content_digest(shard.path) != entry["digest"]:
        return "holds other bytes than when it was scored"
    whole = shard.size_bytes <= 2 * storage.DIGESTED_BYTES or storage.is_object_store(shard.path)
    if not whole and shard.modified_seconds != entry["modified_seconds"]:
        return "was written again since it was scored"
    return ""


def open_scores(plan: Plan, *, dry_run: bool) -> list[InputShard]:
    """Readies the scores directory; returns the shards that are still to be scored.

    Raises:
        UsageError: the directory is in use and may not be continued or replaced; it was begun with other models or
            settings, so that its scores and new ones would not be comparable; or a shard has changed since.
    """
    config = plan.config
    outputs.open_output(
        config.output,
        f"{STATE}/{SETTINGS}",
        config.fingerprint(),
        job="score",
        options=_OPTIONS,
        resume=plan.resume,
        overwrite=plan.overwrite,
        inputs=[*(shard.path for shard in plan.shards), *config.model_paths],
        dry_run=dry_run,
    )
    remaining = remaining_shards(plan.shards, read_manifests(config.output) if plan.resume else [])
    if not dry_run:
        outputs.delete_info(config.output)
    return remaining


def runs_of(manifests: Sequence[GroupManifest]) -> dict[str, dict[str, int]]:
    """What each run added, by run id (`""` for a run without one)."""
    runs: dict[str, dict[str, int]] = {}
    for manifest in manifests:
        run = runs.setdefault(
            manifest["run_id"], {"shards": 0, "records_read": 0, "records_written": 0, "records_rejected": 0}
        )
        for shard in manifest["shards"]:
            run["shards"] += 1
            for key in ("records_read", "records_written", "records_rejected"):
                run[key] += shard[key]  # type: ignore[literal-required]
    return dict(sorted(runs.items()))


def finish(plan: Plan, started: float) -> dict[str, Any]:
    """After the pipeline: checks its counts, merges its metrics and writes, last, `info.json`.

    Args:
        plan: the job.
        started: `time.monotonic()` at its start.

    Returns:
        The content of `info.json`.

    Raises:
        JobError: too many records were rejected, or stored results are damaged.
    """
    config = plan.config
    outputs.clear_temporaries(config.output, (STATE, outputs.DEAD_LETTER, PREDICTIONS, LOGITS))
    manifests = read_manifests(config.output)
    counts = total_counts(manifests)
    outputs.check_rejected(
        config.output,
        counts["records_read"],
        counts["rejected_by_reason"],
        plan.max_rejected_fraction,
        counts["shards"],
    )
    names = model_names(config.model_paths)
    measured = write_metrics(
        config.output, manifests, plan.models, names, segments=config.schema.segments, slice_by=config.slice_by
    )
    if config.subsets:
        kept = [modality.name for modality in config.schema.modalities if modality.name not in config.without]
        write_worth(config.output, manifests, config.subsets, kept, plan.models[0].classes)
    if config.form == "kaggle_csv":
        write_submission(config.output, config.class_count, segments=config.schema.segments)
    chosen = config.class_thresholds or [None] * config.class_count
    classes = [
        dataclasses.replace(entry, best_threshold=threshold)
        for entry, threshold in zip(plan.models[0].classes, chosen, strict=True)
    ]
    storage.write_text(storage.join(config.output, "labels.csv"), write_labels_csv(classes))
    history = storage.join(plan.models[0].path, "history.csv")
    if storage.exists(history):
        storage.write_atomically(storage.join(config.output, "history.csv"), storage.read_bytes(history))
    models: list[dict[str, Any]] = [
        {"name": name, "path": model.path, "info": model.info} for name, model in zip(names, plan.models, strict=True)
    ]
    for entry, summary in zip(models, measured.models, strict=False):
        entry["metrics"] = summary
    info = {
        **outputs.info_head(counts["records_written"], counts["rejected_by_reason"], started),
        "records_labelled": counts["records_labelled"],
        "records_outside_split": counts["records_outside_split"],
        "labels_unknown": counts["labels_unknown"],
        "ids_repeated": count_repeated_ids(config.output, manifests),
        "missing": counts["missing"],
        **({"records_by_split": counts["records_by_split"]} if counts["records_by_split"] else {}),
        "shards": counts["shards"],
        "models": models,
        "split": config.split,
        "top_k": config.top_k,
        "threshold": config.threshold,
        "thresholds_from": None if plan.flags["thresholds"] is None else storage.absolute(plan.flags["thresholds"]),
        "thresholds": checked_source(plan.thresholds.source, config.output, config.split),
        "schema": config.schema.to_dict(),
        "class_count": config.class_count,
        "runs": runs_of(manifests),
        "without": list(config.without),
        "config": plan.flags,
    }
    outputs.write_info(config.output, info)
    if measured.hint:
        print(f"warning: {measured.hint}", file=sys.stderr)
    _print_summary(info, measured.metrics, config.output)
    return info


def model_names(paths: Sequence[str]) -> list[str]:
    """A short name for each model, each different: the directory's, numbered where two have the same."""
    short = [path.rstrip("/").rsplit("/", 1)[-1] or path for path in paths]
    return [name if short.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(short)]


def _print_summary(info: dict[str, Any], metrics: dict[str, Any] | None, output: str) -> None:
    if info["labels_unknown"]:
        print(
            f"warning: {info['labels_unknown']:,} labels are none of the {info['class_count']:,} classes: their "
            "records are scored, these labels left out of the metrics",
            file=sys.stderr,
        )
    if info["ids_repeated"]:
        print(
            f"warning: {info['ids_repeated']:,} records have the id of another one; each was scored, and counts in the "
            "metrics. Is a file there twice?",
            file=sys.stderr,
        )
    for name, count in info["missing"].items():
        print(f"records without {name}: {count:,}; scored without it", file=sys.stderr)
    print(
        f"scored {info['records_written']} records of {info['shards']} shards, {info['records_rejected']} rejected, "
        f"{info['records_labelled']} with labels; scores in {output}"
    )
    if metrics is None:
        print("no record carried labels: predictions were written, metrics were not", file=sys.stderr)
    else:
        print(describe(metrics))
