"""The last frames of one stream, as records hold them, and the windows of them that a model is asked about."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model.records.decoding import FeatureValues, FrameBatch
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import FRAMES, TEXT, Modality

RING_FRAMES = 300
# Of one video: by modality uint8 (T, D) for frames, float32 (D,) for a vector, UTF-8 for a text; of one that is missing
# `nothing_of` it.
Features = Mapping[str, np.ndarray | bytes]
_LEAST_FRAMES_SPARED = 64  # computing fewer costs less than another call of a model


def nothing_of(modality: Modality) -> np.ndarray:
    """What stands for a modality that a video lacks: no frames, or a vector of NaN."""
    if modality.kind == FRAMES:
        return np.empty((0, modality.width), np.uint8)
    return np.full(modality.width, np.nan, np.float32)


class FrameRing:
    """The rows of a stream: of frames the last 300, of the vectors of a video-level model their mean.

    So `so_far` is what a record of the whole stream would hold: for frames up to 300 of them, for vectors without
    bound, since a mean needs no rows.

    Attributes:
        rows: rows that came so far.
    """

    def __init__(self, modalities: Sequence[Modality], capacity: int = RING_FRAMES, masks: bool = False) -> None:
        """
        Args:
            modalities: of the model's records.
            capacity: frames that are kept.
            masks: the model bears a missing modality: one that no row has is missing, see `batch_features`.
        """
        self._modalities = tuple(modality for modality in modalities if modality.kind != TEXT)
        self._texts = {modality.name: b"" for modality in modalities if modality.kind == TEXT}  # media say none
        self._capacity = capacity
        self._times: deque[float] = deque(maxlen=capacity)
        # Twice the room, so that the last rows always lie one after the other: moved to the front once in `capacity`.
        self._buffers = {
            each.name: np.empty((2 * capacity, each.width), np.uint8 if each.kind == FRAMES else np.float64)
            for each in self._modalities
        }
        self._masks = masks
        self._present = {each.name: deque[bool](maxlen=capacity) for each in self._modalities}
        self._ever = dict.fromkeys(self._present, False)
        self._sums = {each.name: np.zeros(each.width) for each in self._modalities if each.kind != FRAMES}
        self._end = 0
        self.rows = 0

    def append(self, row: Mapping[str, np.ndarray | None], seconds: float) -> None:
        """Adds a row.

        Args:
            row: by modality, codes uint8 (D,) of frames, or values float (D,) of a vector. What is absent, or None, is
                filled as a record that lacks it: with the code of 0, or with 0.
            seconds: when it was, on the stream's own clock.

        Raises:
            ValueError: a row of another width, or a time before the last one's.
        """
        if self._times and seconds < self._times[-1]:
            raise ValueError(f"a row of second {seconds:g} came after one of second {self._times[-1]:g}")
        if self._end == 2 * self._capacity:
            for buffer in self._buffers.values():
                buffer[: self._capacity - 1] = buffer[self._capacity + 1 :]
            self._end = self._capacity - 1
        for each in self._modalities:
            values = row.get(each.name)
            self._present[each.name].append(values is not None)
            self._ever[each.name] |= values is not None
            if values is None:
                self._buffers[each.name][self._end] = each.fill_code if each.kind == FRAMES else 0
            elif values.shape != (each.width,):
                raise ValueError(f"{each.name} must have {each.width} values, got {values.shape}")
            else:
                self._buffers[each.name][self._end] = values
            if each.kind != FRAMES:
                self._sums[each.name] += self._buffers[each.name][self._end]
        self._end += 1
        self._times.append(seconds)
        self.rows += 1

    @property
    def last_seconds(self) -> float:
        """When the last row was; there must be one."""
        return self._times[-1]

    def so_far(self) -> Features:
        """The features of all rows that are kept; there must be one."""
        whole = self._window(len(self._times))
        means = {name: (total / self.rows).astype(np.float32) for name, total in self._sums.items()}
        return {**whole, **{name: mean for name, mean in means.items() if self._ever[name] or not self._masks}}

    def now(self, seconds: float) -> Features:
        """The features of the rows of the last `seconds`: at least of the last row."""
        first = self._times[-1] - seconds
        return self._window(max(1, sum(1 for time in self._times if time > first)))

    def _window(self, rows: int) -> dict[str, np.ndarray | bytes]:
        features: dict[str, np.ndarray | bytes] = dict(self._texts)
        for each in self._modalities:
            window = self._buffers[each.name][self._end - rows : self._end]
            features[each.name] = window.copy() if each.kind == FRAMES else window.mean(axis=0).astype(np.float32)
            if self._masks and not any(list(self._present[each.name])[-rows:]):
                features[each.name] = nothing_of(each)
        return features


def batch_features(videos: Sequence[Features], modalities: Sequence[Modality]) -> dict[str, FeatureValues]:
    """Videos as `LoadedModel.logits` takes them.

    Args:
        videos: at least one.
        modalities: of the model's records.
    """
    batch: dict[str, FeatureValues] = {}
    for each in modalities:
        values: list[Any] = [video[each.name] for video in videos]
        if each.kind == TEXT:
            batch[each.name] = BytesColumn.of(values)
        elif each.kind == FRAMES:
            batch[each.name] = FrameBatch.of(np.concatenate(values), np.array([len(rows) for rows in values], np.int64))
        else:
            batch[each.name] = np.stack(values).astype(np.float32, copy=False)
    return batch


def of_like_length(videos: Sequence[Features], modalities: Sequence[Modality]) -> list[np.ndarray]:
    """Which videos to compute in one call, as int64 indices: a call's frames are padded to those of its longest video.

    Args:
        videos: at least one.
        modalities: of the model's records.
    """
    frames = [each.name for each in modalities if each.kind == FRAMES]
    if not frames:
        return [np.arange(len(videos))]
    lengths = np.array([max(len(video[name]) for name in frames) for video in videos])  # one may be missing
    order = np.argsort(lengths, kind="stable")
    shorter, longer = lengths[order][:-1], lengths[order][1:]
    spared = (longer - shorter) * np.arange(1, len(videos))
    return np.split(order, np.flatnonzero((longer > 2 * shorter) & (spared >= _LEAST_FRAMES_SPARED)) + 1)
