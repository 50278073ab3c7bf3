"""The directory that an extract job writes: opening it, and what is written once the pipeline ran."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.extracting import manifests
from pipelines.extracting.config import ExtractConfig, MediaShard
from pipelines.extracting.manifests import INCOMPLETE, PARTS, STATE, SUFFIX, load_summary
from pipelines.running.outputs import (
    DEAD_LETTER,
    check_any_written,
    check_rejected,
    clear_temporaries,
    delete_info,
    delete_others,
    info_head,
    open_output,
    reasons_text,
    rejected_line,
    write_info,
)
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records.input_files import SCHEMA_FILE, VOCABULARY_FILE
from vcls_model.records.vocabulary import write_vocabulary_csv

_SETTINGS = f"{STATE}/settings.json"
_WRITTEN_BY_WORKERS = ("", STATE, f"{STATE}/{PARTS}", DEAD_LETTER, INCOMPLETE)
_SETTING_NAMES = {
    "input": "the list of files, their labels or columns",
    "files": "the number of files",
    "shards": "the number of shards (a file's size)",
    "schema": "an encoder, --fps, --sampling, --max_seconds or --level",
    "classes": "the list of classes (--vocabulary)",
    "format": "the format",
}


def open_records(config: ExtractConfig) -> list[MediaShard]:
    """Readies the output directory; returns the shards that are still to be made.

    Raises:
        UsageError: see `running.outputs.open_output`.
    """
    open_output(
        config.output,
        _SETTINGS,
        config.settings(),
        job="extract",
        options=_SETTING_NAMES,
        resume=config.resume,
        overwrite=config.overwrite,
        inputs=[*_inputs(config), config.vocabulary, config.labels],
    )
    delete_info(config.output)
    clear_temporaries(config.output, _WRITTEN_BY_WORKERS)
    schema = config.embedding.schema(len(config.classes) or None)
    storage.write_json(storage.join(config.output, SCHEMA_FILE), schema.to_dict())
    if config.classes:
        storage.write_text(storage.join(config.output, VOCABULARY_FILE), write_vocabulary_csv(config.classes))
    # One listing, not a request per shard: on an object store thousands of them would take minutes.
    stored = set(storage.list_names(storage.join(config.output, STATE), SUFFIX))
    return [
        shard for shard in config.shards if shard.name + SUFFIX not in stored or load_summary(config, shard) is None
    ]


def _inputs(config: ExtractConfig) -> Iterable[str]:
    """Media files and captions."""
    for shard in config.shards:
        for file in shard.files:
            yield file.path
            if file.captions is not None:
                yield file.captions[0]


def finish(config: ExtractConfig, started: float) -> dict[str, Any]:
    """After the pipeline: checks its counts and writes, last, `info.json`.

    Args:
        config: the job.
        started: `time.monotonic()` at its start.

    Returns:
        The content of `info.json`.

    Raises:
        JobError: too many files were rejected, or all of them.
    """
    summaries = [load_summary(config, shard) for shard in config.shards]
    done = [summary for summary in summaries if summary is not None]
    if len(done) != len(summaries):
        raise JobError(f"{len(summaries) - len(done)} shards are missing: --resume makes them")
    clear_temporaries(config.output, _WRITTEN_BY_WORKERS)
    storage.delete(storage.join(config.output, STATE, PARTS))
    for folder in (DEAD_LETTER, INCOMPLETE):
        delete_others(config.output, folder, {f"{shard.name}.jsonl" for shard in config.shards})
    rejected, incomplete = _added(summary.rejected for summary in done), _added(each.incomplete for each in done)
    written = sum(summary.records_written for summary in done)
    files = written + sum(rejected.values())
    if files != config.file_count:
        raise RuntimeError(f"{config.file_count} files went in, {files} came out")
    notes = _added(summary.notes for summary in done)
    print(_table(written, done, rejected, incomplete, notes))
    check_any_written(config.output, written, rejected, f"none of the {files:,} files could be read")
    check_rejected(config.output, files, rejected, config.max_rejected_fraction, files)
    info = {
        **info_head(written, rejected, started),
        "incomplete_by_reason": dict(sorted(incomplete.items())),
        "notes": dict(sorted(notes.items())),
        "rows": sum(summary.rows for summary in done),
        "seconds": round(sum(summary.seconds for summary in done), 3),
        "shards": len(done),
        "output_bytes": sum(summary.bytes for summary in done),
        "schema": config.embedding.schema(len(config.classes) or None).to_dict(),
        "class_count": len(config.classes),
        "config": config.flags,
        "config_hash": config.hash,
    }
    write_info(config.output, info)
    return info


def _added(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return total


def _table(
    written: int,
    done: Sequence[manifests.ShardSummary],
    rejected: Counter[str],
    incomplete: Counter[str],
    notes: Counter[str],
) -> str:
    hours = sum(summary.seconds for summary in done) / 3600
    lines = [f"{'records':<12}{written:>10,}  {hours:,.2f} hours, {sum(each.rows for each in done):,} rows"]
    if incomplete:
        lines.append(f"{'incomplete':<12}{sum(incomplete.values()):>10,}  {reasons_text(incomplete)}")
    if notes:
        lines.append(f"{'noted':<12}{notes.total():>10,}  {reasons_text(notes)}")
    lines.append(rejected_line(rejected, 12, 10))
    return "\n".join(lines)
