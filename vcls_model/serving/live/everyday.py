"""A model without training for streams: the classifiers that came with the encoders' weights.

ImageNet's 1,000 classes of what is seen and AudioSet's 521 of what is heard. A window's probability of a class is the
mean over its rows, so a stream keeps the probabilities of a row and not its features. Needs no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model.commands import UsageError
from vcls_model.embedding import EmbeddingConfig, load_planned_encoder
from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER, Encoder, PretrainedHead
from vcls_model.encoders.encoder import Modality as Medium
from vcls_model.records.schema import VECTOR, Modality, RecordSchema
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.combining import LARGEST_LOGIT
from vcls_model.serving.live.models import Moment
from vcls_model.serving.live.stream import Features

# By medium: the modality, and the mean probability from which a class counts. Those of a picture add to 1 over 1,000
# classes, of which many are breeds and parts of one thing, so that a sure classifier spreads over several.
_SEEN_OR_HEARD: Mapping[Medium, tuple[str, float]] = {"picture": ("seen", 0.2), "sound": ("heard", 0.3)}
_LEAST = 1e-35  # a probability below this has no logit in float32


@dataclasses.dataclass(frozen=True)
class EverydayModel:
    """What a `LiveModel` is, of two encoders' own classifiers."""

    name: str
    identity: str
    classes: tuple[ClassInfo, ...]
    modalities: tuple[Modality, ...]
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
        media = EmbeddingConfig.of(
            image_encoder or DEFAULT_IMAGE_ENCODER,
            audio_encoder or DEFAULT_AUDIO_ENCODER,
            seconds_per_minute=seconds_per_minute,
            memory_bytes=memory_bytes,
        )
        encoders = {medium: load_planned_encoder(place, info) for medium, place, info in media.encoders}
        heads = {medium: _head(encoder) for medium, encoder in encoders.items()}
        modalities = tuple(
            Modality(_SEEN_OR_HEARD[medium][0], len(head.classes), VECTOR, "float32") for medium, head in heads.items()
        )
        identity = " ".join(encoder.info.weights_sha256[:16] for encoder in encoders.values())
        return cls(name or "everyday", identity, _classes(heads), modalities, media, encoders)

    def thresholds(self, default: float) -> np.ndarray:
        """One for what is seen, one for what is heard: `default` fits neither."""
        values = [
            np.full(len(_head(self.encoders[medium]).classes), _SEEN_OR_HEARD[medium][1]) for medium in self.encoders
        ]
        return np.concatenate(values)

    def row(self, moment: Moment) -> dict[str, np.ndarray | None]:
        """Probabilities float32 (C of the medium,) by modality."""
        row: dict[str, np.ndarray | None] = {}
        for medium, encoder in self.encoders.items():
            content = moment.get(medium)
            if content is not None:
                features = encoder.encode(content[np.newaxis, : encoder.info.input.row_shape[0]])
                row[_SEEN_OR_HEARD[medium][0]] = _probabilities(_head(encoder), features)[0]
        return row

    def logits(self, videos: Sequence[Features]) -> np.ndarray:
        """Of the mean probabilities."""
        joined = np.stack([np.concatenate([video[each.name] for each in self.modalities]) for video in videos])
        probabilities = np.clip(joined.astype(np.float64), _LEAST, 1 - 1e-9)
        logits = np.log(probabilities) - np.log1p(-probabilities)
        return np.maximum(logits, -LARGEST_LOGIT).astype(np.float32)


def _head(encoder: Encoder) -> PretrainedHead:
    if encoder.head is None:
        raise UsageError(
            f"the encoder {encoder.info.name} came without a classifier: give a model of your own by --model"
        )
    return encoder.head


def _probabilities(head: PretrainedHead, features: np.ndarray) -> np.ndarray:
    """(N, C) of features (N, width): those of a picture add to 1, those of a sound do not."""
    logits = head.logits(features).astype(np.float64)
    if head.activation == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _classes(heads: Mapping[Medium, PretrainedHead]) -> tuple[ClassInfo, ...]:
    """All classes, one list after the other; a sound that is called as a thing is gets `(sound)` behind its name."""
    things = {name.casefold() for name in heads["picture"].classes}
    classes: list[ClassInfo] = []
    for medium, head in heads.items():
        for name in head.classes:
            shown = f"{name} (sound)" if medium == "sound" and name.casefold() in things else name
            classes.append(ClassInfo(len(classes), shown, (_SEEN_OR_HEARD[medium][0],)))
    return tuple(classes)
