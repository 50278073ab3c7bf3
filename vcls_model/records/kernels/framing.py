"""TFRecord framing: `uint64 length | masked crc of length | payload | masked crc of payload`, little-endian."""

import numpy as np

from vcls_model.compiled import njit_of
from vcls_model.records.kernels.checksum import masked_crc32c
from vcls_model.records.kernels.words import load_u32, load_u64, put_u32

njit = njit_of(__package__)

HEADER_BYTES = 12
FOOTER_BYTES = 4
# A length above this is taken for damage. TensorFlow's own limit for a record is the 2 GiB of a protocol buffer.
MAX_RECORD_BYTES = 1 << 30
# What stops `scan_records`.
MORE, BAD_LENGTH, BAD_PAYLOAD, TRUNCATED, END, FULL, RECORD = range(7)


@njit
def length_at(buffer, at):
    """The length of the record whose header is at `at`, or -1 when the header is damaged."""
    if load_u32(buffer, at + 8) != masked_crc32c(buffer, at, at + 8):
        return np.int64(-1)
    length = load_u64(buffer, at)
    if length > np.uint64(MAX_RECORD_BYTES):
        return np.int64(-1)
    return np.int64(length)


@njit
def whole_record(buffer, at, filled, last):
    """Looks at the record at `at`: (RECORD or what is the matter, end of its payload, end of the data needed)."""
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


@njit
def scan_records(buffer, at, filled, last, starts, lengths, count):
    """Collects whole, undamaged records from `at` on; stops at whatever is not one.

    Returns (what stopped it, where, records so far, end of the data that it needs to see).
    """
    while True:
        if count == starts.shape[0]:
            return FULL, at, count, at
        state, end, needed = whole_record(buffer, at, filled, last)
        if state != RECORD:
            return state, at, count, needed
        starts[count] = at + HEADER_BYTES
        lengths[count] = end - starts[count]
        count += 1
        at = end + FOOTER_BYTES


@njit
def find_record(buffer, at, filled, last):
    """The first offset from `at` on that holds a record: with both checksums right, or with that of its length, and
    followed by a right length or the end. The payload of the second kind is damaged, too, and is counted by itself.

    Returns (offset, -1) where there is one, else (offset up to which there is certainly none, end of the data needed).
    """
    while at + HEADER_BYTES + FOOTER_BYTES <= filled:
        # The four high bytes of a length below 4 GiB are zero: rules out nearly every offset at once.
        if load_u32(buffer, at + 4) == 0:
            length = length_at(buffer, at)
            if length >= 0:
                end = at + HEADER_BYTES + length
                if end + FOOTER_BYTES <= filled:
                    following = end + FOOTER_BYTES
                    if load_u32(buffer, end) == masked_crc32c(buffer, at + HEADER_BYTES, end):
                        return at, np.int64(-1)
                    if following + HEADER_BYTES <= filled:
                        if length_at(buffer, following) >= 0:
                            return at, np.int64(-1)
                    elif not last:
                        return at, following + HEADER_BYTES
                    elif following == filled:
                        return at, np.int64(-1)
                elif not last:
                    return at, end + FOOTER_BYTES
        at += 1
    return at, filled + HEADER_BYTES


@njit
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
        put_u32(buffer, at + 8, masked_crc32c(buffer, at, at + 8))
        end = starts[record] + length
        put_u32(buffer, end, masked_crc32c(buffer, starts[record], end))
