"""Names of the files in a scores directory."""

from vcls_model import storage
from vcls_model.metrics.stored import MANIFEST_SUFFIX, STATE

SETTINGS = "settings.json"
PREDICTIONS = "predictions"
LOGITS = "logits"


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


def slices_name(group: str, number: int) -> str:
    """File name of a group's aggregate by the values of the n-th context feature, counted from 0."""
    return f"{group}.slices{number}.metrics"
