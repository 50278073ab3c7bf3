"""The directory that a preprocess job writes: opening it, tidying it, and what is written once the pipeline ran."""

import dataclasses
import hashlib
import sys
from typing import Any

import numpy as np

from pipelines.preprocessing import manifests
from pipelines.preprocessing.card import render_card
from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.statistics import Fitted, Moments, fitted_from_dict
from pipelines.running.outputs import (
    DEAD_LETTER,
    check_any_written,
    check_rejected,
    clear_temporaries,
    delete_info,
    delete_others,
    info_head,
    open_output,
    rejected_line,
    write_info,
)
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.identity import dataset_identity
from vcls_model.records.listed_shards import MANIFEST_SUFFIX, MANIFESTS
from vcls_model.records.split_ids import write_split_ids
from vcls_model.records.splits import SPLITS
from vcls_model.records.text import DocumentCounts
from vcls_model.records.vocabulary import write_labels_csv
from vcls_model.states import PreprocessSettings, read_state

# tf.Transform's working directories below the output: there, because a cluster's workers must all reach them.
TEMPORARY = ("analysis_tmp", "transform_tmp")
_SETTINGS = "settings.json"
# What a message calls the stored settings; the others have the names of their options.
_SETTING_NAMES = {
    "input": "the list of input files",
    "files": "the number of input files",
    "class_count": "the number of classes (--vocabulary)",
    "ratios": "--split_ratios",
}


def open_dataset(config: JobConfig) -> None:
    """Readies the output directory, and removes from it what the job will write again and what no longer holds.

    Raises:
        UsageError: see `running.outputs.open_output`.
    """
    paths = [shard.path for shard in config.shards]
    open_output(
        config.output,
        f"{MANIFESTS}/{_SETTINGS}",
        {
            "input": hashlib.sha256("\n".join(paths).encode(errors="surrogateescape")).hexdigest(),
            "files": len(paths),
            **config.transform.to_dict(),
        },
        job="preprocess",
        options=_SETTING_NAMES,
        resume=config.resume,
        overwrite=config.overwrite,
        inputs=[*paths, config.vocabulary],
    )
    clear_stale(config)


def missing_modality_begun_with(output: str, default: str) -> str:
    """The --missing_modality of the run that --resume continues in `output`; `default` where there is none.

    Raises:
        JobError: its settings are damaged.
    """
    path = storage.join(output, MANIFESTS, _SETTINGS)
    return read_state(path, PreprocessSettings).get("missing_modality", default) if storage.exists(path) else default


def clear_stale(config: JobConfig) -> None:
    """Before a run continues in a directory: deletes outputs that it will rewrite or that are stale."""
    delete_info(config.output)
    for name in ("transform_fn", "transformed_metadata", "data_card.html", *TEMPORARY):
        storage.delete(storage.join(config.output, name))
    for split, directory in enumerate(SPLITS):
        paths = [shard.output(split) for shard in config.shards if split in shard.splits]
        delete_others(config.output, directory, {path.rpartition("/")[2] for path in paths})
    # One listing, not two requests per shard: on an object store thousands of them would take minutes.
    stored = set(storage.list_names(storage.join(config.output, MANIFESTS)))
    suffixes = (manifests.STATISTICS_SUFFIX, MANIFEST_SUFFIX)
    for shard in config.shards:
        if any(shard.name + suffix in stored for suffix in suffixes):
            manifests.forget_if_changed(config.output, shard, config.transform)
    delete_others(config.output, DEAD_LETTER, {f"{shard.name}.jsonl" for shard in config.shards})
    of_shards = {shard.name + suffix for shard in config.shards for suffix in suffixes}
    delete_others(config.output, MANIFESTS, {*of_shards, _SETTINGS})


def summary_path(config: JobConfig) -> str:
    """Where the pipeline leaves the counts of the whole job."""
    return storage.join(config.output, MANIFESTS, "summary")


def moments_path(config: JobConfig) -> str:
    """Where the pipeline leaves the statistics of the training records."""
    return storage.join(config.output, MANIFESTS, "moments.json")


def read_moments(path: str) -> Fitted:
    """`Moments` by modality (of texts, counts of documents), as the pipeline leaves them at `path`."""
    return {name: fitted_from_dict(value) for name, value in storage.read_json(path).items()}


