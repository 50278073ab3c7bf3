"""A convolutional network as a list of steps with batch normalisation folded in: all that is needed to run it."""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Activation = Literal["none", "relu", "relu6"]
GPU_BATCH = 32  # inputs that a GPU takes at a time


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with TensorFlow's SAME padding, followed by an activation and, where named, a sum.

    Attributes:
        kernel: (O, I / groups, H, W).
        bias: (O,).
        stride: in both directions.
        groups: 1, or the number of input channels for a depthwise convolution.
        activation: after the bias.
        added_step: index of an earlier step whose output is added to this one's, after the activation.
    """

    kernel: Array
    bias: Array
    stride: int = 1
    groups: int = 1
    activation: Activation = "none"
    added_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """Steps one after the other, then the mean over space: (C, H, W) in, the last step's channels out.

    Attributes:
        channels, height, width: of the input.
        steps: at least one.
        mean, scale: the input becomes (x - mean) / scale before the first step.
    """

    channels: int
    height: int
    width: int
    steps: tuple[Convolution, ...]
    mean: float = 0.0
    scale: float = 1.0


def fold(
    kernel: Array, gamma: Array | float, beta: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Kernel and bias of a convolution (O first) with the batch normalisation after it folded in.

    gamma (x - mean) / sqrt(variance + epsilon) + beta is linear in x: it scales the kernel's outputs and leaves a bias.
    """
    factor = np.asarray(gamma, np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    folded = kernel.astype(np.float64) * factor[:, None, None, None]
    return folded.astype(np.float32), (beta - mean * factor).astype(np.float32)


def same_padding(size: int, window: int, stride: int) -> tuple[int, int, int]:
    """Zeros before and after, and the output's size, of TensorFlow's SAME padding, which puts the odd zero after."""
    output = -(-size // stride)
    total = max((output - 1) * stride + window - size, 0)
    return total // 2, total - total // 2, output
