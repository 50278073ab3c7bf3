"""A transformed dataset on disk: what its `info.json` says, and where its shards are."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.identity import dataset_identity
from vcls_model.records.listed_shards import ListedShard, compare_counts, read_manifests, shards_of_split
from vcls_model.records.schema import (
    MOST_CLASSES,
    PRESENCE,
    REQUANTISE,
    Modality,
    Quantisation,
    RecordSchema,
    modality_fields,
    schema_from_dict,
)
from vcls_model.records.vocabulary import ClassInfo, load_vocabulary, unnamed_classes
from vcls_model.states import DATASET, DatasetInfo, ShardManifest, read_state, refuse_other_kind


def presence_name(modality: str) -> str:
    """What records, batches and models call the presence of a modality: `has_audio`."""
    return PRESENCE + modality


def sources_of(modalities: Sequence[Modality], schema: RecordSchema) -> dict[str, str]:
    """The raw modality that each transformed one is made of, by name: preprocess pools `rgb_mean` from `rgb`."""
    raw = {modality.name for modality in schema.modalities}
    return {each.name: each.name if each.name in raw else each.name.rpartition("_")[0] for each in modalities}


def senses_of(modalities: Sequence[Modality], schema: RecordSchema) -> list[list[str]]:
    """Names of the transformed modalities that a video has, or lacks, together, in their order."""
    senses: dict[str, list[str]] = {}
    for name, source in sources_of(modalities, schema).items():
        senses.setdefault(source, []).append(name)
    return list(senses.values())


@dataclasses.dataclass(frozen=True)
class TransformedModality(Modality):
    """A modality of a transformed dataset.

    Attributes:
        scale: where the encoding is `uint8`, a code x stands for x * scale + offset.
        offset: see `scale`.
    """

    scale: float = 1.0
    offset: float = 0.0

    @property
    def quantisation(self) -> Quantisation:
        """What the codes of the modality stand for, where its encoding is `uint8`."""
        return Quantisation(self.scale, self.offset)


def modality_from_dict(entry: Mapping[str, Any]) -> TransformedModality:
    """Reads an entry of `transformed` in an `info.json`; unknown keys are ignored."""
    fields = {**vars(REQUANTISE), **modality_fields(entry)}
    known = [field.name for field in dataclasses.fields(TransformedModality)]
    return TransformedModality(**{key: fields[key] for key in known if key in fields})


@dataclasses.dataclass(frozen=True)
class TransformedData:
    """A directory that `pipelines.preprocess` wrote.

    Attributes:
        directory: its path.
        schema: the layout of the raw records that it was made from.
        modalities: the transformed features, in the order in which a model takes them.
        class_count: number of classes C.
        records: videos in each split.
        info: all of its `info.json`.
    """

    directory: str
    schema: RecordSchema
    modalities: tuple[TransformedModality, ...]
    class_count: int
    records: Mapping[str, int]
    info: Mapping[str, Any]

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """Tells it from other datasets, see `records.identity`."""
        return dataset_identity(self.info)

    @property
    def may_lack(self) -> bool:
        """Whether a record may lack a modality: not where it has but one; a text that is missing is an empty one."""
        texts = len(self.schema.texts)
        return texts < len(self.schema.modalities) > 1

    @functools.cached_property
    def manifests(self) -> list[ShardManifest]:
        """What preprocess says of each shard that it finished; [] where the dataset came without.

        Raises:
            JobError: one is damaged, or together they count other records than `info.json`.
        """
        manifests = read_manifests(self.directory)
        compare_counts(self.directory, manifests, self.records)
        return manifests

    def shards(self, split: str) -> list[ListedShard]:
        """The TFRecord files that preprocess wrote for the split, in the order of their numbers.

        Raises:
            JobError: one of them is missing or has another size, or there are others: files of another run, perhaps.
        """
        count = self.info["splits"].get(split, {}).get("shards")
        return shards_of_split(self.directory, split, self.manifests, count)

    def check_shards(self, splits: Sequence[str] = ("train", "validate")) -> None:
        """Raises `JobError`, see `shards`, where the files of a split are not those that preprocess wrote."""
        for split in splits:
            self.shards(split)

    def training_shards(self) -> list[ListedShard]:
        """The training split's files.

        Raises:
            JobError: it holds no video, or none with a label.
        """
        shards = self.shards("train")
        if not shards or not self.records.get("train", 0):
            raise JobError(f"{self.directory} holds no training video")
        counts = self.class_counts()
        if counts is not None and not any(counts):
            raise JobError(f"no training video of {self.directory} has a label")
        return shards

    def all_labelled(self) -> bool:
        """Whether every video has a label, as far as preprocess counted them."""
        counts = self.info.get("statistics", {}).get("labels_per_video")
        return bool(counts) and counts[0] == 0

    def classes(self) -> list[ClassInfo]:
        """The classes by index, as `labels.csv` describes them; without names where there is none."""
        path = storage.join(self.directory, "labels.csv")
        if not storage.exists(path):
            return unnamed_classes(self.class_count)
        return load_vocabulary(path, self.class_count, complete=True)

    def class_counts(self, split: str = "train") -> list[int] | None:
        """Videos of the split that carry each class, when preprocess counted them."""
        counts = self.info.get("statistics", {}).get("class_counts", {})
        return counts.get(split) if isinstance(counts, Mapping) else None


def open_transformed(directory: str) -> TransformedData:
    """Reads the description of a transformed dataset.

    Raises:
        UsageError: it is a model, scores, records or a part of a dataset.
        JobError: there is no `info.json` (preprocess did not finish), or it does not describe a transformed dataset.
    """
    refuse_other_kind(directory, DATASET)
    path = storage.join(directory, "info.json")
    if not storage.exists(path):
        reason = "it has no info.json, which preprocess writes last" if storage.exists(directory) else "it is not there"
        raise JobError(
            f"{directory} is not a finished transformed dataset: {reason}; run python -m pipelines.preprocess first"
        )
    info = read_state(path, DatasetInfo)
    try:
        try:
            modalities = tuple(modality_from_dict(entry) for entry in info["transformed"])
        except UsageError as error:
            raise JobError(f"{path}: {error}") from None
        if not 1 <= info["class_count"] <= MOST_CLASSES:
            raise JobError(f"{path}: class_count must lie between 1 and {MOST_CLASSES:,}, got {info['class_count']}")
        records = {split: int(entry["records"]) for split, entry in info["splits"].items()}
        return TransformedData(
            directory, schema_from_dict(info["schema"], path), modalities, int(info["class_count"]), records, info
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JobError(
            f"{path} does not describe a transformed dataset ({type(error).__name__}: {error}); "
            "is it the directory that pipelines.preprocess wrote?"
        ) from None
