"""Any partition of the videos, merged in any order, gives the same bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vcls_model.metrics import oracles
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import compute_result
from vcls_model.metrics.sparse import SampledCounts, ScoreSketch

SCORES = st.sampled_from([-np.inf, -30.0, -8.0, -1.25, -0.0, 0.0, 1e-7, 0.5, 3.0, 25.0, np.inf]) | st.floats(
    -9, 9, width=32
)


@st.composite
def partitioned_videos(draw):
    """(videos, classes, parts): videos as (id, scores, labels), and the videos of each part."""
    classes = draw(st.integers(1, 23))
    count = draw(st.integers(0, 12))
    pool = draw(st.lists(SCORES, min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    videos = [
        (
            b"id%d" % rng.integers(0, 8),
            rng.choice(pool, classes).astype(np.float32),
            rng.choice(classes, rng.integers(0, min(classes, 4) + 1), replace=False),
        )
        for _ in range(count)
    ]
    part_of = rng.integers(0, draw(st.integers(1, 5)), count)
    order = rng.permutation(count)
    parts = [[videos[i] for i in order if part_of[i] == part] for part in range(5)]
    return videos, classes, parts, rng.integers(0, 2, 16)


def add(accumulator, videos):
    if videos:
        ids, scores, labels = zip(*videos, strict=True)
        accumulator.update(np.stack(scores), np.concatenate(labels), np.array([len(row) for row in labels]), ids)
    return accumulator


def merged(parts, choices):
    """Merges neighbours in an order that `choices` picks, sometimes through bytes."""
    parts = list(parts)
    for step in range(len(parts) - 1):
        i = int(choices[step] * (len(parts) - 2))
        left, right = parts[i], parts.pop(i + 1)
        if choices[step + 5]:
            right = type(right).from_bytes(right.to_bytes())
        before = right.to_bytes()
        left.merge(right)
        assert right.to_bytes() == before, "merge changed its argument"
    return parts[0]


@pytest.mark.parametrize("exact_scores", [0, 40, 10**6])
@settings(max_examples=25, deadline=None)
@given(case=partitioned_videos())
def test_any_partition_and_merge_order_gives_the_same_bytes(exact_scores, case):
    videos, classes, parts, choices = case

    def fresh():
        return MetricAccumulator(classes, exact_scores=exact_scores)

    whole = add(fresh(), videos).to_bytes()
    one_by_one = fresh()
    for video in videos[::-1]:
        add(one_by_one, [video])
    assert one_by_one.to_bytes() == whole
    assert merged([add(fresh(), part) for part in parts], choices).to_bytes() == whole
    assert MetricAccumulator.from_bytes(whole).to_bytes() == whole


def test_an_empty_accumulator_is_neutral_and_has_a_result():
    empty = MetricAccumulator(5)
    summary = compute_result(empty).summary
    assert summary["videos"] == 0 and np.isnan(summary["map"]) and np.isnan(summary["gap_at_20"])
    full = add(MetricAccumulator(5), [(b"a", np.zeros(5, np.float32), np.array([1]))])
    before = full.to_bytes()
    full.merge(empty)
    empty.merge(full)
    assert full.to_bytes() == before == empty.to_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**12), st.booleans()), max_size=60),
    st.integers(1, 12),
    st.integers(0, 60),
    st.integers(0, 2**32),
)
def test_the_sketch_depends_on_the_multiset_alone(pairs, budget, cut, seed):
    keys = np.array([(c << 33) | (score << 1) | hit for c, score, hit in pairs], np.uint64)
    budget = max(budget, 4)
    whole = ScoreSketch(budget)
    whole.add(keys.copy())
    whole.compact()
    shuffled = np.random.default_rng(seed).permutation(keys)
    left, right = ScoreSketch(budget), ScoreSketch(budget)
    for key in shuffled[:cut]:
        left.add(np.array([key]))
        left.compact()
    right.add(shuffled[cut:])
    right.merge(left)
    assert right.level == whole.level
    np.testing.assert_array_equal(right.keys, whole.keys)
    np.testing.assert_array_equal(right.counts, whole.counts)
    assert whole.keys.size <= budget
    assert whole.counts[:, 1].sum() == keys.size and whole.counts[:, 0].sum() == (keys & np.uint64(1)).sum()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=60), st.integers(3, 12), st.integers(0, 60))
def test_sampled_counts_depend_on_the_multiset_alone(entries, budget, cut):
    keys, ranks = (np.array([entry[i] for entry in entries], np.int64) for i in (0, 1))
    whole = SampledCounts(budget)
    whole.add(keys, ranks)
    left, right = SampledCounts(budget), SampledCounts(budget)
    left.add(keys[cut:], ranks[cut:])
    left.compact()
    right.add(keys[:cut], ranks[:cut])
    left.merge(right)
    for sampled in (whole, left):
        distinct, counts = sampled.totals()
        kept = keys[ranks >= sampled.level]
        np.testing.assert_array_equal(distinct, np.unique(kept))
        np.testing.assert_array_equal(counts, np.unique(kept, return_counts=True)[1])
    assert whole.level == left.level and whole.keys.size <= budget
    if whole.level:
        assert len(set(zip(keys[ranks >= whole.level - 1], ranks[ranks >= whole.level - 1], strict=True))) > budget


def test_a_state_through_the_whole_range_of_sizes_equals_one_pass():
    rng = np.random.default_rng(3)
    logits, values, lengths, ids = oracles.random_case(rng, 300, 30)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    states = []
    for sizes in ([300], [1, 40, 259], [150, 150]):
        accumulator, at = MetricAccumulator(30, exact_scores=3000), 0
        for size in sizes:
            part = slice(at, at + size)
            piece = MetricAccumulator(30, exact_scores=3000)
            piece.update(logits[part], values[starts[at] : starts[at + size]], lengths[part], ids[part])
            accumulator.merge(piece)
            at += size
        assert accumulator.exact_keys() is None
        states.append(accumulator.to_bytes())
    assert states[0] == states[1] == states[2]
