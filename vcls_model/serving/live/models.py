"""What the service needs of a model: its classes, what a moment of media becomes for it, and its logits."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.embedding import EmbeddingConfig
from vcls_model.encoders import Encoder
from vcls_model.encoders.encoder import Medium
from vcls_model.encoders.gathering import load_planned_encoder
from vcls_model.media.sandbox import MIB
from vcls_model.recorded_media import recorded_config
from vcls_model.records.schema import Modality, RecordSchema
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.exported import ExportedModel, LoadedModel, read_exported_model
from vcls_model.serving.live.stream import Features, batch_features, of_like_length

# A picture (size, size, 3) uint8 or a patch of sound (samples,) float32, by medium.
Moment = Mapping[Medium, np.ndarray | None]


class LiveModel(Protocol):
    """A model as streams and requests see it."""

    @property
    def name(self) -> str:
        """In addresses."""

    @property
    def identity(self) -> str:
        """Tells it from another of its name."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """By index."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What a stream's rows are made of, see `FrameRing`."""

    @property
    def schema(self) -> RecordSchema | None:
        """Of the records that requests may hold; None where it takes only media."""

    @property
    def masks(self) -> bool:
        """Whether it bears that a video lacks a modality."""

    @property
    def media(self) -> EmbeddingConfig | None:
        """How media become rows; None where its records were not made from media."""

    def thresholds(self, default: float) -> np.ndarray:
        """float64 (C,): the probability from which each class counts, `default` where the model chose none."""

    def row(self, moment: Moment) -> dict[str, np.ndarray | None]:
        """One row of a stream, by modality; may be called by several threads at once."""

    def logits(self, videos: Sequence[Features]) -> np.ndarray:
        """float32 (N, C) of N videos, N at least 1."""


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """An exported model, loaded, with the encoders of its records."""

    name: str
    identity: str
    classes: tuple[ClassInfo, ...]
    schema: RecordSchema
    media: EmbeddingConfig | None
    exported: ExportedModel
    loaded: LoadedModel
    encoders: Mapping[Medium, Encoder]

    @classmethod
    def load(
        cls,
        directory: str,
        name: str | None = None,
        *,
        image_encoder: str | None = None,
        audio_encoder: str | None = None,
        seconds_per_minute: float = 60.0,
        memory_bytes: int = 1024 * MIB,
    ) -> "ServedModel":
        """Loads a model directory.

        Args:
            directory: local or on an object store.
            name: in addresses; by default that of the directory.
            image_encoder, audio_encoder: paths of encoders that are not known by name.
            seconds_per_minute, memory_bytes: what a media file may cost, see `MediaReader`.

        Raises:
            UsageError: it is not an exported model, or its encoders are not those named.
            JobError: an encoder is not installed.
        """
        exported = read_exported_model(directory)
        media = None
        if exported.schema.encoders:
            media = recorded_config(
                exported.schema,
                exported.path,
                image_encoder,
                audio_encoder,
                seconds_per_minute=seconds_per_minute,
                memory_bytes=memory_bytes,
            )
        elif image_encoder or audio_encoder:
            raise UsageError(f"{directory} takes records that no encoder of this project made: leave encoders out")
        with ThreadPoolExecutor(1) as other:  # half of either's time is spent without the interpreter's lock
            loading = other.submit(_load_encoders, media)
            loaded = LoadedModel(directory, exported.class_count)
            encoders = loading.result()
        return cls(
            name or _last_name(directory),
            exported.identity,
            exported.classes,
            exported.schema,
            media,
            exported,
            loaded,
            encoders,
        )

    @property
    def masks(self) -> bool:
        """As its `info.json` says."""
        return self.exported.presence

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What its records hold."""
        return self.schema.modalities

    def thresholds(self, default: float) -> np.ndarray:
        """The thresholds with the best F1 on validation, as training chose them."""
        chosen = self.exported.class_thresholds()
        return np.full(len(self.classes), default) if chosen is None else np.array(chosen, np.float64)

    def row(self, moment: Moment) -> dict[str, np.ndarray | None]:
        """Codes uint8 (D,), or values float32 (D,) for a model of video-level records."""
        assert self.media is not None
        row: dict[str, np.ndarray | None] = {}
        for medium, encoder in self.encoders.items():
            content = moment.get(medium)
            if content is None:
                continue
            batch = content[np.newaxis]
            if medium == "sound":
                batch = batch[:, : encoder.info.input.row_shape[0]]
            encode = encoder.encode_codes if self.media.level == "frame" else encoder.encode
            row[self.media.name_of(medium)] = encode(batch)[0]
        return row

    def logits(self, videos: Sequence[Features]) -> np.ndarray:
        """By the signature that batch scoring calls; short and long windows in calls of their own."""
        parts = of_like_length(videos, self.modalities)
        logits = np.empty((len(videos), len(self.classes)), np.float32)
        for rows in parts:
            logits[rows] = self.loaded.logits(batch_features([videos[row] for row in rows], self.modalities))
        return logits


def _load_encoders(media: EmbeddingConfig | None) -> dict[Medium, Encoder]:
    return live_encoders(media) if media else {}


def live_encoders(media: EmbeddingConfig) -> dict[Medium, Encoder]:
    """The encoders of a configuration, that of pictures on two threads where there are two cores: a frame waits for it.

    Raises:
        JobError: one is not installed.
    """
    threads = {"picture": min(2, len(os.sched_getaffinity(0)))}
    return {
        medium: load_planned_encoder(place, info, threads=threads.get(medium, 1))
        for medium, place, info in media.encoders
    }


def _last_name(directory: str) -> str:
    """The last part of a path as a name of addresses."""
    last = storage.absolute(directory).rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in last) or "model"