def finish(config: JobConfig, started: float) -> dict[str, Any]:
    """After the pipeline: checks its counts, writes `labels.csv`, the data card and, last, `info.json`.

    Args:
        config: the job.
        started: `time.monotonic()` at its start.

    Returns:
        The content of `info.json`.

    Raises:
        JobError: too many records were rejected, or nothing is left to train on.
    """
    summary = Summary.from_bytes(storage.read_bytes(summary_path(config)))
    features = read_moments(moments_path(config))
    clear_temporaries(config.output, (*SPLITS, DEAD_LETTER, MANIFESTS))
    print(table(summary))
    _check(config, summary)
    for name, fitted in features.items():
        if isinstance(fitted, DocumentCounts) and not fitted.documents.any():
            print(f"warning: no training record has a text {name!r}: is --text right?", file=sys.stderr)
    ids = manifests.count_repeated_ids(config.output, config.shards)
    summary.notes.update(_repeated_ids(ids))
    counts = summary.class_counts[0].tolist()
    labels = write_labels_csv([dataclasses.replace(info, train_count=counts[info.index]) for info in config.classes])
    storage.write_text(storage.join(config.output, "labels.csv"), labels)
    info = make_info(config, summary, features, started)
    if config.transform.ratios is None:
        info["split"]["ids"] = write_split_ids(config.output, ids.by_split) if ids.by_split is not None else None
    card = render_card(config, info, summary, features)
    storage.write_text(storage.join(config.output, "data_card.html"), card)
    write_info(config.output, info)
    return info


def _repeated_ids(ids: manifests.RepeatedIds) -> dict[str, int]:
    """Warns of ids that come more than once; returns their numbers for `info.json`, where there are any."""
    if ids.repeated:
        print(
            f"warning: {ids.repeated:,} records have the id of another one; each counts. Is a file there twice?",
            file=sys.stderr,
        )
    if ids.in_several_splits:
        print(
            f"warning: {ids.in_several_splits:,} ids are in more than one of --train_input, --validate_input and "
            "--test_input: figures measured on them say how well the model remembers",
            file=sys.stderr,
        )
    counts = {"ids_repeated": ids.repeated, "ids_in_several_splits": ids.in_several_splits}
    return {name: count for name, count in counts.items() if count}


def _check(config: JobConfig, summary: Summary) -> None:
    check_any_written(
        config.output,
        summary.records_written,
        summary.rejected,
        f"no usable record among {summary.records_read:,} read from {len(config.shards)} files, "
        f"{config.shards[0].path} the first",
    )
    check_rejected(
        config.output, summary.records_read, summary.rejected, config.max_rejected_fraction, len(config.shards)
    )
    if not summary.written[0]:
        raise JobError(
            f"none of the {summary.records_written:,} usable records fell into the train split: "
            "there is nothing to fit statistics on"
        )


def make_info(config: JobConfig, summary: Summary, features: Fitted, started: float) -> dict[str, Any]:
    """The content of `info.json`."""
    transform = config.transform
    info = {
        **info_head(summary.records_written, summary.rejected, started),
        "notes": dict(sorted(summary.notes.items())),
        "missing": dict(sorted(summary.missing.items())),
        "splits": {
            name: {"records": int(count), "shards": sum(split in shard.splits for shard in config.shards)}
            for split, (name, count) in enumerate(zip(SPLITS, summary.written, strict=True))
        },
        "schema": transform.schema.to_dict(),
        "transformed": [feature.to_dict() for feature in transform.transformed()],
        "class_count": transform.class_count,
        "split": {
            "method": "hash" if transform.ratios else "given",
            "ratios": list(dataclasses.astuple(transform.ratios)) if transform.ratios else None,
        },
        "config": config.flags,
        "config_hash": transform.hash,
        "statistics": {
            "class_counts": {name: summary.class_counts[split].tolist() for split, name in enumerate(SPLITS)},
            "features": {name: _described(fitted) for name, fitted in features.items()},
            "labels_per_video": summary.label_counts.tolist(),
            "frames_per_video": summary.frame_counts.tolist(),
        },
        "input": {"files": len(config.shards), "empty_files": summary.shards_empty, "bytes": summary.bytes_read},
        "output_bytes": summary.bytes_written,
    }
    return {**info, "identity": dataset_identity(info, summary.content)}


def _described(fitted: Moments | DocumentCounts) -> dict[str, Any]:
    """The statistics of a modality for `info.json`; of a text's thousands of counts, a hash tells them from others."""
    if isinstance(fitted, Moments):
        return {"count": fitted.count, "mean": fitted.mean.tolist(), "std": fitted.std.tolist()}
    digest = hashlib.sha256(fitted.documents.astype("<i8").tobytes()).hexdigest()[:16]
    return {"count": fitted.count, "buckets": int(np.count_nonzero(fitted.documents)), "documents_hash": digest}


def table(summary: Summary) -> str:
    """The counts of each split and of the rejected records, as text."""
    lines = [f"{'split':<10}{'records':>12}{'classes':>10}{'labels/video':>14}"]
    for split, name in enumerate(SPLITS):
        counts = summary.class_counts[split]
        records = int(summary.written[split])
        lines.append(
            f"{name:<10}{records:>12,}{int((counts > 0).sum()):>10,}{counts.sum() / records if records else 0:>14.2f}"
        )
    lines.append(rejected_line(summary.rejected, 10, 12))
    lines += [
        f"records without {name}: {count:,}; models do without it, see --missing_modality"
        if count < int(summary.written.sum())
        else f"warning: no record has {name}: is it called otherwise there? Models do without it"
        for name, count in sorted(summary.missing.items())
    ]
    return "\n".join(lines)
