"""Pictures: colours of every format, orientation, aspect, fields."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip
from vcls_model.media.convert import Converter, colour_matrix
from vcls_model.media.requests import PictureFormat, Request
from vcls_model.media.rows import RowReader

WHOLE = PictureFormat(size=96, crop_fraction=1.0)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 40, 120)]
# Coefficients of R, G and B from 8-bit limited-range Y, Cb, Cr as BT.601 and BT.709 print them
BT601 = [[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]]
BT709 = [[1.164, 0, 1.793], [1.164, -0.213, -0.533], [1.164, 2.112, 0]]


def quarters(width: int = 256, height: int = 256) -> np.ndarray:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = (255, 255, 255)
    return picture


def corners(picture: np.ndarray) -> str:
    """The colours of a picture's quarters as letters, in reading order."""
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
    size = len(picture)
    points = [(size // 4, size // 4), (size // 4, 3 * size // 4), (3 * size // 4, size // 4), (3 * size // 4,) * 2]
    return "".join(names.get(tuple(int(v > 128) for v in picture[point]), "?") for point in points)


def frame_of(picture: np.ndarray, pixel_format: str, **colours: int) -> Any:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = frame.reformat(format=pixel_format, **colours) if pixel_format != "rgb24" else frame
    return frame


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuva420p", "nv12", "p010le", "yuv420p10le"]
    + ["yuv422p12le", "yuv444p16le", "yuyv422", "uyvy422", "rgb24", "bgr0", "rgba", "gbrp", "gbrp10le", "rgb48le"],
)
def test_colours_of_every_format(pixel_format: str) -> None:
    for colour in COLOURS:
        picture = np.full((64, 64, 3), colour, np.uint8)
        got = Converter(WHOLE).convert(frame_of(picture, pixel_format))
        assert got.shape == (96, 96, 3) and got.dtype == np.uint8 and got.flags.c_contiguous
        assert np.abs(got.astype(int) - colour).max() <= 4, (pixel_format, colour, got[48, 48])


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray16le"])
def test_grey_is_grey(pixel_format: str) -> None:
    for level in (0, 77, 255):
        got = Converter(WHOLE).convert(frame_of(np.full((64, 64, 3), level, np.uint8), pixel_format))
        assert np.abs(got.astype(int) - level).max() <= 2


@pytest.mark.parametrize(("colorspace", "published"), [(5, BT601), (6, BT601), (2, BT601), (1, BT709)])
def test_matrices_are_those_of_the_standards(colorspace: int, published: list[list[float]]) -> None:
    matrix = colour_matrix(colorspace, full_range=False)
    assert matrix[:, :3] == pytest.approx(np.array(published), abs=2e-3)
    assert matrix @ [235, 128, 128, 1] == pytest.approx([255] * 3)
    assert matrix @ [16, 128, 128, 1] == pytest.approx([0] * 3, abs=1e-9)
    assert colour_matrix(colorspace, full_range=True) @ [255, 128, 128, 1] == pytest.approx([255] * 3)


def test_the_stream_says_which_matrix_and_range_it_uses(tmp_path: Path) -> None:
    for matrix, full in ((1, False), (1, True), (5, False), (9, False)):
        y, cb, cr = 120, 90, 170

        def prepare(stream: Any, matrix: int = matrix, full: bool = full) -> None:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full else 1

        path = tmp_path / f"{matrix}{full}.mkv"
        planes = np.concatenate([np.full(160 * 160, y), np.full(80 * 80, cb), np.full(80 * 80, cr)]).astype(np.uint8)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=30, options={"qp": "0"})
            stream.width, stream.height, stream.pix_fmt = 160, 160, "yuv420p"
            prepare(stream)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes.reshape(240, 160), format="yuv420p")))
            container.mux(stream.encode())
        with RowReader(str(path), Request(pictures=WHOLE)) as reader:
            picture = next(iter(reader)).picture
        assert picture is not None
        expected = colour_matrix(matrix, full) @ [y, cb, cr, 1]
        assert picture[48, 48] == pytest.approx(expected, abs=1.1)


