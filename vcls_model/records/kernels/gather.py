"""Reading transformed records for training.

One pass over a piece of a shard checks its records and notes where their features lie; others copy those into the
arrays of a batch.
"""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.records.kernels.decode import FLOAT_VECTOR, INTEGERS
from vcls_model.records.kernels.framing import FOOTER_BYTES, FULL, HEADER_BYTES, RECORD, whole_record
from vcls_model.records.kernels.protobuf import (
    TAG_1,
    TAG_2,
    TAG_3,
    find_features,
    read_message,
    read_varint,
    single_value,
)
from vcls_model.records.kernels.words import copy_bytes

njit = njit_of(__package__)

# Columns of the index of transformed records; after them, one per modality: where its values begin; and where there are
# lists of integers, once more one per modality: how many there are.
START, LENGTH, CANONICAL, ID_BEGIN, ID_END, LABELS_BEGIN, LABEL_COUNT, FRAMES, INDEX_COLUMNS = range(9)
# Where the values of a modality begin that the record lacks; it stays below 0 when a buffer's place is added.
MISSING = -(1 << 62)
# How frames are chosen.
ALL_FRAMES, RANDOM_FRAMES, FRAME_SEQUENCE, UNIFORM_FRAMES, MIDDLE_FRAMES = range(5)


@njit
def _packed_integers(buffer, at, end):
    """The packed varints of the Feature [at, end): (where they begin, number); begin -1 when not canonical."""
    if at == end:
        return at, 0
    values, values_end = read_message(buffer, at, end, TAG_3)
    if values < 0 or values_end != end:
        return -1, 0
    if values == values_end:
        return end, 0
    begin, finish = read_message(buffer, values, values_end, TAG_1)
    if begin < 0 or finish != end:
        return -1, 0
    count = 0
    scan = begin
    while scan < finish:
        _, scan = read_varint(buffer, scan, finish)
        if scan < 0:
            return -1, 0
        count += 1
    return begin, count


@njit
def _says_missing(buffer, at, end, names, name_ends, name, spans):
    """Whether the features in [at, end) hold the one of this number, and it is 0."""
    if name >= name_ends.shape[0]:
        return False
    if not find_features(buffer, at, end, names, name_ends, name, name + 1, spans) or spans[name, 0] < 0:
        return False
    begin, count = _packed_integers(buffer, spans[name, 0], spans[name, 1])
    return begin >= 0 and count == 1 and buffer[begin] == 0


@njit
def _index_features(buffer, at, end, names, name_ends, kinds, widths, spans, row):
    """Fills in one row of the index of transformed records. False: not canonical."""
    features, features_end = read_message(buffer, at, end, TAG_1)
    if features < 0 or features_end != end:
        return False
    spans[:] = -1
    modalities = kinds.shape[0]
    if not find_features(buffer, features, features_end, names, name_ends, 0, 3 + modalities, spans):
        return False
    if name_ends[0] > 0:
        if spans[0, 0] < 0:
            return False
        row[ID_BEGIN], row[ID_END] = single_value(buffer, spans[0, 0], spans[0, 1], TAG_1)
        if row[ID_BEGIN] < 0:
            return False
    if spans[1, 0] < 0:
        row[LABELS_BEGIN], row[LABEL_COUNT] = at, 0
    else:
        row[LABELS_BEGIN], row[LABEL_COUNT] = _packed_integers(buffer, spans[1, 0], spans[1, 1])
        if row[LABELS_BEGIN] < 0:
            return False
    row[FRAMES] = 0
    if name_ends[2] > name_ends[1]:
        if spans[2, 0] < 0:
            return False
        begin, count = _packed_integers(buffer, spans[2, 0], spans[2, 1])
        if begin < 0 or count != 1:
            return False
        row[FRAMES], _ = read_varint(buffer, begin, end)
    for modality in range(modalities):
        if spans[3 + modality, 0] < 0:
            presence = 3 + modalities + modality
            if not _says_missing(buffer, features, features_end, names, name_ends, presence, spans):
                return False
            row[INDEX_COLUMNS + modality] = MISSING
            continue
        if kinds[modality] == INTEGERS:
            begin, count = _packed_integers(buffer, spans[3 + modality, 0], spans[3 + modality, 1])
            if begin < 0:
                return False
            row[INDEX_COLUMNS + modality] = begin
            row[INDEX_COLUMNS + modalities + modality] = count
            continue
        if kinds[modality] == FLOAT_VECTOR:
            begin, finish = single_value(buffer, spans[3 + modality, 0], spans[3 + modality, 1], TAG_2)
            size = 4 * widths[modality]
        else:
            begin, finish = single_value(buffer, spans[3 + modality, 0], spans[3 + modality, 1], TAG_1)
            size = widths[modality] * row[FRAMES]
        if begin < 0 or finish - begin != size:
            return False
        row[INDEX_COLUMNS + modality] = begin
    return True


