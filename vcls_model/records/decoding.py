"""From framed records to arrays: what a record must satisfy, and why it is rejected."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model import storage
from vcls_model.records import examples, kernels
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.examples import Values
from vcls_model.records.ids import printable_id
from vcls_model.records.schema import FRAMES, TEXT, Modality, RecordSchema
from vcls_model.records.vocabulary import MultiHotLabels, refuse_multi_hot

SEGMENT_SECONDS = 5
_ANY_CLASS = _ANY_COUNT = 1 << 62


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """What a record must satisfy, and what is read of it.

    Attributes:
        class_count: labels must lie in [0, class_count); None takes any that is not negative.
        max_frames: most frames per video, at least 1; the rest is cut off.
        fill_missing: a record that lacks some modalities but not all is completed instead of rejected.
        require_labels: a record without labels is rejected.
        drop_unknown_labels: a label outside [0, class_count) is left out and counted; otherwise it costs the record.
        class_names: names by class index, by which a CSV may call its labels; () understands indices alone.
        context_features: names of features (of a SequenceExample, of its context) that are handed over as they are.
        mask_missing: a record that lacks some modalities but not all is kept as it is, see `RawBatch.missing`, also
            one that has only a text; a modality with fewer frames than another is padded to as many. An empty list of
            frames or values is a modality that is missing.
    """

    class_count: int | None = None
    max_frames: int = 300
    fill_missing: bool = False
    require_labels: bool = True
    drop_unknown_labels: bool = False
    context_features: tuple[str, ...] = ()
    mask_missing: bool = False
    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that cannot be used, or a corrupt stretch of a shard: one line of a dead-letter file.

    Attributes:
        shard: path of the file.
        offset: where it begins, in bytes of the (decompressed) file; for a CSV its line number.
        id: of the video, empty where it could not be read; bytes that are not UTF-8 are escaped.
        stage: `"framing"`, `"parse"` or `"validate"`.
        error: the reason, a short code; `rejected_by_reason` counts these.
        message: explanation for a reader; never contains the payload.
    """

    shard: str
    offset: int
    id: str
    stage: str
    error: str
    message: str

    def to_json(self) -> bytes:
        """The record as one line of a dead-letter file, line break included."""
        return storage.to_json(vars(self), ensure_ascii=False).encode() + b"\n"


@dataclasses.dataclass
class FrameBatch:
    """Frames of B videos in place: frame f of video v is buffer[begins[v] + f * strides[v]:][:width].

    The bytes of a frame are its codes, or its values as little-endian float32.

    Attributes:
        buffer: uint8; it is valid only until the next batch is requested.
        begins, strides: int64 (B,).
        lengths: int64 (B,), frames per video; 0 where the modality is missing.
        width: bytes per frame, `Modality.frame_bytes`.
    """

    buffer: np.ndarray
    begins: np.ndarray
    strides: np.ndarray
    lengths: np.ndarray
    width: int

    @classmethod
    def of(cls, codes: np.ndarray, lengths: np.ndarray) -> "FrameBatch":
        """From the frames of all videos one after another, uint8 (sum of lengths, width)."""
        width = codes.shape[1]
        return cls(
            codes.reshape(-1), (np.cumsum(lengths) - lengths) * width, np.full(len(lengths), width), lengths, width
        )

    @property
    def codes(self) -> np.ndarray:
        """A copy of the frames one after another, uint8 (sum of lengths, width)."""
        codes = np.empty((int(self.lengths.sum()), self.width), np.uint8)
        kernels.gather_codes(self.buffer, self.begins, self.strides, self.lengths, codes)
        return codes

    def floats(self) -> np.ndarray:
        """The frames of a modality of float32 one after another, (sum of lengths, D)."""
        return self.codes.view("<f4")

    def select(self, rows: "slice | np.ndarray") -> "FrameBatch":
        """The videos of a slice, or those that a bool mask (B,) keeps; the buffer is shared."""
        return FrameBatch(self.buffer, self.begins[rows], self.strides[rows], self.lengths[rows], self.width)

    def strings(self) -> list[bytes]:
        """The bytes of each video, frame after frame: how graphs take them."""
        codes = self.codes.reshape(-1)
        ends = (np.cumsum(self.lengths) * self.width).tolist()
        return [codes[begin:end].tobytes() for begin, end in zip([0, *ends], ends, strict=False)]


