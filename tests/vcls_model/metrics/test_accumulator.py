"""Every figure of the accumulator against plain numpy, scikit-learn and the reference predictions."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from tests.vcls_model.metrics import oracles
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.binning import bin_edges, bins_of, probability_of
from vcls_model.metrics.result import best_thresholds, compute_result


def accumulate(case, classes, batch=7, **options):
    logits, values, lengths, ids = case
    accumulator = MetricAccumulator(classes, **options)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for i in range(0, len(ids), batch):
        j = min(i + batch, len(ids))
        accumulator.update(logits[i:j], values[starts[i] : starts[j]], lengths[i:j], ids[i:j])
    return accumulator


@pytest.fixture(scope="module", params=["distinct", "ties"])
def case(request):
    return oracles.random_case(np.random.default_rng(5), 60, 33, ties=request.param == "ties")


@pytest.fixture(scope="module")
def truth(case):
    return oracles.dense_labels(case[1], case[2], 33)


@pytest.fixture(scope="module")
def result(case):
    return compute_result(accumulate(case, 33))


@pytest.mark.parametrize("name", ["gap_at_20", "map_at_20", "hit_at_1", "perr"])
def test_youtube8m_metrics_follow_their_definitions(case, truth, result, name):
    assert result.summary[name] == pytest.approx(getattr(oracles, name)(case[0], truth), abs=1e-12)


@pytest.mark.parametrize("name", ["gap_at_20", "map_at_20", "map"])
def test_the_figure_lies_in_its_interval(result, name):
    assert result.summary[name + "_lower"] <= result.summary[name] <= result.summary[name + "_upper"]


def test_small_sets_are_ranked_exactly_as_scikit_learn_does(case, truth, result):
    ap, auc = result.per_class["ap"], result.per_class["roc_auc"]
    for c in range(33):
        assert ap[c] == pytest.approx(average_precision_score(truth[:, c], case[0][:, c]), abs=1e-12)
        assert auc[c] == pytest.approx(roc_auc_score(truth[:, c], case[0][:, c]), abs=1e-12)
    assert result.summary["map"] == pytest.approx(average_precision_score(truth, case[0], average="macro"), abs=1e-12)
    assert result.summary["macro_roc_auc"] == pytest.approx(roc_auc_score(truth, case[0], average="macro"), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 0.37, 0.0, 1.0])
def test_f1_and_counts_at_the_threshold(case, truth, threshold):
    result = compute_result(accumulate(case, 33, threshold=threshold))
    with np.errstate(divide="ignore"):
        predicted = case[0] >= np.float32(np.log(threshold) - np.log1p(-threshold))
    for name, average in (("f1_micro", "micro"), ("f1_macro", "macro"), ("f1_weighted", "weighted")):
        assert result.summary[name] == pytest.approx(f1_score(truth, predicted, average=average, zero_division=0))
    columns = result.per_class
    np.testing.assert_array_equal(columns["tp"], (predicted & truth).sum(axis=0))
    np.testing.assert_array_equal(columns["fp"], (predicted & ~truth).sum(axis=0))
    np.testing.assert_array_equal(columns["fn"], (~predicted & truth).sum(axis=0))
    np.testing.assert_array_equal(columns["tn"], (~predicted & ~truth).sum(axis=0))
    np.testing.assert_allclose(columns["recall"], (predicted & truth).sum(axis=0) / truth.sum(axis=0))


def test_class_thresholds_give_the_second_set_of_columns(case, truth):
    thresholds = np.linspace(0.01, 0.9, 33)
    columns = compute_result(accumulate(case, 33, class_thresholds=thresholds)).per_class
    predicted = probability_of(case[0]) >= thresholds
    np.testing.assert_allclose(columns["f1_best"], f1_score(truth, predicted, average=None, zero_division=0))
    np.testing.assert_allclose(columns["best_threshold"], thresholds)
    tp, positive = (predicted & truth).sum(axis=0), predicted.sum(axis=0)
    expected = [t / p if p else math.nan for t, p in zip(tp, positive, strict=True)]
    np.testing.assert_allclose(columns["precision_best"], expected)


def test_best_thresholds_have_the_best_f1_of_all_edges(case, truth):
    thresholds = best_thresholds(accumulate(case, 33))
    edges = probability_of(bin_edges()[:-1])
    for c in range(33):
        predicted = probability_of(case[0][:, c]) >= np.append(edges, thresholds[c])[:, None]
        f1 = 2 * (predicted & truth[:, c]).sum(axis=1) / (predicted.sum(axis=1) + truth[:, c].sum())
        assert f1[-1] == f1.max()
        assert np.abs(edges - thresholds[c]).min() < 1e-15


def test_calibration_is_that_of_all_scores(case, truth, result):
    probabilities = probability_of(case[0])
    cells = np.minimum((probabilities * 15).astype(int), 14)
    error = 0.0
    for cell in range(15):
        chosen = cells == cell
        if chosen.any():
            error += abs(probabilities[chosen].sum() - truth[chosen].sum()) / truth.size
    assert result.summary["expected_calibration_error"] == pytest.approx(error, abs=2e-3)
    assert result.curves["calibration_count"].sum() == truth.size
    for c in (0, 12):
        assert result.per_class["mean_probability"][c] == pytest.approx(probabilities[:, c].mean(), abs=2e-3)


def test_confusion_counts_missed_labels_against_false_alarms(case, truth, result):
    counted = {(row["true_index"], row["predicted_index"]): row["count"] for row in result.confusion}
    assert counted == oracles.confusion(case[0], truth)
    assert (np.diff(result.confusion["count"]) <= 0).all()


def test_curves_follow_scikit_learn(case, truth, result):
    curves = result.curves
    for c in range(0, 33, 4):
        scores = bin_edges()[bins_of(case[0][:, c])]
        precision, recall, _ = precision_recall_curve(truth[:, c], scores)
        expected = [precision[recall >= r - 1e-12][-1] for r in curves["recall_grid"][1:]]
        np.testing.assert_allclose(curves["pr_class"][c, 1:], expected, atol=1e-3)
        fpr, tpr, _ = roc_curve(truth[:, c], scores, drop_intermediate=False)
        # Between two points of the same rate the curve is vertical: look just right of the grid.
        expected = np.interp(curves["fpr_grid"][1:-1] - 1e-9, fpr, tpr)
        np.testing.assert_allclose(curves["roc_class"][c, 1:-1], expected, atol=1e-3)
    assert curves["pr_class"].dtype == np.float16 and curves["pr_class"].shape == (33, 101)
    np.testing.assert_allclose(curves["pr_macro"], np.nanmean(curves["pr_class"].astype(np.float64), axis=0), atol=1e-3)
    assert (curves["pr_band_low"] <= curves["pr_band_high"]).all()
    for i in (9, 49, 89):
        predicted = probability_of(case[0]) >= curves["threshold_grid"][i]
        assert curves["recall_micro"][i] == pytest.approx((predicted & truth).sum() / truth.sum(), abs=0.01)
        assert curves["f1_macro"][i] == pytest.approx(
            f1_score(truth, predicted, average="macro", zero_division=0), abs=0.02
        )


def test_examples_are_the_most_confident_ones(case, truth, result):
    logits, _, _, ids = case
    false = [(-max(logits[r, ~truth[r]]), ids[r]) for r in range(len(ids))]
    expected = [video_id.decode() for _, video_id in sorted(false)[:25]]
    assert [example["id"] for example in result.examples["false_alarms"]] == expected
    missed = [(min(logits[r, truth[r]]), ids[r]) for r in range(len(ids)) if truth[r].any()]
    assert [example["id"] for example in result.examples["misses"]] == [i.decode() for _, i in sorted(missed)[:25]]
    first = result.examples["hits"][0]
    row = ids.index(first["id"].encode())
    assert truth[row, first["class_index"]] and first["labels"] == np.flatnonzero(truth[row]).tolist()
    assert first["probability"] == pytest.approx(probability_of(logits[row, first["class_index"]]))


def test_frequency_slices_part_the_classes(result):
    slices = result.summary["slices"]["frequency"]
    assert sum(figures["classes"] for figures in slices.values()) == result.summary["classes_with_positives"]
    assert sum(figures["labels"] for figures in slices.values()) == result.summary["labels"]
    best = np.argsort(-result.per_class["support"], kind="stable")[: slices["head"]["classes"]]
    assert slices["head"]["map"] == pytest.approx(result.per_class["ap"][best].mean())


def test_many_labels_and_repeated_labels_count_once():
    logits = np.linspace(3, -3, 40, dtype=np.float32)[None]
    values = np.array([0, 0, *range(1, 31), 30])
    accumulator = MetricAccumulator(40)
    accumulator.update(logits, values, np.array([values.size]), [b"a"])
    summary = compute_result(accumulator).summary
    assert summary["labels"] == 31 and summary["perr"] == 1.0
    assert summary["gap_at_20"] == pytest.approx(20 / 31)


@pytest.mark.slow
def test_reference_predictions(shared_data):
    data = np.load(shared_data / "reference" / "predictions.npz")
    reference = json.loads((shared_data / "reference" / "metrics.json").read_text())
    case = (data["logits"], data["label_flat"], data["label_lens"], [bytes(i) for i in data["ids"]])
    result = compute_result(accumulate(case, 3862, batch=150))
    for name in ("gap_at_20", "map_at_20", "hit_at_1", "perr"):
        assert result.summary[name] == pytest.approx(reference[name], abs=1e-6)
    assert result.summary["map_lower"] <= reference["map"] <= result.summary["map_upper"]
    assert result.summary["macro_roc_auc"] == pytest.approx(reference["macro_roc_auc"], abs=1e-6)
    assert result.summary["f1_macro"] == pytest.approx(reference["f1_macro_at_0.5"], abs=1e-9)
    assert result.summary["classes_with_positives"] == reference["num_classes_with_positives"]
    chosen = data["class_index"]
    np.testing.assert_allclose(result.per_class["ap"][chosen], data["ap"], atol=1e-9)
    np.testing.assert_allclose(result.per_class["roc_auc"][chosen], data["roc_auc"], atol=1e-3)
    # The reference's micro F1 leaves the classes without positives out; ours counts their false positives.
    tp, fp, fn = (result.per_class[name][chosen].sum() for name in ("tp", "fp", "fn"))
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(reference["f1_micro_at_0.5"], abs=1e-9)

    binned = compute_result(accumulate(case, 3862, batch=150, exact_scores=0))
    assert binned.summary["map_lower"] <= reference["map"] <= binned.summary["map_upper"]
    assert (binned.per_class["ap_lower"][chosen] <= data["ap"]).all()
    assert (data["ap"] <= binned.per_class["ap_upper"][chosen]).all()
    assert binned.summary["gap_at_20"] == result.summary["gap_at_20"]


def test_best_classes_that_the_caller_selected_change_nothing() -> None:
    from vcls_model.metrics.ranking import chosen_rows, joined, select_best

    rng = np.random.default_rng(5)
    logits = rng.normal(-4, 2, (50, 60)).astype(np.float32)
    labels = [rng.choice(60, rng.integers(0, 30), replace=False) for _ in range(50)]
    lengths = np.array([row.size for row in labels])
    ids = [b"v%d" % row for row in range(50)]
    alone, shared = MetricAccumulator(60), MetricAccumulator(60)
    alone.update(logits, np.concatenate(labels), lengths, ids)
    best = select_best(logits, np.maximum(lengths, 33))
    first = np.arange(50) < 20
    best = joined([chosen_rows(best, first), chosen_rows(best, ~first)])
    shared.update(logits, np.concatenate(labels), lengths, ids, best)
    assert shared.to_bytes() == alone.to_bytes()


def test_too_few_best_classes_are_refused() -> None:
    from vcls_model.metrics.ranking import select_best

    logits = np.zeros((2, 40), np.float32)
    with pytest.raises(ValueError, match="10 best classes of a row, but 20 are needed"):
        MetricAccumulator(40).update(
            logits, np.array([1, 2]), np.array([1, 1]), [b"a", b"b"], select_best(logits, np.full(2, 10))
        )
