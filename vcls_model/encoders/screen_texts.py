"""What is written in a picture: places of text are found, cut out upright and read.

Finding is Liao et al. 2020, "Real-Time Scene Text Detection with Differentiable Binarization": a network says of each
pixel how likely it is text, and what hangs together is a place. Reading is a network over a line of 48 pixels in height
with connectionist temporal classification (Graves et al. 2006, "Connectionist Temporal Classification"). The networks
are PP-OCRv4's small ones for Chinese and English, as RapidOCR packs them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vcls_model.commands import JobError, unknown_choice
from vcls_model.encoders.encoder import check_same_identity
from vcls_model.encoders.onnx_network import open_session
from vcls_model.encoders.weights import WeightPackage

NAME = "rapidocr"
READERS = (NAME,)
SCREEN_TEXT = "screen_text"
# Sides of the square that a picture comes in, and the pixels that are read of it, whatever its shape: 960 x 540 of a
# wide one, where letters of 20 lines in 720 keep 15.
PICTURE_SIDE = 960
_PIXELS = 960 * 540
# What is read of a picture at most: of more places those that are likeliest.
MOST_PLACES = 40
MOST_CHARACTERS = 1000
_FINDER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
_READER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
# Sides of what the finder takes are multiples of this.
_STEP = 32
# From here on a pixel may be text; a place is one if its mean reaches the second; places are found shrunken, and grow
# by their area over their circumference, times the last.
_PIXEL, _PLACE, _GROWTH = 0.3, 0.5, 1.6
_SMALLEST = 3.0
_LINE_HEIGHT, _LINE_WIDTH, _LONGEST_LINE = 48, 320, 1600
# Letters of a line are as sure as this on average, or it is none.
_SURE = 0.6
# A place so much taller than wide is a line that was turned.
_TURNED = 1.5

WEIGHTS = WeightPackage(
    package="rapidocr-onnxruntime",
    version="1.4.4",
    wheel_sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    wheel_bytes=14_915_192,
    main=_READER,
    files={
        _READER: "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        _FINDER: "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    },
    licence="Apache-2.0",
    contents="PP-OCRv4, text in pictures, Chinese and English",
)


@dataclasses.dataclass(frozen=True)
class ReaderInfo:
    """The identity of a reader: two of the same identity read the same texts.

    Attributes:
        name: as `--ocr` takes it.
        version: changes whenever texts change though the weights do not.
        weights_sha256: of the file that holds the reading network.
        licence: of the weights.
    """

    name: str = NAME
    version: str = "1"
    weights_sha256: str = WEIGHTS.weights_sha256
    licence: str = WEIGHTS.licence

    def as_json(self) -> dict[str, Any]:
        """For `schema.json` and a model's `info.json`."""
        return dataclasses.asdict(self)

    def check_same(self, recorded: Mapping[str, Any], origin: str) -> None:
        """Raises `JobError`, naming both, unless texts were read by this reader; see `EncoderInfo.check_same`."""
        check_same_identity(recorded, origin, self.as_json(), SCREEN_TEXT)


def reader_info(name: str) -> ReaderInfo:
    """The identity of a reader, checked without loading it.

    Raises:
        UsageError: there is none of that name.
        JobError: its weights are not installed.
    """
    if name not in READERS:
        raise unknown_choice("reader of --ocr", name, READERS)
    WEIGHTS.require()
    return ReaderInfo()


@dataclasses.dataclass(frozen=True)
class ScreenReader:
    """Reads pictures; small and picklable, each process loads the networks when it first reads one."""

    info: ReaderInfo = ReaderInfo()

    def __call__(self, picture: np.ndarray, aspect: float) -> str:
        """What is written in a picture, from top to bottom, on one line; at most 1,000 characters.

        Args:
            picture: RGB (S, S, 3): the whole picture, squeezed into a square.
            aspect: width over height that it had.

        Raises:
            JobError: the weights are not installed, or damaged.
        """
        return _networks().read(picture, aspect)


@functools.cache
def _networks() -> "_Networks":
    return _Networks()


