"""Packed arrays come back as they were, small; what is damaged is refused, whatever is damaged; old states are read."""

import contextlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vcls_model.metrics import packing
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.packing import pack, unpack
from vcls_model.metrics.result import compute_result
from vcls_model.metrics.segments import SegmentAccumulator
from vcls_model.metrics.slices import SliceAccumulator

COUNTS = st.integers(0, 3) | st.integers(0, 300) | st.integers(0, 2**40) | st.just(2**59)
# Written by the program of version 0.1 from `random_videos`.
STATES = Path(__file__).parent / "states"
CLASSES = 5


def random_videos():
    rng = np.random.default_rng(11)
    logits = np.round(rng.normal(-1, 2, (300, CLASSES)), 2).astype(np.float32)
    lengths = rng.integers(0, 4, 300)
    labels = np.concatenate([rng.choice(CLASSES, size, replace=False) for size in lengths])
    return rng, logits, labels, lengths


def some_arrays(seed):
    rng = np.random.default_rng(seed)
    return {"few": rng.poisson(0.3, (7, 9)), "many": rng.poisson(5000, 500), "wide": rng.integers(0, 2**50, 30)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(COUNTS, max_size=40), min_size=1, max_size=3), st.integers(1, 17))
def test_any_counts_come_back(lists, piece_cells):
    arrays = {f"a{place}": np.array(values, np.uint64) for place, values in enumerate(lists)}
    arrays["bytes"] = np.array([[value % 256 for value in lists[0]]] * 2, np.uint8).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_PIECE_CELLS", piece_cells)
        data = pack({"name": ["é", 1]}, arrays)
        header, unpacked = unpack(data)
    assert header == {"name": ["é", 1]} and set(unpacked) == set(arrays)
    for name, array in arrays.items():
        assert unpacked[name].dtype == array.dtype
        np.testing.assert_array_equal(unpacked[name], array)


def test_the_sum_of_several_arrays_is_kept():
    low, high = np.array([[1, 65_535]], np.uint16), np.array([[70_000, 2]], np.uint32)
    unpacked = unpack(pack({}, {"counts": (high, low)}))[1]["counts"]
    assert unpacked.dtype == np.uint32
    np.testing.assert_array_equal(unpacked, [[70_001, 65_537]])


@pytest.mark.parametrize("rate", [0.01, 1.0, 100.0, 30_000.0])
def test_counts_of_like_rates_take_little_more_than_their_entropy(rate):
    counts = np.random.default_rng(0).poisson(rate, 200_000)
    _, times = np.unique(counts, return_counts=True)
    entropy_bits = -(times * np.log2(times / counts.size)).sum()
    # A difference of two counts knows half a bit less than the rate does, and bytes are coded one by one.
    most_bits = 1.2 * entropy_bits + (0.8 if rate >= 1 else 0.2) * counts.size
    assert 8 * len(pack({}, {"counts": counts})) < most_bits


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 255))
def test_any_damage_is_detected(seed, place, change):
    data = bytearray(pack({"x": 1}, some_arrays(seed)))
    data[place % len(data)] ^= change
    with pytest.raises(ValueError, match="metric accumulator"):
        unpack(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 255))
@example(0, 89, 89)  # the type of the cells becomes "08", at which numpy raises a SyntaxError
def test_a_forged_checksum_does_not_lead_out_of_bounds(seed, place, change):
    forged(pack({"x": 1}, some_arrays(seed)), place, change)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["accumulator", "slices", "segments"]), st.integers(0, 10**6), st.integers(1, 255))
def test_nor_does_one_in_a_state_of_the_format_before(name, place, change):
    # The compiled loops check no bounds: an error other than ValueError, or the end of the process, is the failure.
    forged((STATES / f"{name}-format2.bin").read_bytes(), place, change)


def forged(packed, place, change):
    data = bytearray(packed)
    data[12 + place % (len(data) - 12)] ^= change
    data[8:12] = zlib.crc32(data[12:]).to_bytes(4, "little")
    with contextlib.suppress(ValueError):
        unpack(bytes(data))


def test_states_of_the_format_before_count_on():
    rng, logits, labels, lengths = random_videos()
    years = [str(2015 + place % 3) for place in range(300)]
    fresh = MetricAccumulator(CLASSES, class_thresholds=np.full(CLASSES, 0.3), exact_scores=0)
    fresh.update(logits, labels, lengths, [b"v%d" % place for place in range(300)])
    old = MetricAccumulator.from_bytes((STATES / "accumulator-format2.bin").read_bytes())
    assert old.to_bytes() == fresh.to_bytes()
    fresh.merge(old)
    assert compute_result(fresh).summary["videos"] == 600

    slices = SliceAccumulator(CLASSES, "year")
    slices.update(logits, labels, lengths, years)
    earlier = SliceAccumulator.from_bytes((STATES / "slices-format2.bin").read_bytes()).result()
    for year, figures in slices.result().items():
        for name, value in figures.items():  # it did not count what mAP is made of
            assert np.isnan(earlier[year][name]) if name.startswith("map") else earlier[year][name] == value

    segments = SegmentAccumulator(CLASSES)
    scores = rng.integers(0, CLASSES, 200), np.round(rng.normal(0, 2, 200), 2).astype(np.float32)
    segments.update(*scores, rng.integers(0, 2, 200))
    assert (
        SegmentAccumulator.from_bytes((STATES / "segments-format2.bin").read_bytes()).to_bytes() == segments.to_bytes()
    )


def test_a_state_of_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="a version that this program does not read"):
        unpack(b"VCLSMET9" + pack({}, {})[8:])