@pytest.mark.parametrize(
    ("turn", "expected"), [(0, "RGBW"), (90, "GWRB"), (180, "WBGR"), (-90, "BRWG")]
)  # degrees counterclockwise
def test_rotation_is_applied(tmp_path: Path, turn: int, expected: str) -> None:
    path = make_clip(
        tmp_path / "turned.mp4",
        [Fraction(0)],
        size=(320, 160),
        draw=lambda number, width, height: quarters(width, height),
        prepare=lambda stream: stream.set_display_rotation(turn),
    )
    with RowReader(str(path), Request(pictures=PictureFormat(crop_fraction=None))) as reader:
        picture = next(iter(reader)).picture
    assert picture is not None and corners(picture) == expected


def test_mirrors_are_applied(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "mirrored.mp4",
        [Fraction(0)],
        draw=lambda number, width, height: quarters(width, height),
        prepare=lambda stream: stream.set_display_matrix([-65536, 0, 0, 0, 65536, 0, 160 << 16, 0, 1 << 30]),
    )
    with RowReader(str(path), Request(pictures=WHOLE)) as reader:
        picture = next(iter(reader)).picture
    assert picture is not None and corners(picture) == "GRWB"


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(2), Fraction(1, 2)])
def test_pixels_become_square(tmp_path: Path, aspect: Fraction) -> None:
    def disc(number: int, width: int, height: int) -> np.ndarray:
        """A disc that is round on the screen, radius 40 lines."""
        y, x = np.mgrid[:height, :width]
        inside = ((x + 0.5 - width / 2) * float(aspect)) ** 2 + (y + 0.5 - height / 2) ** 2 < 40**2
        return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)

    def prepare(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    path = make_clip(tmp_path / "disc.mp4", [Fraction(0)], size=(320, 160), draw=disc, prepare=prepare)
    with RowReader(str(path), Request(pictures=PictureFormat(crop_fraction=1.0))) as reader:
        picture = next(iter(reader)).picture
    assert picture is not None
    inside = picture[..., 1] > 128
    tall, wide = inside.any(axis=1).sum(), inside.any(axis=0).sum()
    assert abs(int(tall) - int(wide)) <= 3
    assert inside[112, 112] and not inside[2, 2]


def test_the_crop_is_central_and_of_the_published_size() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    got = Converter(PictureFormat(224, 224 / 256)).convert(frame_of(ramp, "rgb24"))
    assert np.array_equal(got[100, :, 0], np.arange(16, 240))
    lite2 = Converter(PictureFormat(260, 260 / 292)).convert(frame_of(ramp, "yuv444p"))
    side = 256 * 260 / 292
    expected = (256 - side) / 2 + (np.arange(260) + 0.5) * side / 260 - 0.5
    assert np.abs(lite2[130, :, 0] - expected).max() < 3


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (16, 16), (31, 17), (4000, 16)])
def test_any_size_gives_a_picture(size: tuple[int, int]) -> None:
    picture = np.full((size[1], size[0], 3), (200, 40, 120), np.uint8)
    for pixel_format in ("yuv444p", "yuv420p", "rgb24"):
        got = Converter(PictureFormat()).convert(frame_of(picture, pixel_format))
        assert np.abs(got.astype(int) - (200, 40, 120)).max() <= 12


def test_large_reductions_average_instead_of_skipping() -> None:
    fine = (np.indices((2048, 2048)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    got = Converter(PictureFormat(224, 1.0)).convert(frame_of(fine, "rgb24"))
    assert np.abs(got.astype(int) - 128).mean() < 3


def test_interlaced_frames_show_one_field(tmp_path: Path) -> None:
    combed = np.zeros((160, 160, 3), np.uint8)
    combed[::2] = (200, 200, 200)  # the first field is bright, the second black
    clip = make_clip(
        tmp_path / "interlaced.mkv",
        [Fraction(0)],
        options={"x264-params": "tff=1", "qp": "1"},
        draw=lambda number, width, height: combed,
    )
    with RowReader(str(clip), Request(pictures=PictureFormat(96))) as reader:
        picture = next(iter(reader)).picture
    assert picture is not None
    assert np.abs(picture.astype(int) - 200).max() < 16


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"crop_fraction": 0.0}, {"crop_fraction": 1.5}, {"interpolation": "best"}]
)
def test_formats_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        PictureFormat(**bad)
