"""From a decoded frame to an encoder's input: crop, resize and colour, upright, with square pixels.

The Y, U and V planes are cropped and resized by themselves and only the small picture is converted to RGB: a quarter of
the time that swscale takes for the whole frame.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import cv2
import numpy as np

from vcls_model.media.requests import PictureFormat

_INTERPOLATION = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
_REDUCE_ABOVE = 4.0  # from here on cubic interpolation, which reads 4 x 4 pixels, would skip most of the picture


class Crop(NamedTuple):
    """A rectangle of a plane, in its pixels."""

    left: float
    top: float
    width: float
    height: float

    def divided(self, across: int, down: int) -> "Crop":
        """The same rectangle in a plane with fewer pixels."""
        return Crop(self.left / across, self.top / down, self.width / across, self.height / down)

    def snapped(self, across: int, down: int) -> "Crop":
        """The rectangle with corner and sides at multiples of `across` and `down`, moved by half of that at most."""
        left, top = round(self.left / across) * across, round(self.top / down) * down
        width = max(1, round(self.width / across)) * across
        return Crop(left, top, width, max(1, round(self.height / down)) * down)


class _PlanarFormat(NamedTuple):
    """A planar pixel format: bits per sample, how many bits its samples are shifted, chroma subsampling."""

    bits: int
    shift: int
    across: int
    down: int
    planes: int


def _layouts() -> dict[str, _PlanarFormat]:
    """Planar formats converted here; alpha planes are ignored, as players without a background do."""
    table = {}
    for chroma, (across, down) in {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1)}.items():
        table[f"yuv{chroma}p"] = table[f"yuvj{chroma}p"] = table[f"yuva{chroma}p"] = _PlanarFormat(
            8, 0, across, down, 3
        )
        for bits in (9, 10, 12, 14, 16):
            table[f"yuv{chroma}p{bits}le"] = table[f"yuva{chroma}p{bits}le"] = _PlanarFormat(bits, 0, across, down, 3)
    table["gray"] = _PlanarFormat(8, 0, 1, 1, 1)
    for bits in (9, 10, 12, 14, 16):
        table[f"gray{bits}le"] = _PlanarFormat(bits, 0, 1, 1, 1)
    table["nv12"] = _PlanarFormat(8, 0, 2, 2, 2)
    table["p010le"] = _PlanarFormat(10, 6, 2, 2, 2)
    return table


_LAYOUTS = _layouts()

# Luma weights of red and blue by AVColorSpace: BT.709, FCC, SMPTE 240M, BT.2020 (ITU-T H.273, table 4). All others,
# unspecified among them, are BT.601, which is also what FFmpeg's converter takes them for.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_FULL_RANGE = 2
_IDENTITY_MATRIX = 0  # planes hold G, B, R


def colour_matrix(colorspace: int, full_range: bool) -> np.ndarray:
    """The affine map from 8-bit Y, Cb, Cr to 8-bit R, G, B, shape (3, 4), float64 (ITU-T H.273, section 8.3)."""
    red, blue = _LUMA_WEIGHTS.get(colorspace, (0.299, 0.114))
    green = 1 - red - blue
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    rows = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    ) * [luma, chroma, chroma]
    return np.concatenate([rows, -(rows @ [black, 128, 128])[:, None]], axis=1)


def display_turn(frame: Any) -> tuple[int, bool]:
    """Quarter turns counterclockwise and whether to mirror left to right first, from the frame's display matrix.

    The matrix maps coded to displayed positions (ISO/IEC 14496-12, 6.2.2), in 16.16 fixed point, y downwards; angles
    between are rounded to the nearest quarter.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].astype(float)
            mirrored = a * d - b * c < 0
            if mirrored:
                a, b = -a, -b
            if not a and not b:
                return 0, False
            return int(np.round(np.degrees(np.arctan2(-b, a)) / 90)) % 4, bool(mirrored)
    return 0, False


def crop_of(width: int, height: int, pixel_aspect: Fraction, fraction: float | None) -> Crop:
    """The centre rectangle that is square on the screen.

    Args:
        width, height: of the coded frame in pixels.
        pixel_aspect: a pixel's width over its height.
        fraction: side over the frame's shorter side on the screen; None for the whole frame.
    """
    if fraction is None:
        return Crop(0, 0, width, height)
    side = fraction * min(width * float(pixel_aspect), height)
    kept_width = side / float(pixel_aspect)
    return Crop((width - kept_width) / 2, (height - side) / 2, kept_width, side)


