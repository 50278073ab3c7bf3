"""The one look of all figures, and drawing them to bytes.

Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.pages import fonts
from vcls_model.quiet import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK, GREY = (
    "#0072B2",
    "#D55E00",
    "#007A5A",
    "#A8548A",
    "#C98A00",
    "#1B1F24",
    "#8A9199",
)
# Matplotlib settings for all figures; text stays text in SVG.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.7,
    "xtick.color": "#3D444D",
    "ytick.color": "#3D444D",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a name such as A$AP $ign is not a formula
}
# Pixels per inch of the PNGs: a figure 4.8 inches wide gives 1,056 pixels, twice what a page shows.
_PNG_DPI = 220


def new_axes(ax: "Axes | None") -> "Axes":
    """`ax`, or the axes of a figure of its own."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(4.8, 3.6), layout="constrained").subplots()


def plain_numbers(axis: "Axis") -> None:
    """Labels a logarithmic axis with numbers: matplotlib's own labels are formulas, which `STYLE` has switched off."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())


def draw(plot: Callable[..., Any], data: Any, size: tuple[float, float]) -> tuple[bytes, bytes]:
    """Draws `plot(data, ax=...)` on a figure of `size` inches, as SVG and PNG; the same data gives the same bytes."""
    import_matplotlib()
    svg, png, missing = _drawn(plot, data, size, [])
    if missing and (families := fonts.families_with(missing)):
        svg, png, missing = _drawn(plot, data, size, families)
    fonts.report_missing(missing)
    return svg, png


def _drawn(
    plot: Callable[..., Any], data: Any, size: tuple[float, float], families: Sequence[str]
) -> tuple[bytes, bytes, set[str]]:
    """(SVG, PNG, the characters that no font had), with more font families to look for characters in."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {**STYLE, "font.family": [STYLE["font.family"], *families]}
    with matplotlib.rc_context(style), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = Figure(figsize=size, layout="constrained")
        plot(data, ax=figure.subplots())
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, dpi=_PNG_DPI)
        figure.set_layout_engine("none")  # the layout is computed; computing it again costs a third of the time
        figure.savefig(png, format="png", metadata={"Software": None}, dpi=_PNG_DPI)
    for warning in caught:
        if not fonts.missing_characters([warning]):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return svg.getvalue(), png.getvalue(), fonts.missing_characters(caught)
