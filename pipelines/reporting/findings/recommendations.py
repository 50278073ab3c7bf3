"""What to do next, computed from a run's results: each recommendation carries its evidence and its expected gain.

None is shown whose evidence is not in the data: every function here returns None when the figures do not support it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.reporting.findings.checks import check_thresholds, thresholds_are_held_out, thresholds_text
from pipelines.reporting.findings.comparison import ClassChanges
from pipelines.reporting.findings.confusion import ConfusedPair
from pipelines.reporting.findings.groups import frequency, size_groups, span
from pipelines.reporting.findings.intervals import (
    FEW_POSITIVES,
    Z95,
    average_precision_interval,
    class_intervals,
    difference_interval,
    wilson_interval,
)
from pipelines.reporting.inputs.predictions import Cooccurrence
from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.tables import Table, pluralise, signed

# Two classes "nearly always occur together" when of the videos with either, at least this share carries both.
_TOGETHER = 0.8
# A prediction is "certain" from here on; it contradicts a label only for classes that are predicted well.
_CERTAIN_PROBABILITY = 0.95
_RELIABLE_PRECISION = 0.8
_RELIABLE_RECALL = 0.8
_SURPRISING_MISS_PROBABILITY = 0.01
_ROWS = 12


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One thing to do.

    Attributes:
        kind: a stable key, e.g. `thresholds`.
        title: what to do, in the imperative.
        why: what was seen.
        gain: what to expect of it, with the assumption behind the figure.
        evidence: the figures that led to it.
    """

    kind: str
    title: str
    why: str
    gain: str
    evidence: Table


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another model that scored the same videos, with its average precision by class (C,)."""

    name: str
    ap: np.ndarray


def recommend(
    scores: Scores,
    *,
    pairs: Sequence[ConfusedPair],
    cooccurrence: Cooccurrence | None,
    against: ClassChanges | None,
    baseline_path: str,
    rivals: Sequence[Rival],
) -> list[Recommendation]:
    """All that the results support, cheapest to do first."""
    if not scores.labelled:
        return []
    candidates = [
        _thresholds(scores),
        _calibration(scores),
        _labels(scores),
        _together(scores, pairs, cooccurrence),
        _baseline_wins(scores, against, baseline_path),
        _one_model(scores),
        *(_rival_wins(scores, rival, number) for number, rival in enumerate(rivals, start=1)),
        _training_length(scores),
        _overfitting(scores),
        _too_few(scores),
        _rejected(scores),
        _measure_more(scores),
    ]
    return [found for found in candidates if found is not None]


def _thresholds(scores: Scores) -> Recommendation | None:
    """Use one threshold per class, when that raises F1 on the scored videos beyond chance."""
    f1, best = scores.columns["f1"], scores.columns["f1_best"]
    known = np.flatnonzero(np.isfinite(f1) & np.isfinite(best) & (scores.columns["support"] > 0))
    if len(known) < 2 or check_thresholds(scores):  # of thresholds that the scored videos chose, a gain says nothing
        return None
    gain = best[known] - f1[known]
    mean, error = float(gain.mean()), float(gain.std(ddof=1)) / math.sqrt(len(known))
    if mean < 0.002 or mean <= Z95 * error:
        return None
    order = known[np.argsort(-gain * np.sqrt(scores.columns["support"][known]), kind="stable")][:_ROWS]
    rows = [
        [
            scores.name(i),
            int(scores.columns["support"][i]),
            scores.columns["best_threshold"][i],
            f1[i],
            best[i],
            best[i] - f1[i],
        ]
        for i in order
    ]
    threshold = scores.info.get("threshold", 0.5)
    return Recommendation(
        "thresholds",
        "Use a separate threshold for each class",
        f"One threshold of {threshold:g} for all classes gives away F1: with one per class, "
        f"{pluralise(int((gain > 0).sum()), 'class gains', 'classes gain')} and {int((gain < 0).sum()):,} lose, of "
        f"{len(known):,} measured. They are in labels.csv of the scores; nothing has to be trained. "
        f"{thresholds_text(scores)}",
        f"Macro F1 {f1[known].mean():.3f} → {best[known].mean():.3f} ({signed(mean)} ± {Z95 * error:.3f}) on the "
        "scored videos"
        + (
            ", which did not choose the thresholds."
            if thresholds_are_held_out(scores)
            else "; some of them may have chosen the thresholds, so expect less."
        ),
        Table("threshold_gains", ("Class", "Positives", "Best threshold", "F1 now", "F1 with it", "Gain"), rows),
    )


def _calibration(scores: Scores) -> Recommendation | None:
    """Classes whose probabilities are wrong beyond doubt.

    With `mean_probability` the number of positives that the model expects is held against the number there is;
    otherwise only over-confidence shows, as a precision certain to be below the threshold: of calibrated predictions
    above a threshold t, at least a fraction t is correct.
    """
    assert scores.summary is not None
    tp, fp, support = (scores.columns[key] for key in ("tp", "fp", "support"))
    expected = scores.columns["mean_probability"] * scores.summary.get("videos", 0)
    threshold = float(scores.info.get("threshold", 0.5))
    if np.isfinite(expected).all():
        # The count of positives is a sum of independent draws: its variance is at most the expected count.
        error = np.abs(support - expected) / np.sqrt(np.maximum(np.maximum(expected, support), 1.0))
        bad = np.flatnonzero(
            (error > 4)
            & (np.maximum(support, expected) >= FEW_POSITIVES)
            & (np.abs(np.log((support + 1) / (expected + 1))) > math.log(1.5))
        )
        if len(bad) == 0:
            return None
        bad = bad[np.argsort(-error[bad], kind="stable")]
        rows = [
            [scores.name(i), int(support[i]), expected[i], (expected[i] + 1) / (support[i] + 1)] for i in bad[:_ROWS]
        ]
        over = int((expected[bad] > support[bad]).sum())
        total = float(np.abs(support - expected).sum())
        return Recommendation(
            "calibration",
            f"Recalibrate {_whom(len(bad), scores)} before probabilities are used as such",
            f"The sum of a class's probabilities should be the number of its positives. For {len(bad):,} it is more "
            f"than 1.5 times too high or too low, far beyond chance ({over:,} too high, {len(bad) - over:,} too low).",
            "Scaling their probabilities on the validation split would take away "
            f"{100 * np.abs(support - expected)[bad].sum() / max(total, 1e-9):.0f} % of the error in expected counts. "
            "The ranking, and so AP, does not change.",
            Table("badly_calibrated", ("Class", "Positives", "Positives expected", "Ratio"), rows),
        )
    _, high = wilson_interval(tp, tp + fp)
    bad = np.flatnonzero((tp + fp >= FEW_POSITIVES) & (high < threshold))
    if len(bad) == 0:
        return None
    wrong = fp[bad].sum()
    bad = bad[np.argsort((tp - threshold * (tp + fp))[bad], kind="stable")]
    rows = [
        [scores.name(i), int(tp[i] + fp[i]), int(tp[i]), tp[i] / (tp[i] + fp[i]), float(high[i])] for i in bad[:_ROWS]
    ]
    return Recommendation(
        "calibration",
        f"Recalibrate {_whom(len(bad), scores)} before probabilities are used as such",
        f"Of calibrated predictions above {threshold:g} at least {100 * threshold:.0f} % are correct. For "
        f"{pluralise(len(bad), 'class', 'classes')} fewer are for certain: over-confident.",
        f"They cause {int(wrong):,} of {int(fp.sum()):,} false positives ({100 * wrong / max(fp.sum(), 1):.0f} %); "
        f"calibrated probabilities would keep at most {int(tp[bad].sum() * (1 - threshold) / threshold):,} of those.",
        Table("badly_calibrated", ("Class", "Predicted", "Right", "Precision", "At most (95 %)"), rows),
    )


def _whom(count: int, scores: Scores) -> str:
    return "the whole model" if count > scores.class_count / 2 else pluralise(count, "class", "classes")


def _labels(scores: Scores) -> Recommendation | None:
    """Predictions near certainty, of classes that are predicted well, that the labels contradict."""
    columns = scores.columns
    rows: list[list[object]] = []
    missing: dict[int, int] = {}
    for example in scores.examples.get("false_alarms", []):
        i = example.class_index
        if (
            example.probability >= _CERTAIN_PROBABILITY
            and columns["precision"][i] >= _RELIABLE_PRECISION
            and columns["support"][i] >= FEW_POSITIVES
        ):
            rows.append(
                [
                    example.video_id,
                    scores.name(i),
                    "label missing?",
                    example.probability,
                    f"precision {columns['precision'][i]:.2f}",
                ]
            )
            missing[i] = missing.get(i, 0) + 1
    spurious = 0
    for example in scores.examples.get("misses", []):
        i = example.class_index
        if (
            example.probability <= _SURPRISING_MISS_PROBABILITY
            and columns["recall"][i] >= _RELIABLE_RECALL
            and columns["support"][i] >= FEW_POSITIVES
        ):
            rows.append(
                [
                    example.video_id,
                    scores.name(i),
                    "label wrong?",
                    example.probability,
                    f"recall {columns['recall'][i]:.2f}",
                ]
            )
            spurious += 1
    if not rows:
        return None
    added = sum(missing.values())
    tp, fp = columns["tp"].sum(), columns["fp"].sum()
    gains = []
    if added:
        gains.append(
            f"precision of the {pluralise(len(missing), 'class', 'classes')} rises by up to "
            f"{added / max(sum(columns['tp'][i] + columns['fp'][i] for i in missing), 1):.3f}, micro precision by "
            f"{added / max(tp + fp, 1):.4f}"
        )
    if spurious:
        gains.append(f"micro recall rises by up to {spurious / max(columns['support'].sum(), 1):.4f}")
    return Recommendation(
        "labels",
        f"Review {pluralise(len(rows), 'label')} that {'is' if len(rows) == 1 else 'are'} probably wrong",
        "The model is all but certain where the label says otherwise, in classes where it is otherwise reliable "
        f"(precision ≥ {_RELIABLE_PRECISION:g} or recall ≥ {_RELIABLE_RECALL:g} over {FEW_POSITIVES} positives and "
        "more). Only the most confident examples kept by the score job are listed; similar ones are likely to exist.",
        "If all of these labels are wrong, " + " and ".join(gains) + ".",
        Table("labels_to_review", ("Video", "Class", "Doubt", "Probability", "Class has"), rows),
    )


def _together(
    scores: Scores, pairs: Sequence[ConfusedPair], cooccurrence: Cooccurrence | None
) -> Recommendation | None:
    """Pairs that are confused, in either direction, and whose labels nearly always occur together."""
    if cooccurrence is None:
        return None
    times: dict[tuple[int, int], int] = {}
    for pair in pairs:
        key = (min(pair.true_index, pair.predicted_index), max(pair.true_index, pair.predicted_index))
        times[key] = times.get(key, 0) + pair.count
    support = scores.columns["support"]
    rows, confused = [], 0
    for (first, second), count in sorted(times.items(), key=lambda item: -item[1]):
        both, either = cooccurrence.pairs.get((first, second)) or cooccurrence.pairs.get((second, first), (0, 0))
        smaller = min(support[first], support[second])
        if smaller < FEW_POSITIVES or count < 3 or both < _TOGETHER * smaller:
            continue
        rows.append([scores.name(first), scores.name(second), count, both, either, float(both / smaller)])
        confused += count
    if not rows:
        return None
    return Recommendation(
        "together",
        f"Settle {pluralise(len(rows), 'pair')} of classes that nearly always occur together",
        f"One is predicted in place of the other, yet at least {100 * _TOGETHER:.0f} % of the videos with the rarer "
        "label carry the other as well. Either the labels of the few exceptions are incomplete, or one class is part "
        "of the other: complete the labels, or predict both together.",
        f"{pluralise(confused, 'confusion')}, {100 * confused / max(sum(times.values()), 1):.0f} % of those among the "
        "most confused pairs; settled, recall over all labels rises by up to "
        f"{confused / max(float(support.sum()), 1.0):.4f}.",
        Table(
            "confused_and_together",
            (
                "Class",
                "Confused with",
                "Times, either direction",
                "Videos with both",
                "Videos with either",
                "Share of the rarer",
            ),
            rows[:_ROWS],
        ),
    )


def _baseline_wins(scores: Scores, against: ClassChanges | None, path: str) -> Recommendation | None:
    """Classes that got worse than the baseline beyond chance."""
    if against is None:
        return None
    worse = np.flatnonzero(against.exceeds & (against.delta < 0))
    if not len(worse):
        return None
    worse = worse[np.argsort(against.delta[worse], kind="stable")]
    gain = float(-against.delta[worse].sum() / max(np.isfinite(scores.columns["ap"]).sum(), 1))
    rows = [
        [
            scores.name(i),
            int(scores.columns["support"][i]),
            scores.columns["ap"][i] - against.delta[i],
            scores.columns["ap"][i],
            against.delta[i],
            float(against.high[i]),
        ]
        for i in worse[:_ROWS]
    ]
    return Recommendation(
        "baseline",
        f"Find out why {pluralise(len(worse), 'class', 'classes')} got worse than in the previous run",
        f"Their average precision fell further than chance explains: of such findings among the "
        f"{against.tested.sum():,} classes compared at most one in twenty is expected to be false. Until it is "
        f"understood, {path} can serve them.",
        f"mAP {signed(gain, 4)} if these classes were scored as well as before.",
        Table("worse_than_baseline", ("Class", "Positives", "AP before", "AP now", "Change", "At most (95 %)"), rows),
    )


def _one_model(scores: Scores) -> Recommendation | None:
    """Serve one model of several alone, when it beats their mean beyond its interval."""
    assert scores.summary is not None
    models = [entry for entry in scores.info.get("models") or [] if isinstance(entry.get("metrics"), Mapping)]
    mean, high = scores.summary.get("gap_at_20"), scores.summary.get("gap_at_20_ci_high")
    if len(models) < 2 or mean is None or high is None:
        return None
    alone = [
        (entry["metrics"].get("gap_at_20") or 0.0, str(entry.get("name") or entry.get("path"))) for entry in models
    ]
    best, name = max(alone)
    if best <= high:
        return None
    rows = [[model, value] for value, model in sorted(alone, reverse=True)]
    return Recommendation(
        "one_model",
        f"Serve the model “{name}” alone",
        f"Its GAP@20 is {best:.3f}; that of the mean of all {len(models)} is {mean:.3f}, at most {high:.3f}.",
        f"GAP@20 {signed(best - mean)}, at a fraction of the cost of serving.",
        Table("models_alone", ("Model", "GAP@20"), [*rows, ["their mean", mean]]),
    )


def _rival_wins(scores: Scores, rival: Rival, number: int) -> Recommendation | None:
    """Classes where another model of the run beats the one reported."""
    ap, support = scores.columns["ap"], scores.columns["support"]
    theirs_low, theirs_high = average_precision_interval(rival.ap, support)
    low, high = class_intervals(scores)
    below, _ = difference_interval(ap, low, high, rival.ap, theirs_low, theirs_high)
    with np.errstate(invalid="ignore"):
        wins = np.flatnonzero(below > 0)
    if not len(wins):
        return None
    delta = rival.ap - ap
    wins = wins[np.argsort(-delta[wins], kind="stable")]
    gain = float(delta[wins].sum() / max(np.isfinite(ap).sum(), 1))
    rows = [[scores.name(i), int(support[i]), ap[i], rival.ap[i], delta[i]] for i in wins[:_ROWS]]
    return Recommendation(
        "rival",
        f"Let the model “{rival.name}” decide {pluralise(len(wins), 'class', 'classes')}",
        "On the same videos it has the higher average precision there, beyond the interval of the difference.",
        f"mAP {signed(gain, 4)}. The classes were chosen on these videos: expect somewhat less on others.",
        Table(f"other_model_wins_{number}", ("Class", "Positives", "AP reported", f"AP {rival.name}", "Gain"), rows),
    )


def _loss_columns(scores: Scores) -> tuple[np.ndarray, np.ndarray] | None:
    history = scores.history
    train = next((history[key] for key in ("loss", "train_loss", "training_loss") if key in history), None)
    validation = next(
        (history[key] for key in ("val_loss", "validation_loss", "validate_loss") if key in history), None
    )
    return (train, validation) if train is not None and validation is not None and len(train) > 1 else None


def validation_score(scores: Scores) -> tuple[str, np.ndarray] | None:
    """The history column that checkpoints were chosen by: validation mAP, or GAP when that is missing."""
    for key, values in scores.history.items():
        words = key.lower().replace("@", "_").split("_")
        if words[0].startswith("val") and words[-1] == "map":
            return key, values
    return next(
        (
            (key, values)
            for key, values in scores.history.items()
            if key.lower().startswith("val") and "gap" in key.lower()
        ),
        None,
    )


def _training_length(scores: Scores) -> Recommendation | None:
    """Train longer, when the score still rose at the end."""
    found = validation_score(scores)
    if found is None or len(found[1]) < 3 or not np.isfinite(found[1]).all():
        return None
    key, values = found
    last = float(values[-1] - values[-2])
    if int(np.argmax(values)) != len(values) - 1 or last < 0.002:
        return None
    earlier = float(values[-2] - values[-3])
    ratio = last / earlier if earlier > 0 else math.nan
    gain = f"The last epoch brought {signed(last, 4)}"
    if 0 < ratio < 0.8:  # nearer to 1 the sum of what is still to come says nothing
        gain += (
            f", the one before {signed(earlier, 4)}; going on at that ratio the sum still to come is "
            f"{signed(last * ratio / (1 - ratio))}"
        )
    rows = [[epoch + 1, float(value)] for epoch, value in enumerate(values)]
    return Recommendation(
        "training",
        "Train for more epochs",
        f"{key} was still rising when training stopped: the last epoch is the best one.",
        gain + ".",
        Table("still_rising", ("Epoch", key), rows[-_ROWS:]),
    )


def _overfitting(scores: Scores) -> Recommendation | None:
    """Regularise, when the validation loss turned up while the training loss went on falling."""
    losses = _loss_columns(scores)
    if losses is None or not np.isfinite(losses[1]).all():
        return None
    train, validation = losses
    best = int(np.argmin(validation))
    if best == len(validation) - 1 or train[-1] >= train[best] or validation[-1] < 1.02 * validation[best]:
        return None
    rows = [[epoch + 1, float(a), float(b)] for epoch, (a, b) in enumerate(zip(train, validation, strict=True))]
    return Recommendation(
        "overfitting",
        "Regularise: dropout, weight decay, or more data",
        f"From epoch {best + 1} on, the validation loss rose from {validation[best]:.4f} to {validation[-1]:.4f} "
        f"while the training loss fell from {train[best]:.4f} to {train[-1]:.4f}.",
        "These figures show only the loss: "
        f"{100 * (1 - validation[best] / validation[-1]):.1f} % of the final validation loss is overfitting.",
        Table("losses", ("Epoch", "Training loss", "Validation loss"), rows[-_ROWS:]),
    )


def _too_few(scores: Scores) -> Recommendation | None:
    """More examples for rare classes, when classes with up to ten times as many do better than chance explains."""
    ap = scores.columns["ap"]
    count, what = frequency(scores)
    measured = np.isfinite(ap)
    if what != "training examples" or not measured.any():
        return None  # the positives scored here are no measure of what the model was trained on
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for _, edge, _ in size_groups(scores):
        few, more = measured & (count < edge), measured & (count >= edge) & (count < 10 * edge)
        if min(few.sum(), more.sum()) < FEW_POSITIVES or ap[few].mean() >= ap[measured].mean():
            continue
        difference = float(ap[more].mean() - ap[few].mean())
        error = math.sqrt(ap[few].var(ddof=1) / few.sum() + ap[more].var(ddof=1) / more.sum())
        if difference > Z95 * error and (best is None or difference > best[0]):
            best = (difference, edge, few, more)
    if best is None:
        return None
    difference, edge, few, more = best
    unmeasured = int(((count < edge) & ~measured).sum())
    rows: list[list[object]] = [
        [span(low, high), int(members.sum()), float(ap[members].mean())] for low, high, members in size_groups(scores)
    ]
    return Recommendation(
        "too_few",
        f"Get more examples of the {pluralise(int(few.sum()), 'class', 'classes')} trained on fewer than {edge:,}",
        f"Their mean average precision is {ap[few].mean():.3f}; that of the {int(more.sum()):,} classes with {edge:,} "
        f"to {10 * edge - 1:,} examples is {ap[more].mean():.3f}, higher beyond chance."
        + (
            f" Another {pluralise(unmeasured, 'class', 'classes')} as rare had no positive among the scored videos."
            if unmeasured
            else ""
        ),
        f"mAP {signed(difference * float(few.sum()) / float(measured.sum()))} if, given as many examples, they did as "
        "well.",
        Table("ap_by_examples_group", ("Training examples", "Classes measured", "Mean AP"), rows),
    )


def _rejected(scores: Scores) -> Recommendation | None:
    """Fix the input, when records were rejected."""
    reasons = scores.info.get("rejected_by_reason") or {}
    read, rejected = scores.info.get("records_read") or 0, sum(reasons.values())
    if not rejected or not read:
        return None
    rows = [[reason, count, count / read] for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    return Recommendation(
        "rejected",
        f"Fix the input: {pluralise(rejected, 'record was', 'records were')} rejected",
        f"The most frequent reason is {rows[0][0]} ({rows[0][1]:,}). The directory dead_letter names each record.",
        f"{100 * rejected / read:.2g} % more videos get a prediction.",
        Table("rejected_in_scoring", ("Reason", "Records", "Share of records read"), rows),
    )


def _measure_more(scores: Scores) -> Recommendation | None:
    """Score more videos, when most classes cannot be judged."""
    assert scores.summary is not None
    support = scores.columns["support"]
    videos = int(scores.summary.get("videos", 0))
    counts, _ = frequency(scores)
    can_learn = counts > 0
    thin = int((can_learn & (support < FEW_POSITIVES)).sum())
    if not videos or thin <= 0.5 * can_learn.sum():
        return None
    rows = []
    for factor in (1, 3, 10):
        judged = int((support * factor >= FEW_POSITIVES).sum())
        rows.append([videos * factor, judged, judged / scores.class_count])
    if rows[2][1] == rows[0][1]:
        return None
    return Recommendation(
        "measure",
        "Score more labelled videos before judging single classes",
        f"{thin:,} of {int(can_learn.sum()):,} classes have fewer than {FEW_POSITIVES} positives among the {videos:,} "
        "scored videos; their figures are mostly chance.",
        f"With ten times the videos {rows[2][1]:,} classes can be judged instead of {rows[0][1]:,}, and those that "
        "only then turn up.",
        Table("videos_needed", ("Videos", "Classes with enough positives", "Share of classes"), rows),
    )
