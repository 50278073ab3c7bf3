"""Makes Scores directories for the tests: invented logits and labels, counted by the project's own metrics."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

from pipelines.reporting.scores import Example, Scores
from vcls_model.metrics import MetricAccumulator, SegmentAccumulator
from vcls_model.vocabulary import ClassInfo, write_labels_csv

EVIL = '<script>document.title="owned"</script> & "quotes" \u2028'
VERTICALS = ("Games", "Arts & Entertainment", "Food & Drink", "Science")


def vocabulary(class_count: int, *, verticals: bool = True) -> list[ClassInfo]:
    """Classes 0 … C − 1, the more frequent the lower the index; class 3 is called as an attacker would call it."""
    return [
        ClassInfo(
            index,
            EVIL if index == 3 else f"Thing {index}",
            (VERTICALS[index % len(VERTICALS)],) if verticals else (),
            max(1, 20000 // (index + 1)),
        )
        for index in range(class_count)
    ]


def labels_and_logits(
    videos: int, class_count: int, seed: int, skill: float = 3.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Labels by a power law over classes, and logits that know them as well as `skill` says.

    Classes 1 and 2 come together in nine of ten videos that have either.
    """
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, class_count + 1)
    labels = []
    for _ in range(videos):
        chosen = set(generator.choice(class_count, size=generator.integers(1, 5), p=weights / weights.sum()).tolist())
        if chosen & {1, 2} and generator.random() < 0.9:
            chosen |= {1, 2}
        labels.append(np.array(sorted(chosen), np.int64))
    logits = generator.normal(-5, 1.2, (videos, class_count)).astype(np.float32)
    known = skill * (0.4 + generator.random(class_count))
    for row, present in enumerate(labels):
        logits[row, present] += (known[present] + generator.normal(0, 1.5, len(present))).astype(np.float32)
    return labels, logits


def write_scores(
    directory: Path,
    *,
    videos: int = 300,
    class_count: int = 40,
    seed: int = 1,
    skill: float = 5.0,
    verticals: bool = True,
    thresholds: bool = True,
    info: dict[str, Any] | None = None,
    classes: list[ClassInfo] | None = None,
    only: list[int] | None = None,
) -> Path:
    """Writes a Scores directory as the score job does; returns it. `only` are the labels of every video, if given."""
    directory.mkdir(parents=True, exist_ok=True)
    classes = classes or vocabulary(class_count, verticals=verticals)
    class_count = len(classes)
    labels, logits = labels_and_logits(videos, max(class_count, 4), seed, skill)
    logits = logits[:, :class_count]
    if only is not None:
        labels = [np.array(only, np.int64)] * videos
    accumulator = MetricAccumulator(class_count, class_thresholds=np.full(class_count, 0.2) if thresholds else None)
    accumulator.update(
        logits,
        np.concatenate(labels),
        np.array([len(row) for row in labels], np.int64),
        [f"v{row:03d}".encode() for row in range(videos)],
    )
    for name, data in accumulator.result().to_files(classes).items():
        (directory / name).write_bytes(data)
    write_predictions(directory, logits, labels)
    (directory / "labels.csv").write_text(write_labels_csv(classes), "utf-8")
    (directory / "history.csv").write_text(
        "epoch,loss,val_loss,val_map,val_gap_at_20\n1,0.02,0.018,0.2,0.4\n"
        "2,0.015,0.014,0.3,0.5\n3,0.012,0.013,0.35,0.55\n"
    )
    write_info(directory, videos=videos, labelled=videos, class_count=class_count, extra=info)
    return directory


def add_segments(
    directory: Path, class_count: int, classes: Sequence[int], logits: Sequence[float], ratings: Sequence[int]
) -> None:
    """Adds the metrics of rated segments to a Scores directory, as the score job does."""
    accumulator = SegmentAccumulator(class_count)
    accumulator.update(classes, logits, ratings)
    summary, table = accumulator.to_files(vocabulary(class_count))
    metrics = json.loads((directory / "metrics.json").read_text("utf-8"))
    (directory / "metrics.json").write_text(json.dumps({**metrics, "segments": summary}), "utf-8")
    (directory / "segment_per_class.csv").write_bytes(table)


def write_unlabelled(directory: Path, *, videos: int = 50, class_count: int = 40) -> Path:
    """A Scores directory of records that carried no labels."""
    directory.mkdir(parents=True, exist_ok=True)
    _, logits = labels_and_logits(videos, class_count, 2, 5.0)
    write_predictions(directory, logits, None)
    (directory / "labels.csv").write_text(write_labels_csv(vocabulary(class_count)), "utf-8")
    write_info(directory, videos=videos, labelled=0, class_count=class_count)
    return directory


