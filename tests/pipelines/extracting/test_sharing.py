"""Files that the threads of a process share out among themselves."""

import pickle
import threading

import pytest

from pipelines.extracting.sharing import SharedFiles

PLACES = [(0, 1), (0, 0), (1, 0)]


def copies(files: SharedFiles, count: int) -> list[SharedFiles]:
    """What a runner makes of a step for each of its threads."""
    return [pickle.loads(pickle.dumps(files)) for _ in range(count)]


def test_who_is_done_takes_what_no_other_has_begun() -> None:
    one, two = copies(SharedFiles(PLACES), 2)
    done = []
    with one.working_on((0, 1)) as begun:
        assert begun
        for place in two.of_this_process():
            with two.working_on(place, wait=False) as free:
                if free:
                    done.append(place)
    assert done == [(0, 0), (1, 0)]  # in the order of the job, without what the other thread had
    with one.working_on((1, 0)) as begun:
        assert not begun


def test_a_thread_waits_for_the_other_and_does_again_what_that_one_failed_at() -> None:
    one, two = copies(SharedFiles(PLACES), 2)
    waiting, answers = threading.Event(), []

    def wait_for_it() -> None:
        waiting.set()
        with two.working_on((0, 1)) as begun:
            answers.append(begun)

    thread = threading.Thread(target=wait_for_it)
    with pytest.raises(ValueError, match="broken"), one.working_on((0, 1)):
        thread.start()
        assert waiting.wait(10)
        thread.join(0.05)
        assert thread.is_alive() and not answers
        raise ValueError("broken")
    thread.join(10)
    assert answers == [True]


def test_jobs_do_not_mix_and_other_processes_take_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SharedFiles(PLACES), SharedFiles(PLACES)
    with first.working_on((0, 0)), second.working_on((0, 0), wait=False) as begun:
        assert begun
    assert list(first.of_this_process()) == PLACES
    monkeypatch.setattr("pipelines.extracting.sharing.os.getpid", lambda: -1)
    assert not list(first.of_this_process())
