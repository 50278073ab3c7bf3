"""Plots of the data card draw the numbers they are handed, on the axes they are given, and name both axes."""

import numpy as np
from matplotlib.figure import Figure

from pipelines.pages.drawing import draw_svg
from pipelines.preprocessing.card_plots import ClassRanks, Spread, plot_ranking, plot_spread


def test_a_ranking_is_a_line_on_logarithmic_axes() -> None:
    ax = Figure().subplots()
    assert plot_ranking(ClassRanks(np.array([9, 4, 1])), ax=ax) is ax
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == [9, 4, 1]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() and ax.get_ylabel() == "Videos"


def test_a_long_ranking_keeps_its_ends_and_a_few_hundred_points() -> None:
    (line,) = plot_ranking(ClassRanks(np.arange(4000, 0, -1))).get_lines()
    assert line.get_xdata()[[0, -1]].tolist() == [1, 4000] and line.get_ydata()[[0, -1]].tolist() == [4000, 1]
    assert len(line.get_xdata()) <= 400


def test_a_spread_is_a_line_in_its_band() -> None:
    ax = plot_spread(Spread(np.array([1.0, 2.0]), np.array([0.5, 0.25])))
    (line,) = ax.get_lines()
    assert line.get_ydata().tolist() == [1, 2]
    corners = ax.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.5, 2.25)
    assert ax.get_xlabel() == "Dimension" and ax.get_ylabel() == "Value"


def test_the_same_numbers_are_the_same_bytes() -> None:
    data = Spread(np.zeros(3), np.ones(3))
    assert draw_svg(plot_spread, data, (3, 2)) == draw_svg(plot_spread, data, (3, 2))
