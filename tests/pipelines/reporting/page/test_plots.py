"""Every plot draws on the axes it is given, names both axes, and draws the numbers it was handed."""

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.pages.plots import Histogram, plot_histogram
from pipelines.reporting.page import plots

GRID = np.linspace(0, 1, 11)
CURVES = plots.CurveBundle(GRID, 1 - GRID, 1 - GRID**2, (1 - GRID) / 2, 1 - GRID / 2, [("A class", 1 - GRID**3)])
CASES: list[tuple[Any, Any]] = [
    (plots.plot_precision_recall, CURVES),
    (plots.plot_roc, CURVES),
    (plots.plot_threshold_curves, plots.ThresholdCurves(GRID, GRID, 1 - GRID, GRID / 2, GRID / 3, 0.5)),
    (plots.plot_calibration, plots.Calibration(GRID, GRID[:-1], GRID[:-1] ** 2, np.arange(10))),
    (
        plot_histogram,
        Histogram(GRID, np.arange(1, 11), "Probability", "Classes", log=True, marked=(0.5, "here")),
    ),
    (plots.plot_heat_map, plots.HeatMap(["a (1)", "b (2)"], ["a", "b"], np.array([[0.9, 0.1], [np.nan, np.nan]]))),
    (plots.plot_groups, plots.GroupIntervals(["a", "b"], GRID[3:5], GRID[2:4], GRID[5:7], ["1", "2"], "Mean AP", 0.4)),
    (
        plots.plot_score_by_size,
        plots.ScoreBySize(
            np.array([1.0, 10]), GRID[3:5], np.array([1.0]), np.array([30.0]), np.array([0.3]), "Examples"
        ),
    ),
    (plots.plot_series, plots.Series(np.arange(1, 4), [("loss", GRID[:3])], "Epoch", "Loss", (2, "best"))),
    (plots.plot_changes, plots.Changes(GRID, 1 - GRID, GRID > 0.7)),
]


@pytest.mark.parametrize(("plot", "data"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_plot_uses_the_axes_it_is_given_and_names_them(plot: Any, data: Any):
    ax = Figure().subplots()
    assert plot(data, ax=ax) is ax
    assert ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels())
    assert isinstance(plot(data), Axes)


def test_curves_are_drawn_as_handed_in_each_with_its_own_dashes():
    ax = plots.plot_precision_recall(CURVES)
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["micro (all pairs pooled)"].get_ydata(), CURVES.micro)
    np.testing.assert_array_equal(lines["A class"].get_ydata(), CURVES.classes[0][1])
    named = [line for name, line in lines.items() if not name.startswith("_")]
    assert len({str(line._dash_pattern) for line in named}) == len(named)  # type: ignore[attr-defined]


def test_changes_put_each_class_into_one_group():
    ax = plots.plot_changes(
        plots.Changes(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.9, 0.5]), np.array([False, True, True]))
    )
    counts = {line.get_label(): len(line.get_xdata()) for line in ax.get_lines()}
    assert (counts["within chance"], counts["better, beyond chance"], counts["worse, beyond chance"]) == (1, 1, 1)
