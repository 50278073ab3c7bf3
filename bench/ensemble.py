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
from vcls_model.models.recipes import ENSEMBLES  # noqa: E402

STUDENT = ["--model=residual", "--seed=7", "--teacher_weight=0.7"]
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
            f"--output={work}/data",
        )
    ensemble = work / "ensemble"
    if not (ensemble / "info.json").exists():
        run_command("vcls_model.ensemble", "--recipe=best", f"--data={work}/data", f"--output={ensemble}", "--resume")
    train(work / "student", f"--data={work}/data", *STUDENT, f"--teacher={ensemble}")
    records = f"{args.input}/validate00{9 if args.test else 8}?.tfrecord"
    members = {name: ensemble / "members" / name for name in ENSEMBLES["video"]}
    for name, model in {**members, "ensemble": ensemble, "student": work / "student"}.items():
        metrics = score(records, model, work / f"{name}_scores")
        shown = " ".join(f"{metric.key}={metrics[metric.key]:.4f}" for metric in HEADLINE)
        goals = " ".join(f"{key}_target={goal}" for key, goal in GOALS.items()) if name == "ensemble" else ""
        print(f"ensemble {name} {shown} {goals}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
