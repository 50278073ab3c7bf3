"""TFRecord framing, read and written in chunks: a damaged record costs that record, not its shard.

A record is `uint64 length | masked crc of length | payload | masked crc of payload`, little-endian. Reading goes on
after damage: a payload whose checksum fails is skipped by its length; where the length itself cannot be trusted, the
reader looks for the next offset whose length *and* payload checksums match, and the bytes in between count as
one rejected record.
"""

import dataclasses
import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from vcls_model.commands import JobError
from vcls_model.records import kernels
from vcls_model.records.kernels import FOOTER_BYTES, HEADER_BYTES, MAX_RECORD_BYTES
from vcls_model.records.reasons import NOT_TFRECORD
from vcls_model.storage import is_object_store, open_for_reading

CHUNK_BYTES = 8 << 20
_HEAD_BYTES = 1 << 12
# Records inflate to a few times their size. Above the limit a file is a bomb, but for what takes no time to read.
_MOST_INFLATION = 200
_INFLATED_FREELY_BYTES = 32 << 20
_INFLATED_AT_ONCE_BYTES = 8 << 20
_SHOWN_BYTES = 64
_KINDS = (
    (b"PAR1", "Parquet"),
    (b"PK", "a zip file"),
    (b"<", "XML or HTML, such as the error page of a server"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"\x89HDF", "HDF5"),
    (b"\x28\xb5\x2f\xfd", "zstd, which is not read here: decompress it"),
    (b"BZh", "bzip2, which is not read here: decompress it"),
)


@dataclasses.dataclass(frozen=True)
class CorruptSpan:
    """A stretch of a shard without a readable record; it counts as one rejected record.

    Attributes:
        offset: where it begins, in bytes of the (decompressed) shard.
        reason: `corrupt_payload`, `corrupt_length`, `truncated`, `not_tfrecord`, `corrupt_gzip` or `inflates_too_much`.
        message: for a person.
    """

    offset: int
    reason: str
    message: str


@dataclasses.dataclass
class FramedChunk:
    """Records that lie whole in `buffer`, which is valid only until the next chunk is requested.

    Attributes:
        buffer: uint8 array.
        starts, lengths: int64 (R,), where each payload lies in `buffer`.
        base: offset of `buffer[0]` in the (decompressed) shard.
        damage: what was rejected since the chunk before.
    """

    buffer: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    base: int
    damage: list[CorruptSpan]

    @property
    def offsets(self) -> np.ndarray:
        """Where each record begins in the shard, int64 (R,)."""
        return self.starts - HEADER_BYTES + self.base


def frame_record(payload: bytes) -> bytes:
    """One payload as the bytes of a TFRecord. Whole batches are framed by `kernels.frame_payloads`."""
    buffer = np.zeros(HEADER_BYTES + len(payload) + FOOTER_BYTES, np.uint8)
    buffer[HEADER_BYTES : HEADER_BYTES + len(payload)] = np.frombuffer(payload, np.uint8)
    kernels.frame_payloads(buffer, np.array([HEADER_BYTES]), np.array([len(payload)]))
    return buffer.tobytes()