@njit
def index_transformed(buffer, at, filled, last, names, name_ends, kinds, widths, index, count):
    """Checks the transformed records from `at` on and finds their features; stops at what is not a whole, sound record.

    Args:
        buffer, at, filled, last: see `scan_records`.
        names, name_ends: names of id, labels, number of frames, the modalities, and the features that say by 0 that one
            of these is missing, concatenated (uint8), and where each ends. An empty name of the id or of the number of
            frames: not to be read.
        kinds, widths: of each modality, FLOAT_VECTOR, BYTE_MATRIX or INTEGERS.
        index: out, int64 (R, INDEX_COLUMNS + M), with integers (R, INDEX_COLUMNS + 2 M), from row `count` on.
            CANONICAL is 0 for a record in another encoding or that lacks something: of it, only START and LENGTH are
            filled in.
        count: rows of `index` in use.

    Returns:
        (what stopped it, where, rows in use, end of the data that it needs to see).
    """
    spans = np.empty((name_ends.shape[0], 2), np.int64)
    while True:
        if count == index.shape[0]:
            return FULL, at, count, at
        state, end, needed = whole_record(buffer, at, filled, last)
        if state != RECORD:
            return state, at, count, needed
        begin = at + HEADER_BYTES
        row = index[count]
        row[START] = begin
        row[LENGTH] = end - begin
        row[CANONICAL] = _index_features(buffer, begin, end, names, name_ends, kinds, widths, spans, row)
        count += 1
        at = end + FOOTER_BYTES


@njit
def copy_vectors(source, begins, places, size, target):
    """Copies `size` bytes from each begins[r] of `source` to row places[r] of `target`, the bytes of (B, size).

    Where begins[r] is below 0 the row becomes 0.
    """
    for record in range(begins.shape[0]):
        if begins[record] < 0:
            target[places[record] * size : (places[record] + 1) * size] = 0
            continue
        copy_bytes(target, places[record] * size, source, begins[record], size)  # type: ignore[call-arg]


@njit
def copy_frames(source, begins, places, positions, kept, width, steps, target):
    """Copies frames positions[r, :kept[r]] of each record to row places[r] of `target`; what is left of it becomes 0.

    Args:
        source, begins: uint8, and int64 (R,): where the first frame of each record is; below 0, it has none.
        places: int64 (R,).
        positions, kept: int32 (R, K) and (R,); positions ascend.
        width, steps: bytes of a frame, and frames of a row.
        target: uint8, the bytes of (B, steps, width).
    """
    for record in range(begins.shape[0]):
        to = places[record] * steps * width
        end = to + steps * width
        step = 0
        while step < kept[record] and begins[record] >= 0:
            first = step
            step += 1
            # Neighbours in one go.
            while step < kept[record] and positions[record, step] == positions[record, step - 1] + 1:
                step += 1
            size = (step - first) * width
            copy_bytes(
                target,
                to,
                source,
                begins[record] + positions[record, first] * width,  # type: ignore[call-arg]
                size,
            )
            to += size
        target[to:end] = 0


@njit
def copy_labels(source, begins, counts, places, target):
    """Decodes counts[r] packed varints from begins[r] on into the first columns of row places[r] of (B, L)."""
    for record in range(begins.shape[0]):
        at = begins[record]
        for column in range(counts[record]):
            value, at = read_varint(source, at, source.shape[0])
            target[places[record], column] = value


@njit
def move_lines(tokens, counts, positions, kept):
    """Lays tokens of lines on the frames that were chosen; those of other lines become 0.

    Args:
        tokens: in and out, int64 (R, L), ascending: line * 2^31 + token.
        counts: int64 (R,), tokens of each video.
        positions: int32 (R, K), ascending: the frames that were chosen, of which video r has kept[r].
        kept: int32 (R,).
    """
    for record in range(counts.shape[0]):
        frame = 0
        for place in range(counts[record]):
            line = tokens[record, place] >> 31
            while frame < kept[record] and positions[record, frame] < line:
                frame += 1
            if frame < kept[record] and positions[record, frame] == line:
                tokens[record, place] += (frame - line) << 31
            else:
                tokens[record, place] = 0


@njit
def _splitmix64(value):
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): 64 well-mixed bits of 64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit
def choose_frames(counts, limit, sampling, seed, first, positions, kept):
    """Chooses at most `limit` frames of each video.

    Args:
        counts: int64 (R,), frames that a video has.
        limit: most frames to choose, K.
        sampling: ALL_FRAMES (the first ones), RANDOM_FRAMES (a uniform draw without replacement), FRAME_SEQUENCE (a
            random run of neighbours), UNIFORM_FRAMES (the middles of K equal parts) or MIDDLE_FRAMES (the run in the
            middle).
        seed, first: video r draws from stream number first + r of `seed`.
        positions: out, int32 (R, K), ascending.
        kept: out, int32 (R,).
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    for record in range(counts.shape[0]):
        count = counts[record]
        size = min(count, limit)
        kept[record] = size
        state = _splitmix64(_splitmix64(np.uint64(seed) + golden) ^ np.uint64(first + record))
        if sampling == UNIFORM_FRAMES:
            for step in range(size):
                positions[record, step] = (2 * step + 1) * count // (2 * size)
        elif sampling == RANDOM_FRAMES:
            # Selection sampling (Knuth, The Art of Computer Programming, 3.4.2, algorithm S).
            chosen = 0
            for position in range(count):
                if chosen == size:
                    break
                state += golden
                draw = np.float64(_splitmix64(state) >> np.uint64(11)) * 2.0**-53
                if draw * (count - position) < size - chosen:
                    positions[record, chosen] = position
                    chosen += 1
        else:
            start = np.int64(0)
            if sampling == FRAME_SEQUENCE:
                draw = np.float64(_splitmix64(state + golden) >> np.uint64(11)) * 2.0**-53
                start = np.int64(draw * (count - size + 1))
            elif sampling == MIDDLE_FRAMES:
                start = np.int64((count - size) // 2)
            for step in range(size):
                positions[record, step] = start + step
