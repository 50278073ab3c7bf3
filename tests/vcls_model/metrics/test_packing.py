"""Packed arrays come back as they were, small; what is damaged is refused, whatever is damaged."""

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcls_model.metrics import packing
from vcls_model.metrics.packing import pack, unpack

COUNTS = st.integers(0, 3) | st.integers(0, 300) | st.integers(0, 2**40) | st.just(2**59)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(COUNTS, max_size=40), min_size=1, max_size=3), st.integers(1, 17))
def test_any_counts_come_back(lists, piece_cells):
    arrays = {f"a{place}": np.array(values, np.uint64) for place, values in enumerate(lists)}
    arrays["bytes"] = np.array([[value % 256 for value in lists[0]]] * 2, np.uint8).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_PIECE_CELLS", piece_cells)
        data = pack({"name": ["é", 1]}, arrays)
        header, found = unpack(data)
    assert header == {"name": ["é", 1]} and set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("rate", [0.01, 1.0, 100.0, 30_000.0])
def test_counts_of_like_rates_take_little_more_than_their_entropy(rate):
    counts = np.random.default_rng(0).poisson(rate, 200_000)
    _, times = np.unique(counts, return_counts=True)
    entropy_bits = -(times * np.log2(times / counts.size)).sum()
    # What the mean of two neighbours does not know of the rate costs half a bit of log2(1.5) a cell.
    assert 8 * len(pack({}, {"counts": counts})) < 1.1 * entropy_bits + 0.32 * counts.size * (rate >= 1) + 8 * 2000


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 255))
def test_any_damage_is_found(seed, place, change):
    rng = np.random.default_rng(seed)
    arrays = {"few": rng.poisson(0.3, (7, 9)), "many": rng.poisson(5000, 500), "wide": rng.integers(0, 2**50, 30)}
    data = bytearray(pack({"x": 1}, arrays))
    data[place % len(data)] ^= change
    with pytest.raises(ValueError, match="metric accumulator"):
        unpack(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 255))
def test_a_forged_checksum_does_not_lead_out_of_bounds(seed, place, change):
    # The compiled loops check no bounds: an error other than ValueError, or the end of the process, is the failure.
    rng = np.random.default_rng(seed)
    arrays = {"few": rng.poisson(0.3, (7, 9)), "many": rng.poisson(5000, 500), "wide": rng.integers(0, 2**50, 30)}
    data = bytearray(pack({"x": 1}, arrays))
    data[12 + place % (len(data) - 12)] ^= change
    data[8:12] = zlib.crc32(data[12:]).to_bytes(4, "little")
    with contextlib.suppress(ValueError):
        unpack(bytes(data))
