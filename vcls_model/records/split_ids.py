"""The ids of a dataset whose splits were given by hand: which split a video is in, where no hash of its id says so.

`split_ids.npz` of a dataset, and of the models trained on it, holds `hashes`, uint64 (N,), ascending, of the distinct
ids of its videos, and `splits`, uint8 (N,), indices into `SPLITS`: 9 bytes per video. An id in several splits belongs
to the first of train, validate and test, so that no video that a model has seen counts as held out.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model import storage, tables
from vcls_model.commands import JobError
from vcls_model.records import kernels
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.splits import SPLITS, SplitRatios, splits_of

FILE = "split_ids.npz"


@dataclasses.dataclass(frozen=True)
class GivenSplits:
    """Splits that are listed id by id.

    Attributes:
        path: of the list.
        digest: of its content.
    """

    path: str
    digest: str


def hashes_of(ids: BytesColumn) -> np.ndarray:
    """64 bits per id, uint64 (B,), the same on every machine."""
    hashes = np.empty(len(ids.lengths), np.uint64)
    kernels.hash_bytes(ids.data, ids.begins, ids.lengths, hashes)
    return hashes


def write_split_ids(directory: str, by_split: Sequence[np.ndarray]) -> str:
    """Writes the list of a dataset from the hashes of the ids of each split, in the order of `SPLITS`; its digest."""
    hashes, splits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    for split, own in enumerate(by_split):
        new = np.setdiff1d(own, hashes)
        hashes, splits = np.concatenate([hashes, new]), np.concatenate([splits, np.full(len(new), split, np.uint8)])
    order = np.argsort(hashes, kind="stable")
    stream = io.BytesIO()
    np.savez(stream, hashes=hashes[order], splits=splits[order])
    storage.write_atomically(storage.join(directory, FILE), stream.getvalue())
    return hashlib.sha256(hashes[order].tobytes() + splits[order].tobytes()).hexdigest()[:16]


def copy_split_ids(source: str, target: str) -> None:
    """Copies the list of a dataset or model directory to a model's, if there is one."""
    path = storage.join(source, FILE)
    if storage.exists(path):
        storage.write_atomically(storage.join(target, FILE), storage.read_bytes(path))


def given_splits(info: Mapping[str, Any], directory: str) -> GivenSplits | None:
    """The list in a model's directory, as its `info.json` names it; None where it has none."""
    digest = (info.get("split") or {}).get("ids")
    path = storage.join(storage.absolute(directory), FILE)  # workers may have another working directory
    return GivenSplits(path, str(digest)) if digest and storage.exists(path) else None


def places_of(ids: Sequence[bytes], rule: "SplitRatios | GivenSplits") -> np.ndarray:
    """Indices into `SPLITS` of the ids of videos, int64 (B,); -1 for one that the dataset does not list."""
    if isinstance(rule, SplitRatios):
        return splits_of(ids, rule)
    hashes, splits = _read(rule.path, rule.digest)
    wanted = hashes_of(BytesColumn.of(list(ids)))
    if not len(hashes):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    return np.where(hashes[at] == wanted, splits[at].astype(np.int64), -1)


@functools.lru_cache(maxsize=1)
def _read(path: str, digest: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = tables.read_npz(path, ("hashes", "splits"))
    hashes, splits = arrays["hashes"], arrays["splits"]
    if hashlib.sha256(hashes.tobytes() + splits.tobytes()).hexdigest()[:16] != digest or (
        splits.size and splits.max() >= len(SPLITS)
    ):
        raise JobError(f"{path} is damaged, or of another dataset than its directory's: train again")
    return hashes, splits
