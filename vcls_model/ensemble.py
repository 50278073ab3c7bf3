"""Joins exported models into one that averages them, itself an exported model.

    python -m vcls_model.ensemble --model=DIR --model=DIR --output=DIR --data=DIR

Every member keeps its own transform graph, so that members may have been trained on differently transformed copies of
the same records.
"""

import argparse
import dataclasses
import math
import platform
from collections.abc import Sequence
from typing import Any

from vcls_model.commands import Parser, UsageError, main, parse_all, unknown_choice
from vcls_model.metrics.catalogue import describe
from vcls_model.records.schema import VECTOR
from vcls_model.records.transformed import TransformedModality, modality_from_dict
from vcls_model.serving.combining import COMBINATIONS


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble.

    Attributes:
        models: directories of exported models.
        output: directory of the ensemble.
        data: transformed dataset on whose validation split the thresholds are chosen; empty leaves them out.
        combine: what is averaged: `probability` or `logit`.
        weights: one a member, positive; they are scaled to add to 1.
        overwrite: replace what the output directory holds.
    """

    models: tuple[str, ...]
    output: str
    data: str = ""
    combine: str = "probability"
    weights: tuple[float, ...] = ()
    overwrite: bool = False


def parse_config(argv: Sequence[str] | None) -> EnsembleConfig:
    """Reads a command line.

    Raises:
        UsageError: fewer than two members, or weights that do not fit them.
    """
    parser = Parser(
        prog="python -m vcls_model.ensemble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", default=[], help="an exported model; give two or more")
    parser.add_argument("--output", required=True, help="directory for the ensemble")
    parser.add_argument("--data", default="", help="transformed dataset: thresholds are chosen on its validation split")
    parser.add_argument("--combine", default="probability", help=f"one of {', '.join(COMBINATIONS)}")
    parser.add_argument("--weights", default="", help="one a member, e.g. 2,1,1 (default equal)")
    parser.add_argument("--overwrite", action="store_true", help="replace what the output directory holds")
    args = parse_all(parser, argv)
    if len(args.model) < 2:
        raise UsageError("an ensemble joins two models or more: repeat --model")
    if args.combine not in COMBINATIONS:
        raise unknown_choice("combination", args.combine, COMBINATIONS)
    try:
        weights = tuple(float(part) for part in args.weights.split(",")) if args.weights else (1.0,) * len(args.model)
    except ValueError:
        raise UsageError(f"--weights must be numbers like 2,1,1, got {args.weights!r}") from None
    if len(weights) != len(args.model) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise UsageError(f"--weights must be {len(args.model)} positive numbers, got {args.weights!r}")
    total = sum(weights)
    return EnsembleConfig(
        tuple(args.model),
        args.output,
        args.data,
        args.combine,
        tuple(weight / total for weight in weights),
        args.overwrite,
    )


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Writes the ensemble; returns the content of its `info.json`.

    Raises:
        UsageError: the members' records, classes or splits differ.
        UsageError: a member is not an exported model.
    """
    config = parse_config(argv)
    from vcls_model.quiet import quiet_start_up, start_tensorflow

    start_tensorflow()
    with quiet_start_up():
        import keras
        import numpy as np
        import tensorflow as tf

    from vcls_model import storage
    from vcls_model.input.dataset import decode_features
    from vcls_model.metrics.result import best_thresholds, compute_result
    from vcls_model.records.transformed import open_transformed
    from vcls_model.records.vocabulary import read_vocabulary, write_labels_csv
    from vcls_model.serving.combining import combined_in_graph
    from vcls_model.serving.export import save_module
    from vcls_model.serving.exported import load_saved_model, read_model_info
    from vcls_model.training.evaluation import evaluate
    from vcls_model.training.losses import sparse_loss
    from vcls_model.training.options import LossOptions
    from vcls_model.training.starting_points import class_names

    infos = [read_model_info(path, ("schema", "class_count", "model", "transformed")) for path in config.models]
    first = infos[0]
    for path, info in zip(config.models[1:], infos[1:], strict=True):
        for key in ("schema", "class_count", "split"):
            if info.get(key) != first.get(key):
                raise UsageError(
                    f"{path} and {config.models[0]} cannot be joined: their {key} differs "
                    f"({info.get(key)} and {first.get(key)})"
                )
    storage.check_output(config.output, resume=False, overwrite=config.overwrite, inputs=[*config.models, config.data])
    names = [class_names(path, first["class_count"]) for path in config.models]
    for path, theirs in zip(config.models[1:], names[1:], strict=True):
        if theirs != names[0]:
            raise UsageError(f"{path} and {config.models[0]} cannot be joined: their labels.csv name other classes")
    data = open_transformed(config.data) if config.data else None
    members = [load_saved_model(path) for path in config.models]
    # Ensembles of differently transformed members have no such signature, and so no transformed features in common.
    same_features = (
        all("transformed" in member.signatures for member in members)
        and len({str((_modalities(info), info["data"].get("config_hash"), _frames_seen(info))) for info in infos}) == 1
    )
    if data and (not same_features or first["data"].get("config_hash") != data.info.get("config_hash")):
        raise UsageError(
            f"--data={config.data} is not the transformed dataset that every member was trained on, with "
            "the same frames of its videos"
        )
    if config.overwrite:
        storage.delete(config.output)
    module = tf.Module()
    module.members = members

    def joined(name: str) -> Any:
        functions = [member.signatures[name if name in member.signatures else "transformed"] for member in members]
        specs = functions[0].structured_input_signature[1]

        def call(**inputs: Any) -> dict[str, Any]:
            outputs = [function(**inputs)["logits"] for function in functions]
            return {"logits": combined_in_graph(outputs, config.weights, config.combine)}

        return tf.function(call).get_concrete_function(
            **{key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in specs.items()}
        )

    wanted = ["serving_default", "features"]
    if same_features:
        wanted.append("transformed")
        if any("teaching" in member.signatures for member in members):
            wanted.append("teaching")
    signatures = {name: joined(name) for name in wanted}
    save_module(module, signatures, config.output)

    labels = storage.join(config.models[0], "labels.csv")
    classes = read_vocabulary(storage.read_text(labels), labels, first["class_count"])
    classes = [dataclasses.replace(entry, best_threshold=None) for entry in classes]
    thresholds, validation = None, {}
    if data:
        frames, max_frames = _frames_seen(first)
        modalities = _modalities(first)
        transformed = signatures["transformed"]

        @tf.function(reduce_retracing=True)
        def predict(batch: dict[str, Any]) -> tuple[Any, Any]:
            logits = transformed(**decode_features(batch["features"], modalities))["logits"]
            return logits, sparse_loss(logits, batch["labels"], LossOptions())

        accumulator, loss = evaluate(
            predict,
            data,
            modalities,
            frames=frames,
            max_frames=max_frames,
            batch_size=512 if all(modality.kind == VECTOR for modality in modalities) else 64,
        )
        if accumulator.videos:
            thresholds = np.asarray(best_thresholds(accumulator), float).tolist()
            summary = compute_result(accumulator).summary
            numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
            validation = {"loss": loss, **numbers}
    storage.write_text(storage.join(config.output, "labels.csv"), write_labels_csv(classes, thresholds))
    info = {
        "schema": first["schema"],
        "split": first["split"],
        "class_count": first["class_count"],
        "transformed": first["transformed"],
        "model": {
            "name": "ensemble",
            "hyperparameters": {"combine": config.combine, "weights": list(config.weights)},
            "parameter_count": sum(info["model"]["parameter_count"] for info in infos),
            "members": [
                {"path": path, "model": info["model"], "training": info["training"]}
                for path, info in zip(config.models, infos, strict=True)
            ],
        },
        "training": {
            "examples": sum(info["training"]["examples"] for info in infos),
            "epochs": None,
            "best_epoch": None,
            "validation": validation,
            "wall_seconds": sum(info["training"]["wall_seconds"] for info in infos),
            "seed": None,
            "options": {"read": _read_options(infos)},
        },
        "data": first["data"] if same_features else {},
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
    storage.write_json(storage.join(config.output, "info.json"), info)
    print(f"{len(members)} models joined in {config.output}; validation {describe(validation) or 'not asked for'}")
    return info


def _modalities(info: Any) -> tuple[TransformedModality, ...]:
    """The transformed features that a member takes."""
    return tuple(modality_from_dict(entry) for entry in info["transformed"])


def _frames_seen(info: Any) -> tuple[str, int]:
    """Which frames of a video a member's serving sees, and how many at most; alike for video-level members."""
    from vcls_model.training.options import ReadOptions

    if all(modality_from_dict(entry).kind == VECTOR for entry in info["transformed"]):
        return "all", 1
    read = info["training"]["options"]["read"]
    options = ReadOptions(1, read.get("frames", "all"), int(read["max_frames"]))
    return options.evaluation_frames(), options.max_frames


def _read_options(infos: Sequence[Any]) -> dict[str, Any]:
    """What `_frames_seen` reads of an ensemble: its members' frames, or the longest of them where they differ."""
    seen = [_frames_seen(info) for info in infos]
    frames = seen[0][0] if len(set(seen)) == 1 else "all"
    return {"frames": frames, "max_frames": max(most for _, most in seen)}


if __name__ == "__main__":
    main(run)
