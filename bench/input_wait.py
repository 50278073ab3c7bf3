"""How long training waits for its input, from TensorFlow's own profile of the loop that trains, one line per model.

    python bench/input_wait.py [--profile=DIR]

`waiting` is the share of the time that the step loop spends in `IteratorGetNext`, which returns at once when a batch is
ready; `busy` is the processor time over the time of all cores. With `--profile` the traces are kept for TensorBoard.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import training

CASES = (
    ("dense", "video", 64, 100),
    ("dense", "video", 1024, 15),
    ("average", "frame", 64, 15),
    ("dbof", "frame", 64, 6),
)
TARGET = 0.02


def make_loop(directory: Path, model_name: str, batch_size: int) -> tuple[Any, Any]:
    """A trainer and an endless stream of batches."""
    from vcls_model.input.dataset import make_batches
    from vcls_model.input.options import InputOptions
    from vcls_model.models import build_model
    from vcls_model.records.transformed import open_transformed
    from vcls_model.training.loop import Trainer
    from vcls_model.training.options import TrainOptions

    data = open_transformed(str(directory))
    model = build_model(model_name, data.modalities, data.class_count)
    trainer = Trainer(model, data, data.modalities, TrainOptions(InputOptions(batch_size)), str(directory / "unused"))
    return trainer, iter(make_batches(trainer.shards, trainer.modalities, trainer.options.read, epoch=0, repeat=True))


def waiting_seconds(profile: Path) -> float:
    """Time that the step loop spent waiting for batches."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = profile.glob("plugins/profile/*/*.xplane.pb")
    total = 0
    for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        names = {key: entry.name for key, entry in plane.event_metadata.items()}
        total += sum(
            event.duration_ps
            for line in plane.lines
            for event in line.events
            if names[event.metadata_id] == "IteratorGetNextOp::DoCompute"
        )
    return total * 1e-12


def measure(name: str, trainer: Any, stream: Any, steps: int, profile: Path) -> None:
    import tensorflow as tf

    trainer.run_steps(stream, tf.constant(3))
    tf.profiler.experimental.start(str(profile))
    started, used = time.perf_counter(), time.process_time()
    float(trainer.run_steps(stream, tf.constant(steps))[0])
    wall, used = time.perf_counter() - started, time.process_time() - used
    tf.profiler.experimental.stop()
    waiting = waiting_seconds(profile)
    print(
        f"input_wait_{name}  waiting={waiting / wall:.2%}  ms_a_step={wall / steps * 1e3:.1f}  "
        f"ms_waiting={waiting / steps * 1e3:.2f}  busy={used / wall / len(os.sched_getaffinity(0)):.0%}  "
        f"reference={TARGET:.0%}  ratio={waiting / wall / TARGET:.2f}x  target<=1x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="", help="directory to keep the traces in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for level, videos in (("video", 4096), ("frame", 256)):
            training.write_data(Path(scratch) / level, videos, level)
        for model, level, batch_size, steps in CASES:
            trainer, stream = make_loop(Path(scratch) / level, model, batch_size)
            name = f"{model}_{batch_size}"
            measure(name, trainer, stream, steps, Path(args.profile or scratch) / name)


if __name__ == "__main__":
    main()
