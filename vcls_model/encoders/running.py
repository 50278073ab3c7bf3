"""Which executor a network runs on."""

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from vcls_model.encoders.network import Network
from vcls_model.encoders.onnx_network import OnnxNetwork, onnx_model

Device = Literal["cpu", "gpu"]


class ReadyNetwork(Protocol):
    """A network that can be run."""

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features (N, width) of inputs (N, C, H, W); the same input gives the same bits in any batch."""


def ready_network(build: Callable[[], Network], device: Device, threads: int = 1) -> ReadyNetwork:
    """A network on a device.

    Args:
        build: makes the network, whose arrays are not held beside the copies that a runtime makes of them.
        device: where.
        threads: of one input, on the CPU.

    Raises:
        JobError: `gpu`, and TensorFlow sees none.
    """
    if device == "cpu":
        return OnnxNetwork(onnx_model(build()), threads)
    from vcls_model.encoders.keras_network import KerasNetwork, require_gpu

    require_gpu()
    return KerasNetwork(build())
