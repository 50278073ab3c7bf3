"""Kernels over the bytes of a shard: checksums, TFRecord framing, and the features of serialized records.

They run compiled and release the interpreter lock, so that threads use all cores. All are in one module because numba
keys its cache of compiled code by the file of the caller alone: a kernel here must never call one of another module.

Framing: a record is `uint64 length | masked crc of length | payload | masked crc of payload`, little-endian.

Features: the kernels understand the encoding that every protobuf writer in use produces, and check everything a usable
record must satisfy. A record in any other encoding is only marked, and goes through the slow and careful
`vcls_model.records.examples`.
"""

import math
import platform

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

HEADER_BYTES = 12
FOOTER_BYTES = 4
# A length above this is taken for damage. TensorFlow's own limit for a record is the 2 GiB of a protocol buffer.
MAX_RECORD_BYTES = 1 << 30

# What stops `scan_records`.
MORE, BAD_LENGTH, BAD_PAYLOAD, TRUNCATED, END, FULL, RECORD = range(7)
# Which message a modality's values are in.
FLOAT_VECTOR, BYTE_VECTOR, BYTE_FRAMES, BYTE_MATRIX = range(4)

_TAG_1, _TAG_2, _TAG_3 = np.uint8(0x0A), np.uint8(0x12), np.uint8(0x1A)  # length-delimited fields 1 to 3
_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reflected
_MASK_DELTA = 0xA282EAD8  # TFRecord stores rotate(crc, 15) + this


def _tables() -> np.ndarray:
    """Slicing-by-eight tables, (8, 256) uint32."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        tables[0, byte] = crc
    for row in range(1, 8):
        tables[row] = (tables[row - 1] >> 8) ^ tables[0, tables[row - 1] & 255]
    return tables


_TABLES = _tables()


@numba.njit(nogil=True, cache=True)
def crc32c_by_table(buffer, start, end):
    """CRC-32C of buffer[start:end] with tables: any processor."""
    crc = np.uint32(0xFFFFFFFF)
    at = start
    while at + 8 <= end:
        low = crc ^ (
            np.uint32(buffer[at])
            | np.uint32(buffer[at + 1]) << np.uint32(8)
            | np.uint32(buffer[at + 2]) << np.uint32(16)
            | np.uint32(buffer[at + 3]) << np.uint32(24)
        )
        crc = (
            _TABLES[7, low & np.uint32(255)]
            ^ _TABLES[6, (low >> np.uint32(8)) & np.uint32(255)]
            ^ _TABLES[5, (low >> np.uint32(16)) & np.uint32(255)]
            ^ _TABLES[4, low >> np.uint32(24)]
            ^ _TABLES[3, buffer[at + 4]]
            ^ _TABLES[2, buffer[at + 5]]
            ^ _TABLES[1, buffer[at + 6]]
            ^ _TABLES[0, buffer[at + 7]]
        )
        at += 8
    while at < end:
        crc = _TABLES[0, (crc ^ np.uint32(buffer[at])) & np.uint32(255)] ^ (crc >> np.uint32(8))
        at += 1
    return crc ^ np.uint32(0xFFFFFFFF)


def _load(width: int, result):  # type: ignore[no-untyped-def]
    """An intrinsic that reads one little-endian word at any byte of a uint8 array."""

    @intrinsic
    def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(width).as_pointer())
            return builder.load(pointer, align=1)

        return result(array, types.intp), generate

    return load


load_u32 = _load(32, types.uint32)
load_u64 = _load(64, types.uint64)


@intrinsic
def _store_f32(typing_context, array, offset, value):  # type: ignore[no-untyped-def]
    """Writes one little-endian float32 at any byte of a uint8 array."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.FloatType().as_pointer())
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


@intrinsic
def _instruction_64(typing_context, crc, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word, [word, word]), "llvm.x86.sse42.crc32.64.64"
        )
        return builder.call(function, arguments)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def _instruction_8(typing_context, crc, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word, byte = ir.IntType(32), ir.IntType(8)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word, [word, byte]), "llvm.x86.sse42.crc32.32.8"
        )
        return builder.call(function, arguments)

    return types.uint32(types.uint32, types.uint8), generate


def has_instruction() -> bool:
    """Whether this processor computes CRC-32C itself (x86 with SSE 4.2)."""
    return platform.machine() in ("x86_64", "AMD64") and bool(
        llvmlite.binding.get_host_cpu_features().get("sse4.2", False)
    )


if has_instruction():

    @numba.njit(nogil=True, cache=True)
    def crc32c(buffer, start, end):
        """CRC-32C of buffer[start:end], a uint8 array."""
        wide = np.uint64(0xFFFFFFFF)
        at = start
        while at + 8 <= end:
            wide = _instruction_64(wide, load_u64(buffer, at))  # type: ignore[call-arg]
            at += 8
        crc = np.uint32(wide)
        while at < end:
            crc = _instruction_8(crc, buffer[at])  # type: ignore[call-arg]
            at += 1
        return crc ^ np.uint32(0xFFFFFFFF)
