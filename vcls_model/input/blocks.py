"""Reads transformed shards in blocks: pieces of several shards in one buffer, with an index of their records.

A piece is the next few hundred kilobytes to megabytes of a shard, so that the disk is read in long runs and a block
mixes records from many places. Threads read, check and index the pieces of the next block while the current one is
used; two buffers take turns, and memory does not depend on the size of the data.

Records are taken in the canonical encoding, that of protocol buffers' own writers. One in another encoding is rewritten
and put into a second buffer of its block; one that is not a transformed record ends the reading.
"""

import collections
import dataclasses
import io
import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, cast

import numpy as np

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.records import examples, kernels
from vcls_model.records.listed_shards import ListedShard
from vcls_model.records.schema import FRAMES, TEXT, Modality
from vcls_model.records.transformed import presence_name

_PIECE_RECORDS = 512
_STOPPED = {
    kernels.BAD_LENGTH: "the length of a record is damaged",
    kernels.TRUNCATED: "the last record is cut off",
    kernels.BAD_PAYLOAD: "the checksum of a record is wrong",
}
# Nothing that a record claims may make the reader reserve more than this.
_MAX_FRAME_BYTES = 1 << 30


class ShardError(JobError):
    """A shard cannot be read; the message names it and the reason."""

    @classmethod
    def about(cls, path: str, reason: str) -> "ShardError":
        """The error for a path and a reason."""
        return cls(f"{path} cannot be read ({' '.join(reason.split())}): preprocess again")


class Layout:
    """What to read of a record, as the kernels take it.

    Args:
        modalities: the features.
        with_ids: the id, too.
    """

    def __init__(self, modalities: Sequence[Modality], with_ids: bool) -> None:
        self.modalities = tuple(modalities)
        self.with_ids = with_ids
        self.has_frames = any(modality.kind == FRAMES for modality in modalities)
        names = [
            b"id" if with_ids else b"",
            b"labels",
            b"num_frames" if self.has_frames else b"",
            *(modality.name.encode() for modality in modalities),
            *(presence_name(modality.name).encode() for modality in modalities),
        ]
        self.names = np.frombuffer(bytearray().join(names), np.uint8)
        self.name_ends = np.cumsum([len(name) for name in names])
        kinds = {FRAMES: kernels.BYTE_MATRIX, TEXT: kernels.INTEGERS}
        self.kinds = np.array([kinds.get(each.kind, kernels.FLOAT_VECTOR) for each in modalities], np.int64)
        texts = any(modality.kind == TEXT for modality in modalities)
        self.places = slice(kernels.INDEX_COLUMNS, kernels.INDEX_COLUMNS + len(self.kinds))
        self.columns = self.places.stop + (len(self.kinds) if texts else 0)
        self.widths = np.array([modality.width for modality in modalities], np.int64)

    def index(self, buffer: np.ndarray, filled: int, last: bool) -> tuple[np.ndarray, int, int, int]:
        """Indexes the records in buffer[:filled]: (index, what stopped it, where, end of the data needed next)."""
        index = np.empty((_PIECE_RECORDS, self.columns), np.int64)
        stop, at, count, wanted = kernels.FULL, 0, 0, 0
        while True:
            stop, at, count, wanted = kernels.index_transformed(
                buffer, at, filled, last, self.names, self.name_ends, self.kinds, self.widths, index, count
            )
            if stop != kernels.FULL:
                return index[:count], stop, at, wanted
            index = np.concatenate([index, np.empty_like(index)])

    def rewritten(self, payload: bytes) -> bytes:
        """The record in the canonical encoding, with nothing but the features to be read.

        Raises:
            ValueError: it lacks a feature, or has one of another kind or size; the message says which.
        """
        try:
            features = examples.parse_record(payload).features
        except examples.ExampleError:
            raise ValueError("a record is not a tf.train.Example") from None
        target: dict[str, examples.Feature] = {}
        if self.with_ids:
            target["id"] = examples.bytes_feature(*_values(features, "id", "bytes", 1))
        if "labels" in features and features["labels"].kind is not None:
            target["labels"] = examples.int64_feature(_values(features, "labels", "int64", None))
        frames = 0
        if self.has_frames:
            frames = _values(features, "num_frames", "int64", 1)[0]
            widest = max(modality.width for modality in self.modalities if modality.kind == FRAMES)
            if not 0 <= frames * widest <= _MAX_FRAME_BYTES:
                raise ValueError(f"feature 'num_frames' of a record is {frames}")
            target["num_frames"] = examples.int64_feature([frames])
        for modality in self.modalities:
            presence = presence_name(modality.name)
            if presence in features and _values(features, presence, "int64", 1) == [0]:
                target[presence] = features[presence]
                continue
            if modality.kind == FRAMES:
                size = frames * modality.width
                codes = _values(features, modality.name, "bytes", 1)[0]
                target[modality.name] = examples.bytes_feature(codes[:size].ljust(size, b"\0"))
            elif modality.kind == TEXT:
                empty = modality.name in features and features[modality.name].kind is None
                tokens = [] if empty else _values(features, modality.name, "int64", None)
                target[modality.name] = examples.int64_feature(tokens)
            else:
                values = _values(features, modality.name, "float", modality.width)
                target[modality.name] = examples.float_feature(values)
        return examples.write_example(target)


