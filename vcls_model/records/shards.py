"""Reads shards of records in any known layout, and recognises the layout of a shard."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from vcls_model.commands import JobError, UsageError
from vcls_model.records import examples
from vcls_model.records.decoding import Decoder, FrameBatch, RawBatch, RecordOptions, Rejected, in_batches
from vcls_model.records.framing import CHUNK_BYTES, read_chunks
from vcls_model.records.input_files import SCHEMA_FILE, VOCABULARY_FILE
from vcls_model.records.schema import (
    BUILT_IN,
    FRAMES,
    TEXT,
    VECTOR,
    RecordSchema,
    schema_by_name,
    schema_from_json,
    text_modality,
)
from vcls_model.records.splits import SPLITS
from vcls_model.records.vocabulary import refuse_multi_hot_pairs
from vcls_model.states import DATASET, kind_of
from vcls_model.storage import exists, read_small, resolved, to_json

__all__ = ["FrameBatch", "RawBatch", "RecordOptions", "Rejected", "detect_schema", "read_batches", "resolve_schema"]

BATCH_RECORDS = 2048
_PROBED_RECORDS = 64


def read_batches(
    path: str,
    schema: RecordSchema,
    *,
    class_count: int | None,
    batch_records: int = BATCH_RECORDS,
    batch_bytes: int = CHUNK_BYTES,
    max_frames: int = 300,
    missing_modality: str = "reject",
    require_labels: bool = True,
    drop_unknown_labels: bool = False,
    context_features: Sequence[str] = (),
    class_names: tuple[str, ...] = (),
) -> Iterator[tuple[RawBatch, list[Rejected]]]:
    """Reads one shard as batches of arrays, with what was rejected on the way.

    Memory stays at a few times `batch_bytes`, however large the shard. The batches depend only on the shard and the
    arguments. A batch may be empty. Records in the batches plus rejected ones are all there was: for segment records
    a record is a rated segment.

    Args:
        path: TFRecord file (plain or gzip, recognised by content), or a CSV for a `csv` schema.
        schema: layout of its records.
        class_count: labels must be below it; None: any label.
        batch_records: most records per batch.
        batch_bytes: bytes of the shard that are processed together.
        max_frames: most frames per video; the rest is cut off.
        missing_modality: what becomes of records that lack a modality: `"reject"`, `"fill"` in zeros, or `"mask"`: keep
            them as they are, see `RawBatch.missing`.
        require_labels: reject records without labels.
        drop_unknown_labels: leave out labels outside [0, class_count), and count them in `RawBatch.notes`, rather than
            reject the record.
        context_features: names of features whose values are handed over in `RawBatch.context`; TFRecords only.
        class_names: names by class index, by which a CSV may call its labels.
    """
    options = RecordOptions(
        class_count=class_count,
        max_frames=max_frames,
        fill_missing=missing_modality == "fill",
        mask_missing=missing_modality == "mask",
        require_labels=require_labels,
        drop_unknown_labels=drop_unknown_labels,
        context_features=tuple(context_features),
        class_names=class_names,
    )
    if schema.container == "csv":
        from vcls_model.records.csv_rows import read_csv_batches

        yield from read_csv_batches(path, schema, options, batch_records=batch_records, batch_bytes=batch_bytes)
        return
    decoder = Decoder(schema, options)
    for chunk in read_chunks(path, batch_bytes):
        rejected = [
            Rejected(path, damage.offset, "", "framing", damage.reason, damage.message) for damage in chunk.damage
        ]
        offsets = chunk.offsets
        for part in in_batches(chunk.starts, batch_records) or [slice(0, 0)]:
            batch, unusable = decoder.decode(path, chunk.buffer, chunk.starts[part], chunk.lengths[part], offsets[part])
            yield batch, rejected + unusable
            rejected = []


def resolve_schema(name: str, shard: str, known: RecordSchema | None = None, texts: Sequence[str] = ()) -> RecordSchema:
    """The schema that `--schema` names: a built-in one, a schema file, or `auto`.

    `auto` takes `schema.json` beside `shard`, if there is one, else recognises the layout from its records: `known`, or
    a built-in one.

    Args:
        name: see above.
        shard: a file of records.
        known: a layout that they may have.
        texts: names of features that are texts in addition to those of the layout.

    Raises:
        UsageError: there is no such schema, or `shard` fits none; or a feature would be a text and something else.
    """
    return with_texts(_resolve(name, shard, known, texts), texts)


def with_texts(schema: RecordSchema, names: Sequence[str]) -> RecordSchema:
    """A layout with further features that are texts."""
    held = {modality.source for modality in schema.texts}
    more = [name for name in names if name not in held]
    if not more:
        return schema
    modalities = tuple(text_modality(name) for name in more)
    # Not the name of the built-in layout, which has no texts.
    return dataclasses.replace(
        schema, name="+".join([schema.name, *more]), modalities=(*schema.modalities, *modalities)
    )


def _resolve(name: str, shard: str, known: RecordSchema | None, texts: Sequence[str]) -> RecordSchema:
    if name == "auto":
        beside = file_beside(shard, SCHEMA_FILE)
        if beside is not None and not shard.endswith((".csv", ".csv.gz")):
            name = beside
        else:
            return detect_schema(shard, known, texts)
    if name in BUILT_IN:
        return schema_by_name(name)
    if name.endswith(".json") or os.sep in name:
        if not exists(name):
            raise UsageError(f"schema file {name} does not exist")
        return _with_columns(with_texts(schema_from_json(read_small(name), name), texts), shard)
    return schema_by_name(name)


def _with_columns(schema: RecordSchema, shard: str) -> RecordSchema:
    """A CSV's schema with the names of the columns in its first file, so that they are the same in all others."""
    from vcls_model.records.csv_rows import csv_schema

    numbers = [modality for modality in schema.modalities if modality.kind != TEXT]
    if schema.container != "csv" or len(numbers) != 1 or numbers[0].columns is not None:
        return schema
    found = [modality for modality in csv_schema(shard, schema).modalities if modality.kind != TEXT]
    if [(each.name, each.width) for each in found] != [(each.name, each.width) for each in numbers]:
        return schema  # the reader refuses the file, and says why
    return dataclasses.replace(
        schema, modalities=tuple(each if each.kind == TEXT else found[0] for each in schema.modalities)
    )


