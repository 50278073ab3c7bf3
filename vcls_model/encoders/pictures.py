"""What a picture encoder wants to see, and how a decoded picture becomes that."""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class PictureInput:
    """A square of RGB pixels out of the middle of a picture.

    Attributes:
        size: pixels on each side.
        crop: share of the shorter side that the square covers, in (0, 1]; None squeezes the whole picture into it.
        resize: the filter, with support that grows with the reduction (as Pillow has it).
        mean, scale: per channel R, G, B; the network sees (x - mean) / scale of x in 0 … 255.
        channels: the order that the network wants.
        layout: `nhwc` or `nchw`, as the network wants it.
    """

    size: int
    crop: float | None = 1.0
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nhwc", "nchw"] = "nhwc"

    row_type = np.uint8

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one prepared picture: (size, size, 3)."""
        return (self.size, self.size, 3)

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of a picture that is used, in whole pixels: left, top, and the right and bottom that end it."""
        if self.crop is None:
            return (0, 0, width, height)
        side = max(1, int(min(width, height) * self.crop))
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        return (left, top, left + side, top + side)

    def prepare(self, picture: Pixels) -> Pixels:
        """Crops and resizes one picture, (H, W, 3) RGB of any size, to (size, size, 3)."""
        from PIL import Image

        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"expected uint8 pixels of shape (H, W, 3), got {picture.dtype} of {picture.shape}")
        left, top, right, bottom = self.crop_box(picture.shape[1], picture.shape[0])
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        # Cut first: Pillow's own `box` lets pixels outside it shine in through the filter.
        cropped = Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
        return np.asarray(cropped.resize((self.size, self.size), filters[self.resize]))

    def network_input(self, pictures: Pixels) -> npt.NDArray[np.float32]:
        """Normalised floats in the network's channel order and layout, of prepared pictures (N, size, size, 3)."""
        mean, scale = np.array(self.mean, np.float32), np.array(self.scale, np.float32)
        if self.channels == "bgr":
            pictures, mean, scale = pictures[..., ::-1], mean[::-1], scale[::-1]
        if self.layout == "nchw":
            pictures, mean, scale = pictures.transpose(0, 3, 1, 2), mean[:, None, None], scale[:, None, None]
        # Bytes are brought into order before they become floats: a quarter of the time of the other way round.
        values = np.ascontiguousarray(pictures).astype(np.float32)
        values -= mean
        values /= scale
        return values

    def check(self, pictures: Pixels) -> None:
        """Raises `ValueError` unless these are prepared pictures, (N, size, size, 3) uint8."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != self.row_shape:
            raise ValueError(
                f"expected uint8 pictures of shape (N, {self.size}, {self.size}, 3), got {pictures.dtype} of "
                f"{pictures.shape}"
            )