else:
    crc32c = crc32c_by_table


@numba.njit(nogil=True, cache=True)
def masked_crc32c(buffer, start, end):
    """The masked CRC-32C that a TFRecord file stores for buffer[start:end]."""
    crc = crc32c(buffer, start, end)
    # numba widens the operands; the sum is cut back to 32 bits.
    return np.uint32(np.uint32((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK_DELTA))


@numba.njit(nogil=True, cache=True)
def length_at(buffer, at):
    """The length of the record whose header is at `at`, or -1 when the header is damaged."""
    if load_u32(buffer, at + 8) != masked_crc32c(buffer, at, at + 8):
        return np.int64(-1)
    length = load_u64(buffer, at)
    if length > np.uint64(MAX_RECORD_BYTES):
        return np.int64(-1)
    return np.int64(length)


@numba.njit(nogil=True, cache=True)
def _whole_record(buffer, at, filled, last):
    """Looks at the record at `at`: (RECORD or what is the matter, end of its payload, end of the data wanted)."""
    if at == filled and last:
        return END, at, at
    if at + HEADER_BYTES > filled:
        return (TRUNCATED if last else MORE), at, at + HEADER_BYTES
    length = length_at(buffer, at)
    if length < 0:
        return BAD_LENGTH, at, at
    end = at + HEADER_BYTES + length
    if end + FOOTER_BYTES > filled:
        return (TRUNCATED if last else MORE), at, end + FOOTER_BYTES
    if load_u32(buffer, end) != masked_crc32c(buffer, at + HEADER_BYTES, end):
        return BAD_PAYLOAD, at, end + FOOTER_BYTES
    return RECORD, end, end + FOOTER_BYTES


@numba.njit(nogil=True, cache=True)
def scan_records(buffer, at, filled, last, starts, lengths, count):
    """Collects whole, undamaged records from `at` on; stops at whatever is not one.

    Returns (what stopped it, where, records so far, end of the data that it wants to see).
    """
    while True:
        if count == starts.shape[0]:
            return FULL, at, count, at
        found, end, wanted = _whole_record(buffer, at, filled, last)
        if found != RECORD:
            return found, at, count, wanted
        starts[count] = at + HEADER_BYTES
        lengths[count] = end - starts[count]
        count += 1
        at = end + FOOTER_BYTES


@numba.njit(nogil=True, cache=True)
def find_record(buffer, at, filled, last):
    """The first offset from `at` on that holds a record with both checksums right.

    Returns (offset, -1) when found, else (offset up to which there is certainly none, end of the data wanted).
    """
    while at + HEADER_BYTES + FOOTER_BYTES <= filled:
        # The four high bytes of a length below 4 GiB are zero: rules out nearly every offset at once.
        if load_u32(buffer, at + 4) == 0:
            length = length_at(buffer, at)
            if length >= 0:
                end = at + HEADER_BYTES + length
                if end + FOOTER_BYTES <= filled:
                    if load_u32(buffer, end) == masked_crc32c(buffer, at + HEADER_BYTES, end):
                        return at, np.int64(-1)
                elif not last:
                    return at, end + FOOTER_BYTES
        at += 1
    return at, filled + HEADER_BYTES


@numba.njit(nogil=True, cache=True)
def frame_payloads(buffer, starts, lengths):
    """Fills in the headers and footers around payloads that lie in `buffer` with room for them.

    Args:
        buffer: uint8 array, changed in place; record r occupies starts[r] - 12 to starts[r] + lengths[r] + 4.
        starts, lengths: int64 (R,), of the payloads.
    """
    for record in range(starts.shape[0]):
        at = starts[record] - HEADER_BYTES
        length = lengths[record]
        for byte in range(8):
            buffer[at + byte] = (length >> (8 * byte)) & 255
        _put_u32(buffer, at + 8, masked_crc32c(buffer, at, at + 8))
        end = starts[record] + length
        _put_u32(buffer, end, masked_crc32c(buffer, starts[record], end))


@numba.njit(nogil=True, cache=True)
def _put_u32(buffer, at, value):
    for byte in range(4):
        buffer[at + byte] = (np.uint32(value) >> np.uint32(8 * byte)) & np.uint32(255)


@numba.njit(nogil=True, cache=True)
def _varint(buffer, at, end):
    """Reads a varint: (value as int64, where it ends), or (0, -1) when it is not whole."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < 64:
        byte = np.uint64(buffer[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return np.int64(value), at
        shift += np.uint64(7)
    return np.int64(0), -1


@numba.njit(nogil=True, cache=True)
def _message(buffer, at, end, tag):
    """Reads `tag`, a length and skips nothing: (begin, end) of a message that ends by `end`, or (-1, -1)."""
    if at >= end or buffer[at] != tag:
        return -1, -1
    length, begin = _varint(buffer, at + 1, end)
    if begin < 0 or length < 0 or length > end - begin:
        return -1, -1
    return begin, begin + length


@numba.njit(nogil=True, cache=True)
def _find_features(buffer, at, end, names, name_ends, first, last, spans):
    """Notes where the values of the named map entries in [at, end) lie. False: unusual."""
    while at < end:
        entry, at = _message(buffer, at, end, _TAG_1)
        if entry < 0:
            return False
        key, key_end = _message(buffer, entry, at, _TAG_1)
        if key < 0:
            return False
        value, value_end = _message(buffer, key_end, at, _TAG_2)
        if value < 0 or value_end != at:
            return False
        for name in range(first, last):
            begin = name_ends[name - 1] if name else 0
            if name_ends[name] - begin != key_end - key:
                continue
            same = True
            for byte in range(key_end - key):
                if names[begin + byte] != buffer[key + byte]:
                    same = False
                    break
            if same:
                if spans[name, 0] >= 0:
                    return False  # twice: the last one counts, which the careful reader knows
                spans[name, 0] = value
                spans[name, 1] = value_end
    return True


@numba.njit(nogil=True, cache=True)
def _single_value(buffer, at, end, tag):
    """The one value of a bytes list (tag 1) or the packed floats (tag 2) in the Feature [at, end), or (-1, -1)."""
    values, values_end = _message(buffer, at, end, tag)
    if values < 0 or values_end != end:
        return -1, -1
    begin, finish = _message(buffer, values, values_end, _TAG_1)
    if begin < 0 or finish != end:
        return -1, -1
    return begin, finish


@numba.njit(nogil=True, cache=True)
def _labels(buffer, at, end, class_count):
    """The packed varints of an int64 list: (begin, end, count); begin -1 when unusual, out of range or repeated."""
    if at == end:
        return at, at, 0
    values, values_end = _message(buffer, at, end, _TAG_3)
    if values < 0 or values_end != end:
        return -1, -1, 0
    if values == values_end:
        return end, end, 0
    begin, finish = _message(buffer, values, values_end, _TAG_1)
    if begin < 0 or finish != end:
        return -1, -1, 0
    count = 0
    scan = begin
    previous = np.int64(-1)
    while scan < finish:
        value, scan = _varint(buffer, scan, finish)
        # Ascending labels are not repeated; others are the careful reader's.
        if scan < 0 or value <= previous or value >= class_count:
            return -1, -1, 0
        previous = value
        count += 1
    return begin, finish, count


@numba.njit(nogil=True, cache=True)
def _finite(buffer, at, count):
    special = np.uint32(0)
    for value in range(count):
        special |= np.uint32((load_u32(buffer, at + 4 * value) & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return special == 0


@numba.njit(nogil=True, cache=True)
def _frames(buffer, at, end, width):
    """Frames in a FeatureList of equal byte strings: (first code, frames, stride); frames 0 when unusual."""
    feature, feature_end = _message(buffer, at, end, _TAG_1)
    if feature < 0:
        return -1, 0, 0
    code, code_end = _single_value(buffer, feature, feature_end, _TAG_1)
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


@numba.njit(nogil=True, cache=True)
def index_records(
    buffer,
    starts,
    lengths,
    sequence,
    names,
    name_ends,
    kinds,
    widths,
    class_count,
    labels_wanted,
    usual,
    ids,
    labels,
    values,
):
    """Finds the features of R records.

    Args:
        buffer, starts, lengths: the payloads, see `FramedChunk`.
        sequence: modalities are in the feature lists of a SequenceExample (else in its features).
        names, name_ends: names of id, labels and the modalities, concatenated (uint8), and where each ends.
        kinds, widths: of each modality.
        class_count: labels must be below.
        labels_wanted: a record needs at least one label.
        usual: out, bool (R,): the record is good and was understood; else the careful reader must look at it.
        ids: out, int64 (R, 2): begin and end of the id.
        labels: out, int64 (R, 3): begin and end of the packed labels, and their number.
        values: out, int64 (R, M, 3): first byte, frames and stride of each modality.
    """
    modalities = kinds.shape[0]
    spans = np.empty((2 + modalities, 2), np.int64)
    for record in range(starts.shape[0]):
        usual[record] = False
        at = starts[record]
        end = at + lengths[record]
        spans[:] = -1
        features, features_end = _message(buffer, at, end, _TAG_1)
        if features < 0:
            continue
        context_names = 2 if sequence else 2 + modalities
        if not _find_features(buffer, features, features_end, names, name_ends, 0, context_names, spans):
            continue
        if features_end != end:
            # Feature lists: of a SequenceExample; an Example's writer may leave empty ones.
            lists, lists_end = _message(buffer, features_end, end, _TAG_2)
            if lists_end != end or not (sequence or lists == lists_end):
                continue
            if not _find_features(buffer, lists, lists_end, names, name_ends, context_names, 2 + modalities, spans):
                continue
        if spans[0, 0] < 0:
            continue
        ids[record, 0], ids[record, 1] = _single_value(buffer, spans[0, 0], spans[0, 1], _TAG_1)
        if ids[record, 0] < 0 or ids[record, 0] == ids[record, 1]:
            continue
        if spans[1, 0] < 0:
            spans[1, 0] = spans[1, 1] = features
        labels[record, 0], labels[record, 1], labels[record, 2] = _labels(buffer, spans[1, 0], spans[1, 1], class_count)
        if labels[record, 0] < 0 or (labels_wanted and labels[record, 2] == 0):
            continue
        good = True
        for modality in range(modalities):
            at, end = spans[2 + modality, 0], spans[2 + modality, 1]
            width = widths[modality]
            if at < 0:
                good = False
                break
            if kinds[modality] == BYTE_FRAMES:
                code, frames, stride = _frames(buffer, at, end, width)
                good = frames > 0
            elif kinds[modality] == FLOAT_VECTOR:
                code, finish = _single_value(buffer, at, end, _TAG_2)
                good = code >= 0 and finish - code == 4 * width and _finite(buffer, code, width)
                frames, stride = 1, 4 * width
            else:
                code, finish = _single_value(buffer, at, end, _TAG_1)
                frames, stride = (finish - code) // width, width
                good = code >= 0 and frames > 0 and frames * width == finish - code
                good = good and (frames == 1 or kinds[modality] == BYTE_MATRIX)
            if not good:
                break
            values[record, modality, 0] = code
            values[record, modality, 1] = frames
            values[record, modality, 2] = stride
            if frames != values[record, 0, 1]:
                good = False
                break
        usual[record] = good


@numba.njit(nogil=True, cache=True)
def gather_bytes(buffer, spans, target):
    """Copies buffer[spans[r, 0]:spans[r, 1]] one after another into `target`."""
    to = 0
    for record in range(spans.shape[0]):
        for at in range(spans[record, 0], spans[record, 1]):
            target[to] = buffer[at]
            to += 1


@numba.njit(nogil=True, cache=True)
def gather_labels(buffer, labels, target):
    """Decodes the packed labels that `index_records` found into int64 `target`."""
    to = 0
    for record in range(labels.shape[0]):
        at = labels[record, 0]
        for _ in range(labels[record, 2]):
            target[to], at = _varint(buffer, at, labels[record, 1])
            to += 1


@numba.njit(nogil=True, cache=True)
def gather_floats(buffer, begins, target):
    """Copies packed little-endian floats into `target`, uint32 (R, D): the bits of float32."""
    for record in range(target.shape[0]):
        begin = begins[record]
        for column in range(target.shape[1]):
            target[record, column] = load_u32(buffer, begin + 4 * column)


@numba.njit(nogil=True, cache=True)
def gather_codes(buffer, begins, strides, frames, target):
    """Copies the first frames[r] frames of each record into `target`, uint8 (sum of frames, D)."""
    width = target.shape[1]
    to = 0
    for record in range(begins.shape[0]):
        for frame in range(frames[record]):
            begin = begins[record] + frame * strides[record]
            target[to] = buffer[begin : begin + width]
            to += 1


@numba.njit(nogil=True, cache=True)
def add_float_moments(rows, chosen, total, squares, lowest, highest):
    """Adds the chosen rows of float32 (B, D) to float64 (D,) sums, in order, and widens the range seen."""
    for row in range(rows.shape[0]):
        if chosen[row]:
            for column in range(rows.shape[1]):
                value = np.float64(rows[row, column])
                total[column] += value
                squares[column] += value * value
                lowest[column] = min(lowest[column], value)
                highest[column] = max(highest[column], value)


@numba.njit(nogil=True, cache=True)
def add_code_moments(buffer, begins, strides, frames, chosen, total, squares, lowest, highest):
    """Adds the frames of the chosen records, rows of D codes, to int64 (D,) sums and widens the range seen."""
    width = total.shape[0]
    block_total = np.zeros(width, np.uint32)
    block_squares = np.zeros(width, np.uint32)
    rows = 0
    for record in range(begins.shape[0]):
        if not chosen[record]:
            continue
        for frame in range(frames[record]):
            begin = begins[record] + frame * strides[record]
            row = buffer[begin : begin + width]
            for column in range(width):
                value = np.uint32(row[column])
                block_total[column] += value
                block_squares[column] += value * value
                lowest[column] = min(lowest[column], row[column])
                highest[column] = max(highest[column], row[column])
            rows += 1
            # 65,536 squares of at most 255 * 255 still fit into 32 bits.
            if rows == 65536:
                _move_sums(block_total, total)
                _move_sums(block_squares, squares)
                rows = 0
    _move_sums(block_total, total)
    _move_sums(block_squares, squares)


@numba.njit(nogil=True, cache=True)
def _move_sums(block, target):
    for column in range(target.shape[0]):
        target[column] += block[column]
        block[column] = 0


# Numbers that add up exactly: one is a row of 32-bit digits, least significant first, each in an int64 that leaves room
# for two thousand million additions; digits may be negative.


@numba.njit(nogil=True, cache=True)
def add_floats_exactly(values, digits, lowest_exponent):
    """Adds float64 (D,) to fixed-point `digits`, int64 (D, L), in units of 2**lowest_exponent.

    Exact where each value is a whole number of units below 2**(32 (L - 1)).
    """
    for row in range(values.shape[0]):
        fraction, exponent = math.frexp(values[row])
        sign = np.int64(-1) if fraction < 0 else np.int64(1)
        mantissa = np.uint64(abs(fraction) * 9007199254740992.0)  # 2**53: a whole number
        shift = np.int64(exponent) - 53 - lowest_exponent
        if shift < 0:
            mantissa >>= np.uint64(min(-shift, np.int64(63)))  # zeros, as the value is a whole number of units
            shift = np.int64(0)
        digit = shift >> 5
        bits = np.uint64(shift & 31)
        low = (mantissa & np.uint64(0xFFFFFFFF)) << bits
        high = (mantissa >> np.uint64(32)) << bits
        digits[row, digit] += sign * np.int64(low & np.uint64(0xFFFFFFFF))
        digits[row, digit + 1] += sign * np.int64((low >> np.uint64(32)) + (high & np.uint64(0xFFFFFFFF)))
        digits[row, digit + 2] += sign * np.int64(high >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def add_integers_exactly(values, digits):
    """Adds int64 (D,), none negative, to `digits`, int64 (D, L), in units of 1."""
    for row in range(values.shape[0]):
        digits[row, 0] += values[row] & 0xFFFFFFFF
        digits[row, 1] += values[row] >> 32


# Which split a record belongs to is decided by the sha256 of its id (FIPS 180-4).

_ROUND_CONSTANTS = np.array(
    [
        int((prime ** (1 / 3) % 1) * 2**32)
        for prime in [n for n in range(2, 312) if all(n % d for d in range(2, int(n**0.5) + 1))]
    ],
    np.uint32,
)
_HASH_START = np.array([int((prime**0.5 % 1) * 2**32) for prime in (2, 3, 5, 7, 11, 13, 17, 19)], np.uint32)


@numba.njit(nogil=True, cache=True)
def _turned(value, count):
    return np.uint32((value >> np.uint32(count)) | (value << np.uint32(32 - count)))


@numba.njit(nogil=True, cache=True)
def _digest_block(state, words):
    """One round of compression: 64 bytes, as the first 16 of the 64 uint32 `words`, into the 8 uint32 of `state`."""
    for i in range(16, 64):
        one, two = words[i - 15], words[i - 2]
        first = _turned(one, 7) ^ _turned(one, 18) ^ (one >> np.uint32(3))
        second = _turned(two, 17) ^ _turned(two, 19) ^ (two >> np.uint32(10))
        words[i] = np.uint32(words[i - 16] + first + words[i - 7] + second)
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for i in range(64):
        choice = (e & f) ^ (~e & g)
        mixed = _turned(e, 6) ^ _turned(e, 11) ^ _turned(e, 25)
        first = np.uint32(h + mixed + choice + _ROUND_CONSTANTS[i] + words[i])
        majority = (a & b) ^ (a & c) ^ (b & c)
        second = np.uint32((_turned(a, 2) ^ _turned(a, 13) ^ _turned(a, 22)) + majority)
        h, g, f, e, d, c, b, a = g, f, e, np.uint32(d + first), c, b, a, np.uint32(first + second)
    for i, value in enumerate((a, b, c, d, e, f, g, h)):
        state[i] = np.uint32(state[i] + value)


@numba.njit(nogil=True, cache=True)
def hash_heads(data, begins, lengths, target):
    """The first 64 bits of the sha256 of data[begins[r]:begins[r] + lengths[r]], into uint64 `target`."""
    words = np.empty(64, np.uint32)
    state = np.empty(8, np.uint32)
    for record in range(begins.shape[0]):
        begin, length = begins[record], lengths[record]
        state[:] = _HASH_START
        # The message, a byte 128, zeros, and its length in bits in the last eight bytes of a block of 64.
        for block in range((length + 8) // 64 + 1):
            for word in range(16):
                value = np.uint32(0)
                for byte in range(4):
                    at = block * 64 + word * 4 + byte
                    content = np.uint32(0)
                    if at < length:
                        content = np.uint32(data[begin + at])
                    elif at == length:
                        content = np.uint32(128)
                    value = np.uint32((value << np.uint32(8)) | content)
                words[word] = value
            if block == (length + 8) // 64:
                words[14] = np.uint32((length * 8) >> 32)
                words[15] = np.uint32((length * 8) & 0xFFFFFFFF)
            _digest_block(state, words)
        target[record] = np.uint64(state[0]) << np.uint64(32) | np.uint64(state[1])


@numba.njit(nogil=True, cache=True)
def count_pairs(values, lengths, first, second):
    """Writes every pair of labels a < b of each record to `first` and `second`; returns how many there were."""
    at = 0
    count = 0
    for record in range(lengths.shape[0]):
        end = at + lengths[record]
        for one in range(at, end):
            for other in range(one + 1, end):
                first[count] = values[one]
                second[count] = values[other]
                count += 1
        at = end
    return count


# Writing serialized features: each kernel appends one feature to every record of a batch. `at` (int64 (B,)) says where
# in `target` each record's next byte goes, and is moved on.


@numba.njit(nogil=True, cache=True)
def _put_varint(target, at, value):
    rest = np.uint64(value)
    while rest > np.uint64(127):
        target[at] = np.uint8(rest & np.uint64(127)) | np.uint8(128)
        rest >>= np.uint64(7)
        at += 1
    target[at] = np.uint8(rest)
    return at + 1


@numba.njit(nogil=True, cache=True)
def varint_bytes(value):
    """Bytes that a value that is not negative takes as a varint."""
    count = 1
    while value > 127:
        value >>= 7
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _message_bytes(length):
    return 1 + varint_bytes(length) + length


@numba.njit(nogil=True, cache=True)
def add_feature_bytes(name_length, contents, totals):
    """Adds to totals[r] the bytes of a map entry whose Feature's list holds one message of contents[r] bytes."""
    for record in range(totals.shape[0]):
        feature = _message_bytes(_message_bytes(_message_bytes(contents[record])))
        totals[record] += _message_bytes(_message_bytes(name_length) + feature)


@numba.njit(nogil=True, cache=True)
def place_records(features, starts):
    """Where the payloads of records lie that are written one after another with their framing.

    Args:
        features: int64 (R,), bytes of the features message of each.
        starts: out, int64 (R + 1,): of each payload, and of the one that would follow.
    """
    at = HEADER_BYTES
    for record in range(features.shape[0]):
        starts[record] = at
        at += _message_bytes(features[record]) + FOOTER_BYTES + HEADER_BYTES
    starts[features.shape[0]] = at


@numba.njit(nogil=True, cache=True)
def _put_feature_head(target, at, name, tag, list_length):
    """Everything of a map entry before the content of its list message; returns where that goes."""
    feature_length = _message_bytes(list_length)
    target[at] = _TAG_1
    at = _put_varint(target, at + 1, _message_bytes(name.shape[0]) + _message_bytes(feature_length))
    target[at] = _TAG_1
    at = _put_varint(target, at + 1, name.shape[0])
    for byte in range(name.shape[0]):
        target[at + byte] = name[byte]
    at += name.shape[0]
    target[at] = _TAG_2
    at = _put_varint(target, at + 1, feature_length)
    target[at] = tag
    return _put_varint(target, at + 1, list_length)


@numba.njit(nogil=True, cache=True)
def put_example_heads(target, at, lengths):
    """Opens the features message, of lengths[r] bytes, of each record."""
    for record in range(at.shape[0]):
        target[at[record]] = _TAG_1
        at[record] = _put_varint(target, at[record] + 1, lengths[record])


@numba.njit(nogil=True, cache=True)
def put_bytes(target, at, name, source, begins, lengths):
    """Appends a bytes feature: source[begins[r]:begins[r] + lengths[r]]."""
    for record in range(at.shape[0]):
        length = lengths[record]
        to = _put_feature_head(target, at[record], name, _TAG_1, _message_bytes(length))
        target[to] = _TAG_1
        to = _put_varint(target, to + 1, length)
        target[to : to + length] = source[begins[record] : begins[record] + length]
        at[record] = to + length


@numba.njit(nogil=True, cache=True)
def put_mapped_codes(target, at, name, buffer, begins, strides, frames, affine, levels):
    """Appends a bytes feature: frames[r] rows of D codes, each normalised and put into a code again.

    Args:
        affine: float32 (2, D), location and factor.
        levels: float32 (5,): scale and offset of the codes read, lowest and highest value written, codes a unit.
    """
    width = affine.shape[1]
    location, factor = affine[0], affine[1]
    scale, offset, low, high, density = levels[0], levels[1], levels[2], levels[3], levels[4]
    # Adding and subtracting it rounds a float32 of a few hundred half to even, which compiles to vector instructions.
    rounding = np.float32(3 << 22)
    for record in range(at.shape[0]):
        length = frames[record] * width
        to = _put_feature_head(target, at[record], name, _TAG_1, _message_bytes(length))
        target[to] = _TAG_1
        to = _put_varint(target, to + 1, length)
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


@numba.njit(nogil=True, cache=True)
def put_affine_floats(target, at, name, rows, chosen, location, factor):
    """Appends a packed float feature: (rows[chosen[r]] - location) * factor; float32 (N, D), (D,), (D,)."""
    width = rows.shape[1]
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, _TAG_2, _message_bytes(4 * width))
        target[to] = _TAG_1
        to = _put_varint(target, to + 1, 4 * width)
        row = rows[chosen[record]]
        for column in range(width):
            value = (row[column] - location[column]) * factor[column]
            _store_f32(target, to + 4 * column, value)  # type: ignore[call-arg]
        at[record] = to + 4 * width


