"""One training step of each model on a synthetic batch, under any Keras backend, one line per model.

    KERAS_BACKEND=jax python bench/train_step.py [--models=dense,netvlad] [--batch_size=64] [--frames=300]
        [--precision=mixed_bfloat16] [--peak_tflops=989]

A step is forward, summed cross-entropy against dense targets, backward and Adam, as Keras compiles it for the backend.
Prints examples/s and, under TensorFlow, the floating-point operations per example (three times those that its profiler
counts in the forward pass; the body of a recurrence is counted once) and, with `--peak_tflops`, their share of the
machine's matrix peak. The reference of a model is `dense` (video-level) or `average` (frame-level) in the same run.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from vcls_model.models import MODELS, build_model  # noqa: E402
from vcls_model.records.schema import BUILT_IN  # noqa: E402

CLASSES = 3862
LIGHT = ("logistic", "dense", "residual", "average", "dbof")


def synthetic_batch(level: str, batch_size: int, frames: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of a model and dense targets (B, C)."""
    random = np.random.default_rng(0)
    shape = (batch_size,) if level == "video" else (batch_size, frames)
    features = {
        modality.name: random.normal(size=(*shape, modality.width)).astype(np.float32)
        for modality in BUILT_IN[f"yt8m-{level}"].modalities
    }
    if level == "frame":
        features["num_frames"] = np.full(batch_size, frames, np.int32)
    targets = np.zeros((batch_size, CLASSES), np.float32)
    targets[np.arange(batch_size)[:, np.newaxis], random.integers(0, CLASSES, (batch_size, 3))] = 1
    return features, targets


def summed_cross_entropy(targets: Any, logits: Any) -> Any:
    from keras import ops

    return ops.sum(ops.softplus(logits) - targets * logits, axis=-1)


def forward_flops(model: Any, features: dict[str, np.ndarray]) -> float:
    """Floating-point operations of a forward pass, by TensorFlow's profiler."""
    import tensorflow as tf

    specs = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in features.items()}
    graph = tf.function(lambda batch: model(batch, training=False)).get_concrete_function(specs).graph
    options = (
        tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
        .with_empty_output()
        .build()
    )
    return float(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)


def measure(name: str, batch_size: int, frames: int, seconds: float) -> tuple[float, float]:
    """Examples/s of the best round, and FLOPs per example."""
    import keras

    level = MODELS[name].level
    features, targets = synthetic_batch(level, batch_size, frames)
    model = build_model(name, BUILT_IN[f"yt8m-{level}"].modalities, CLASSES)
    model.compile(keras.optimizers.Adam(1e-3), summed_cross_entropy)
    model.train_on_batch(features, targets)
    best, started = 0.0, time.perf_counter()
    rounds = 0
    while rounds < 3 or time.perf_counter() - started < seconds:
        begin = time.perf_counter()
        float(np.asarray(model.train_on_batch(features, targets)))
        best = max(best, batch_size / (time.perf_counter() - begin))
        rounds += 1
    flops = 3 * forward_flops(model, features) / batch_size if keras.backend.backend() == "tensorflow" else 0.0
    keras.backend.clear_session()
    return best, flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", default=",".join(LIGHT), help=f"of {', '.join(sorted(MODELS))}, or all (default {','.join(LIGHT)})"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="videos per step (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=30, help="frames per video of frame-level models (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="least number of seconds per model (default: %(default)s)"
    )
    parser.add_argument("--precision", default="float32", help="dtype policy (default: %(default)s)")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="matrix peak of the machine at that precision")
    args = parser.parse_args()
    import keras

    keras.config.set_dtype_policy(args.precision)
    names = sorted(MODELS) if args.models == "all" else args.models.split(",")
    peers: dict[str, float] = {}
    for name in names:
        peer = "dense" if MODELS[name].level == "video" else "average"
        figure, flops = measure(name, args.batch_size, args.frames, args.seconds)
        if peer not in peers:
            peers[peer] = figure if name == peer else measure(peer, args.batch_size, args.frames, args.seconds)[0]
        share = f"  of_peak={figure * flops / args.peak_tflops / 1e12:.1%}" if args.peak_tflops else ""
        print(
            f"train_step_{name}  examples/s={figure:.0f}  reference={peers[peer]:.0f}  "
            f"ratio={figure / peers[peer]:.2f}x  target=none  gflops_an_example={flops / 1e9:.3f}{share}  "
            f"backend={keras.backend.backend()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