def file_beside(shard: str, name: str) -> str | None:
    """The path of a file in the directory of `shard`; None if it is not there."""
    path = shard[: shard.rfind("/") + 1] + name
    return path if exists(path) else None


def refuse_transformed(shards: Sequence[str], what_to_name: str) -> None:
    """Raises `UsageError` where shards lie in a split of a transformed dataset: normalised twice, they make no sense.

    Args:
        shards: paths of the input files.
        what_to_name: what the command reads instead, for the message.
    """
    for directory in dict.fromkeys(resolved(shard).rpartition("/")[0] for shard in shards):
        above, _, split = directory.rpartition("/")
        if split in SPLITS and kind_of(above) == DATASET:
            raise UsageError(
                f"{directory} holds records that preprocess has transformed already: {what_to_name} (--split=test of "
                "score selects the records of a split among the raw ones)"
            )


def check_made_alike(shards: Sequence[str]) -> None:
    """Raises `UsageError` unless what lies beside shards in several directories is the same: encoders and classes."""
    first: tuple[str, RecordSchema, bytes] | None = None
    for directory in dict.fromkeys(shard[: shard.rfind("/") + 1] for shard in shards):
        if not exists(directory + SCHEMA_FILE):
            continue
        schema = schema_from_json(read_small(directory + SCHEMA_FILE).decode("utf-8-sig"), directory + SCHEMA_FILE)
        listed = read_small(directory + VOCABULARY_FILE) if exists(directory + VOCABULARY_FILE) else b""
        if first is None:
            first = directory, schema, listed
        elif (schema.modalities, schema.encoders) != (first[1].modalities, first[1].encoders):
            raise UsageError(f"the records of {first[0]} and {directory} were made by different encoders")
        elif listed and first[2] and listed != first[2]:
            raise UsageError(
                f"the records of {first[0]} and {directory} have different classes: extract both with the same "
                "--vocabulary"
            )


def refuse_multi_hot_labels(path: str, schema: RecordSchema) -> None:
    """Raises `UsageError` where the labels of a shard's first records are a 0 or 1 for each of two classes."""
    if schema.container == "csv" or schema.segments:
        return
    lists = []
    for payload in _first_payloads(path):
        try:
            feature = examples.parse_record(payload).features.get(schema.labels_feature)
        except examples.ExampleError:
            continue
        if feature is not None and feature.kind == "int64":
            lists.append([int(value) for value in feature.values])
    try:
        refuse_multi_hot_pairs(lists, path)
    except JobError as error:
        raise UsageError(str(error)) from None


def unread_texts(path: str, schema: RecordSchema) -> list[str]:
    """Names of features in the first records of a shard that look like text and that the layout does not read."""
    if schema.container == "csv":
        return []
    read = {schema.id_feature, schema.labels_feature, *(modality.source for modality in schema.modalities)}
    found: dict[str, bool] = {}
    for payload in _first_payloads(path):
        try:
            features = examples.parse_record(payload).features
        except examples.ExampleError:
            continue
        for name, feature in features.items():
            if name not in read and feature.kind == "bytes":
                found[name] = found.get(name, True) and all(_is_text(value) for value in feature.values)  # type: ignore[arg-type]
    return sorted(name for name, text in found.items() if text)


