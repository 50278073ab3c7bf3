"""One byte per value: how an encoder's floats become the codes of a record, and what a code stands for.

Three conventions are in use, and records made by one must not be read as another:

- `midpoint` (new records): a code x stands for lo + (x + 1/2) (hi - lo) / 256, the middle of what it covers.
- `rounded` (google/youtube-8m's extractor): round((v - lo) 255 / (hi - lo)), halves to even.
- `truncated` (VGGish's post-processor): the same product, cut off instead of rounded.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Rounding = Literal["midpoint", "rounded", "truncated"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)

Range = tuple[float, float]


def quantise(values: npt.ArrayLike, value_range: Range, rounding: Rounding = "midpoint") -> npt.NDArray[np.uint8]:
    """Codes of `values`; what lies outside the range takes the nearest code.

    Args:
        values: finite floats of any shape.
        value_range: (lo, hi) with lo < hi.
        rounding: the convention, see the module's docstring.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: a value is NaN or infinite, or the range is empty.
    """
    low, high = _checked(value_range)
    exact = np.asarray(values, np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("cannot quantise NaN or infinity: the encoder's output is broken")
    unit = (exact - low) / (high - low)
    if rounding == "midpoint":
        codes = np.floor(unit * 256)
    elif rounding == "rounded":
        codes = np.rint(np.clip(unit, 0, 1) * 255)
    else:
        codes = np.floor(np.clip(unit, 0, 1) * 255)
    return np.clip(codes, 0, 255).astype(np.uint8)


def dequantise(
    codes: npt.NDArray[np.uint8], value_range: Range, rounding: Rounding = "midpoint"
) -> npt.NDArray[np.float32]:
    """The values that codes stand for, float32 in the range's units.

    For `rounded` and `truncated` codes this is YouTube-8M's own formula, x (hi - lo) / 255 + (hi - lo) / 512 + lo
    (google/youtube-8m, `utils.Dequantize`), which its published models were trained with.
    """
    low, high = _checked(value_range)
    step = high - low
    exact = codes.astype(np.float64)
    if rounding == "midpoint":
        return (low + (exact + 0.5) * step / 256).astype(np.float32)
    return (exact * step / 255 + step / 512 + low).astype(np.float32)


def _checked(value_range: Range) -> Range:
    low, high = value_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"a quantisation range needs lo < hi, got ({low}, {high})")
    return low, high
