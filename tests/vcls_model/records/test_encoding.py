"""Records written here hold for TensorFlow what the columns hold."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.fixtures.records import read_payloads
from vcls_model.records.encoding import (
    AffineColumn,
    BytesColumn,
    CodeMap,
    CodesColumn,
    Column,
    FloatColumn,
    IntegerColumn,
    encode_by_split,
)
from vcls_model.records.schema import DEQUANTISE, REQUANTISE


def test_tensorflow_reads_every_kind_of_column_in_the_split_of_its_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count, width = 30, 5
    splits = rng.integers(0, 3, count)
    splits[splits == 1] = 0  # one split has no record
    ids = [b"\xff" * int(length) for length in rng.integers(1, 200, count)]  # lengths of one byte and of two
    counts = rng.integers(0, 4, count)
    labels = rng.integers(0, 1 << 40, counts.sum())
    rows = rng.normal(size=(count, width)).astype(np.float32)
    location, factor = rng.normal(size=(2, width)).astype(np.float32)
    frames = rng.integers(1, 9, count)
    codes = rng.integers(0, 256, (frames.sum(), width)).astype(np.uint8)
    begins = (np.cumsum(frames) - frames) * width
    mapping = CodeMap.of(np.stack([location, factor]), DEQUANTISE, REQUANTISE)
    columns: dict[str, Column] = {
        "id": BytesColumn.of(ids),
        "labels": IntegerColumn.of_lengths(labels, counts),
        "plain": FloatColumn(rows),
        "affine": AffineColumn(rows, location, factor),
        "rgb": CodesColumn(codes.reshape(-1), begins, np.full(count, width), frames, mapping),
    }
    seen = 0
    for split, data in encode_by_split(columns, splits):
        path = tmp_path / str(split)
        path.write_bytes(data.tobytes())
        chosen = np.flatnonzero(splits == split)
        for record, payload in zip(chosen, read_payloads(path), strict=True):
            features = tf.train.Example.FromString(payload).features.feature
            end = counts[: record + 1].sum()
            assert list(features["id"].bytes_list.value) == [ids[record]]
            assert list(features["labels"].int64_list.value) == labels[end - counts[record] : end].tolist()
            np.testing.assert_array_equal(np.array(features["plain"].float_list.value, np.float32), rows[record])
            np.testing.assert_allclose(features["affine"].float_list.value, (rows[record] - location) * factor, 1e-5)
            first = begins[record] // width
            expected = mapping(codes[first : first + frames[record]]).tobytes()
            assert list(features["rgb"].bytes_list.value) == [expected]
            seen += 1
    assert seen == count


def test_codes_are_normalised_clipped_and_rounded_half_to_even() -> None:
    mapping = CodeMap.of(np.array([[0.0], [1.0]], np.float32), (1.0, 0.0), (2.0, 1.0))  # x -> (x - 1) / 2
    assert mapping(np.array([[0], [1], [2], [3], [4], [6], [255]], np.uint8)).ravel().tolist() == [
        0,
        0,
        0,
        1,
        2,
        2,
        127,
    ]


def test_a_column_of_bytes_can_be_sliced() -> None:
    column = BytesColumn.of([b"a", b"", b"bcd"])
    assert column.tolist() == [b"a", b"", b"bcd"]
    assert column[1:].tolist() == [b"", b"bcd"]
    assert BytesColumn.of([]).tolist() == []
