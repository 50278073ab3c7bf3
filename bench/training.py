"""Speed and memory of training the dense baseline (1,152 features, 1,024 units, 3,862 classes), one line per figure.

    python bench/training.py [--videos=8192]

The data is made up, of YouTube-8M's shapes. Every figure is measured beside its reference in alternate rounds of one
run, the best round of each; other work on the machine slows both. `core_us` is the processor time per video, ours
and the reference's, which other work changes less than the rate.

* training_64, training_1024: examples/s from TFRecords; the reference is the same compiled step fed one resident batch.
* training_vs_fit: examples/s at batch 64; the reference is Keras's `fit` of the same layers with `Adam` and
  `BinaryCrossentropy` on arrays in memory with dense multi-hot labels, whose construction is not timed.
* training_memory: peak resident MiB of a process that trains an epoch on eight times the data; the reference is the
  process that trains on the data once.
* input_video, input_frame: videos/s read, decoded and batched, nothing else, over an epoch of eight times the data; the
  reference is the target.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

CLASSES = 3862
SHARDS = 16
FRAMES = 300
ROUNDS = 4
# Updates of all variables that `training_update` times at once.
UPDATES = 10
READ_ROUNDS = 8
TIMES = 8


def write_data(directory: Path, videos: int, level: str) -> None:
    """A transformed dataset of random features without a transform graph."""
    import tensorflow as tf

    from vcls_model.records.schema import BUILT_IN

    schema = BUILT_IN[f"yt8m-{level}"]
    random = np.random.default_rng(0)
    for shard in range(SHARDS):
        path = directory / "train" / f"train-{shard:05d}-of-{SHARDS:05d}.tfrecord"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for number in range(videos // SHARDS):
                example = tf.train.Example()
                feature = example.features.feature
                feature["id"].bytes_list.value.append(b"%06d" % number)
                feature["labels"].int64_list.value.extend(random.choice(CLASSES, 3, replace=False).tolist())
                for modality in schema.modalities:
                    if level == "video":
                        feature[modality.name].float_list.value.extend(random.normal(size=modality.width))
                    else:
                        feature[modality.name].bytes_list.value.append(random.bytes(FRAMES * modality.width))
                if level == "frame":
                    feature["num_frames"].int64_list.value.append(FRAMES)
                writer.write(example.SerializeToString())
    write_info(directory, schema, videos, SHARDS)


def write_info(directory: Path, schema: Any, videos: int, shards: int) -> None:
    (directory / "info.json").write_text(
        json.dumps(
            {
                "schema": schema.to_dict(),
                "class_count": CLASSES,
                "split": {"method": "given", "ratios": None},
                "transformed": [dataclasses.asdict(modality) for modality in schema.modalities],
                "splits": {"train": {"records": videos, "shards": shards}},
            }
        )
    )


def make_trainer(directory: Path, batch_size: int) -> Any:
    from vcls_model.input.options import InputOptions
    from vcls_model.models import build_model
    from vcls_model.records.transformed import open_transformed
    from vcls_model.training.loop import Trainer
    from vcls_model.training.options import TrainOptions

    data = open_transformed(str(directory))
    model = build_model("dense", data.modalities, data.class_count)
    return Trainer(model, data, data.modalities, TrainOptions(InputOptions(batch_size)), str(directory / "unused"))


@dataclasses.dataclass
class Speed:
    """Best rate and least processor time of some rounds."""

    videos_per_second: float = 0.0
    core_us: float = float("inf")


def alternate(videos: int, *functions: Callable[[], Any], rounds: int = ROUNDS) -> list[Speed]:
    """The speed of each function over rounds in which each runs once."""
    best = [Speed() for _ in functions]
    for _ in range(rounds):
        for speed, function in zip(best, functions, strict=True):
            started, used = time.perf_counter(), time.process_time()
            function()
            speed.videos_per_second = max(speed.videos_per_second, videos / (time.perf_counter() - started))
            speed.core_us = min(speed.core_us, (time.process_time() - used) / videos * 1e6)
    return best


def step_functions(directory: Path, batch_size: int, videos: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Trains on `videos` videos from TFRecords, and on one resident batch as often."""
    import tensorflow as tf

    from vcls_model.input.dataset import make_batches

    trainer = make_trainer(directory, batch_size)
    steps = tf.constant(videos // batch_size)

    def batches() -> tf.data.Dataset:
        return make_batches(trainer.shards, trainer.modalities, trainer.options.read, epoch=0)

    resident = iter(tf.data.Dataset.from_tensors(next(iter(batches()))).repeat())
    stream = iter(batches().repeat())
    for iterator in (resident, stream):
        trainer.run_steps(iterator, tf.constant(2))
    return (lambda: float(trainer.run_steps(stream, steps)[0])), (lambda: float(trainer.run_steps(resident, steps)[0]))


def update_function(optimizer: Any) -> Callable[[], Any]:
    """`UPDATES` updates of the dense baseline's variables, without XLA."""
    import keras
    import tensorflow as tf

    from vcls_model.models import build_model
    from vcls_model.records.schema import BUILT_IN

    model = build_model("dense", BUILT_IN["yt8m-video"].modalities, CLASSES)
    variables = model.trainable_variables
    optimizer.build(variables)
    gradients = [keras.ops.ones_like(variable) * 1e-3 for variable in variables]

    @tf.function
    def update() -> None:
        for _ in tf.range(UPDATES):
            optimizer.apply(gradients, variables)

    update()
    return update


def fit_function(videos: int) -> Callable[[], Any]:
    """Plain Keras on arrays in memory."""
    import keras

    from vcls_model.models import build_model
    from vcls_model.records.schema import BUILT_IN

    random = np.random.default_rng(0)
    modalities = BUILT_IN["yt8m-video"].modalities
    features = {
        modality.name: random.normal(size=(videos, modality.width)).astype(np.float32) for modality in modalities
    }
    targets = np.zeros((videos, CLASSES), np.float32)
    targets[np.arange(videos)[:, np.newaxis], random.integers(0, CLASSES, (videos, 3))] = 1
    model = build_model("dense", modalities, CLASSES)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit({name: value[:128] for name, value in features.items()}, targets[:128], batch_size=64, verbose=0)
    return lambda: model.fit(features, targets, batch_size=64, verbose=0)


def read_function(directory: Path, batch_size: int) -> Callable[[], Any]:
    from vcls_model.input.dataset import make_batches
    from vcls_model.input.options import InputOptions
    from vcls_model.records.transformed import open_transformed

    data = open_transformed(str(directory))
    options = InputOptions(batch_size, max_frames=FRAMES)
    return lambda: (
        make_batches(data.shards("train"), data.modalities, options, epoch=0)
        .reduce(0, lambda count, batch: count + 1)
        .numpy()
    )


def measure_reading(name: str, directory: Path, batch_size: int, videos: int, target: float) -> None:
    read = read_function(directory, batch_size)
    read()
    (speed,) = alternate(videos, read, rounds=READ_ROUNDS)
    report(name, "videos/s", speed.videos_per_second, target, f">=1x  core_us={speed.core_us:.1f}")


def peak_memory(directory: Path) -> float:
    """Peak MiB of a process that trains one epoch."""
    command = [sys.executable, __file__, f"--train={directory}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def repeated(directory: Path, level: str, videos: int) -> Path:
    """The same dataset with every shard linked several times."""
    from vcls_model.records.schema import BUILT_IN

    target = directory.with_name(f"{directory.name}-repeated")
    (target / "train").mkdir(parents=True)
    for path in sorted((directory / "train").iterdir()):
        for turn in range(TIMES):
            (target / "train" / f"{turn}-{path.name}").symlink_to(path)
    write_info(target, BUILT_IN[f"yt8m-{level}"], videos * TIMES, SHARDS * TIMES)
    return target


def train_an_epoch(directory: Path) -> None:
    import tensorflow as tf

    from vcls_model.input.dataset import make_batches

    trainer = make_trainer(directory, 1024)
    batches = make_batches(trainer.shards, trainer.modalities, trainer.options.read, epoch=0, drop_remainder=True)
    trainer.run_steps(iter(batches), tf.constant(trainer.steps))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def report(name: str, unit: str, figure: float, reference: float, target: str) -> None:
    print(
        f"{name}  {unit}={figure:.0f}  reference={reference:.0f}  ratio={figure / reference:.2f}x  target{target}",
        flush=True,
    )


def compare(
    name: str, videos: int, function: Callable[[], Any], reference: Callable[[], Any], target: str, rounds: int = ROUNDS
) -> None:
    ours, theirs = alternate(videos, function, reference, rounds=rounds)
    report(
        name,
        "examples/s",
        ours.videos_per_second,
        theirs.videos_per_second,
        f"{target}  core_us={ours.core_us:.0f}/{theirs.core_us:.0f}",
    )


def compare_updates() -> None:
    """The optimizer alone: the fused kernel against Keras's Adam, updates per second."""
    import keras

    from vcls_model.training.optimizers import FusedAdam

    ours, theirs = alternate(UPDATES, update_function(FusedAdam()), update_function(keras.optimizers.Adam()))
    figure, reference = ours.videos_per_second, theirs.videos_per_second
    print(
        f"training_update  updates/s={figure:.1f}  reference={reference:.1f}  ratio={figure / reference:.2f}x  "
        f"target>=1.15x  core_us={ours.core_us:.0f}/{theirs.core_us:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", type=int, default=8192, help="videos of the video-level data (default: %(default)s)"
    )
    parser.add_argument("--train", default="", help="train one epoch on this directory and print the peak memory")
    args = parser.parse_args()
    if args.train:
        train_an_epoch(Path(args.train))
        return
    with tempfile.TemporaryDirectory() as scratch:
        video, frame = Path(scratch) / "video", Path(scratch) / "frame"
        write_data(video, args.videos, "video")
        part = args.videos // 4
        streamed, resident = step_functions(video, 64, part)
        compare("training_64", part, streamed, resident, ">=0.90x", 3 * ROUNDS)
        compare("training_vs_fit", part, streamed, fit_function(part), ">=1.5x")
        compare("training_1024", part, *step_functions(video, 1024, part), ">=0.90x", 3 * ROUNDS)
        compare_updates()
        more = repeated(video, "video", args.videos)
        measure_reading("input_video", more, 1024, args.videos * TIMES, 100_000)
        write_data(frame, 512, "frame")
        measure_reading("input_frame", repeated(frame, "frame", 512), 64, 512 * TIMES, 4_000)
        report("training_memory", "MiB", peak_memory(more), peak_memory(video), "<=1.05x")


if __name__ == "__main__":
    main()
