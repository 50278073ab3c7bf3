"""From serialized raw records to where their features lie, and to arrays.

The kernels understand the canonical encoding, which every protobuf writer in use produces, and check everything that a
usable record must satisfy. A record in any other encoding is only marked; the careful reader in
`vcls_model.records.decoding` takes it.
"""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.records.kernels.protobuf import (
    TAG_1,
    TAG_2,
    TAG_3,
    find_features,
    read_message,
    read_varint,
    single_value,
)
from vcls_model.records.kernels.text import LINE_END
from vcls_model.records.kernels.words import load_u32

njit = njit_of(__package__)

# Which message a modality's values are in. Packed integers are those of transformed records.
FLOAT_VECTOR, BYTE_VECTOR, BYTE_FRAMES, BYTE_MATRIX, TEXT_BYTES, INTEGERS = range(6)


@njit
def _labels(buffer, at, end, class_count):
    """The packed varints of an int64 list: (begin, end, count); begin -1 if not canonical, out of range or repeated."""
    if at == end:
        return at, at, 0
    values, values_end = read_message(buffer, at, end, TAG_3)
    if values < 0 or values_end != end:
        return -1, -1, 0
    if values == values_end:
        return end, end, 0
    begin, finish = read_message(buffer, values, values_end, TAG_1)
    if begin < 0 or finish != end:
        return -1, -1, 0
    count = 0
    scan = begin
    previous = np.int64(-1)
    while scan < finish:
        value, scan = read_varint(buffer, scan, finish)
        # Ascending labels are not repeated; others are the careful reader's.
        if scan < 0 or value <= previous or value >= class_count:
            return -1, -1, 0
        previous = value
        count += 1
    return begin, finish, count


