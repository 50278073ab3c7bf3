"""The model's thread: batches, bounds, and whose fault is whose."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from vcls_model.serving.live.queues import ModelQueue, OverloadedError
from vcls_model.serving.live.stream import Features


def video(value: float) -> Features:
    return {"x": np.array([value], np.float32)}


class Held:
    """A model that waits for permission, and remembers its batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def __call__(self, videos: Sequence[Features]) -> np.ndarray:
        self.entered.set()
        assert self.go.wait(10)
        self.batches.append(len(videos))
        values = np.stack([each["x"] for each in videos])
        if (values < 0).any():
            raise ValueError("negative")
        return values * 2


def test_what_waits_is_one_batch_and_each_gets_its_own() -> None:
    model = Held()
    queue = ModelQueue(model)
    first = queue.submit([video(1)])
    assert model.entered.wait(10)
    others = [queue.submit([video(n), video(n + 0.5)]) for n in (2, 3, 4)]
    model.go.set()
    assert first.result(10).logits.tolist() == [[2]]
    assert [each.result(10).logits[:, 0].tolist() for each in others] == [[4, 5], [6, 7], [8, 9]]
    assert model.batches == [1, 6]
    assert others[0].result().batch_size == 6
    queue.close()


def test_a_full_queue_refuses_and_a_closed_one_computes_what_waits() -> None:
    model = Held()
    queue = ModelQueue(model, most_waiting=3)
    queue.submit([video(0)])
    assert model.entered.wait(10)
    waiting = queue.submit([video(1), video(2)])
    with pytest.raises(OverloadedError, match="too many"):
        queue.submit([video(3), video(4)])
    assert queue.waiting == 2
    model.go.set()
    queue.close()
    assert waiting.result(1).logits.tolist() == [[2], [4]]
    with pytest.raises(OverloadedError, match="shutting down"):
        queue.submit([video(3)])


def test_one_bad_request_costs_its_sender_alone() -> None:
    model = Held()
    queue = ModelQueue(model)
    queue.submit([video(0)])
    assert model.entered.wait(10)
    good, bad, also_good = queue.submit([video(1)]), queue.submit([video(-1)]), queue.submit([video(2)])
    model.go.set()
    assert good.result(10).logits.tolist() == [[2]] and also_good.result(10).logits.tolist() == [[4]]
    with pytest.raises(ValueError, match="negative"):
        bad.result(10)
    assert queue.submit([video(5)]).result(10).logits.tolist() == [[10]]
    queue.close()
