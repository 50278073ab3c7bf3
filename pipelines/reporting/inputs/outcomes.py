"""Reads what became of each video of a run, and how much each group of videos moves its figures."""

import numpy as np

from pipelines.reporting.inputs.pairing import Outcomes, Pairing, pair
from pipelines.reporting.inputs.predictions import labelled_rows
from pipelines.reporting.inputs.scores import Scores
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.metrics.binning import logit_of
from vcls_model.metrics.influence import InfluenceSums
from vcls_model.metrics.layout import GROUPS
from vcls_model.metrics.stored import STATE, merge_aggregates, read_manifests
from vcls_model.records.splits import hashes_of_ids


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
