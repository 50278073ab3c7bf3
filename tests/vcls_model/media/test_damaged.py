"""Damaged files: every row's picture is a good frame and carries its own time; the loss is reported."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, number_of
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import MediaRow, Outcome, Request
from vcls_model.media.rows import RowReader
from vcls_model.media.sampling import Sampling

RATE = 30
TIMES = [Fraction(n, RATE) for n in range(240)]


def read(path: Path, mode: str = "exact") -> tuple[list[MediaRow], Outcome]:
    with RowReader(str(path), Request(sound=False, sampling=Sampling(fps=2, mode=mode))) as reader:
        rows = list(reader)
    assert reader.outcome is not None
    return rows, reader.outcome


@pytest.fixture(scope="module", params=[".mkv", ".ts", ".mp4"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damaged") / f"clip{request.param}"
    return make_clip(path, TIMES, options={"g": "30", "bf": "2"})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_hold_good_frames_with_their_own_times(clip: Path, tmp_path: Path, seed: int) -> None:
    content = bytearray(clip.read_bytes())
    start = int(np.random.default_rng(seed).integers(len(content) // 4, len(content) // 2))
    content[start : start + 4000] = bytes(4000)
    path = tmp_path / clip.name
    path.write_bytes(content)
    rows, outcome = read(path)
    everything, _ = read(path, mode="everything")
    assert [row.index for row in rows] == list(range(16))
    assert [row.actual_seconds for row in rows] == [row.actual_seconds for row in everything]
    # Whatever the damage hides, most rows are their own frame and no picture is of another time than it says.
    right = [
        row.actual_seconds is not None
        and row.picture is not None
        and number_of(row.picture) == round(row.actual_seconds * RATE)
        for row in rows
    ]
    assert sum(right) >= 12
    assert outcome.reason in ("damaged", None)
    assert outcome.errors > 0 or all(right)


def test_what_is_readable_of_a_truncated_file_is_kept(tmp_path: Path) -> None:
    whole = make_clip(
        tmp_path / "whole.mp4",
        TIMES,
        options={"g": "30", "bf": "2"},
        container_options={"movflags": "faststart"},
    )
    path = tmp_path / "half.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    rows, outcome = read(path)
    assert 5 < len(rows) < 12
    assert [number_of(row.picture) for row in rows if row.picture is not None] == [15 * row.index for row in rows]
    assert outcome.reason == "truncated"
    assert outcome.message is not None and "of the 8.0 s in its header could be read" in outcome.message


def test_a_file_cut_before_its_index_is_truncated(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", TIMES[:60])
    path = tmp_path / "half.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match="header is incomplete") as cut:
        read(path)
    assert cut.value.reason == "truncated"
