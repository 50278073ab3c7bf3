"""What scoring asks of exported models: that they fit each other and the records."""

import dataclasses
from collections.abc import Sequence

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.encoders.encoder import check_same_identity
from vcls_model.records.framing import read_chunks
from vcls_model.records.input_files import SCHEMA_FILE, VOCABULARY_FILE
from vcls_model.records.schema import Modality, RecordSchema
from vcls_model.records.shards import check_made_alike, file_beside, resolve_schema
from vcls_model.records.split_ids import GivenSplits
from vcls_model.records.splits import SplitRatios
from vcls_model.records.vocabulary import check_same_classes, load_vocabulary
from vcls_model.serving.exported import ExportedModel, describe


def check_same_task(models: Sequence[ExportedModel]) -> None:
    """Raises `UsageError` unless the models can be averaged: same classes, same kind of records."""
    first = models[0]
    for other in models[1:]:
        if other.class_count != first.class_count:
            raise UsageError(
                f"the models cannot be averaged: {first.path} has {first.class_count} classes, "
                f"{other.path} has {other.class_count}"
            )
        if [info.name for info in other.classes] != [info.name for info in first.classes]:
            raise UsageError(f"the models cannot be averaged: {other.path} has another vocabulary than {first.path}")
        if other.schema.modalities != first.schema.modalities:
            raise UsageError(
                f"the models cannot be averaged: {first.path} takes {describe(first.schema.modalities)}, "
                f"{other.path} takes {describe(other.schema.modalities)}"
            )
        check_same_encoders(other.schema, other.path, first)


def check_same_encoders(schema: RecordSchema, origin: str, model: ExportedModel) -> None:
    """Raises `JobError` where records, or a model's data, were made by other encoders than those of the model's data.

    Args:
        schema: of the records; one that names no encoders says nothing.
        origin: where it stands.
        model: the model that is to score them.
    """
    for name, own in (model.schema.encoders or {}).items():
        recorded = (schema.encoders or {}).get(name)
        if recorded is not None:
            check_same_identity(recorded, origin, own, name, model.path)


def find_schema(name: str, shards: Sequence[str], model: ExportedModel) -> RecordSchema:
    """How to read the records, with `class_count`: what `--schema` says, checked against what the model takes.

    With `auto` the first shard that holds a record decides; if none does, the model's own layout is as good as any.

    Raises:
        UsageError: the records do not fit the model, or there is no such schema.
    """
    if name != "auto":
        return schema_for_scoring(resolve_schema(name, shards[0]), model)
    check_made_alike(shards)
    _check_vocabulary(shards[0], model)
    for path in shards:
        if path.endswith((".csv", ".csv.gz")) or any(chunk.starts.size for chunk in read_chunks(path)):
            return schema_for_scoring(resolve_schema(name, path, model.schema), model)
    return schema_for_scoring(model.schema, model)


def _check_vocabulary(shard: str, model: ExportedModel) -> None:
    """Raises `UsageError` where the labels of records made from media count other classes than the model's."""
    listed = file_beside(shard, VOCABULARY_FILE)
    if listed is None or file_beside(shard, SCHEMA_FILE) is None:
        return
    check_same_classes(
        f"the input ({listed})",
        [info.name for info in load_vocabulary(listed)],
        model.path,
        [info.name for info in model.classes],
        f": extract its labels with --vocabulary={storage.join(model.path, 'labels.csv')}",
    )


def schema_for_scoring(records: RecordSchema, model: ExportedModel) -> RecordSchema:
    """How to read `records` for `model`: their container and names, the model's modalities and class count.

    Raises:
        UsageError: the records lack what the model takes; the message names both.
    """
    # Any record may hold texts, or none.
    held = {modality.name: modality for modality in (*model.schema.texts, *records.modalities)}
    if any(not _fits(held.get(modality.name), modality) for modality in model.schema.modalities):
        raise UsageError(
            f"the model does not fit the records: {model.path} takes {describe(model.schema.modalities)}, "
            f"the records ({records.name}) hold {describe(records.modalities)}" + _columns_text(model.schema, records)
        )
    check_same_encoders(records, f"the input ({records.name})", model)
    # A model of the first release knows no names of columns: those of the first file are as good as any.
    modalities = tuple(
        dataclasses.replace(
            modality,
            columns=modality.columns or held[modality.name].columns,
            feature=held[modality.name].feature,
        )
        for modality in model.schema.modalities
    )
    return dataclasses.replace(records, modalities=modalities, class_count=model.class_count)


def _fits(held: Modality | None, taken: Modality) -> bool:
    """Whether records hold what a model takes; columns of the same names may stand in any order."""
    if held is None or (held.columns and taken.columns and _sorted(held.columns) != _sorted(taken.columns)):
        return False
    neither = {"columns": None, "feature": None}
    return dataclasses.replace(held, **neither) == dataclasses.replace(taken, **neither)  # type: ignore[arg-type]


def _columns_text(taken: RecordSchema, held: RecordSchema) -> str:
    named = [modality.columns for schema in (taken, held) for modality in schema.modalities if modality.columns]
    return "".join(f"; columns {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" for names in named)


def _sorted(names: Sequence[str]) -> list[str]:
    return sorted(name.lower() for name in names)


def common_splits(models: Sequence[ExportedModel], *, needed: bool) -> SplitRatios | GivenSplits | None:
    """How the data of all models were split; None where that is not known, or differs.

    Args:
        models: the models.
        needed: --split asks for it.

    Raises:
        UsageError: it is needed and not known.
    """
    rules = [model.splits() for model in models]
    settings = [rule.digest if isinstance(rule, GivenSplits) else rule for rule in rules]
    if rules[0] is not None and settings.count(settings[0]) == len(rules):
        return rules[0]
    if needed and None in rules:
        path = models[rules.index(None)].path
        raise UsageError(
            f"--split: {path} does not say which ids are in which split of its data. Where the splits were given by "
            "hand, preprocess and train again with this version, which list them; or name the files of the split alone"
        )
    if needed:
        raise UsageError("--split needs models whose data were split in the same way: the splits of their data differ")
    return None
