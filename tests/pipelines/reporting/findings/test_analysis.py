"""Intervals, groups, confusions, verdict: against published examples, brute force and metrics.json."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.reporting.findings.comparison import Estimate, changes, class_changes
from pipelines.reporting.findings.confusion import confused_pairs, vertical_confusion
from pipelines.reporting.findings.groups import best_and_worst, choose_classes, frequency_groups, vertical_groups
from pipelines.reporting.findings.intervals import average_precision_interval, difference_interval, wilson_interval
from pipelines.reporting.findings.verdict import Requirement, check_requirement, decide
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import read_scores
from pipelines.reporting.page.figures import confusion_figure
from pipelines.reporting.page.report_tables import slice_tables
from tests.fixtures.scores import make_scores
from vcls_model.commands import UsageError
from vcls_model.metrics.catalogue import METRICS


def test_wilson_interval_of_a_published_example():
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3: 81 of 263 and 0 of 20.
    low, high = wilson_interval(np.array([81, 0]), np.array([263, 20]))
    np.testing.assert_allclose(low, [0.2553, 0.0], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1611], atol=5e-5)


def test_difference_interval_of_a_published_example():
    # Newcombe (1998), "Interval estimation for the difference between independent proportions",
    # method 10: 56/70 − 48/80.
    before, after = 48 / 80, 56 / 70
    (low_before, low_after), (high_before, high_after) = wilson_interval(np.array([48, 56]), np.array([80, 70]))
    low, high = difference_interval(before, low_before, high_before, after, low_after, high_after)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_average_precision_interval_is_the_logit_interval():
    low, high = average_precision_interval(np.array([0.5, 0.8]), np.array([25, 100]))
    # n·ap·(1 − ap) = 6.25 and 16, so the logits are 0 ± 1.96 / 2.5 and ln 4 ± 1.96 / 4.
    assert low[0] == pytest.approx(1 / (1 + math.exp(1.959964 / 2.5)))
    assert high[1] == pytest.approx(1 / (1 + math.exp(-(math.log(4) + 1.959964 / 4))))


def test_average_precision_interval_has_a_width_at_the_ends_and_none_without_positives():
    low, high = average_precision_interval(np.array([1.0, 0.0, np.nan]), np.array([3, 3, 0]))
    assert low[0] < 0.9 and high[0] == 1
    assert low[1] == 0 and high[1] > 0.1
    assert np.isnan(low[2]) and np.isnan(high[2])


def test_average_precision_interval_covers_about_95_percent():
    generator = np.random.default_rng(5)
    positives, negatives = 40, 400

    def average_precision() -> float:
        scores = np.concatenate([generator.normal(1.2, 1, positives), generator.normal(0, 1, negatives)])
        hits = (np.arange(positives + negatives) < positives)[np.argsort(-scores)]
        return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())

    values = np.array([average_precision() for _ in range(600)])
    low, high = average_precision_interval(values, np.full(600, positives))
    covered = ((low <= values.mean()) & (values.mean() <= high)).mean()
    assert 0.9 <= covered <= 1


def test_groups_agree_with_metrics_json(scores_directory: Path):
    scores = read_scores(str(scores_directory))
    slices = json.loads((scores_directory / "metrics.json").read_text())["slices"]
    groups = {group.name.lower(): group for group in frequency_groups(scores)}
    assert set(groups) == {"head", "torso", "tail"}
    for name, group in groups.items():
        assert group.ap == pytest.approx(slices["frequency"][name]["map"], abs=1e-5)
        assert group.positives == slices["frequency"][name]["labels"]
    for group in vertical_groups(scores):
        assert group.ap == pytest.approx(slices["vertical"][group.name]["map"], abs=1e-5)
        assert group.measured == slices["vertical"][group.name]["classes"]


def test_confused_pairs_leave_out_what_is_right_and_count_the_misses():
    scores = make_scores(
        support=[10, 8, 5], ap=[0.5] * 3, confusion=[(0, 0, 7), (0, 1, 3), (1, 0, 2), (1, 1, 4), (2, 2, 5)]
    )
    pairs = confused_pairs(scores)
    assert [(pair.true_index, pair.predicted_index, pair.count, pair.missed) for pair in pairs] == [
        (0, 1, 3, 3),
        (1, 0, 2, 4),
    ]


def test_vertical_confusion_adds_up_by_main_vertical():
    scores = make_scores(
        support=[10, 8, 5],
        ap=[0.5] * 3,
        verticals=[("A",), ("B", "A"), ()],
        confusion=[(0, 0, 7), (0, 1, 3), (2, 1, 2), (1, 1, 4)],
    )
    names, counts = vertical_confusion(scores)
    assert names == ["A", "B", "(Unknown)"]
    assert counts.tolist() == [[7, 3, 0], [0, 4, 0], [0, 2, 0]]


def test_best_and_worst_ignore_luck():
    scores = make_scores(support=[1, 200, 200, 1], ap=[1.0, 0.9, 0.1, 0.0])
    best, worst = best_and_worst(scores)
    assert best.classes == [1] and best.sure
    assert worst.classes == [2] and worst.sure


def test_best_and_worst_say_when_nothing_is_sure():
    best, worst = best_and_worst(make_scores(support=[1, 1], ap=[1.0, 0.0]))
    assert not best.sure and not worst.sure
    assert best.classes[0] == 0 and worst.classes[0] == 1


def test_class_changes_need_more_than_the_interval():
    before = make_scores(support=[500, 500, 5, 0], ap=[0.5, 0.5, 0.2, math.nan])
    after = make_scores(support=[500, 500, 5, 0], ap=[0.7, 0.51, 0.6, math.nan])
    found = class_changes(after, before)
    assert found.exceeds.tolist() == [True, False, False, False]
    assert found.compared.tolist() == [True, True, True, False]
    assert found.delta[0] == pytest.approx(0.2)
    assert np.isnan(found.delta[3])


def _gap(value: float, low: float = math.nan, high: float = math.nan) -> Estimate:
    return Estimate(METRICS[0], value, low, high)


@pytest.mark.parametrize(("limit", "state"), [(0.6, "good"), (0.65, "attention"), (0.7, "bad")])
def test_a_requirement_is_decided_by_the_interval(limit: float, state: str):
    assert check_requirement(Requirement.parse(f"gap_at_20={limit}"), [_gap(0.65, 0.62, 0.68)]).state == state


def test_a_bar_on_an_error_is_an_upper_one():
    error = next(metric for metric in METRICS if not metric.higher_is_better)
    estimate = Estimate(error, 0.02)
    assert check_requirement(Requirement(error, 0.03), [estimate]).state == "good"
    assert check_requirement(Requirement(error, 0.01), [estimate]).state == "bad"


@pytest.mark.parametrize(
    ("text", "message"),
    [("gap_at_20", "METRIC=NUMBER"), ("gap_at_20=x", "METRIC=NUMBER"), ("gap_at_2=0.5", "did you mean 'gap_at_20'")],
)
def test_a_requirement_that_cannot_be_read(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        Requirement.parse(text)


def test_verdict_without_requirement_or_baseline_passes_nothing():
    scores = make_scores(support=[20, 20], ap=[0.6, 0.4])
    verdict = decide(scores, [_gap(0.65, 0.62, 0.68)], None, None, [])
    assert verdict.state == "note"
    assert verdict.title == "GAP@20 0.650 (0.620 to 0.680)"


@pytest.mark.parametrize(("now", "state"), [(0.75, "good"), (0.66, "attention"), (0.55, "bad")])
def test_verdict_against_a_baseline(now: float, state: str):
    scores = make_scores(support=[20, 20], ap=[0.6, 0.4])
    against = changes([_gap(now, now - 0.02, now + 0.02)], [_gap(0.65, 0.63, 0.67)])
    assert against[0].delta == pytest.approx(now - 0.65)
    assert decide(scores, [_gap(now, now - 0.02, now + 0.02)], against, None, []).state == state


def test_verdict_is_as_bad_as_the_worse_of_bar_and_baseline():
    scores = make_scores(support=[20, 20], ap=[0.6, 0.4])
    found = [_gap(0.55, 0.53, 0.57)]
    against = changes(found, [_gap(0.65, 0.63, 0.67)])
    verdict = decide(scores, found, against, None, [Requirement.parse("gap_at_20=0.5")])
    assert verdict.state == "bad"
    assert verdict.title == "Every requirement is met, and worse than the baseline, beyond chance"


def test_slices_by_a_feature_of_the_videos_become_tables():
    scores = make_scores(support=[20], ap=[0.6])
    assert scores.summary is not None
    scores.summary["slices"] = {
        "frequency": {"head": {"map": 0.5}},
        "upload year": {
            "2015": {"videos": 3, "labels": 7, "gap_at_20": 0.5, "gap_at_20_lower": 0.4},
            "2016": {"videos": 4},
        },
    }
    (table,) = slice_tables(scores)
    assert table.name == "slice_upload_year" and table.columns == ("upload year", "Videos", "Labels", "GAP@20")
    assert table.rows == [["2015", 3, 7, 0.5], ["2016", 4, None, None]]


def test_verdict_warns_of_a_baseline_on_other_videos():
    scores = make_scores(support=[20, 20], ap=[0.6, 0.4])
    titles = [check.title for check in decide(scores, [], None, None, [], pairing=Pairing(20, 10)).checks]
    assert "Comparison" in titles
    assert "Comparison" not in [check.title for check in decide(scores, [], None, None, []).checks]


def test_verdict_warns_when_training_videos_may_have_been_scored():
    scores = make_scores(support=[20, 20], ap=[0.6, 0.4], info={"split": None})
    held_out = next(check for check in decide(scores, [], None, None, []).checks if check.title == "Held out")
    assert held_out.state == "attention" and "--split=test" in held_out.text


def test_chosen_classes_by_name_and_index():
    scores = make_scores(support=[20, 20, 20], ap=[0.6, 0.4, 0.2], names=["Game", "Car", "7"])
    assert choose_classes(scores, ["car", "0"]) == [1, 0]
    with pytest.raises(UsageError, match="did you mean 'Game'"):
        choose_classes(scores, ["Gamee"])


def test_the_confusion_picture_names_the_most_frequent_confusion():
    """By number: 6 of 20 labels are a larger share than 20 of 100, but less to win."""
    scores = make_scores(
        support=[20, 100, 50],
        ap=[0.5] * 3,
        names=["few", "many", "other"],
        confusion=[(0, 0, 14), (0, 1, 6), (1, 1, 80), (1, 2, 20), (2, 2, 50)],
    )
    figure = confusion_figure(scores)
    assert figure is not None
    assert "The most frequent confusion is many with other: 20, 20 % of many." in figure.alternative
