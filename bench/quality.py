"""What every model reaches by its recipe: the short commands on real data, from the default preprocessing.

    python bench/quality.py [--dataset=yt8m|audioset|all] [--model=NAME …] [--ensemble] [--work=DIRECTORY] [--test]

YouTube-8M, video-level: the shards `validate0000` to `validate0079` train and `0080` to `0089` tune; `--test` scores
`0090` to `0099`. AudioSet: nine tenths of `train` train and the rest tunes; `--test` scores `eval`. Both tests are for
the end. Head, torso and tail are the mean average precision of the classes with 100 training videos or more, with 12 to
99, and with fewer. Models that a work directory holds are not trained again. `dense` is the baseline, which has no
recipe. Every step is one of the project's own commands, which are printed.
"""

import argparse
import csv
import dataclasses
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project_commands import SHARED_DATA, run_command, score, train  # noqa: E402

from vcls_model.metrics.catalogue import HEADLINE  # noqa: E402
from vcls_model.models.catalogue import MODELS  # noqa: E402
from vcls_model.training.recipes import AUTO  # noqa: E402

ENSEMBLE = "ensemble"
# Fewest training videos of a class in each part.
PARTS = {"head": 100, "torso": 12, "tail": 0}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A dataset and how it is split.

    Attributes:
        level: the models that read it.
        needed: a file without which it is skipped.
        preprocess: flags of the default preprocessing.
        tuning, testing: flags of `pipelines.score`.
    """

    level: str
    needed: Path
    preprocess: tuple[str, ...]
    tuning: tuple[str, ...]
    testing: tuple[str, ...]


def benchmarks(shared: Path) -> dict[str, Benchmark]:
    """By name, below a directory of shared data."""
    video, audio = shared / "yt8m" / "video", shared / "audioset"
    return {
        "yt8m": Benchmark(
            "video",
            video / "validate0099.tfrecord",
            (
                f"--train_input={video}/validate00[0-7]?.tfrecord",
                f"--validate_input={video}/validate008?.tfrecord",
                f"--vocabulary={shared}/yt8m/vocabulary.csv",
            ),
            (f"--input={video}/validate008?.tfrecord",),
            (f"--input={video}/validate009?.tfrecord",),
        ),
        "audioset": Benchmark(
            "frame",
            audio / "eval-00000-of-00004.tfrecord",
            (
                f"--input={audio}/train-*.tfrecord",
                "--split_ratios=0.9,0.1,0",
                f"--vocabulary={audio}/class_labels_indices.csv",
            ),
            (f"--input={audio}/train-*.tfrecord", "--split=validate"),
            (f"--input={audio}/eval-*.tfrecord",),
        ),
    }


def parts(model: Path, scores: Path) -> dict[str, float]:
    """Mean average precision of the classes of each part; NaN where none has a positive."""
    with open(model / "labels.csv", newline="") as stream:
        trained = {row["index"]: int(row["train_count"] or 0) for row in csv.DictReader(stream)}
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    with open(scores / "per_class.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["ap"]:
                count = trained[row["index"]]
                found[next(name for name, fewest in PARTS.items() if count >= fewest)].append(float(row["ap"]))
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}


def measure(name: str, benchmark: Benchmark, models: list[str], work: Path, *, test: bool) -> None:
    """Trains and scores; prints a line per model."""
    data = work / "data"
    if not (data / "info.json").exists():
        run_command("pipelines.preprocess", *benchmark.preprocess, f"--output={data}", "--overwrite")
    for model in models:
        output = work / model
        if model == ENSEMBLE:
            if not (output / "info.json").exists():
                flags = ["--recipe=best", f"--data={data}", f"--output={output}", "--resume"]
                run_command("vcls_model.ensemble", *flags)
        else:
            train(output, f"--data={data}", f"--model={model}")
        records, *flags = benchmark.testing if test else benchmark.tuning
        scores = work / f"{model}_{'test' if test else 'tuning'}"
        metrics = score(records.removeprefix("--input="), output, scores, *flags)
        shown = [f"{metric.key}={metrics[metric.key]:.4f}" for metric in HEADLINE]
        shown += [f"{part}={value:.4f}" for part, value in parts(output, scores).items()]
        print(f"quality {name} {model} {' '.join(shown)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("yt8m", "audioset", "all"), default="all")
    parser.add_argument("--model", action="append", help=f"repeatable; {AUTO} too (default: all of the data's level)")
    parser.add_argument("--ensemble", action="store_true", help="also train the ensemble of --recipe=best")
    parser.add_argument("--input", type=Path, default=SHARED_DATA, help="directory of yt8m/ and audioset/")
    parser.add_argument("--work", type=Path, default=Path("bench_output") / "quality", help="data and models")
    parser.add_argument("--test", action="store_true", help="score the test shards rather than the tuning shards")
    args = parser.parse_args()
    for name, benchmark in benchmarks(args.input).items():
        if args.dataset not in (name, "all"):
            continue
        if not benchmark.needed.exists():
            print(f"quality {name}  skipped: there is no {benchmark.needed}")
            continue
        of_level = [model for model, info in MODELS.items() if info.level == benchmark.level or model == "dense"]
        models = (args.model or of_level) + [ENSEMBLE] * args.ensemble
        measure(name, benchmark, models, args.work / name, test=args.test)


if __name__ == "__main__":
    main()
