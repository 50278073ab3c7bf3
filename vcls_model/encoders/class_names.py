"""Names of ImageNet's 1,000 classes, in the order of every classifier that was trained on ILSVRC-2012."""

import functools
from pathlib import Path

from vcls_model.tables import Column, read_csv

_FILE = Path(__file__).with_name("imagenet_classes.csv")


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """1,000 different names: the first word of the class's synset in WordNet 3.0, explained where two share it."""
    return tuple(row["name"] for row in read_csv(str(_FILE), (Column("name"),), others="ignore"))
