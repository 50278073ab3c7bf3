"""A served model of media, for all tests of its addresses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.media import Encoders, colour_clip
from tests.fixtures.serving import media_encoders, served, write_media_model


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return media_encoders(tmp_path_factory.mktemp("encoders") / "small")


@pytest.fixture(scope="session")
def media_model(tmp_path_factory: pytest.TempPathFactory, small_encoders: Encoders) -> Path:
    return write_media_model(tmp_path_factory.mktemp("media") / "colours", small_encoders)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds: red, green, blue, yellow, and again, with a chord."""
    return colour_clip(tmp_path_factory.mktemp("clip") / "colours.mp4", 8, sound=True)


@pytest.fixture(scope="session")
def address(
    media_model: Path, small_encoders: Encoders, clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a service with short windows, at most three streams, and the clip as a pulled stream."""
    events = tmp_path_factory.mktemp("events") / "events.jsonl"
    with served(
        media_model,
        *small_encoders.flags,
        "--window=1",
        "--hold=0",
        "--streams=4",
        "--allow_private_urls",
        f"--source=film=loop:{clip}",
        f"--events={events}",
        seconds=600,
    ) as made:
        (events.parent / "address").write_text(made)
        yield made
