"""One encoder for several threads: batches change no row, errors reach those who wait; when a GPU is used."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import Encoder, EncoderInfo, PictureInput, batches, gathering, quantise
from vcls_model.encoders.batches import Batches, choose_device
from vcls_model.encoders.gathering import Gathered, PackedRows, at_once, gather

INFO = EncoderInfo("mean", "1", PictureInput(4), 3, (0.0, 255.0), "0" * 64, "none")


class Means:
    """An encoder whose features are a picture's mean colour; notes how many pictures came at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()

    def __call__(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.gate.wait(10)
        self.sizes.append(len(pictures))
        return pictures.mean((1, 2)).astype(np.float32)


def pictures(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


def test_rows_of_several_threads_share_batches_and_are_their_own() -> None:
    means, inputs = Means(), pictures(40)
    shared = Batches(Encoder(INFO, means), 8)
    with ThreadPoolExecutor(5) as pool:
        waiting = list(pool.map(shared.submit, inputs[:30]))
        means.gate.set()
        waiting += pool.map(shared.submit, inputs[30:])
        rows = np.stack([future.result(timeout=10) for future in waiting])
    assert np.array_equal(rows, inputs.mean((1, 2)).astype(np.float32))
    assert max(means.sizes) == 8 and sum(means.sizes) == 40


def test_an_error_reaches_everyone_who_waits_and_the_queue_goes_on() -> None:
    means = Means()
    means.gate.set()
    shared = Batches(Encoder(INFO, means), 4)
    with pytest.raises(ValueError, match="expected uint8 pictures"):
        shared.submit(np.zeros((4, 4, 3), np.float32)).result(timeout=10)
    assert shared.submit(np.full((4, 4, 3), 7, np.uint8)).result(timeout=10).tolist() == [7, 7, 7]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_codes_come_in_order_and_rows_that_repeat_are_encoded_once(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = Means()
    means.gate.set()
    monkeypatch.setattr(gathering, "load_planned_encoder", lambda *_: Encoder(INFO, means))
    monkeypatch.setattr(gathering, "_BATCHES", {})
    inputs = np.concatenate([pictures(3), np.full((50, 4, 4, 3), 9, np.uint8), pictures(2)])
    gathered = Gathered("mean", INFO, True, device, at_once)  # type: ignore[arg-type]
    absent = Gathered("mean", INFO, True, device, at_once)  # type: ignore[arg-type]
    gather(([picture, None] for picture in inputs), [gathered, absent], 0 if device == "cpu" else 8)
    expected = quantise(inputs.mean((1, 2)).astype(np.float32), INFO.value_range, "midpoint")
    assert gathered.result() == [row.tobytes() for row in expected]
    assert (gathered.count, absent.count, sum(means.sizes)) == (55, 0, 6)


def test_without_a_gpu_the_cpu_is_taken_unless_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vcls_model.encoders import keras_network

    def none_here() -> None:
        raise JobError("TensorFlow sees no GPU here")

    monkeypatch.setattr(keras_network, "require_gpu", none_here)
    monkeypatch.setattr(batches, "_GPU_SIGNS", ())
    assert choose_device("auto") == "cpu" and choose_device("cpu") == "cpu"
    with pytest.raises(JobError, match="no GPU"):
        choose_device("gpu")
    with pytest.raises(UsageError, match="tpu"):
        choose_device("tpu")
    assert not capsys.readouterr().err
    monkeypatch.setattr(batches, "_GPU_SIGNS", (sys.executable,))
    assert choose_device("auto") == "cpu"
    assert "encoding on the CPU" in capsys.readouterr().err
    monkeypatch.setattr(keras_network, "require_gpu", lambda: None)
    assert choose_device("auto") == choose_device("gpu") == "gpu"


@pytest.mark.parametrize("count", [0, 1, 32, 100])
def test_packed_rows_come_back_in_order(count: int) -> None:
    codes = np.random.default_rng(3).integers(0, 256, (count, 7)).astype(np.uint8)
    packed = PackedRows()
    for row in codes:
        packed.append(row.tobytes())
    assert packed.rows() == [row.tobytes() for row in codes]


def test_rows_that_are_mostly_zero_take_little_room() -> None:
    """As codes of sounds are."""
    generator = np.random.default_rng(4)
    packed = PackedRows()
    for _ in range(320):
        packed.append((generator.integers(0, 256, 1024) * (generator.random(1024) < 0.2)).astype(np.uint8).tobytes())
    assert sum(map(len, packed._packed)) < 320 * 1024 / 2 and not packed._loose
