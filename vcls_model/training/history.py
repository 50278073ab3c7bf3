"""What a run writes after each epoch: `history.csv` and TensorBoard's scalars."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vcls_model import storage, tables
from vcls_model.metrics.catalogue import IN_HISTORY, history_column

HISTORY_COLUMNS = (
    "epoch",
    "examples",
    "loss",
    "learning_rate",
    "val_loss",
    *(history_column(metric.key) for metric in IN_HISTORY),
    "train_seconds",
    "examples_per_second",
)

EpochRow = dict[str, Any]  # by HISTORY_COLUMNS


def write_history(output: str, history: Sequence[EpochRow]) -> None:
    """Writes the whole history and the scalars of its last epoch.

    Args:
        output: directory of the model.
        history: one row per epoch.
    """
    rows = [[row.get(name, "") for name in HISTORY_COLUMNS] for row in history]
    storage.write_text(storage.join(output, "history.csv"), tables.write_csv(HISTORY_COLUMNS, rows))
    newest = history[-1]
    log = tf.summary.create_file_writer(storage.join(output, "logs"))
    with log.as_default(step=newest["epoch"]):
        for name, value in newest.items():
            if name != "epoch":
                tf.summary.scalar(name, value)
    log.close()