@njit
def _finite(buffer, at, count):
    special = np.uint32(0)
    for value in range(count):
        special |= np.uint32((load_u32(buffer, at + 4 * value) & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return special == 0


@njit
def _frames(buffer, at, end, width):
    """Frames in a FeatureList of equal byte strings: (first code, frames, stride); frames 0 when not canonical."""
    feature, feature_end = read_message(buffer, at, end, TAG_1)
    if feature < 0:
        return -1, 0, 0
    code, code_end = single_value(buffer, feature, feature_end, TAG_1)
    if code < 0 or code_end - code != width:
        return -1, 0, 0
    stride = code_end - at
    header = code - at
    if (end - at) % stride != 0:
        return -1, 0, 0
    frames = (end - at) // stride
    for frame in range(1, frames):
        begin = at + frame * stride
        for byte in range(header):
            if buffer[begin + byte] != buffer[at + byte]:
                return -1, 0, 0
    return code, frames, stride


@njit
def _says_something(buffer, at, end):
    """Whether a text has more than line ends."""
    while at < end and buffer[at] == LINE_END:
        at += 1
    return at < end


@njit
def index_records(
    buffer,
    starts,
    lengths,
    context_names,
    names,
    name_ends,
    kinds,
    widths,
    class_count,
    need_labels,
    may_lack,
    canonical,
    ids,
    labels,
    context,
    values,
):
    """Finds the features of R records.

    Args:
        buffer, starts, lengths: the payloads, see `FramedChunk`.
        context_names: how many of the names are features of the record (or of its context); those after them are
            feature lists of a SequenceExample.
        names, name_ends: names of id, labels, E features of the context to be read as they are, and the
            modalities, concatenated (uint8), and where each ends.
        kinds, widths: of each modality.
        class_count: labels must be below.
        need_labels: a record needs at least one label.
        may_lack: a record may lack modalities, though not all of them; all but texts where a text says something.
        canonical: out, bool (R,): the record is good and was understood; if not, the careful reader must look at it.
        ids: out, int64 (R, 2): begin and end of the id.
        labels: out, int64 (R, 3): begin and end of the packed labels, and their number.
        context: out, int64 (R, E, 2): begin and end of each Feature to be read as it is, or -1 where there is none.
        values: out, int64 (R, M, 3): first byte, frames (of a text bytes) and stride of each modality; -1, 0 and 0
            where it is missing.
    """
    modalities = kinds.shape[0]
    texts = 0
    for modality in range(modalities):
        texts += kinds[modality] == TEXT_BYTES
    ahead = 2 + context.shape[1]
    spans = np.empty((ahead + modalities, 2), np.int64)
    for record in range(starts.shape[0]):
        canonical[record] = False
        at = starts[record]
        end = at + lengths[record]
        spans[:] = -1
        features, features_end = read_message(buffer, at, end, TAG_1)
        if features < 0:
            continue
        if not find_features(buffer, features, features_end, names, name_ends, 0, context_names, spans):
            continue
        if features_end != end:
            # Feature lists: of a SequenceExample; an Example's writer may leave empty ones.
            lists, lists_end = read_message(buffer, features_end, end, TAG_2)
            if lists_end != end or not (context_names < ahead + modalities or lists == lists_end):
                continue
            if not find_features(buffer, lists, lists_end, names, name_ends, context_names, ahead + modalities, spans):
                continue
        if spans[0, 0] < 0:
            continue
        ids[record, 0], ids[record, 1] = single_value(buffer, spans[0, 0], spans[0, 1], TAG_1)
        if ids[record, 0] < 0 or ids[record, 0] == ids[record, 1]:
            continue
        if spans[1, 0] < 0:
            spans[1, 0] = spans[1, 1] = features
        labels[record, 0], labels[record, 1], labels[record, 2] = _labels(buffer, spans[1, 0], spans[1, 1], class_count)
        if labels[record, 0] < 0 or (need_labels and labels[record, 2] == 0):
            continue
        context[record] = spans[2:ahead]
        good = True
        said = False
        lacking = 0
        record_frames = np.int64(-1)
        for modality in range(modalities):
            at, end = spans[ahead + modality, 0], spans[ahead + modality, 1]
            width = widths[modality]
            if kinds[modality] == TEXT_BYTES and (at < 0 or at == end):  # there is no text
                values[record, modality, 0] = features
                values[record, modality, 1] = 0
                values[record, modality, 2] = 1
                continue
            if at < 0:
                values[record, modality, 0] = -1
                values[record, modality, 1] = 0
                values[record, modality, 2] = 0
                lacking += 1
                good = may_lack
                if good:
                    continue
                break
            if kinds[modality] == BYTE_FRAMES:
                code, frames, stride = _frames(buffer, at, end, width)
                good = frames > 0
            elif kinds[modality] == FLOAT_VECTOR:
                code, finish = single_value(buffer, at, end, TAG_2)
                good = code >= 0 and finish - code == 4 * width and _finite(buffer, code, width)
                frames, stride = 1, 4 * width
            elif kinds[modality] == TEXT_BYTES:
                code, finish = single_value(buffer, at, end, TAG_1)
                good = code >= 0
                frames, stride = finish - code, 1
                said = said or _says_something(buffer, code, finish)
            else:
                code, finish = single_value(buffer, at, end, TAG_1)
                frames, stride = (finish - code) // width, width
                good = code >= 0 and frames > 0 and frames * width == finish - code
                good = good and (frames == 1 or kinds[modality] == BYTE_MATRIX)
            if not good:
                break
            values[record, modality, 0] = code
            values[record, modality, 1] = frames
            values[record, modality, 2] = stride
            if kinds[modality] == BYTE_FRAMES or kinds[modality] == BYTE_MATRIX:
                if record_frames >= 0 and frames != record_frames:
                    good = False
                    break
                record_frames = frames
        canonical[record] = good and (lacking == 0 or said or lacking < modalities - texts)


@njit
def gather_bytes(buffer, spans, target):
    """Copies buffer[spans[r, 0]:spans[r, 1]] one after another into `target`."""
    to = 0
    for record in range(spans.shape[0]):
        for at in range(spans[record, 0], spans[record, 1]):
            target[to] = buffer[at]
            to += 1


@njit
def gather_labels(buffer, labels, target):
    """Decodes the packed labels that `index_records` found into int64 `target`."""
    to = 0
    for record in range(labels.shape[0]):
        at = labels[record, 0]
        for _ in range(labels[record, 2]):
            target[to], at = read_varint(buffer, at, labels[record, 1])
            to += 1


@njit
def gather_floats(buffer, begins, target):
    """Copies packed little-endian floats into `target`, uint32 (R, D): the bits of float32; NaN where begins[r] < 0."""
    for record in range(target.shape[0]):
        begin = begins[record]
        if begin < 0:
            target[record] = np.uint32(0x7FC00000)
            continue
        for column in range(target.shape[1]):
            target[record, column] = load_u32(buffer, begin + 4 * column)


@njit
def gather_codes(buffer, begins, strides, frames, target):
    """Copies the first frames[r] frames of each record into `target`, uint8 (sum of frames, D)."""
    width = target.shape[1]
    to = 0
    for record in range(begins.shape[0]):
        for frame in range(frames[record]):
            begin = begins[record] + frame * strides[record]
            target[to] = buffer[begin : begin + width]
            to += 1
