"""The compiled loop of serving against numpy."""

import numpy as np

from vcls_model.serving.kernels import map_codes


def test_codes_are_looked_up_by_column_and_padded() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (3, 256), np.uint8)
    frames = [rng.integers(0, 256, (count, 3), np.uint8) for count in (2, 0, 4)]
    # Each frame has a header of two bytes, as in a record; the videos lie one after another.
    buffer = np.concatenate([np.pad(rows, ((0, 0), (2, 0))).reshape(-1) for rows in frames])
    lengths = np.array([2, 0, 4])
    begins = np.cumsum(lengths) * 5 - lengths * 5 + 2
    codes = np.full((3, 4, 3), 9, np.uint8)
    map_codes(buffer, begins, np.full(3, 5), lengths, table, codes)
    for video, rows in enumerate(frames):
        np.testing.assert_array_equal(codes[video, : len(rows)], table[np.arange(3), rows])
        assert not codes[video, len(rows) :].any()
