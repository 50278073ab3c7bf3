"""Keeps what a video lacks out of a model: see `vcls_model.layers.presence` for the layers."""

from collections.abc import Mapping, Sequence

import keras
from keras import KerasTensor

from vcls_model.layers import AnyPresent, KeepPresent, PresenceTable, PresentFrames, RescalePresent
from vcls_model.records.schema import Modality
from vcls_model.records.transformed import presence_name


class Presence:
    """Which modalities a video has, while a model is put together.

    Args:
        modalities: those of the model, but for texts: a missing one is empty, and its vector 0.
        inputs: the model's inputs by name.
        with_texts: the model reads texts, too, so that a video may lack all others.

    Attributes:
        table: symbolic float32 (B, M); None for a model that takes every modality for granted, where nothing here adds
            a layer.
    """

    def __init__(
        self, modalities: Sequence[Modality], inputs: Mapping[str, KerasTensor], *, with_texts: bool = False
    ) -> None:
        names = [modality.name for modality in modalities]
        self._with_texts = with_texts
        self._columns = {name: number for number, name in enumerate(names)}
        self.table: KerasTensor | None = None
        if names and presence_name(names[0]) in inputs:
            self.table = PresenceTable(dtype="float32", name="presence")(
                [inputs[presence_name(name)] for name in names]
            )

    def keep(self, values: KerasTensor, names: Sequence[str], layer: str) -> KerasTensor:
        """`values` (B, …), 0 for a video that has none of the modalities called `names`."""
        # Without texts, one of all there is is always present.
        if self.table is None or (len(names) == len(self._columns) and not self._with_texts):
            return values
        if not set(names) <= set(self._columns):  # with a text
            return values
        return KeepPresent([self._columns[name] for name in names], name=layer)(values, self.table)

    def frames_of(self, frame_mask: KerasTensor, name: str) -> KerasTensor:
        """The frame mask (B, T) for one modality."""
        if self.table is None or (len(self._columns) == 1 and not self._with_texts):
            return frame_mask
        return PresentFrames([self._columns[name]], name=f"{name}_frames")(frame_mask, self.table)

    def groups(self, groups: Sequence[Sequence[str]], layer: str) -> KerasTensor:
        """Which groups of modalities a video has any of, float32 (B, G); one with a text always counts."""
        known = set(self._columns)
        columns = [[self._columns[name] for name in names] if set(names) <= known else [] for names in groups]
        return AnyPresent(columns, dtype="float32", name=layer)(self.table)

    def rescale(
        self, joined: KerasTensor, groups: Sequence[Sequence[str]], sizes: Sequence[int], layer: str
    ) -> KerasTensor:
        """Joined values of several groups of modalities, as long as if none were missing.

        Args:
            joined: (B, …, sum of sizes).
            groups: names of the modalities behind each part.
            sizes: width of each part.
            layer: name of the layer.
        """
        if self.table is None or len(groups) == 1:
            return joined
        return RescalePresent(sizes, name=layer)(joined, self.groups(groups, f"{layer}_presence"))


def takes_presence(model: keras.Model, modalities: Sequence[Modality]) -> bool:
    """Whether a model has an input for the presence of its modalities."""
    names = {tensor.name for tensor in model.inputs}
    return any(presence_name(modality.name) in names for modality in modalities)
