"""Two runs over the same videos: which videos both scored, and what the pairs say that each run alone does not."""

import dataclasses

import numpy as np

from vcls_model.metrics.spread import GroupInfluence


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """The labelled videos of a run, ordered by the hash of their id: 17 bytes per video.

    Attributes:
        keys: (N,) uint64, first 64 bits of the SHA-256 of each id, ascending; of equal ids as the files have them.
        truths: (N,) uint64, a digest of the video's labels.
        hits: (N,) bool, whether the best class is a label.
        influence: of the groups of videos on the run's figures, None where its counts are not at hand.
    """

    keys: np.ndarray
    truths: np.ndarray
    hits: np.ndarray
    influence: GroupInfluence | None


@dataclasses.dataclass(frozen=True)
class Pairing:
    """What a run and its baseline have in common.

    Attributes:
        now, before: labelled videos of this run and of the baseline.
        shared: videos with the same id in both (an id that comes twice in both counts twice).
        relabelled: those of them whose labels differ.
        lost, won: of the others, those whose best class was right in the baseline alone, and in this run alone.
        shift: influence of each group of videos on this run's figures minus that on the baseline's; None unless both
            runs scored the same videos with the same labels and kept their counts.
        obstacle: why videos or counts cannot be compared, "" when they were.
    """

    now: int
    before: int
    shared: int = 0
    relabelled: int = 0
    lost: int = 0
    won: int = 0
    shift: GroupInfluence | None = None
    obstacle: str = ""

    @property
    def same_videos(self) -> bool:
        """Whether both runs scored the same videos, with the same labels."""
        return 0 < self.shared == self.now == self.before and not self.relabelled


def pair(now: Outcomes, before: Outcomes) -> Pairing:
    """Pairs two runs, the k-th video of an id with the k-th of that id."""
    _, mine, theirs = np.intersect1d(
        _numbered(now.keys), _numbered(before.keys), assume_unique=True, return_indices=True
    )
    alike = now.truths[mine] == before.truths[theirs]
    hits, previous = now.hits[mine][alike], before.hits[theirs][alike]
    found = Pairing(
        len(now.keys),
        len(before.keys),
        len(mine),
        int(np.count_nonzero(~alike)),
        int(np.count_nonzero(previous & ~hits)),
        int(np.count_nonzero(hits & ~previous)),
    )
    if not found.same_videos:
        return found
    if now.influence is None or before.influence is None:
        which = "this run" if now.influence is None else "the baseline"
        return dataclasses.replace(found, obstacle=f"the counts of {which} (state/) are not there")
    return dataclasses.replace(found, shift=now.influence.minus(before.influence))


def _numbered(keys: np.ndarray) -> np.ndarray:
    """Ascending keys with the number of each among its equals added, so that none is there twice.

    The numbers are far smaller than the distance between the hashes of two ids is likely to be.
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    firsts = np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return keys + (np.arange(len(keys)) - firsts).astype(np.uint64)
