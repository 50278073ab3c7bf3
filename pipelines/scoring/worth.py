"""What each modality is worth: the figures of the models with some of them alone, beside those with all."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.scoring.layout import modalities_name
from vcls_model import storage, tables
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.paired import PairedChange, ResampledResult, paired_change
from vcls_model.metrics.stored import merge
from vcls_model.records.vocabulary import ClassInfo
from vcls_model.states import GroupManifest

JSON_NAME, CSV_NAME = "modalities.json", "modalities.csv"
_FIGURES = ("gap_at_20", "map")


def write_worth(
    output: str,
    manifests: Sequence[GroupManifest],
    subsets: Sequence[Sequence[str]],
    names: Sequence[str],
    classes: Sequence[ClassInfo],
) -> None:
    """Writes `modalities.json` and `modalities.csv`, where a labelled record had all modalities.

    Args:
        output: the scores directory.
        manifests: of all groups that are done.
        subsets: what was measured beside all modalities.
        names: of all modalities.
        classes: by index.
    """
    counted = [manifest["group"] for manifest in manifests if manifest.get("modalities")]
    whole = merge(output, [modalities_name(group, 0) for group in counted], MetricAccumulator)
    if whole is None or not whole.videos:
        return
    videos, results = whole.videos, [ResampledResult.of(whole)]
    del whole  # no two tables of counts at once
    for number in range(1, len(subsets) + 1):
        part = merge(output, [modalities_name(group, number) for group in counted], MetricAccumulator)
        assert part is not None
        results.append(ResampledResult.of(part))
    held = [tuple(names), *map(tuple, subsets)]
    changes = [paired_change(result, results[0]) for result in results]
    content = {
        "modalities": list(names),
        "videos": videos,
        "subsets": [_figures(*each) for each in zip(held, results, changes, strict=True)],
    }
    storage.write_json(storage.join(output, JSON_NAME), content)
    storage.write_atomically(storage.join(output, CSV_NAME), _per_class(held, results, changes, classes))


def _figures(kept: Sequence[str], result: ResampledResult, change: PairedChange) -> dict[str, Any]:
    figures: dict[str, Any] = {"modalities": list(kept)}
    for name in _FIGURES:
        for part in ("", "_ci_low", "_ci_high"):
            figures[name + part] = _number(result.result.summary[name + part])
        for part, value in zip(("", "_low", "_high"), change.figures[name], strict=True):
            figures[f"{name}_change{part}"] = _number(value)
    return figures


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _per_class(
    held: Sequence[Sequence[str]],
    results: Sequence[ResampledResult],
    changes: Sequence[PairedChange],
    classes: Sequence[ClassInfo],
) -> bytes:
    """A row per class: AP with each subset, and of those without all the change against all with its interval."""
    columns: dict[str, np.ndarray] = {"support": results[0].support}
    for number, (kept, result, change) in enumerate(zip(held, results, changes, strict=True)):
        label = "+".join(kept)
        columns[f"ap {label}"] = result.result.per_class["ap"]
        if number:
            columns |= {
                f"change{part} {label}": row for part, row in zip(("", "_low", "_high"), change.ap, strict=True)
            }
    cells = [["" if value != value else repr(value) for value in column.tolist()] for column in columns.values()]
    rows = ([entry.index, entry.name, *row] for entry, *row in zip(classes, *cells, strict=True))
    return tables.write_csv(["index", "name", *columns], rows).encode()