def _values(features: Mapping[str, examples.Feature], name: str, kind: str, count: int | None) -> Any:
    if name not in features:
        raise ValueError(f"a record lacks the feature {name!r}")
    feature = features[name]
    if feature.kind != kind:
        raise ValueError(f"feature {name!r} of a record holds {feature.kind or 'nothing'} where {kind} is expected")
    values = feature.values
    if count is not None and len(values) != count:
        raise ValueError(f"feature {name!r} of a record has {len(values)} values where {count} are expected")
    return values


class _LocalFile:
    def __init__(self, path: str) -> None:
        self._file = cast(io.FileIO, storage.open_for_reading(path))

    def read_into(self, target: np.ndarray) -> int:
        view = memoryview(target)  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:]) or 0
            if not count:
                break
            done += count
        return done

    def close(self) -> None:
        self._file.close()


class _RemoteFile:
    def __init__(self, path: str) -> None:
        import tensorflow as tf

        self._file = tf.io.gfile.GFile(path, "rb")  # one file by its name: no pattern is expanded

    def read_into(self, target: np.ndarray) -> int:
        data = self._file.read(len(target))
        target[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)

    def close(self) -> None:
        self._file.close()


def is_remote(path: str) -> bool:
    """Whether a path is on one of TensorFlow's other file systems (`gs://`, …)."""
    return "://" in path


@dataclasses.dataclass
class Piece:
    """Records of one piece.

    Attributes:
        index: int64 (R, `Layout.columns`), see `kernels.index_transformed`; places in the piece's buffer, or
            for the records `rewritten`, in `extra`.
        rewritten: bool (R,).
        extra: framed records that were rewritten.
    """

    index: np.ndarray
    rewritten: np.ndarray
    extra: bytes


class ShardStream:
    """One shard, read piece by piece.

    Attributes:
        number: index of the shard in the caller's list.
        wanted_bytes: smallest size of a next piece that holds a whole record.
        done: whether the shard has been read to its end.
    """

    def __init__(self, shard: ListedShard, number: int, layout: Layout) -> None:
        self.number = number
        self.wanted_bytes = 0
        self.done = False
        self._path = shard.path
        self._listed = shard.records
        self._records = 0
        self._layout = layout
        self._file: _LocalFile | _RemoteFile | None = None
        self._tail = np.empty(0, np.uint8)

    def read(self, buffer: np.ndarray) -> Piece:
        """The whole records among the next `len(buffer)` bytes of the shard, which are put into `buffer`.

        Raises:
            ShardError: the shard is corrupt, or holds something else or other records than its manifest counts.
        """
        if self._file is None:
            self._file = self._open()
        carried = len(self._tail)
        buffer[:carried] = self._tail
        try:
            filled = carried + self._file.read_into(buffer[carried:])
        except Exception as error:  # whatever a file system raises
            raise ShardError.about(self._path, str(error)) from error
        self.done = filled < len(buffer)
        index, stop, at, wanted = self._layout.index(buffer, filled, self.done)
        if stop in _STOPPED:
            raise ShardError.about(self._path, _STOPPED[stop])
        self._records += len(index)
        if self.done:
            self.close()
            if self._listed not in (None, self._records):
                reason = f"it holds {self._records:,} records, its manifest counts {self._listed:,}"
                raise ShardError.about(self._path, reason)
        self._tail = buffer[at:filled].copy()
        self.wanted_bytes = wanted - at
        return self._with_rewritten(buffer, index)

    def _open(self) -> _LocalFile | _RemoteFile:
        try:
            return _RemoteFile(self._path) if is_remote(self._path) else _LocalFile(self._path)
        except OSError as error:
            raise ShardError.about(self._path, str(error)) from error

    def _with_rewritten(self, buffer: np.ndarray, index: np.ndarray) -> Piece:
        rewritten = index[:, kernels.CANONICAL] == 0
        extra = bytearray()
        for row in index[rewritten]:
            start, length = int(row[kernels.START]), int(row[kernels.LENGTH])
            try:
                payload = self._layout.rewritten(buffer[start : start + length].tobytes())
            except ValueError as error:
                raise ShardError.about(self._path, str(error)) from None
            framed = np.empty(kernels.HEADER_BYTES + len(payload) + kernels.FOOTER_BYTES, np.uint8)
            framed[kernels.HEADER_BYTES : -kernels.FOOTER_BYTES] = np.frombuffer(payload, np.uint8)
            kernels.frame_payloads(framed, np.array([kernels.HEADER_BYTES]), np.array([len(payload)]))
            extra += framed.tobytes()
        if extra:
            index[rewritten] = self._layout.index(np.frombuffer(extra, np.uint8), len(extra), True)[0]
            if not index[:, kernels.CANONICAL].all():
                raise ShardError.about(self._path, "a record cannot be rewritten in the canonical encoding")
        return Piece(index, rewritten, bytes(extra))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


