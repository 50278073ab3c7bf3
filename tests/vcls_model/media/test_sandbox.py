"""The child process: what it gives, and what becomes of files that kill it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PictureFormat, Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MIB, MediaReader

TIMES = [Fraction(n, 10) for n in range(100)]
PICTURES = Request(sampling=Sampling(fps=10))  # more than the pipe holds


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = np.zeros(160_000, np.float32) + 0.1
    return make_clip(tmp_path_factory.mktemp("sandbox") / "clip.mp4", TIMES, options={"g": "20"}, sound=sound)


@pytest.fixture(scope="module")
def shared() -> Iterator[MediaReader]:
    with MediaReader() as reader:
        yield reader


def test_rows_are_those_of_reading_in_process(clip: Path, shared: MediaReader) -> None:
    request = Request(pictures=PictureFormat(size=64), sampling=Sampling(fps=2, start=1))
    with RowReader(str(clip), request) as direct:
        expected = list(direct)
    with shared.read(str(clip), request) as rows:
        got = list(rows)
    assert rows.facts == direct.facts and rows.outcome == direct.outcome
    assert [(r.index, r.target_seconds, r.actual_seconds) for r in got] == [
        (r.index, r.target_seconds, r.actual_seconds) for r in expected
    ]
    for row, reference in zip(got, expected, strict=True):
        assert np.array_equal(row.picture, reference.picture) and np.array_equal(row.sound, reference.sound)  # type: ignore[arg-type]


def test_one_child_serves_many_files_and_its_refusals_cost_it_nothing(
    clip: Path, tmp_path: Path, shared: MediaReader
) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 200)
    pids = set()
    for _ in range(2):
        with pytest.raises(MediaError) as refusal:
            list(shared.read(str(tmp_path / "text.mp4"), Request()))
        assert refusal.value.reason == "unknown_format"
        with shared.read(str(clip), Request()) as rows:
            assert len(list(rows)) == 10
        pids.add(shared.pid)
    assert len(pids) == 1


def test_a_child_keeps_nothing_of_the_files_before(tmp_path: Path) -> None:
    """Each file's decoder holds some 5 MB of frames."""
    clip = make_clip(tmp_path / "large.mp4", TIMES[:30], size=(640, 360))
    with MediaReader() as reader:
        with reader.read(str(clip), Request(sound=False)) as rows:
            assert len(list(rows)) == 3
        used = _private_bytes(reader)
        for _ in range(8):
            with reader.read(str(clip), Request(sound=False)) as rows:
                list(rows)
        deadline = time.monotonic() + 20  # it tidies up after its last answer
        while _private_bytes(reader) > used + 8 * MIB and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _private_bytes(reader) <= used + 8 * MIB


def _private_bytes(reader: MediaReader) -> int:
    """What the child has allocated and uses."""
    status = Path(f"/proc/{reader.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def test_who_asks_loads_no_decoder() -> None:
    code = "import sys, vcls_model.embedding; print(sorted({'av', 'cv2'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_names_of_any_bytes_reach_the_child(clip: Path, tmp_path: Path, shared: MediaReader) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/-a\n\xff.mp4")
    os.symlink(clip, name)
    assert len(list(shared.read(name, Request()))) == 10


def test_a_killed_child_costs_one_file(clip: Path) -> None:
    for how, reason in ((signal.SIGKILL, "memory"), (signal.SIGSEGV, "crashed")):
        with MediaReader() as reader:
            rows = iter(reader.read(str(clip), PICTURES))
            next(rows)
            assert reader.pid is not None
            os.kill(reader.pid, how)
            with pytest.raises(MediaError, match="clip.mp4.*rows were read") as death:
                list(rows)
            assert death.value.reason == reason
            assert len(list(reader.read(str(clip), Request()))) == 10  # by a new child


def test_a_hanging_child_is_ended_at_its_deadline(clip: Path) -> None:
    with MediaReader(seconds_per_minute=3) as reader:
        rows = iter(reader.read(str(clip), PICTURES))
        next(rows)
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(MediaError, match="seconds_per_minute") as late:
            list(rows)
        assert late.value.reason == "deadline"
        assert 2 < time.monotonic() - start < 30
        assert len(list(reader.read(str(clip), Request()))) == 10


@pytest.mark.slow
def test_a_slow_caller_does_not_use_up_the_deadline(clip: Path) -> None:
    with MediaReader(seconds_per_minute=4) as reader:
        count = 0
        for _ in reader.read(str(clip), PICTURES):
            time.sleep(0.05)  # longer in all than the child is given
            count += 1
    assert count == 100


@pytest.mark.slow
def test_want_of_memory_costs_one_file(tmp_path: Path, clip: Path) -> None:
    big = make_clip(tmp_path / "big.mp4", TIMES[:2], size=(3840, 2160), options={"preset": "ultrafast"})
    with MediaReader(memory_bytes=8 * MIB) as reader:
        with pytest.raises(MediaError) as want:
            list(reader.read(str(big), Request()))
        assert want.value.reason == "memory"
        assert len(list(reader.read(str(clip), Request()))) == 10
    with MediaReader() as reader:
        assert len(list(reader.read(str(big), Request()))) == 1


def test_a_file_that_is_left_early_leaves_the_reader_usable(clip: Path) -> None:
    with MediaReader() as reader:
        with reader.read(str(clip), PICTURES) as rows:
            assert next(iter(rows)).index == 0
        assert len(list(reader.read(str(clip), Request()))) == 10
        reader.read(str(clip), Request())
        with pytest.raises(RuntimeError, match="still busy"):
            reader.read(str(clip), Request())


def test_the_child_ends_with_its_parent(clip: Path) -> None:
    code = (
        "import sys, time\n"
        "from vcls_model.media.sandbox import MediaReader\n"
        "from vcls_model.media.requests import Request\n"
        "reader = MediaReader(); rows = iter(reader.read(sys.argv[1], Request())); next(rows)\n"
        "print(reader.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(clip)]
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child outlived its parent")


def test_readers_work_in_threads_of_one_process(clip: Path) -> None:
    counts: list[int] = []

    def work() -> None:
        with MediaReader() as reader:
            counts.append(len(list(reader.read(str(clip), Request()))))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [10, 10]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, vcls_model.media.sandbox, vcls_model.media.child\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numba', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
