"""Statistics: exact, whatever the order; equal to numpy's."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preprocessing.statistics import (
    ModalitySums,
    ShardMeter,
    Statistics,
    arrays_from_bytes,
    arrays_to_bytes,
    empty_statistics,
    merge_statistics,
    moments,
    statistics_hash,
)
from pipelines.preprocessing.steps import MergeStatistics
from tests.fixtures.records import FRAME, VIDEO
from vcls_model.records.decoding import FrameBatch, RawBatch
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, VECTOR, Modality, RecordSchema


def batch_of(schema: RecordSchema, rng: np.random.Generator, count: int, scale: float = 1.0) -> RawBatch:
    features: dict[str, np.ndarray | FrameBatch] = {}
    lengths = rng.integers(1, 9, count)
    for modality in schema.modalities:
        if modality.kind == VECTOR:
            features[modality.name] = (rng.normal(0.3, 1, (count, modality.width)) * scale).astype(np.float32)
        else:
            features[modality.name] = FrameBatch.of(
                rng.integers(0, 256, (int(lengths.sum()), modality.width)).astype(np.uint8), lengths
            )
    ids = BytesColumn.of([b"%d" % index for index in range(count)])
    empty = np.zeros(0, np.int64)
    return RawBatch(ids, ids, empty, empty, empty, np.ones(count, np.bool_), features)


def meter_of(schema: RecordSchema, batches: list[tuple[RawBatch, np.ndarray]]) -> ShardMeter:
    meter = ShardMeter(schema)
    for batch, chosen in batches:
        meter.add(batch, chosen)
    return meter


def statistics_of(schema: RecordSchema, batches: list[tuple[RawBatch, np.ndarray]]) -> Statistics:
    return meter_of(schema, batches).statistics()


@pytest.mark.parametrize("schema", [VIDEO, FRAME], ids=["video", "frame"])
def test_moments_are_numpys(schema: RecordSchema) -> None:
    rng = np.random.default_rng(0)
    batches = [batch_of(schema, rng, count) for count in (5, 0, 30, 11)]
    chosen = [rng.random(len(batch)) < 0.6 for batch in batches]
    parts = [statistics_of(schema, [pair]) for pair in zip(batches, chosen, strict=True)]
    merged = merge_statistics(parts, schema)
    for modality in schema.modalities:
        rows = []
        for batch, kept in zip(batches, chosen, strict=True):
            values = batch.features[modality.name]
            if isinstance(values, FrameBatch):
                rows.append(values.codes[np.repeat(kept, values.lengths)] * DEQUANTISE_SCALE + DEQUANTISE_OFFSET)
            else:
                rows.append(values[kept].astype(np.float64))
        expected = np.concatenate(rows)
        found = moments(merged[modality.name], modality)
        assert found.count == len(expected)
        np.testing.assert_allclose(found.mean, expected.mean(axis=0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.std, expected.std(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.lowest, expected.min(axis=0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.highest, expected.max(axis=0), rtol=1e-12, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(6)), st.integers(1, 5), st.sampled_from([1e-30, 1.0, 1e15]))
def test_any_order_and_grouping_of_shards_is_the_same(seed: int, order: list[int], cut: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    batches = [batch_of(VIDEO, rng, int(rng.integers(0, 5)), scale * 10.0 ** rng.integers(-5, 5)) for _ in range(6)]
    parts = [meter_of(VIDEO, [(batch, np.ones(len(batch), np.bool_))]) for batch in batches]
    combine = MergeStatistics(VIDEO)
    one = combine.create_accumulator()
    for part in parts:
        one = combine.add_input(one, part)
    first, second = combine.create_accumulator(), combine.create_accumulator()
    for index in order[:cut]:
        first = combine.add_input(first, parts[index])
    for index in order[cut:]:
        second = combine.add_input(second, parts[index])
    other = combine.merge_accumulators([second, combine.create_accumulator(), first])
    assert statistics_hash(combine.extract_output(other)) == statistics_hash(combine.extract_output(one))


def test_sums_of_floats_lose_nothing() -> None:
    tiny, huge = np.float32(1e-45), np.float32(3e38)
    batch = batch_of(VIDEO, np.random.default_rng(0), 2)
    batch.features["mean_rgb"] = np.array([[tiny] * 6, [huge] * 6])
    both = statistics_of(VIDEO, [(batch, np.array([True, False]))])["mean_rgb"]
    both.add(statistics_of(VIDEO, [(batch, np.array([False, True]))])["mean_rgb"])
    assert both.exponent == -320
    assert both.total[0] == 2**171 + int(float(huge)) * 2**320  # the tiny one is 2**-149
    assert both.squares[0] == 2**22 + int(float(huge)) ** 2 * 2**320


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.floats(-1e77, 1e77).map(
            lambda value: float(np.ldexp(np.rint(np.ldexp(value, 298)), -298)) if abs(value) < 1e-74 else value
        ),
        min_size=1,
        max_size=9,
    )
)
def test_floats_add_up_as_fractions_do(values: list[float]) -> None:
    sums = ModalitySums.empty(Modality("x", 1, VECTOR, "float32"))
    for value in values:
        sums.add_shard(1, np.array([value]), np.zeros(1), np.zeros(1), np.zeros(1))
    assert sums.total[0] * Fraction(2) ** sums.exponent == sum(Fraction(value) for value in values)


def test_nothing_measured_is_all_zero() -> None:
    for modality in VIDEO.modalities:
        found = moments(empty_statistics(VIDEO)[modality.name], modality)
        assert found.count == 0 and not found.mean.any() and not found.std.any()


def test_filled_modalities_do_not_count() -> None:
    batch = batch_of(FRAME, np.random.default_rng(0), 4)
    batch.filled["audio"] = np.array([True, False, True, True])
    found = statistics_of(FRAME, [(batch, np.array([True, True, True, False]))])
    lengths = batch.features["rgb"].lengths  # type: ignore[union-attr]
    assert found["rgb"].count == lengths[:3].sum()
    assert found["audio"].count == lengths[1]


@pytest.mark.parametrize("schema", [VIDEO, FRAME], ids=["video", "frame"])
def test_saved_statistics_come_back(schema: RecordSchema) -> None:
    meter = ShardMeter(schema)
    batch = batch_of(schema, np.random.default_rng(1), 9)
    meter.add(batch, np.ones(9, np.bool_))
    again = ShardMeter.from_bytes(meter.to_bytes(), schema)
    assert statistics_hash(again.statistics()) == statistics_hash(meter.statistics())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_value_error(data: st.DataObject) -> None:
    whole = arrays_to_bytes({"rgb/total": np.arange(5), "counts": np.zeros(2)})
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    del spoilt[data.draw(st.integers(0, len(whole))) or len(whole) :]
    if bytes(spoilt) != whole:
        with pytest.raises(ValueError, match="damaged"):
            arrays_from_bytes(bytes(spoilt))


def test_arrays_come_back_whatever_their_names_and_shapes() -> None:
    arrays = {"मराठी/total": np.arange(3.0), "none": np.zeros((0, 2), np.uint8), "one": np.array([[7]], np.int64)}
    again = arrays_from_bytes(arrays_to_bytes(arrays))
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape
        np.testing.assert_array_equal(again[name], array)


def test_codes_of_millions_of_frames_do_not_overflow() -> None:
    count = 200_000
    schema = RecordSchema("one", "sequence_example", "id", "labels", FRAME.modalities[1:])
    codes = FrameBatch.of(np.full((count, 3), 255, np.uint8), np.array([count]))
    empty = np.zeros(0, np.int64)
    one_id = BytesColumn.of([b"x"])
    batch = RawBatch(one_id, one_id, empty, empty, empty, np.ones(1, np.bool_), {"audio": codes})
    sums = statistics_of(schema, [(batch, np.ones(1, np.bool_))])["audio"]
    assert (sums.total, sums.squares) == ([255 * count] * 3, [255 * 255 * count] * 3)