@dataclasses.dataclass
class RecordBlock:
    """Records of one piece of each of several shards.

    Attributes:
        buffer: uint8, the bytes that `index` points into.
        extra: uint8, what it points into for the records `rewritten`.
        index: int64 (N, `Layout.columns`), see `kernels.index_transformed`.
        rewritten: bool (N,).
        shards: int32 (N,), number of the shard of each record.
    """

    buffer: np.ndarray
    extra: np.ndarray
    index: np.ndarray
    rewritten: np.ndarray
    shards: np.ndarray


def _move(index: np.ndarray, by: np.ndarray, places: slice) -> None:
    """Adds (R, 1) to every column that is a place; those of modalities are `places`."""
    index[:, [kernels.START, kernels.ID_BEGIN, kernels.ID_END, kernels.LABELS_BEGIN]] += by
    index[:, places] += by


class _Request:
    """A block that threads are filling."""

    def __init__(
        self, streams: Sequence[ShardStream], layout: Layout, piece_bytes: int, buffer: np.ndarray, pool: Executor
    ) -> None:
        self._layout = layout
        sizes = [max(piece_bytes, stream.wanted_bytes) for stream in streams]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._buffer = buffer if len(buffer) >= self._starts[-1] else np.empty(self._starts[-1], np.uint8)
        self._streams = list(streams)
        self._pieces: list[Future[Piece]] = [
            pool.submit(stream.read, self._buffer[begin : begin + size])
            for stream, begin, size in zip(streams, self._starts, sizes, strict=False)
        ]

    def result(self) -> RecordBlock:
        """The block, when every piece is there."""
        pieces = [piece.result() for piece in self._pieces]
        extra_bytes = 0
        for begin, piece in zip(self._starts, pieces, strict=False):
            _move(piece.index, np.where(piece.rewritten, extra_bytes, begin)[:, np.newaxis], self._layout.places)
            extra_bytes += len(piece.extra)
        counts = [len(piece.index) for piece in pieces]
        return RecordBlock(
            self._buffer,
            np.frombuffer(bytearray().join(piece.extra for piece in pieces), np.uint8),
            np.concatenate([piece.index for piece in pieces]),
            np.concatenate([piece.rewritten for piece in pieces]),
            np.repeat(np.array([stream.number for stream in self._streams], np.int32), counts),
        )

    def close(self) -> None:
        """Waits until no thread works on it, then closes its shards."""
        for piece in self._pieces:
            piece.cancel()
        for piece in self._pieces:
            if not piece.cancelled():
                piece.exception()
        for stream in self._streams:
            stream.close()


def read_blocks(
    shards: Sequence[ListedShard],
    order: Iterable[int],
    layout: Layout,
    *,
    shards_open: int,
    block_bytes: int,
    pool: Executor,
) -> Generator[RecordBlock, None, None]:
    """Blocks of records from up to `shards_open` shards at once; a shard that ends makes room for the next.

    The blocks depend on the arguments alone, not on how threads run. The buffer of a block is reused for a later one:
    the caller must be done with a block before it takes the next.

    Args:
        shards: files of transformed records.
        order: numbers of the shards in the order in which they are opened.
        layout: what to read.
        shards_open: largest number of pieces per block.
        block_bytes: size of a block; more where a record is larger than its piece.
        pool: threads that read.

    Raises:
        ShardError: a shard is corrupt, or holds something else or other records than its manifest counts.
    """
    waiting = iter(order)
    streams: list[ShardStream] = []
    piece_bytes = max(block_bytes // shards_open, kernels.HEADER_BYTES + kernels.FOOTER_BYTES)
    buffers: collections.deque[np.ndarray] = collections.deque([np.empty(0, np.uint8)] * 2)

    def ask() -> _Request | None:
        nonlocal streams
        streams = [stream for stream in streams if not stream.done]
        fresh = itertools.islice(waiting, shards_open - len(streams))
        streams += [ShardStream(shards[number], number, layout) for number in fresh]
        return _Request(streams, layout, piece_bytes, buffers.popleft(), pool) if streams else None

    request = ask()
    try:
        while request is not None:
            block = request.result()
            buffers.append(block.buffer)
            request = ask()
            yield block
    finally:
        if request is not None:
            request.close()
