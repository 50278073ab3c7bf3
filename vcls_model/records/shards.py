"""Reading shards of records in any known layout, and finding out which layout a shard has."""

import os
from collections.abc import Iterator

from vcls_model.commands import UsageError
from vcls_model.records import examples
from vcls_model.records.decoding import Decoder, FrameBatch, RawBatch, ReadOptions, Rejected, in_batches
from vcls_model.records.framing import CHUNK_BYTES, read_chunks
from vcls_model.records.schema import BUILT_IN, RecordSchema, schema_by_name, schema_from_json
from vcls_model.storage import exists, read_bytes

__all__ = ["FrameBatch", "RawBatch", "ReadOptions", "Rejected", "detect_schema", "read_batches", "resolve_schema"]

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
    keep_payloads: bool = False,
) -> Iterator[tuple[RawBatch, list[Rejected]]]:
    """Reads one shard as batches of arrays, with what was rejected on the way.

    Memory stays at a few times `batch_bytes`, however large the shard. The batches depend only on the shard and the
    arguments. A batch may be empty. Records in the batches plus rejected ones are all there was: for segment records
    the unit is the rated segment.

    Args:
        path: TFRecord file (plain or gzip, told by content), or a CSV for a `csv` schema.
        schema: layout of its records.
        class_count: labels must be below; None: any.
        batch_records: most records a batch.
        batch_bytes: bytes of the shard that are looked at together.
        max_frames: frames beyond are cut.
        missing_modality: `"reject"` or `"fill"` records that lack a modality.
        require_labels: reject records without labels.
        keep_payloads: also hand over the serialized records.
    """
    options = ReadOptions(class_count, max_frames, missing_modality == "fill", require_labels)
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
            batch, unusable = decoder.decode(
                path, chunk.buffer, chunk.starts[part], chunk.lengths[part], offsets[part], keep_payloads=keep_payloads
            )
            yield batch, rejected + unusable
            rejected = []


def resolve_schema(name: str, shard: str) -> RecordSchema:
    """The schema that `--schema` names: a built-in one, a schema file, or `auto`: found out from `shard`.

    Raises:
        UsageError: there is no such schema, or `shard` fits none.
    """
    if name == "auto":
        return detect_schema(shard)
    if name in BUILT_IN:
        return schema_by_name(name)
    if name.endswith(".json") or os.sep in name:
        if not exists(name):
            raise UsageError(f"schema file {name} does not exist")
        return schema_from_json(read_bytes(name).decode("utf-8-sig"), name)
    return schema_by_name(name)


def detect_schema(path: str) -> RecordSchema:
    """Finds out the layout of a shard from its first records.

    Raises:
        UsageError: it has no readable record, or one that fits no built-in schema; the message lists its features.
    """
    if path.endswith((".csv", ".csv.gz")):
        from vcls_model.records.csv_rows import csv_schema

        return csv_schema(path)
    found: examples.Record | None = None
    for payload in _first_payloads(path):
        try:
            record = examples.parse_record(payload)
        except examples.WireError:
            continue
        found = found or record
        for schema in reversed(BUILT_IN.values()):  # the segment layout before the frame layout that it extends
            if _fits(record, schema):
                return schema
    if found is None:
        raise UsageError(f"{path} holds no readable record: name the layout with --schema, or check the input")
    # Not one record with every modality: perhaps all lack one (--missing_modality=fill).
    for schema in reversed(BUILT_IN.values()):
        if _fits(found, schema, partly=True):
            return schema
    features = ", ".join(sorted({*found.features, *(f"{name} (frames)" for name in found.feature_lists)}))
    raise UsageError(
        f"the records of {path} fit no built-in schema; they hold: {features}. "
        "Describe them in a schema file and name it with --schema"
    )


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
    place = record.feature_lists if schema.container == "sequence_example" else record.features
    return (any if partly else all)(modality.name in place for modality in schema.modalities)
