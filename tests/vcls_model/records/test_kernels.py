"""Each compiled loop over records, alone, against plain Python, numpy and TensorFlow's own protocol buffers."""

import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from vcls_model.records.kernels import checksum, decode, encode, framing, gather, moments, protobuf, words

NUMBERS = [0, 1, 127, 128, 300, 16_383, 16_384, (1 << 31) - 1, 1 << 40, (1 << 63) - 1]
RNG_SEED = 3


def array_of(content: bytes) -> np.ndarray:
    """A writable uint8 array, as chunks are."""
    return np.frombuffer(bytearray(content), np.uint8)


def varint(value: int) -> bytes:
    """A varint as the protocol buffers' specification has it: seven bits per byte, the lowest first."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def message(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + varint(len(content)) + content


def framed(payload: bytes) -> bytes:
    """A TFRecord."""

    def masked(content: bytes) -> bytes:
        crc = google_crc32c.value(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def names_of(*names: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Names as the kernels take them: concatenated, and where each ends."""
    return array_of(b"".join(names)), np.cumsum([len(name) for name in names])


def example(**features: object) -> bytes:
    """A `tf.train.Example` of bytes, integers and floats."""
    made = {}
    for name, values in features.items():
        if isinstance(values, bytes):
            made[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[values]))
        elif isinstance(values, list) and all(isinstance(value, int) for value in values):
            made[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            made[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


# --- words


def test_words_are_read_and_written_at_any_byte() -> None:
    @words.njit
    def read(buffer, at):  # type: ignore[no-untyped-def]
        return words.load_u32(buffer, at), words.load_u64(buffer, at)

    @words.njit
    def write(buffer, at, number, value, source):  # type: ignore[no-untyped-def]
        words.put_u32(buffer, at, number)
        words.store_f32(buffer, at + 4, value)
        words.copy_bytes(buffer, at + 8, source, 1, 3)

    content = bytes(range(200, 220))
    for at in (0, 1, 5):
        assert read(array_of(content), at) == (
            *struct.unpack_from("<I", content, at),
            *struct.unpack_from("<Q", content, at),
        )
    target = array_of(bytes(13))
    write(target, 1, np.uint32(0xDEADBEEF), np.float32(1.5), array_of(b"abcde"))
    assert target.tobytes() == b"\0" + struct.pack("<If", 0xDEADBEEF, 1.5) + b"bcd" + b"\0"


# --- framing


def test_the_length_of_a_record_is_read_from_a_sound_header_only() -> None:
    record = framed(b"payload")
    assert framing.length_at(array_of(b"x" + record), 1) == 7
    for byte in range(12):
        damaged = bytearray(record)
        damaged[byte] ^= 1
        assert framing.length_at(array_of(bytes(damaged)), 0) == -1
    buffer = array_of(struct.pack("<Q", (1 << 30) + 1) + bytes(4))
    buffer[8:] = array_of(struct.pack("<I", checksum.masked_crc32c(buffer, 0, 8)))
    assert framing.length_at(buffer, 0) == -1


def test_a_record_is_whole_or_it_is_said_what_is_the_matter() -> None:
    record = framed(b"payload")
    size = len(record)
    assert framing.whole_record(array_of(record), 0, size, True) == (framing.RECORD, size - 4, size)
    assert framing.whole_record(array_of(record), size, size, True)[0] == framing.END
    for filled in (5, size - 1):
        assert framing.whole_record(array_of(record), 0, filled, True)[0] == framing.TRUNCATED
    assert framing.whole_record(array_of(record), 0, 5, False) == (framing.MORE, 0, 12)
    assert framing.whole_record(array_of(record), 0, size - 1, False) == (framing.MORE, 0, size)
    assert framing.whole_record(array_of(b"\1" + record[1:]), 0, size, True)[0] == framing.BAD_LENGTH
    assert framing.whole_record(array_of(record[:14] + b"x" + record[15:]), 0, size, True)[0] == framing.BAD_PAYLOAD


def test_records_are_scanned_up_to_what_is_not_one() -> None:
    payloads = [b"one", b"", b"three" * 9]
    content = b"".join(map(framed, payloads))
    starts, lengths = np.zeros(5, np.int64), np.zeros(5, np.int64)
    state, at, count, _ = framing.scan_records(array_of(content), 0, len(content), True, starts, lengths, 0)
    assert (state, at, count) == (framing.END, len(content), 3)
    assert [content[start : start + length] for start, length in zip(starts[:3], lengths[:3], strict=True)] == payloads
    state, at, count, _ = framing.scan_records(array_of(content), 0, len(content), True, starts[:2], lengths[:2], 0)
    assert (state, at, count) == (framing.FULL, len(content) - 16 - 45, 2)


def test_a_record_is_looked_for_behind_damage() -> None:
    record = framed(b"payload")
    content = b"rubbish" + record
    assert framing.find_record(array_of(content), 0, len(content), True) == (7, -1)
    assert framing.find_record(array_of(content), 8, len(content), True)[1] >= 0  # none behind it
    assert framing.find_record(array_of(content), 0, len(content) - 1, False) == (7, len(content))


def test_payloads_are_framed_as_tensorflow_frames_them() -> None:
    payloads = [b"", b"a", b"some more" * 30]
    content = b"".join(bytes(12) + payload + bytes(4) for payload in payloads)
    lengths = np.array([len(payload) for payload in payloads])
    starts = np.cumsum(lengths + 16) - lengths - 4
    buffer = array_of(content)
    framing.frame_payloads(buffer, starts, lengths)
    assert buffer.tobytes() == b"".join(map(framed, payloads))


# --- protobuf


@pytest.mark.parametrize("value", NUMBERS)
def test_varints(value: int) -> None:
    expected = varint(value)
    target = np.zeros(12, np.uint8)
    assert protobuf.put_varint(target, 1, value) == 1 + len(expected)
    assert target[1 : 1 + len(expected)].tobytes() == expected
    assert protobuf.varint_bytes(value) == len(expected)
    assert protobuf.read_varint(array_of(b"x" + expected + b"x"), 1, 1 + len(expected)) == (value, 1 + len(expected))
    assert protobuf.read_varint(array_of(expected + b"x"), 0, len(expected) - 1) == (0, -1)  # not whole


def test_a_varint_of_more_than_64_bits_is_none() -> None:
    assert protobuf.read_varint(array_of(b"\xff" * 11 + b"\1"), 0, 12) == (0, -1)


def test_messages() -> None:
    content = message(0x0A, b"x" * 200)
    assert protobuf.message_bytes(200) == len(content)
    assert protobuf.read_message(array_of(content), 0, len(content), protobuf.TAG_1) == (3, 203)
    assert protobuf.read_message(array_of(content), 0, len(content), protobuf.TAG_2) == (-1, -1)
    assert protobuf.read_message(array_of(content), 0, len(content) - 1, protobuf.TAG_1) == (-1, -1)
    assert protobuf.read_message(array_of(content), len(content), len(content), protobuf.TAG_1) == (-1, -1)


def test_features_are_found_by_name() -> None:
    def entry(name: bytes, value: bytes) -> bytes:
        return message(0x0A, message(0x0A, name) + message(0x12, value))

    content = entry(b"other", b"..") + entry(b"rgb", b"red") + entry(b"id", b"v1")
    names, ends = names_of(b"id", b"labels", b"rgb")
    spans = np.full((3, 2), -1)
    assert protobuf.find_features(array_of(content), 0, len(content), names, ends, 0, 3, spans)
    assert [content[begin:end] for begin, end in spans[[0, 2]]] == [b"v1", b"red"]
    assert spans[1].tolist() == [-1, -1]
    twice = content + entry(b"rgb", b"blue")
    assert not protobuf.find_features(array_of(twice), 0, len(twice), names, ends, 0, 3, np.full((3, 2), -1))
    assert not protobuf.find_features(array_of(content), 0, len(content) - 1, names, ends, 0, 3, np.full((3, 2), -1))


def test_the_one_value_of_a_list() -> None:
    content = message(0x0A, message(0x0A, b"value"))
    begin, end = protobuf.single_value(array_of(content), 0, len(content), protobuf.TAG_1)
    assert content[begin:end] == b"value"
    for other in (message(0x12, message(0x0A, b"value")), message(0x0A, message(0x0A, b"a") * 2), b""):
        assert protobuf.single_value(array_of(other), 0, len(other), protobuf.TAG_1) == (-1, -1)


# --- moments


def test_moments_of_floats() -> None:
    rows = np.random.default_rng(RNG_SEED).normal(size=(20, 5)).astype(np.float32)
    chosen = np.arange(20) % 3 > 0
    total, squares = np.ones(5), np.ones(5)
    lowest, highest = np.full(5, np.inf), np.full(5, -np.inf)
    moments.add_float_moments(rows, chosen, total, squares, lowest, highest)
    values = rows[chosen].astype(np.float64)
    np.testing.assert_allclose(total, 1 + values.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(squares, 1 + (values**2).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal([lowest, highest], [values.min(axis=0), values.max(axis=0)])


def test_moments_of_codes_do_not_overflow() -> None:
    """More than 65,536 frames of the largest codes, whose squares fill 32 bits."""
    frames, width = 70_000, 3
    codes = np.full((frames, width), 255, np.uint8)
    codes[: frames // 2, 1] = 7
    total, squares = np.zeros(width, np.int64), np.zeros(width, np.int64)
    lowest, highest = np.full(width, 255, np.uint8), np.zeros(width, np.uint8)
    begins, strides = np.array([0, 0]), np.array([width, width])
    moments.add_code_moments(
        codes.reshape(-1),
        begins,
        strides,
        np.array([frames, 5]),
        np.array([True, False]),
        total,
        squares,
        lowest,
        highest,
    )
    values = codes.astype(np.int64)
    np.testing.assert_array_equal(total, values.sum(axis=0))
    np.testing.assert_array_equal(squares, (values**2).sum(axis=0))
    assert (lowest.tolist(), highest.tolist()) == ([255, 7, 255], [255, 255, 255])


def test_pairs_of_labels() -> None:
    first, second = np.zeros(10, np.int64), np.zeros(10, np.int64)
    count = moments.count_pairs(np.array([1, 5, 9, 4, 2, 8]), np.array([3, 1, 2]), first, second)
    assert list(zip(first[:count], second[:count], strict=True)) == [(1, 5), (1, 9), (5, 9), (2, 8)]


# --- decode


def index(
    payloads: Sequence[bytes], kinds: Sequence[int], widths: Sequence[int], names: Sequence[bytes], lists: int = 0,
    may_lack: bool = False,
):  # type: ignore  # fmt: skip
    """What `index_records` says of payloads with `names` of modalities, the last `lists` of which are feature lists."""
    buffer = array_of(b"".join(payloads))
    lengths = np.array([len(payload) for payload in payloads])
    joined, ends = names_of(b"id", b"labels", *names)
    records = len(payloads)
    found = (
        np.zeros(records, np.bool_),
        np.zeros((records, 2), np.int64),
        np.zeros((records, 3), np.int64),
        np.zeros((records, 0, 2), np.int64),
        np.zeros((records, len(kinds), 3), np.int64),
    )
    decode.index_records(
        buffer, np.cumsum(lengths) - lengths, lengths, 2 + len(names) - lists, joined, ends,
        np.array(kinds), np.array(widths), 10, True, may_lack, *found,
    )  # fmt: skip
    return buffer, *found


def test_records_are_indexed_and_gathered() -> None:
    rng = np.random.default_rng(RNG_SEED)
    vectors, codes = rng.normal(size=(4, 3)).astype(np.float32), rng.integers(0, 256, (4, 5), np.uint8)
    ids, labels = [b"a", b"bc", b"d" * 200, b"e"], [[1], [2, 9], [0, 3, 4], [7]]
    payloads = [
        example(id=ids[row], labels=labels[row], rgb=vectors[row], audio=codes[row].tobytes()) for row in range(4)
    ]
    buffer, canonical, id_spans, label_spans, _, values = index(
        payloads, [decode.FLOAT_VECTOR, decode.BYTE_VECTOR], [3, 5], [b"rgb", b"audio"]
    )
    assert canonical.all()
    joined = np.zeros(sum(map(len, ids)), np.uint8)
    decode.gather_bytes(buffer, id_spans, joined)
    assert joined.tobytes() == b"".join(ids)
    flat = np.zeros(7, np.int64)
    decode.gather_labels(buffer, label_spans, flat)
    assert (flat.tolist(), label_spans[:, 2].tolist()) == ([1, 2, 9, 0, 3, 4, 7], [1, 2, 3, 1])
    bits = np.zeros((4, 3), np.uint32)
    decode.gather_floats(buffer, values[:, 0, 0].copy(), bits)
    np.testing.assert_array_equal(bits.view(np.float32), vectors)
    target = np.zeros((4, 5), np.uint8)
    decode.gather_codes(buffer, values[:, 1, 0].copy(), values[:, 1, 2].copy(), values[:, 1, 1].copy(), target)
    np.testing.assert_array_equal(target, codes)


def test_records_may_lack_modalities_but_not_all() -> None:
    rgb = np.array([1.0, 2.0], np.float32)
    payloads = [
        example(id=b"v", labels=[1], rgb=rgb, audio=b"abc"),
        example(id=b"v", labels=[1], audio=b"abc"),
        example(id=b"v", labels=[1], rgb=rgb),
        example(id=b"v", labels=[1], title=b"abc"),
    ]
    arguments = payloads, [decode.FLOAT_VECTOR, decode.BYTE_VECTOR], [2, 3], [b"rgb", b"audio"]
    assert index(*arguments)[1].tolist() == [True, False, False, False]
    buffer, canonical, *_, values = index(*arguments, may_lack=True)
    assert canonical.tolist() == [True, True, True, False]
    assert (values[:3, :, 0] >= 0).tolist() == [[True, True], [False, True], [True, False]]
    bits = np.zeros((3, 2), np.uint32)
    decode.gather_floats(buffer, values[:3, 0, 0].copy(), bits)
    np.testing.assert_array_equal(bits.view(np.float32), [rgb, [np.nan, np.nan], rgb])


def test_records_may_lack_all_but_a_text_that_says_something() -> None:
    rgb = np.array([1.0, 2.0], np.float32)
    payloads = [
        example(id=b"v", labels=[1], title=b"abc"),
        example(id=b"v", labels=[1], title=b""),
        example(id=b"v", labels=[1], title=b"\n\n"),
        example(id=b"v", labels=[1]),
        example(id=b"v", labels=[1], rgb=rgb),
        example(id=b"v", labels=[1], rgb=rgb, title=b"abc"),
    ]
    arguments = payloads, [decode.FLOAT_VECTOR, decode.TEXT_BYTES], [2, 1], [b"rgb", b"title"]
    assert index(*arguments)[1].tolist() == [False, False, False, False, True, True]
    _, canonical, *_, values = index(*arguments, may_lack=True)
    assert canonical.tolist() == [True, False, False, False, True, True]
    assert values[0].tolist()[0] == [-1, 0, 0] and values[0, 1, 1] == 3
    # Texts alone are no record's only need.
    alone = index(payloads, [decode.TEXT_BYTES], [1], [b"title"], may_lack=True)[1]
    assert alone.tolist() == [True] * 6


def test_what_a_usable_record_must_satisfy_is_checked() -> None:
    rgb = [1.0, 2.0]
    good = example(id=b"v", labels=[1, 2], rgb=rgb)
    bad = [
        example(labels=[1], rgb=rgb),
        example(id=b"", labels=[1], rgb=rgb),
        example(id=b"v", rgb=rgb),
        example(id=b"v", labels=[10], rgb=rgb),
        example(id=b"v", labels=[2, 1], rgb=rgb),
        example(id=b"v", labels=[1]),
        example(id=b"v", labels=[1], rgb=[1.0]),
        example(id=b"v", labels=[1], rgb=[1.0, float("inf")]),
        example(id=b"v", labels=[1], rgb=[float("nan"), 1.0]),
        good[:-1],
    ]
    _, canonical, *_ = index([good, *bad, good], [decode.FLOAT_VECTOR], [2], [b"rgb"])
    assert canonical.tolist() == [True, *[False] * len(bad), True]


def test_frames_of_a_feature_list() -> None:
    codes = np.random.default_rng(RNG_SEED).integers(0, 256, (6, 4), np.uint8)

    def sequence(rows: np.ndarray) -> bytes:
        features = [tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.tobytes()])) for row in rows]
        record = tf.train.SequenceExample.FromString(example(id=b"v", labels=[1]))
        record.feature_lists.feature_list["rgb"].feature.extend(features)
        return record.SerializeToString()

    buffer, canonical, _, _, _, values = index(
        [sequence(codes), sequence(codes[:1]), sequence(codes[:0]), sequence(codes[:, :3])],
        [decode.BYTE_FRAMES], [4], [b"rgb"], lists=1,
    )  # fmt: skip
    assert canonical.tolist() == [True, True, False, False]
    target = np.zeros((4, 4), np.uint8)
    begins, frames, strides = values[:2, 0].T
    assert frames.tolist() == [6, 1]
    decode.gather_codes(buffer, begins.copy(), strides.copy(), np.array([3, 1]), target)
    np.testing.assert_array_equal(target, np.concatenate([codes[:3], codes[:1]]))


# --- encode


def test_features_are_written_as_protocol_buffers_read_them() -> None:
    """All kernels that append a feature, in turn, and the ones that say beforehand how long it will be."""
    rng = np.random.default_rng(RNG_SEED)
    ids = [b"a", b"b" * 130, b""]
    labels = [[0, 300, 5], [], [1 << 40]]
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    chosen = np.array([2, 0, 3])
    location, factor = np.array([0, 1, 2], np.float32), np.array([1, 2, 0.5], np.float32)
    codes = np.array([[0, 128], [255, 7], [9, 60], [1, 2]], np.uint8)
    begins, strides, frames = np.array([0, 4, 2]), np.full(3, 2), np.array([1, 2, 1])
    affine = np.array([[0, 0.5], [1, 2]], np.float32)
    levels = np.array([4 / 255, -2, -1, 1, 255 / 2], np.float32)

    id_lengths = np.array([len(name) for name in ids])
    values = np.array([value for row in labels for value in row])
    counts = np.array([len(row) for row in labels])
    label_begins = np.cumsum(counts) - counts
    packed = np.zeros(3, np.int64)
    encode.packed_bytes(values, label_begins, counts, packed)
    assert packed.tolist() == [sum(len(varint(value)) for value in row) for row in labels]
    contents = {
        "id": id_lengths,
        "labels": packed,
        "affine": np.full(3, 12),
        "floats": np.full(3, 12),
        "codes": frames * 2,
    }
    totals = np.zeros(3, np.int64)
    for name, sizes in contents.items():
        encode.add_feature_bytes(len(name), sizes, totals)
    starts = np.zeros(4, np.int64)
    encode.place_records(totals, starts)
    target = np.zeros(starts[-1], np.uint8)
    at = starts[:3].copy()
    encode.put_example_heads(target, at, totals)
    encode.put_bytes(
        target, at, array_of(b"id"), array_of(b"".join(ids)), np.cumsum(id_lengths) - id_lengths, id_lengths
    )
    encode.put_integers(target, at, array_of(b"labels"), values, label_begins, counts, packed)
    encode.put_affine_floats(target, at, array_of(b"affine"), rows, chosen, location, factor)
    encode.put_floats(target, at, array_of(b"floats"), rows.view(np.uint8), chosen)
    encode.put_mapped_codes(target, at, array_of(b"codes"), codes.reshape(-1), begins, strides, frames, affine, levels)
    np.testing.assert_array_equal(at + 16, starts[1:])

    for record in range(3):
        payload = target[starts[record] : at[record]].tobytes()
        features = tf.train.Example.FromString(payload).features.feature
        assert list(features["id"].bytes_list.value) == [ids[record]]
        assert list(features["labels"].int64_list.value) == labels[record]
        np.testing.assert_array_equal(features["affine"].float_list.value, (rows[chosen[record]] - location) * factor)
        np.testing.assert_array_equal(features["floats"].float_list.value, rows[chosen[record]])
        taken = codes.reshape(-1)[begins[record] :][: 2 * frames[record]].reshape(-1, 2)
        normalised = (taken * (4 / 255) - 2 - affine[0]) * affine[1]
        expected = np.rint((np.clip(normalised, -1, 1) + 1) * (255 / 2)).astype(np.uint8)
        [written] = features["codes"].bytes_list.value
        np.testing.assert_array_equal(np.frombuffer(written, np.uint8).reshape(-1, 2), expected)


# --- gather


def test_transformed_records_are_indexed_and_copied() -> None:
    rng = np.random.default_rng(RNG_SEED)
    vectors, codes = rng.normal(size=(3, 2)).astype(np.float32), rng.integers(0, 256, (3, 4, 2), np.uint8)
    frame_counts = [4, 1, 3]
    payloads = [
        example(id=b"v%d" % row, labels=[[5, 300], [], [7]][row], num_frames=[frame_counts[row]], title=vectors[row],
                rgb=codes[row, : frame_counts[row]].tobytes())
        for row in range(3)
    ]  # fmt: skip
    lacking = example(id=b"v", labels=[1], num_frames=[1], title=vectors[0])
    short = example(id=b"v", labels=[1], num_frames=[2], title=vectors[0], rgb=b"ab")
    content = b"".join(map(framed, [*payloads, lacking, short]))
    buffer = array_of(content)
    names, ends = names_of(b"id", b"labels", b"num_frames", b"title", b"rgb")
    rows = np.zeros((8, gather.INDEX_COLUMNS + 2), np.int64)
    kinds, widths = np.array([decode.FLOAT_VECTOR, decode.BYTE_MATRIX]), np.array([2, 2])
    state, at, count, _ = gather.index_transformed(buffer, 0, len(content), True, names, ends, kinds, widths, rows, 0)
    assert (state, at, count) == (framing.END, len(content), 5)
    assert rows[:5, gather.CANONICAL].tolist() == [1, 1, 1, 0, 0]
    assert rows[:3, gather.FRAMES].tolist() == frame_counts
    assert [content[row[gather.ID_BEGIN] : row[gather.ID_END]] for row in rows[:3]] == [b"v0", b"v1", b"v2"]
    for row, payload in zip(rows[:3], payloads, strict=True):
        assert content[row[gather.START] :][: row[gather.LENGTH]] == payload

    # The same names, and those that say what is missing.
    names, ends = names_of(b"id", b"labels", b"num_frames", b"title", b"rgb", b"has_title", b"has_rgb")
    says_so = example(id=b"v", labels=[1], num_frames=[1], title=vectors[0], has_rgb=[0])
    says_otherwise = example(id=b"v", labels=[1], num_frames=[1], title=vectors[0], has_rgb=[1])
    half = array_of(b"".join(map(framed, [payloads[0], says_so, says_otherwise, lacking])))
    found = np.zeros((8, gather.INDEX_COLUMNS + 2), np.int64)
    gather.index_transformed(half, 0, len(half), True, names, ends, kinds, widths, found, 0)
    assert found[:4, gather.CANONICAL].tolist() == [1, 1, 0, 0]
    assert (found[:2, gather.INDEX_COLUMNS + 1] >= 0).tolist() == [True, False]
    there = np.full((2, 1, 2), 9, np.uint8)
    gather.copy_frames(
        half, found[:2, gather.INDEX_COLUMNS + 1].copy(), np.arange(2), np.zeros((2, 1), np.int32),
        np.ones(2, np.int32), 2, 1, there.reshape(-1),
    )  # fmt: skip
    assert there.tolist() == [[codes[0, 0].tolist()], [[0, 0]]]
    nothing = np.ones((1, 2), np.float32)
    gather.copy_vectors(
        half, np.array([gather.MISSING + 99]), np.zeros(1, np.int64), 8, nothing.reshape(-1).view(np.uint8)
    )
    assert nothing.tolist() == [[0, 0]]

    places = np.array([2, 0, 1])
    title = np.zeros((3, 2), np.float32)
    gather.copy_vectors(buffer, rows[:3, gather.INDEX_COLUMNS].copy(), places, 8, title.reshape(-1).view(np.uint8))
    np.testing.assert_array_equal(title[places], vectors)
    labels = np.full((3, 2), -1, np.int32)
    gather.copy_labels(
        buffer, rows[:3, gather.LABELS_BEGIN].copy(), rows[:3, gather.LABEL_COUNT].copy(), places, labels
    )
    assert labels[places].tolist() == [[5, 300], [-1, -1], [7, -1]]
    positions = np.array([[0, 1, 3], [0, 0, 0], [1, 2, 0]], np.int32)
    target = np.full((3, 3, 2), 9, np.uint8)
    gather.copy_frames(
        buffer, rows[:3, gather.INDEX_COLUMNS + 1].copy(), places, positions, np.array([3, 1, 2], np.int32), 2, 3,
        target.reshape(-1),
    )  # fmt: skip
    expected = np.zeros((3, 3, 2), np.uint8)
    expected[0], expected[1, :1], expected[2, :2] = codes[0, [0, 1, 3]], codes[1, :1], codes[2, 1:3]
    np.testing.assert_array_equal(target[places], expected)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (gather.ALL_FRAMES, [[0, 1, 2, 3], [0, 1, 2]]),
        (gather.MIDDLE_FRAMES, [[3, 4, 5, 6], [0, 1, 2]]),
        (gather.UNIFORM_FRAMES, [[1, 3, 6, 8], [0, 1, 2]]),
    ],
)
def test_frames_are_chosen(sampling: int, expected: list[list[int]]) -> None:
    positions, kept = np.zeros((2, 4), np.int32), np.zeros(2, np.int32)
    gather.choose_frames(np.array([10, 3]), 4, sampling, 0, 0, positions, kept)
    assert kept.tolist() == [4, 3]
    assert [row[:size].tolist() for row, size in zip(positions, kept, strict=True)] == expected


def test_frames_drawn_at_random_are_uniform_and_follow_the_stream() -> None:
    videos = 4000
    positions, kept = np.zeros((videos, 3), np.int32), np.zeros(videos, np.int32)
    for sampling in (gather.RANDOM_FRAMES, gather.FRAME_SEQUENCE):
        gather.choose_frames(np.full(videos, 6), 3, sampling, 1, 0, positions, kept)
        assert (kept == 3).all() and (np.diff(positions, axis=1) > 0).all()
        part = np.zeros((5, 3), np.int32)
        gather.choose_frames(np.full(5, 6), 3, sampling, 1, 100, part, np.zeros(5, np.int32))
        np.testing.assert_array_equal(part, positions[100:105])
        if sampling == gather.RANDOM_FRAMES:  # each frame in half of the videos
            np.testing.assert_allclose(np.bincount(positions.reshape(-1)) / videos, 0.5, atol=0.04)
        else:  # each of the four beginnings as often
            np.testing.assert_allclose(np.bincount(positions[:, 0]) / videos, 0.25, atol=0.04)
