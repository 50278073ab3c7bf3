"""A file as features: sharing a long one between cores changes nothing."""

import dataclasses
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.media import COLOURS, tone, write_encoders
from tests.vcls_model.media.clips import make_clip
from vcls_model.embedding import Embedder, EmbeddingConfig
from vcls_model.media.errors import MediaError
from vcls_model.media.split import SplitReader

SECONDS = 130  # longer than what one process reads


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip whose second k has a colour of its own, with sound."""

    def draw(number: int, width: int, height: int) -> np.ndarray:
        colour = np.array(COLOURS[number // 4 % len(COLOURS)], np.uint8) - number // 16
        return np.broadcast_to(colour.astype(np.uint8), (height, width, 3)).copy()

    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    times = [Fraction(number, 4) for number in range(SECONDS * 4)]
    return make_clip(path, times, size=(64, 48), rate=4, draw=draw, sound=tone(SECONDS))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingConfig:
    encoders = write_encoders(tmp_path_factory.mktemp("encoders"))
    return EmbeddingConfig.of(str(encoders.colours), str(encoders.loudness))


@pytest.mark.parametrize("level", ["frame", "video"])
def test_a_long_file_alone_uses_all_cores_and_has_the_same_rows(
    clip: Path, config: EmbeddingConfig, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    config = dataclasses.replace(config, level=level)
    with Embedder(config) as embedder:
        expected = embedder.embed(str(clip))
    assert expected.rows == SECONDS and len(expected.features) == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    processes = []
    read = SplitReader.read
    monkeypatch.setattr(SplitReader, "read", lambda self, *args: processes.append(self.processes) or read(self, *args))
    with Embedder(dataclasses.replace(config, file_count=1)) as embedder:
        shared = embedder.embed(str(clip))
    assert processes == [3]
    for name, rows in expected.features.items():
        np.testing.assert_array_equal(np.asarray(shared.features[name]), np.asarray(rows))
    assert (shared.rows, shared.seconds) == (expected.rows, expected.seconds)


def test_a_file_that_is_none_fails_alone_on_all_cores(
    clip: Path, config: EmbeddingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("this is text")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with Embedder(dataclasses.replace(config, file_count=1)) as embedder:
        with pytest.raises(MediaError, match=r"text\.mp4"):
            embedder.embed(str(tmp_path / "text.mp4"))
        assert embedder.embed(str(clip), 3, 8).rows == 5


def test_as_many_files_as_cores_share_none(config: EmbeddingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with Embedder(dataclasses.replace(config, file_count=2)) as embedder:
        assert not isinstance(embedder._reader, SplitReader)
