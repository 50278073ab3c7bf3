"""An ensemble on real YouTube-8M video-level records and a model distilled from it, beside the single models.

    python bench/ensemble.py [--input=VIDEO_DIRECTORY] [--vocabulary=CSV] [--work=DIRECTORY] [--test]

The shards `validate0000` to `validate0079` train and `0080` to `0089` tune; `--test` scores `0090` to `0099`, which is
for the end. Models that a work directory holds are not trained again. Every step is one of the project's own commands,
which are printed.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project_commands import SHARED_DATA, run_command, score, train  # noqa: E402

from vcls_model.metrics.catalogue import HEADLINE  # noqa: E402

COMMON = [
    "--modality_norm=unit",
    "--neighbours=60",
    "--class_prior",
    "--batch_size=256",
    "--learning_rate=0.002",
    "--decay=cosine",
    "--warmup_examples=9000",
    "--precision=mixed_bfloat16",
    "--patience=0",
    "--epochs=6",
    "--mixup=0.4",
]
RESIDUAL = ["--model=residual", "--linear_skip=true", "--input_dropout=0.3"]
# What differs, so that their errors do.
MEMBERS = {
    "wide": ["--model=wide", "--label_projection=0.75"],
    "residual": [*RESIDUAL, "--label_projection=0.75", "--seed=2"],
    "residual_strong": [*RESIDUAL, "--label_projection=1.0", "--seed=6"],
    "late": ["--model=wide", "--fusion=late", "--seed=3"],
}
STUDENT = [*RESIDUAL, "--label_projection=0.75", "--seed=7", "--teacher_weight=0.7"]
GOALS = {"gap_at_20": 0.735, "map": 0.445}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input",
        type=Path,
        default=SHARED_DATA / "yt8m" / "video",
        help="directory of validate0000.tfrecord to validate0099.tfrecord (default: the data beside a "
        "developer's checkout)",
    )
    parser.add_argument("--vocabulary", type=Path, default=SHARED_DATA / "yt8m" / "vocabulary.csv")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("bench_output") / "ensemble",
        help="directory of data and models (default: %(default)s)",
    )
    parser.add_argument("--test", action="store_true", help="score the test shards rather than the tuning shards")
    args = parser.parse_args()
    if not (args.input / "validate0099.tfrecord").exists():
        print(f"ensemble  skipped: {args.input} does not hold validate0000.tfrecord to validate0099.tfrecord")
        return
    work = args.work
    if not (work / "data" / "info.json").exists():
        run_command(
            "pipelines.preprocess",
            f"--train_input={args.input}/validate00[0-7]?.tfrecord",
            f"--validate_input={args.input}/validate008?.tfrecord",
            f"--vocabulary={args.vocabulary}",
            "--normalise=l2",
            f"--output={work}/data",
        )
    for name, flags in MEMBERS.items():
        train(work / name, f"--data={work}/data", *COMMON, *flags)
    run_command(
        "vcls_model.ensemble",
        *(f"--model={work}/{name}" for name in MEMBERS),
        f"--data={work}/data",
        f"--output={work}/ensemble",
        "--overwrite",
    )
    train(work / "student", f"--data={work}/data", *COMMON, *STUDENT, f"--teacher={work}/ensemble")
    records = f"{args.input}/validate00{9 if args.test else 8}?.tfrecord"
    for name in (*MEMBERS, "ensemble", "student"):
        metrics = score(records, work / name, work / f"{name}_scores")
        shown = " ".join(f"{metric.key}={metrics[metric.key]:.4f}" for metric in HEADLINE)
        goals = " ".join(f"{key}_target={goal}" for key, goal in GOALS.items()) if name == "ensemble" else ""
        print(f"ensemble {name} {shown} {goals}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
