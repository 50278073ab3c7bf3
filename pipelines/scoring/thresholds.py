"""The thresholds of the classes at which scores are judged: where they come from, and that other videos chose them."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.scoring.layout import PREDICTIONS, SETTINGS, InputShard
from vcls_model import storage, tables
from vcls_model.commands import UsageError
from vcls_model.metrics.stored import STATE, read_manifests
from vcls_model.records.splits import hashes_of_ids
from vcls_model.records.vocabulary import load_vocabulary
from vcls_model.serving.exported import ExportedModel
from vcls_model.states import SCORES, ScoredShard, ScoreSettings, ScoresInfo, read_state, refuse_other_kind

# In a scores directory, laid out as labels.csv: the thresholds with the best F1 on the records scored.
THRESHOLDS = "thresholds.csv"
_IDS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """A threshold per class.

    Attributes:
        values: (C,) probabilities, or None without.
        source: for `info.json`, where they come from: `path` (null for the model's own), `split` whose videos chose
            them (null for all videos of an input), `videos` (how many, where known), `optimistic` (videos that are
            scored here are among them); None without thresholds.
    """

    values: tuple[float, ...] | None
    source: dict[str, Any] | None


def choose_thresholds(
    directory: str | None,
    models: Sequence[ExportedModel],
    shards: Sequence[InputShard],
    split: str | None,
    *,
    optimistic: bool,
) -> Thresholds:
    """The thresholds of a scores directory, else those of a single model, else none.

    Args:
        directory: `--thresholds`.
        models: those that score.
        shards: what they score.
        split: the split of it that they score, None for all.
        optimistic: accept thresholds that the same videos chose.

    Raises:
        UsageError: there are none, they are of other models, they were chosen on records that trained the models, or on
            the same videos.
    """
    if directory is not None:
        return _of_scores(directory, models, shards, split, optimistic=optimistic)
    values = models[0].class_thresholds() if len(models) == 1 else None
    source = {"path": None, "split": "validate", "videos": None, "optimistic": False}
    return Thresholds(values, source if values is not None else None)


def _of_scores(
    directory: str,
    models: Sequence[ExportedModel],
    shards: Sequence[InputShard],
    split: str | None,
    *,
    optimistic: bool,
) -> Thresholds:
    info_path, path = (storage.join(directory, name) for name in ("info.json", THRESHOLDS))
    refuse_other_kind(directory, SCORES)
    if not storage.exists(info_path):
        raise UsageError(f"--thresholds={directory} is not a finished scores directory: it has no info.json")
    if not storage.exists(path):
        raise UsageError(f"--thresholds={directory} has no {THRESHOLDS}: its records carried no labels")
    settings = storage.join(directory, STATE, SETTINGS)
    if not storage.exists(settings):
        raise UsageError(f"--thresholds={directory} is not a scores directory: it has no {STATE}/{SETTINGS}")
    scored = read_state(settings, ScoreSettings)
    if sorted(scored["models"]) != sorted(model.identity for model in models):
        raise UsageError(
            f"the thresholds in {directory} were chosen for other models than {models[0].path}"
            + (f" and {len(models) - 1} more" if len(models) > 1 else "")
        )
    if scored["split"] == "train":
        raise UsageError(f"{directory} holds scores of the training split: choose thresholds on --split=validate")
    common = None
    if split is None or scored["split"] is None or split == scored["split"]:
        done = [shard for manifest in read_manifests(directory) for shard in manifest["shards"]]
        common = _common_shard(shards, done)
    if common is not None and not optimistic:
        raise UsageError(
            f"--thresholds={directory} were chosen on the videos that they are to judge ({common} is scored in both): "
            "the figures at them would be too good. Choose them on --split=validate and score --split=test, or accept "
            "that with --allow_optimistic"
        )
    classes = load_vocabulary(path, models[0].class_count, complete=True)
    return Thresholds(
        tuple(0.5 if entry.best_threshold is None else entry.best_threshold for entry in classes),
        {
            "path": storage.absolute(directory),
            "split": scored["split"],
            "videos": read_state(info_path, ScoresInfo).get("records_labelled"),
            "optimistic": common is not None,
        },
    )


def checked_source(source: dict[str, Any] | None, output: str, split: str | None) -> dict[str, Any] | None:
    """After scoring: `source` with what the ids say, for shards that hold the same videos in other files.

    Args:
        source: `Thresholds.source`.
        output: the scores directory, whose predictions are written.
        split: the split that was scored, None for all.
    """
    if source is None or source["path"] is None or source["optimistic"]:
        return source
    if split is not None and source["split"] is not None and split != source["split"]:
        return source
    none = np.zeros(0, np.uint64)
    chose = np.concatenate([none, *_id_hashes(source["path"])])
    shared = len(np.intersect1d(chose, np.concatenate([none, *_id_hashes(output)])))
    if not shared:
        return source
    print(
        f"warning: {shared:,} of the videos that were scored also chose the thresholds in {source['path']}, from other "
        "files: the figures at them are too good",
        file=sys.stderr,
    )
    return {**source, "optimistic": True}


def _id_hashes(directory: str) -> Iterator[np.ndarray]:
    """Hashes of the ids of all predictions in a scores directory, a few thousand at a time."""
    folder = storage.join(directory, PREDICTIONS)
    for name in storage.list_names(folder):
        path = storage.join(folder, name)
        if name.endswith(".csv"):
            column = tables.Column("VideoId")
            yield hashes_of_ids([row["VideoId"].encode() for row in tables.read_csv(path, (column,), others="ignore")])
            continue
        with tables.open_parquet(path) as file:
            for batch in tables.parquet_batches(file, path, _IDS_AT_ONCE, ["id"]):
                yield hashes_of_ids([tables.id_bytes(value, path) for value in batch.column("id").to_pylist()])


def _common_shard(shards: Sequence[InputShard], done: Sequence[ScoredShard]) -> str | None:
    """A shard that is among both, or whose content is; None without."""
    paths = {shard["path"] for shard in done}
    digests = {(shard["size_bytes"], shard["digest"]) for shard in done if "digest" in shard}
    sizes = {size for size, _ in digests}
    for shard in shards:
        if shard.path in paths:
            return shard.path
    for shard in shards:
        if shard.size_bytes in sizes and (shard.size_bytes, storage.content_digest(shard.path)) in digests:
            return shard.path
    return None
