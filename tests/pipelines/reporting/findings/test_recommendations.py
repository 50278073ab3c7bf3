"""Each recommendation appears when the figures support it, with the right gain, and not otherwise."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.reporting.findings.comparison import class_changes
from pipelines.reporting.findings.confusion import confused_pairs
from pipelines.reporting.findings.recommendations import Recommendation, Rival, recommend
from pipelines.reporting.inputs.predictions import Cooccurrence
from pipelines.reporting.inputs.scores import ScoredExample, Scores
from tests.fixtures.scores import make_scores


def _of(
    scores: Scores,
    kind: str,
    *,
    pairs: dict[tuple[int, int], tuple[int, int]] | None = None,
    baseline: Scores | None = None,
    rivals: Sequence[Rival] = (),
) -> Recommendation | None:
    found = recommend(
        scores,
        pairs=confused_pairs(scores, 200) if scores.labelled else [],
        cooccurrence=Cooccurrence(pairs) if pairs is not None else None,
        against=class_changes(scores, baseline) if baseline else None,
        baseline_path="previous",
        rivals=rivals,
    )
    return next((entry for entry in found if entry.kind == kind), None)


def test_nothing_is_recommended_without_evidence():
    scores = make_scores(
        support=[100] * 20,
        ap=[0.6] * 20,
        tp=[60] * 20,
        fp=[10] * 20,
        fn=[40] * 20,
        precision=[0.86] * 20,
        recall=[0.6] * 20,
        f1=[0.7] * 20,
        f1_best=[0.7] * 20,
        best_threshold=[0.4] * 20,
        mean_probability=[0.1] * 20,
        train_count=[1000] * 20,
        info={"records_read": 1000, "rejected_by_reason": {}},
    )
    assert recommend(scores, pairs=[], cooccurrence=Cooccurrence({}), against=None, baseline_path="", rivals=[]) == []


def test_threshold_gain_is_the_mean_gain_over_measured_classes():
    f1, best = [0.2, 0.4, 0.3, np.nan], [0.5, 0.6, 0.55, np.nan]
    found = _of(
        make_scores(
            support=[30, 30, 30, 0], ap=[0.5] * 3 + [np.nan], f1=f1, f1_best=best, best_threshold=[0.1, 0.2, 0.3, 0.5]
        ),
        "thresholds",
    )
    assert found is not None
    assert "0.300 → 0.550 (+0.250" in found.gain
    assert "3 classes gain and 0 lose, of 3 measured" in found.why


def test_threshold_gain_within_chance_is_not_recommended():
    generator = np.random.default_rng(0)
    f1 = np.full(40, 0.5)
    noise = generator.normal(0, 0.2, 40)
    best = f1 + noise - noise.mean() + 0.01
    assert (
        _of(make_scores(support=[30] * 40, ap=[0.5] * 40, f1=f1, f1_best=best, best_threshold=[0.3] * 40), "thresholds")
        is None
    )


def test_calibration_names_the_class_that_expects_too_many():
    # 1,000 videos: class 0 expects 100 positives and has 100, class 1 expects 300 and has 100.
    found = _of(
        make_scores(support=[100, 100], ap=[0.5, 0.5], tp=[0, 0], fp=[0, 0], mean_probability=[0.1, 0.3]), "calibration"
    )
    assert found is not None and found.title.startswith("Recalibrate 1 class ")
    assert [str(row[0]) for row in found.evidence.rows] == ["Thing 1"]
    assert "1 too high, 0 too low" in found.why
    assert "100 %" in found.gain


def test_calibration_from_precision_when_probabilities_were_not_summed():
    found = _of(make_scores(support=[50, 50], ap=[0.5, 0.5], tp=[10, 40], fp=[90, 10]), "calibration")
    assert found is not None
    assert [str(row[0]) for row in found.evidence.rows] == ["Thing 0"]
    assert "90 of 100 false positives" in found.gain


def test_labels_contradicted_by_a_dependable_class():
    examples = {
        "false_alarms": [
            ScoredExample("sure", 0, 0.99, (1,)),
            ScoredExample("unsure", 0, 0.9, ()),
            ScoredExample("poor class", 1, 0.99, ()),
        ],
        "misses": [ScoredExample("lost", 0, 0.001, (0,)), ScoredExample("poor class", 1, 0.001, (1,))],
    }
    found = _of(
        make_scores(
            support=[50, 50],
            ap=[0.9, 0.3],
            precision=[0.9, 0.3],
            recall=[0.9, 0.3],
            tp=[45, 15],
            fp=[5, 35],
            examples=examples,
        ),
        "labels",
    )
    assert found is not None
    assert [row[0] for row in found.evidence.rows] == ["sure", "lost"]
    # One of 45 + 5 predictions of the class, one of 100 predictions in all, one of 100 labels.
    assert "up to 0.020, micro precision by 0.0100" in found.gain and "micro recall rises by up to 0.0100" in found.gain


def test_pairs_confused_because_they_occur_together():
    confusion = [(0, 1, 8), (1, 0, 2), (0, 2, 6), (0, 0, 30)]
    scores = make_scores(support=[40, 50, 60], ap=[0.5] * 3, confusion=confusion)
    found = _of(scores, "together", pairs={(0, 1): (36, 54), (1, 0): (36, 54), (0, 2): (4, 96)})
    assert found is not None
    # Both directions count as one pair: 36 of the 40 videos of the rarer class carry the other.
    assert [(str(row[0]), str(row[1]), *row[2:]) for row in found.evidence.rows] == [
        ("Thing 0", "Thing 1", 10, 36, 54, pytest.approx(0.9))
    ]
    # 10 of 16 confusions, and 10 of 150 labels.
    assert "10 confusions, 62 %" in found.gain and "up to 0.0667" in found.gain


def test_pairs_need_the_labels_of_the_predictions():
    scores = make_scores(support=[40, 50], ap=[0.5] * 2, confusion=[(0, 1, 8)])
    assert _of(scores, "together", pairs=None) is None


def test_classes_that_fell_behind_the_baseline():
    before = make_scores(support=[500] * 4, ap=[0.9, 0.5, 0.5, 0.5])
    after = make_scores(support=[500] * 4, ap=[0.6, 0.5, 0.5, 0.5])
    found = _of(after, "baseline", baseline=before)
    assert found is not None and [str(row[0]) for row in found.evidence.rows] == ["Thing 0"]
    assert "+0.0750" in found.gain  # 0.3 over four classes
    assert _of(after, "baseline", baseline=after) is None


def test_another_model_of_the_run_wins_some_classes():
    scores = make_scores(support=[500, 500], ap=[0.5, 0.5])
    found = _of(scores, "rival", rivals=[Rival("other", np.array([0.8, 0.51]))])
    assert found is not None and found.title == "Let the model “other” decide 1 class"
    assert "+0.1500" in found.gain
    assert _of(scores, "rival", rivals=[Rival("other", np.array([0.52, 0.4]))]) is None


def test_rare_classes_want_examples():
    generator = np.random.default_rng(1)
    rare, frequent = generator.uniform(0.1, 0.3, 30), generator.uniform(0.6, 0.8, 30)
    scores = make_scores(support=[20] * 60, ap=[*rare, *frequent], train_count=[50] * 30 + [500] * 30)
    found = _of(scores, "too_few")
    assert found is not None and "30 classes trained on fewer than 100" in found.title
    assert f"+{(frequent.mean() - rare.mean()) / 2:.3f}" in found.gain


def test_rare_classes_that_do_as_well_want_none():
    scores = make_scores(
        support=[20] * 60, ap=np.random.default_rng(2).uniform(0.4, 0.6, 60), train_count=[50] * 30 + [500] * 30
    )
    assert _of(scores, "too_few") is None


def test_training_that_was_cut_short():
    found = _of(make_scores(support=[20], ap=[0.5], history={"val_map": [0.1, 0.3, 0.4]}), "training")
    # Steps 0.2 and 0.1: halving each time, 0.1 is still to come.
    assert found is not None and "still to come is +0.100" in found.gain
    assert _of(make_scores(support=[20], ap=[0.5], history={"val_map": [0.1, 0.4, 0.39]}), "training") is None


def test_over_fitting_shows_in_the_losses():
    found = _of(
        make_scores(support=[20], ap=[0.5], history={"loss": [4, 3, 2, 1], "val_loss": [4, 3, 3.5, 4]}), "overfitting"
    )
    assert found is not None and "epoch 2" in found.why and "25.0 %" in found.gain
    assert _of(make_scores(support=[20], ap=[0.5], history={"loss": [4, 3], "val_loss": [4, 3]}), "overfitting") is None


def test_rejected_records_and_thin_evidence():
    scores = make_scores(
        support=[30, 3, 3],
        ap=[0.5] * 3,
        videos=100,
        info={"records_read": 50, "rejected_by_reason": {"width": 4, "crc": 1}},
    )
    rejected, measure = _of(scores, "rejected"), _of(scores, "measure")
    assert rejected is not None and "width (4)" in rejected.why and "10 %" in rejected.gain
    assert measure is not None and "3 classes can be judged instead of 1" in measure.gain


def test_one_model_that_beats_the_mean_of_all():
    scores = make_scores(
        support=[500],
        ap=[0.5],
        info={
            "models": [{"name": "good", "metrics": {"gap_at_20": 0.7}}, {"name": "bad", "metrics": {"gap_at_20": 0.1}}]
        },
    )
    assert scores.summary is not None
    scores.summary.update(gap_at_20=0.6, gap_at_20_ci_high=0.65)
    found = _of(scores, "one_model")
    assert found is not None and "“good” alone" in found.title and "GAP@20 +0.100" in found.gain
    scores.summary.update(gap_at_20_ci_high=0.71)
    assert _of(scores, "one_model") is None
