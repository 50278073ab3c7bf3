"""Checksums against google-crc32c, with the processor's instruction and with tables."""

import google_crc32c
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vcls_model.records.kernels.checksum import crc32c, crc32c_by_table, masked_crc32c


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 20))
def test_checksums_agree_with_google_crc32c(data: bytes, skip: int) -> None:
    buffer = np.frombuffer(data + b"\0", np.uint8)
    skip = min(skip, len(data))
    expected = google_crc32c.value(data[skip:])
    assert crc32c(buffer, skip, len(data)) == expected
    assert crc32c_by_table(buffer, skip, len(data)) == expected


def test_the_masked_checksum_is_that_of_tfrecord_files() -> None:
    """The length 0 of an empty record, as TensorFlow writes it: 8 zero bytes and their masked checksum."""
    assert masked_crc32c(np.zeros(8, np.uint8), 0, 8) == 0x07980329
