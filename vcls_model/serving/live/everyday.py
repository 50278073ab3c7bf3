"""The everyday classes for streams: `Everyday` on the rows of a stream, each with its own encoder.

A window's probability of a class is the mean over its rows, so a stream keeps the probabilities of a row and not its
features. Needs no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model.commands import UsageError
from vcls_model.embedding import EmbeddingConfig
from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER, Encoder, dequantise
from vcls_model.records.schema import VECTOR, Modality, RecordSchema
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.combining import LARGEST_LOGIT
from vcls_model.serving.everyday import SEEN_OR_HEARD, Everyday, Medium
from vcls_model.serving.live.models import Moment, live_encoders
from vcls_model.serving.live.stream import Features

# The mean probability from which a class counts. Those of a picture add to 1 over 1,000 classes, of which many are
# breeds and parts of one thing, so that a sure classifier spreads over several.
_THRESHOLDS: Mapping[Medium, float] = {"picture": 0.2, "sound": 0.3}
_LEAST = 1e-35  # a probability below this has no logit in float32


@dataclasses.dataclass(frozen=True)
class EverydayModel:
    """What a `LiveModel` is, of two encoders' own classifiers."""

    name: str
    identity: str
    everyday: Everyday
    media: EmbeddingConfig
    encoders: Mapping[Medium, Encoder]
    schema: RecordSchema | None = None

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        image_encoder: str | None = None,
        audio_encoder: str | None = None,
        seconds_per_minute: float = 60.0,
        memory_bytes: int = 1 << 30,
    ) -> "EverydayModel":
        """Loads encoders with their classifiers.

        Args:
            name: in addresses, `everyday` by default.
            image_encoder, audio_encoder: names, by default those of records made from media.
            seconds_per_minute, memory_bytes: what a media file may cost, see `MediaReader`.

        Raises:
            UsageError: an encoder came without a classifier.
            JobError: an encoder is not installed.
        """
        names = image_encoder or DEFAULT_IMAGE_ENCODER, audio_encoder or DEFAULT_AUDIO_ENCODER
        media = EmbeddingConfig.of(*names, seconds_per_minute=seconds_per_minute, memory_bytes=memory_bytes)
        return cls.of(media, name)

    @classmethod
    def of(cls, media: EmbeddingConfig, name: str | None = None) -> "EverydayModel":
        """The classifiers that came with the two encoders of a configuration; raises as `load`."""
        encoders = live_encoders(media)
        heads = {medium: encoder.head for medium, encoder in encoders.items() if encoder.head is not None}
        if missing := [medium for medium in encoders if medium not in heads]:
            raise UsageError(f"the {missing[0]} encoder {encoders[missing[0]].info.name} came without a classifier")
        identity = " ".join(encoder.info.weights_sha256[:16] for encoder in encoders.values())
        return cls(name or "everyday", identity, Everyday.of(heads), media, encoders)

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """What is seen, then what is heard."""
        return self.everyday.classes

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The probabilities of each medium's classes."""
        return tuple(
            Modality(SEEN_OR_HEARD[medium], len(head.classes), VECTOR, "float32")
            for medium, head in self.everyday.heads.items()
        )

    @property
    def masks(self) -> bool:
        """No: what nobody saw or heard is unlikely."""
        return False

    def thresholds(self, default: float) -> np.ndarray:
        """One for what is seen, one for what is heard: `default` fits neither."""
        values = [np.full(len(head.classes), _THRESHOLDS[medium]) for medium, head in self.everyday.heads.items()]
        return np.concatenate(values)

    def row(self, moment: Moment) -> dict[str, np.ndarray | None]:
        """Probabilities float32 (C of the medium,) by modality."""
        row: dict[str, np.ndarray | None] = {}
        for medium, encoder in self.encoders.items():
            content = moment.get(medium)
            if content is not None:
                info = encoder.info
                codes = encoder.encode_codes(content[np.newaxis, : info.input.row_shape[0]])
                features = dequantise(codes, info.value_range, info.rounding)  # what a record of it would hold
                row[SEEN_OR_HEARD[medium]] = self.everyday.probabilities(medium, features)[0]
        return row

    def logits(self, videos: Sequence[Features]) -> np.ndarray:
        """Of the mean probabilities."""
        joined = np.stack([np.concatenate([video[each.name] for each in self.modalities]) for video in videos])
        probabilities = np.clip(joined.astype(np.float64), _LEAST, 1 - 1e-9)
        logits = np.log(probabilities) - np.log1p(-probabilities)
        return np.maximum(logits, -LARGEST_LOGIT).astype(np.float32)
