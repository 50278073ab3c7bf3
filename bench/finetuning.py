"""What pretraining is worth on real YouTube-8M video-level records: a model pretrained on other classes and fitted to
200 new ones with few positives each, against the same model fitted from scratch.

    python bench/finetuning.py [--positives=20] [--input=VIDEO_DIRECTORY] [--work=DIRECTORY]

The shards `validate0000` to `validate0079` train, `0080` to `0089` choose the epoch, `0090` to `0099` test. In so few
shards no class from 2,000 on has more than 7 positives. So the new classes are taken, evenly spread, from the first
2,000, and those that are left are what is pretrained on. No video of the new classes' training set is pretrained on,
and those that are do not tell which of the new classes they carry. Every step is one of the project's own commands,
which are printed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project_commands import SHARED_DATA, run_command, score, train  # noqa: E402

OLD_CLASSES = 2000
NEW_CLASSES = 200
# A class with few more positives than it needs may not get them: they share videos with classes that have theirs.
CANDIDATE_POSITIVES = 30

Labels = Sequence[Sequence[int]]
MODEL = [
    "--model=residual",
    "--recipe=none",
    "--label_projection=0.75",
    "--input_dropout=0.3",
    "--modality_norm=unit",
    "--class_prior",
    "--decay=cosine",
    "--patience=0",
    "--mixup=0.4",
]
PRETRAIN = [
    "--batch_size=256",
    "--learning_rate=0.002",
    "--warmup_examples=9000",
    "--epochs=5",
    "--precision=mixed_bfloat16",
]
# The best validation mAP of what was tried for each, with 20 positives.
FITTED = ["--batch_size=64", "--learning_rate=0.001"]
EPOCHS_OF_20_POSITIVES = 12


def choose_positives(labels: Labels, candidates: Iterable[int], positives: int) -> dict[int, list[int]]:
    """Videos that give candidate classes exactly `positives` positives each, where that can be.

    Args:
        labels: class indices of each video.
        candidates: classes, in the order in which they choose.
        positives: number of positives to give each class.

    Returns:
        The chosen videos' candidate classes by video; a class has `positives` of them or fewer.
    """
    candidates = list(candidates)
    wanted = set(candidates)
    carried = [[label for label in video if label in wanted] for video in labels]
    videos_of: dict[int, list[int]] = {label: [] for label in candidates}
    for number, video in enumerate(carried):
        for label in video:
            videos_of[label].append(number)
    counts = dict.fromkeys(candidates, 0)
    chosen: dict[int, list[int]] = {}
    for label in candidates:
        for number in videos_of[label]:
            if counts[label] == positives:
                break
            if number not in chosen and all(counts[other] < positives for other in carried[number]):
                chosen[number] = carried[number]
                for other in carried[number]:
                    counts[other] += 1
    return chosen


def choose_classes(labels: Labels, positives: int) -> tuple[list[int], dict[int, list[int]]]:
    """The new classes in ascending order, and the labels among them of each video of their training set.

    Raises:
        SystemExit: the shards hold too few videos.
    """
    counts: dict[int, int] = {}
    for video in labels:
        for label in video:
            counts[label] = counts.get(label, 0) + 1
    # The rarest choose first; the most frequent could not get few positives, as they share videos with most others.
    candidates = sorted(
        (
            label
            for label, count in counts.items()
            if label < OLD_CLASSES and CANDIDATE_POSITIVES <= count <= len(labels) // 50
        ),
        key=lambda label: (counts[label], label),
    )
    chosen = choose_positives(labels, candidates, positives)
    reached = dict.fromkeys(candidates, 0)
    for video in chosen.values():
        for label in video:
            reached[label] += 1
    complete = sorted(label for label in candidates if reached[label] == positives)
    if len(complete) < NEW_CLASSES:
        raise SystemExit(f"only {len(complete)} classes have {positives} positives in these shards")
    new = [complete[position * len(complete) // NEW_CLASSES] for position in range(NEW_CLASSES)]
    kept = set(new)
    mine = {number: [label for label in video if label in kept] for number, video in chosen.items()}
    return new, {number: video for number, video in mine.items() if video}


def read_labels(paths: Iterable[Path]) -> list[list[int]]:
    """Labels of each record of video-level shards, in order."""
    import tensorflow as tf

    return [
        list(tf.train.Example.FromString(record).features.feature["labels"].int64_list.value)
        for path in paths
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


def write_relabelled(paths: Sequence[Path], new_labels: Sequence[Sequence[int]], output: Path) -> None:
    """Copies records with other labels, leaving out those that have none."""
    import tensorflow as tf

    output.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    with tf.io.TFRecordWriter(str(output)) as writer:
        for path in paths:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                if new_labels[number]:
                    example = tf.train.Example.FromString(record)
                    example.features.feature["labels"].int64_list.value[:] = new_labels[number]
                    writer.write(example.SerializeToString())
                number += 1


def write_data(videos: Path, work: Path, positives: int) -> None:
    """Writes records and vocabularies of both tasks, the old classes and the new ones."""
    to_train, to_validate, to_test = (
        [videos / f"validate{number:04d}.tfrecord" for number in numbers]
        for numbers in (range(80), range(80, 90), range(90, 100))
    )
    labels = read_labels(to_train)
    new, chosen = choose_classes(labels, positives)
    new_index = {label: position for position, label in enumerate(new)}
    old = [label for label in range(OLD_CLASSES) if label not in new_index]
    old_index = {label: position for position, label in enumerate(old)}

    def renamed(all_labels: Labels, index: dict[int, int]) -> list[list[int]]:
        return [[index[label] for label in video if label in index] for video in all_labels]

    old_labels = [[] if number in chosen else video for number, video in enumerate(renamed(labels, old_index))]
    new_labels = [[new_index[label] for label in chosen.get(number, [])] for number in range(len(labels))]
    write_relabelled(to_train, old_labels, work / "old-train.tfrecord")
    write_relabelled(to_train, new_labels, work / "new-train.tfrecord")
    for name, paths in (("validate", to_validate), ("test", to_test)):
        split_labels = read_labels(paths)
        for task, index in (("old", old_index), ("new", new_index)):
            write_relabelled(paths, renamed(split_labels, index), work / f"{task}-{name}.tfrecord")
    for task, index in (("old", old_index), ("new", new_index)):
        rows = [f"{position},class {label}" for label, position in index.items()]
        (work / f"{task}-vocabulary.csv").write_text("\n".join(["Index,Name", *rows]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input",
        type=Path,
        default=SHARED_DATA / "yt8m" / "video",
        help="directory of validate0000.tfrecord to validate0099.tfrecord (default: the data beside a "
        "developer's checkout)",
    )
    parser.add_argument("--positives", type=int, default=20, help="of each new class (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="directory to keep data and models in (default: a temporary one)")
    args = parser.parse_args()
    if not (args.input / "validate0099.tfrecord").exists():
        print(f"finetuning  skipped: {args.input} does not hold validate0000.tfrecord to validate0099.tfrecord")
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        if not (work / "new" / "info.json").exists():
            write_data(args.input, work, args.positives)
            for task in ("old", "new"):
                run_command(
                    "pipelines.preprocess",
                    f"--train_input={work}/{task}-train.tfrecord",
                    f"--validate_input={work}/{task}-validate.tfrecord",
                    "--normalise=l2",
                    f"--vocabulary={work}/{task}-vocabulary.csv",
                    f"--output={work}/{task}",
                    "--overwrite",
                )
        train(work / "pretrained", f"--data={work}/old", *MODEL, *PRETRAIN)
        # As many steps whatever the number of videos.
        fit = [f"--data={work}/new", *MODEL, *FITTED, f"--epochs={EPOCHS_OF_20_POSITIVES * 20 // args.positives}"]
        train(work / "scratch", *fit)
        train(work / "tuned", *fit, f"--init_from={work}/pretrained", "--new_head")
        scores = {
            name: score(f"{work}/new-test.tfrecord", work / name, work / f"{name}_scores")["map"]
            for name in ("scratch", "tuned")
        }
    gain = scores["tuned"] - scores["scratch"]
    print(
        f"finetuning positives={args.positives} map={scores['tuned']:.4f} from_scratch={scores['scratch']:.4f} "
        f"gain={gain:.4f} target=0.05"
    )


if __name__ == "__main__":
    main()
