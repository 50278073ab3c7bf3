"""Frames of many streams: order, fairness, and that every frame is accounted for."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.fixtures.live import ColourModel, PlainModel
from tests.fixtures.media import COLOURS, Encoders
from tests.fixtures.serving import jpeg
from vcls_model.commands import JobError
from vcls_model.media.stills import StillDecoder
from vcls_model.serving.live.engine import Engine, EngineOptions, TooManyStreamsError
from vcls_model.serving.live.models import Moment
from vcls_model.serving.live.session import Answer, Counts, Frame, FrameFailure, FrameLabels, Session


class Listener:
    """Collects a stream's answers."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._changed = threading.Condition()

    def __call__(self, answer: Answer) -> None:
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Answer]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, 10), self.answers
            return list(self.answers)


def frame(number: int, value: float = 0.0, **more: object) -> Frame:
    row = {"three": np.array([value, -value, 0.0], np.float32)}
    return Frame(number, float(number), time.monotonic(), **{"row": row, **more})  # type: ignore[arg-type]


@pytest.fixture
def model() -> PlainModel:
    return PlainModel()


@pytest.fixture
def engine(model: PlainModel) -> Iterator[Engine]:
    made = Engine(model, EngineOptions(window_seconds=2, hold_seconds=0, encoder_threads=2, most_streams=3))
    yield made
    model.go.set()
    made.shut_down()


def push(engine: Engine, session: Session, listener: Listener, frames: list[Frame]) -> list[Answer]:
    """Frames one after the other, each when the one before is answered."""
    for each in frames:
        before = len(listener.answers)
        engine.offer(session, each)
        listener.wait(before + 1)
    return listener.answers


def test_answers_hold_both_windows_events_and_times(engine: Engine) -> None:
    heard = Listener()
    session = engine.open("s", heard)
    first, second, third = push(engine, session, heard, [frame(1, 2.0), frame(2, 4.0), frame(3, 6.0)])
    assert isinstance(third, FrameLabels) and isinstance(first, FrameLabels)
    np.testing.assert_allclose(third.now[0], 1 / (1 + np.exp(-5)), rtol=1e-6)  # of seconds 2 and 3
    np.testing.assert_allclose(third.so_far[0], 1 / (1 + np.exp(-4)), rtol=1e-6)
    assert [(event.kind, event.index) for event in first.events] == [("new", 0), ("new", 2)]
    assert set(third.latency) == {"wait", "decode", "encode", "queue", "model", "total"}
    assert third.counts == Counts(3, 3, 0, 0) and third.counts.settled
    assert third.frame.row is None


def test_the_latest_frame_wins_and_all_are_accounted_for(engine: Engine, model: PlainModel) -> None:
    heard = Listener()
    session = engine.open("s", heard)
    model.go.clear()
    for number in range(1, 101):
        engine.offer(session, frame(number))
    assert not session.counts.settled
    model.go.set()
    answers = heard.wait(100)
    labelled = [each.frame.sequence for each in answers if isinstance(each, FrameLabels)]
    dropped = [each for each in answers if isinstance(each, FrameFailure)]
    assert labelled[-1] == 100 and len(labelled) + len(dropped) == 100
    assert {each.reason for each in dropped} == {"dropped"}
    assert session.counts == Counts(100, len(labelled), len(dropped), 0)
    assert engine.totals == {"labelled": len(labelled), "dropped": len(dropped)}


def test_a_stream_that_floods_does_not_keep_another_waiting(engine: Engine, model: PlainModel) -> None:
    loud, calm = Listener(), Listener()
    flooding, other = engine.open("loud", loud), engine.open("calm", calm)
    for number in range(500):
        engine.offer(flooding, frame(number))
    engine.offer(other, frame(1))
    assert isinstance(calm.wait(1)[0], FrameLabels)


def test_frames_that_cannot_be_used_cost_themselves_alone(engine: Engine) -> None:
    heard = Listener()
    session = engine.open("s", heard)
    bad = [frame(1, row={"three": np.zeros(4)}), frame(2, row={}), frame(3, row=None, jpeg=b"x"), frame(4, row=None)]
    answers = push(engine, session, heard, [*bad, frame(5)])
    assert [type(each) for each in answers] == [FrameFailure] * 4 + [FrameLabels]
    assert "three must have 3 values" in answers[0].message  # type: ignore[union-attr]
    assert "takes no pictures" in answers[2].message  # type: ignore[union-attr]
    assert session.counts == Counts(5, 1, 0, 4)


def test_streams_are_bounded_and_come_back(engine: Engine) -> None:
    sessions = [engine.open(str(number), Listener()) for number in range(3)]
    with pytest.raises(TooManyStreamsError, match="3 streams are open"):
        engine.open("one more", Listener())
    engine.close(sessions[0])
    assert engine.streams == 2
    engine.open("one more", Listener())


def test_a_closed_stream_hears_nothing_more(engine: Engine, model: PlainModel) -> None:
    heard, other = Listener(), Listener()
    session = engine.open("s", heard)
    model.go.clear()
    engine.offer(session, frame(1))
    deadline = time.monotonic() + 5
    while session.pending is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.offer(session, frame(2))
    engine.close(session)
    model.go.set()
    push(engine, engine.open("t", other), other, [frame(1)])
    deadline = time.monotonic() + 5
    while not session.counts.settled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert session.counts.settled and heard.answers == []


class BrokenModel(ColourModel):
    """Whose encoder fails at pictures that are all black."""

    def row(self, moment: Moment) -> dict[str, np.ndarray | None]:
        picture = moment.get("picture")
        if picture is not None and not picture.any():
            raise RuntimeError("the encoder's library gave up")
        return super().row(moment)


def test_an_encoder_that_fails_costs_that_frame_and_not_its_thread(small_encoders: Encoders) -> None:
    heard = Listener()
    engine = Engine(BrokenModel(small_encoders), EngineOptions(window_seconds=1, hold_seconds=0, encoder_threads=1))
    try:
        session = engine.open("s", heard)
        frames = [
            Frame(number, float(number), time.monotonic(), jpeg=jpeg(colour))
            for number, colour in enumerate(((0, 0, 0), COLOURS[1]))
        ]
        failed, labelled = push(engine, session, heard, frames)
        assert isinstance(failed, FrameFailure) and failed.reason == "encoder"
        assert isinstance(labelled, FrameLabels) and labelled.now.argmax() == 1
        assert session.counts == Counts(2, 1, 0, 1)
    finally:
        engine.shut_down()


def test_a_service_that_cannot_decode_does_not_start(small_encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: StillDecoder) -> None:
        raise RuntimeError("the process that decodes pictures cannot start")

    monkeypatch.setattr(StillDecoder, "start", start)
    engine = Engine(ColourModel(small_encoders), EngineOptions(encoder_threads=1))
    with pytest.raises(JobError, match="cannot start"):
        engine.warm_up()
    engine.shut_down()
