"""What a preprocess job is asked to do."""

import dataclasses
import functools
import hashlib
from typing import Any

from vcls_model import storage
from vcls_model.records.schema import (
    FRAMES,
    LINE_TOKENS,
    REQUANTISE_OFFSET,
    REQUANTISE_SCALE,
    TEXT,
    TOKENS,
    VECTOR,
    Modality,
    RecordSchema,
)
from vcls_model.records.splits import SPLITS, SplitRatios
from vcls_model.records.text_options import TextOptions
from vcls_model.records.transformed import TransformedModality
from vcls_model.records.vocabulary import ClassInfo

MISSING_MODALITY = ("mask", "reject", "fill")
NORMALISATIONS = ("zscore", "minmax", "l2", "none")
POOLS = ("mean", "std", "top5")
# Raised when the bytes that a given configuration writes change, so that --resume does not mix old and new shards.
FORMAT_VERSION = 2
_PCA_FORMAT_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Shard:
    """One input file.

    Attributes:
        index, count: its place among the inputs of its split, for the names of the files written.
        path: of the file.
        size_bytes, modified_seconds: of the file when the job began; a changed file is processed again.
        split: index into `SPLITS` where each input belongs to one split, else None: the ids decide.
    """

    index: int
    count: int
    path: str
    size_bytes: int
    modified_seconds: float
    split: int | None = None

    @property
    def name(self) -> str:
        """`00012-of-00100`, with the split in front when inputs are given one each."""
        number = f"{self.index:05d}-of-{self.count:05d}"
        return number if self.split is None else f"{SPLITS[self.split]}-{number}"

    @property
    def splits(self) -> tuple[int, ...]:
        """The splits that its records may belong to."""
        return tuple(range(len(SPLITS))) if self.split is None else (self.split,)

    def output(self, split: int) -> str:
        """Path, below the output directory, of what is written for `split`."""
        return f"{SPLITS[split]}/{SPLITS[split]}-{self.index:05d}-of-{self.count:05d}.tfrecord"


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """Everything that the bytes of the output depend on, apart from the input. Small and picklable.

    Attributes:
        schema: layout of the input records.
        class_count: labels must be below.
        ratios: of the splits, or None when inputs are given one each.
        normalise: one of `NORMALISATIONS`.
        pca_dims: keep this many whitened principal components of each modality (at most its width); 0: no PCA.
        pool_frames: add mean, standard deviation and top-5 mean over the frames as video-level features.
        max_frames: most frames kept per video.
        missing_modality: one of `MISSING_MODALITY`.
        allow_unlabelled: keep records without labels.
        text: how texts become bags; None where the records hold none.
        class_names: of the vocabulary, by which a CSV may call its labels. Not a setting: a CSV of indices gives the
            same records whatever the names are.
    """

    schema: RecordSchema
    class_count: int
    ratios: SplitRatios | None = SplitRatios()
    normalise: str = "zscore"
    pca_dims: int = 0
    pool_frames: bool = False
    max_frames: int = 300
    missing_modality: str = "reject"
    allow_unlabelled: bool = False
    text: TextOptions | None = None
    class_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description."""
        settings = {**dataclasses.asdict(self), "schema": self.schema.settings()}
        if self.text is None:
            del settings["text"]  # as in the first manifests
        del settings["class_names"]
        return settings

    @functools.cached_property
    def hash(self) -> str:
        """Identifies the configuration: outputs made with another one are not reused."""
        settings = {"format": _PCA_FORMAT_VERSION if self.pca_dims else FORMAT_VERSION, **self.to_dict()}
        if columns := [modality.columns for modality in self.schema.modalities if modality.columns]:
            settings["columns"] = columns  # what was read in another order of columns is read again
        text = storage.to_json(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def width_of(self, modality: Modality) -> int:
        """Width of the modality once transformed."""
        return min(self.pca_dims, modality.width) if self.pca_dims else modality.width

    @property
    def is_affine(self) -> bool:
        """Whether each transformed value depends on one raw value alone: then shards need no TensorFlow."""
        affine = not self.pca_dims and not self.pool_frames and self.normalise != "l2"
        return affine or len(self.schema.texts) == len(self.schema.modalities)

    @property
    def text_options(self) -> TextOptions:
        """`text`, of records that hold texts."""
        assert self.text is not None
        return self.text

    def code_range(self, modality: Modality) -> tuple[float, float]:
        """(scale, offset) of the codes that a frame-level modality is written in.

        z-scores and whitened components are clipped to +-4; min-max values fill [0, 1]; unnormalised codes stay what
        they are; the D components of a vector of length 1 are clipped to +-8/sqrt(D), their spread being 1/sqrt(D).
        """
        if self.normalise == "l2":
            limit = 8.0 / self.width_of(modality) ** 0.5
            return 2 * limit / 255, -limit
        if self.pca_dims or self.normalise == "zscore":
            return REQUANTISE_SCALE, REQUANTISE_OFFSET
        if self.normalise == "minmax":
            return 1 / 255, 0.0
        scale, offset = modality.quantisation  # of float32 frames by their range, see `planning.plan`
        return scale, offset

    def transformed(self) -> list[TransformedModality]:
        """The features of a transformed record, other than `id`, `labels` and `num_frames`."""
        features = []
        for modality in self.schema.modalities:
            if modality.kind == TEXT:
                encoding = LINE_TOKENS if modality.timed else TOKENS
                features.append(TransformedModality(modality.name, self.text_options.buckets, TEXT, encoding))
                continue
            width = self.width_of(modality)
            if modality.kind == FRAMES:
                features.append(
                    TransformedModality(modality.name, width, modality.kind, "uint8", *self.code_range(modality))
                )
            else:
                features.append(TransformedModality(modality.name, width, modality.kind, "float32"))
        if self.pool_frames:
            features += [
                TransformedModality(f"{modality.name}_{pool}", self.width_of(modality), VECTOR, "float32")
                for modality in self.schema.modalities
                if modality.kind == FRAMES
                for pool in POOLS
            ]
        return features

    def made_of(self, name: str) -> list[str]:
        """The transformed features that a record without the raw modality `name` lacks."""
        (modality,) = (each for each in self.schema.modalities if each.name == name)
        pooled = POOLS if self.pool_frames and modality.kind == FRAMES else ()
        return [name, *(f"{name}_{pool}" for pool in pooled)]


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """A job as the command line describes it.

    Attributes:
        output: directory to write to; absolute, or an object store's address.
        shards: the input files.
        transform: what is done with their records.
        vocabulary: path of the CSV that lists the classes, or None.
        max_rejected_fraction: in [0, 1], of the records read; more rejected ones fail the job.
        flags: the command line, for `info.json` and the data card.
        resume: continue an interrupted job in `output`.
        overwrite: delete what is in `output`.
        classes: by index; C of them.
    """

    output: str
    shards: tuple[Shard, ...]
    transform: TransformConfig
    vocabulary: str | None
    max_rejected_fraction: float
    flags: dict[str, Any]
    resume: bool = False
    overwrite: bool = False
    classes: tuple[ClassInfo, ...] = ()