def write_predictions(directory: Path, logits: np.ndarray, labels: list[np.ndarray] | None) -> None:
    """Parquet of the 20 best classes of each video."""
    best = np.argsort(-logits, axis=1)[:, :20]
    probability = 1 / (1 + np.exp(-np.take_along_axis(logits, best, axis=1)))
    (directory / "predictions").mkdir(exist_ok=True)
    table = pyarrow.table(
        {
            "id": [f"v{row:03d}" for row in range(len(logits))],
            "class_index": pyarrow.array(best.tolist(), pyarrow.list_(pyarrow.int32())),
            "probability": pyarrow.array(probability.tolist(), pyarrow.list_(pyarrow.float32())),
            "labels": pyarrow.array(
                [None] * len(logits) if labels is None else [row.tolist() for row in labels],
                pyarrow.list_(pyarrow.int32()),
            ),
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    (directory / "predictions" / "shard-0.parquet").write_bytes(sink.getvalue())


def write_info(
    directory: Path, *, videos: int, labelled: int, class_count: int, extra: dict[str, Any] | None = None
) -> None:
    """The manifest, with two records rejected."""
    schema = {
        "name": "yt8m-video",
        "container": "example",
        "id_feature": "id",
        "labels_feature": "labels",
        "modalities": [{"name": "mean_rgb", "width": 1024, "level": "video", "encoding": "float32"}],
        "class_count": class_count,
        "segments": False,
    }
    (directory / "dead_letter").mkdir(exist_ok=True)
    (directory / "dead_letter" / "shard-0.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "shard": "shard-0",
                    "offset": 4700 * place,
                    "id": None,
                    "stage": "framing",
                    "error": "bad_checksum",
                    "message": "the <b>checksum</b> of the data is wrong",
                }
            )
            + "\n"
            for place in range(2)
        )
    )
    model = {
        "class_count": class_count,
        "schema": schema,
        "model": {
            "name": "dense",
            "hyperparameters": {"hidden_units": 1024, "dropout": 0.0},
            "parameter_count": 5139222,
        },
        "training": {"examples": 1600, "epochs": 3, "best_epoch": 3, "wall_seconds": 42.0, "seed": 7},
        "split": {"method": "hash", "ratios": [0.7, 0.2, 0.1]},
        "data": {
            "path": "transformed",
            "records_read": 2300,
            "records_written": 2300,
            "records_rejected": 0,
            "splits": {"train": {"records": 1600, "shards": 8}, "test": {"records": 240, "shards": 8}},
        },
    }
    value: dict[str, Any] = {
        "records_read": videos + 2,
        "records_written": videos,
        "records_rejected": 2,
        "rejected_by_reason": {"bad_checksum": 2},
        "records_labelled": labelled,
        "split": "test",
        "top_k": 20,
        "threshold": 0.5,
        "models": [{"name": "model", "path": "model", "info": model}],
        "schema": schema,
        "class_count": class_count,
        "config": {},
        "versions": {},
        "wall_seconds": 3.0,
        **(extra or {}),
    }
    (directory / "info.json").write_text(json.dumps(value))


def make_scores(
    *,
    support: Sequence[float],
    ap: Sequence[float],
    names: Sequence[str] | None = None,
    verticals: Sequence[tuple[str, ...]] | None = None,
    confusion: Sequence[tuple[int, int, int]] = (),
    train_count: Sequence[float] | None = None,
    examples: dict[str, list[Example]] | None = None,
    history: dict[str, Sequence[float]] | None = None,
    info: dict[str, Any] | None = None,
    videos: int = 1000,
    **columns: Sequence[float],
) -> Scores:
    """A run in memory; columns of per_class.csv that are not given are unknown."""
    count = len(support)
    keys = (
        "roc_auc",
        "precision",
        "recall",
        "f1",
        "tp",
        "fp",
        "fn",
        "ap_lower",
        "ap_upper",
        "ap_ci_low",
        "ap_ci_high",
        "tn",
        "best_threshold",
        "precision_best",
        "recall_best",
        "f1_best",
        "calibration_error",
        "mean_probability",
    )
    table = {key: np.array(columns.get(key, [np.nan] * count), np.float64) for key in keys}
    table |= {"index": np.arange(count), "support": np.array(support, np.float64), "ap": np.array(ap, np.float64)}
    return Scores(
        path="scores",
        info={"split": "test", "threshold": 0.5, **(info or {})},
        summary={"videos": videos},
        names=list(names or [f"Thing {index}" for index in range(count)]),
        verticals=list(verticals or [()] * count),
        train_count=np.array(train_count if train_count is not None else [np.nan] * count, np.float64),
        columns=table,
        curves={},
        confusion=np.array(confusion, np.int64).reshape(-1, 3),
        examples=examples or {},
        history={key: np.array(values, np.float64) for key, values in (history or {}).items()},
    )
