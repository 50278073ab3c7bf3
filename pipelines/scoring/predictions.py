"""Predictions as files: Parquet or the Kaggle CSV, and the full logits."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from pipelines.scoring.layout import LOGITS, PREDICTIONS
from vcls_model import storage, tables
from vcls_model.metrics.binning import sigmoid
from vcls_model.records.ids import printable_id

# A part is held in memory until it is complete: some 16 MB of predictions, at most 64 MB of logits.
PART_RECORDS = 1 << 16
PART_LOGIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Labels:
    """True classes of B videos.

    Attributes:
        values: int64 (n,), one video after the other.
        lengths: int64 (B,), labels per video.
        labelled: bool (B,), whether the labels of a video are known.
    """

    values: np.ndarray
    lengths: np.ndarray
    labelled: np.ndarray

    def select(self, rows: np.ndarray) -> "Labels":
        """The labels of the videos that a bool mask (B,) keeps."""
        return Labels(self.values[np.repeat(rows, self.lengths)], self.lengths[rows], self.labelled[rows])


@dataclasses.dataclass(frozen=True)
class Ranked:
    """The predictions of a block of B records.

    Attributes:
        ids: of the records.
        indices, probabilities: int32 and float32 (B, k), the best classes, best first.
        kept: int64 (B,), how many of the k go into the predictions.
        labels: true classes.
    """

    ids: Sequence[bytes]
    indices: np.ndarray
    probabilities: np.ndarray
    kept: np.ndarray
    labels: Labels


class ShardPredictions:
    """Collects one shard's predictions and writes them in parts: `<name>.parquet`, then `<name>.part1.parquet`, ….

    Where a part ends depends on the shard's records alone, so that writing a shard again gives the same files.
    """

    def __init__(
        self, output: str, name: str, *, form: str, full_logits: str, min_probability: float = 0, exact: bool = False
    ) -> None:
        """Args:
        output: the scores directory.
        name: base name of the shard's files.
        form: `parquet` or `kaggle_csv`.
        full_logits: `none`, `float16` or `float32`.
        min_probability: less probable classes are left out.
        exact: a Kaggle CSV has every digit of a confidence rather than six decimals: records are ranked by it.
        """
        self._digits = ".9g" if exact else ".6f"
        self._output = output
        self._name = name
        self._form = form
        self._full_logits = full_logits
        self._min_probability = np.float32(min_probability)
        self._rows: list[Ranked] = []
        self._row_count = 0
        self._part = 0
        self._logit_rows: list[tuple[Sequence[bytes], np.ndarray]] = []
        self._logit_bytes = 0
        self._logit_part = 0

    def add(
        self, ids: Sequence[bytes], indices: np.ndarray, values: np.ndarray, labels: Labels, logits: np.ndarray
    ) -> None:
        """Adds a block of records.

        Args:
            ids: of the B records.
            indices: int32 (B, k), their best classes, best first.
            values: float32 (B, k), the logits of these classes.
            labels: true classes.
            logits: float32 (B, C); used only where full logits are written.
        """
        probabilities = sigmoid(values)
        kept = np.count_nonzero(probabilities >= self._min_probability, axis=1)
        self._rows.append(Ranked(ids, indices, probabilities, kept, labels))
        self._row_count += len(ids)
        if self._row_count >= PART_RECORDS:
            self._write_rows()
        if self._full_logits != "none":
            kept = logits.astype(self._full_logits)
            self._logit_rows.append((ids, kept))
            self._logit_bytes += kept.nbytes
            if self._logit_bytes >= PART_LOGIT_BYTES:
                self._write_logits()

    def finish(self) -> None:
        """Writes what is left; a shard without records gets an empty file, which shows that it was scored."""
        if self._rows or not self._part:
            self._write_rows()
        if self._logit_rows:
            self._write_logits()

    def _write_rows(self) -> None:
        if self._form == "parquet":
            data, suffix = parquet_bytes(self._rows), ".parquet"
        else:
            data, suffix = kaggle_bytes(self._rows, self._digits), ".csv"
        self._write(PREDICTIONS, self._part, suffix, data)
        self._rows, self._row_count = [], 0
        self._part += 1

    def _write_logits(self) -> None:
        self._write(LOGITS, self._logit_part, ".parquet", logit_bytes(self._logit_rows))
        self._logit_rows, self._logit_bytes = [], 0
        self._logit_part += 1

    def _write(self, folder: str, part: int, suffix: str, data: bytes) -> None:
        name = self._name + (f".part{part}" if part else "") + suffix
        with storage.open_atomically(storage.join(self._output, folder, name)) as stream:
            stream.write(data)


def parquet_bytes(blocks: Sequence[Ranked]) -> bytes:
    """One Parquet file: id, class_index, probability (best first), labels (null where a record has none)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("class_index", pa.list_(pa.int32())),
            ("probability", pa.list_(pa.float32())),
            ("labels", pa.list_(pa.int32())),
        ]
    )
    batches = []
    for block in blocks:
        kept = np.arange(block.indices.shape[1]) < block.kept[:, None]
        offsets = pa.array(np.concatenate([[0], np.cumsum(block.kept)]).astype(np.int32))
        label_offsets = pa.array(np.concatenate([[0], np.cumsum(block.labels.lengths)]).astype(np.int32))
        batches.append(
            pa.record_batch(
                [
                    pa.array([printable_id(video_id) for video_id in block.ids], pa.string()),
                    pa.ListArray.from_arrays(offsets, pa.array(block.indices[kept])),
                    pa.ListArray.from_arrays(offsets, pa.array(block.probabilities[kept])),
                    pa.ListArray.from_arrays(
                        label_offsets,
                        pa.array(block.labels.values.astype(np.int32)),
                        mask=pa.array(~block.labels.labelled),
                    ),
                ],
                schema=schema,
            )
        )
    sink = io.BytesIO()
    # Ids and probabilities hardly repeat: a dictionary costs time and saves nothing.
    pq.write_table(
        pa.Table.from_batches(batches, schema), sink, compression="snappy", use_dictionary=False, write_statistics=False
    )
    return sink.getvalue()


def kaggle_bytes(blocks: Sequence[Ranked], digits: str = ".6f") -> bytes:
    """The Kaggle submission format: `VideoId,LabelConfidencePairs`, pairs `class confidence` separated by blanks."""
    rows = []
    for block in blocks:
        for video_id, indices, probabilities, kept in zip(
            block.ids, block.indices.tolist(), block.probabilities.tolist(), block.kept.tolist(), strict=True
        ):
            pairs = " ".join(
                f"{index} {probability:{digits}}"
                for index, probability in zip(indices[:kept], probabilities[:kept], strict=True)
            )
            rows.append((printable_id(video_id), pairs))
    return tables.write_csv(("VideoId", "LabelConfidencePairs"), rows).encode()


def logit_bytes(blocks: Sequence[tuple[Sequence[bytes], np.ndarray]]) -> bytes:
    """One Parquet file: id, logits (a list of C values, float16 or float32)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = blocks[0][1].shape[1]
    logits = np.concatenate([values for _, values in blocks])
    table = pa.table(
        {
            "id": pa.array([printable_id(video_id) for ids, _ in blocks for video_id in ids], pa.string()),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), width),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()
