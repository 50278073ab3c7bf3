"""What an encoder is: its identity, which records and models carry, and its computation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError
from vcls_model.encoders.codes import Range, Rounding, quantise
from vcls_model.encoders.pictures import PictureInput
from vcls_model.storage import from_json, to_json

# What media hold, and what encoders take.
Medium = Literal["picture", "sound"]
Modality = Literal[Medium, "text"]


@dataclasses.dataclass(frozen=True)
class TextInput:
    """A text.

    Attributes:
        tokens: word pieces that are read of it, at most.
    """

    tokens: int = 256

    def check(self, batch: npt.NDArray[Any]) -> None:
        """Raises `ValueError` unless a batch is texts: objects (N,) of type str."""
        if batch.ndim != 1 or not all(isinstance(text, str) for text in batch.tolist()):
            raise ValueError(f"expected texts (N,), got {batch.dtype} {batch.shape}")


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """The identity of an encoder: two of the same identity make the same feature space.

    Attributes:
        name: as `--image_encoder`, `--audio_encoder` and `--text_encoder` take it.
        version: changes whenever the codes change though the weights do not.
        input: what a row is made from: a `PictureInput`, `SoundInput` or `TextInput`.
        width: values per row.
        value_range: (lo, hi) that the codes cover.
        rounding: the convention of the codes.
        weights_sha256: of the file that holds the weights.
        licence: of the weights.
    """

    name: str
    version: str
    input: Any
    width: int
    value_range: Range
    weights_sha256: str
    licence: str
    rounding: Rounding = "midpoint"

    @property
    def modality(self) -> Modality:
        if isinstance(self.input, TextInput):
            return "text"
        return "picture" if isinstance(self.input, PictureInput) else "sound"

    def as_json(self) -> dict[str, Any]:
        """For `schema.json` and a model's `info.json`."""
        return {
            "name": self.name,
            "version": self.version,
            "weights_sha256": self.weights_sha256,
            "width": self.width,
            "range": list(self.value_range),
            "rounding": self.rounding,
            "input": from_json(to_json(dataclasses.asdict(self.input)), "an input"),
            "licence": self.licence,
        }

    def check_same(self, recorded: Mapping[str, Any], origin: str) -> None:
        """Raises `JobError`, naming both, unless records were made by this encoder.

        Args:
            recorded: what `as_json` once wrote.
            origin: where it stands, for the message.
        """
        check_same_identity(recorded, origin, self.as_json(), self.modality)


def check_same_identity(
    recorded: Mapping[str, Any], origin: str, own: Mapping[str, Any], modality: str, owner: str = ""
) -> None:
    """Raises `JobError`, naming both, unless two encoders are the same.

    Args:
        recorded, own: what `EncoderInfo.as_json` wrote.
        origin: where `recorded` stands, for the message.
        modality: `picture`, `sound`, or a feature's name.
        owner: what `own` belongs to, where that is not the command line.
    """
    for key in ("name", "version", "weights_sha256", "width", "range", "rounding", "input"):
        if recorded.get(key) != own.get(key):
            raise JobError(
                f"{origin} was made by the {modality} encoder {_printed(recorded)}, not by {_printed(own)}"
                f"{f', that of {owner}' if owner else ''}: their {key} differ"
            )


def _printed(identity: Mapping[str, Any]) -> str:
    weights = str(identity.get("weights_sha256"))[:12]
    return f"{identity.get('name')!r} (version {identity.get('version')}, weights {weights})"


@dataclasses.dataclass(frozen=True)
class PretrainedHead:
    """A classifier on an encoder's features, as its authors trained it.

    Attributes:
        name: of the class list, `imagenet` or `audioset`.
        encoder: name of the encoder whose features it takes.
        weights: (width, C) float32.
        bias: (C,) float32.
        classes: C names, all different.
        activation: `softmax` where one class is true of an input, `sigmoid` where any number is.
    """

    name: str
    encoder: str
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]

    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (N, C) of features (N, width)."""
        return features @ self.weights + self.bias


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder with its weights loaded.

    Attributes:
        info: its identity.
        run: features (N, width) of checked inputs (N, …), each row computed for itself.
        head: the classifier that came with the weights, if one did.
    """

    info: EncoderInfo
    run: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
    head: PretrainedHead | None = None

    def encode(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of prepared inputs. The same input gives the same bits whatever else is in the batch.

        Args:
            batch: pictures (N, size, size, 3) uint8 RGB as `info.input.prepare` makes them, or sound patches
                (N, samples) float32 as `info.input.patches` makes them, or texts (N,), objects of type str. N may be 0.

        Returns:
            (N, width) float32, before quantisation.

        Raises:
            ValueError: another shape or type, or sound that is not finite.
        """
        self.info.input.check(batch)
        return self.run(batch) if len(batch) else np.empty((0, self.info.width), np.float32)

    def encode_codes(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Codes (N, width) uint8 of prepared inputs: a record's bytes."""
        return quantise(self.encode(batch), self.info.value_range, self.info.rounding)
