"""One encoder for several threads: what they ask for at about the same time is encoded as one batch."""

import queue
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError, unknown_choice
from vcls_model.encoders.encoder import Encoder
from vcls_model.encoders.running import Device

DEVICES = ("auto", "cpu", "gpu")
_WAIT_SECONDS = 0.01  # for company, where less than a batch is waiting
_GPU_SIGNS = ("/dev/nvidia0", "/dev/dxg")


def choose_device(wanted: str) -> Device:
    """The device that encodes: for `auto` a GPU where there is one that TensorFlow can use.

    TensorFlow is imported only where the system has a GPU at all.

    Raises:
        UsageError: not one of `DEVICES`.
        JobError: `gpu`, and there is none.
    """
    if wanted not in DEVICES:
        raise unknown_choice("device", wanted, DEVICES)
    if wanted == "cpu" or (wanted == "auto" and not any(Path(sign).exists() for sign in _GPU_SIGNS)):
        return "cpu"
    from vcls_model.encoders.keras_network import require_gpu

    try:
        require_gpu()
    except (JobError, ImportError) as error:
        if wanted == "gpu":
            raise
        print(f"warning: encoding on the CPU: {error}", file=sys.stderr)
        return "cpu"
    return "gpu"


class Batches:
    """Takes inputs from any thread and encodes up to `size` of them at a time, in the order in which they came."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder = encoder
        self._size = size
        self._waiting: queue.Queue[tuple[npt.NDArray[Any], Future[npt.NDArray[np.float32]]]] = queue.Queue(4 * size)
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, content: npt.NDArray[Any]) -> "Future[npt.NDArray[np.float32]]":
        """The features (width,) of one prepared input, when they are ready; waits where the queue is full."""
        future: Future[npt.NDArray[np.float32]] = Future()
        self._waiting.put((content, future))
        return future

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._size:
                try:
                    batch.append(self._waiting.get(timeout=_WAIT_SECONDS))
                except queue.Empty:
                    break
            try:
                rows = self._encoder.encode(np.stack([content for content, _ in batch]))
            except Exception as error:  # raised again in the threads that wait
                for _, future in batch:
                    future.set_exception(error)
                continue
            for row, (_, future) in zip(rows, batch, strict=True):
                future.set_result(row)
