"""Names of ImageNet's 1,000 classes, in the order of every classifier that was trained on ILSVRC-2012."""

import csv
import functools
from pathlib import Path

_FILE = Path(__file__).with_name("imagenet_classes.csv")


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """1,000 different names: the first word of the class's synset in WordNet 3.0, explained where two share it."""
    with open(_FILE, encoding="utf-8", newline="") as stream:
        return tuple(row["name"] for row in csv.DictReader(stream))
