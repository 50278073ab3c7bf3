"""Single pictures through the child process: the pixels of a file's frames, and what a bad picture costs."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PictureFormat
from vcls_model.media.stills import StillDecoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[StillDecoder]:
    made = StillDecoder(PictureFormat(32, 1.0), max_pixels=2000 * 2000)
    yield made
    made.close()


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **{"quality": 95, **options})
    return stream.getvalue()


def halves(width: int = 120, height: int = 80) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (220, 30, 40)
    pixels[:, width // 2 :] = (20, 60, 200)
    return pixels


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_the_middle_square_of_a_picture(decoder: StillDecoder, options: dict) -> None:
    pixels = decoder.decode(jpeg(halves(), **options))
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels[:, :13].reshape(-1, 3).mean(axis=0) - (220, 30, 40)).max() < 4
    assert np.abs(pixels[:, 19:].reshape(-1, 3).mean(axis=0) - (20, 60, 200)).max() < 4


def test_grey_pictures(decoder: StillDecoder) -> None:
    assert np.abs(decoder.decode(jpeg(np.full((50, 50), 90, np.uint8))).astype(int) - 90).max() <= 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xd8", b"GIF89a" + bytes(50), b"\xff\xd8\xff" + bytes(4000), jpeg(halves())[:40]],
    ids=["nothing", "a start alone", "a GIF", "zeros", "a header alone"],
)
def test_what_is_no_picture_is_refused_and_the_next_one_decoded(decoder: StillDecoder, content: bytes) -> None:
    with pytest.raises(MediaError, match="damaged: the picture"):
        decoder.decode(content)
    assert decoder.decode(jpeg(halves())).shape == (32, 32, 3)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(decoder: StillDecoder) -> None:
    with pytest.raises(MediaError, match="damaged: the picture cannot be decoded"):
        decoder.decode(jpeg(np.zeros((2100, 2100, 3), np.uint8), quality=1))


def test_a_child_that_dies_costs_one_picture(decoder: StillDecoder) -> None:
    decoder.start()
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    assert decoder.decode(jpeg(halves())).shape == (32, 32, 3)


def test_a_child_that_hangs_is_ended(decoder: StillDecoder) -> None:
    import os
    import signal

    decoder.start()
    assert decoder._process is not None
    os.kill(decoder._process.pid, signal.SIGSTOP)
    decoder.seconds = 0.3
    with pytest.raises(MediaError, match=r"deadline: .* longer than 0.3 s"):
        decoder.decode(jpeg(halves()))
    decoder.seconds = 5.0
    assert decoder.decode(jpeg(halves())).shape == (32, 32, 3)


def test_what_is_done_meanwhile_may_fail_and_the_next_picture_is_its_own(decoder: StillDecoder) -> None:
    done: list[int] = []
    red = np.full((40, 40, 3), (250, 0, 0), np.uint8)
    assert decoder.decode(jpeg(red), meanwhile=lambda: done.append(1)).mean(axis=(0, 1))[0] > 240
    assert done == [1]

    def fail() -> None:
        raise KeyError("sound")

    with pytest.raises(KeyError):
        decoder.decode(jpeg(red), meanwhile=fail)
    assert decoder.decode(jpeg(255 - red)).mean(axis=(0, 1))[0] < 15
