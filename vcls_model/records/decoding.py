"""From framed records to arrays: what a record must satisfy, and why one is rejected."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vcls_model.records import examples, kernels
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, FRAMES, Modality, RecordSchema

# A missing modality that is filled gets the value nearest to 0, which is the middle of what whitened features hold.
FILL_CODE = 128
SEGMENT_SECONDS = 5
_ANY_CLASS = 1 << 62


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What is asked of a record.

    Attributes:
        class_count: labels must lie in [0, class_count); None takes any that is not negative.
        max_frames: frames beyond are cut, at least 1.
        fill_missing: a record that lacks one modality but not all is filled up instead of rejected.
        require_labels: a record without labels is rejected.
    """

    class_count: int | None = None
    max_frames: int = 300
    fill_missing: bool = False
    require_labels: bool = True


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that cannot be used, or a stretch of a shard that holds none: one line of a dead letter.

    Attributes:
        shard: path of the file.
        offset: where it begins, bytes into the (decompressed) file; for a CSV the line number.
        id: of the video where it could be read, else empty; bytes that are not UTF-8 appear escaped.
        stage: `"framing"`, `"parse"` or `"validate"`.
        error: the reason, a short code; `rejected_by_reason` counts these.
        message: for a person; never holds the payload.
    """

    shard: str
    offset: int
    id: str
    stage: str
    error: str
    message: str


@dataclasses.dataclass
class FrameBatch:
    """Frames of B videos, where they lie: frame f of video v is buffer[begins[v] + f * strides[v]:][:width].

    Attributes:
        buffer: uint8; of the shard's bytes, it is only valid until the next batch is asked for.
        begins, strides: int64 (B,).
        lengths: int64 (B,), frames a video, at least 1.
        width: D.
    """

    buffer: np.ndarray
    begins: np.ndarray
    strides: np.ndarray
    lengths: np.ndarray
    width: int

    @classmethod
    def of(cls, codes: np.ndarray, lengths: np.ndarray) -> "FrameBatch":
        """From the frames of all videos one after another, uint8 (sum of lengths, D)."""
        width = codes.shape[1]
        return cls(
            codes.reshape(-1), (np.cumsum(lengths) - lengths) * width, np.full(len(lengths), width), lengths, width
        )

    @property
    def codes(self) -> np.ndarray:
        """A copy of the frames one after another, uint8 (sum of lengths, D)."""
        codes = np.empty((int(self.lengths.sum()), self.width), np.uint8)
        kernels.gather_codes(self.buffer, self.begins, self.strides, self.lengths, codes)
        return codes


@dataclasses.dataclass
class RawBatch:
    """B good records as arrays. B may be 0.

    Attributes:
        id_column: id of each record; of a segment `video:start`.
        split_id_column: what decides the split: the id of the video.
        offsets: int64 (B,), where the record begins in its shard.
        label_values: int64, the labels of all records one after another; no label twice in a record.
        label_lengths: int64 (B,), labels a record.
        labelled: bool (B,), whether the record says what its labels are. A video without any label does not; a rated
            segment does even when no class was found in it.
        features: by modality name: float32 (B, D) for video-level ones, `FrameBatch` for frame-level ones.
        filled: by modality name, for modalities missing somewhere: bool (B,), true where it was filled up.
        notes: counts of what was repaired: `videos_cut`, `frames_cut`, `labels_deduplicated`, `modality_filled`.
        payloads: the serialized records, when asked for.
    """

    id_column: BytesColumn
    split_id_column: BytesColumn
    offsets: np.ndarray
    label_values: np.ndarray
    label_lengths: np.ndarray
    labelled: np.ndarray
    features: dict[str, "np.ndarray | FrameBatch"]
    filled: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Counter = dataclasses.field(default_factory=Counter)
    payloads: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.id_column.lengths)

    @functools.cached_property
    def ids(self) -> list[bytes]:
        """`id_column` as byte strings."""
        return self.id_column.tolist()

    @functools.cached_property
    def split_ids(self) -> list[bytes]:
        """`split_id_column` as byte strings."""
        return self.split_id_column.tolist()


class RecordError(Exception):
    """One record cannot be used. `reason` is the short code of `Rejected.error`."""

    def __init__(self, reason: str, message: str, video_id: bytes = b"", stage: str = "validate") -> None:
        super().__init__(message)
        self.reason = reason
        self.video_id = video_id
        self.stage = stage

    def rejected(self, shard: str, offset: int) -> Rejected:
        """The dead letter of this record."""
        return Rejected(shard, offset, readable_id(self.video_id), self.stage, self.reason, str(self))


def readable_id(video_id: bytes) -> str:
    """An id as text; bytes that are not UTF-8 are escaped."""
    return video_id.decode("utf-8", "backslashreplace")


@dataclasses.dataclass
class _Usual:
    """A record written anew so that the kernels take it."""

    payload: bytes
    split_id: bytes
    filled: tuple[str, ...] = ()
    repeated_labels: int = 0


class Decoder:
    """Turns framed records into `RawBatch`es: kernels for nearly all, `_careful` for the rest."""

    def __init__(self, schema: RecordSchema, options: ReadOptions) -> None:
        self.schema = schema
        self.options = options
        names = [schema.id_feature, schema.labels_feature, *(modality.name for modality in schema.modalities)]
        encoded = [name.encode() for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._name_ends = np.cumsum([len(name) for name in encoded])
        self._kinds = np.array([self._kind(modality) for modality in schema.modalities])
        self._widths = np.array([modality.width for modality in schema.modalities])
        self._sequence = schema.container == "sequence_example"

    def _kind(self, modality: Modality) -> int:
        if modality.kind != FRAMES:
            return kernels.FLOAT_VECTOR if modality.encoding == "float32" else kernels.BYTE_VECTOR
        return kernels.BYTE_FRAMES if self.schema.container == "sequence_example" else kernels.BYTE_MATRIX

    def decode(
        self,
        shard: str,
        buffer: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        offsets: np.ndarray,
        *,
        keep_payloads: bool = False,
    ) -> tuple[RawBatch, list[Rejected]]:
        """Decodes R payloads in `buffer`; every one is in the batch or among the rejected."""
        index = self._index(buffer, starts, lengths)
        if not self.schema.segments and index.usual.all():
            batch = self._gather(buffer, index, offsets)
            if keep_payloads:
                batch.payloads = _payloads(buffer, starts, lengths)
            return batch, []
        usual: list[_Usual] = []
        origin: list[int] = []
        rejected: list[Rejected] = []
        for record, payload in enumerate(_payloads(buffer, starts, lengths)):
            if index.usual[record] and not self.schema.segments:
                usual.append(_Usual(payload, b""))
                origin.append(record)
                continue
            try:
                for item in self._careful(payload):
                    if isinstance(item, RecordError):
                        rejected.append(item.rejected(shard, int(offsets[record])))
                    else:
                        usual.append(item)
                        origin.append(record)
            except RecordError as error:
                rejected.append(error.rejected(shard, int(offsets[record])))
        rewritten = records_in([item.payload for item in usual])
        index = self._index(*rewritten)
        assert index.usual.all(), "a record that the careful reader accepts must suit the kernels"
        batch = self._gather(rewritten[0], index, offsets[origin] if origin else offsets[:0])
        batch.split_id_column = BytesColumn.of(
            [item.split_id or video_id for item, video_id in zip(usual, batch.ids, strict=True)]
        )
        for name in {name for item in usual for name in item.filled}:
            batch.filled[name] = np.array([name in item.filled for item in usual])
            batch.notes["modality_filled"] += int(batch.filled[name].sum())
        repeated = sum(item.repeated_labels for item in usual)
        if repeated:
            batch.notes["labels_deduplicated"] += repeated
        if keep_payloads:
            originals = _payloads(buffer, starts, lengths)
            batch.payloads = [originals[record] for record in origin]
        return batch, rejected

    def _index(self, buffer: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "_Index":
        count = len(starts)
        index = _Index(
            np.empty(count, np.bool_),
            np.empty((count, 2), np.int64),
            np.empty((count, 3), np.int64),
            np.empty((count, len(self._kinds), 3), np.int64),
        )
        class_count = self.options.class_count
        kernels.index_records(
            buffer,
            starts,
            lengths,
            self._sequence,
            self._names,
            self._name_ends,
            self._kinds,
            self._widths,
            _ANY_CLASS if class_count is None else class_count,
            self.options.require_labels and not self.schema.segments,
            index.usual,
            index.ids,
            index.labels,
            index.values,
        )
        return index

    def _gather(self, buffer: np.ndarray, index: "_Index", offsets: np.ndarray) -> RawBatch:
        label_lengths = index.labels[:, 2].copy()
        label_values = np.empty(int(label_lengths.sum()), np.int64)
        kernels.gather_labels(buffer, index.labels, label_values)
        features: dict[str, np.ndarray | FrameBatch] = {}
        notes: Counter = Counter()
        for position, modality in enumerate(self.schema.modalities):
            begins = np.ascontiguousarray(index.values[:, position, 0])
            if modality.kind == FRAMES:
                frames = index.values[:, position, 1]
                kept = np.minimum(frames, self.options.max_frames)
                features[modality.name] = FrameBatch(
                    buffer, begins, np.ascontiguousarray(index.values[:, position, 2]), kept, modality.width
                )
                if position == 0 and kept.sum() < frames.sum():
                    notes["videos_cut"] += int((kept < frames).sum())
                    notes["frames_cut"] += int((frames - kept).sum())
            elif modality.encoding == "float32":
                bits = np.empty((len(begins), modality.width), np.uint32)
                kernels.gather_floats(buffer, begins, bits)
                features[modality.name] = bits.view(np.float32)
            else:
                once = np.ones(len(begins), np.int64)
                codes = FrameBatch(buffer, begins, once, once, modality.width).codes
                features[modality.name] = codes * np.float32(DEQUANTISE_SCALE) + np.float32(DEQUANTISE_OFFSET)
        labelled = label_lengths > 0 if not self.schema.segments else np.ones(len(label_lengths), np.bool_)
        ids = _bytes_column(buffer, index.ids)
        return RawBatch(ids, ids, offsets, label_values, label_lengths, labelled, features, notes=notes)

    def _careful(self, payload: bytes) -> "list[_Usual | RecordError]":
        """Checks one record without hurry: the record written anew, or for segments one record a segment.

        Raises:
            RecordError: the record cannot be used.
        """
        try:
            record = examples.parse_record(payload)
        except examples.WireError as error:
            raise RecordError("unparsable", f"not a tf.train.Example: {error}", stage="parse") from None
        video_id = self._id(record)
        try:
            return self._checked(record, video_id)
        except RecordError as error:
            error.video_id = video_id
            raise

    def _id(self, record: examples.Record) -> bytes:
        name = self.schema.id_feature
        feature = record.features.get(name)
        if feature is None or (feature.kind is None and self._other_container(record)):
            self._check_container(record)
            raise RecordError("missing_id", f"the record has no feature {name!r}; it has {_names_of(record)}")
        if feature.kind != "bytes":
            raise RecordError("wrong_type", f"{name!r} must hold bytes, got {feature.kind or 'nothing'}")
        if len(feature.values) != 1:
            raise RecordError("wrong_width", f"{name!r} must hold 1 value, got {len(feature.values)}")
        video_id = feature.values[0]
        assert isinstance(video_id, bytes)
        if not video_id:
            raise RecordError("empty_id", f"{name!r} is empty")
        return video_id

    def _checked(self, record: examples.Record, video_id: bytes) -> "list[_Usual | RecordError]":
        labels, repeated = self._labels(record)
        lacking = [modality.name for modality in self.schema.modalities if not self._present(record, modality)]
        if lacking and (not self.options.fill_missing or len(lacking) == len(self.schema.modalities)):
            self._check_container(record)
            raise RecordError(
                "missing_feature", f"the record has no {', '.join(map(repr, lacking))}; it has {_names_of(record)}"
            )
        values = {
            modality.name: self._values(record, modality)
            for modality in self.schema.modalities
            if modality.name not in lacking
        }
        frames = {name: len(rows) for name, rows in values.items()}
        if len(set(frames.values())) > 1:
            raise RecordError(
                "frames_differ",
                "modalities differ in frames: " + ", ".join(f"{name} has {count}" for name, count in frames.items()),
            )
        for modality in self.schema.modalities:
            if modality.name in lacking:
                filling = (
                    bytes([FILL_CODE]) * modality.width if modality.encoding == "uint8" else bytes(4 * modality.width)
                )
                values[modality.name] = [filling] * next(iter(frames.values()))
        filled = tuple(lacking)
        if not self.schema.segments:
            return [_Usual(self._write(video_id, labels, values), video_id, filled, repeated)]
        items: list[_Usual | RecordError] = []
        count = next(iter(frames.values()))
        for start, end, positive in self._segments(record):
            if not 0 <= start < min(end, count):
                items.append(
                    RecordError(
                        "segment_out_of_range", f"segment {start}..{end} of a video of {count} frames", video_id
                    )
                )
                continue
            part = {name: rows[start:end] for name, rows in values.items()}
            items.append(_Usual(self._write(b"%s:%d" % (video_id, start), positive, part), video_id, filled, repeated))
        return items

    def _labels(self, record: examples.Record) -> tuple[list[int], int]:
        """The labels in ascending order without repetition, and how many were repetitions."""
        name = self.schema.labels_feature
        feature = record.features.get(name)
        values: list[int] = []
        if feature is not None and feature.kind is not None:
            if feature.kind != "int64":
                raise RecordError("wrong_type", f"{name!r} must hold int64, got {feature.kind}")
            values = [int(value) for value in feature.values]
        self._check_labels(name, values)
        if not values and self.options.require_labels and not self.schema.segments:
            raise RecordError("no_labels", f"{name!r} is absent or empty")
        distinct = sorted(set(values))
        return distinct, len(values) - len(distinct)

    def _check_labels(self, name: str, values: Sequence[int]) -> None:
        end = self.options.class_count
        for value in values:
            if value < 0 or (end is not None and value >= end):
                allowed = f"[0, {end})" if end is not None else "[0, …)"
                raise RecordError("label_out_of_range", f"{name!r} holds {value}, outside {allowed}")

    def _present(self, record: examples.Record, modality: Modality) -> bool:
        if self._sequence:
            return modality.name in record.feature_lists
        feature = record.features.get(modality.name)
        return feature is not None and feature.kind is not None

    def _other_container(self, record: examples.Record) -> bool:
        names = {modality.name for modality in self.schema.modalities}
        other = record.features if self._sequence else record.feature_lists
        return bool(names & set(other)) or (not self._sequence and bool(record.feature_lists))

    def _check_container(self, record: examples.Record) -> None:
        if self._sequence and not record.feature_lists:
            raise RecordError(
                "wrong_container", "a tf.train.Example where a SequenceExample was expected", stage="parse"
            )
        if not self._sequence and record.feature_lists:
            raise RecordError(
                "wrong_container", "a tf.train.SequenceExample where an Example was expected", stage="parse"
            )

    def _values(self, record: examples.Record, modality: Modality) -> list[bytes]:
        """The frames (or the one vector) of a modality, each as its bytes."""
        name, width = modality.name, modality.width
        if not self._sequence:
            values = _one_vector(record.features[name], modality)
            if modality.kind == FRAMES:
                if not values or len(values) % width:
                    raise RecordError("wrong_width", f"{name!r} holds {len(values)} codes, not a multiple of {width}")
                return [values[at : at + width] for at in range(0, len(values), width)]
            return [values]
        frames = record.feature_lists[name]
        if not frames:
            raise RecordError("no_frames", f"{name!r} has no frames")
        for number, frame in enumerate(frames):
            _check_frame(frame, modality, number)
        return [frame.values[0] for frame in frames]  # type: ignore[misc]

    def _segments(self, record: examples.Record) -> list[tuple[int, int, list[int]]]:
        """(first frame, end, classes rated present) of each rated segment, in order of time."""
        columns: dict[str, list | None] = {}
        for name, kind in (
            ("segment_start_times", "int64"),
            ("segment_end_times", "int64"),
            ("segment_labels", "int64"),
            ("segment_scores", "float"),
        ):
            feature = record.features.get(name)
            if feature is None or feature.kind is None:
                columns[name] = None
            elif feature.kind != kind:
                raise RecordError("wrong_type", f"{name!r} must hold {kind}, got {feature.kind}")
            else:
                columns[name] = list(feature.values)
        starts, labels = columns["segment_start_times"], columns["segment_labels"]
        if not starts or not labels:
            raise RecordError("no_segments", "the record has no rated segment")
        ends = columns["segment_end_times"] or [start + SEGMENT_SECONDS for start in starts]
        scores = columns["segment_scores"] or [1.0] * len(starts)
        if not len(starts) == len(ends) == len(labels) == len(scores):
            raise RecordError(
                "segments_differ",
                f"{len(starts)} starts, {len(ends)} ends, {len(labels)} labels and {len(scores)} scores of segments",
            )
        self._check_labels("segment_labels", labels)
        segments: dict[tuple[int, int], set[int]] = {}
        for start, end, label, score in zip(starts, ends, labels, scores, strict=True):
            present = segments.setdefault((start, end), set())
            if score >= 0.5:
                present.add(label)
        return [(start, end, sorted(present)) for (start, end), present in sorted(segments.items())]

    def _write(self, video_id: bytes, labels: Sequence[int], values: dict[str, list[bytes]]) -> bytes:
        context = {
            self.schema.id_feature: examples.bytes_feature(video_id),
            self.schema.labels_feature: examples.int64_feature(labels),
        }
        if self._sequence:
            return examples.write_sequence_example(
                context, {name: [examples.bytes_feature(frame) for frame in frames] for name, frames in values.items()}
            )
        for modality in self.schema.modalities:
            joined = b"".join(values[modality.name])
            context[modality.name] = (
                examples.float_feature(np.frombuffer(joined, "<f4"))
                if modality.encoding == "float32"
                else examples.bytes_feature(joined)
            )
        return examples.write_example(context)


@dataclasses.dataclass
class _Index:
    """Where the features of R records lie; see `kernels.index_records`."""

    usual: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    values: np.ndarray


def _one_vector(feature: examples.Feature, modality: Modality) -> bytes:
    wanted = "float" if modality.encoding == "float32" else "bytes"
    name = modality.name
    if feature.kind != wanted:
        raise RecordError("wrong_type", f"{name!r} must hold {modality.encoding}, got {feature.kind}")
    if wanted == "bytes":
        if len(feature.values) != 1:
            raise RecordError("wrong_width", f"{name!r} must hold 1 byte string, got {len(feature.values)}")
        value = feature.values[0]
        assert isinstance(value, bytes)
        if modality.kind != FRAMES and len(value) != modality.width:
            raise RecordError("wrong_width", f"{name!r} must hold {modality.width} codes, got {len(value)}")
        return value
    if len(feature.values) != modality.width:
        raise RecordError("wrong_width", f"{name!r} must hold {modality.width} values, got {len(feature.values)}")
    if not np.isfinite(feature.values).all():
        raise RecordError("not_finite", f"{name!r} holds NaN or infinity")
    return np.asarray(feature.values, "<f4").tobytes()


def _check_frame(frame: examples.Feature, modality: Modality, number: int) -> None:
    where = f"frame {number} of {modality.name!r}"
    if frame.kind != "bytes":
        raise RecordError("wrong_type", f"{where} must hold bytes, got {frame.kind or 'nothing'}")
    codes = [len(value) for value in frame.values]  # type: ignore[arg-type]
    got = sum(codes)
    if codes != [modality.width]:
        raise RecordError("wrong_width", f"{where} must hold {modality.width} codes, got {got}")


def _names_of(record: examples.Record) -> str:
    names = sorted(set(record.features) | set(record.feature_lists))
    return ", ".join(repr(name) for name in names[:8]) + (", …" if len(names) > 8 else "") if names else "none"


def _payloads(buffer: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    return [
        buffer[start : start + length].tobytes()
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]


def _bytes_column(buffer: np.ndarray, spans: np.ndarray) -> BytesColumn:
    lengths = spans[:, 1] - spans[:, 0]
    joined = np.empty(int(lengths.sum()), np.uint8)
    kernels.gather_bytes(buffer, spans, joined)
    return BytesColumn(joined, np.cumsum(lengths) - lengths, lengths)


def records_in(payloads: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays payloads out as `Decoder.decode` takes them: (buffer, starts, lengths)."""
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    # A writable array, as chunks are: numba compiles a kernel anew for one that is not.
    return np.frombuffer(bytearray(b"".join(payloads) or b"\0"), np.uint8), np.cumsum(lengths) - lengths, lengths


def in_batches(starts: np.ndarray, batch_records: int) -> list[slice]:
    """Slices of at most `batch_records` records that cover `starts`."""
    return [slice(at, at + batch_records) for at in range(0, len(starts), batch_records)]
