"""What `pipelines.score --modalities` measured: the models with some of their modalities."""

import dataclasses
import math
from typing import Any

import numpy as np

from pipelines.reporting.inputs.files import floats, read_table
from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.states import ModalitiesInfo, read_state


@dataclasses.dataclass(frozen=True)
class SubsetScores:
    """The models with one subset of the modalities.

    Attributes:
        modalities: those that are left.
        figures: `gap_at_20` and `map`, each with `_ci_low`, `_ci_high`, `_change`, `_change_low` and `_change_high`
            (against all modalities); NaN where there is none.
        ap: (C,) by class, NaN without positives.
        change, change_low, change_high: (C,) of AP against all modalities and its 95 % interval.
    """

    modalities: tuple[str, ...]
    figures: dict[str, float]
    ap: np.ndarray
    change: np.ndarray
    change_low: np.ndarray
    change_high: np.ndarray

    @property
    def label(self) -> str:
        """`rgb + audio`."""
        return " + ".join(self.modalities)


@dataclasses.dataclass(frozen=True)
class ModalityWorth:
    """All subsets of a run, the first of which has all modalities.

    Attributes:
        modalities: all of them.
        videos: labelled videos that have all, on which everything was measured.
        subsets: the measurements.
        support: (C,) positives by class among these videos.
    """

    modalities: tuple[str, ...]
    videos: int
    subsets: tuple[SubsetScores, ...]
    support: np.ndarray

    def without(self, modality: str) -> SubsetScores:
        """The subset that lacks one modality alone."""
        others = {name for name in self.modalities if name != modality}
        return next(subset for subset in self.subsets if set(subset.modalities) == others)


def read_worth(path: str, class_count: int) -> ModalityWorth | None:
    """Reads `modalities.json` and `modalities.csv` of a scores directory; None where the run did not measure them.

    Raises:
        JobError: they are damaged, or one of them is missing.
    """
    origin = storage.join(path, "modalities.json")
    if not storage.exists(origin):
        return None
    info: dict[str, Any] = dict(read_state(origin, ModalitiesInfo))
    table = read_table(path, "modalities.csv")
    csv = storage.join(path, "modalities.csv")
    if len(table.get("index", ())) != class_count:
        raise JobError(f"{csv} does not list the {class_count} classes of {origin}: score again with --overwrite")
    columns = {name: floats(cells, f"{csv}, {name}") for name, cells in table.items() if name != "name"}
    nothing = np.full(class_count, math.nan)
    subsets = []
    for entry in info["subsets"]:
        name = "+".join(entry["modalities"])
        if f"ap {name}" not in columns:
            raise JobError(f"{csv} has no column 'ap {name}': score again with --overwrite")
        figures = {key: math.nan if value is None else value for key, value in entry.items() if key != "modalities"}
        changes = (columns.get(f"change{part} {name}", nothing) for part in ("", "_low", "_high"))
        subsets.append(SubsetScores(tuple(entry["modalities"]), figures, columns[f"ap {name}"], *changes))
    return ModalityWorth(tuple(info["modalities"]), int(info["videos"]), tuple(subsets), columns["support"])
