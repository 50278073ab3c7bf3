"""What a run writes after each epoch: `history.csv` and TensorBoard's scalars."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vcls_model import storage

# Headline metrics of the validation split, as `MetricResult.summary` calls them.
VALIDATION_METRICS = ("map", "gap_at_20", "hit_at_1", "perr")
HISTORY_COLUMNS = (
    "epoch",
    "examples",
    "loss",
    "learning_rate",
    "val_loss",
    *(f"val_{name}" for name in VALIDATION_METRICS),
    "train_seconds",
    "examples_per_second",
)

Row = dict[str, Any]  # by HISTORY_COLUMNS


def write_history(output: str, history: Sequence[Row]) -> None:
    """Writes the whole history and the scalars of its last epoch.

    Args:
        output: directory of the model.
        history: one row per epoch.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, HISTORY_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(history)
    storage.write_text(storage.join(output, "history.csv"), stream.getvalue())
    newest = history[-1]
    log = tf.summary.create_file_writer(storage.join(output, "logs"))
    with log.as_default(step=newest["epoch"]):
        for name, value in newest.items():
            if name != "epoch":
                tf.summary.scalar(name, value)
    log.close()
