"""Checkpoints: arrays and a few facts in one file, which is written whole or not at all."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model import storage, tables
from vcls_model.commands import JobError, UsageError
from vcls_model.records.identity import differences
from vcls_model.records.transformed import TransformedData
from vcls_model.states import CheckpointFacts, checked
from vcls_model.training.config import changed_options


def save(path: str, arrays: dict[str, Sequence[Any]], facts: dict[str, Any]) -> None:
    """Writes groups of variables and JSON-able facts.

    Args:
        path: the file; an older one is replaced in one step.
        arrays: for each group (`model`, `optimizer`, …) its variables, in order.
        facts: the progress of the run.
    """
    flat = {
        f"{group}/{number:05d}": np.asarray(value)
        for group, values in arrays.items()
        for number, value in enumerate(values)
    }
    # numpy's format does not know bfloat16; float32 holds each of its values.
    flat = {name: value.astype(np.float32) if value.dtype.name == "bfloat16" else value for name, value in flat.items()}
    stream = io.BytesIO()
    np.savez(stream, facts=np.frombuffer(storage.to_json(facts).encode(), np.uint8), **flat)  # type: ignore[arg-type]
    storage.write_atomically(path, stream.getvalue())


def load(path: str) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
        JobError: the file is not a checkpoint.
    """
    arrays = tables.read_npz(path)
    if "facts" not in arrays:
        raise JobError(f"{path} is not a checkpoint of this program: it has no facts")
    facts: dict[str, Any] = storage.from_json(arrays.pop("facts").tobytes(), path)
    groups: dict[str, list[np.ndarray]] = {}
    for name in sorted(arrays):
        groups.setdefault(name.split("/", 1)[0], []).append(arrays[name])
    return groups, facts


def restore(variables: Sequence[Any], values: Sequence[np.ndarray], path: str) -> None:
    """Assigns a checkpoint's group to variables, in order.

    Raises:
        JobError: the number of variables or a shape differs: the checkpoint is of another model.
    """
    if len(variables) != len(values):
        raise JobError(
            f"{path} holds {len(values)} variables where this model has {len(variables)}: "
            "it belongs to another model or other options"
        )
    for variable, value in zip(variables, values, strict=True):
        if tuple(variable.shape) != value.shape:
            raise JobError(f"{path}: {variable.name} has shape {value.shape} there and {tuple(variable.shape)} here")
        variable.assign(value)


def last_checkpoint(output: str) -> str:
    """The path of the checkpoint from which a run in `output` would continue."""
    return storage.join(output, "checkpoints", "last.npz")


def bears_missing(output: str) -> bool:
    """Whether the model of the checkpoint to continue from, if there is one, takes the presence of its modalities.

    Those of before took every modality for granted, and had other variables where neighbours vote.
    """
    path = last_checkpoint(output)
    return not storage.exists(path) or bool(load(path)[1].get("presence"))


def what_differs(facts: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the settings of a checkpoint and those of `now` differ in, in brackets; "" where 0.1 wrote it."""
    changed = changed_options(facts["settings"], now) if facts.get("settings") else ""
    return f" ({changed})" if changed else ""


def check_same_data(what: str, identity: Mapping[str, str], data: TransformedData) -> None:
    """Raises `UsageError` when a run would continue on other data than those of `identity`; `what` was trained on."""
    if differing := differences(identity, data.identity):
        raise UsageError(
            f"--resume: {what} was trained on other data than {data.directory} holds now: {differing} differ; "
            "name the earlier --data, or start again with --overwrite"
        )


class Checkpoints:
    """The checkpoints of a run.

    Args:
        output: directory of the model.
        config_hash: of the options that decide the result; a checkpoint with another one is refused.
        data: the dataset; a checkpoint of a run on another one is refused.
        groups: what `last` holds: the variables of `model`, `optimizer` and perhaps `average`.
        presence: the model takes the presence of its modalities.
        settings: what `config_hash` is a hash of, to say what differs.
    """

    def __init__(
        self,
        output: str,
        config_hash: str,
        data: TransformedData,
        groups: dict[str, Sequence[Any]],
        presence: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._presence = presence
        self._settings = storage.from_json(storage.to_json(settings or {}, default=str), "")
        self._directory = storage.join(output, "checkpoints")
        self._config_hash = config_hash
        self._data = data
        self._groups = groups
        self.last = last_checkpoint(output)

    def _path(self, name: str) -> str:
        return storage.join(self._directory, name)

    def _epoch_path(self, number: int) -> str:
        return self._path(f"epoch-{number:03d}.npz")

    def has_last(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return storage.exists(self.last)

    def save_last(self, progress: dict[str, Any]) -> None:
        """Writes all that a run continues from."""
        facts = {
            "progress": progress,
            "config_hash": self._config_hash,
            "data": self._data.identity,
            "presence": self._presence,
            "settings": self._settings,
        }
        save(self.last, self._groups, facts)

    def restore_last(self) -> dict[str, Any]:
        """Assigns the newest checkpoint to the variables; returns the progress saved with it.

        Raises:
            UsageError: the checkpoint is of a run with other options or on other data.
            JobError: it is of another model, or not a checkpoint.
        """
        arrays, stored = load(self.last)
        facts = checked(stored, self.last, CheckpointFacts)
        if facts["config_hash"] != self._config_hash:
            raise UsageError(
                f"--resume: {self.last} was written with other options or other data than this command's"
                f"{what_differs(facts, self._settings)}; repeat its flags, or start again with --overwrite"
            )
        check_same_data(self.last, facts.get("data", {}), self._data)
        for group, variables in self._groups.items():
            restore(variables, arrays[group], self.last)
        return facts["progress"]

    def save_best(self, epoch: int) -> None:
        """Keeps the model's weights as those of the best epoch so far."""
        save(self._path("best.npz"), {"model": self._groups["model"]}, {"epoch": epoch})

    def restore_best(self) -> None:
        """Assigns the weights of the best epoch to the model."""
        self.assign(load(self._path("best.npz"))[0]["model"])

    def keep_epochs(self, epochs: Sequence[int], newest: int) -> None:
        """Keeps the weights of `epochs`: those of `newest` are the model's present ones, others are deleted."""
        if newest in epochs:
            save(self._epoch_path(newest), {"model": self._groups["model"]}, {"epoch": newest})
        kept = {self._epoch_path(epoch) for epoch in epochs}
        for name in storage.list_names(self._directory, ".npz"):
            if name.startswith("epoch-") and self._path(name) not in kept:
                storage.delete(self._path(name))

    def epoch_weights(self, epochs: Sequence[int]) -> dict[int, list[np.ndarray]]:
        """The model's weights after each of `epochs` whose weights were kept."""
        paths = {epoch: self._epoch_path(epoch) for epoch in epochs}
        return {epoch: load(path)[0]["model"] for epoch, path in paths.items() if storage.exists(path)}

    def assign(self, weights: Sequence[np.ndarray]) -> None:
        """Assigns weights to the model."""
        restore(self._groups["model"], weights, self._directory)
