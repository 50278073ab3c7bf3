"""How fast `pipelines.score` is beside a bare tf.data + model loop on the same records, and its memory at 10x the data.

Each measurement runs in its own process, so that peak memory is its own; one after the other, in the same run.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCH = 1024
TARGET_RATIO = 0.6


def make_model(directory: Path) -> None:
    """An exported dense model (1,024 ReLU units, 3,862 classes) with random weights and logits like a trained one's."""
    import numpy as np
    import tensorflow as tf

    from vcls_model.records.schema import schema_by_name
    from vcls_model.records.vocabulary import unnamed_classes, write_labels_csv

    schema = schema_by_name("yt8m-video")
    classes = schema.class_count or 0
    rng = np.random.default_rng(0)

    class Dense(tf.Module):
        """z-scores, a hidden layer, logits."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden = tf.Variable(rng.normal(size=(1152, 1024)).astype(np.float32) * 0.05)
            self.classifier = tf.Variable(rng.normal(size=(1024, classes)).astype(np.float32) * 0.06)
            self.bias = tf.Variable(rng.normal(-8, 1, size=classes).astype(np.float32))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 1024], tf.float32, name="mean_rgb"),
                tf.TensorSpec([None, 128], tf.float32, name="mean_audio"),
            ]
        )
        def logits(self, mean_rgb: tf.Tensor, mean_audio: tf.Tensor) -> dict[str, tf.Tensor]:
            joined = (tf.concat([mean_rgb, mean_audio], axis=1) - 0.01) / 0.8
            return {"logits": tf.nn.relu(joined @ self.hidden) @ self.classifier + self.bias}

    module = Dense()
    tf.saved_model.save(module, str(directory / "saved_model"), signatures={"features": module.logits})
    (directory / "labels.csv").write_text(write_labels_csv(unnamed_classes(classes)))
    (directory / "info.json").write_text(
        json.dumps({"schema": schema.to_dict(), "class_count": classes, "model": {"name": "dense"}})
    )


def run_reference(pattern: str, model: str) -> int:
    """The bare loop: reads, parses, infers; drops the logits. Returns the number of records."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.path.join(model, "saved_model"))
    infer = loaded.signatures["features"]
    spec = {
        "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32),
        "mean_audio": tf.io.FixedLenFeature([128], tf.float32),
    }
    data = (
        tf.data.TFRecordDataset(sorted(glob.glob(pattern)), num_parallel_reads=2)
        .batch(BATCH)
        .map(lambda records: tf.io.parse_example(records, spec), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return sum(infer(**features)["logits"].numpy().shape[0] for features in data)


def run_score(pattern: str, model: str) -> int:
    """The job. Returns the number of records."""
    from pipelines.score import run

    with tempfile.TemporaryDirectory() as output:
        return run([f"--input={pattern}", f"--model={model}", f"--output={output}/scores"])["records_written"]


def measure(what: str, pattern: str, model: str) -> dict[str, Any]:
    """Runs one side in a process of its own: records, seconds and CPU seconds (imports not counted), peak MB."""
    command = [sys.executable, __file__, f"--child={what}", f"--input={pattern}", f"--model={model}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {**json.loads(text.splitlines()[-1]), "peak_mb": usage.ru_maxrss / 1024}


def child(what: str, pattern: str, model: str) -> None:
    """Measures one side, after the imports."""
    import apache_beam  # noqa: F401
    import tensorflow  # noqa: F401

    started, cpu = time.perf_counter(), time.process_time()
    records = (run_score if what == "score" else run_reference)(pattern, model)
    print(
        json.dumps(
            {"records": records, "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        )
    )


def link_copies(sources: list[str], copies: int, folder: Path) -> str:
    """Links each shard under `copies` names in `folder`; returns their glob."""
    folder.mkdir()
    for number in range(copies):
        for source in sources:
            (folder / f"copy{number:04d}-{Path(source).name}").symlink_to(Path(source).resolve())
    return str(folder / "*.tfrecord")


def main() -> None:
    """Prints one line of figures per target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", default=str(ROOT / "sample" / "*.tfrecord"), help="shards (default: the sample)")
    parser.add_argument("--model", help="exported model (default: a dense one with random weights)")
    parser.add_argument(
        "--copies",
        type=int,
        default=2,
        help="copies of the shards in the small run; the large run has ten times as many (default: %(default)s)",
    )
    parser.add_argument("--child", choices=("score", "reference"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.input, args.model)
        return
    sources = sorted(glob.glob(args.input))
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(Path(folder) / "model")
        if not args.model:
            make_model(Path(model))
        small = measure("score", link_copies(sources, args.copies, Path(folder) / "small"), model)
        many = link_copies(sources, 10 * args.copies, Path(folder) / "large")
        reference = measure("reference", many, model)
        large = measure("score", many, model)
    ours, bare = large["records"] / large["seconds"], reference["records"] / reference["seconds"]
    print(
        f"score  videos/s={ours:.0f} ({large['records']} videos)  reference={bare:.0f} (tf.data + model)  "
        f"ratio={ours / bare:.2f}x  target>={TARGET_RATIO}x"
    )
    growth = large["peak_mb"] / small["peak_mb"]
    busy = large["cpu_seconds"] / large["records"] * 1e6
    bare_busy = reference["cpu_seconds"] / reference["records"] * 1e6
    print(
        f"score_cpu  us/video={busy:.0f}  reference={bare_busy:.0f}  ratio={bare_busy / busy:.2f}x  "
        f"target>={TARGET_RATIO}x"
    )
    print(
        f"score_memory  peak_mb={large['peak_mb']:.0f} ({large['records']} videos)  "
        f"reference={small['peak_mb']:.0f} ({small['records']} videos)  ratio={growth:.2f}x  target<=1.03x"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
