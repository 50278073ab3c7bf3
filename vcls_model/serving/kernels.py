"""Compiled loops of serving."""

from vcls_model.compiled import njit_of

njit = njit_of(__package__)


@njit
def map_codes(buffer, begins, strides, lengths, table, codes):
    """Looks each code of B videos up in a table, by column.

    Args:
        buffer: uint8; frame f of video v is `buffer[begins[v] + f * strides[v]:][:D]`.
        begins, strides: int64 (B,).
        lengths: int64 (B,), frames per video.
        table: uint8 (D, 256).
        codes: uint8 (B, T, D), written; 0 beyond the frames of a video.
    """
    width = table.shape[0]
    for video in range(lengths.shape[0]):
        for frame in range(lengths[video]):
            begin = begins[video] + frame * strides[video]
            row = buffer[begin : begin + width]
            target = codes[video, frame]
            for column in range(width):
                target[column] = table[column, row[column]]
        codes[video, lengths[video] :] = 0
