"""The output directory of a job: opening it, continuing in it, tidying it, and what every `info.json` holds."""

import math
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from vcls_model import output_directories, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.reasons import NOT_TFRECORD, cut_short_note
from vcls_model.states import DeadLetter, checked
from vcls_model.versions import versions_of

DEAD_LETTER = "dead_letter"
INFO_FILE = "info.json"
_PACKAGES = ("apache-beam", "tensorflow", "tensorflow-transform", "tfx-bsl", "numpy", "numba", "pyarrow")
# Longer values of a setting (a list of thresholds, a digest) are named in a message, not printed.
_PRINTED_CHARACTERS = 40
# Files without any record that a message names.
_FILES_NAMED = 5


def open_output(
    output: str,
    settings_file: str,
    settings: Mapping[str, Any],
    *,
    job: str,
    options: Mapping[str, str],
    resume: bool,
    overwrite: bool,
    inputs: Iterable[str | None] = (),
    dry_run: bool = False,
) -> None:
    """Readies the output directory of a job, and stores there the settings that a later `--resume` must repeat.

    Args:
        output: the directory.
        settings_file: where the settings are stored, below `output`; its presence marks the output of such a job.
        settings: JSON-able; what must be equal for two runs to write to the same output.
        job: what the job is called in messages: `preprocess`.
        options: the command-line option, or some words, for each key of `settings`: `{"form": "--format"}`; a key
            that is absent is called `--<key>`.
        resume: continue what is there.
        overwrite: delete what is there.
        inputs: what the job reads, which `overwrite` must not delete.
        dry_run: check everything, but write and delete nothing.

    Raises:
        UsageError: the directory is in use and may not be continued or replaced, or it was begun with other settings:
            to continue would undo what is done, or mix results that do not belong together.
    """
    stored = storage.join(output, settings_file)
    if resume and not overwrite:
        _check_continues(output, stored, settings, job, options)
    if not (dry_run and overwrite):
        output_directories.prepare_output(output, resume=resume, overwrite=overwrite, inputs=inputs)
    if not dry_run:
        storage.write_json(stored, settings)


def _check_continues(
    output: str, stored: str, settings: Mapping[str, Any], job: str, options: Mapping[str, str]
) -> None:
    changed = storage.changed_settings(stored, settings)
    if changed:
        differences = "; ".join(
            difference
            for key, (then, now) in changed.items()
            for difference in _differences(options.get(key, f"--{key}"), then, now)
        )
        raise UsageError(
            f"--resume: {output} was begun with other settings: {differences}. Repeat the earlier settings, name "
            "another --output, or start over with --overwrite"
        )
    if storage.holds_anything(output) and not storage.exists(stored):
        raise UsageError(f"--resume: {output} holds no {job} job to continue")


