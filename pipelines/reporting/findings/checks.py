"""What to mind about a run whatever its figures are: which videos it scored, who chose its thresholds, its baseline."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.reporting.findings.intervals import mcnemar
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.tables import pluralise, probability
from vcls_model.records.splits import NO_SPLIT


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the verdict: `state` is "good", "attention", "bad" or "note"."""

    state: str
    title: str
    text: str


def check_held_out(scores: Scores) -> Check:
    """Whether the model has seen the scored videos: by what the score job counted, else by the split it was given."""
    counts, listed = scores.info.get("records_by_split"), _splits_are_listed(scores)
    if not counts:
        return _held_out_by_name(_split_name(scores.info.get("split")))
    total, trained, validated = sum(counts.values()), counts.get("train", 0), counts.get("validate", 0)
    if trained and (listed or scores.info.get("split") == "train"):
        return Check(
            "attention",
            "Held out",
            f"{trained:,} of {pluralise(total, 'scored video')} are in the training split of the model's data: the "
            "figures are optimistic. --split=test scores only the held-out ones.",
        )
    if trained:
        return Check(
            "attention",
            "Held out",
            f"{trained:,} of {pluralise(total, 'scored video')} belong to the training split by their id. Where the "
            "model was trained on them, the figures are optimistic; --split=test scores only the held-out ones.",
        )
    if validated:
        return Check(
            "attention",
            "Held out",
            f"{validated:,} of {pluralise(total, 'scored video')} are in the validation split, which chose the epoch "
            "and the thresholds: slightly optimistic figures.",
        )
    where = "are in the test split of the model's data"
    if counts.get(NO_SPLIT):
        where = f"{where} ({counts.get('test', 0):,}) or not in them at all ({counts[NO_SPLIT]:,})"
    return Check("good", "Held out", f"The model has seen none of the {pluralise(total, 'scored video')}: all {where}.")


def _held_out_by_name(split: str | None) -> Check:
    texts = {
        "test": "Only videos of the test split were scored.",
        "validate": "Scored on the validation split, which chose the thresholds: slightly optimistic figures.",
        "train": "The training split was scored: the figures are optimistic.",
    }
    every = (
        "Every video of the input was scored. If the model was trained on some of them, the figures are optimistic; "
        "--split=test scores only the held-out ones."
    )
    return Check("good" if split == "test" else "attention", "Held out", texts.get(split or "", every))


def _split_name(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("split")
    return value if isinstance(value, str) else None


def _splits_are_listed(scores: Scores) -> bool:
    """Whether the splits of the models' data are known id by id, rather than by a hash that holds for any id."""
    models = [entry for entry in scores.info.get("models") or [] if isinstance(entry, Mapping)]
    return any(((entry.get("info") or {}).get("split") or {}).get("method") == "given" for entry in models)


def thresholds_text(scores: Scores) -> str:
    """Which videos chose the per-class thresholds, as one sentence."""
    source = scores.info.get("thresholds")
    if not isinstance(source, Mapping):
        origin = scores.info.get("thresholds_from")
        if origin:
            return f"The per-class thresholds are those of {origin}; on which videos they were chosen is not recorded."
        return "The per-class thresholds are the model's own, which training chooses on the validation split."
    if source.get("optimistic"):
        return (
            f"The per-class thresholds were chosen on videos that are scored here ({source['path']}): "
            "every figure at them is too good."
        )
    if source.get("path") is None:
        return "The per-class thresholds are the model's own, which give the best F1 on the validation split."
    whose = f"on the {_SPLIT_WORDS[source['split']]} split" if source.get("split") in _SPLIT_WORDS else "on all videos"
    videos = f", {source['videos']:,} labelled videos" if isinstance(source.get("videos"), int) else ""
    return f"The per-class thresholds were chosen {whose} of another run ({source['path']}{videos})."


_SPLIT_WORDS = {"validate": "validation", "test": "test"}


def thresholds_are_held_out(scores: Scores) -> bool:
    """Whether it is known that no scored video took part in choosing the per-class thresholds."""
    source, counts = scores.info.get("thresholds"), scores.info.get("records_by_split") or {}
    if not isinstance(source, Mapping):
        return scores.info.get("split") == "test" and not scores.info.get("thresholds_from")
    if source.get("path") is not None:
        return not source.get("optimistic")
    return scores.info.get("split") == "test" or (bool(counts) and not counts.get("validate"))


def check_thresholds(scores: Scores) -> list[Check]:
    """A warning where the scored videos chose the thresholds that they are judged by."""
    source = scores.info.get("thresholds")
    if not isinstance(source, Mapping) or not source.get("optimistic"):
        return []
    return [Check("attention", "Thresholds", thresholds_text(scores))]


def _equals(p: float) -> str:
    """`= 0.0312`, or `< 0.0001`."""
    text = probability(p)
    return text if text.startswith("<") else f"= {text}"


def check_pairing(pairing: Pairing) -> Check:
    """How the baseline was compared: video by video, or as a run of its own."""
    if pairing.same_videos:
        text = (
            f"Both runs scored the same {pluralise(pairing.shared, 'video')}, paired by id. The best class of "
            f"{pluralise(pairing.lost, 'video')} was right in the baseline alone, that of {pairing.won:,} in this run "
            f"alone (McNemar's exact test: p {_equals(mcnemar(pairing.lost, pairing.won))})."
        )
        if pairing.shift is None:
            text += f" All other changes are compared as if the videos differed: {pairing.obstacle}."
        return Check("good" if pairing.shift is not None else "attention", "Comparison", text)
    if pairing.obstacle:
        return Check(
            "attention",
            "Comparison",
            f"The two runs were compared as if their videos differed, because they cannot be paired by id: "
            f"{pairing.obstacle}. A change between them may be real although it is called within chance.",
        )
    if not pairing.shared:
        text = (
            f"The baseline was measured on other videos: none of its {pairing.before:,} is among the {pairing.now:,} "
            "of this run. Part of the change may come from the videos."
        )
    elif pairing.shared == pairing.now == pairing.before:
        text = (
            f"The baseline has other labels for {pluralise(pairing.relabelled, 'video')} of {pairing.shared:,}: part "
            "of the change may come from the labels. The runs were compared as if their videos differed."
        )
    else:
        text = (
            f"The baseline was measured on other videos: {pairing.shared:,} of its {pairing.before:,} are among the "
            f"{pairing.now:,} of this run, so part of the change may come from the videos. Of those in both, the best "
            f"class of {pairing.lost:,} was right in the baseline alone, that of {pairing.won:,} in this run alone."
        )
    return Check("attention", "Comparison", text)
