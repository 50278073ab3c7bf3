"""The parts of the protocol buffer format that records are made of: varints, length-delimited messages, map entries."""

import numpy as np

from vcls_model.compiled import njit_of

njit = njit_of(__package__)

TAG_1, TAG_2, TAG_3 = np.uint8(0x0A), np.uint8(0x12), np.uint8(0x1A)  # length-delimited fields 1 to 3


@njit
def read_varint(buffer, at, end):
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


@njit
def read_message(buffer, at, end, tag):
    """Reads `tag`, a length and skips nothing: (begin, end) of a message that ends by `end`, or (-1, -1)."""
    if at >= end or buffer[at] != tag:
        return -1, -1
    length, begin = read_varint(buffer, at + 1, end)
    if begin < 0 or length < 0 or length > end - begin:
        return -1, -1
    return begin, begin + length


@njit
def find_features(buffer, at, end, names, name_ends, first, last, spans):
    """Notes where the values of the named map entries in [at, end) lie. False: not canonical."""
    while at < end:
        entry, at = read_message(buffer, at, end, TAG_1)
        if entry < 0:
            return False
        key, key_end = read_message(buffer, entry, at, TAG_1)
        if key < 0:
            return False
        value, value_end = read_message(buffer, key_end, at, TAG_2)
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
                    return False  # twice: the last one counts, which the careful reader handles
                spans[name, 0] = value
                spans[name, 1] = value_end
    return True


@njit
def single_value(buffer, at, end, tag):
    """The one value of a bytes list (tag 1) or the packed floats (tag 2) in the Feature [at, end), or (-1, -1)."""
    values, values_end = read_message(buffer, at, end, tag)
    if values < 0 or values_end != end:
        return -1, -1
    begin, finish = read_message(buffer, values, values_end, TAG_1)
    if begin < 0 or finish != end:
        return -1, -1
    return begin, finish


@njit
def put_varint(target, at, value):
    rest = np.uint64(value)
    while rest > np.uint64(127):
        target[at] = np.uint8(rest & np.uint64(127)) | np.uint8(128)
        rest >>= np.uint64(7)
        at += 1
    target[at] = np.uint8(rest)
    return at + 1


@njit
def varint_bytes(value):
    """Bytes that a value that is not negative takes as a varint."""
    count = 1
    while value > 127:
        value >>= 7
        count += 1
    return count


@njit
def message_bytes(length):
    return 1 + varint_bytes(length) + length
