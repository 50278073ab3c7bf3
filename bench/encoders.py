"""How fast the encoders run, each executor beside ONNX Runtime on one thread with one input at a time, one line a case.

    python bench/encoders.py [--seconds=N] [--encoder=NAME]

Processor time per input (user and system, all threads), the least of the rounds, which a busy machine harms least;
cases take turns. `ratio` is to the default: above 1 means that the case costs more. Features are compared as well: the
largest difference from the default's, in steps of a code. `front end` is what comes before the network: resizing and
normalising a picture of 640 × 360, the spectrogram of a sound patch.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.encoders import ENCODERS, Encoder, PictureInput, load_encoder
from vcls_model.encoders.catalogue import known_info, known_network
from vcls_model.encoders.keras_network import KerasNetwork, keras_model
from vcls_model.encoders.network import Network
from vcls_model.encoders.onnx_network import onnx_model

Array = npt.NDArray[Any]
Run = Callable[[Array], Any]
BATCH = 8


def onnx_case(network: Network, batch: int, threads: int) -> Run:
    """ONNX Runtime with another batch or more threads than the default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx_model(network, batch), options, providers=["CPUExecutionProvider"])

    def run(inputs: Array) -> Array:
        parts = [session.run(None, {"input": inputs[at : at + batch]})[0] for at in range(0, len(inputs), batch)]
        return np.concatenate(parts)

    return run


def keras_case(network: Network, batch: int) -> Run:
    """Keras without XLA, as `keras.Model` is called in a tf.function."""
    import tensorflow as tf

    model = keras_model(network)
    call = tf.function(lambda x: model(x, training=False), autograph=False)

    def run(inputs: Array) -> Array:
        turned = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        return np.concatenate([call(turned[at : at + batch]).numpy() for at in range(0, len(inputs), batch)])

    return run


def measure(cases: dict[str, Run], inputs: Array, seconds: float) -> dict[str, tuple[float, float]]:
    """Processor and wall-clock seconds per input of each case: the least over rounds in which the cases take turns."""
    best = {name: (np.inf, np.inf) for name in cases}
    for run in cases.values():
        run(inputs)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, run in cases.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run(inputs)
            spent = (time.process_time() - cpu) / len(inputs), (time.perf_counter() - wall) / len(inputs)
            best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1]))
    return best


def compare(name: str, seconds: float) -> None:
    """Prints one line for each executor of one encoder."""
    encoder: Encoder = load_encoder(name, known_info(name).modality)
    network = known_network(name)
    spec = encoder.info.input
    generator = np.random.default_rng(0)
    if isinstance(spec, PictureInput):
        frame = generator.integers(0, 256, (360, 640, 3), np.uint8)
        rows = np.stack([spec.prepare(np.roll(frame, shift, axis=1)) for shift in range(BATCH)])
        inputs = rows.transpose(0, 3, 1, 2).astype(np.float32)
        front: Run = lambda _: [spec.prepare(frame) for _ in range(BATCH)]  # noqa: E731
    else:
        rows = generator.normal(0, 0.1, (BATCH, spec.samples)).astype(np.float32)
        inputs = spec.network_input(rows)[:, None]
        front = lambda _: spec.network_input(rows)  # noqa: E731
    cases: dict[str, Run] = {
        "default: onnx, batch 1, 1 thread": onnx_case(network, 1, 1),
        "onnx, batch 8, 1 thread": onnx_case(network, BATCH, 1),
        "onnx, batch 1, 2 threads": onnx_case(network, 1, 2),
        "onnx, batch 8, 2 threads": onnx_case(network, BATCH, 2),
        "keras, batch 1": keras_case(network, 1),
        "keras, batch 8": keras_case(network, BATCH),
        "keras with XLA, batch 8": KerasNetwork(network, BATCH).run,
        "front end": front,
    }
    spent = measure(cases, inputs, seconds)
    base = spent["default: onnx, batch 1, 1 thread"]
    expected = encoder.encode(rows)
    low, high = encoder.info.value_range
    for case, (cpu, wall) in spent.items():
        line = f"{name:20} {case:34} {cpu * 1e3:8.2f} ms of processor  ratio {cpu / base[0]:6.2f}  {wall * 1e3:8.2f} ms"
        if case != "front end":
            steps = np.abs(cases[case](inputs) - expected).max() * 256 / (high - low)
            line += f"  differs by {steps:.4f} steps"
        print(line, flush=True)


def main() -> None:
    """Parses the command line and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="measuring time per encoder (default 30)")
    parser.add_argument("--encoder", choices=ENCODERS, action="append", help="only this one; may be repeated")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in args.encoder or ENCODERS:
        compare(name, args.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of all executors together {peak:.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
