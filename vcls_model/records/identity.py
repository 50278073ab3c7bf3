"""Which transformed dataset it is: what a model was trained on, and whether other data are the same.

An identity has up to four parts. `info.json` of a dataset has them as `identity`, that of a model as `data.identity`.
What the first release wrote has none: the parts that follow from the rest of its `info.json` are computed, and those
that do not are not compared.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from vcls_model import storage

# What each part identifies, for messages.
PARTS = {
    "settings": "the settings of preprocess",
    "statistics": "the statistics of the features",
    "labels": "the number of videos of each class",
    "content": "the records",
}
# What the scale of transformed features follows from.
SCALING = ("settings", "statistics")


def _digest(value: Any) -> str:
    return hashlib.sha256(storage.to_json(value, sort_keys=True).encode()).hexdigest()[:16]


def content_sum(checksums: Mapping[str, tuple[int, int]]) -> int:
    """Identifies the files of a shard; the sums of all shards, modulo 2^128, identify those of a dataset.

    Args:
        checksums: size in bytes and CRC-32C of each file, by its path below the dataset's directory.
    """
    total = 0
    for name, (size, checksum) in checksums.items():
        total += int.from_bytes(hashlib.sha256(f"{name} {size} {checksum}".encode()).digest()[:16], "big")
    return total % (1 << 128)


def dataset_identity(info: Mapping[str, Any], content: int | None = None) -> dict[str, str]:
    """The identity of a transformed dataset.

    Args:
        info: its `info.json`, which may have an `identity` already.
        content: the sum of `content_sum` over its shards; None where it is not known.
    """
    recorded = info.get("identity")
    if isinstance(recorded, Mapping):
        known = {**recorded, "settings": info.get("config_hash") or recorded.get("settings")}
        return {part: str(known[part]) for part in PARTS if known.get(part)}
    statistics = info.get("statistics") or {}
    parts = {
        "settings": info.get("config_hash"),
        "statistics": _digest(statistics["features"]) if statistics.get("features") else None,
        "labels": _digest(statistics["class_counts"]) if statistics.get("class_counts") else None,
        "content": None if content is None else f"{content:032x}",
    }
    return {part: str(value) for part, value in parts.items() if value}


def trained_on(model_info: Mapping[str, Any]) -> dict[str, str]:
    """The identity of the dataset that a model was trained on, as its `info.json` has it; {} where it does not say."""
    data = model_info.get("data")
    return dataset_identity(data) if isinstance(data, Mapping) else {}


def differences(one: Mapping[str, str], other: Mapping[str, str], parts: Sequence[str] = tuple(PARTS)) -> str:
    """What differs between two identities, `the settings of preprocess and the records`; "" where nothing does.

    Parts that either lacks are not compared.
    """
    named = [PARTS[part] for part in parts if part in one and part in other and one[part] != other[part]]
    return ", ".join(named[:-1]) + (" and " if len(named) > 1 else "") + named[-1] if named else ""
