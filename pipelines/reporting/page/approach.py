"""How a run came about, read from its manifests: data, preprocessing, algorithm, training, scoring."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.reporting.inputs.scores import Scores
from pipelines.reporting.tables import Table
from vcls_model import storage

Facts = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Manifests:
    """The `info.json` of the model and of the transformed dataset, as far as they are known; {} when not."""

    model: dict[str, Any]
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step from records to predictions, as (label, text) pairs."""

    title: str
    facts: Facts


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A manifest as (dotted key, text) pairs; long lists are cut, nested objects opened."""
    found: list[tuple[str, str]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            found += flatten(entry, f"{prefix}{key}.")
        elif isinstance(entry, list) and len(storage.to_json(entry)) > 300:
            found.append((f"{prefix}{key}", f"{len(entry):,} entries"))
        elif entry is not None and entry != "":
            found.append((f"{prefix}{key}", _text(entry)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(entry, (str, int, float)) for entry in value):
        return ", ".join(_text(entry) for entry in value)
    return storage.to_json(value, ensure_ascii=False)


def _pick(source: Mapping[str, Any], named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(label, text) of those dotted keys that the manifest has."""
    found = []
    for key, label in named:
        value: Any = source
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value not in (None, "", [], {}):
            found.append(
                (
                    label,
                    _text(value)
                    if not isinstance(value, Mapping)
                    else ", ".join(f"{name} {_text(entry)}" for name, entry in value.items()),
                )
            )
    return found


def _seconds(value: Any) -> str:
    seconds = float(value)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _features(entries: Any) -> Facts:
    """(name, "1,024 values per video, float32") of each feature that a manifest lists."""
    return [
        (str(entry.get("name", "?")), _content(entry))
        for entry in entries or []
        if isinstance(entry, Mapping) and entry.get("width")
    ]


def _content(entry: Mapping[str, Any]) -> str:
    if entry.get("kind") == "text":
        return "text" if entry["width"] == 1 else f"words and n-grams of text in {entry['width']:,} buckets"
    return f"{entry['width']:,} values per {_unit(entry)}, {entry.get('encoding', 'float32')}"


def _unit(entry: Mapping[str, Any]) -> str:
    """What one row of a modality describes: older manifests say so as `level`, newer ones as `kind` too."""
    return "frame" if entry.get("kind") == "frames" else str(entry.get("level", "video"))


def _section(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}


def steps(scores: Scores, manifests: Manifests) -> list[Step]:
    """The steps from records to predictions, every fact of them read from the manifests of this run."""
    found = [
        Step("Data", _records(scores, manifests)),
        Step("Preprocessing and features", _preprocessing(manifests)),
        Step("Algorithm", _algorithm(scores, manifests)),
        Step("Training", _training(manifests)),
        Step("Scoring", _scoring(scores)),
    ]
    return [step for step in found if step.facts]


def _records(scores: Scores, manifests: Manifests) -> Facts:
    schema = (
        _section(manifests.model, "schema") or _section(scores.info, "schema") or _section(manifests.data, "schema")
    )
    facts = _pick(schema, (("name", "Record schema"), ("container", "Container")))
    return [*facts, *_features(schema.get("modalities")), ("Classes", f"{scores.class_count:,}")]


def _preprocessing(manifests: Manifests) -> Facts:
    data, model = manifests.data, manifests.model
    split = _section(data, "split") or _section(model, "split")
    facts: Facts = []
    if split.get("method"):
        method = {"hash": "by a hash of the video id", "given": "as given by the input"}
        facts.append(("Split", method.get(split["method"], str(split["method"]))))
    facts += _pick(split, (("ratios", "Train, validate, test"),))
    config = _section(data, "config")
    if config.get("normalise"):
        records = _section(_section(data, "splits"), "train").get("records")
        fitted = f", fitted on the {records:,} training records" if records else ", fitted on the training split"
        normalise = {"zscore": "z-scores", "none": "none"}.get(config["normalise"], str(config["normalise"]))
        facts.append(("Normalisation", normalise + ("" if normalise == "none" else fitted)))
    if config.get("pca_dims"):
        facts.append(("Principal components", _text(config["pca_dims"])))
    facts += _pick(
        config,
        (
            ("train_input", "Train input"),
            ("validate_input", "Validate input"),
            ("test_input", "Test input"),
        ),
    )
    if _section(data, "notes").get("modality_filled"):
        facts.append(("Missing modalities", f"filled with 0 in {data['notes']['modality_filled']:,} records"))
    return [*facts, *_features(data.get("transformed") or model.get("transformed"))]


def _algorithm(scores: Scores, manifests: Manifests) -> Facts:
    facts = _pick(manifests.model, (("model.name", "Model"), ("model.parameter_count", "Parameters")))
    models = scores.info.get("models") or []
    if len(models) > 1:
        facts.insert(0, ("Shown", f"the first of {len(models)} models"))
    modalities = len(manifests.model.get("transformed") or _section(manifests.model, "schema").get("modalities") or ())
    values = _section(_section(manifests.model, "model"), "hyperparameters")
    effective = {key: value for key, value in values.items() if _shapes_the_model(key, values, modalities)}
    return facts + [(key.replace("_", " "), value) for key, value in flatten(effective)]


