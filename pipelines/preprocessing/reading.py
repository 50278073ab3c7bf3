"""Reading a shard as both passes over the records do, so that they see the same batches."""

from collections.abc import Iterator

import numpy as np

from pipelines.preprocessing.config import Shard, TransformConfig
from vcls_model.records.decoding import RawBatch, Rejected
from vcls_model.records.shards import read_batches
from vcls_model.records.splits import splits_of


def read_shard(shard: Shard, config: TransformConfig) -> Iterator[tuple[RawBatch, list[Rejected], np.ndarray]]:
    """Batches of a shard, the records rejected, and the split (index into `SPLITS`) of each record, int64 (B,)."""
    for batch, rejected in read_batches(
        shard.path,
        config.schema,
        class_count=config.class_count,
        max_frames=config.max_frames,
        missing_modality=config.missing_modality,
        require_labels=not config.allow_unlabelled,
        class_names=config.class_names,
    ):
        if shard.split is not None:
            splits = np.full(len(batch), shard.split)
        else:
            assert config.ratios is not None
            splits = splits_of(batch.split_ids, config.ratios)
        yield batch, rejected, splits
