"""The reader of what is written in pictures: where it looks, in which order, and that it reads."""

import math
import pickle

import cv2
import numpy as np
import pytest

from vcls_model.commands import JobError, UsageError
from vcls_model.encoders.screen_texts import (
    WEIGHTS,
    Place,
    ReaderInfo,
    ScreenReader,
    decoded,
    find_places,
    in_reading_order,
    picture_size,
    reader_info,
    upright,
)

needs_weights = pytest.mark.skipif(not WEIGHTS.installed(), reason="the weights of rapidocr are not installed")


def bar(width: float, height: float, angle: float, likely: float = 0.9) -> np.ndarray:
    """A map (120, 240) with a turned rectangle of likely text in its middle."""
    corners = cv2.boxPoints(((120, 60), (width, height), angle))
    return cv2.fillPoly(np.zeros((120, 240), np.float32), [np.rint(corners).astype(np.int32)], likely)


@pytest.mark.parametrize("angle", [0, 8, -8, 30])
def test_a_place_is_upright_and_grows_by_its_area_over_its_circumference(angle: float) -> None:
    (place,) = find_places(bar(100, 10, angle))
    assert place.centre == pytest.approx((120, 60), abs=1)
    assert place.along == pytest.approx((math.cos(math.radians(angle)), math.sin(math.radians(angle))), abs=0.03)
    assert place.along[0] > 0 and place.across[1] > 0
    grown = 1.6 * 100 * 10 / 110
    assert (place.width, place.height) == pytest.approx((100 + grown, 10 + grown), abs=6)  # in whole pixels
    assert 0.7 < place.likely < 0.9


def test_what_is_unlikely_or_tiny_is_no_place() -> None:
    assert find_places(bar(100, 10, 0, likely=0.4)) == []
    assert find_places(bar(2, 1, 0)) == []
    assert find_places(np.zeros((32, 32), np.float32)) == []


def test_more_places_than_are_read_leave_the_likeliest() -> None:
    likely = np.zeros((200, 200), np.float32)
    for number in range(64):
        row, column = divmod(number, 8)
        likely[row * 25 + 4 : row * 25 + 16, column * 25 + 4 : column * 25 + 20] = 0.6 + number / 200
    places = find_places(likely)
    assert len(places) == 40
    assert {place.centre[1] for place in places} == {85, 110, 135, 160, 185}  # the last five rows


def place(x: float, y: float, width: float = 20, height: float = 10) -> Place:
    return Place((x, y), (1.0, 0.0), (0.0, 1.0), width, height, 1.0)


def test_lines_are_read_from_top_to_bottom_and_from_left_to_right() -> None:
    places = [place(50, 31), place(10, 60), place(10, 28), place(90, 30), place(5, 5)]
    assert [each.centre for each in in_reading_order(places)] == [(5, 5), (10, 28), (50, 31), (90, 30), (10, 60)]
    assert in_reading_order([]) == []


def test_what_is_cut_out_is_horizontal() -> None:
    """A turned bar fills its cut; one that stands is laid down."""
    picture = np.repeat((bar(100, 20, 30) * 255).astype(np.uint8)[..., None], 3, axis=2)
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    cut = upright(picture, Place((120, 60), (cosine, sine), (-sine, cosine), 90, 14, 1.0))
    assert cut.shape == (14, 90, 3) and (cut[2:-2, 2:-2] > 200).all()
    assert upright(picture, place(120, 60, 10, 40)).shape == (10, 40, 3)


def test_repeated_characters_are_one_unless_a_blank_is_between() -> None:
    def shares(*steps: int, sure: float = 0.9) -> np.ndarray:
        rows = np.full((len(steps), 4), (1 - sure) / 3, np.float32)
        rows[np.arange(len(steps)), steps] = sure
        return rows

    characters = ["", "a", "b", " "]
    assert decoded(shares(0, 1, 1, 0, 1, 2, 3, 3, 2), characters) == "aab b"
    assert decoded(shares(1, 2, sure=0.5), characters) == ""
    assert decoded(shares(0, 0), characters) == ""


@pytest.mark.parametrize(("aspect", "expected"), [(16 / 9, (960, 544)), (1, (704, 704)), (9 / 16, (544, 960))])
def test_pictures_are_read_at_the_same_cost_whatever_their_shape(aspect: float, expected: tuple[int, int]) -> None:
    assert picture_size(aspect) == pytest.approx(expected, abs=32)
    assert all(side % 32 == 0 for side in picture_size(aspect))
    assert min(picture_size(1e6)) == 32


@needs_weights
def test_it_reads_what_is_written() -> None:
    picture = np.full((720, 1280, 3), (140, 90, 40), np.uint8)
    written = (("Breaking news: 42 cats", (100, 600), 1.6), ("CHANNEL", (950, 80), 1.2))
    for text, where, size in written:
        cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 3, cv2.LINE_AA)
    squeezed = cv2.resize(picture, (960, 960), interpolation=cv2.INTER_AREA)
    reader = pickle.loads(pickle.dumps(ScreenReader()))
    assert reader(squeezed, 1280 / 720) == "CHANNEL Breaking news: 42 cats"
    assert reader(np.full((960, 960, 3), 128, np.uint8), 4 / 3) == ""


def test_its_identity_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ReaderInfo()
    info.check_same(info.as_json(), "the data")
    with pytest.raises(JobError, match="the data was made by the screen_text encoder .* their weights_sha256 differ"):
        info.check_same({**info.as_json(), "weights_sha256": "0"}, "the data")
    with pytest.raises(UsageError, match="unknown reader of --ocr 'rapidocrr'; did you mean 'rapidocr'"):
        reader_info("rapidocrr")
    monkeypatch.setattr("vcls_model.encoders.weights._distribution", lambda _: None)
    with pytest.raises(JobError, match="are not installed .* install them with: "):
        reader_info("rapidocr")