class Converter:
    """Turns the frames of one stream into pictures of one `PictureFormat`."""

    def __init__(self, picture_format: PictureFormat, pixel_aspect: Fraction = Fraction(1)) -> None:
        self._format = picture_format
        self._pixel_aspect = pixel_aspect
        self._interpolation = _INTERPOLATION[picture_format.interpolation]

    def convert(self, frame: Any) -> np.ndarray:
        """An `av.VideoFrame` as RGB, (size, size, 3), uint8: upright, square pixels, of one field where interlaced."""
        layout = _LAYOUTS.get(frame.format.name)
        if layout is None or (layout.planes > 1 and frame.colorspace == _IDENTITY_MATRIX):
            picture = self._from_rgb(frame)
        else:
            picture = self._from_planes(frame, layout)
        turns, mirrored = display_turn(frame)
        if mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, turns))

    def _crop(self, frame: Any, across: int, down: int) -> Crop:
        """The crop of a frame, in whole chroma pixels unless it must be enlarged, where less than one can be seen."""
        crop = crop_of(frame.width, frame.height, self._pixel_aspect, self._format.crop_fraction)
        if self._must_enlarge(crop):
            return crop
        # Where a frame is interlaced, the crop starts with a line of the first field in every plane.
        return crop.snapped(across, down * (2 if frame.interlaced_frame else 1))

    def _must_enlarge(self, crop: Crop) -> bool:
        return min(crop.width, crop.height) < self._format.size

    def _from_rgb(self, frame: Any) -> np.ndarray:
        """For packed, paletted and rare formats: swscale does the colours, at full size."""
        # More threads than one would cost address space by the machine's cores, and there is a limit on it.
        rgb = frame.reformat(format="rgb24", threads=1).to_ndarray()
        return self._resized(rgb, self._crop(frame, 1, 1), frame.interlaced_frame)

    def _from_planes(self, frame: Any, layout: _PlanarFormat) -> np.ndarray:
        crop = self._crop(frame, layout.across, layout.down)
        chroma_crop = crop.divided(layout.across, layout.down)
        if layout.across == 2 and not frame.format.name.startswith("yuvj"):
            # MPEG's chroma belongs to every second luma pixel, not between two; seen only where a frame is enlarged.
            chroma_crop = chroma_crop._replace(left=chroma_crop.left + 0.25 * self._must_enlarge(crop))
        interlaced = frame.interlaced_frame
        luma = self._resized(_plane(frame, 0, layout, 1), crop, interlaced)
        full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        if layout.planes == 1:
            full = full or frame.color_range == 0  # FFmpeg's gray is full range unless it says otherwise
            stacked = cv2.merge(
                [luma, np.full_like(luma, 128 << layout.bits - 8), np.full_like(luma, 128 << layout.bits - 8)]
            )
        elif layout.planes == 2:
            chroma = self._resized(_plane(frame, 1, layout, 2), chroma_crop, interlaced)
            stacked = cv2.merge([luma, chroma])
        else:
            blue = self._resized(_plane(frame, 1, layout, 1), chroma_crop, interlaced)
            red = self._resized(_plane(frame, 2, layout, 1), chroma_crop, interlaced)
            stacked = cv2.merge([luma, blue, red])
        matrix = colour_matrix(frame.colorspace, full)
        if layout.bits == 8:
            return cv2.transform(stacked, matrix)
        # A sample of b bits is 2^(b-8) times its 8-bit value (H.273): full range ends a fraction of a level above 255.
        scaled = stacked.astype(np.float32) * np.float32(2.0 ** (8 - layout.bits - layout.shift))
        return np.clip(np.rint(cv2.transform(scaled, matrix)), 0, 255).astype(np.uint8)

    def _resized(self, plane: np.ndarray, crop: Crop, interlaced: bool) -> np.ndarray:
        """The cropped part of a plane, (H, W) or (H, W, channels), at the encoder's size."""
        if interlaced and len(plane) > 1:
            plane, crop = plane[::2], crop.divided(1, 2)  # two fields are two moments: one of them is a picture
        size = self._format.size
        if self._must_enlarge(crop) and crop != crop.snapped(1, 1):
            return self._warped(plane, crop)
        left, top, width, height = (int(length) for length in crop.snapped(1, 1))
        part = plane[top : top + height, left : left + width]
        if self._interpolation == cv2.INTER_CUBIC:
            height, width = part.shape[:2]
            rows, columns = _reduction(height, size), _reduction(width, size)
            if rows > 1 or columns > 1:
                part = cv2.resize(part, (width // columns, height // rows), interpolation=cv2.INTER_AREA)
        return cv2.resize(part, (size, size), interpolation=self._interpolation)

    def _warped(self, plane: np.ndarray, crop: Crop) -> np.ndarray:
        """As a resize of a crop between pixels. A pixel is an area, whose centre is at half a pixel."""
        size = self._format.size
        across, down = crop.width / size, crop.height / size
        inverse = np.array([[across, 0, crop.left + across / 2 - 0.5], [0, down, crop.top + down / 2 - 0.5]])
        flags = min(self._interpolation, cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP  # areas are for reducing alone
        return cv2.warpAffine(plane, inverse, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _reduction(length: int, size: int) -> int:
    """By which whole number to reduce a side before interpolation, so that less than four times `size` remains."""
    return int(length / size / 2) if length >= _REDUCE_ABOVE * size else 1


def _plane(frame: Any, index: int, layout: _PlanarFormat, channels: int) -> np.ndarray:
    """A plane of a frame as an array over FFmpeg's own memory, without a copy."""
    plane = frame.planes[index]
    dtype = np.dtype("u1") if layout.bits == 8 else np.dtype("<u2")
    samples = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    samples = samples[:, : plane.width * channels]
    return samples if channels == 1 else samples.reshape(plane.height, plane.width, channels)
