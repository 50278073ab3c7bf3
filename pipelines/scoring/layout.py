"""Names of the files in a scores directory, and the shards that they are named after."""

import dataclasses
import hashlib

from vcls_model import storage
from vcls_model.metrics.stored import MANIFEST_SUFFIX, STATE

SETTINGS = "settings.json"
PREDICTIONS = "predictions"
LOGITS = "logits"


@dataclasses.dataclass(frozen=True)
class InputShard:
    """One input file: where it is, how long it is, in bytes, and when it was last written."""

    path: str
    size_bytes: int
    modified_seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name of its outputs: its base name and a few digits that tell equal base names in two folders apart."""
        base = self.path.rsplit("/", 1)[-1].removesuffix(".tfrecord")
        digest = hashlib.sha256(self.path.encode(errors="surrogateescape")).hexdigest()
        return f"{base}-{digest[:8]}"


def manifest_path(output: str, group: str) -> str:
    """The file whose presence says that a group is done."""
    return storage.join(output, STATE, group + MANIFEST_SUFFIX)


def part_name(group: str, last_shard: str) -> str:
    """What stands for the group in the names of files of a part of it; `last_shard` is the name of the part's last."""
    return f"{group}-{last_shard.rpartition('-')[2]}"


def parts_of(output: str, group: str) -> list[str]:
    """Paths of the manifests of the parts of a group that are done."""
    directory = storage.join(output, STATE)
    return [storage.join(directory, name) for name in storage.list_names(directory, MANIFEST_SUFFIX, f"{group}-")]


def segments_name(group: str) -> str:
    """File name of a group's aggregate over rated segments."""
    return f"{group}.segments.metrics"


def modalities_name(group: str, number: int) -> str:
    """File name of a group's aggregate with a subset of the modalities: number 0 has all of them."""
    return f"{group}.modalities{number}.metrics"


def ids_name(group: str) -> str:
    """File name of the hashes of a group's ids, see `GroupScores`."""
    return f"{group}.ids"


def slices_name(group: str, number: int) -> str:
    """File name of a group's aggregate by the values of the n-th context feature, counted from 0."""
    return f"{group}.slices{number}.metrics"