def _is_text(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def detect_schema(path: str, known: RecordSchema | None = None, texts: Sequence[str] = ()) -> RecordSchema:
    """Recognises the layout of a shard from its first records: `known`, or a built-in one.

    Of a CSV, the columns `texts` and those of the texts of `known` are texts.

    Raises:
        UsageError: it has no readable record, or one that fits no built-in schema; the message lists its features, and
            a schema file that describes them.
    """
    if path.endswith((".csv", ".csv.gz")):
        from vcls_model.records.csv_rows import csv_schema

        named = [*texts, *(modality.source for modality in known.texts)] if known is not None else texts
        return csv_schema(path, texts=tuple(dict.fromkeys(named)))
    first: examples.Record | None = None
    layouts = [*reversed(BUILT_IN.values())]  # the segment layout before the frame layout that it extends
    if known is not None and known.container != "csv" and known.name not in BUILT_IN:
        layouts.insert(0, known)
    for payload in _first_payloads(path):
        try:
            record = examples.parse_record(payload)
        except examples.ExampleError:
            continue
        first = first or record
        for schema in layouts:
            if _fits(record, schema) and (schema is not known or _is_as_wide(record, schema)):
                return _as_written(record, schema)
    if first is None:
        raise UsageError(f"{path} holds no readable record: name the layout with --schema, or check the input")
    # No record has every modality: perhaps all lack one (--missing_modality=fill).
    for schema in layouts:
        if _fits(first, schema, partly=True):
            return _as_written(first, schema)
    features = ", ".join(sorted({*first.features, *(f"{name} (frames)" for name in first.feature_lists)}))
    raise UsageError(
        f"the records of {path} fit no built-in schema; they hold: {features}. Describe them in a schema file and name "
        f"it with --schema, for example {_described(first)}"
    )


def _is_as_wide(record: examples.Record, schema: RecordSchema) -> bool:
    """Whether no modality of the record has another width: what one's own layout names may be someone else's."""
    for modality in schema.modalities:
        if modality.kind == TEXT:
            continue
        framed = schema.container == "sequence_example" and modality.kind == FRAMES
        found = record.feature_lists[modality.source][:1] if framed else [record.features[modality.source]]
        for feature in found:
            width = len(bytes(feature.values[0])) if feature.kind == "bytes" else len(feature.values)
            if width != modality.width and (framed or modality.kind != FRAMES):
                return False
    return True


def _as_written(record: examples.Record, schema: RecordSchema) -> RecordSchema:
    """A layout whose frames are numbers where those of the record are, as MediaPipe writes them, instead of codes."""
    modalities = tuple(
        dataclasses.replace(modality, encoding="float32", range=None)
        if modality.coded and any(frame.kind == "float" for frame in record.feature_lists.get(modality.source, ())[:1])
        else modality
        for modality in schema.modalities
    )
    return schema if modalities == schema.modalities else dataclasses.replace(schema, modalities=modalities)


def _described(record: examples.Record) -> str:
    """A schema file for records like this one, as text; what the record does not tell is …."""
    modalities: list[dict[str, Any]] = []
    for name, frames in sorted(record.feature_lists.items()):
        for frame in frames[:1]:
            values = frame.values
            width = len(bytes(values[0])) if frame.kind == "bytes" and len(values) else len(values)
            if frame.kind in ("bytes", "float") and width:
                modalities.append(_entry(name, width, FRAMES, "uint8" if frame.kind == "bytes" else "float32"))
    for name, feature in sorted(record.features.items()):
        if feature.kind == "float" and len(feature.values) > 1:
            modalities.append(_entry(name, len(feature.values), VECTOR, "float32"))
    kinds = {name: feature.kind for name, feature in sorted(record.features.items())}
    texts, numbers = ([name for name, kind in kinds.items() if kind == own] for own in ("bytes", "int64"))
    return to_json(
        {
            "name": "own",
            "container": "sequence_example" if record.feature_lists else "example",
            "id_feature": next((name for name in texts if "id" in name.lower()), texts[0] if texts else "…"),
            "labels_feature": next((name for name in numbers if "label" in name.lower()), "labels"),
            "modalities": modalities,
        },
        ensure_ascii=False,
    )


def _entry(name: str, width: int, kind: str, encoding: str) -> dict[str, Any]:
    """A modality's entry in a schema file."""
    own = name.partition("/")[0].lower() or "frames"
    renamed = {"name": own, "feature": name} if "/" in name else {"name": name}
    return {**renamed, "width": width, "kind": kind, "encoding": encoding}


def _first_payloads(path: str) -> Iterator[bytes]:
    seen = 0
    for chunk in read_chunks(path, 1 << 20):
        for start, length in zip(chunk.starts.tolist(), chunk.lengths.tolist(), strict=True):
            yield chunk.buffer[start : start + length].tobytes()
            seen += 1
            if seen == _PROBED_RECORDS:
                return


def _fits(record: examples.Record, schema: RecordSchema, partly: bool = False) -> bool:
    if schema.id_feature not in record.features:
        return False
    if schema.segments and "segment_labels" not in record.features:
        return False
    lists = schema.container == "sequence_example"
    return (any if partly else all)(
        modality.source in (record.feature_lists if lists and modality.kind == FRAMES else record.features)
        for modality in schema.modalities
        if modality.kind != TEXT or len(schema.texts) == len(schema.modalities)
    )