def _shapes_the_model(key: str, values: Mapping[str, Any], modalities: int) -> bool:
    """Whether the model would be another one without this hyperparameter."""
    value = values[key]
    if value in (0, False, "none", "data", [], None):  # what it governs is left out
        return False
    if key == "neighbour_weight":
        return bool(values.get("neighbours"))
    if key == "fusion":
        return modalities != 1
    if key in ("link_units", "support_weight"):
        return values.get("stages") != 1
    if key == "inner_units":
        return bool(values.get("blocks"))
    return not (key == "mixtures" and value == 1)  # a linear classifier


def _training(manifests: Manifests) -> Facts:
    training = _section(manifests.model, "training")
    options = _section(training, "options")
    averaged = training.get("averaged_epochs")
    facts = [
        *_loss(_section(options, "loss")),
        *_optimization(options),
        *_pick(options, (("read.batch_size", "Batch size"), ("mixup", "Mixup"), ("ema", "Moving average, decay"))),
        *_pick(training, (("init_from", "Pretrained model"), ("freeze", "Frozen"), ("teachers", "Teachers"))),
    ]
    if training.get("teachers"):
        facts += _pick(options, (("teacher_weight", "Weight of the teachers"),))
    if training.get("class_prior") and (training.get("new_head") or not training.get("init_from")):
        facts.append(("Initial bias", "from the class frequencies"))
    facts += _pick(options, (("patience", "Patience, epochs"),))
    facts += _pick(training, (("epochs", "Epochs"),))
    if averaged:
        facts.append(("Weights", f"mean of epochs {', '.join(map(str, averaged))}"))
    else:
        facts += _pick(training, (("best_epoch", "Best epoch"),))
    facts += _pick(
        training,
        (
            ("examples", "Examples seen"),
            ("validation.map", "Validation mAP"),
            ("validation.gap_at_20", "Validation GAP@20"),
            ("seed", "Seed"),
        ),
    )
    if training.get("wall_seconds") is not None:
        facts.append(("Time", _seconds(training["wall_seconds"])))
    # What is 0 is left out of the run; a seed of 0 is one like any other.
    return [(label, text) for label, text in facts if text != "0" or label == "Seed"]


_LOSS_NUMBERS = {
    "focal": (("gamma", "Focusing exponent"), ("alpha", "Weight of positives")),
    "asymmetric": (
        ("gamma", "Focusing exponent, positives"),
        ("gamma_negative", "Focusing exponent, negatives"),
        ("margin", "Ignored negatives, probability below"),
    ),
}


def _loss(loss: Mapping[str, Any]) -> Facts:
    """The loss and those of its numbers that it uses."""
    numbers = _LOSS_NUMBERS.get(str(loss.get("name")), ())
    return _pick(loss, (("name", "Loss"), *numbers, ("label_smoothing", "Label smoothing")))


def _optimization(options: Mapping[str, Any]) -> Facts:
    """Optimizer and learning rate, with what the two use: only AdamW has a weight decay, a schedule only its own."""
    schedule = _section(options, "schedule")
    facts = _pick(options, (("optimizer", "Optimizer"),))
    if options.get("optimizer") == "adamw":
        facts += _pick(options, (("weight_decay", "Weight decay"),))
    facts += _pick(options, (("clip_norm", "Largest gradient norm"),))
    facts += _pick(schedule, (("learning_rate", "Learning rate"), ("warmup_examples", "Warm-up, examples")))
    if schedule.get("decay") == "cosine":
        facts += _pick(schedule, (("decay", "Decay"), ("floor", "Final fraction of the rate")))
    elif schedule.get("decay") == "exponential":
        every = (("decay", "Decay"), ("decay_rate", "Decay factor"), ("decay_examples", "Examples per factor"))
        facts += _pick(schedule, every)
    return facts


def _scoring(scores: Scores) -> Facts:
    facts = _pick(
        scores.info,
        (
            ("split", "Split scored"),
            ("threshold", "Threshold"),
            ("thresholds_from", "Per-class thresholds from"),
            ("top_k", "Classes kept per video"),
        ),
    )
    models = [entry for entry in scores.info.get("models") or [] if isinstance(entry, Mapping)]
    if len(models) > 1:
        facts.append(("Models averaged", str(len(models))))
    facts += [("Model directory", str(entry["path"])) for entry in models if entry.get("path")]
    if scores.info.get("wall_seconds") is not None:
        facts.append(("Time", _seconds(scores.info["wall_seconds"])))
    return facts


def split_table(manifests: Manifests) -> Table:
    """Records, shards, labels and classes of each split of the transformed dataset, as far as its manifest says."""
    counts = _section(_section(manifests.data, "statistics"), "class_counts")
    rows: list[list[Any]] = []
    for name, entry in _section(manifests.data, "splits").items():
        by_class = counts.get(name) or []
        records = entry.get("records")
        rows.append(
            [
                name,
                records,
                entry.get("shards"),
                sum(by_class) / records if by_class and records else None,
                sum(count > 0 for count in by_class) if by_class else None,
            ]
        )
    return Table("splits", ("Split", "Records", "Shards", "Labels per record", "Classes with a label"), rows)


def data_facts(manifests: Manifests) -> Facts:
    """What else the manifest of the transformed dataset says."""
    return _pick(
        manifests.data,
        (
            ("records_read", "Records read"),
            ("records_written", "Records written"),
            ("records_rejected", "Records rejected"),
            ("config.input", "Input"),
            ("path", "Directory"),
            ("config_hash", "Settings, hash"),
            ("versions", "Versions"),
        ),
    )
