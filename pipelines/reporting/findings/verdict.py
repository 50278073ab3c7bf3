"""The answer at the top of the page: requirements, baseline, and what to mind in any case."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipelines.reporting.findings.checks import Check, check_held_out, check_pairing, check_thresholds
from pipelines.reporting.findings.comparison import Change, ClassChanges, Estimate, estimate_of
from pipelines.reporting.findings.intervals import FEW_POSITIVES
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.tables import pluralise, signed
from vcls_model.commands import UsageError, unknown_choice
from vcls_model.metrics.catalogue import HEADLINE, METRICS, Metric
from vcls_model.metrics.prior import learned_nothing


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A value that a metric of `METRICS` must reach (or, for an error, must not exceed)."""

    metric: Metric
    limit: float

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Reads `gap_at_20=0.7`.

        Raises:
            UsageError: it is not of that form, or no such metric.
        """
        key, equals, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not equals or not math.isfinite(limit):
            raise UsageError(f"--require takes METRIC=NUMBER like gap_at_20=0.7, got {text!r}")
        known = {metric.key: metric for metric in METRICS}
        if key not in known:
            raise unknown_choice("metric", key, known)
        return cls(known[key], limit)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The answer at the top of the page."""

    state: str
    title: str
    text: str
    checks: list[Check]


def check_requirement(requirement: Requirement, found: Sequence[Estimate]) -> Check:
    """Whether a requirement is met for certain, missed for certain, or neither."""
    estimate = estimate_of(found, requirement.metric.key)
    sign = "≥" if requirement.metric.higher_is_better else "≤"
    title = f"{requirement.metric.title} {sign} {requirement.limit:g}"
    if estimate is None:
        return Check("bad", title, "This run has no such metric.")
    low, high = (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
    worse, better = (low, high) if requirement.metric.higher_is_better else (-high, -low)
    limit = requirement.limit if requirement.metric.higher_is_better else -requirement.limit
    interval = f"{estimate.value:.3f} ({low:.3f} to {high:.3f})" if estimate.has_interval else f"{estimate.value:.3f}"
    if worse >= limit:
        return Check("good", title, f"Met: {interval}.")
    if better < limit:
        return Check("bad", title, f"Not met: {interval}.")
    return Check(
        "attention", title, f"Undecided: the interval {interval} contains the requirement. More videos would decide."
    )


def decide(
    scores: Scores,
    found: Sequence[Estimate],
    against: Sequence[Change] | None,
    by_class: ClassChanges | None,
    requirements: Sequence[Requirement],
    *,
    pairing: Pairing | None = None,
) -> Verdict:
    """The answer to "does it ship", from requirements and baseline where there are any, and what to check in any case.

    Args:
        scores: this run.
        found: its headline metrics.
        against: their changes against a baseline, if there is one.
        by_class: changes by class, if there is one.
        requirements: what the metrics must reach.
        pairing: what this run and the baseline have in common, if there is one.
    """
    checks = [check_requirement(requirement, found) for requirement in requirements]
    lead = next((entry for metric in HEADLINE if (entry := estimate_of(found, metric.key))), None)
    if lead is None:
        headline, text = "No metric could be computed", "The scored videos carry too few labels."
    else:
        headline = f"{lead.metric.title} {lead.value:.3f}"
        headline += f" ({lead.low:.3f} to {lead.high:.3f})" if lead.has_interval else ""
        text = (
            "No requirement (--require) and no previous run (--baseline) was given, so there is nothing to pass or "
            "fail: the figures below say what the model can do."
        )
    states, titles, texts = [], [], []
    if checks:
        outcomes = {check.state for check in checks}
        states.append("bad" if "bad" in outcomes else "attention" if "attention" in outcomes else "good")
        titles.append(
            {
                "good": "Every requirement is met",
                "bad": "A requirement is not met",
                "attention": "A requirement is undecided",
            }[states[0]]
        )
        met = sum(check.state == "good" for check in checks)
        texts.append(f"{met} of {pluralise(len(checks), 'requirement')} met for certain; {headline}.")
    if against:
        change = next((entry for entry in against if lead and entry.now.metric == lead.metric), against[0])
        states.append("attention" if not change.exceeds else "good" if change.improves else "bad")
        titles.append(
            {
                "good": "better than the baseline, beyond chance",
                "bad": "worse than the baseline, beyond chance",
                "attention": "no change against the baseline beyond chance",
            }[states[-1]]
        )
        texts.append(_change_in_words(change, by_class))
    if titles:
        title = ", and ".join(titles)
        headline, text = title[0].upper() + title[1:], " ".join(texts)
    state = next((state for state in ("bad", "attention", "good") if state in states), "note")
    if pairing is not None:
        checks.append(check_pairing(pairing))
    return Verdict(state, headline, text, checks + _standing_checks(scores))


def _change_in_words(change: Change, by_class: ClassChanges | None) -> str:
    text = (
        f"{change.now.metric.title} {change.before.value:.3f} → {change.now.value:.3f} ({signed(change.delta)}); 95 % "
        f"interval of the difference {signed(change.low)} to {signed(change.high)}."
    )
    if by_class is None:
        return text
    up, down = (int((by_class.exceeds & (by_class.delta * sign > 0)).sum()) for sign in (1, -1))
    return (
        f"{text} By class: {up:,} better and {down:,} worse beyond chance, of {int(by_class.tested.sum()):,} compared."
    )


def _standing_checks(scores: Scores) -> list[Check]:
    info, support = scores.info, scores.columns["support"]
    checks = [check_held_out(scores), *check_thresholds(scores)]
    if scores.segments is not None:
        checks.append(
            Check(
                "note",
                "Segments",
                f"These records are segments; raters judged {scores.segments.summary['rated_pairs']:,} pairs of "
                "segment and class. Judge by MAP@K over those pairs: every other figure counts a class that nobody "
                "was asked about as absent, and is too low.",
            )
        )
    enough, measured = int((support >= FEW_POSITIVES).sum()), int((support > 0).sum())
    share = support[support >= FEW_POSITIVES].sum() / max(support.sum(), 1)
    checks.append(
        Check(
            "good" if share >= 0.9 else "attention",
            "Evidence",
            f"{measured:,} of {scores.class_count:,} classes have a positive among the scored videos; {enough:,} have "
            f"at least {FEW_POSITIVES} and hold {100 * share:.0f} % of the labels. "
            + ("" if enough == scores.class_count else "This run says little about the others."),
        )
    )
    known = scores.train_count if np.isfinite(scores.train_count).all() else None
    if scores.summary is not None and (hint := learned_nothing(scores.summary, support, known)):
        checks.append(Check("bad", "Learned nothing", f"{hint}."))
    read, rejected = info.get("records_read"), info.get("records_rejected", 0)
    if read:
        checks.append(
            Check(
                "good" if not rejected else "attention",
                "Input",
                (
                    f"All {read:,} records could be read."
                    if not rejected
                    else f"{rejected:,} of {read:,} records ({100 * rejected / read:.2g} %) were rejected, see below."
                ),
            )
        )
    return checks
