"""Which executor a network runs on."""

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from vcls_model.encoders.network import Network
from vcls_model.encoders.onnx_network import OnnxNetwork

Device = Literal["cpu", "gpu"]


class ReadyNetwork(Protocol):
    """A network that can be run."""

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features (N, width) of inputs (N, C, H, W); the same input gives the same bits in any batch."""


def ready_network(network: Network, device: Device, threads: int = 1) -> ReadyNetwork:
    """A network on a device.

    Args:
        network: what to run.
        device: where.
        threads: of one input, on the CPU.

    Raises:
        JobError: `gpu`, and TensorFlow sees none.
    """
    if device == "cpu":
        return OnnxNetwork(network, threads)
    from vcls_model.encoders.keras_network import KerasNetwork, require_gpu

    require_gpu()
    return KerasNetwork(network)
