"""Runs networks with ONNX Runtime on one thread, one input at a time: the same bits in any batch and any worker."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vcls_model.encoders.network import Convolution, Network, same_padding

if TYPE_CHECKING:
    import onnxruntime

_OPSET = 17
_IR_VERSION = 8


def open_session(model: bytes | Path) -> "onnxruntime.InferenceSession":
    """A session on one thread of the CPU: more threads would split sums differently, and workers are processes anyway.

    Raises:
        Exception: whatever ONNX Runtime says of a model that it cannot load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnx_model(network: Network) -> bytes:
    """A serialized ONNX model of a network: `input` (1, C, H, W) float32 to `features` (1, width) float32."""
    from onnx import TensorProto, helper

    graph = _Graph()
    name = graph.scaled("input", network.mean, network.scale)
    sizes = (network.height, network.width)
    outputs: list[str] = []
    for step in network.steps:
        name, sizes = graph.convolution(name, sizes, step)
        if step.added_step is not None:
            name = graph.node("Add", name, outputs[step.added_step])
        outputs.append(name)
    name = graph.node("GlobalAveragePool", name)
    graph.nodes.append(helper.make_node("Flatten", [name], ["features"], axis=1))
    shape = (1, network.channels, network.height, network.width)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, (1, len(network.steps[-1].bias)))],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    return bytes(model.SerializeToString())


class OnnxNetwork:
    """A network ready to run."""

    def __init__(self, network: Network) -> None:
        self._session = open_session(onnx_model(network))
        self._width = len(network.steps[-1].bias)

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features (N, width) of inputs (N, C, H, W), computed one by one."""
        features = np.empty((len(batch), self._width), np.float32)
        for row, one in enumerate(batch):
            features[row] = self._session.run(None, {"input": one[None]})[0][0]
        return features


class _Graph:
    """Nodes and constants of an ONNX graph in the making; names are numbers."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: npt.ArrayLike) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def scaled(self, name: str, mean: float, scale: float) -> str:
        if mean:
            name = self.node("Sub", name, self.constant(mean))
        return self.node("Mul", name, self.constant(1 / scale)) if scale != 1 else name

    def convolution(self, name: str, sizes: tuple[int, int], step: Convolution) -> tuple[str, tuple[int, int]]:
        windows = step.kernel.shape[2:]
        (top, bottom, height), (left, right, width) = (
            same_padding(size, window, step.stride) for size, window in zip(sizes, windows, strict=True)
        )
        name = self.node(
            *("Conv", name, self.constant(step.kernel), self.constant(step.bias)),
            kernel_shape=windows,
            strides=[step.stride] * 2,
            group=step.groups,
            pads=[top, left, bottom, right],
        )
        if step.activation == "relu":
            name = self.node("Relu", name)
        elif step.activation == "relu6":
            name = self.node("Clip", name, self.constant(0), self.constant(6))
        return name, (height, width)