@numba.njit(nogil=True, cache=True)
def put_floats(target, at, name, rows, chosen):
    """Appends a packed float feature: row chosen[r] of `rows`, uint8 (N, 4 D), the bytes of float32."""
    size = rows.shape[1]
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, _TAG_2, _message_bytes(size))
        target[to] = _TAG_1
        to = _put_varint(target, to + 1, size)
        target[to : to + size] = rows[chosen[record]]
        at[record] = to + size


@numba.njit(nogil=True, cache=True)
def packed_bytes(values, begins, counts, lengths):
    """Writes to `lengths` the bytes that values[begins[r]:begins[r] + counts[r]] take as packed varints."""
    for record in range(begins.shape[0]):
        length = 0
        for index in range(begins[record], begins[record] + counts[record]):
            length += varint_bytes(values[index])
        lengths[record] = length


@numba.njit(nogil=True, cache=True)
def put_integers(target, at, name, values, begins, counts, lengths):
    """Appends an int64 feature, packed: values that are not negative; `lengths` from `packed_bytes`."""
    for record in range(at.shape[0]):
        to = _put_feature_head(target, at[record], name, _TAG_3, _message_bytes(lengths[record]))
        target[to] = _TAG_1
        to = _put_varint(target, to + 1, lengths[record])
        for index in range(begins[record], begins[record] + counts[record]):
            to = _put_varint(target, to, values[index])
        at[record] = to


