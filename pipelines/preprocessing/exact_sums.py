"""Sums of float64 numbers that come out the same, to the last bit, in whatever order the numbers are added.

Each sum is a whole number of 2**-384, kept as digits of 32 bits that are added without carrying: Kulisch's long
accumulator (Kulisch, "Computer Arithmetic and Validity", 2008), here with numpy over D sums at once. Python's own
integers would do the same at forty times the cost, a tenth of what a small shard takes in all.
"""

import numpy as np

_DIGIT_BITS = 32
_MASK = (1 << _DIGIT_BITS) - 1
# The lowest digit counts 2**-384: below 2**-298, the last bit of a float32's square, and its mantissa as float64.
_LOWEST_EXPONENT = -384
# Up to 2**384: 2**128 times more than the largest square of a float32.
_DIGITS = 24
_MANTISSA_BITS = 53


class ExactSums:
    """D sums of numbers that are whole multiples of 2**-298 and below 2**330 in size, such as float32 and its squares.

    Digits are int64, so two billion numbers can be added to each sum.
    """

    def __init__(self, width: int) -> None:
        self._digits = np.zeros((_DIGITS, width), np.int64)
        self._columns = np.arange(width)

    def add(self, values: np.ndarray) -> None:
        """Adds one number, float64 (D,), to each sum."""
        fractions, exponents = np.frexp(values)
        mantissas = np.ldexp(fractions, _MANTISSA_BITS).astype(np.int64)
        places, shifts = np.divmod(exponents.astype(np.int64) - _MANTISSA_BITS - _LOWEST_EXPONENT, _DIGIT_BITS)
        low, high = (mantissas & _MASK) << shifts, (mantissas >> _DIGIT_BITS) << shifts
        self._digits[places, self._columns] += low & _MASK
        self._digits[places + 1, self._columns] += (low >> _DIGIT_BITS) + (high & _MASK)
        self._digits[places + 2, self._columns] += high >> _DIGIT_BITS

    def merge(self, other: "ExactSums") -> None:
        """Adds other sums to these."""
        self._digits += other._digits

    def integers(self, exponent: int) -> list[int]:
        """The sums in units of 2**exponent, of which they must be whole multiples."""
        totals = [0] * len(self._columns)
        for row in reversed(self._digits.tolist()):
            totals = [(total << _DIGIT_BITS) + digit for total, digit in zip(totals, row, strict=True)]
        return [total >> (exponent - _LOWEST_EXPONENT) for total in totals]