class ByteSource:
    """The bytes of a shard, decompressed where they are gzip, or TFRecords in a zlib stream.

    `damage` is set when they end before they should; `head` is how the file itself begins.
    """

    _PIECE_BYTES = 1 << 16

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream = stream
        self._path = path
        self.damage: tuple[str, str] | None = None
        head = self._read(_HEAD_BYTES)
        while head and len(head) < HEADER_BYTES:
            more = self._read(_HEAD_BYTES)
            if not more:
                break
            head += more
        self.head = head[:_SHOWN_BYTES]
        framed = _begins_record(head)
        # Content first, then the suffix: a plain shard named .gz is still read, and so is a gzip shard without it.
        zipped = not framed and (_begins_gzip(head) or (path.endswith(".gz") and len(head) > 0))
        self._format = "gzip" if zipped or framed or not _begins_zlib(head) else "zlib"
        self._pending = head
        self._inflate = self._inflator() if zipped or self._format == "zlib" else None
        self._inflated = b""
        self._taken_bytes = self._given_bytes = 0  # by and from inflating

    def _inflator(self):  # type: ignore[no-untyped-def]
        return zlib.decompressobj(wbits=31 if self._format == "gzip" else 15)

    def _read(self, count: int) -> bytes:
        try:
            return self._stream.read(count) or b""
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def readinto(self, target: np.ndarray) -> int:
        """Fills `target` as far as the shard goes; less than its size means the end."""
        filled = 0
        while filled < target.size:
            if self._inflate is None and not self._pending and isinstance(self._stream, io.RawIOBase):
                return filled + self._read_straight_into(target[filled:])
            piece = self._next_piece(target.size - filled)
            if not piece:
                break
            target[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        return filled

    def _read_straight_into(self, target: np.ndarray) -> int:
        filled = 0
        try:
            while filled < target.size and (count := self._stream.readinto(target[filled:].data)):  # type: ignore
                filled += count
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return filled

    def _next_piece(self, limit: int) -> bytes:
        if self._inflate is None:
            piece, self._pending = self._pending[:limit], self._pending[limit:]
            return piece or (b"" if self.damage else self._read(limit))
        if not self._inflated:
            self._inflated = self._next_inflated()
        piece, self._inflated = self._inflated[:limit], self._inflated[limit:]
        return piece

    def _next_inflated(self) -> bytes:
        assert self._inflate is not None
        while not self.damage:
            if self._taken_bytes * _MOST_INFLATION < self._given_bytes - _INFLATED_FREELY_BYTES:
                self.damage = (
                    "inflates_too_much",
                    f"it inflates to more than {_MOST_INFLATION} times its size, which no records do",
                )
                return b""
            pending = self._pending or self._read(self._PIECE_BYTES)
            self._pending = b""
            if not pending:
                if not self._inflate.eof and not self.damage:
                    self.damage = "truncated", f"the {self._format} stream ends too early"
                return b""
            if self._inflate.eof:  # another member follows
                self._inflate = self._inflator()
            before = self._inflate.copy()
            try:
                inflated = self._inflate.decompress(pending, _INFLATED_AT_ONCE_BYTES)
            except zlib.error as error:
                self.damage = "corrupt_gzip", f"the {self._format} stream is damaged: {error}"
                return _inflate_what_is_whole(before, pending)
            left = self._inflate.unused_data or self._inflate.unconsumed_tail
            self._taken_bytes += len(pending) - len(left)
            self._given_bytes += len(inflated)
            self._pending = left
            if inflated:
                return inflated
        return b""


def _unreadable(path: str, error: OSError) -> Exception:
    return error if is_object_store(path) else JobError(f"{path} cannot be read: {error.strerror or error}")


def _begins_record(head: bytes) -> bool:
    array = np.frombuffer(bytearray(head), np.uint8)
    return len(head) >= HEADER_BYTES and bool(kernels.length_at(array, 0) >= 0)


def _begins_zlib(head: bytes) -> bool:
    """Whether `head` inflates, without gzip's header, to the beginning of a TFRecord: TFRecordWriter's "ZLIB"."""
    if len(head) < 2 or head[0] & 0x0F != 8 or int.from_bytes(head[:2], "big") % 31:
        return False
    try:
        return _begins_record(zlib.decompressobj().decompress(head, _HEAD_BYTES))
    except zlib.error:
        return False


def what_begins(head: bytes) -> str:
    """What a file that holds no record looks like, judged by how it begins: for a message."""
    return next((kind for begins, kind in _KINDS if head.lstrip().startswith(begins)), "another format")


def _begins_gzip(head: bytes) -> bool:
    """Whether `head` can be inflated: two damaged bytes of a plain shard may look like gzip's magic number."""
    if head[:2] != b"\x1f\x8b":
        return False
    try:
        zlib.decompressobj(wbits=31).decompress(head)
    except zlib.error:
        return False
    return True


def _inflate_what_is_whole(inflate, pending: bytes) -> bytes:  # type: ignore[no-untyped-def]
    """What `pending` yields before the byte at which inflating fails."""
    whole = []
    try:
        for at in range(len(pending)):
            whole.append(inflate.decompress(pending[at : at + 1]))
    except zlib.error:
        pass
    return b"".join(whole)


def read_chunks(
    path: str, chunk_bytes: int = CHUNK_BYTES, open_shard: Callable[[str], BinaryIO] = open_for_reading
) -> Iterator[FramedChunk]:
    """Reads a shard of TFRecords in chunks of about `chunk_bytes`; memory does not grow with the shard.

    The chunks, and so everything computed per chunk, depend on nothing but the file and `chunk_bytes`.

    Raises:
        JobError: the file cannot be opened or read. That is not a damaged record: what the file holds may be whole.
        OSError: the same on an object store, for the runner to try again.
    """
    try:
        stream = open_shard(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with stream:
        yield from _Reader(ByteSource(stream, path), chunk_bytes).chunks()


class _Reader:
    """State of one pass over a shard."""

    def __init__(self, source: ByteSource, chunk_bytes: int) -> None:
        self._source = source
        self._buffer = np.empty(max(chunk_bytes, 64), np.uint8)
        self._filled = 0  # bytes of the buffer that hold data
        self._at = 0  # first byte not yet processed
        self._base = 0  # offset of the buffer's first byte in the shard
        self._last = False  # the shard has no more bytes
        self._any_record = False
        self._lost: CorruptSpan | None = None  # damage whose end has not been reached
        self._lost_end = 0  # where its first record ends, in the shard, if the length of that can be trusted

    def _fill(self, needed: int) -> None:
        """Drops what has been processed and reads on, until the buffer holds `needed` bytes from the current one."""
        rest = self._filled - self._at
        if needed > self._buffer.size:
            larger = np.empty(max(needed, min(2 * self._buffer.size, MAX_RECORD_BYTES)), np.uint8)
            larger[:rest] = self._buffer[self._at : self._filled]
            self._buffer = larger
        else:
            self._buffer[:rest] = self._buffer[self._at : self._filled].copy()
        self._base += self._at
        self._at = 0
        target = self._buffer[rest:]
        count = self._source.readinto(target)
        self._filled = rest + count
        self._last = count < target.size

    def chunks(self) -> Iterator[FramedChunk]:
        starts = np.empty(4096, np.int64)
        lengths = np.empty(4096, np.int64)
        needed = HEADER_BYTES
        while not self._last:
            self._fill(needed)
            count = 0
            damage: list[CorruptSpan] = []
            while True:
                if self._lost is not None:
                    needed = self._resynchronise(damage)
                    if needed:
                        break
                before = count
                stop, self._at, count, end = kernels.scan_records(
                    self._buffer, self._at, self._filled, self._last, starts, lengths, count
                )
                self._any_record |= count > before
                if stop == kernels.FULL:
                    starts, lengths = np.resize(starts, 2 * count), np.resize(lengths, 2 * count)
                elif stop in (kernels.MORE, kernels.END):
                    needed = end - self._at
                    break
                elif stop == kernels.BAD_PAYLOAD and not self._last and end + HEADER_BYTES > self._filled:
                    needed = end + HEADER_BYTES - self._at  # judge it together with what follows
                    break
                elif stop == kernels.BAD_PAYLOAD and self._followed_by_record(end):
                    damage.append(
                        CorruptSpan(self._base + self._at, "corrupt_payload", "payload checksum does not match")
                    )
                    self._at = end
                else:
                    self._lose(stop, self._base + end if stop == kernels.BAD_PAYLOAD else 0)
            if self._last and self._source.damage and self._lost is None:
                damage.append(self._damaged_stream(self._base + self._filled, *self._source.damage))
            yield FramedChunk(self._buffer, starts[:count], lengths[:count], self._base, damage)

    def _damaged_stream(self, offset: int, reason: str, message: str) -> CorruptSpan:
        if offset == 0 and reason == "corrupt_gzip":
            return CorruptSpan(0, NOT_TFRECORD, f"not a TFRecord file: {message}; it looks like {self._looks()}")
        return CorruptSpan(offset, reason, message)

    def _looks(self) -> str:
        return what_begins(self._source.head)

    def _followed_by_record(self, end: int) -> bool:
        """Whether the record that ends at `end` had a true length: a header or the end of the shard follows."""
        if end == self._filled:
            return True
        return end + HEADER_BYTES <= self._filled and kernels.length_at(self._buffer, end) >= 0

    def _lose(self, stop: int, end: int) -> None:
        self._lost_end = end
        offset = self._base + self._at
        if self._source.damage and self._last and stop == kernels.TRUNCATED:
            self._lost = CorruptSpan(offset, *self._source.damage)
        elif stop == kernels.TRUNCATED:
            self._lost = CorruptSpan(offset, "truncated", "the shard ends in the middle of a record")
        else:
            self._lost = CorruptSpan(offset, "corrupt_length", "the length of the record is damaged")
        self._at += 1

    def _resynchronise(self, damage: list[CorruptSpan]) -> int:
        """Looks for the next whole record; returns how many bytes it must see from there on, 0 when it is done."""
        assert self._lost is not None
        self._at, needed = kernels.find_record(self._buffer, self._at, self._filled, self._last)
        if needed >= 0 and not self._last:
            return needed - self._at
        if needed >= 0:
            self._at = self._filled
            self._source.damage = None  # part of this stretch
            if not self._any_record and self._lost.offset == 0 and self._lost.reason == "corrupt_length":
                message = f"not a TFRecord file: it holds no record; it looks like {self._looks()}"
                self._lost = CorruptSpan(0, NOT_TFRECORD, message)
        here = self._base + self._at
        if 0 < self._lost_end <= here - HEADER_BYTES - FOOTER_BYTES and self._lost.reason != NOT_TFRECORD:
            # Two records: one with a sound length and a damaged payload, and after it one whose length is damaged.
            damage.append(CorruptSpan(self._lost.offset, "corrupt_payload", "payload checksum does not match"))
            self._lost = dataclasses.replace(self._lost, offset=self._lost_end)
        damage.append(self._lost)
        self._lost = None
        return 0
