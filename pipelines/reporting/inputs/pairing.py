"""Two runs over the same videos: which videos both scored, and what the pairs say that each run alone does not."""

import dataclasses

import numpy as np

from pipelines.reporting.inputs.predictions import labelled_rows
from pipelines.reporting.inputs.scores import Scores
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.metrics.binning import logit_of
from vcls_model.metrics.influence import GroupInfluence, InfluenceSums
from vcls_model.metrics.layout import GROUPS
from vcls_model.metrics.stored import STATE, merge_aggregates, read_manifests
from vcls_model.records.splits import hashes_of_ids


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


def pair_runs(scores: Scores, baseline: Scores) -> Pairing:
    """Pairs the videos of two labelled runs by id.

    Raises:
        JobError: stored counts or predictions are damaged, or belong to another run than metrics.json.
    """
    runs = []
    for run in (scores, baseline):
        found = read_outcomes(run)
        if isinstance(found, str):
            now, before = (int((each.summary or {}).get("videos", 0)) for each in (scores, baseline))
            return Pairing(now, before, obstacle=found)
        runs.append(found)
    return pair(*runs)


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
        return dataclasses.replace(found, obstacle=f"the counts of {which} ({STATE}/) are not there")
    return dataclasses.replace(found, shift=now.influence.minus(before.influence))


def _numbered(keys: np.ndarray) -> np.ndarray:
    """Ascending keys with the number of each among its equals added, so that none is there twice.

    The numbers are far smaller than the distance between the hashes of two ids is likely to be.
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    firsts = np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return keys + (np.arange(len(keys)) - firsts).astype(np.uint64)


def read_outcomes(run: Scores) -> Outcomes | str:
    """The labelled videos of a run, or why there are none.

    Raises:
        JobError: stored counts or predictions are damaged, or belong to another run than metrics.json.
    """
    assert run.summary is not None
    sums = _influence_sums(run)
    keys, truths, hits = [], [], []
    for batch in labelled_rows(run.path, run.class_count):
        hashes = hashes_of_ids(batch.ids)
        is_label = np.isin(
            batch.rows * run.class_count + batch.classes, batch.label_rows * run.class_count + batch.labels
        )
        right = np.zeros(len(batch.ids), bool)
        rows, firsts = np.unique(batch.rows, return_index=True)
        right[rows] = is_label[firsts]
        keys.append(hashes)
        truths.append(_digests(batch.label_rows, batch.labels, len(batch.ids)))
        hits.append(right)
        if sums is not None:
            groups = (hashes & np.uint64(GROUPS - 1)).astype(np.int64)
            logits = logit_of(np.clip(batch.probabilities.astype(np.float64), 0, 1))
            sums.add(groups, batch.rows, batch.classes, logits, is_label)
            unseen = ~np.isin(
                batch.label_rows * run.class_count + batch.labels, batch.rows * run.class_count + batch.classes
            )
            sums.add_unseen(groups[batch.label_rows[unseen]], batch.labels[unseen])
    videos, right_videos = sum(map(len, keys)), sum(int(each.sum()) for each in hits)
    expected = int(run.summary["videos"])
    if videos == 0:
        return f"the predictions in {run.path} carry no labels to pair them by (a Kaggle CSV has none)"
    if videos != expected:
        return f"the predictions in {run.path} are {videos:,} labelled videos, the metrics are of {expected:,}"
    if right_videos != round(float(run.summary["hit_at_1"] or 0) * expected):
        return f"the predictions in {run.path} leave out best classes (--min_probability)"
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return Outcomes(
        joined[order],
        np.concatenate(truths)[order],
        np.concatenate(hits)[order],
        sums.result() if sums is not None else None,
    )


def _digests(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """A number per video that depends on the set of its labels, whatever their order: sums of mixed labels."""
    mixed = (labels.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    ends = np.cumsum(np.bincount(rows, minlength=count))
    return sums[ends] - sums[np.concatenate([[0], ends[:-1]])]


def _influence_sums(run: Scores) -> InfluenceSums | None:
    """What a run's stored counts say of its scores; None where it kept none."""
    assert run.summary is not None
    manifests = read_manifests(run.path)
    if not manifests:
        return None
    merged = merge_aggregates(run.path, manifests, 0)
    if merged is None or merged.videos != run.summary["videos"] or merged.class_count != run.class_count:
        raise JobError(
            f"{storage.join(run.path, STATE)} counts {merged.videos if merged else 0} videos, metrics.json "
            f"{run.summary['videos']}: the directory is damaged; score again"
        )
    return InfluenceSums(merged)