class _Networks:
    """Both networks, one picture and one line at a time, on one thread: the same text in any process."""

    def __init__(self) -> None:
        paths = WEIGHTS.path(_FINDER), WEIGHTS.path(_READER)
        try:
            # Without an arena, as lines differ in length and the process that decodes has little memory.
            self._finder, self._reader = (open_session(path, arena=False) for path in paths)
            characters = self._reader.get_modelmeta().custom_metadata_map["character"].splitlines()
        except Exception as error:  # ONNX Runtime raises types of its own
            raise JobError(f"the reader of texts cannot be loaded: {' '.join(str(error).split())}") from error
        self._characters = ["", *characters, " "]  # the first is the blank between characters

    def read(self, picture: np.ndarray, aspect: float) -> str:
        """See `ScreenReader`."""
        import cv2

        size = picture_size(aspect)
        image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)[..., ::-1]  # the networks take BGR
        likely = self._finder.run(None, {"x": _normalised(image)})[0][0, 0]
        texts = [self._line(upright(image, place)) for place in in_reading_order(find_places(likely))]
        return " ".join(" ".join(texts).split())[:MOST_CHARACTERS]

    def _line(self, line: np.ndarray) -> str:
        """The text of a line, (H, W, 3) BGR; nothing where it is not sure."""
        import cv2

        width = min(max(math.ceil(_LINE_HEIGHT * line.shape[1] / line.shape[0]), 1), _LONGEST_LINE)
        values = np.zeros((1, 3, _LINE_HEIGHT, max(width, _LINE_WIDTH)), np.float32)
        values[..., :width] = _normalised(cv2.resize(line, (width, _LINE_HEIGHT)))
        return decoded(self._reader.run(None, {"x": values})[0][0], self._characters)


@dataclasses.dataclass(frozen=True)
class Place:
    """A rectangle in a picture that may be turned.

    Attributes:
        centre: x, y in pixels.
        along, across: unit vectors of its width, which points to the right, and of its height, which points down.
        width, height: in pixels.
        likely: how likely it is a text, in [0, 1].
    """

    centre: tuple[float, float]
    along: tuple[float, float]
    across: tuple[float, float]
    width: float
    height: float
    likely: float


def picture_size(aspect: float) -> tuple[int, int]:
    """Width and height at which a picture is read: some 960 x 540 pixels in its shape, in multiples of 32."""
    width, height = math.sqrt(_PIXELS * aspect), math.sqrt(_PIXELS / aspect)
    return max(1, round(width / _STEP)) * _STEP, max(1, round(height / _STEP)) * _STEP


def _normalised(image: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] of (H, W, 3)."""
    values = image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def find_places(likely: np.ndarray) -> list[Place]:
    """The places of text in a map (H, W) of how likely each pixel is text; at most 40, the likeliest first."""
    import cv2

    mask = cv2.dilate((likely > _PIXEL).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    places = []
    for contour in contours:
        (x, y), (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < _SMALLEST:
            continue
        share = _mean_within(likely, cv2.boxPoints(((x, y), (width, height), angle)))
        if share < _PLACE:
            continue
        grown = _GROWTH * width * height / (width + height)  # on both sides: twice area over circumference
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        along, across = (cosine, sine), (-sine, cosine)
        if abs(along[0]) < abs(across[0]):
            along, across, width, height = across, along, height, width
        along = along if along[0] > 0 else (-along[0], -along[1])
        across = across if across[1] > 0 else (-across[0], -across[1])
        places.append(Place((x, y), along, across, width + grown, height + grown, share))
    places.sort(key=lambda place: (-place.likely, place.centre))
    return places[:MOST_PLACES]


def _mean_within(likely: np.ndarray, corners: np.ndarray) -> float:
    """The mean of a map within a quadrangle."""
    import cv2

    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, np.array(likely.shape[::-1]) - 1)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, np.array(likely.shape[::-1]) - 1)
    part = likely[low[1] : high[1] + 1, low[0] : high[0] + 1]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(corners - low).astype(np.int32)], 1)
    return float(part[mask > 0].mean()) if mask.any() else 0.0


def in_reading_order(places: Sequence[Place]) -> list[Place]:
    """From top to bottom, and from left to right where centres are less than half a line apart."""
    ordered: list[Place] = []
    line: list[Place] = []
    for place in sorted(places, key=lambda place: place.centre[1]):
        if line and place.centre[1] - line[0].centre[1] > line[0].height / 2:
            ordered += sorted(line, key=lambda each: each.centre[0])
            line = []
        line.append(place)
    return ordered + sorted(line, key=lambda each: each.centre[0])


def upright(image: np.ndarray, place: Place) -> np.ndarray:
    """What is at a place, cut out so that its lines are horizontal; one that is much taller than wide is turned."""
    import cv2

    width, height = max(1, round(place.width)), max(1, round(place.height))
    centre, along, across = (np.array(each) for each in (place.centre, place.along, place.across))
    corner = centre - along * place.width / 2 - across * place.height / 2
    matrix = np.column_stack([along, across, corner])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.rot90(cut) if height >= _TURNED * width else cut


def decoded(shares: np.ndarray, characters: Sequence[str]) -> str:
    """The text that a reading network sees, nothing where it is not sure of it.

    Args:
        shares: (T, C), of each step how likely each character is.
        characters: C of them; the first is the blank that stands between characters.
    """
    best = shares.argmax(axis=1)
    kept = (best != 0) & (best != np.concatenate([[-1], best[:-1]]))
    if not kept.any() or shares.max(axis=1)[kept].mean() < _SURE:
        return ""
    return "".join(characters[each] for each in best[kept])
