"""Splits by hash of the id."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcls_model.commands import UsageError
from vcls_model.records.splits import SplitRatios, splits_of


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=130), max_size=20), st.sampled_from([(0.7, 0.2, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0)])
)
def test_the_split_is_the_sha256_of_the_id(ids: list[bytes], ratios: tuple[float, float, float]) -> None:
    expected = []
    for video_id in ids:
        fraction = int(hashlib.sha256(video_id).hexdigest()[:16], 16) / 2**64
        expected.append(0 if fraction < ratios[0] else 1 if fraction < ratios[0] + ratios[1] else 2)
    assert splits_of(ids, SplitRatios(*ratios)).tolist() == expected


def test_the_fractions_come_out_about_right() -> None:
    splits = splits_of([b"%d" % index for index in range(20_000)], SplitRatios())
    assert (np.bincount(splits) / 20_000).round(2).tolist() == [0.7, 0.2, 0.1]


@pytest.mark.parametrize("text", ["0.7,0.3", "a,b,c", "0.5,0.4,0.2", "1.1,-0.1,0", "0,0.9,0.1"])
def test_impossible_ratios_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        SplitRatios.parse(text)
