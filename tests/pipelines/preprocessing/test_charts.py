"""The data card's charts put each value where its axis says, and name both axes."""

import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.preprocessing.charts import Axis, band_chart, bar_chart, line_chart

LINEAR, LOG = Axis("Labels", 0, 10), Axis("Videos", 1, 1000, log=True)


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]  # type: ignore[misc]


@pytest.mark.parametrize(("axis", "value", "place"), [(LINEAR, 2.5, 0.25), (LOG, 10, 1 / 3), (LOG, 0.1, 0)])
def test_places(axis: Axis, value: float, place: float) -> None:
    assert axis.place(value) == pytest.approx(place)


def test_ticks_are_round() -> None:
    assert LINEAR.ticks() == [0, 2, 4, 6, 8, 10]
    assert LOG.ticks() == [1, 10, 100, 1000]
    assert Axis("x", -0.031, 0.042).ticks() == pytest.approx([-0.03, -0.02, -0.01, 0, 0.01, 0.02, 0.03, 0.04])


def test_a_line_goes_through_its_points() -> None:
    svg = ElementTree.fromstring(line_chart(LINEAR, LOG, [0, 10], [1000, 1], "falls <fast>"))
    (line,) = svg.findall("polyline")
    (left, top), (right, bottom) = points(line)
    assert left < right and top < bottom
    texts = [text.text for text in svg.findall("text")]
    assert {"Labels", "Videos", "1,000"} <= set(texts)
    assert svg.attrib["aria-label"] == "falls <fast>"


def test_bars_are_as_high_as_their_counts() -> None:
    svg = ElementTree.fromstring(bar_chart(LINEAR, Axis("Videos", 0, 8), [0, 5], [5, 10], [2, 8], "two bars"))
    low, high = (float(bar.attrib["height"]) for bar in svg.findall("rect"))
    assert high == pytest.approx(4 * low, abs=0.2)


def test_a_band_lies_about_its_line() -> None:
    svg = ElementTree.fromstring(band_chart(LINEAR, Axis("Value", -2, 2), [0, 10], [0, 1], [1, 0.5], "a band"))
    (middle,), (band,) = svg.findall("polyline"), svg.findall("polygon")
    upper, lower = points(band)[0][1], points(band)[-1][1]
    assert points(middle)[0][1] == pytest.approx((upper + lower) / 2, abs=0.1)
