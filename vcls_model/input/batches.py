"""Cuts blocks of records into shuffled batches of arrays.

A batch's arrays are filled straight from the bytes of the shards, by threads; nothing is copied twice, and of frames
only those that were chosen. A batch that one block cannot fill goes on with the next.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.input.blocks import Layout, RecordBlock, is_remote, read_blocks
from vcls_model.input.options import InputOptions
from vcls_model.records import kernels
from vcls_model.records.listed_shards import ListedShard
from vcls_model.records.schema import FRAMES, TEXT, Modality
from vcls_model.records.transformed import presence_name

SHARDS_OPEN = 16
# A block of video-level records stays in the processor's cache from disk to batch. One of frames must hold a few
# hundred videos, or it shuffles too little.
VIDEO_BLOCK_BYTES = 2**23
FRAME_BLOCK_BYTES = 2**26
LABEL_WIDTH_STEP = 8
TOKEN_STEP = 32
# TensorFlow takes over an array without a copy when it begins at a multiple of this.
_ALIGNMENT = 64
_TASK_BYTES = 2**21
_MAX_THREADS = 8
_SAMPLINGS = {
    "all": kernels.ALL_FRAMES,
    "middle": kernels.MIDDLE_FRAMES,
    "random": kernels.RANDOM_FRAMES,
    "sequence": kernels.FRAME_SEQUENCE,
    "uniform": kernels.UNIFORM_FRAMES,
}


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Which batches of a list of shards to make; the fields are those of `vcls_model.input.dataset.make_batches`."""

    shards: Sequence[ListedShard]
    modalities: Sequence[Modality]
    options: InputOptions
    epoch: int | None = None
    skip_batches: int = 0
    drop_remainder: bool = False
    with_ids: bool = False
    repeat: bool = False
    presence: bool = False


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """An uninitialised array that TensorFlow can take over without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _shard_order(plan: BatchPlan) -> Iterator[int]:
    """Numbers of the shards in the order of the epoch; without end when repeated."""
    order = np.arange(len(plan.shards))
    if plan.epoch is not None:
        order = np.random.default_rng([plan.options.seed, plan.epoch]).permutation(order)
    while True:
        yield from order.tolist()
        if not plan.repeat:
            return


class _Batch:
    """A batch under construction."""

    def __init__(self, layout: Layout, plan: BatchPlan, steps: int) -> None:
        size = plan.options.batch_size
        self.filled = 0
        self.copies: list[Future[None]] = []
        self.shard = _aligned((size,), np.int32)
        self.kept = _aligned((size,), np.int32)
        self.labels = np.full((size, LABEL_WIDTH_STEP), -1, np.int32)
        self.ids: list[bytes] = []
        self.steps = steps
        self.features = {
            modality.name: _aligned((size, steps, modality.width), np.uint8)
            if modality.kind == FRAMES
            else np.zeros((size, TOKEN_STEP), np.int64 if modality.timed else np.int32)
            if modality.kind == TEXT
            else _aligned((size, modality.width), np.float32)
            for modality in layout.modalities
        }
        if plan.presence:
            for modality in layout.modalities:
                if modality.kind != TEXT:
                    self.features[presence_name(modality.name)] = _aligned((size,), np.float32)

    def widen_labels(self, longest: int) -> None:
        self.labels = _widened(self.labels, longest, LABEL_WIDTH_STEP, -1)

    def widen_tokens(self, name: str, longest: int) -> None:
        self.features[name] = _widened(self.features[name], longest, TOKEN_STEP, 0)

    def element(self, layout: Layout, plan: BatchPlan) -> dict[str, Any]:
        """The finished batch, when all copies are done."""
        for copy in self.copies:
            copy.result()
        rows = self.filled
        features: dict[str, np.ndarray] = {name: value[:rows] for name, value in self.features.items()}
        element: dict[str, Any] = {"labels": self.labels[:rows], "shard": self.shard[:rows], "features": features}
        if layout.has_frames:
            kept = features["num_frames"] = self.kept[:rows]
            longest = max(1, int(kept.max()))
            if not _fixed_steps(plan.options) and longest < self.steps:
                for modality in layout.modalities:
                    if modality.kind == FRAMES:
                        shorter = _aligned((rows, longest, modality.width), np.uint8)
                        shorter[:] = features[modality.name][:, :longest]
                        features[modality.name] = shorter
        if plan.with_ids:
            element["id"] = np.array(self.ids, object)
        return element


def _widened(rows: np.ndarray, longest: int, step: int, filling: int) -> np.ndarray:
    """Rows with room for `longest` values, in multiples of `step`, so that few shapes occur."""
    missing = longest - rows.shape[1]
    if missing <= 0:
        return rows
    return np.pad(rows, ((0, 0), (0, missing + -missing % step)), constant_values=filling)


def _fixed_steps(options: InputOptions) -> bool:
    return options.fixed_frames or options.frames != "all"


class _Cutter:
    """Turns blocks into batches."""

    def __init__(self, plan: BatchPlan, layout: Layout, pool: ThreadPoolExecutor) -> None:
        self._plan = plan
        self._layout = layout
        self._pool = pool
        self._skip = plan.skip_batches * plan.options.batch_size
        self._videos = 0  # of the epoch, skipped ones included: part of the seed of each video's frames
        self._blocks = 0
        self._batch: _Batch | None = None
        self._texts = [number for number, modality in enumerate(layout.modalities) if modality.kind == TEXT]

    def batches(self, block: RecordBlock) -> Iterator[dict[str, Any]]:
        """The batches that a block completes. When this ends, the block may be reused."""
        plan, size = self._plan, self._plan.options.batch_size
        rows = np.arange(len(block.index))
        if plan.epoch is not None:
            rows = np.random.default_rng([plan.options.seed, plan.epoch, self._blocks]).permutation(rows)
        self._blocks += 1
        skipped = min(self._skip, len(rows))
        self._skip -= skipped
        self._videos += skipped
        rows = rows[skipped:]
        full: list[_Batch] = []
        while len(rows):
            if self._batch is None:
                self._batch = _Batch(self._layout, plan, self._steps(block, rows))
            part, rows = np.split(rows, [size - self._batch.filled])
            self._fill(self._batch, block, part)
            if self._batch.filled == size:
                full.append(self._batch)
                self._batch = None
        for batch in full:
            yield batch.element(self._layout, plan)
        for copy in self._batch.copies if self._batch else ():
            copy.result()

    def rest(self) -> Iterator[dict[str, Any]]:
        """The last batch, which is not full, unless the plan drops it."""
        if self._batch is not None and not self._plan.drop_remainder:
            yield self._batch.element(self._layout, self._plan)

    def _steps(self, block: RecordBlock, rows: np.ndarray) -> int:
        """Frames for which a batch that begins with these rows has room."""
        limit = self._plan.options.max_frames
        size = self._plan.options.batch_size
        if _fixed_steps(self._plan.options) or len(rows) < size or not self._layout.has_frames:
            return limit
        return max(1, min(limit, int(block.index[rows[:size], kernels.FRAMES].max())))

    def _fill(self, batch: _Batch, block: RecordBlock, rows: np.ndarray) -> None:
        """Adds records to a batch: small values here, large ones in the threads."""
        options = self._plan.options
        index = block.index[rows]
        places = np.arange(batch.filled, batch.filled + len(rows))
        batch.shard[places] = block.shards[rows]
        kept = np.zeros(len(rows), np.int32)
        positions = np.zeros((len(rows), 0), np.int32)
        if self._layout.has_frames:
            kept = batch.kept[batch.filled : batch.filled + len(rows)]
            positions = np.empty((len(rows), min(options.max_frames, batch.steps)), np.int32)
            seed = (options.seed << 32) + (self._plan.epoch or 0)
            kernels.choose_frames(
                index[:, kernels.FRAMES],
                options.max_frames,
                _SAMPLINGS[options.frames],
                seed,
                self._videos,
                positions,
                kept,
            )
            if self._plan.presence:  # a video of other modalities alone counts as one empty frame
                np.maximum(kept, 1, out=kept)
        if self._plan.presence:
            for number, modality in enumerate(self._layout.modalities):
                if modality.kind != TEXT:
                    batch.features[presence_name(modality.name)][places] = index[:, kernels.INDEX_COLUMNS + number] >= 0
        batch.widen_labels(int(index[:, kernels.LABEL_COUNT].max()))
        for number in self._texts:
            longest = int(index[:, self._layout.places.stop + number].max())
            batch.widen_tokens(self._layout.modalities[number].name, longest)
        rewritten = block.rewritten[rows]
        for source, chosen in ((block.buffer, np.flatnonzero(~rewritten)), (block.extra, np.flatnonzero(rewritten))):
            if not len(chosen):
                continue
            part = index[chosen]
            kernels.copy_labels(
                source, part[:, kernels.LABELS_BEGIN], part[:, kernels.LABEL_COUNT], places[chosen], batch.labels
            )
            for number in self._texts:
                begins = part[:, self._layout.places.start + number]
                counts = part[:, self._layout.places.stop + number]
                modality = self._layout.modalities[number]
                tokens = batch.features[modality.name]
                kernels.copy_labels(source, begins, counts, places[chosen], tokens)
                if modality.timed and self._layout.has_frames and options.frames != "all":
                    own = tokens[places[chosen]]
                    kernels.move_lines(own, np.ascontiguousarray(counts), positions[chosen], kept[chosen])
                    tokens[places[chosen]] = own
            for some in self._tasks(batch, len(chosen)):
                which = chosen[some]
                batch.copies.append(
                    self._pool.submit(
                        self._copy, batch, source, part[some], places[which], positions[which], kept[which]
                    )
                )
        if self._plan.with_ids:
            for row, other in zip(index, rewritten, strict=True):
                source = block.extra if other else block.buffer
                batch.ids.append(source[row[kernels.ID_BEGIN] : row[kernels.ID_END]].tobytes())
        batch.filled += len(rows)
        self._videos += len(rows)

    def _tasks(self, batch: _Batch, count: int) -> Iterator[slice]:
        row_bytes = max(1, sum(value[0].nbytes for value in batch.features.values()))
        step = max(1, _TASK_BYTES // row_bytes)
        for begin in range(0, count, step):
            yield slice(begin, begin + step)

    def _copy(
        self,
        batch: _Batch,
        source: np.ndarray,
        index: np.ndarray,
        places: np.ndarray,
        positions: np.ndarray,
        kept: np.ndarray,
    ) -> None:
        for number, modality in enumerate(self._layout.modalities):
            if modality.kind == TEXT:
                continue  # copied already, as labels are
            target = batch.features[modality.name].reshape(-1).view(np.uint8)
            begins = index[:, kernels.INDEX_COLUMNS + number]
            if modality.kind == FRAMES:
                kernels.copy_frames(source, begins, places, positions, kept, modality.width, batch.steps, target)
            else:
                kernels.copy_vectors(source, begins, places, 4 * modality.width, target)


def array_batches(plan: BatchPlan) -> Iterator[dict[str, Any]]:
    """The batches of a plan as numpy arrays, see `vcls_model.input.dataset.make_batches`.

    Raises:
        ShardError: a shard is corrupt or holds something else.
    """
    layout = Layout(plan.modalities, plan.with_ids)
    remote = any(is_remote(shard.path) for shard in plan.shards)
    # Threads that wait for a network do not need a core each.
    threads = SHARDS_OPEN if remote else max(2, min(_MAX_THREADS, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(threads, "read") as pool:
        blocks = read_blocks(
            plan.shards,
            _shard_order(plan),
            layout,
            pool=pool,
            shards_open=1 if plan.epoch is None else min(SHARDS_OPEN, len(plan.shards)),
            block_bytes=FRAME_BLOCK_BYTES if layout.has_frames else VIDEO_BLOCK_BYTES,
        )
        cutter = _Cutter(plan, layout, pool)
        empty = 0
        try:
            for block in blocks:
                empty = 0 if len(block.index) else empty + 1
                if empty > len(plan.shards):
                    break  # repeating nothing would never end
                yield from cutter.batches(block)
            yield from cutter.rest()
        finally:
            blocks.close()
