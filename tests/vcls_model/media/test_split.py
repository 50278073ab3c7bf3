"""A long file shared by two processes."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip
from vcls_model.media.errors import MediaError
from vcls_model.media.probe import probe
from vcls_model.media.requests import Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MediaReader
from vcls_model.media.split import SplitReader

REQUEST = Request(sampling=Sampling(fps=5))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = np.sin(np.arange(16000 * 20) / 7).astype(np.float32) / 2
    times = [Fraction(n, 10) for n in range(195)]
    return make_clip(tmp_path_factory.mktemp("split") / "clip.mp4", times, options={"g": "21", "bf": "2"}, sound=sound)


@pytest.fixture(scope="module")
def reader() -> Iterator[SplitReader]:
    with SplitReader(processes=2, split_seconds=5) as split:
        yield split


@pytest.mark.slow
def test_rows_are_those_of_one_process(clip: Path, reader: SplitReader) -> None:
    with RowReader(str(clip), REQUEST) as direct:
        expected = list(direct)
    with reader.read(str(clip), REQUEST) as rows:
        got = list(rows)
    assert len(got) == len(expected) > 90
    for row, reference in zip(got, expected, strict=True):
        assert (row.index, row.actual_seconds) == (reference.index, reference.actual_seconds)
        assert np.array_equal(row.picture, reference.picture) and np.array_equal(row.sound, reference.sound)  # type: ignore[arg-type]
    assert rows.outcome == direct.outcome and rows.facts == probe(str(clip))


def test_short_files_are_read_by_one_process(clip: Path) -> None:
    with SplitReader(processes=2, split_seconds=60) as split:
        assert len(list(split.read(str(clip), Request()))) == 20
        assert split._readers[1].pid is None


def test_files_that_fail_and_rows_that_are_left_leave_the_reader_usable(
    clip: Path, tmp_path: Path, reader: SplitReader
) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 200)
    with pytest.raises(MediaError, match="unknown_format"):
        reader.read(str(tmp_path / "text.mp4"), REQUEST)
    with (
        pytest.raises(MediaError, match="out_of_range"),
        reader.read(str(clip), Request(sampling=Sampling(start=99))) as rows,
    ):
        list(rows)
    with reader.read(str(clip), REQUEST) as rows:
        assert next(iter(rows)).index == 0
    assert len(list(reader.read(str(clip), Request()))) == 20


def test_a_probe_gives_the_facts_alone(clip: Path) -> None:
    with MediaReader() as single:
        assert single.probe(str(clip)) == probe(str(clip))
        with pytest.raises(MediaError, match="not_found"):
            single.probe(str(clip) + ".none")
        assert len(list(single.read(str(clip), Request()))) == 20
