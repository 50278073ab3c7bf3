"""How well models recognise what is in real clips and sounds: the way of docs/OWN_VIDEOS.md, in cross-validation.

    python bench/media_quality.py [--model=auto] [--epochs=N]

Two sets that do not ship with the project (the script says so and stops where they are absent):

* objects: 80 visible clips of airplanes, birds, drones and helicopters, by pictures alone. Five folds of consecutive
  file numbers per class, because neighbours often show the same scene. The reference is a ridge classifier on the
  colours of six frames reduced to 16 x 16 pixels, its penalty chosen within the training folds.
* sounds: ESC-10, 160 of its clips, by sound alone; the published folds, clips of one recording in one fold.

Every file is tested once, by a model that saw none of its fold; nothing is chosen on a test fold. Prints per set the
fraction whose best class is right, the reference, and the folds; then a line with ratio and target.
"""

import argparse
import contextlib
import csv
import importlib
import json
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from project_commands import SHARED_DATA

MEDIA = SHARED_DATA / "media"
OUTPUT = Path(__file__).resolve().parent.parent / "bench_output" / "media_quality"
FOLDS = 5
TARGET_SOUND = 0.93
PUBLISHED_SOUND = 0.727  # the random forest of Piczak, ESC: Dataset for Environmental Sound Classification, 2015
RIDGE_FRAMES, RIDGE_PIXELS = 6, 16

File = tuple[Path, str, int]  # path, class, fold from 0


def object_files() -> list[File]:
    """The visible clips; folds are blocks of file numbers within each class."""
    by_class = defaultdict(list)
    with open(MEDIA / "clips.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            name, sensor = row["labels"].split(";")
            if sensor == "visible":
                by_class[name].append(MEDIA / row["path"])
    return [
        (path, name, place * FOLDS // len(paths))
        for name, paths in sorted(by_class.items())
        for place, path in enumerate(sorted(paths))
    ]


def sound_files() -> list[File]:
    """The sounds, in their published folds."""
    with open(MEDIA / "sounds.csv", newline="") as stream:
        return [(MEDIA / row["path"], row["labels"], int(row["fold"]) - 1) for row in csv.DictReader(stream)]


def run_command(module: str, *arguments: str) -> None:
    """Runs a command of the project in this process: thirty imports of TensorFlow would take longer than the work."""
    print(f"python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(module).run(arguments)


def extract(files: list[File], directory: Path, *flags: str) -> None:
    """Records of each fold, in a directory of its own; those that are there already are used again."""
    directory.mkdir(parents=True, exist_ok=True)
    names = sorted({name for _, name, _ in files})
    vocabulary = directory / "vocabulary.csv"
    vocabulary.write_text("index,name\n" + "".join(f"{index},{name}\n" for index, name in enumerate(names)))
    for fold in range(FOLDS):
        table = directory / f"fold{fold}.csv"
        rows = [f"{path},{name}\n" for path, name, own in files if own == fold]
        table.write_text("path,labels\n" + "".join(rows))
        output = directory / f"fold{fold}"
        if not (output / "info.json").exists():
            run_command(
                "pipelines.extract",
                f"--labels={table}",
                f"--vocabulary={vocabulary}",
                f"--output={output}",
                "--overwrite",
                *flags,
            )


def accuracies(directory: Path, model: str, epochs: int | None) -> list[float]:
    """Per fold, the fraction of its files whose best class is right, by a model that saw the other folds.

    Args:
        directory: with the records of the folds.
        model: architecture, trained by its recipe.
        epochs: instead of the recipe's.
    """
    found = []
    for fold in range(FOLDS):
        work = directory / model / f"without{fold}"
        others = ",".join(f"{directory}/fold{other}/*.tfrecord" for other in range(FOLDS) if other != fold)
        run_command(
            "pipelines.preprocess",
            f"--train_input={others}",
            f"--test_input={directory}/fold{fold}/*.tfrecord",
            f"--output={work}/data",
            "--overwrite",
        )
        run_command(
            "vcls_model.train",
            f"--data={work}/data",
            f"--output={work}/model",
            f"--model={model}",
            "--overwrite",
            "--quiet",
            *([f"--epochs={epochs}"] if epochs else []),
        )
        run_command(
            "pipelines.score",
            f"--input={directory}/fold{fold}",
            f"--model={work}/model",
            f"--output={work}/scores",
            "--overwrite",
        )
        metrics: dict[str, Any] = json.loads((work / "scores" / "metrics.json").read_text())
        found.append(float(metrics["hit_at_1"]))
    return found


def ridge_accuracies(files: list[File]) -> list[float]:
    """The same, by ridge classification of the colours of a few reduced frames."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.preprocessing import StandardScaler

    colours = np.stack([reduced_frames(path) for path, _, _ in files])
    names, folds = np.array([name for _, name, _ in files]), np.array([fold for _, _, fold in files])
    found = []
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        scaler = StandardScaler().fit(colours[train])
        model = RidgeClassifierCV(alphas=np.logspace(-1, 6, 15)).fit(scaler.transform(colours[train]), names[train])
        found.append(float(model.score(scaler.transform(colours[test]), names[test])))
    return found


def reduced_frames(path: Path) -> np.ndarray:
    """Mean over six frames of the colours of 16 x 16 pixels, float64 (768,)."""
    from vcls_model.media.requests import PictureFormat, Request
    from vcls_model.media.rows import RowReader
    from vcls_model.media.sampling import Sampling

    request = Request(PictureFormat(RIDGE_PIXELS, None, "area"), False, Sampling(fps=0.6, max_seconds=10))
    with RowReader(str(path), request) as reader:
        pictures = [row.picture for row in reader if row.picture is not None][:RIDGE_FRAMES]
    return np.mean(pictures, axis=0).ravel()


def line(name: str, files: list[File], ours: list[float], reference: str, target: str) -> None:
    """Prints one figure: the mean over files, and the range over folds."""
    sizes = [sum(own == fold for _, _, own in files) for fold in range(FOLDS)]
    mean = float(np.average(ours, weights=sizes))
    print(
        f"{name}  accuracy={mean:.3f} (folds {min(ours):.2f} to {max(ours):.2f}, {len(files)} files)  "
        f"reference={reference}  target={target}",
        flush=True,
    )


def main() -> None:
    """Extracts, trains and scores fold by fold, prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="auto", help="architecture, by its recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="passes over the data (default: the recipe's)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="for records and models (default: %(default)s)")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not MEDIA.is_dir():
        print(f"skipped: the clips and sounds are not beside this checkout ({MEDIA})", file=sys.stderr)
        return
    objects, sounds = object_files(), sound_files()
    extract(objects, args.output / "objects", "--audio_encoder=none")
    ridge = ridge_accuracies(objects)
    line(
        "media_quality_objects",
        objects,
        accuracies(args.output / "objects", args.model, args.epochs),
        f"{statistics.mean(ridge):.3f} (ridge on colours, folds {min(ridge):.2f} to {max(ridge):.2f})",
        "above the reference",
    )
    extract(sounds, args.output / "sounds", "--image_encoder=none")
    line(
        "media_quality_sounds",
        sounds,
        accuracies(args.output / "sounds", args.model, args.epochs),
        f"{PUBLISHED_SOUND} (random forest, published)",
        f">={TARGET_SOUND}",
    )


if __name__ == "__main__":
    main()