def _differences(name: str, then: Any, now: Any) -> Iterator[str]:
    """What differs, a phrase per value: `--normalise was zscore, is now minmax`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                yield from _differences(f"{key} of {name}", then.get(key), now.get(key))
        return
    before, after = _printed(then), _printed(now)
    yield f"{name} was {before}, is now {after}" if before and after and before != after else f"{name} changed"


def _printed(value: Any) -> str:
    """A setting as a user would write it; empty when that is too long to read."""
    if value is None or value is False:
        return "not set"
    if value is True:
        return "set"
    parts = value if isinstance(value, list) else [value]
    text = ",".join(map(str, parts))
    nested = any(isinstance(part, dict | list) for part in parts)
    return "" if nested or len(text) > _PRINTED_CHARACTERS else text


def delete_others(output: str, directory: str, keep: Collection[str]) -> None:
    """Deletes the files directly below `directory` of `output` whose names are not in `keep`."""
    for name in storage.list_names(storage.join(output, directory)):
        if name not in keep:
            storage.delete(storage.join(output, directory, name))


def clear_temporaries(output: str, directories: Iterable[str]) -> None:
    """After a run: deletes the half-written files of workers that were killed while others repeated their work.

    Args:
        output: the job's output directory.
        directories: those below it that workers write to.
    """
    for directory in directories:
        storage.remove_temporaries(storage.join(output, directory))


def check_rejected(
    output: str, records_read: int, rejected_by_reason: Mapping[str, int], max_rejected_fraction: float, files: int
) -> None:
    """Fails a job that rejected too much of its input; warns, on stderr, of files that lack their ends or all records.

    Args:
        output: the job's output directory, which holds the dead letters.
        records_read: records in the input, rejected ones included.
        rejected_by_reason: records rejected, by reason.
        max_rejected_fraction: in [0, 1], the largest fraction of `records_read` that may be rejected, and of `files`
            that may hold no record at all.
        files: number of input files.

    Raises:
        JobError: with the fraction, the reasons, where the dead letters are, and how to go on.
    """
    dead_letters = storage.join(output, DEAD_LETTER)
    if note := cut_short_note(rejected_by_reason, dead_letters):
        print(note, file=sys.stderr)
    whole_files = rejected_by_reason.get(NOT_TFRECORD, 0)
    foreign = _foreign_files(dead_letters, whole_files) if whole_files else ""
    if foreign:
        print(f"warning: {foreign}", file=sys.stderr)
    rejected = sum(rejected_by_reason.values())
    if rejected > max_rejected_fraction * records_read:
        raise JobError(
            f"{rejected:,} of {records_read:,} records were rejected, {rejected / records_read:.2%}, more than "
            f"--max_rejected_fraction={max_rejected_fraction:g} allows ({reasons_text(rejected_by_reason)}"
            f"{_first_rejected(dead_letters)}); see {dead_letters}. The usable records are written: --resume with a "
            "higher fraction accepts them"
        )
    if whole_files > max_rejected_fraction * files:
        raise JobError(
            f"{foreign}. Repair or remove them; the usable records are written: --resume with "
            f"--max_rejected_fraction={math.ceil(100 * whole_files / files) / 100:g} leaves these files out"
        )


def check_any_written(output: str, records_written: int, rejected_by_reason: Mapping[str, int], failure: str) -> None:
    """Fails a job whose output would be empty.

    Args:
        output: the job's output directory, which holds the dead letters.
        records_written: records in the output.
        rejected_by_reason: records rejected, by reason.
        failure: what the message says: `none of the 12 files could be read`.

    Raises:
        JobError: nothing was written; with the reasons and where the dead letters are.
    """
    if records_written:
        return
    reasons, dead_letters = reasons_text(rejected_by_reason), storage.join(output, DEAD_LETTER)
    raise JobError(failure + (f" ({reasons}{_first_rejected(dead_letters)}); see {dead_letters}" if reasons else ""))


def _first_rejected(dead_letters: str) -> str:
    """What is wrong with one of the rejected records, and where it is: the end of a message."""
    for name in storage.list_names(dead_letters):
        origin = storage.join(dead_letters, name)
        if line := next(iter(storage.read_bytes(origin).splitlines()), b""):
            letter = checked(storage.from_json(line, origin), origin, DeadLetter)
            place = "line" if letter["shard"].lower().endswith((".csv", ".tsv", ".txt")) else "byte"
            at = f", {place} {letter['offset']}" if "offset" in letter else ""
            return f"; the first is {letter['shard']}{at}: {letter['message']}"
    return ""


def _foreign_files(dead_letters: str, count: int) -> str:
    """Names the files that are not records, by their dead letters: they count as one rejected record each."""
    letters = []
    for name in storage.list_names(dead_letters):
        for line in storage.read_bytes(storage.join(dead_letters, name)).splitlines():
            if NOT_TFRECORD.encode() in line:
                origin = storage.join(dead_letters, name)
                letters.append(checked(storage.from_json(line, origin), origin, DeadLetter))
        if len(letters) >= _FILES_NAMED:
            break
    named = "; ".join(f"{letter['shard']} is {letter['message']}" for letter in letters[:_FILES_NAMED])
    return f"{count:,} {'file is' if count == 1 else 'files are'} not records as a whole: {named}"


def reasons_text(rejected_by_reason: Mapping[str, int]) -> str:
    """`no_labels: 12, truncated: 1`, the most frequent reason first."""
    ordered = sorted(rejected_by_reason.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{reason}: {count:,}" for reason, count in ordered)


def rejected_line(rejected_by_reason: Mapping[str, int], name_width: int, count_width: int) -> str:
    """The last line of a job's table: `rejected`, how many records, and the reasons."""
    count = sum(rejected_by_reason.values())
    return f"{'rejected':<{name_width}}{count:>{count_width},}  {reasons_text(rejected_by_reason)}".rstrip()


def write_info(output: str, info: Mapping[str, Any]) -> None:
    """Writes `info.json`, the last file of every job: a directory that holds it is finished."""
    storage.write_json(storage.join(output, INFO_FILE), info)


def delete_info(output: str) -> None:
    """Before a job continues in a finished directory, once nothing can refuse it: until its end it is not finished."""
    storage.delete(storage.join(output, INFO_FILE))


def info_head(records_written: int, rejected_by_reason: Mapping[str, int], started: float) -> dict[str, Any]:
    """The entries with which the `info.json` of every job begins.

    Args:
        records_written: records in the output.
        rejected_by_reason: records rejected, by reason.
        started: `time.monotonic()` at the start of the job.

    Returns:
        `records_read` (the sum of the next two), `records_written`, `records_rejected`, `rejected_by_reason`,
        `versions`, `wall_seconds`.
    """
    rejected = sum(rejected_by_reason.values())
    return {
        "records_read": records_written + rejected,
        "records_written": records_written,
        "records_rejected": rejected,
        "rejected_by_reason": dict(sorted(rejected_by_reason.items())),
        "versions": versions_of(*_PACKAGES),
        "wall_seconds": round(time.monotonic() - started, 3),
    }
