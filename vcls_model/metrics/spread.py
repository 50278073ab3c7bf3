"""What `influence.py` computes, apart from it: a report without a baseline need not load the compiled kernels."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class GroupInfluence:
    """d figure / d weight of each group of videos; the entries of a figure add up to 0.

    Attributes:
        gap: (GROUPS,) of GAP@20.
        map: (GROUPS,) of the mean of average precision over the classes with a positive.
        ap: (GROUPS, C) of each class's average precision; 0 for a class without positives.
    """

    gap: np.ndarray
    map: np.ndarray
    ap: np.ndarray

    def minus(self, other: "GroupInfluence") -> "GroupInfluence":
        """The influence on the difference of two runs, whose groups hold the same videos."""
        return GroupInfluence(self.gap - other.gap, self.map - other.map, self.ap - other.ap)
