"""What of a picture an encoder sees."""

import numpy as np
import pytest

from tests.vcls_model.encoders.synthetic import picture
from vcls_model.encoders.pictures import PictureInput


@pytest.mark.parametrize(
    ("size", "crop", "box"),
    [
        ((640, 360), 0.875, (163, 23, 478, 338)),
        ((360, 640), 0.875, (23, 163, 338, 478)),
        ((224, 224), 1.0, (0, 0, 224, 224)),
        ((1, 1), 0.875, (0, 0, 1, 1)),
        ((640, 360), None, (0, 0, 640, 360)),
    ],
)
def test_the_crop_is_the_middle(size: tuple[int, int], crop: float | None, box: tuple[int, ...]) -> None:
    assert PictureInput(224, crop).crop_box(*size) == box


def test_a_picture_of_one_colour_keeps_it() -> None:
    prepared = PictureInput(32, 0.875).prepare(np.full((50, 90, 3), (10, 200, 77), np.uint8))
    assert prepared.shape == (32, 32, 3)
    assert (prepared == (10, 200, 77)).all()


def test_what_lies_outside_the_crop_is_not_seen() -> None:
    spec, seen = PictureInput(32, 0.5), picture(100, 160)
    left, top, right, bottom = spec.crop_box(160, 100)
    changed = np.zeros_like(seen)
    changed[top:bottom, left:right] = seen[top:bottom, left:right]
    np.testing.assert_array_equal(spec.prepare(changed), spec.prepare(seen))


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    seen = picture(64, 64)
    np.testing.assert_array_equal(PictureInput(64).prepare(seen), seen)


def test_the_network_sees_normalised_pixels_in_its_order() -> None:
    spec = PictureInput(2, mean=(1, 2, 3), scale=(2, 4, 8), channels="bgr", layout="nchw")
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = (5, 10, 19)
    values = spec.network_input(pixels)
    assert values.shape == (1, 3, 2, 2) and values.dtype == np.float32
    assert values[0, :, 0, 1].tolist() == [2, 2, 2]
    assert values[0, :, 1, 1].tolist() == [-3 / 8, -2 / 4, -1 / 2]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        PictureInput(8).prepare(np.zeros(shape, np.uint8))