# Reading transformed records for training: one pass over a piece of a shard checks its records and notes where their
# features lie; others copy those into the arrays of a batch.

# Columns of the index of transformed records; after them, one a modality: where its values begin.
START, LENGTH, USUAL, ID_BEGIN, ID_END, LABELS_BEGIN, LABEL_COUNT, FRAMES, INDEX_COLUMNS = range(9)
# How frames are chosen.
ALL_FRAMES, RANDOM_FRAMES, FRAME_SEQUENCE, UNIFORM_FRAMES, MIDDLE_FRAMES = range(5)


@intrinsic
def _copy_bytes(typing_context, target, to, source, at, count):  # type: ignore[no-untyped-def]
    """Copies source[at:at + count] to target[to:to + count], both uint8 arrays of one dimension."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target_data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        source_data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        cgutils.raw_memcpy(
            builder, builder.gep(target_data, [arguments[1]]), builder.gep(source_data, [arguments[3]]), arguments[4], 1
        )
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True)
def _packed_integers(buffer, at, end):
    """The packed varints of the Feature [at, end): (where they begin, number); begin -1 when unusual."""
    if at == end:
        return at, 0
    values, values_end = _message(buffer, at, end, _TAG_3)
    if values < 0 or values_end != end:
        return -1, 0
    if values == values_end:
        return end, 0
    begin, finish = _message(buffer, values, values_end, _TAG_1)
    if begin < 0 or finish != end:
        return -1, 0
    count = 0
    scan = begin
    while scan < finish:
        _, scan = _varint(buffer, scan, finish)
        if scan < 0:
            return -1, 0
        count += 1
    return begin, count


@numba.njit(nogil=True, cache=True)
def _index_features(buffer, at, end, names, name_ends, kinds, widths, spans, row):
    """Fills in one row of the index of transformed records. False: unusual."""
    features, features_end = _message(buffer, at, end, _TAG_1)
    if features < 0 or features_end != end:
        return False
    spans[:] = -1
    if not _find_features(buffer, features, features_end, names, name_ends, 0, name_ends.shape[0], spans):
        return False
    if name_ends[0] > 0:
        if spans[0, 0] < 0:
            return False
        row[ID_BEGIN], row[ID_END] = _single_value(buffer, spans[0, 0], spans[0, 1], _TAG_1)
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
        row[FRAMES], _ = _varint(buffer, begin, end)
    for modality in range(kinds.shape[0]):
        if spans[3 + modality, 0] < 0:
            return False
        if kinds[modality] == FLOAT_VECTOR:
            begin, finish = _single_value(buffer, spans[3 + modality, 0], spans[3 + modality, 1], _TAG_2)
            wanted = 4 * widths[modality]
        else:
            begin, finish = _single_value(buffer, spans[3 + modality, 0], spans[3 + modality, 1], _TAG_1)
            wanted = widths[modality] * row[FRAMES]
        if begin < 0 or finish - begin != wanted:
            return False
        row[INDEX_COLUMNS + modality] = begin
    return True


@numba.njit(nogil=True, cache=True)
def index_transformed(buffer, at, filled, last, names, name_ends, kinds, widths, index, count):
    """Checks the transformed records from `at` on and finds their features; stops at what is no whole, sound record.

    Args:
        buffer, at, filled, last: see `scan_records`.
        names, name_ends: names of id, labels, number of frames and the modalities, concatenated (uint8), and where each
            ends. An empty id or number of frames is not wanted.
        kinds, widths: of each modality, FLOAT_VECTOR or BYTE_MATRIX.
        index: out, int64 (R, INDEX_COLUMNS + M), from row `count` on. USUAL is 0 for a record whose layout is not that
            of protocol buffers' own writers, or that lacks something: of it, only START and LENGTH are filled in.
        count: rows of `index` in use.

    Returns:
        (what stopped it, where, rows in use, end of the data that it wants to see).
    """
    spans = np.empty((name_ends.shape[0], 2), np.int64)
    while True:
        if count == index.shape[0]:
            return FULL, at, count, at
        found, end, wanted = _whole_record(buffer, at, filled, last)
        if found != RECORD:
            return found, at, count, wanted
        begin = at + HEADER_BYTES
        row = index[count]
        row[START] = begin
        row[LENGTH] = end - begin
        row[USUAL] = _index_features(buffer, begin, end, names, name_ends, kinds, widths, spans, row)
        count += 1
        at = end + FOOTER_BYTES


@numba.njit(nogil=True, cache=True)
def copy_vectors(source, begins, places, size, target):
    """Copies `size` bytes from each begins[r] of `source` to row places[r] of `target`, the bytes of (B, size)."""
    for record in range(begins.shape[0]):
        _copy_bytes(target, places[record] * size, source, begins[record], size)  # type: ignore[call-arg]


@numba.njit(nogil=True, cache=True)
def copy_frames(source, begins, places, positions, kept, width, steps, target):
    """Copies frames positions[r, :kept[r]] of each record to row places[r] of `target`; what is left of it becomes 0.

    Args:
        source, begins: uint8, and int64 (R,): where the first frame of each record is.
        places: int64 (R,).
        positions, kept: int32 (R, K) and (R,); positions ascend.
        width, steps: bytes of a frame, and frames of a row.
        target: uint8, the bytes of (B, steps, width).
    """
    for record in range(begins.shape[0]):
        to = places[record] * steps * width
        end = to + steps * width
        step = 0
        while step < kept[record]:
            first = step
            step += 1
            # Neighbours in one go.
            while step < kept[record] and positions[record, step] == positions[record, step - 1] + 1:
                step += 1
            size = (step - first) * width
            _copy_bytes(
                target,
                to,
                source,
                begins[record] + positions[record, first] * width,  # type: ignore[call-arg]
                size,
            )
            to += size
        target[to:end] = 0


@numba.njit(nogil=True, cache=True)
def copy_labels(source, begins, counts, places, target):
    """Decodes counts[r] packed varints from begins[r] on into the first columns of row places[r] of int32 (B, L)."""
    for record in range(begins.shape[0]):
        at = begins[record]
        for column in range(counts[record]):
            value, at = _varint(source, at, source.shape[0])
            target[places[record], column] = value


@numba.njit(nogil=True, cache=True)
def _mixed(value):
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): 64 well-mixed bits of 64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
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
        state = _mixed(_mixed(np.uint64(seed) + golden) ^ np.uint64(first + record))
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
                draw = np.float64(_mixed(state) >> np.uint64(11)) * 2.0**-53
                if draw * (count - position) < size - chosen:
                    positions[record, chosen] = position
                    chosen += 1
        else:
            start = np.int64(0)
            if sampling == FRAME_SEQUENCE:
                draw = np.float64(_mixed(state + golden) >> np.uint64(11)) * 2.0**-53
                start = np.int64(draw * (count - size + 1))
            elif sampling == MIDDLE_FRAMES:
                start = np.int64((count - size) // 2)
            for step in range(size):
                positions[record, step] = start + step
