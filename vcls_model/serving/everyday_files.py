"""Labels of media files without training: a file's own and those of its seconds, as a table, CSV and JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vcls_model import tables
from vcls_model.embedding import Embedded, Embedder, EmbeddingConfig
from vcls_model.serving.everyday import SEEN_OR_HEARD, Everyday, Label, Medium, Probabilities
from vcls_model.spreadsheets import harmless


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A file with its labels.

    Attributes:
        path: of the file.
        seconds: length of the presentation as far as it was read.
        labels: of the whole.
        moments: the best label of each row, of pictures and of sound, one row every 1 / fps seconds.
        message: what could not be read, or None.
    """

    path: str
    seconds: float
    labels: list[Label]
    moments: list[list[Label]]
    message: str | None

    def table(self) -> str:
        """A line with the path, then a line per label: seen or heard, probability, name."""
        lines = [f"{self.path} ({self.seconds:.1f} s)" + (f": {self.message}" if self.message else "")]
        for label in self.labels:
            lines.append(f"  {SEEN_OR_HEARD[label.medium]:6}{label.probability:6.3f}  {label.name}")
        return "\n".join(lines)


def label_file(path: str, everyday: Everyday, embedder: Embedder, config: EmbeddingConfig, top: int) -> Labelled:
    """The labels of a file.

    Args:
        path: of the file.
        everyday: the classifiers.
        embedder: reads it, as `config` says.
        config: of the encoders of `everyday`, at frame level.
        top: labels of pictures and of sound each.

    Raises:
        MediaError: the file has no rows, or could not be decoded to its end within its limits.
    """
    embedded: Embedded = embedder.embed(path)
    by_second: dict[Medium, Probabilities] = {}
    for medium, _, _ in config.encoders:
        rows = embedded.features.get(config.name_of(medium))
        if isinstance(rows, list):
            by_second[medium] = everyday.probabilities_of_codes(medium, rows)
    moments = [
        everyday.labels({medium: rows[row] for medium, rows in by_second.items() if row < len(rows)}, 1)
        for row in range(embedded.rows)
    ]
    labels = everyday.labels(everyday.over_time(by_second), top)
    return Labelled(path, embedded.seconds, labels, moments, embedded.message)


def to_csv(files: Sequence[Labelled]) -> str:
    """path, medium, index, label, probability: a row per label, the most probable first; no spreadsheet runs a path."""
    rows = (
        (harmless(labelled.path), label.medium, label.index, label.name, f"{label.probability:.6f}")
        for labelled in files
        for label in labelled.labels
    )
    return tables.write_csv(("path", "medium", "index", "label", "probability"), rows)


def to_json(files: Sequence[Labelled]) -> dict[str, Any]:
    """`files`: all labels of each, and the best of every moment."""
    return {"files": [dataclasses.asdict(labelled) for labelled in files]}
