"""What a worker must know to score a shard."""

import dataclasses
from typing import TYPE_CHECKING, Any

from vcls_model.records.schema import RecordSchema
from vcls_model.records.split_ids import GivenSplits
from vcls_model.records.splits import SplitRatios

if TYPE_CHECKING:
    from vcls_model.embedding import EmbeddingConfig

VIDEO_BATCH_RECORDS = 1024
FRAME_BATCH_RECORDS = 64
PREDICTION_FORMATS = ("parquet", "kaggle_csv")
FULL_LOGITS = ("none", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """Everything that the scores of a shard depend on, apart from the shard.

    Attributes:
        output: the scores directory.
        model_paths: directories of the models whose probabilities are averaged.
        model_identities: which models these are, whatever their directories are called.
        schema: how the records are read, `class_count` included.
        split: keep only ids of this split, or None for all.
        splits: how the ids of the model's dataset were split, or None where that is not known.
        top_k: number of classes kept in the predictions.
        threshold: probability from which a class counts as predicted.
        class_thresholds: a second threshold per class; None without.
        form: format of the predictions, `parquet` or `kaggle_csv`.
        full_logits: `none`, `float16` or `float32`.
        batch_size: records that are decoded and scored together, at most.
        max_frames: frames kept per video, at most.
        missing_modality: `mask`, `reject` or `fill`.
        without: modalities that count as missing in every record.
        subsets: modalities that are kept in further measurements, each a subset of all; none unless asked for.
        run_id: the run that asked for it: a label in the manifests, on which no score depends.
        thresholds_given: `class_thresholds` are not the model's own.
        min_probability: classes below are left out of the predictions (metrics count all).
        slice_by: context features of the records, by whose values metrics are broken down.
        media: how files become features, where the input is media files.
        media_texts: by path of a media file the texts that --texts gives for it, by column.
        class_names: of the model's classes, by which a CSV may call its labels.
    """

    output: str
    model_paths: tuple[str, ...]
    model_identities: tuple[str, ...]
    schema: RecordSchema
    split: str | None
    splits: "SplitRatios | GivenSplits | None"
    top_k: int
    threshold: float
    class_thresholds: tuple[float, ...] | None
    form: str
    full_logits: str
    batch_size: int
    max_frames: int = 300
    missing_modality: str = "reject"
    run_id: str = ""
    thresholds_given: bool = False
    min_probability: float = 0
    slice_by: tuple[str, ...] = ()
    media: "EmbeddingConfig | None" = None
    media_texts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    without: tuple[str, ...] = ()
    subsets: tuple[tuple[str, ...], ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def class_count(self) -> int:
        """Number of classes C."""
        assert self.schema.class_count is not None
        return self.schema.class_count

    def _split_settings(self) -> list[float | str]:
        assert self.splits is not None
        if isinstance(self.splits, SplitRatios):
            return list(dataclasses.astuple(self.splits))
        return [self.splits.digest]

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two runs to add to the same scores directory, JSON-able."""
        return {
            "models": list(self.model_identities),
            "schema": self.schema.settings(),
            "split": self.split,
            "ratios": self._split_settings() if self.split else None,
            "top_k": self.top_k,
            "threshold": self.threshold,
            # The model's own follow from the model.
            "class_thresholds": list(self.class_thresholds or ()) if self.thresholds_given else None,
            "min_probability": self.min_probability or None,
            "slice_by": list(self.slice_by) or None,
            "format": self.form,
            "full_logits": self.full_logits,
            "batch_size": self.batch_size,
            "max_frames": self.max_frames,
            "missing_modality": self.missing_modality,
            "without": list(self.without) or None,
            "modalities": bool(self.subsets) or None,
        }