FeatureValues = np.ndarray | FrameBatch | BytesColumn


@dataclasses.dataclass(frozen=True)
class Ratings:
    """What raters said of B segments: n pairs of a segment and a class that they were asked about.

    Attributes:
        rows: int64 (n,), ascending: the segment.
        classes: int64 (n,).
        present: int64 (n,): 1 where they saw the class (a score of at least 0.5, once if rated more often), else 0.
    """

    rows: np.ndarray
    classes: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[Sequence[tuple[int, bool]]]) -> "Ratings":
        """From the (class, whether it was seen) of each segment."""
        pairs = [(row, label, seen) for row, segment in enumerate(segments) for label, seen in segment]
        return cls(*np.array(pairs, np.int64).reshape(-1, 3).T)

    def select(self, rows: np.ndarray) -> "Ratings":
        """The pairs of the segments that a bool mask (B,) keeps, their rows renumbered."""
        kept = rows[self.rows]
        return Ratings((np.cumsum(rows) - 1)[self.rows[kept]], self.classes[kept], self.present[kept])


@dataclasses.dataclass
class RawBatch:
    """B good records as arrays. B may be 0.

    Attributes:
        id_column: id of each record; of a segment `video:start`.
        split_id_column: what decides the split: the id of the video.
        offsets: int64 (B,), where the record begins in its shard.
        label_values: int64, the labels of all records one after another; no label twice in a record.
        label_lengths: int64 (B,), labels per record.
        labelled: bool (B,), whether the record says what its labels are. A video without any label does not; a rated
            segment does, even when the raters saw no class in it.
        features: by modality name: float32 (B, D) for video-level ones, `FrameBatch` for frame-level ones, for texts
            their UTF-8, empty where there is none, and for texts of seconds at most `max_frames` lines. Of a record
            that lacks the modality the vector is NaN, and there are no frames. What texts and frames refer to is valid
            until the next batch is requested.
        filled: by modality name, for modalities missing somewhere: bool (B,), true where it was filled in.
        notes: counts of repairs: `videos_cut`, `frames_cut`, `videos_padded`, `frames_padded`, `labels_deduplicated`,
            `labels_unknown`, `modality_filled`.
        ratings: of segment records: what raters said of the segments, else None.
        context: by name of `RecordOptions.context_features`: the values in each record, none if it lacks the feature.
        missing: by modality name, for modalities that some record lacks: bool (B,), true where it does.
        held: by modality name, for modalities that were padded somewhere: int64 (B,), the frames before padding.
        timed: names of the modalities that are texts of seconds.
    """

    id_column: BytesColumn
    split_id_column: BytesColumn
    offsets: np.ndarray
    label_values: np.ndarray
    label_lengths: np.ndarray
    labelled: np.ndarray
    features: dict[str, "FeatureValues"]
    filled: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Counter = dataclasses.field(default_factory=Counter)
    ratings: "Ratings | None" = None
    context: dict[str, list[Values]] = dataclasses.field(default_factory=dict)
    missing: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    held: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    timed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.id_column.lengths)

    def frame_counts(self) -> np.ndarray:
        """Frames per video, int64 (B,): of any frames modality that it has; without any, lines of its texts."""
        counts = [values.lengths for values in self.features.values() if isinstance(values, FrameBatch)]
        frames = functools.reduce(np.maximum, counts)
        if not self.timed or frames.all():
            return frames
        lines = functools.reduce(np.maximum, [_line_counts(self.features[name]) for name in self.timed])
        return np.where(frames > 0, frames, lines)

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
        """This record as an entry of a dead-letter file."""
        return Rejected(shard, offset, printable_id(self.video_id), self.stage, self.reason, str(self))


