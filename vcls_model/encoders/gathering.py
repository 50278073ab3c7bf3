"""The rows of one file, encoded in order by the encoders that a process shares among its threads."""

import collections
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.encoders.batches import Batches
from vcls_model.encoders.catalogue import load_encoder
from vcls_model.encoders.codes import quantise
from vcls_model.encoders.encoder import Encoder, EncoderInfo
from vcls_model.encoders.network import GPU_BATCH
from vcls_model.encoders.running import Device
from vcls_model.encoders.sentences import load_text_encoder
from vcls_model.heap import return_freed_memory

Features = npt.NDArray[np.float32]
Submit = Callable[[Callable[[], Features]], "Future[Features]"]


def at_once(work: Callable[[], Features]) -> "Future[Features]":
    """Does the work in the calling thread."""
    future: Future[Features] = Future()
    future.set_result(work())
    return future


class Gathered:
    """The rows of one medium so far: their codes, or their sum.

    Args:
        name, info: the encoder, as a plan holds it.
        keeps_rows: whether to keep the codes of each row; otherwise only their mean is wanted.
        device: where the encoder runs; on a GPU it shares batches with the other files of this process.
        submit: who encodes a row on the CPU.
    """

    def __init__(self, name: str, info: EncoderInfo, keeps_rows: bool, device: Device, submit: Submit) -> None:
        self.count = 0
        self._info = info
        self._submit = submit
        self._encoder = load_planned_encoder(name, info, device)
        self._batches = _shared_batches(name, info) if device == "gpu" else None
        self._codes: list[bytes] | None = [] if keeps_rows else None
        self._total = np.zeros(info.width)
        self._last: tuple[npt.NDArray[Any], Future[Features]] | None = None

    def begin(self, content: npt.NDArray[Any]) -> "Future[Features]":
        """The features (width,) of a prepared picture or a patch of sound, which may be longer than the encoder's.

        What equals the row before (slides, silence, the hours that a wrong timestamp makes) is not encoded again.
        """
        content = content[: self._info.input.row_shape[0]]
        if self._last is not None and np.array_equal(content, self._last[0]):
            return self._last[1]
        if self._batches is not None:
            future = self._batches.submit(content)
        else:
            future = self._submit(functools.partial(_encode_one, self._encoder, content))
        self._last = content, future
        return future

    def take(self, features: Features) -> None:
        """The next row, in order."""
        self.count += 1
        if self._codes is not None:
            self._codes.append(quantise(features[None], self._info.value_range, self._info.rounding).tobytes())
        else:
            self._total += features

    def result(self) -> list[bytes] | Features:
        """The codes of each row, or the mean of all."""
        return self._codes if self._codes is not None else (self._total / self.count).astype(np.float32)


def gather(rows: Iterable[Sequence[npt.NDArray[Any] | None]], gathered: Sequence[Gathered], depth: int) -> None:
    """Encodes rows and takes them in order; up to `depth` are under way, whatever the length of the file.

    Args:
        rows: what each of `gathered` is to encode; None where the file has none.
        gathered: one per medium.
        depth: 0 where a row is encoded as it is submitted.
    """
    under_way: collections.deque[list[Future[Features] | None]] = collections.deque()

    def take_first() -> None:
        for each, future in zip(gathered, under_way.popleft(), strict=True):
            if future is not None:
                each.take(future.result())

    for row in rows:
        under_way.append(
            [None if content is None else each.begin(content) for each, content in zip(gathered, row, strict=True)]
        )
        if len(under_way) > depth:
            take_first()
    while under_way:
        take_first()


def _encode_one(encoder: Encoder, content: npt.NDArray[Any]) -> Features:
    features: Features = encoder.encode(content[None])[0]
    return features


_ENCODERS: dict[str, Encoder] = {}
_BATCHES: dict[str, Batches] = {}
_LOADING = threading.RLock()


def load_planned_encoder(name: str, info: EncoderInfo, device: Device = "cpu", threads: int = 1) -> Encoder:
    """An encoder, loaded once per process; raises `JobError` where a worker has another one than the plan.

    Args:
        name, info: as a plan holds them.
        device: where it runs.
        threads: of one input, see `load_encoder`.
    """
    with _LOADING:
        key = f"{name} {info.weights_sha256} {device} {threads}"
        if key not in _ENCODERS:
            if info.modality == "text":
                encoder = load_text_encoder(name)
            else:
                encoder = load_encoder(name, info.modality, device, threads)
            encoder.info.check_same(info.as_json(), "the plan of this job")
            _ENCODERS[key] = encoder
            return_freed_memory()
        return _ENCODERS[key]


def _shared_batches(name: str, info: EncoderInfo) -> Batches:
    """The queue before the GPU's encoder, one per process: rows of all files that are read at a time share batches."""
    with _LOADING:
        key = f"{name} {info.weights_sha256}"
        if key not in _BATCHES:
            _BATCHES[key] = Batches(load_planned_encoder(name, info, "gpu"), GPU_BATCH)
        return _BATCHES[key]
