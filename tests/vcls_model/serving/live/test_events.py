"""When labels come and go."""

import numpy as np
import pytest

from vcls_model.serving.live.events import LabelRules, LabelTracker, flips


def events_of(probabilities: list[float], hold: float = 2.0, threshold: float = 0.5) -> list[tuple[str, float, float]]:
    """(kind, second of the frame that brought it, start) of one class, a frame a second."""
    tracker = LabelTracker(LabelRules(np.array([threshold]), hold))
    seen = []
    for second, value in enumerate(probabilities):
        seen += [(event.kind, second, event.start) for event in tracker.update(np.array([value]), second)]
    return [each for each in seen if each[0] != "update"]


def test_a_clear_label_begins_after_it_held_and_counts_from_its_first_frame() -> None:
    assert events_of([0.1, 0.95, 0.95, 0.95, 0.95]) == [("new", 3, 1.0)]
    assert events_of([0.95, 0.1, 0.95, 0.1, 0.95, 0.1]) == []
    assert events_of([0.6], hold=0) == [("new", 0, 0.0)]


def test_a_label_that_hovers_takes_longer_but_no_more_than_ten_times_as_long() -> None:
    assert events_of([0.1] + [0.7] * 9) == [("new", 6, 1.0)]  # 0.85 logits above: 4.5 are enough
    assert events_of([0.1] + [0.5] * 30) == [("new", 20, 1.0)]
    assert events_of([0.1] + [0.7, 0.7, 0.7, 0.4] * 9) == []


def test_frames_count_by_their_seconds() -> None:
    tracker = LabelTracker(LabelRules(np.array([0.5]), 2.0))
    begun = [at for at in np.arange(0, 9, 0.25) if tracker.update(np.array([0.7 if at >= 1 else 0.1]), float(at))]
    assert begun[0] == pytest.approx(6.25)


def test_what_is_not_a_number_is_below_every_threshold() -> None:
    assert events_of([0.95] * 4 + [float("nan")] * 6) == [("new", 2, 0.0), ("end", 5, 0.0)]


def test_a_label_ends_only_below_the_lower_threshold_and_after_a_while() -> None:
    calm = [0.95] * 4 + [0.1, 0.2, 0.1, 0.09] * 5
    assert events_of(calm) == [("new", 2, 0.0)]  # 2.5 logits below 0.5 is 0.076
    assert events_of([0.95] * 4 + [0.01, 0.6, 0.01, 0.6]) == [("new", 2, 0.0)]
    assert events_of([0.95] * 4 + [1e-6] * 4) == [("new", 2, 0.0), ("end", 5, 0.0)]
    assert events_of([0.95] * 4 + [0.05] * 30) == [("new", 2, 0.0), ("end", 23, 0.0)]


def test_an_end_tells_the_best_and_the_last_second_at_which_it_held() -> None:
    tracker = LabelTracker(LabelRules(np.array([0.5, 0.5]), 1.0))
    heard = []
    for second, value in enumerate([0.8, 0.95, 0.9, 0.0, 0.0, 0.0]):
        heard += tracker.update(np.array([0.0, value]), second)
    (ended,) = [event for event in heard if event.kind == "end"]
    assert (ended.index, ended.start, ended.at, ended.best, ended.best_at) == (1, 0, 2, 0.95, 1)
    assert tracker.finish() == []


def test_finish_ends_what_is_there() -> None:
    tracker = LabelTracker(LabelRules(np.array([0.5]), 1.0))
    for second in range(5):
        tracker.update(np.array([0.9]), second)
    assert tracker.active.tolist() == [0]
    assert [(event.kind, event.at) for event in tracker.finish()] == [("end", 4)]
    assert tracker.active.size == 0


def test_each_class_has_its_own_threshold() -> None:
    tracker = LabelTracker(LabelRules(np.array([0.2, 0.8, 0.0, 1.0]), 0.0))
    assert [event.index for event in tracker.update(np.full(4, 0.5), 0)] == [0, 2]


def test_a_second_appearance_begins_anew() -> None:
    tracker = LabelTracker(LabelRules(np.array([0.5]), 1.0))
    heard = []
    for second, value in enumerate([0.95] * 3 + [0.0] * 3 + [0.93] * 3):
        heard += [event for event in tracker.update(np.array([value]), second) if event.kind != "update"]
    assert [(event.kind, event.start) for event in heard] == [("new", 0), ("end", 0), ("new", 6)]
    assert heard[-1].best == pytest.approx(0.93)


def test_flips_count_changes() -> None:
    on = [np.array(each, bool) for each in ([0, 0], [1, 0], [1, 1], [0, 1])]
    assert flips(on) == 3


def test_five_times_fewer_flips_on_scores_that_hover_at_their_thresholds() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(-1, 2, (30, 40)), 20, axis=0)  # scenes of 20 s
    probabilities = 1 / (1 + np.exp(-(level + rng.normal(0, 1.0, level.shape))))
    tracker = LabelTracker(LabelRules(np.full(40, 0.5)))
    calm = []
    for second, row in enumerate(probabilities):
        tracker.update(row, second)
        on = np.zeros(40, bool)
        on[tracker.active] = True
        calm.append(on)
    raw = flips([row >= 0.5 for row in probabilities])
    assert raw >= 5 * flips(calm) > 0