@dataclasses.dataclass
class _CanonicalRecord:
    """A record that the kernels take: as it was, or rewritten by the careful reader.

    Attributes:
        payload: the serialized record.
        split_id: the id that decides its split; empty: its own.
        filled: names of the modalities that were filled in.
        held: frames of each modality that was padded, before that.
        padded: frames that were added to the shortest modality.
        repeated_labels: how many labels were repetitions.
        unknown_labels: how many labels were left out because they are none of the classes.
        ratings: of a segment: (class, whether the raters saw it).
        context: values of the features of `RecordOptions.context_features`.
    """

    payload: bytes
    split_id: bytes = b""
    filled: tuple[str, ...] = ()
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    padded: int = 0
    repeated_labels: int = 0
    unknown_labels: int = 0
    ratings: Sequence[tuple[int, bool]] = ()
    context: Mapping[str, Values] = dataclasses.field(default_factory=dict)


class Decoder:
    """Turns framed records into a `RawBatch`: kernels for nearly all, `_careful` for the rest."""

    def __init__(self, schema: RecordSchema, options: RecordOptions) -> None:
        self.schema = schema
        self.options = options
        self._sequence = schema.container == "sequence_example"
        # The kernels look for features of the context first, then for the feature lists.
        self._modalities = sorted(schema.modalities, key=self._in_lists)
        in_context = sum(not self._in_lists(modality) for modality in schema.modalities)
        self._context_names = 2 + len(options.context_features) + in_context
        self._frames_modalities = [modality.name for modality in schema.modalities if modality.kind == FRAMES]
        self._by_second = {each.name for each in schema.modalities if each.kind == FRAMES or each.timed}
        names = [schema.id_feature, schema.labels_feature, *options.context_features]
        names += [modality.source for modality in self._modalities]
        encoded = [name.encode() for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._name_ends = np.cumsum([len(name) for name in encoded])
        self._kinds = np.array([self._kind(modality) for modality in self._modalities])
        self._widths = np.array([each.frame_bytes if each.kind == FRAMES else each.width for each in self._modalities])
        # Segments are cut out of videos. Frames of float32 are lists of numbers, which the kernels take as bytes, and
        # texts of seconds are feature lists, which they take as one text.
        listed = self._sequence and schema.has_lines
        self._rewrites = schema.segments or schema.has_float_frames or listed

    def _in_lists(self, modality: Modality) -> bool:
        """Whether the modality is a feature list of a SequenceExample."""
        return self._sequence and modality.kind == FRAMES

    def _kind(self, modality: Modality) -> int:
        if modality.kind == TEXT:
            return kernels.TEXT_BYTES
        if modality.kind != FRAMES:
            return kernels.FLOAT_VECTOR if modality.encoding == "float32" else kernels.BYTE_VECTOR
        return kernels.BYTE_FRAMES if self._sequence else kernels.BYTE_MATRIX

    def decode(
        self,
        shard: str,
        buffer: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        offsets: np.ndarray,
    ) -> tuple[RawBatch, list[Rejected]]:
        """Decodes R payloads in `buffer`; every one is in the batch or among the rejected."""
        index = self._index(buffer, starts, lengths)
        others = [each.kind != TEXT for each in self._modalities]
        if self._sequence and self.schema.texts and any(others):
            # Where there is nothing but a text, the careful reader looks whether this is an Example.
            index.canonical &= (index.values[:, others, 0] >= 0).any(axis=1)
        context = self._context(buffer, index)
        if not self._rewrites and index.canonical.all():
            batch = self._gather(buffer, index, offsets)
            batch.context = context
            return batch, []
        items: list[_CanonicalRecord] = []
        origin: list[int] = []
        rejected: list[Rejected] = []
        for record, payload in enumerate(_payloads(buffer, starts, lengths)):
            if index.canonical[record] and not self._rewrites:
                own = {name: values[record] for name, values in context.items()}
                items.append(_CanonicalRecord(payload, context=own))
                origin.append(record)
                continue
            try:
                for item in self._careful(payload):
                    if isinstance(item, RecordError):
                        rejected.append(item.rejected(shard, int(offsets[record])))
                    else:
                        items.append(item)
                        origin.append(record)
            except RecordError as error:
                rejected.append(error.rejected(shard, int(offsets[record])))
        return self._batch_of(items, offsets[origin] if origin else offsets[:0]), rejected

    def _batch_of(self, items: Sequence[_CanonicalRecord], offsets: np.ndarray) -> RawBatch:
        rewritten = records_in([item.payload for item in items])
        index = self._index(*rewritten)
        if not index.canonical.all():
            raise RuntimeError("the kernels do not take a record that the careful reader wrote")
        batch = self._gather(rewritten[0], index, offsets)
        batch.split_id_column = BytesColumn.of(
            [item.split_id or video_id for item, video_id in zip(items, batch.ids, strict=True)]
        )
        for name in {name for item in items for name in item.filled}:
            batch.filled[name] = np.array([name in item.filled for item in items])
            batch.notes["modality_filled"] += int(batch.filled[name].sum())
        for name in {name for item in items for name in item.held}:
            batch.held[name] = np.array([item.held.get(name, _ANY_COUNT) for item in items])
        for note, count in (
            ("videos_padded", sum(item.padded > 0 for item in items)),
            ("frames_padded", sum(item.padded for item in items)),
            ("labels_deduplicated", sum(item.repeated_labels for item in items)),
            ("labels_unknown", sum(item.unknown_labels for item in items)),
        ):
            if count:
                batch.notes[note] += count
        batch.context = {name: [item.context[name] for item in items] for name in self.options.context_features}
        if self.schema.segments:
            batch.ratings = Ratings.of([item.ratings for item in items])
        return batch

    def _context(self, buffer: np.ndarray, index: "_Index") -> dict[str, list[Values]]:
        """Values of the context features of canonical records; a record with a damaged one is no longer canonical."""
        context: dict[str, list[Values]] = {}
        for position, name in enumerate(self.options.context_features):
            context[name] = [[] for _ in range(len(index.canonical))]
            for record in np.flatnonzero(index.canonical & (index.context[:, position, 0] >= 0)).tolist():
                begin, end = index.context[record, position]
                try:
                    context[name][record] = examples.parse_feature(buffer[begin:end].tobytes()).values
                except examples.ExampleError:
                    index.canonical[record] = False
        return context

    def _index(self, buffer: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "_Index":
        count = len(starts)
        index = _Index(
            np.empty(count, np.bool_),
            np.empty((count, 2), np.int64),
            np.empty((count, 3), np.int64),
            np.empty((count, len(self.options.context_features), 2), np.int64),
            np.empty((count, len(self._kinds), 3), np.int64),
        )
        class_count = self.options.class_count
        kernels.index_records(
            buffer,
            starts,
            lengths,
            self._context_names,
            self._names,
            self._name_ends,
            self._kinds,
            self._widths,
            _ANY_CLASS if class_count is None else class_count,
            self.options.require_labels and not self.schema.segments,
            self.options.mask_missing,
            index.canonical,
            index.ids,
            index.labels,
            index.context,
            index.values,
        )
        return index

    def _gather(self, buffer: np.ndarray, index: "_Index", offsets: np.ndarray) -> RawBatch:
        label_lengths = index.labels[:, 2].copy()
        label_values = np.empty(int(label_lengths.sum()), np.int64)
        kernels.gather_labels(buffer, index.labels, label_values)
        features: dict[str, FeatureValues] = {}
        missing: dict[str, np.ndarray] = {}
        timed = tuple(modality.name for modality in self.schema.texts if modality.timed)
        frames = np.zeros(len(label_lengths), np.int64)
        for modality in self.schema.modalities:
            position = self._modalities.index(modality)
            begins = np.ascontiguousarray(index.values[:, position, 0])
            if modality.kind == TEXT:
                texts = BytesColumn(buffer, begins, index.values[:, position, 1].copy())
                features[modality.name] = first_lines(texts, self.options.max_frames) if modality.timed else texts
                continue
            lacking = begins < 0
            if lacking.any():
                missing[modality.name] = lacking
            if modality.kind == FRAMES:
                frames = np.maximum(frames, index.values[:, position, 1])
                kept = np.minimum(index.values[:, position, 1], self.options.max_frames)
                features[modality.name] = FrameBatch(
                    buffer,
                    np.maximum(begins, 0),
                    np.ascontiguousarray(index.values[:, position, 2]),
                    kept,
                    modality.frame_bytes,
                )
            elif modality.encoding == "float32":
                bits = np.empty((len(begins), modality.width), np.uint32)
                kernels.gather_floats(buffer, begins, bits)
                features[modality.name] = bits.view(np.float32)
            else:
                present = begins[~lacking]
                once = np.ones(len(present), np.int64)
                codes = FrameBatch(buffer, present, once, once, modality.width).codes
                vectors = np.full((len(begins), modality.width), np.nan, np.float32)
                vectors[~lacking] = modality.quantisation.values(codes.astype(np.float32))
                features[modality.name] = vectors
        labelled = label_lengths > 0 if not self.schema.segments else np.ones(len(label_lengths), np.bool_)
        ids = _bytes_column(buffer, index.ids)
        notes: Counter = Counter()
        cut = np.maximum(frames - self.options.max_frames, 0)
        if cut.any():
            notes["videos_cut"] += int(np.count_nonzero(cut))
            notes["frames_cut"] += int(cut.sum())
        return RawBatch(
            ids,
            ids,
            offsets,
            label_values,
            label_lengths,
            labelled,
            features,
            notes=notes,
            missing=missing,
            timed=timed,
        )

    def _careful(self, payload: bytes) -> "list[_CanonicalRecord | RecordError]":
        """Slow path: parses and checks one record, and encodes it canonically: for segments one record per segment.

        Raises:
            RecordError: the record cannot be used.
        """
        try:
            record = examples.parse_record(payload)
        except examples.ExampleError as error:
            raise RecordError("unparsable", str(error), stage="parse") from None
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

    def _checked(self, record: examples.Record, video_id: bytes) -> "list[_CanonicalRecord | RecordError]":
        labels, repeated, unknown = self._labels(record)
        # A video without a text is a video like others.
        needed = [modality for modality in self.schema.modalities if modality.kind != TEXT]
        lacking = [modality.name for modality in needed if not self._present(record, modality)]
        absent = [modality.source for modality in self.schema.modalities if modality.name in lacking]
        if lacking and not self._may_lack(record, lacking):
            self._check_container(record)
            raise RecordError(
                "missing_feature", f"the record has no {', '.join(map(repr, absent))}; it has {_names_of(record)}"
            )
        values = {
            modality.name: self._values(record, modality)
            for modality in self.schema.modalities
            if modality.name not in lacking
        }
        frames = {name: len(values[name]) for name in self._frames_modalities if name in values}
        longest = max(frames.values(), default=0) or self._lines(values)
        held = {name: count for name, count in frames.items() if count < longest}
        if held and not self.options.mask_missing:
            raise RecordError(
                "frames_differ",
                "modalities differ in frames: " + ", ".join(f"{name} has {count}" for name, count in frames.items()),
            )
        for modality in self.schema.modalities:
            name = modality.name
            if name in lacking and not self.options.mask_missing:
                values[name] = [filling(modality)] * (longest if modality.kind == FRAMES else 1)
            elif name in held:
                values[name] = values[name] + [filling(modality)] * (longest - held[name])
        filled = () if self.options.mask_missing else tuple(lacking)
        padded = longest - min(held.values(), default=longest)
        context = {
            name: record.features[name].values if name in record.features else []
            for name in self.options.context_features
        }
        if not self.schema.segments:
            payload = self._write(video_id, labels, values)
            return [_CanonicalRecord(payload, video_id, filled, held, padded, repeated, unknown, context=context)]
        items: list[_CanonicalRecord | RecordError] = []
        segments, unrated = self._segments(record)
        for number, (start, end, ratings) in enumerate(segments):
            if not 0 <= start < min(end, longest):
                items.append(
                    RecordError(
                        "segment_out_of_range", f"segment {start}..{end} of a video of {longest} frames", video_id
                    )
                )
                continue
            within = {name: count - start for name, count in held.items() if count < end}
            part = {
                name: rows[start:end] if name in self._by_second else rows
                for name, rows in values.items()
                if within.get(name, 1) > 0  # else the modality has ended: the segment lacks it
            }
            present = [label for label, seen in ratings if seen]
            payload = self._write(b"%s:%d" % (video_id, start), present, part)
            dropped = unknown + unrated if number == 0 else 0  # once per video
            own = {name: count for name, count in within.items() if count > 0}
            added = min(end, longest) - start - min(own.values(), default=min(end, longest) - start)
            items.append(_CanonicalRecord(payload, video_id, filled, own, added, repeated, dropped, ratings, context))
        return items

    def _may_lack(self, record: examples.Record, lacking: Sequence[str]) -> bool:
        """Whether a record may lack these modalities: all but texts, if one of these says something."""
        if len(lacking) == len(self.schema.modalities) - len(self.schema.texts):
            said = any(any(self._values(record, text)) for text in self.schema.texts)
            return self.options.mask_missing and said and not self._other_container(record)
        # Without any frames modality there is nothing that says how many frames to fill in.
        frameless = bool(self._frames_modalities) and set(self._frames_modalities) <= set(lacking)
        return self.options.mask_missing or (self.options.fill_missing and not frameless)

    def _lines(self, values: Mapping[str, Sequence[bytes]]) -> int:
        """The seconds of which a record has texts; 0 where they are empty."""
        texts = [values[text.name] for text in self.schema.texts if text.timed]
        return max((len(lines) for lines in texts if b"\n".join(lines)), default=0)

    def _labels(self, record: examples.Record) -> tuple[list[int], int, int]:
        """The distinct labels in ascending order, the number of repetitions, and that of labels left out."""
        name = self.schema.labels_feature
        feature = record.features.get(name)
        values: list[int] = []
        if feature is not None and feature.kind is not None:
            if feature.kind != "int64":
                raise RecordError("wrong_type", f"{name!r} must hold int64, got {feature.kind}")
            values = [int(value) for value in feature.values]
        try:
            refuse_multi_hot(values, repr(name))
        except MultiHotLabels as error:
            raise RecordError("labels_multi_hot", str(error)) from None
        listed = len(values)
        values = self._known_labels(name, values)
        if not values and self.options.require_labels and not self.schema.segments:
            raise RecordError("no_labels", f"{name!r} is absent or empty")
        distinct = sorted(set(values))
        return distinct, len(values) - len(distinct), listed - len(values)

    def _known_labels(self, name: str, values: Sequence[int]) -> list[int]:
        """The labels in [0, C): all, or the record is rejected; with `drop_unknown_labels` those that are."""
        end = self.options.class_count
        if self.options.drop_unknown_labels:
            return [value for value in values if value >= 0 and (end is None or value < end)]
        for value in values:
            if value < 0 or (end is not None and value >= end):
                allowed = f"[0, {end})" if end is not None else "[0, …)"
                raise RecordError("label_out_of_range", f"{name!r} holds {value}, outside {allowed}")
        return list(values)

    def _present(self, record: examples.Record, modality: Modality) -> bool:
        emptiness = self.options.mask_missing
        if self._in_lists(modality):
            return modality.source in record.feature_lists and (
                not emptiness or bool(record.feature_lists[modality.source])
            )
        feature = record.features.get(modality.source)
        return feature is not None and feature.kind is not None and (not emptiness or len(feature.values) > 0)

    def _other_container(self, record: examples.Record) -> bool:
        if not self._sequence:
            return bool(record.feature_lists)
        return any(modality.source in record.features for modality in self.schema.modalities if modality.kind == FRAMES)

    def _check_container(self, record: examples.Record) -> None:
        if self._sequence and self._frames_modalities and not record.feature_lists:
            raise RecordError(
                "wrong_container", "a tf.train.Example where a SequenceExample was expected", stage="parse"
            )
        if not self._sequence and record.feature_lists:
            raise RecordError(
                "wrong_container", "a tf.train.SequenceExample where an Example was expected", stage="parse"
            )

    def _values(self, record: examples.Record, modality: Modality) -> list[bytes]:
        """The frames or lines (or the one vector or text) of a modality, each as its bytes."""
        name, size = modality.source, modality.frame_bytes
        if modality.timed and self._sequence:
            texts = [_one_text(text, name) for text in record.feature_lists.get(name, ())]
            return [text.replace(b"\n", b" ") for text in texts]
        if modality.timed:
            return _one_text(record.features.get(name), name, b"\n").split(b"\n")
        if modality.kind == TEXT:
            return [_one_text(record.features.get(name), name)]
        if not self._in_lists(modality):
            values = _one_vector(record.features[name], modality)
            if modality.kind == FRAMES:
                if not values or len(values) % size:
                    what, of_one = ("codes", 1) if modality.coded else ("values", 4)
                    raise RecordError(
                        "wrong_width",
                        f"{name!r} holds {len(values) // of_one} {what}, not a multiple of {modality.width}",
                    )
                return [values[at : at + size] for at in range(0, len(values), size)]
            return [values]
        frames = record.feature_lists[name]
        if not frames:
            raise RecordError("no_frames", f"{name!r} has no frames")
        return [_one_frame(frame, modality, number) for number, frame in enumerate(frames)]

    def _segments(self, record: examples.Record) -> tuple[list[tuple[int, int, list[tuple[int, bool]]]], int]:
        """(first frame, end, (class, whether the raters saw it) ascending) of each rated segment, in order of time.

        And the number of ratings of unknown classes that were left out.
        """
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
        known = set(self._known_labels("segment_labels", labels))
        segments: dict[tuple[int, int], dict[int, bool]] = {}
        for start, end, label, score in zip(starts, ends, labels, scores, strict=True):
            ratings = segments.setdefault((start, end), {})
            if label in known:
                ratings[label] = ratings.get(label, False) or bool(score >= 0.5)
        rated = [(start, end, sorted(ratings.items())) for (start, end), ratings in sorted(segments.items())]
        return rated, sum(label not in known for label in labels)

    def _write(self, video_id: bytes, labels: Sequence[int], values: dict[str, list[bytes]]) -> bytes:
        context = {
            self.schema.id_feature: examples.bytes_feature(video_id),
            self.schema.labels_feature: examples.int64_feature(labels),
        }
        lists: dict[str, list[bytes]] = {}
        for modality in self.schema.modalities:
            if modality.name not in values:
                continue
            rows = values[modality.name]
            if self._in_lists(modality):
                lists[modality.source] = rows
            elif modality.encoding == "float32" and modality.kind != FRAMES:
                context[modality.source] = examples.float_feature(np.frombuffer(rows[0], "<f4"))
            else:
                context[modality.source] = examples.bytes_feature((b"\n" if modality.timed else b"").join(rows))
        if self._sequence:
            return examples.write_sequence_example(context, lists)
        return examples.write_example(context)


@dataclasses.dataclass
class _Index:
    """Where the features of R records lie; see `kernels.index_records`."""

    canonical: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    context: np.ndarray
    values: np.ndarray


def filling(modality: Modality) -> bytes:
    """Zeros, or the nearest to 0 that codes can say: the middle of what whitened features hold."""
    if modality.encoding == "uint8":
        return bytes([modality.fill_code]) * modality.width
    return bytes(4 * modality.width)


def _one_text(feature: examples.Feature | None, name: str, between: bytes = b" ") -> bytes:
    """The values of a text, joined; nothing where there are none."""
    if feature is None or feature.kind is None:
        return b""
    if feature.kind != "bytes":
        raise RecordError("wrong_type", f"{name!r} must hold text, got {feature.kind}")
    return between.join(feature.values)  # type: ignore[arg-type]


def _line_counts(texts: FeatureValues) -> np.ndarray:
    """Lines of each text, int64 (B,); an empty one has none."""
    assert isinstance(texts, BytesColumn)
    counts = np.empty(len(texts), np.int64)
    kernels.count_lines(texts.data, texts.begins, texts.lengths, counts)
    return np.where(texts.lengths > 0, counts, 0)


def first_lines(texts: BytesColumn, most: int) -> BytesColumn:
    """The texts without the lines beyond the first `most`; the data are shared."""
    lengths = np.empty_like(texts.lengths)
    kernels.cut_lines(texts.data, texts.begins, texts.lengths, most, lengths)
    return BytesColumn(texts.data, texts.begins, lengths)


def _one_vector(feature: examples.Feature, modality: Modality) -> bytes:
    kind = "float" if modality.encoding == "float32" else "bytes"
    name = modality.source
    if feature.kind != kind:
        raise RecordError("wrong_type", f"{name!r} must hold {modality.encoding}, got {feature.kind}")
    if kind == "bytes":
        if len(feature.values) != 1:
            raise RecordError("wrong_width", f"{name!r} must hold 1 byte string, got {len(feature.values)}")
        value = feature.values[0]
        assert isinstance(value, bytes)
        if modality.kind != FRAMES and len(value) != modality.width:
            raise RecordError("wrong_width", f"{name!r} must hold {modality.width} codes, got {len(value)}")
        return value
    values = np.asarray(feature.values, "<f4")
    if modality.kind != FRAMES and len(values) != modality.width:
        raise RecordError("wrong_width", f"{name!r} must hold {modality.width} values, got {len(values)}")
    if not np.isfinite(values).all():
        raise RecordError("not_finite", f"{name!r} holds NaN or infinity")
    return values.tobytes()


def _one_frame(frame: examples.Feature, modality: Modality, number: int) -> bytes:
    """The bytes of a frame in a feature list."""
    where = f"frame {number} of {modality.source!r}"
    kind, unit = ("bytes", "codes") if modality.coded else ("float", "values")
    if frame.kind != kind:
        advice = f"; the schema may say the encoding {'float32' if modality.coded else 'uint8'!r}"
        raise RecordError(
            "wrong_type",
            f"{where} must hold {kind}, got {frame.kind or 'nothing'}"
            + (advice if frame.kind in ("bytes", "float") else ""),
        )
    values = frame.values
    got = [len(value) for value in values] if modality.coded else [len(values)]  # type: ignore[arg-type]
    if got != [modality.width]:
        raise RecordError("wrong_width", f"{where} must hold {modality.width} {unit}, got {sum(got)}")
    if modality.coded:
        return values[0]  # type: ignore[return-value]
    if not np.isfinite(values).all():
        raise RecordError("not_finite", f"{where} holds NaN or infinity")
    return np.asarray(values, "<f4").tobytes()


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
    # A writable array, as chunks are: numba compiles a kernel a second time for one that is not.
    return np.frombuffer(bytearray(b"".join(payloads) or b"\0"), np.uint8), np.cumsum(lengths) - lengths, lengths


def in_batches(starts: np.ndarray, batch_records: int) -> list[slice]:
    """Slices of at most `batch_records` records that cover `starts`."""
    return [slice(at, at + batch_records) for at in range(0, len(starts), batch_records)]
