"""Labels without training: the classifiers that came with the encoders' weights, on the rows of a video.

    everyday = Everyday.load()
    per_second = everyday.probabilities("picture", rows)  # (N, 1000) of features (N, 1280)
    for label in everyday.labels(everyday.over_time({"picture": per_second})):
        print(label.name, label.probability)

The classes are ImageNet's 1,000, of what pictures show, and after them AudioSet's 521, of what is heard. A video's
probability of a class is the mean over its seconds, as YAMNet's authors take it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from vcls_model.encoders import DEFAULT_AUDIO_ENCODER, DEFAULT_IMAGE_ENCODER, PretrainedHead, heads
from vcls_model.records.vocabulary import ClassInfo

Medium = Literal["picture", "sound"]
Probabilities = npt.NDArray[np.float32]
# What the columns of a vocabulary and of tables call the two lists of classes.
SEEN_OR_HEARD: dict[Medium, str] = {"picture": "seen", "sound": "heard"}


@dataclasses.dataclass(frozen=True)
class Label:
    """A class that a video, or a second of it, was given.

    Attributes:
        index: of the class, from 0 to 1,520.
        name: of the class.
        medium: `picture` or `sound`.
        probability: in [0, 1].
    """

    index: int
    name: str
    medium: Medium
    probability: float


@dataclasses.dataclass(frozen=True)
class Everyday:
    """Two classifiers, side by side.

    Attributes:
        heads: by medium the classifier.
        classes: names and origins (the first vertical: `seen` or `heard`) of all classes, by index.
    """

    heads: Mapping[Medium, PretrainedHead]
    classes: tuple[ClassInfo, ...]

    @classmethod
    def load(cls, image_encoder: str = DEFAULT_IMAGE_ENCODER, audio_encoder: str = DEFAULT_AUDIO_ENCODER) -> "Everyday":
        """The classifiers of two encoders.

        Raises:
            UsageError: an encoder without a classifier.
            JobError: the weights are not installed, or damaged; names the command that installs them.
        """
        return cls.of(dict(zip(SEEN_OR_HEARD, heads(image_encoder, audio_encoder), strict=True)))

    @classmethod
    def of(cls, heads: Mapping[Medium, PretrainedHead]) -> "Everyday":
        """The classifiers of pictures and of sound, side by side."""
        return cls(heads, _joined_classes(heads["picture"], heads["sound"]))

    def first_index(self, medium: Medium) -> int:
        """Index of the first class of a medium."""
        return 0 if medium == "picture" else len(self.heads["picture"].classes)

    def probabilities(self, medium: Medium, rows: npt.NDArray[np.float32]) -> Probabilities:
        """Probabilities (N, C of the medium) of features (N, width), each row by itself.

        Those of a picture add to 1; those of a sound do not, because any number of sounds is heard at once.
        """
        head = self.heads[medium]
        logits = head.logits(rows).astype(np.float64)
        if head.activation == "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return (1 / (1 + np.exp(-logits))).astype(np.float32)

    def over_time(self, by_second: Mapping[Medium, Probabilities]) -> dict[Medium, Probabilities]:
        """Mean (C,) over the rows (N, C) of each medium; a medium without rows is left out."""
        return {medium: rows.mean(axis=0) for medium, rows in by_second.items() if len(rows)}

    def labels(self, probabilities: Mapping[Medium, Probabilities], top: int = 5) -> list[Label]:
        """The `top` most probable classes of each medium, the most probable first, pictures before sounds.

        Args:
            probabilities: by medium (C,), of a video or of one second.
            top: labels per medium.
        """
        return [
            label
            for medium in self.heads
            if medium in probabilities
            for label in self._best(medium, probabilities, top)
        ]

    def _best(self, medium: Medium, probabilities: Mapping[Medium, Probabilities], top: int) -> Iterator[Label]:
        values, first = probabilities[medium], self.first_index(medium)
        for place in np.argsort(-values, kind="stable")[:top]:
            index = first + int(place)
            yield Label(index, self.classes[index].name, medium, float(values[place]))


def _joined_classes(of_pictures: PretrainedHead, of_sounds: PretrainedHead) -> tuple[ClassInfo, ...]:
    """Both lists, one after the other; a sound that is called as a thing is gets `(sound)` behind its name."""
    things = {name.casefold() for name in of_pictures.classes}
    names = [(name, "picture") for name in of_pictures.classes]
    names += [(f"{name} (sound)" if name.casefold() in things else name, "sound") for name in of_sounds.classes]
    return tuple(
        ClassInfo(index, name, (SEEN_OR_HEARD["picture" if medium == "picture" else "sound"],))
        for index, (name, medium) in enumerate(names)
    )
