"""Writing serialized features: each kernel appends one feature to every record of a batch.

`at` (int64 (B,)) says where in `target` each record's next byte goes, and is moved on.
"""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.records.kernels.framing import FOOTER_BYTES, HEADER_BYTES
from vcls_model.records.kernels.protobuf import TAG_1, TAG_2, TAG_3, message_bytes, put_varint, varint_bytes
from vcls_model.records.kernels.words import store_f32

njit = njit_of(__package__)


@njit
def add_feature_bytes(name_length, contents, totals):
    """Adds to totals[r] the bytes of a map entry whose Feature's list holds one message of contents[r] bytes."""
    for record in range(totals.shape[0]):
        feature = message_bytes(message_bytes(message_bytes(contents[record])))
        totals[record] += message_bytes(message_bytes(name_length) + feature)


@njit
def place_records(features, starts):
    """Where the payloads of records lie that are written one after another with their framing.

    Args:
        features: int64 (R,), bytes of the features message of each.
        starts: out, int64 (R + 1,): of each payload, and of the one that would follow.
    """
    at = HEADER_BYTES
    for record in range(features.shape[0]):
        starts[record] = at
        at += message_bytes(features[record]) + FOOTER_BYTES + HEADER_BYTES
    starts[features.shape[0]] = at


@njit
def _put_feature_head(target, at, name, tag, list_length):
    """Everything of a map entry before the content of its list message; returns where that goes."""
    feature_length = message_bytes(list_length)
    target[at] = TAG_1
    at = put_varint(target, at + 1, message_bytes(name.shape[0]) + message_bytes(feature_length))
    target[at] = TAG_1
    at = put_varint(target, at + 1, name.shape[0])
    for byte in range(name.shape[0]):
        target[at + byte] = name[byte]
    at += name.shape[0]
    target[at] = TAG_2
    at = put_varint(target, at + 1, feature_length)
    target[at] = tag
    return put_varint(target, at + 1, list_length)


@njit
def put_example_heads(target, at, lengths):
    """Opens the features message, of lengths[r] bytes, of each record."""
    for record in range(at.shape[0]):
        target[at[record]] = TAG_1
        at[record] = put_varint(target, at[record] + 1, lengths[record])


@njit
def put_bytes(target, at, name, source, begins, lengths):
    """Appends a bytes feature: source[begins[r]:begins[r] + lengths[r]]."""
    for record in range(at.shape[0]):
        length = lengths[record]
        to = _put_feature_head(target, at[record], name, TAG_1, message_bytes(length))
        target[to] = TAG_1
        to = put_varint(target, to + 1, length)
        target[to : to + length] = source[begins[record] : begins[record] + length]
        at[record] = to + length


@njit
def put_mapped_codes(target, at, name, buffer, begins, strides, frames, affine, levels):
    """Appends a bytes feature: frames[r] rows of D codes, each normalised and put into a code again.

    Args:
        affine: float32 (2, D), location and factor.
        levels: float32 (5,): scale and offset of the codes read, lowest and highest value written, codes per unit.
    """
    width = affine.shape[1]
    location, factor = affine[0], affine[1]
    scale, offset, low, high, density = levels[0], levels[1], levels[2], levels[3], levels[4]
    # Adding and subtracting it rounds a float32 of a few hundred half to even, which compiles to vector instructions.
    rounding = np.float32(3 << 22)
    for record in range(at.shape[0]):
        length = frames[record] * width
        to = _put_feature_head(target, at[record], name, TAG_1, message_bytes(length))
        target[to] = TAG_1
        to = put_varint(target, to + 1, length)
        for frame in range(frames[record]):
            begin = begins[record] + frame * strides[record]
            row = buffer[begin : begin + width]
            written = target[to : to + width]
            for column in range(width):
                value = (np.float32(row[column]) * scale + offset - location[column]) * factor[column]
                code = (min(max(value, low), high) - low) * density
                written[column] = np.uint8(np.int32((code + rounding) - rounding))
            to += width
        at[record] = to


@njit
def put_affine_floats(target, at, name, rows, chosen, location, factor):
    """Appends a packed float feature: (rows[chosen[r]] - location) * factor; float32 (N, D), (D,), (D,)."""
    width = rows.shape[1]
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, TAG_2, message_bytes(4 * width))
        target[to] = TAG_1
        to = put_varint(target, to + 1, 4 * width)
        row = rows[chosen[record]]
        for column in range(width):
            value = (row[column] - location[column]) * factor[column]
            store_f32(target, to + 4 * column, value)  # type: ignore[call-arg]
        at[record] = to + 4 * width


@njit
def put_floats(target, at, name, rows, chosen):
    """Appends a packed float feature: row chosen[r] of `rows`, uint8 (N, 4 D), the bytes of float32."""
    size = rows.shape[1]
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, TAG_2, message_bytes(size))
        target[to] = TAG_1
        to = put_varint(target, to + 1, size)
        target[to : to + size] = rows[chosen[record]]
        at[record] = to + size


@njit
def packed_bytes(values, begins, counts, lengths):
    """Writes to `lengths` the bytes that values[begins[r]:begins[r] + counts[r]] take as packed varints."""
    for record in range(begins.shape[0]):
        length = 0
        for index in range(begins[record], begins[record] + counts[record]):
            length += varint_bytes(values[index])
        lengths[record] = length


@njit
def put_integers(target, at, name, values, begins, counts, lengths):
    """Appends an int64 feature, packed: values that are not negative; `lengths` from `packed_bytes`."""
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, TAG_3, message_bytes(lengths[record]))
        target[to] = TAG_1
        to = put_varint(target, to + 1, lengths[record])
        for index in range(begins[record], begins[record] + counts[record]):
            to = put_varint(target, to, values[index])
        at[record] = to
