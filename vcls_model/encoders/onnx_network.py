"""Runs networks with ONNX Runtime, one input at a time: the same bits in any batch, any worker, on any threads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vcls_model.encoders.network import Convolution, Network, same_padding
from vcls_model.encoders.onnx_format import Graph

if TYPE_CHECKING:
    import onnxruntime


def open_session(model: bytes | Path, threads: int = 1, *, arena: bool = True) -> "onnxruntime.InferenceSession":
    """A session on the CPU.

    Args:
        model: serialized, or the path of its file.
        threads: of one input. A network of convolutions alone has the same bits on more than one, which share out the
            rows of a product and not its sums; of a model of the user's own nobody knows, and workers are processes
            anyway.
        arena: memory is kept from one input to the next.

    Raises:
        Exception: whatever ONNX Runtime says of a model that it cannot load.
    """
    # It reports its use to its makers, and warns in colours where it cannot keep an identifier for that.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it took as long again, of other work
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnx_model(network: Network, batch: int = 1) -> bytes:
    """A serialized ONNX model of a network: `input` (N, C, H, W) float32 to `features` (N, width) float32."""
    graph = Graph()
    name = "input"
    if network.mean:
        name = graph.node("Sub", name, graph.constant(network.mean))
    if network.scale != 1:
        name = graph.node("Mul", name, graph.constant(1 / network.scale))
    sizes = (network.height, network.width)
    outputs: list[str] = []
    for step in network.steps:
        name, sizes = _add_convolution(graph, name, sizes, step)
        if step.added_step is not None:
            name = graph.node("Add", name, outputs[step.added_step])
        outputs.append(name)
    graph.node("Flatten", graph.node("GlobalAveragePool", name), output="features", axis=1)
    return graph.model(
        {"input": (batch, network.channels, network.height, network.width)},
        {"features": (batch, len(network.steps[-1].bias))},
    )


def _add_convolution(graph: Graph, name: str, sizes: tuple[int, int], step: Convolution) -> tuple[str, tuple[int, int]]:
    """Adds one step to a graph; returns its output's name, height and width."""
    windows = step.kernel.shape[2:]
    (top, bottom, height), (left, right, width) = (
        same_padding(size, window, step.stride) for size, window in zip(sizes, windows, strict=True)
    )
    name = graph.node(
        *("Conv", name, graph.constant(step.kernel), graph.constant(step.bias)),
        kernel_shape=windows,
        strides=[step.stride] * 2,
        group=step.groups,
        pads=[top, left, bottom, right],
    )
    if step.activation == "relu":
        name = graph.node("Relu", name)
    elif step.activation == "relu6":
        name = graph.node("Clip", name, graph.constant(0), graph.constant(6))
    return name, (height, width)


class OnnxNetwork:
    """A network ready to run."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        """
        Args:
            model: as `onnx_model` writes it.
            threads: of one input.
        """
        self._session = open_session(model, threads)
        self._width = self._session.get_outputs()[0].shape[1]

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features (N, width) of inputs (N, C, H, W), computed one by one."""
        features = np.empty((len(batch), self._width), np.float32)
        for row, one in enumerate(batch):
            features[row] = self._session.run(None, {"input": one[None]})[0][0]
        return features
